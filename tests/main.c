/*
 * The unit test program: unit [PREFIX]. Runs the suites of unit/suites.def
 * whose name starts with PREFIX, one line a suite, failures with their place.
 * Last line: "N passed, N failed" (test cases); exit status 1 when any failed.
 */
#include "test.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define CASE_SECONDS 120 /* one test case may take; then it hangs */

/*
 * Weak, so that a line of suites.def without its source is a failed test, not a
 * program that does not link.
 */
#define X(id) extern const struct test_suite suite_##id __attribute__((weak));
#include "unit/suites.def"
#undef X

struct entry {
	const char *id;
	const struct test_suite *suite;
};
static const struct entry suites[] = {
#define X(id) {#id, &suite_##id},
#include "unit/suites.def"
#undef X
    {NULL, NULL},
};

static unsigned n_passed, n_failed, n_skipped; /* the last are suites */
/* The case that runs now, for on_alarm. */
static const char *volatile case_now = "?";

static void
on_alarm(int sig)
{
	static const char text[] = "    takes too long: ";

	(void)sig;
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) > 0 &&
	    write(STDOUT_FILENO, case_now, strlen(case_now)) > 0 &&
	    write(STDOUT_FILENO, "\n", 1) > 0)
		_exit(1);
	_exit(1);
}

static void
case_starts(const CU_pTest test, const CU_pSuite suite)
{
	(void)suite;
	case_now = test->pName;
	alarm(CASE_SECONDS);
}

static void
case_ends(const CU_pTest test, const CU_pSuite suite,
          const CU_pFailureRecord failures)
{
	alarm(0);
	if (failures == NULL) {
		n_passed++;
		return;
	}
	n_failed++;
	printf("  FAILED %s %s (TEST_SEED=%#llx)\n", suite->pName, test->pName,
	       (unsigned long long)test_seed());
	for (CU_pFailureRecord f = failures; f != NULL; f = f->pNext)
		printf("    %s:%u: %s\n",
		       f->strFileName != NULL ? f->strFileName : "?",
		       f->uiLineNumber,
		       f->strCondition != NULL ? f->strCondition : "?");
}

static void
add_suite(const struct test_suite *s)
{
	CU_pSuite suite = CU_add_suite(s->name, NULL, NULL);
	const struct test_case *c;

	for (c = s->cases; suite != NULL && c->name != NULL; c++)
		suite = CU_add_test(suite, c->name, c->fn) ? suite : NULL;
	if (suite == NULL) {
		printf("cannot register suite %s: %s\n", s->name,
		       CU_get_error_msg());
		exit(2);
	}
}

static void
run_suite(const struct test_suite *s)
{
	const char *reason = s->skip != NULL ? s->skip() : NULL;
	unsigned passed = n_passed, failed = n_failed;
	uint64_t start = dsm__now();

	if (reason != NULL) {
		printf("%-32s skipped: %s\n", s->name, reason);
		n_skipped++;
		return;
	}
	add_suite(s);
	CU_run_suite(CU_get_suite(s->name));
	printf("%-32s %3u passed", s->name, n_passed - passed);
	if (n_failed > failed)
		printf(", %u FAILED", n_failed - failed);
	printf("  (%llu ms)\n",
	       (unsigned long long)((dsm__now() - start) / DSM_MS));
}

int
main(int argc, char **argv)
{
	const char *prefix = argc > 1 ? argv[1] : "";
	const struct entry *e;

	/* Line by line: a child of fork() must not inherit unwritten text. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGALRM, on_alarm);
	if (CU_initialize_registry() != CUE_SUCCESS)
		return 2;
	CU_set_test_start_handler(case_starts);
	CU_set_test_complete_handler(case_ends);
	for (e = suites; e->id != NULL; e++) {
		if (e->suite == NULL && *prefix != '\0')
			continue;
		if (e->suite == NULL) {
			printf("suite %s is in suites.def but has no source\n",
			       e->id);
			n_failed++;
		} else if (strncmp(e->suite->name, prefix, strlen(prefix)) ==
		           0) {
			run_suite(e->suite);
		}
	}
	CU_cleanup_registry();
	if (n_passed + n_failed + n_skipped == 0) {
		printf("no suite starts with %s\n", prefix);
		return 2;
	}
	printf("%u passed, %u failed\n", n_passed, n_failed);
	return n_failed != 0;
}
