#include "clock.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

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
