/*
 * What a user may rely on, checked from outside, through the public interface
 * only. The same program runs embedded with 1, 2 and 7 slots, over TCP with two
 * workers, through the relay and across network namespaces: by the scripts in the
 * folder above, which set the environment. See cases.h for its arguments.
 */
#include "behaviour.h"

int a_global = 5;
int *canary;

void
square(size_t i, void *ctx)
{
	double *a = ctx;

	a[i] = (double)i * (double)i;
}

void
count_one(void *arg)
{
	(*(unsigned *)arg)++;
}

void
fail_some(void *arg)
{
	int *p = arg;

	if (*p % 10 == 0)
		abort();
	*p = -*p;
}

void
increment_shared(void *arg)
{
	int *p = arg;

	/* Reads the launch value whatever other tasks did; all write the same
	 * value, in different bytes. */
	p[1 + p[0]] = 0;
	p[0]++;
}

void
launch_inside(void *arg)
{
	int *code = arg;

	*code = taskrt_for(0, 1, square, NULL, NULL);
}

void
touch_canary(void)
{
	canary[0] = 99;
}

void
one_failure(void (*body)(size_t, void *), int kind, int sig,
            unsigned timeout_ms)
{
	static size_t scratch;
	const struct taskrt_report *r;
	struct taskrt_options o = {.chunk = 1, .timeout_ms = timeout_ms};
	double *a;

	canary = dsm_calloc(4, sizeof(int));
	CHECK(taskrt_for(3, 4, body, &scratch, &o) == TASKRT_ETASK);
	r = taskrt_report();
	CHECK(r->n_failures == 1);
	CHECK(r->failures[0].task == 3);
	CHECK(r->failures[0].kind == kind);
	CHECK(r->failures[0].signal == sig);
	CHECK(strlen(r->failures[0].message) > 5);
	CHECK(canary[0] == 0 && canary[1] == 0);
	/* The next run is fine. */
	a = dsm_malloc(1000 * sizeof(*a));
	CHECK(taskrt_for(0, 1000, square, a, NULL) == 0);
	CHECK(a[999] == 999.0 * 999.0);
	dsm_free(a);
	dsm_free(canary);
}

int
main(int argc, char **argv)
{
	static const struct cases_group groups[] = {
	    {"results", results_cases},
	    {"failures", failures_cases},
	    {"calls", calls_cases},
	    {"memory", memory_cases},
	    {"sizes", sizes_cases},
	    {"between", between_cases},
	    {"threads", threads_cases},
	    {"mappings", mappings_cases},
	    {NULL, NULL},
	};

	return cases_main(groups, argc, argv);
}
