/* What every test may use: a pause for polling loops, reproducible numbers. */
#include "test.h"

#include <stdlib.h>
#include <time.h>

void
test_pause(void)
{
	const struct timespec ts = {0, 100000};

	nanosleep(&ts, NULL);
}

/* One seed for the whole program, so that main can print it. */
uint64_t
test_seed(void)
{
	static uint64_t seed;
	const char *text = getenv("TEST_SEED");

	if (text != NULL)
		return strtoull(text, NULL, 0);
	if (seed == 0)
		seed = dsm__now() | 1;
	return seed;
}

/* splitmix64 */
uint64_t
test_rand(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}
