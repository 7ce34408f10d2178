/*
 * Does it run at all? With no coordinator configured: an empty task, a loop over
 * heap memory, globals and the stack, a race, a crash, an asynchronous run, memory
 * that tasks allocate. Arguments and output as in cases.h.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "../helpers/cases.h"

/* A sanitizer has malloc for itself, also in tasks. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static void
nothing(void *arg)
{
	(void)arg;
}

static void
empty_task(void)
{
	const struct taskrt_task task = {nothing, NULL};

	for (int i = 0; i < 10; i++)
		CHECK(taskrt_run(&task, 1, NULL) == 0);
	CHECK(taskrt_run(NULL, 0, NULL) == 0);
	CHECK(taskrt_report()->error == 0);
}

static int global = 5;

static void
square(size_t i, void *ctx)
{
	double *a = ctx;

	a[i] = sqrt((double)i) * global;
}

static void
loop_over_heap_memory(void)
{
	const size_t n = 10000;
	double *a = dsm_calloc(n, sizeof(*a));

	CHECK(a != NULL);
	for (int round = 1; round <= 3; round++) {
		global = round;
		CHECK(taskrt_for(0, n, square, a, NULL) == 0);
		for (size_t i = 0; i < n; i++)
			CHECK(a[i] == sqrt((double)i) * round);
	}
	dsm_free(a);
}

struct part {
	int in;
	int *out; /* on the launching thread's stack */
};

static void
add_one(void *arg)
{
	const struct part *p = arg;

	*p->out = p->in + 1;
}

static void
tasks_write_to_the_stack(void)
{
	int out[4] = {0};
	struct part parts[4];
	struct taskrt_task tasks[4];

	for (int i = 0; i < 4; i++) {
		parts[i] = (struct part){i, &out[i]};
		tasks[i] = (struct taskrt_task){add_one, &parts[i]};
	}
	CHECK(taskrt_run(tasks, 4, NULL) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(out[i] == i + 1);
}

static void
set(void *arg)
{
	static int next;

	*(int *)arg = ++next + 41;
}

static void
race_is_reported_and_nothing_changes(void)
{
	int *x = dsm_malloc(sizeof(*x));
	struct part parts[2];
	struct taskrt_task tasks[2];

	CHECK(x != NULL);
	*x = 7;
	for (int i = 0; i < 2; i++) {
		parts[i] = (struct part){i, x};
		tasks[i] = (struct taskrt_task){add_one, &parts[i]};
	}
	CHECK(taskrt_run(tasks, 2, NULL) == TASKRT_ERACE);
	CHECK(*x == 7);
	CHECK(taskrt_report()->n_races == 1);
	CHECK(taskrt_report()->races[0].addr == x);
	dsm_free(x);
}

static void
crash(void *arg)
{
	*(volatile int *)arg = 1;
}

static void
crash_is_reported_and_the_program_goes_on(void)
{
	int x = 0;
	const struct taskrt_task tasks[] = {{set, &x}, {crash, (void *)16}};

	CHECK(taskrt_run(tasks, 2, NULL) == TASKRT_ETASK);
	CHECK(x == 0);
	CHECK(taskrt_report()->n_failures == 1);
	CHECK(taskrt_report()->failures[0].task == 1);
	CHECK(taskrt_report()->failures[0].kind == TASKRT_CRASH);
	CHECK(taskrt_run(tasks, 1, NULL) == 0);
	CHECK(x == 42);
}

static void
asynchronous_run(void)
{
	const size_t n = 64;
	int *a = dsm_calloc(n, sizeof(*a));
	struct part parts[64];
	struct taskrt_task tasks[64];
	struct taskrt_run *run, *second;

	CHECK(a != NULL);
	for (size_t i = 0; i < n; i++) {
		parts[i] = (struct part){(int)i, &a[i]};
		tasks[i] = (struct taskrt_task){add_one, &parts[i]};
	}
	CHECK(taskrt_start(tasks, n / 2, NULL, &run) == 0);
	memset(tasks, 0, n / 2 * sizeof(*tasks));
	CHECK(taskrt_start(tasks + n / 2, n / 2, NULL, &second) == 0);
	/* The second launch has finished the first run. */
	CHECK(a[0] == 1);
	CHECK(taskrt_wait(run) == 0);
	CHECK(taskrt_wait(second) == 0);
	for (size_t i = 0; i < n; i++)
		CHECK(a[i] == (int)i + 1);
	dsm_free(a);
}

#if !SANITIZED
static void
allocate(void *arg)
{
	char **p = arg;

	free(malloc(100000));
	*p = strdup("from a task");
}

static void
memory_from_tasks_belongs_to_the_program(void)
{
	char *texts[8] = {0};
	struct taskrt_task tasks[8];

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++)
			tasks[i] = (struct taskrt_task){allocate, &texts[i]};
		CHECK(taskrt_run(tasks, 8, NULL) == 0);
		for (int i = 0; i < 8; i++) {
			CHECK(texts[i] != NULL);
			CHECK(strcmp(texts[i], "from a task") == 0);
			for (int k = 0; k < i; k++)
				CHECK(texts[i] != texts[k]);
		}
		for (int i = 0; i < 8; i++) {
			texts[i] = realloc(texts[i], 1000);
			CHECK(strcmp(texts[i], "from a task") == 0);
			free(texts[i]);
		}
	}
}

static void
release(void *arg)
{
	free(*(void **)arg);
	*(void **)arg = NULL;
}

static void
a_task_may_free_what_the_program_allocated(void)
{
	struct dsm_stats before, after;
	void *p = dsm_malloc(1000);
	const struct taskrt_task task = {release, &p};

	CHECK(p != NULL);
	CHECK(dsm_stats(&before) == 0);
	CHECK(taskrt_run(&task, 1, NULL) == 0);
	CHECK(p == NULL);
	CHECK(dsm_stats(&after) == 0);
	CHECK(after.blocks == before.blocks - 1);
}
#endif

static void
launch(void *arg)
{
	const struct taskrt_task task = {nothing, NULL};

	*(int *)arg = taskrt_run(&task, 1, NULL);
}

static void
a_task_cannot_launch(void)
{
	int result = 0;
	const struct taskrt_task task = {launch, &result};

	CHECK(taskrt_run(&task, 1, NULL) == 0);
	CHECK(result == TASKRT_EINVAL);
}

static void
session_may_end_and_start_again(void)
{
	const struct taskrt_task task = {nothing, NULL};

	taskrt_fini();
	taskrt_fini();
	CHECK(taskrt_run(&task, 1, NULL) == 0);
}

static const struct cases_one cases[] = {
    CASE(empty_task),
    CASE(loop_over_heap_memory),
    CASE(tasks_write_to_the_stack),
    CASE(race_is_reported_and_nothing_changes),
    CASE(crash_is_reported_and_the_program_goes_on),
    CASE(asynchronous_run),
#if !SANITIZED
    CASE(memory_from_tasks_belongs_to_the_program),
    CASE(a_task_may_free_what_the_program_allocated),
#endif
    CASE(a_task_cannot_launch),
    CASE(session_may_end_and_start_again),
    {0},
};

int
main(int argc, char **argv)
{
	static const struct cases_group groups[] = {{"smoke", cases}, {0}};

	return cases_main(groups, argc, argv);
}
