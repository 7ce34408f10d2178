#include "arch.h"

#include <asm/prctl.h>
#include <linux/audit.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE (1 << 1)
#endif

static int fsgsbase;

void
arch_init(void)
{
	fsgsbase = (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) != 0;
}

/*
 * A system call without touching errno: on the way in and out of the signal
 * handler the thread pointer is the client's, and errno lives behind it.
 */
static long
raw_syscall2(long nr, long a, long b)
{
	long ret;

	__asm__ volatile("syscall"
	                 : "=a"(ret)
	                 : "a"(nr), "D"(a), "S"(b)
	                 : "rcx", "r11", "memory");
	return ret;
}

uint64_t
arch_get_tp(void)
{
	uint64_t tp = 0;

	if (fsgsbase)
		__asm__ volatile("rdfsbase %0" : "=r"(tp));
	else
		raw_syscall2(SYS_arch_prctl, ARCH_GET_FS, (long)&tp);
	return tp;
}

void
arch_set_tp(uint64_t tp)
{
	if (fsgsbase)
		__asm__ volatile("wrfsbase %0" : : "r"(tp) : "memory");
	else
		raw_syscall2(SYS_arch_prctl, ARCH_SET_FS, (long)tp);
}

void
arch_set_fp(uint32_t mxcsr, uint32_t fpucw)
{
	uint16_t cw = (uint16_t)fpucw;

	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	__asm__ volatile("fldcw %0" : : "m"(cw));
}

void
arch_reset_fp(void)
{
	uint32_t mxcsr = 0x1f80;

	__asm__ volatile("fninit");
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	__asm__ volatile("cld");
}

/* In arch_x86_64_switch.S. */
extern uint64_t arch_saved_sp;
extern char arch_call_out[];

void
arch_escape(ucontext_t *uc, int value)
{
	uc->uc_mcontext.gregs[REG_RSP] = (greg_t)arch_saved_sp;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)arch_call_out;
	uc->uc_mcontext.gregs[REG_RAX] = value;
	uc->uc_mcontext.gregs[REG_EFL] &= ~0x400; /* direction flag */
}

uint64_t
arch_pc(const ucontext_t *uc)
{
	return (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
}

void
arch_regs(const ucontext_t *uc, uint64_t regs[ARCH_REGS])
{
	/* System V ABI for x86-64, figure 3.36. */
	static const int order[ARCH_REGS] = {
	    REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI,
	    REG_RBP, REG_RSP, REG_R8,  REG_R9,  REG_R10, REG_R11,
	    REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};

	for (unsigned i = 0; i < ARCH_REGS; i++)
		regs[i] = (uint64_t)uc->uc_mcontext.gregs[order[i]];
}

uint64_t
arch_sp(const ucontext_t *uc)
{
	return (uint64_t)uc->uc_mcontext.gregs[REG_RSP];
}

int
arch_fault_write(const ucontext_t *uc)
{
	return (uc->uc_mcontext.gregs[REG_ERR] & 2) != 0;
}

int
arch_fault_exec(const ucontext_t *uc)
{
	return (uc->uc_mcontext.gregs[REG_ERR] & 16) != 0;
}

int
arch_syscall_is_ours(const siginfo_t *si)
{
	return si->si_arch == AUDIT_ARCH_X86_64;
}

uint64_t
arch_syscall_arg(const ucontext_t *uc, unsigned i)
{
	static const int regs[6] = {REG_RDI, REG_RSI, REG_RDX,
	                            REG_R10, REG_R8,  REG_R9};

	return (uint64_t)uc->uc_mcontext.gregs[regs[i]];
}

void
arch_syscall_return(ucontext_t *uc, int64_t value)
{
	uc->uc_mcontext.gregs[REG_RAX] = value;
}

unsigned
arch_syscall_stub(uint8_t buf[ARCH_STUB_MAX], unsigned nr)
{
	/* mov $nr,%eax; syscall; ret */
	static const uint8_t code[8] = {0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3};
	uint32_t n = nr;

	memcpy(buf, code, sizeof(code));
	memcpy(buf + 1, &n, sizeof(n));
	return sizeof(code);
}
