/* Monotonic time, deadlines and the pause of a spin loop. */
#ifndef DSM_BASE_CLOCK_H
#define DSM_BASE_CLOCK_H

#include <sched.h>
#include <stdint.h>

#define DSM_US UINT64_C(1000)
#define DSM_MS UINT64_C(1000000)
#define DSM_SEC UINT64_C(1000000000)
/* A deadline that never comes: for tests and tools, and for what ends by itself. */
#define DSM_FOREVER UINT64_MAX

/* Nanoseconds of CLOCK_MONOTONIC. Async-signal-safe. */
uint64_t dsm__now(void);
/* now + ms, saturating. */
uint64_t dsm__deadline_ms(uint64_t ms);
/* Milliseconds from now to deadline, rounded up, 0 when past, at most
 * INT32_MAX: what poll(2) takes. */
int dsm__ms_left(uint64_t deadline);
/*
 * To measure short times where a system call for each would be felt: differences of
 * dsm__ticks, in nanoseconds by the rate since the first calibration. Nothing may
 * depend on them but statistics: processors' counters may differ.
 */
static inline uint64_t
dsm__ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	return dsm__now();
#endif
}
/* Now and then; one thread. */
void dsm__ticks_calibrate(void);
/* 0 for what cannot be, and before 100 us have passed since the first calibration. */
uint64_t dsm__ticks_ns(uint64_t ticks);
/* The slot unmaps its vDSO: from then on time is a plain system call. */
void dsm__clock_no_vdso(void);

static inline void
dsm__cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/*
 * The pause between two looks at a socket, the n-th in a row. After some 5 us
 * without an answer the core is offered to whoever is ready to run on it: that
 * may well be the one whose answer is waited for. (Both ends of a spinning
 * exchange woken on one core otherwise take turns by the scheduler's slices,
 * milliseconds each.)
 */
#define DSM_SPINS_BEFORE_YIELD 32u
static inline void
dsm__spin_pause(uint64_t n)
{
	if (n < DSM_SPINS_BEFORE_YIELD)
		dsm__cpu_relax();
	else
		sched_yield();
}

#endif
