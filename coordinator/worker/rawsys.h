/*
 * System calls for code that runs on another thread's thread pointer: libc's
 * wrappers would write that thread's errno. One block per architecture.
 * Returns the kernel's answer: -errno on failure.
 */
#ifndef COORDINATOR_WORKER_RAWSYS_H
#define COORDINATOR_WORKER_RAWSYS_H

#include <stdint.h>
#include <sys/syscall.h>

/* Compiled without what would use the thread pointer. clang's no_sanitize
 * leaves tsan's calls at a function's entry and exit. */
#if defined(__has_attribute) && \
    __has_attribute(disable_sanitizer_instrumentation)
#define RAWSYS_PLAIN \
	__attribute__((no_stack_protector, disable_sanitizer_instrumentation))
#else
#define RAWSYS_PLAIN                                               \
	__attribute__((no_stack_protector, no_sanitize("address"), \
	               no_sanitize("thread"), no_sanitize("undefined")))
#endif

#if defined(__x86_64__)
RAWSYS_PLAIN static inline __attribute__((always_inline)) long
rawsys(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long ret;

	__asm__ volatile("syscall"
	                 : "=a"(ret)
	                 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
	                 : "rcx", "r11", "memory");
	return ret;
}

/* rawsys_clone_onto: stack holds {fn, arg}, 16-byte aligned. */
RAWSYS_PLAIN static inline __attribute__((always_inline)) long
rawsys_clone_asm(unsigned long flags, void **stack, int *pidfd_p)
{
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	long ret;

	__asm__ volatile("syscall\n\t"
	                 "test %%rax, %%rax\n\t"
	                 "jnz 1f\n\t"
	                 "xor %%ebp, %%ebp\n\t"
	                 "pop %%rax\n\t"
	                 "pop %%rdi\n\t"
	                 "call *%%rax\n\t"
	                 "ud2\n\t"
	                 "1:"
	                 : "=a"(ret)
	                 : "a"(SYS_clone), "D"(flags), "S"(stack), "d"(pidfd_p),
	                   "r"(r10), "r"(r8)
	                 : "rcx", "r11", "memory", "cc");
	return ret;
}
#elif defined(__aarch64__)
RAWSYS_PLAIN static inline __attribute__((always_inline)) long
rawsys(long nr, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc 0"
	                 : "+r"(x0)
	                 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
	                 : "memory");
	return x0;
}

RAWSYS_PLAIN static inline __attribute__((always_inline)) long
rawsys_clone_asm(unsigned long flags, void **stack, int *pidfd_p)
{
	register long x8 __asm__("x8") = SYS_clone;
	register long x0 __asm__("x0") = (long)flags;
	register void **x1 __asm__("x1") = stack;
	register int *x2 __asm__("x2") = pidfd_p;
	register long x3 __asm__("x3") = 0;
	register long x4 __asm__("x4") = 0;

	__asm__ volatile("svc 0\n\t"
	                 "cbnz x0, 1f\n\t"
	                 "mov x29, xzr\n\t"
	                 "ldp x1, x0, [sp], #16\n\t"
	                 "blr x1\n\t"
	                 "brk 0\n\t"
	                 "1:"
	                 : "+r"(x0)
	                 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
	                 : "memory", "cc");
	return x0;
}
#else
#error "add this architecture's system call"
#endif

/* vfork-like clone: no new stack. The child's pidfd goes to *pidfd_p. */
RAWSYS_PLAIN static inline __attribute__((always_inline)) long
rawsys_clone(unsigned long flags, int *pidfd_p)
{
	return rawsys(SYS_clone, (long)flags, 0, (long)pidfd_p, 0, 0);
}

/*
 * The same with a stack of its own (top: its end, 16-byte aligned), for fn, which
 * must not return. Not libc's clone: libtsan wraps that as if it were fork.
 */
RAWSYS_PLAIN static inline __attribute__((always_inline)) long
rawsys_clone_onto(unsigned long flags, void *top, int *pidfd_p,
                  int (*fn)(void *arg), void *arg)
{
	void **stack = (void **)top - 2;

	stack[0] = (void *)(uintptr_t)fn;
	stack[1] = arg;
	return rawsys_clone_asm(flags, stack, pidfd_p);
}

#define RAWSYS(nr, a, b, c, d, e) \
	rawsys(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

#endif
