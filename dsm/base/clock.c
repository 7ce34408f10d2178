#include "clock.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Less would not measure the rate well. */
#define CALIBRATE_NS (100 * DSM_US)

static int no_vdso;

void
dsm__clock_no_vdso(void)
{
	no_vdso = 1;
}

uint64_t
dsm__now(void)
{
	struct timespec ts;

	if (no_vdso)
		syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
	else
		clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * DSM_SEC + (uint64_t)ts.tv_nsec;
}

uint64_t
dsm__deadline_ms(uint64_t ms)
{
	uint64_t now = dsm__now();

	if (ms > (UINT64_MAX - now) / DSM_MS)
		return DSM_FOREVER;
	return now + ms * DSM_MS;
}

int
dsm__ms_left(uint64_t deadline)
{
	uint64_t now = dsm__now();
	uint64_t ms;

	if (deadline <= now)
		return 0;
	ms = (deadline - now + DSM_MS - 1) / DSM_MS;
	return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

static struct {
	uint64_t ticks, ns; /* at first */
	double ns_per_tick; /* 0: not known yet */
} rate;

void
dsm__ticks_calibrate(void)
{
	uint64_t ticks = dsm__ticks(), ns = dsm__now();

	if (rate.ns == 0) {
		rate.ticks = ticks;
		rate.ns = ns;
	} else if (ns - rate.ns >= CALIBRATE_NS && ticks > rate.ticks) {
		rate.ns_per_tick =
		    (double)(ns - rate.ns) / (double)(ticks - rate.ticks);
	}
}

uint64_t
dsm__ticks_ns(uint64_t ticks)
{
	if (rate.ns_per_tick == 0)
		dsm__ticks_calibrate();
	/* From one processor to another it may have gone back. */
	if (ticks > UINT64_MAX / 2)
		return 0;
	return (uint64_t)((double)ticks * rate.ns_per_tick);
}
