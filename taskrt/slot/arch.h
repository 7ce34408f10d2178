/*
 * What differs between processors: thread pointer, floating-point control words,
 * the jump into client code and back, register names in a signal's ucontext. One
 * file per architecture implements this: arch_x86_64.c.
 */
#ifndef TASKRT_SLOT_ARCH_H
#define TASKRT_SLOT_ARCH_H

#include <signal.h>
#include <stdint.h>
#include <ucontext.h>

/* Once, before any other: looks at the auxiliary vector. */
void arch_init(void);

uint64_t arch_get_tp(void);
void arch_set_tp(uint64_t tp);

/* Control words as RUN carries them: load the client's, or the default. */
void arch_set_fp(uint32_t mxcsr, uint32_t fpucw);
void arch_reset_fp(void);

/*
 * Call fn(arg) on another stack, whose highest address is stack_top. Returns 0
 * when fn returned, or the value given to arch_escape. Not re-entrant: one call
 * at a time.
 */
int arch_call(void *stack_top, void (*fn)(void *), void *arg);
/* In a signal handler: make the interrupted arch_call return value (!= 0) when
 * the handler returns. */
void arch_escape(ucontext_t *uc, int value);
/* Never returns: continue on another stack. */
void arch_move(void *stack_top, void (*fn)(void *), void *arg)
    __attribute__((noreturn));

uint64_t arch_pc(const ucontext_t *uc);
uint64_t arch_sp(const ucontext_t *uc);
/* All integer registers in the order of the ABI's DWARF numbers, then the pc. */
#define ARCH_REGS 17
void arch_regs(const ucontext_t *uc, uint64_t regs[ARCH_REGS]);
/* Was the faulting access a write, an instruction fetch? */
int arch_fault_write(const ucontext_t *uc);
int arch_fault_exec(const ucontext_t *uc);

/* System call of the client, caught: its arguments, its result. */
int arch_syscall_is_ours(const siginfo_t *si); /* not 32-bit's */
uint64_t arch_syscall_arg(const ucontext_t *uc, unsigned i);
void arch_syscall_return(ucontext_t *uc, int64_t value);

/* Code that does `n`-th system call and returns: what replaces a vDSO function.
 * Writes it to buf, returns its length. */
#define ARCH_STUB_MAX 16
unsigned arch_syscall_stub(uint8_t buf[ARCH_STUB_MAX], unsigned nr);

#endif
