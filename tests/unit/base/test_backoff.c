/* Pauses between attempts. */
#include "../../../dsm/base/backoff.h"
#include "../../test.h"

static void
test_pauses_double_until_the_longest(void)
{
	static const uint64_t due[] = {100, 200, 400, 800, 1000, 1000, 1000};
	struct dsm_backoff b;

	dsm__backoff_init(&b, 100, 1000);
	for (unsigned i = 0; i < sizeof(due) / sizeof(*due); i++) {
		uint64_t ms = dsm__backoff_next(&b);

		MUST(ms >= due[i] / 2 && ms <= due[i]);
	}
}

static void
test_pauses_differ(void)
{
	struct dsm_backoff b;
	uint64_t least = UINT64_MAX, most = 0;

	dsm__backoff_init(&b, 1000, 1000);
	for (int i = 0; i < 1000; i++) {
		uint64_t ms = dsm__backoff_next(&b);

		least = ms < least ? ms : least;
		most = ms > most ? ms : most;
	}
	MUST(least >= 500 && least < 600);
	MUST(most <= 1000 && most > 900);
}

static void
test_after_a_success_pauses_are_short_again(void)
{
	struct dsm_backoff b;

	dsm__backoff_init(&b, 10, 10000);
	for (int i = 0; i < 20; i++)
		dsm__backoff_next(&b);
	MUST(dsm__backoff_next(&b) >= 5000);
	dsm__backoff_reset(&b);
	MUST(dsm__backoff_next(&b) <= 10);
}

SUITE(dsm_base_backoff, "dsm.base.backoff",
      T(test_pauses_double_until_the_longest), T(test_pauses_differ),
      T(test_after_a_success_pauses_are_short_again));
