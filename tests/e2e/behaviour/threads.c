/* Asynchronous runs, and programs with several threads. */
#include "behaviour.h"

#include <pthread.h>

static void
slow_copy(void *arg)
{
	volatile int *p = arg;

	for (volatile int k = 0; k < 3000000; k++)
		;
	p[1024] = p[0];
}

static void
an_asynchronous_run_sees_the_launch_state(void)
{
	int *p = dsm_calloc(4096, sizeof(*p));
	struct taskrt_task t = {slow_copy, p};
	struct taskrt_run *run;

	p[0] = 41;
	CHECK(taskrt_start(&t, 1, NULL, &run) == 0);
	p[0] = 42;
	p[2048] = 43;
	CHECK(taskrt_wait(run) == 0);
	CHECK(p[1024] == 41);
	CHECK(p[0] == 42 && p[2048] == 43);
	/* And the program's own writes are in the next snapshot. */
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(p[1024] == 42);
	dsm_free(p);
}

static void
set_both(void *arg)
{
	int *p = arg;

	slow_copy(p);
	p[1030] = 7;
	p[1031] = 8;
}

static void
a_byte_of_a_task_and_the_program_is_a_race(void)
{
	int *p = dsm_calloc(4096, sizeof(*p));
	struct taskrt_task t = {set_both, p};
	const struct taskrt_report *r;
	struct taskrt_run *run;

	p[0] = 5;
	CHECK(taskrt_start(&t, 1, NULL, &run) == 0);
	p[1030] = 70;
	p[1032] = 90; /* a neighbour: no race */
	CHECK(taskrt_wait(run) == TASKRT_ERACE);
	r = taskrt_report();
	CHECK(r->n_races == 1);
	CHECK(r->races[0].task_a == 0 && r->races[0].task_b == TASKRT_CLIENT);
	CHECK(r->races[0].addr == (void *)&p[1030] && r->races[0].len == 1);
	CHECK(strstr(r->races[0].message, "the program itself") != NULL);
	CHECK(strstr(r->races[0].message, ": 07 and 46") != NULL);
	CHECK(p[1024] == 0 && p[1030] == 70 && p[1031] == 0 && p[1032] == 90);
	/* Its own writes are in the next snapshot. */
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(p[1024] == 5 && p[1030] == 7 && p[1031] == 8 && p[1032] == 90);
	dsm_free(p);
}

static void
a_race_with_the_program_names_the_task(void)
{
	enum { N = 100 };
	int *p = dsm_calloc(1024 * N, sizeof(*p));
	struct taskrt_task t[N];
	const struct taskrt_report *r;
	struct taskrt_run *run;

	for (int i = 0; i < N; i++)
		t[i] = (struct taskrt_task){count_one, p + i * 1024};
	CHECK(taskrt_start(t, N, NULL, &run) == 0);
	p[37 * 1024] = 5;
	CHECK(taskrt_wait(run) == TASKRT_ERACE);
	r = taskrt_report();
	CHECK(r->n_races == 1);
	CHECK(r->races[0].task_a == 37 && r->races[0].task_b == TASKRT_CLIENT);
	CHECK(p[0] == 0 && p[37 * 1024] == 5);
	dsm_free(p);
}

static int outside[4 * PAGE / sizeof(int)];

static void
set_outside(void *arg)
{
	(void)arg;
	outside[PAGE / 4 + 100] = 1;
}

static void
outside_the_heap_such_a_race_is_found_too(void)
{
	int *own = outside + PAGE / 4; /* in a page of its own, but for that */
	struct taskrt_task t[3] = {{launch_inside, &outside[2]},
	                           {set_outside, NULL},
	                           {launch_inside, &outside[1]}};
	struct taskrt_run *run;

	/* From now on it is known what tasks are given of that page. */
	CHECK(taskrt_run(t, 3, NULL) == 0);
	CHECK(own[100] == 1);
	own[100] = 0;
	CHECK(taskrt_start(t, 3, NULL, &run) == 0);
	own[100] = 5;
	CHECK(taskrt_wait(run) == TASKRT_ERACE);
	const struct taskrt_report *r = taskrt_report();
	CHECK(r->n_races == 1);
	CHECK(r->races[0].task_a == 1 && r->races[0].task_b == TASKRT_CLIENT);
	CHECK(r->races[0].addr == (void *)&own[100]);
	CHECK(own[100] == 5);
	/* A neighbour of it is none. */
	CHECK(taskrt_start(t, 3, NULL, &run) == 0);
	own[101] = 6;
	CHECK(taskrt_wait(run) == 0);
	CHECK(own[100] == 1 && own[101] == 6);
}

static void
a_second_launch_commits_the_first(void)
{
	int *p = dsm_calloc(4096, sizeof(*p));
	struct taskrt_task t = {slow_copy, p};
	struct taskrt_task u = {slow_copy, p + 1024};
	struct taskrt_run *first, *second;

	p[0] = 9;
	CHECK(taskrt_start(&t, 1, NULL, &first) == 0);
	CHECK(taskrt_start(&u, 1, NULL, &second) == 0);
	CHECK(taskrt_wait(second) == 0);
	CHECK(taskrt_wait(first) == 0);
	CHECK(p[1024] == 9 && p[2048] == 9);
	dsm_free(p);
}

static void
a_cancelled_run_changes_nothing(void)
{
	enum { N = 20 };
	struct taskrt_run *run;
	int *p = dsm_calloc(4096, sizeof(*p));
	struct taskrt_task many[N];

	p[0] = 5;
	for (int i = 0; i < N; i++)
		many[i] = (struct taskrt_task){slow_copy, p};
	CHECK(taskrt_start(many, N, NULL, &run) == 0);
	CHECK(taskrt_cancel(run) == 0);
	CHECK(taskrt_wait(run) == TASKRT_ECANCELED);
	CHECK(p[1024] == 0);
	CHECK(taskrt_run(many, 1, NULL) == 0);
	CHECK(p[1024] == 5);
	dsm_free(p);
}

static _Thread_local int thread_number;

static void *
launcher(void *arg)
{
	int *p = arg;
	static const size_t n = 500;
	double *a = dsm_malloc(n * sizeof(*a));

	thread_number = p[0];
	for (int round = 0; round < 10; round++) {
		if (taskrt_for(0, n, square, a, NULL) != 0)
			p[1] = -1;
		for (size_t i = 0; i < n; i++)
			if (a[i] != (double)(i * i))
				p[1] = -2;
		memset(a, 0, n * sizeof(*a));
	}
	dsm_free(a);
	return NULL;
}

static void
several_threads_may_launch(void)
{
	pthread_t th[3];
	int arg[3][2];

	for (int i = 0; i < 3; i++) {
		arg[i][0] = i;
		arg[i][1] = 0;
		CHECK(pthread_create(&th[i], NULL, launcher, arg[i]) == 0);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(th[i], NULL);
	for (int i = 0; i < 3; i++)
		CHECK(arg[i][1] == 0);
}

struct busy {
	volatile int stop;
	uint64_t *counter;
	uint64_t steps;
};

static void *
keep_counting(void *arg)
{
	struct busy *b = arg;

	while (!b->stop) {
		(*b->counter)++;
		b->steps++;
	}
	return NULL;
}

static void
another_thread_loses_no_store_while_runs_launch(void)
{
	pthread_t th;
	uint64_t *page = dsm_calloc(PAGE / 8, 8);
	double *a = dsm_malloc(200 * sizeof(*a));
	struct busy b = {0, page, 0};

	CHECK(pthread_create(&th, NULL, keep_counting, &b) == 0);
	for (int round = 0; round < 100; round++) {
		a[0] = round;
		if (taskrt_for(0, 200, square, a, NULL) != 0)
			break;
	}
	b.stop = 1;
	pthread_join(th, NULL);
	CHECK(taskrt_report()->error == 0);
	CHECK(page[0] == b.steps);
	dsm_free(page);
	dsm_free(a);
}

const struct cases_one threads_cases[] = {
    CASE(an_asynchronous_run_sees_the_launch_state),
    CASE(a_byte_of_a_task_and_the_program_is_a_race),
    CASE(a_race_with_the_program_names_the_task),
    CASE(outside_the_heap_such_a_race_is_found_too),
    CASE(a_second_launch_commits_the_first),
    CASE(a_cancelled_run_changes_nothing),
    CASE(several_threads_may_launch),
    CASE(another_thread_loses_no_store_while_runs_launch),
    {0},
};
