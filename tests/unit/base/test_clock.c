#include "../../test.h"

static void
test_ticks_measure_what_the_clock_does(void)
{
	uint64_t ticks, ns;

	dsm__ticks_calibrate();
	MUST_WITHIN_MS(1000, dsm__ticks_ns(1000000) > 0);
	ticks = dsm__ticks();
	ns = dsm__now();
	while (dsm__now() - ns < 20 * DSM_MS)
		dsm__cpu_relax();
	dsm__ticks_calibrate();
	ticks = dsm__ticks_ns(dsm__ticks() - ticks);
	ns = dsm__now() - ns;
	MUST(ticks > ns / 2);
	MUST(ticks < ns * 2);
}

static void
test_a_counter_that_went_back_is_no_time(void)
{
	MUST_BE(dsm__ticks_ns((uint64_t)-5), 0);
}

SUITE(dsm_base_clock, "dsm.base.clock",
      T(test_ticks_measure_what_the_clock_does),
      T(test_a_counter_that_went_back_is_no_time));
