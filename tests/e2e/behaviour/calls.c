/* What a task may call, and what it may not. */
#include "behaviour.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static int
by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void
library_calls(size_t i, void *ctx)
{
	char(*text)[64] = ctx;
	double v[100];
	long double ld = 1.0L / 3.0L;
	struct timespec ts;
	char *copy;

	for (int k = 0; k < 100; k++)
		v[k] = sin((double)k * (double)(i + 1));
	qsort(v, 100, sizeof(v[0]), by_value);
	copy = strdup("abc");
	clock_gettime(CLOCK_MONOTONIC, &ts);
	snprintf(text[i], sizeof(text[i]), "%s %.3f %.3Lf %g %d", copy, v[0],
	         ld, strtod("2.5e3", NULL), ts.tv_sec > 0);
	free(copy);
	errno = (int)i;
}

static void
libc_calls_work_in_tasks(void)
{
	enum { N = 40 };
	char(*text)[64] = dsm_calloc(N, sizeof(*text));
	char(*want)[64] = calloc(N, sizeof(*want));
	struct taskrt_options one = {.chunk = 1};

	for (size_t i = 0; i < N; i++)
		library_calls(i, want);
	errno = 1234;
	CHECK(taskrt_for(0, N, library_calls, text, &one) == 0);
	for (size_t i = 0; i < N; i++)
		CHECK(strcmp(text[i], want[i]) == 0);
	free(want);
	dsm_free(text);
}

static void
ask_about_the_machine(size_t i, void *ctx)
{
	int *good = ctx;
	double *v = malloc(5000 * sizeof(*v));
	unsigned char noise[3000] = {0};
	struct rusage ru;
	struct utsname name;
	cpu_set_t cpus;
	size_t n = 0;

	/* So long that qsort asks how much memory there is. */
	for (int k = 0; k < 5000; k++)
		v[k] = sin((double)k);
	qsort(v, 5000, sizeof(*v), by_value);
	for (int k = 1; k < 5000; k++)
		good[i] += v[k - 1] <= v[k];
	free(v);
	good[i] += getrusage(RUSAGE_SELF, &ru) == 0;
	good[i] += uname(&name) == 0 && name.sysname[0] == 'L';
	good[i] += sched_getaffinity(0, sizeof(cpus), &cpus) == 0 &&
	           CPU_COUNT(&cpus) > 0;
	good[i] += getrandom(noise, sizeof(noise), 0) == sizeof(noise);
	for (size_t k = 0; k < sizeof(noise); k++)
		n += noise[k] == 0;
	good[i] += n < sizeof(noise) / 10;
}

static void
calls_that_only_ask_work_in_tasks(void)
{
	enum { N = 4 };
	int *good = dsm_calloc(N * 1024, sizeof(*good));
	struct taskrt_options one = {.chunk = 1};

	CHECK(taskrt_for(0, N, ask_about_the_machine, good, &one) == 0);
	for (int i = 0; i < N; i++)
		CHECK(good[i] == 4999 + 5);
	dsm_free(good);
}

static void *
do_nothing(void *arg)
{
	return arg;
}

static void
start_a_thread(size_t i, void *ctx)
{
	pthread_t th;

	(void)ctx;
	touch_canary();
	if (i == 3)
		canary[1] = pthread_create(&th, NULL, do_nothing, NULL);
}

static void
a_thread_in_a_task_is_forbidden(void)
{
	one_failure(start_a_thread, TASKRT_FORBIDDEN, 0, 0);
}

static void
first_call(size_t i, void *ctx)
{
	/* Called nowhere else in this program: the loader binds them here. */
	((double *)ctx)[i] = cbrt((double)i) + (double)strtoull("7", NULL, 10);
}

static void
functions_bound_at_their_first_call_are_no_race(void)
{
	double *a = dsm_calloc(64, sizeof(*a));
	struct taskrt_options one = {.chunk = 1};

	CHECK(taskrt_for(0, 64, first_call, a, &one) == 0);
	CHECK(a[8] > 8.99 && a[8] < 9.01);
	dsm_free(a);
}

static void
say_twice(size_t i, void *ctx)
{
	(void)ctx;
	printf("task %zu says one\n", i);
	printf("task %zu says two\n", i);
}

static void
text_of_tasks_comes_out_whole_and_once(void)
{
	enum { N = 30 };
	char line[100], want[100];
	int saved = dup(STDOUT_FILENO), lines = 0, bad = 0, err;
	FILE *file = tmpfile();
	struct taskrt_options one = {.chunk = 1};

	CHECK(file != NULL && saved >= 0);
	fflush(stdout);
	dup2(fileno(file), STDOUT_FILENO);
	printf("the program said this before\n"); /* stays in the buffer */
	err = taskrt_for(0, N, say_twice, NULL, &one);
	fflush(stdout);
	dup2(saved, STDOUT_FILENO);
	close(saved);
	rewind(file);
	for (; fgets(line, sizeof(line), file) != NULL; lines++) {
		unsigned long i;

		if (lines == 0) {
			bad += strncmp(line, "the program", 11) != 0;
			continue;
		}
		bad += sscanf(line, "task %lu says", &i) != 1;
		snprintf(want, sizeof(want), "task %lu says %s\n", i,
		         lines % 2 == 1 ? "one" : "two");
		bad += strcmp(line, want) != 0;
	}
	fclose(file);
	CHECK(err == 0);
	CHECK(lines == 1 + 2 * N);
	CHECK(bad == 0);
}

const struct cases_one calls_cases[] = {
    CASE(libc_calls_work_in_tasks),
    CASE(calls_that_only_ask_work_in_tasks),
    CASE(a_thread_in_a_task_is_forbidden),
    CASE(text_of_tasks_comes_out_whole_and_once),
    CASE(functions_bound_at_their_first_call_are_no_race),
    {0},
};
