/*
 * Small frame around CUnit. One test program, many suites; each test source
 * file defines one suite and lists it in tests/unit/suites.def:
 *
 *   static void test_diff_of_unchanged_page_has_no_runs(void) { … }
 *   SUITE(dsm_wire_packdiff, "dsm.wire.packdiff",
 *         T(test_diff_of_unchanged_page_has_no_runs),
 *         T(…));
 *
 * `make test T=dsm.wire` runs the suites whose name starts with that.
 */
#ifndef TESTS_TEST_H
#define TESTS_TEST_H

#include <CUnit/CUnit.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/status.h"

struct test_case {
	const char *name;
	void (*fn)(void);
};
struct test_suite {
	const char *name;
	const struct test_case *cases; /* ends with name NULL */
	/* Why it cannot run on this machine, NULL when it can. May be NULL. */
	const char *(*skip)(void);
};

#define T(fn)           \
	{               \
#fn, fn \
	}
#define SUITE(id, suite_name, ...) \
	SUITE_UNLESS(id, suite_name, NULL, __VA_ARGS__)
/* Skipped, with one line that says so, when skip_fn() returns a reason. */
#define SUITE_UNLESS(id, suite_name, skip_fn, ...)                   \
	static const struct test_case id##_cases[] = {__VA_ARGS__,   \
	                                              {NULL, NULL}}; \
	extern const struct test_suite suite_##id;                   \
	const struct test_suite suite_##id = {suite_name, id##_cases, skip_fn}

/* Status must be DSM_OK; prints its name otherwise. */
#define MUST_OK(expr)                                                       \
	do {                                                                \
		int must_ok_ = (expr);                                      \
		if (must_ok_ != DSM_OK)                                     \
			printf("    %s:%d: %s is %s\n", __FILE__, __LINE__, \
			       #expr, dsm__errname(must_ok_));              \
		CU_ASSERT_FATAL(must_ok_ == DSM_OK);                        \
	} while (0)
#define MUST_BE(expr, want)                                                   \
	do {                                                                  \
		long long must_a_ = (long long)(expr);                        \
		long long must_b_ = (long long)(want);                        \
		if (must_a_ != must_b_)                                       \
			printf("    %s:%d: %s is %lld, not %lld\n", __FILE__, \
			       __LINE__, #expr, must_a_, must_b_);            \
		CU_ASSERT_FATAL(must_a_ == must_b_);                          \
	} while (0)
#define MUST(expr) CU_ASSERT_FATAL(expr)

/* Wait for a condition with a deadline; no sleeps in tests otherwise. */
#define MUST_WITHIN_MS(ms, cond)                             \
	do {                                                 \
		uint64_t must_until_ = dsm__deadline_ms(ms); \
		while (!(cond) && dsm__now() < must_until_)  \
			test_pause();                        \
		CU_ASSERT_FATAL(cond);                       \
	} while (0)
void test_pause(void); /* 100 us */

/* Reproducible pseudo-random numbers; the seed is printed on failure.
 * TEST_SEED in the environment replays one. */
uint64_t test_seed(void);
uint64_t test_rand(uint64_t *state);

#endif
