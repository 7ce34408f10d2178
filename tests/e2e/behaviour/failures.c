/* A task that fails is an entry in the report, and the program goes on. */
#include "behaviour.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

static char *volatile nowhere = (char *)16;

static void
null_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		*(volatile int *)nowhere = 1;
}

static void
abort_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		abort();
}

static void
div_body(size_t i, void *ctx)
{
	volatile int zero = 0;

	(void)ctx;
	touch_canary();
	if (i == 3)
		canary[1] = (int)i / zero;
}

static int
recurse(int n)
{
	volatile char room[2000];

	room[0] = (char)n;
	return n > 0 ? recurse(n - 1) + room[0] : 0;
}

static void
stack_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		canary[1] = recurse(1000000);
}

/* One frame that steps over 32 MiB: locally a crash, too. */
static int
wide_frame(void)
{
	volatile char room[32 << 20];
	volatile size_t lowest = 0; /* or a compiler makes it one char */

	room[lowest] = 1;
	return room[lowest] + canary[0];
}

static int (*volatile wide)(void) = wide_frame;

static void
wide_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		canary[1] = wide();
}

static void
exit_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		exit(4);
}

static void
open_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		canary[1] = open("/etc/passwd", O_RDONLY);
}

static void
readonly_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		*(volatile char *)(uintptr_t) "constant" = 'C';
}

static void
wild_jump_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		((void (*)(void))(uintptr_t)0x1234)();
}

static void
spin_body(size_t i, void *ctx)
{
	volatile size_t *forever = ctx;

	touch_canary();
	/* NOLINTNEXTLINE(bugprone-infinite-loop): the time limit ends it */
	while (i == 3)
		(*forever)++;
}

static void
null_pointer_is_one_failure(void)
{
	one_failure(null_body, TASKRT_CRASH, SIGSEGV, 0);
	if (!cases_failed())
		CHECK(taskrt_report()->n_failures == 0);
}

static int
first_of(const int *p)
{
	return *p;
}

static void
lost_body(size_t i, void *ctx)
{
	void *volatile bad = (void *)64;

	((int *)ctx)[i] = first_of(bad);
}

static void
leak_body(size_t i, void *ctx)
{
	((int *)ctx)[i] = open("/etc/passwd", O_RDONLY);
}

/* Of a static program only the dynamic linker's names would be known: none. */
static void
failures_name_the_function_and_the_line(void)
{
	struct taskrt_options o = {.chunk = 1};
	int *a = dsm_calloc(4, sizeof(*a));
	int has_lines = getauxval(AT_BASE) != 0;
	const struct taskrt_failure *f;

	CHECK(taskrt_for(1, 2, lost_body, a, &o) == TASKRT_ETASK);
	f = taskrt_report()->failures;
	/* Built without -g there are the symbols. */
	int has_symbols = strstr(f->message, " (lost_body+0x") != NULL;
	CHECK(!has_lines || has_symbols ||
	      strstr(f->message, " (first_of, failures.c:"));
	CHECK(!has_lines || has_symbols ||
	      strncmp(f->backtrace, "first_of, failures.c:", 21) == 0);
	CHECK(!has_lines || has_symbols ||
	      strstr(f->backtrace, "\nlost_body, failures.c:"));
	CHECK(taskrt_for(1, 2, leak_body, a, &o) == TASKRT_ETASK);
	f = taskrt_report()->failures;
	CHECK(f->kind == TASKRT_FORBIDDEN);
	CHECK(strstr(f->message, "open"));
	CHECK(!has_lines || strstr(f->message, " (leak_body, failures.c:") ||
	      (has_symbols && strstr(f->message, " (leak_body+0x")));
	dsm_free(a);
}

static void
abort_is_one_failure(void)
{
	one_failure(abort_body, TASKRT_CRASH, SIGABRT, 0);
}

static void
division_by_zero_is_one_failure(void)
{
	one_failure(div_body, TASKRT_CRASH, SIGFPE, 0);
}

static void
stack_overflow_is_one_failure(void)
{
	one_failure(stack_body, TASKRT_CRASH, SIGSEGV, 0);
}

static void
frame_larger_than_the_stack_is_one_failure(void)
{
	one_failure(wide_body, TASKRT_CRASH, SIGSEGV, 0);
}

static void
exit_in_a_task_is_forbidden(void)
{
	one_failure(exit_body, TASKRT_FORBIDDEN, 0, 0);
}

static void
open_in_a_task_is_forbidden(void)
{
	one_failure(open_body, TASKRT_FORBIDDEN, 0, 0);
}

static void
write_to_a_constant_is_one_failure(void)
{
	one_failure(readonly_body, TASKRT_CRASH, SIGSEGV, 0);
}

static void
jump_to_nowhere_is_one_failure(void)
{
	one_failure(wild_jump_body, TASKRT_CRASH, SIGSEGV, 0);
}

static void
sleep_body(size_t i, void *ctx)
{
	(void)ctx;
	touch_canary();
	if (i == 3)
		sleep(1000);
}

static void
spins_on(size_t i, void *ctx)
{
	sigset_t all;

	/* Does not help. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	spin_body(i, ctx);
}

static void
endless_task_times_out(void)
{
	static size_t scratch;
	struct taskrt_options o = {.chunk = 1, .timeout_ms = 300};
	int has_lines = getauxval(AT_BASE) != 0;
	const struct taskrt_failure *f;

	one_failure(spin_body, TASKRT_TIMEOUT, 0, 300);
	/* It says where it was. */
	canary = dsm_calloc(4, sizeof(int));
	CHECK(taskrt_for(3, 4, spins_on, &scratch, &o) == TASKRT_ETASK);
	f = taskrt_report()->failures;
	CHECK(f[0].kind == TASKRT_TIMEOUT && f[0].task == 3);
	CHECK(strncmp(f[0].message, "ran longer than 300 ms", 22) == 0);
	CHECK(!has_lines || strstr(f[0].message, " (spin") != NULL);
	CHECK(!has_lines || strncmp(f[0].backtrace, "spin", 4) == 0);
	dsm_free(canary);
}

static void
task_that_sleeps_too_long_times_out(void)
{
	one_failure(sleep_body, TASKRT_TIMEOUT, 0, 300);
}

static void
every_third_fails(size_t i, void *ctx)
{
	((unsigned char *)ctx)[i] = 1;
	if (i % 3 == 0)
		*(volatile int *)nowhere = 1;
}

static void
every_failed_task_is_reported(void)
{
	enum { N = 12 };
	struct taskrt_options one = {.chunk = 1};
	const struct taskrt_report *r;
	unsigned char *p = dsm_calloc(N, 1);
	unsigned seen = 0;

	CHECK(taskrt_for(0, N, every_third_fails, p, &one) == TASKRT_ETASK);
	r = taskrt_report();
	CHECK(r->n_failures == N / 3);
	for (size_t k = 0; k < r->n_failures; k++) {
		CHECK(r->failures[k].addr == (void *)16);
		seen |= 1u << r->failures[k].task;
	}
	CHECK(seen == 01111);
	for (int i = 0; i < N; i++)
		CHECK(p[i] == 0);
	dsm_free(p);
}

static void
failures_of_a_bunch_name_their_tasks(void)
{
	enum { N = 50 };
	int *v = dsm_malloc(N * sizeof(*v));
	struct taskrt_task t[N];
	const struct taskrt_report *r;

	for (int i = 0; i < N; i++) {
		v[i] = i + 1;
		t[i] = (struct taskrt_task){fail_some, &v[i]};
	}
	CHECK(taskrt_run(t, N, NULL) == TASKRT_ETASK);
	r = taskrt_report();
	CHECK(r->n_failures == 5);
	for (size_t i = 0; i < r->n_failures; i++)
		CHECK(r->failures[i].task % 10 == 9);
	for (int i = 0; i < N; i++)
		CHECK(v[i] == i + 1);
	dsm_free(v);
}

static void
give_up(void *arg)
{
	int *p = arg;

	p[0] = 1;
	printf("about to give up\n");
	taskrt_fail("row 7 does not add up:\n3 != 4");
}

static void
assertion_fails(void *arg)
{
	*(int *)arg = 1;
	/* As assert() does, whatever NDEBUG is. */
	fprintf(stderr, "x.c:12: f: Assertion `p != q' failed.\n");
	abort();
}

static void
a_task_may_say_why_it_fails(void)
{
	int *p = dsm_calloc(1, sizeof(*p));
	struct taskrt_task t[2] = {{give_up, p}, {assertion_fails, p}};
	int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
	int err;

	CHECK(saved >= 0 && null >= 0);
	dup2(null, STDERR_FILENO);
	err = taskrt_run(t, 2, NULL);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(null);
	CHECK(err == TASKRT_ETASK);
	const struct taskrt_report *r = taskrt_report();
	CHECK(r->n_failures == 2);
	CHECK(r->failures[0].kind == TASKRT_CRASH);
	CHECK(r->failures[0].signal == SIGABRT);
	CHECK(strncmp(r->failures[0].message, "row 7 does not add up: 3 != 4",
	              29) == 0);
	CHECK(strstr(r->failures[1].message, "Assertion `p != q' failed.") !=
	      NULL);
	CHECK(*p == 0);
	dsm_free(p);
}

static void
partial_results_are_those_of_the_tasks_not_listed(void)
{
	enum { N = 50 };
	int *v = dsm_malloc(N * sizeof(*v));
	struct taskrt_task t[N];
	struct taskrt_options keep = {.keep_partial = 1};

	for (int i = 0; i < N; i++) {
		v[i] = i + 1;
		t[i] = (struct taskrt_task){fail_some, &v[i]};
	}
	CHECK(taskrt_run(t, N, &keep) == TASKRT_ETASK);
	CHECK(taskrt_report()->n_failures == 5);
	for (int i = 0; i < N; i++)
		CHECK(v[i] == ((i + 1) % 10 == 0 ? i + 1 : -(i + 1)));
	dsm_free(v);
}

static void
fail_at_33(size_t i, void *ctx)
{
	if (i == 33)
		abort();
	((int *)ctx)[i]++;
}

static void
partial_results_of_a_loop_lack_failed_iterations_only(void)
{
	enum { N = 100 };
	int *v = dsm_calloc(N, sizeof(*v));
	struct taskrt_options keep = {.keep_partial = 1, .chunk = 10};

	CHECK(taskrt_for(0, N, fail_at_33, v, &keep) == TASKRT_ETASK);
	CHECK(taskrt_report()->n_failures == 1);
	CHECK(taskrt_report()->failures[0].task == 33);
	for (int i = 0; i < N; i++)
		CHECK(v[i] == (i != 33));
	dsm_free(v);
}

static void
partial_results_are_dropped_when_there_are_races(void)
{
	int *v = dsm_calloc(4, sizeof(*v));
	struct taskrt_task t[3] = {
	    {increment_shared, v}, {increment_shared, v}, {fail_some, &v[2]}};
	struct taskrt_options keep = {.keep_partial = 1};

	v[2] = 10;
	CHECK(taskrt_run(t, 3, &keep) == TASKRT_ERACE);
	CHECK(taskrt_report()->n_races == 1);
	CHECK(taskrt_report()->n_failures == 1);
	CHECK(v[0] == 0 && v[2] == 10);
	dsm_free(v);
}

static void
fail_first_or_dawdle(size_t i, void *ctx)
{
	const struct timespec pause = {0, 20000000};

	if (i == 0)
		abort();
	nanosleep(&pause, NULL);
	((int *)ctx)[i] = 1;
}

static void
fail_fast_ends_the_run_with_the_first_failure(void)
{
	enum { N = 200 };
	int *v = dsm_calloc(N, sizeof(*v));
	struct taskrt_options fast = {.fail_fast = 1, .chunk = 1};

	CHECK(taskrt_for(0, N, fail_first_or_dawdle, v, &fast) == TASKRT_ETASK);
	CHECK(taskrt_report()->n_failures == 1);
	CHECK(taskrt_report()->failures[0].task == 0);
	CHECK(taskrt_report()->counters.tasks < N / 2);
	for (int i = 0; i < N; i++)
		CHECK(v[i] == 0);
	/* With partial results: who is not listed has its own in place. */
	fast.keep_partial = 1;
	CHECK(taskrt_for(0, N, fail_first_or_dawdle, v, &fast) == TASKRT_ETASK);
	const struct taskrt_report *r = taskrt_report();
	CHECK(r->n_failures > 1 && r->failures[0].kind == TASKRT_CRASH);
	for (size_t k = 1; k < r->n_failures; k++) {
		CHECK(r->failures[k].kind == TASKRT_CANCELLED);
		CHECK(v[r->failures[k].task] == 0);
	}
	dsm_free(v);
}

static void
launch_inside_a_task_is_refused(void)
{
	int code = 0;
	struct taskrt_task t = {launch_inside, &code};

	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(code == TASKRT_EINVAL);
}

const struct cases_one failures_cases[] = {
    CASE(null_pointer_is_one_failure),
    CASE(failures_name_the_function_and_the_line),
    CASE(abort_is_one_failure),
    CASE(division_by_zero_is_one_failure),
    CASE(stack_overflow_is_one_failure),
    CASE(frame_larger_than_the_stack_is_one_failure),
    CASE(exit_in_a_task_is_forbidden),
    CASE(open_in_a_task_is_forbidden),
    CASE(write_to_a_constant_is_one_failure),
    CASE(jump_to_nowhere_is_one_failure),
    CASE(endless_task_times_out),
    CASE(task_that_sleeps_too_long_times_out),
    CASE(every_failed_task_is_reported),
    CASE(failures_of_a_bunch_name_their_tasks),
    CASE(a_task_may_say_why_it_fails),
    CASE(partial_results_are_those_of_the_tasks_not_listed),
    CASE(partial_results_of_a_loop_lack_failed_iterations_only),
    CASE(partial_results_are_dropped_when_there_are_races),
    CASE(fail_fast_ends_the_run_with_the_first_failure),
    CASE(launch_inside_a_task_is_refused),
    {0},
};
