/*
 * What a user may rely on, checked from outside, through the public interface
 * only. The same program runs embedded with 1, 2 and 7 slots, over TCP with two
 * workers, through the relay and across network namespaces (run by the scripts
 * beside it, which set the environment).
 *
 *   behaviour [NAME…] [-NAME…]   all cases, or those whose name contains a NAME,
 *                                without those whose name contains a -NAME
 * One line a case: "  ok NAME" or "  FAIL NAME: why". Exit status 1 if any failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#define PAGE 4096u

static const char *why; /* of the case that runs: NULL while it is fine */
static char why_text[400];

#define CHECK(cond)                            \
	do {                                   \
		if (!(cond)) {                 \
			fail(__LINE__, #cond); \
			return;                \
		}                              \
	} while (0)

static void
fail(int line, const char *cond)
{
	const struct taskrt_report *r = taskrt_report();
	int n;

	n = snprintf(why_text, sizeof(why_text), "line %d: %s (report: %d %s",
	             line, cond, r->error, r->message);
	if (r->n_failures > 0)
		snprintf(why_text + n, sizeof(why_text) - (size_t)n,
		         "; task %zu: %s)", r->failures[0].task,
		         r->failures[0].message);
	why = why_text;
}

/* --- results in place --- */

static int a_global = 5;
static double a_table[1000];

static void
square(size_t i, void *ctx)
{
	double *a = ctx;

	a[i] = (double)i * (double)i;
}

static void
loop_results_are_in_place(void)
{
	size_t n = 100000;
	double *a = dsm_malloc(n * sizeof(*a));

	CHECK(a != NULL);
	for (size_t i = 0; i < n; i++)
		a[i] = -1;
	CHECK(taskrt_for(0, n, square, a, NULL) == 0);
	for (size_t i = 0; i < n; i++)
		CHECK(a[i] == (double)i * (double)i);
	dsm_free(a);
}

struct spots {
	int *local, *heap, *mapped;
};

static void
write_everywhere(void *arg)
{
	struct spots *s = arg;

	a_global = 6;
	a_table[17] = sin(1.0);
	*s->local = 1;
	*s->heap = 2;
	*s->mapped = 3;
}

static void
globals_stack_malloc_and_mmap_are_committed(void)
{
	int local = 0;
	int *heap = malloc(sizeof(int));
	int *mapped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
	                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct spots s = {&local, heap, mapped};
	struct taskrt_task t = {write_everywhere, &s};

	*heap = *mapped = 0;
	a_global = 5;
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(a_global == 6);
	CHECK(a_table[17] == sin(1.0));
	CHECK(local == 1 && *heap == 2 && *mapped == 3);
	free(heap);
	munmap(mapped, PAGE);
}

static void
sum_range(size_t lo, size_t hi, void *ctx)
{
	uint64_t *parts = ctx;
	uint64_t s = 0;

	for (size_t i = lo; i < hi; i++)
		s += i;
	parts[lo] = s;
}

static void
for_range_covers_every_index_once(void)
{
	size_t n = 5000;
	uint64_t *parts = dsm_calloc(n, sizeof(*parts)), total = 0;

	CHECK(taskrt_for_range(0, n, sum_range, parts, NULL) == 0);
	for (size_t i = 0; i < n; i++)
		total += parts[i];
	CHECK(total == (uint64_t)n * (n - 1) / 2);
	dsm_free(parts);
}

struct particle {
	char odd[5];
	short weight;
	double place;
};

static void
move_particle(void *elem, void *ctx)
{
	struct particle *p = elem;

	p->place += *(double *)ctx * p->weight;
	if (p->weight == 4321)
		abort();
}

static void
foreach_calls_the_body_with_every_element_once(void)
{
	enum { N = 3000 };
	struct particle *p = dsm_calloc(N, sizeof(*p));
	static double step = 0.5;

	for (int i = 0; i < N; i++)
		p[i].weight = (short)i;
	CHECK(taskrt_foreach(p, N, sizeof(*p), move_particle, &step, NULL) ==
	      0);
	for (int i = 0; i < N; i++)
		CHECK(p[i].weight == i && p[i].place == 0.5 * i);
	p[1234].weight = 4321;
	CHECK(taskrt_foreach(p, N, sizeof(*p), move_particle, &step, NULL) ==
	      TASKRT_ETASK);
	CHECK(taskrt_report()->n_failures == 1);
	CHECK(taskrt_report()->failures[0].task == 1234);
	CHECK(p[5].place == 2.5);
	dsm_free(p);
}

static void
empty_runs_are_fine(void)
{
	CHECK(taskrt_run(NULL, 0, NULL) == 0);
	CHECK(taskrt_for(3, 3, square, NULL, NULL) == 0);
	CHECK(taskrt_foreach(NULL, 0, 8, move_particle, NULL, NULL) == 0);
}

static void
bad_arguments_are_refused(void)
{
	struct taskrt_task t = {NULL, NULL};

	CHECK(taskrt_for(4, 3, square, NULL, NULL) == TASKRT_EINVAL);
	CHECK(taskrt_for(0, 3, NULL, NULL, NULL) == TASKRT_EINVAL);
	CHECK(taskrt_run(NULL, 2, NULL) == TASKRT_EINVAL);
	CHECK(taskrt_foreach(NULL, 2, 8, move_particle, NULL, NULL) ==
	      TASKRT_EINVAL);
	CHECK(taskrt_foreach(&t, 2, 0, move_particle, NULL, NULL) ==
	      TASKRT_EINVAL);
	CHECK(taskrt_foreach(&t, 2, SIZE_MAX, move_particle, NULL, NULL) ==
	      TASKRT_EINVAL);
	CHECK(taskrt_foreach(&t, 1, 8, NULL, NULL, NULL) == TASKRT_EINVAL);
	CHECK(taskrt_run(&t, 1, NULL) != 0);
	CHECK(strlen(taskrt_report()->message) > 0);
}

/* --- isolation and races --- */

static void
increment_shared(void *arg)
{
	int *p = arg;

	/* Reads the launch value whatever other tasks did; all write the same
	 * value, in different bytes. */
	p[1 + p[0]] = 0;
	p[0]++;
}

static void
two_writers_of_one_byte_are_a_race_and_change_nothing(void)
{
	int *p = dsm_calloc(100, sizeof(*p));
	struct taskrt_task t[2] = {{increment_shared, p},
	                           {increment_shared, p}};
	const struct taskrt_report *r;

	p[50] = 7;
	CHECK(taskrt_run(t, 2, NULL) == TASKRT_ERACE);
	r = taskrt_report();
	CHECK(r->n_races == 1);
	CHECK(r->races[0].task_a == 0 && r->races[0].task_b == 1);
	CHECK(r->races[0].addr == (void *)p);
	CHECK(r->races[0].len == 1);
	CHECK(strstr(r->races[0].message, ": 01 and 01") != NULL);
	CHECK(p[0] == 0 && p[50] == 7);
	dsm_free(p);
}

static void
set_byte(size_t i, void *ctx)
{
	((unsigned char *)ctx)[i] = (unsigned char)(i * 7 + 1);
}

static void
neighbouring_bytes_are_no_race(void)
{
	size_t n = 3 * PAGE;
	unsigned char *p = dsm_calloc(n, 1);
	struct taskrt_options one = {.chunk = 1};

	CHECK(taskrt_for(0, n, set_byte, p, &one) == 0);
	for (size_t i = 0; i < n; i++)
		CHECK(p[i] == (unsigned char)(i * 7 + 1));
	dsm_free(p);
}

static void
see_and_set(size_t i, void *ctx)
{
	int *p = ctx;

	p[i] = p[(i + 1) % 64] + 1;
}

static void
tasks_see_the_launch_state_only(void)
{
	int *p = dsm_calloc(64, sizeof(*p));
	struct taskrt_options one = {.chunk = 1};

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 64; i++)
			p[i] = i * 3 + round;
		CHECK(taskrt_for(0, 64, see_and_set, p, &one) == 0);
		for (int i = 0; i < 64; i++)
			CHECK(p[i] == ((i + 1) % 64) * 3 + round + 1);
	}
	dsm_free(p);
}

/* --- failures --- */

static int *canary;
static char *volatile nowhere = (char *)16;

static void
touch_canary(void)
{
	canary[0] = 99;
}

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

static void
null_pointer_is_one_failure(void)
{
	one_failure(null_body, TASKRT_CRASH, SIGSEGV, 0);
	if (why == NULL)
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
	      strstr(f->message, " (first_of, behaviour.c:"));
	CHECK(!has_lines || has_symbols ||
	      strncmp(f->backtrace, "first_of, behaviour.c:", 22) == 0);
	CHECK(!has_lines || has_symbols ||
	      strstr(f->backtrace, "\nlost_body, behaviour.c:"));
	CHECK(taskrt_for(1, 2, leak_body, a, &o) == TASKRT_ETASK);
	f = taskrt_report()->failures;
	CHECK(f->kind == TASKRT_FORBIDDEN);
	CHECK(strstr(f->message, "open"));
	CHECK(!has_lines || strstr(f->message, " (leak_body, behaviour.c:") ||
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
every_failed_task_is_reported(void)
{
	struct taskrt_options one = {.chunk = 1};
	const struct taskrt_report *r;
	unsigned char *p = dsm_calloc(40, 1);

	canary = dsm_calloc(4, sizeof(int));
	(void)one;
	/* Each body call with i == 3 fails; other iterations write the same
	 * canary: launch them apart. */
	CHECK(taskrt_for(3, 4, null_body, p, NULL) == TASKRT_ETASK);
	r = taskrt_report();
	CHECK(r->n_failures == 1 && r->failures[0].addr == (void *)16);
	dsm_free(p);
	dsm_free(canary);
}

static void
fail_some(void *arg)
{
	int *p = arg;

	if (*p % 10 == 0)
		abort();
	*p = -*p;
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
nested(void *arg)
{
	int *code = arg;

	*code = taskrt_for(0, 1, square, NULL, NULL);
}

static void
launch_inside_a_task_is_refused(void)
{
	int code = 0;
	struct taskrt_task t = {nested, &code};

	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(code == TASKRT_EINVAL);
}

/* --- what a task may call --- */

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

static void *keep_counting(void *arg);

static void
start_a_thread(size_t i, void *ctx)
{
	pthread_t th;

	(void)ctx;
	touch_canary();
	if (i == 3)
		canary[1] = pthread_create(&th, NULL, keep_counting, NULL);
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
allocate_and_free(size_t i, void *ctx)
{
	uint64_t *sums = ctx, sum = 0;
	void *p[64];

	for (size_t k = 0; k < 64; k++) {
		size_t len = 16 + (i * 37 + k * 101) % 5000;

		p[k] = k % 3 == 0 ? calloc(1, len) : malloc(len);
		memset(p[k], (int)k, len);
	}
	for (size_t k = 0; k < 64; k += 2)
		p[k] = realloc(p[k], 9000);
	for (size_t k = 0; k < 64; k++) {
		sum += ((unsigned char *)p[k])[8];
		free(p[k]);
	}
	sums[i] = sum;
}

static void
malloc_and_free_in_tasks_are_no_race(void)
{
	enum { N = 200 };
	uint64_t *sums = dsm_calloc(N, sizeof(*sums));
	struct taskrt_options one = {.chunk = 1};

	CHECK(taskrt_for(0, N, allocate_and_free, sums, &one) == 0);
	for (int i = 0; i < N; i++)
		CHECK(sums[i] == 64 * 63 / 2);
	dsm_free(sums);
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

struct node {
	struct node *next;
	size_t value;
};

static void
hang_in_a_list(size_t i, void *ctx)
{
	struct node **heads = ctx;

	for (size_t k = 0; k < 10; k++) {
		struct node *n = dsm_malloc(sizeof(*n));

		n->value = i * 10 + k;
		n->next = heads[i];
		heads[i] = n;
	}
}

static void
blocks_born_in_tasks_survive_the_commit(void)
{
	enum { N = 20 };
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): a table of pointers */
	struct node **heads = dsm_calloc(N, sizeof(*heads));
	struct taskrt_options one = {.chunk = 1};
	size_t seen = 0;

	CHECK(taskrt_for(0, N, hang_in_a_list, heads, &one) == 0);
	for (size_t i = 0; i < N; i++)
		for (struct node *n = heads[i]; n != NULL; n = n->next) {
			CHECK(n->value / 10 == i);
			seen++;
		}
	CHECK(seen == N * 10);
	dsm_free(heads);
}

static void
give_one_block(size_t i, void *ctx)
{
	int *p = malloc(i % 100 + sizeof(int));

	*p = (int)i;
	((int **)ctx)[i] = p;
}

static void
ten_thousand_blocks_come_back_from_as_many_tasks(void)
{
	enum { N = 10000 };
	/* NOLINTNEXTLINE(bugprone-sizeof-expression): a table of pointers */
	int **v = dsm_calloc(N, sizeof(*v));
	struct taskrt_options one = {.chunk = 1};
	int bad = 0;

	CHECK(v != NULL);
	for (int round = 0; round < 2; round++) {
		CHECK(taskrt_for(0, N, give_one_block, v, &one) == 0);
		for (int i = 0; i < N; i++) {
			bad += *v[i] != i;
			free(v[i]);
		}
	}
	CHECK(bad == 0);
	dsm_free(v);
}

static void
free_shared(void *arg)
{
	void **blocks = arg;

	free(blocks[0]);
	dsm_free(blocks[1]);
}

/* Each of them alone is right; the program must go on. */
static void
two_tasks_that_free_the_same_block_do_no_harm(void)
{
	void *blocks[2] = {malloc(5000), dsm_malloc(5000)};
	struct taskrt_task t[] = {{free_shared, blocks}, {free_shared, blocks}};
	struct dsm_stats before, after;

	CHECK(blocks[0] != NULL && blocks[1] != NULL);
	CHECK(dsm_stats(&before) == 0);
	CHECK(taskrt_run(t, 2, NULL) == 0);
	CHECK(dsm_stats(&after) == 0);
	CHECK(after.blocks == before.blocks - 1);
	CHECK(taskrt_run(t, 0, NULL) == 0);
}

static void
free_arg(void *arg)
{
	free(arg);
	__asm__ volatile(""); /* no tail call: who calls free matters */
}

/* In a static program it leaks: there all callers look like libc. */
static void
free_of_what_malloc_has_not_returned_is_the_tasks_failure(void)
{
	int want = getauxval(AT_BASE) != 0 ? TASKRT_ETASK : 0;
	char *block = calloc(1, 5000);
	char *mapped = calloc(1, 1 << 20);
	void *wild[] = {(void *)0x1234560, block + 1, block + 64,
	                mapped + 64,       &want,     free_arg};

	CHECK(block != NULL && mapped != NULL);
	for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
		struct taskrt_task t = {free_arg, wild[i]};

		CHECK(taskrt_run(&t, 1, NULL) == want);
	}
	struct taskrt_task good[] = {{free_arg, block}, {free_arg, mapped}};
	CHECK(taskrt_run(good, 2, NULL) == 0);
}

struct album {
	unsigned char *old[8], *new[8];
};

enum { PICTURE = 12 << 20 };

/* Looks at what an earlier task made, frees it, makes another one. */
static void
replace_picture(size_t i, void *ctx)
{
	struct album *a = ctx;
	unsigned char *p = malloc(PICTURE + i * PAGE);
	unsigned char was = 0;

	if (a->old[i] != NULL) {
		was = a->old[i][PICTURE / 2];
		free(a->old[i]);
	}
	p[0] = p[PICTURE / 2] = p[PICTURE - 1] = (unsigned char)(was + 1);
	a->new[i] = p;
}

/* 8 GB of addresses in all, a few MB of memory at a time. */
static void
tasks_may_return_blocks_for_ever(void)
{
	enum { ROUNDS = 90, N = 8 };
	struct album *a = dsm_calloc(1, sizeof(*a));
	struct taskrt_options one = {.chunk = 1};
	struct dsm_stats before, after;
	int bad = 0, age = 0;

	CHECK(dsm_stats(&before) == 0);
	for (int round = 0; round < ROUNDS; round++) {
		CHECK(taskrt_for(0, N, replace_picture, a, &one) == 0);
		age++;
		for (int k = 0; k < N; k++) {
			int i = (k * 5 + round) % N; /* in any order */

			bad += a->new[i][PICTURE - 1] != age;
			a->old[i] = a->new[i];
			if (round % 10 == 9) { /* the program frees them */
				free(a->old[i]);
				a->old[i] = NULL;
			}
		}
		age = a->old[0] == NULL ? 0 : age;
	}
	CHECK(bad == 0);
	CHECK(dsm_stats(&after) == 0);
	CHECK(after.blocks == before.blocks);
	CHECK(after.touched - before.touched < UINT64_C(2) << 30);
	dsm_free(a);
}

enum { N_NODES = 60000 };

struct big {
	size_t len;
	unsigned char *kept;
	size_t n_nodes;
};

static void
allocate_much(void *arg)
{
	struct big *b = arg;
	struct node *list = NULL;
	unsigned char *p = malloc(b->len);
	unsigned char *q = malloc(2 * b->len);

	if (p == NULL || q == NULL)
		return;
	p[0] = p[b->len - 1] = 1;
	q[0] = q[2 * b->len - 1] = p[0];
	free(p);
	b->kept = q;
	for (b->n_nodes = 0; b->n_nodes < N_NODES; b->n_nodes++) {
		struct node *n = malloc(600);

		if (n == NULL)
			return;
		n->next = list;
		list = n;
	}
	for (struct node *n; (n = list) != NULL;) {
		list = n->next;
		free(n);
	}
}

static void
a_task_may_allocate_gigabytes(void)
{
	struct big *b = dsm_calloc(2, sizeof(*b));
	struct taskrt_task t[2] = {{allocate_much, &b[0]},
	                           {allocate_much, &b[1]}};

	b[0].len = (size_t)1 << 30;
	b[1].len = (size_t)100 << 20;
	CHECK(taskrt_run(t, 2, NULL) == 0);
	for (int i = 0; i < 2; i++) {
		CHECK(b[i].kept != NULL && b[i].n_nodes == N_NODES);
		CHECK(b[i].kept[0] == 1 && b[i].kept[2 * b[i].len - 1] == 1);
		free(b[i].kept);
	}
	dsm_free(b);
}

/* --- sizes --- */

static void
read_scattered(size_t i, void *ctx)
{
	const unsigned char *p = ((unsigned char **)ctx)[0];
	uint64_t *sum = (uint64_t *)((void **)ctx)[1];
	uint64_t s = 0;

	(void)i;
	/* 200,000 single pages, no two adjacent, in an order no prefetcher
	 * likes. */
	for (uint64_t k = 0; k < 200000; k++)
		s += p[(k * 7919 % 200003) * 2 * PAGE];
	*sum = s;
}

static void
two_hundred_thousand_scattered_pages_can_be_read(void)
{
	size_t len = (size_t)200003 * 2 * PAGE;
	unsigned char *p = dsm_malloc(len);
	uint64_t *sum = dsm_calloc(1, sizeof(*sum)), want = 0;
	void *ctx[2] = {p, sum};

	CHECK(p != NULL);
	for (uint64_t k = 0; k < 200003; k += 10)
		p[k * 2 * PAGE] = 3;
	for (uint64_t k = 0; k < 200000; k++)
		want += p[(k * 7919 % 200003) * 2 * PAGE];
	CHECK(taskrt_for(0, 1, read_scattered, ctx, NULL) == 0);
	CHECK(*sum == want);
	dsm_free(p);
	dsm_free(sum);
}

static void
write_scattered(size_t i, void *ctx)
{
	unsigned char *p = ctx;

	(void)i;
	for (uint64_t k = 0; k < 100000; k++)
		p[(k * 7919 % 100003) * 2 * PAGE + 5] = (unsigned char)(k | 1);
}

static void
hundred_thousand_scattered_pages_can_be_written(void)
{
	unsigned char *p = dsm_malloc((size_t)100003 * 2 * PAGE);

	CHECK(p != NULL);
	CHECK(taskrt_for(0, 1, write_scattered, p, NULL) == 0);
	for (uint64_t k = 0; k < 100000; k++)
		CHECK(p[(k * 7919 % 100003) * 2 * PAGE + 5] ==
		      (unsigned char)(k | 1));
	dsm_free(p);
}

static void
poke_corners(size_t i, void *ctx)
{
	unsigned char *p = ctx;

	p[i * (1024u << 20)] = (unsigned char)(i + 1);
	p[i * (1024u << 20) + (1024u << 20) - 1] = (unsigned char)(i + 11);
}

enum { STRIPES = 40000 }; /* pages; what changed takes 20 MB to say */

static void
write_every_other_byte(void *arg)
{
	unsigned char *p = *(unsigned char **)arg;

	for (size_t i = 0; i < (size_t)STRIPES * PAGE; i += 2)
		p[i] = (unsigned char)(i >> 12 | 1);
}

static void
write_one_odd_byte(void *arg)
{
	(*(unsigned char **)arg)[17 * PAGE + 1] = 1;
}

static void
every_other_byte_of_much_scattered_memory_can_be_written(void)
{
	unsigned char *p = dsm_calloc(STRIPES, PAGE);
	struct taskrt_task t[] = {{write_every_other_byte, &p},
	                          {write_one_odd_byte, &p}};
	size_t bad = 0;

	CHECK(p != NULL);
	CHECK(taskrt_run(t, 2, NULL) == 0);
	for (size_t i = 0; i < (size_t)STRIPES * PAGE; i++)
		bad += p[i] != (i % 2 == 0 ? (unsigned char)(i >> 12 | 1)
		                           : i == 17 * PAGE + 1);
	CHECK(bad == 0);
	t[1].fn = write_every_other_byte;
	memset(p, 0, (size_t)STRIPES * PAGE);
	CHECK(taskrt_run(t, 2, NULL) == TASKRT_ERACE);
	dsm_free(p);
}

static void
four_gigabytes_mostly_untouched_cost_little(void)
{
	size_t len = (size_t)4 << 30;
	unsigned char *p = dsm_malloc(len);
	struct rusage ru;

	CHECK(p != NULL);
	CHECK(taskrt_for(0, 4, poke_corners, p, NULL) == 0);
	for (size_t i = 0; i < 4; i++)
		CHECK(p[i << 30] == i + 1 &&
		      p[(i << 30) + (1u << 30) - 1] == i + 11);
	CHECK(p[12345678] == 0);
	CHECK(getrusage(RUSAGE_SELF, &ru) == 0);
	dsm_free(p);
}

static void
nothing(size_t i, void *ctx)
{
	(void)i, (void)ctx;
}

static void
a_million_iterations(void)
{
	CHECK(taskrt_for(0, 1000000, nothing, NULL, NULL) == 0);
	CHECK(taskrt_report()->counters.tasks == 1000000);
}

static void
count_one(void *arg)
{
	(*(unsigned *)arg)++;
}

static void
a_hundred_thousand_tasks_in_one_bunch(void)
{
	size_t n = 100000;
	unsigned *v = dsm_calloc(n, sizeof(*v));
	struct taskrt_task *t = malloc(n * sizeof(*t));

	for (size_t i = 0; i < n; i++)
		t[i] = (struct taskrt_task){count_one, &v[i]};
	CHECK(taskrt_run(t, n, NULL) == 0);
	for (size_t i = 0; i < n; i++)
		CHECK(v[i] == 1);
	free(t);
	dsm_free(v);
}

/* --- from run to run --- */

static void
add_row(size_t row, void *ctx)
{
	const double *a = ((double **)ctx)[0];
	double *sums = ((double **)ctx)[1], s = 0;

	for (size_t k = 0; k < 512 * 16; k++)
		s += a[row * 512 * 16 + k];
	sums[row * 512] = s;
}

static void
clean_pages_are_not_fetched_again(void)
{
	enum { ROWS = 64 };
	double *a = dsm_malloc(ROWS * 16 * PAGE);
	double *sums = dsm_calloc(ROWS * 512, sizeof(*sums));
	double *ctx[2] = {a, sums};
	uint64_t first, later = 0;

	for (size_t i = 0; i < ROWS * 16 * 512; i++)
		a[i] = 1;
	CHECK(taskrt_for(0, ROWS, add_row, ctx, NULL) == 0);
	first = taskrt_report()->counters.pages_fetched;
	for (int round = 0; round < 10; round++) {
		a[5] = round; /* one page changes */
		CHECK(taskrt_for(0, ROWS, add_row, ctx, NULL) == 0);
		later += taskrt_report()->counters.pages_fetched;
		CHECK(sums[0] == 512 * 16 - 1 + round);
	}
	/* Embedded: the heap is shared, nothing of it is ever fetched. With
	 * workers a round may fetch the changed page and the sums written by
	 * others, not the ROWS * 16 clean ones. */
	CHECK(first < ROWS * 16 * 4 + 800);
	if (getenv("TASKRT_COORDINATOR") == NULL)
		CHECK(later < 200);
	else
		CHECK(later < 10 * (ROWS * 2 + 100));
	dsm_free(a);
	dsm_free(sums);
}

#define ADVISED_PAGES 600u

static void
read_pages(size_t i, void *ctx)
{
	const unsigned char *p = ((unsigned char **)ctx)[0];
	uint64_t *sum = (uint64_t *)((void **)ctx)[1];
	uint64_t s = 0;

	(void)i;
	for (size_t k = 0; k < ADVISED_PAGES; k++)
		s += p[k * PAGE];
	*sum = s;
}

/* Counters of one task that reads fresh pages with this advice. */
static struct taskrt_counters
read_with(int advice)
{
	unsigned char *p = dsm_aligned_alloc(PAGE, ADVISED_PAGES * PAGE);
	uint64_t *sum = dsm_calloc(1, sizeof(*sum));
	void *ctx[2] = {p, sum};
	struct taskrt_counters c = {0};

	/* Never 0: a page that stays as it was may be there already, brought
	 * by a window of an earlier task. */
	for (size_t k = 0; k < ADVISED_PAGES; k++)
		p[k * PAGE] = (unsigned char)(k % 255 + 1);
	if (dsm_advise(p, ADVISED_PAGES * PAGE, advice) == 0 &&
	    taskrt_for(0, 1, read_pages, ctx, NULL) == 0 &&
	    *sum == 2 * (255 * 128) + 90 * 91 / 2)
		c = taskrt_report()->counters;
	/* Memory is never freed: other advice must meet fresh addresses. */
	return c;
}

static void
advice_changes_how_pages_travel_and_no_result(void)
{
	int elsewhere = getenv("TASKRT_COORDINATOR") != NULL ||
	                (getenv("TASKRT_TRANSPORT") != NULL &&
	                 strcmp(getenv("TASKRT_TRANSPORT"), "tcp") == 0);
	struct taskrt_counters c;
	int local;

	/* Some pages may be there: they lie beside what other tasks used. The
	 * first run brings code and whatever else there is. */
	CHECK(read_with(DSM_NORMAL).tasks == 1);
	c = read_with(DSM_RANDOM);
	CHECK(c.tasks == 1);
	if (elsewhere)
		CHECK(c.faults_heap_read > ADVISED_PAGES * 9 / 10);
	c = read_with(DSM_SEQUENTIAL);
	CHECK(c.tasks == 1);
	if (elsewhere)
		CHECK(c.pages_fetched > ADVISED_PAGES * 9 / 10 &&
		      c.fetches < 20);
	c = read_with(DSM_WILLNEED);
	CHECK(c.tasks == 1);
	if (elsewhere)
		CHECK(c.pages_fetched < 50 &&
		      c.pages_updated > ADVISED_PAGES * 9 / 10);
	CHECK(dsm_advise(&local, 4, DSM_RANDOM) == DSM_EINVAL);
	CHECK(dsm_advise(NULL, 1, DSM_RANDOM) == DSM_EINVAL);
	void *p = dsm_malloc(10);
	CHECK(dsm_advise(p, 10, 4) == DSM_EINVAL);
	CHECK(dsm_advise(p, SIZE_MAX, DSM_RANDOM) == DSM_EINVAL);
	dsm_free(p);
}

/* Reads or writes at arg + 8, or hands it to a system call; notes that it lives. */
static void
peek(void *arg)
{
	int *p = arg;

	a_global = p[2];
}

static void
poke(void *arg)
{
	((int *)arg)[2] = 1;
}

static void
print_secret(void *arg)
{
	a_global = (int)write(STDOUT_FILENO, arg, 12) + 100;
}

static void
memory_that_the_program_keeps_is_out_of_reach(void)
{
	char *m = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct taskrt_task next_to[2] = {{poke, m}, {poke, m + 3 * PAGE}};
	void (*bad[2])(void *) = {peek, poke};

	CHECK(m != MAP_FAILED);
	memcpy(m + PAGE + 8, "the password", 13);
	CHECK(taskrt_private(m + PAGE, 2 * PAGE) == 0);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 2; i++) {
			struct taskrt_task t = {bad[i], m + PAGE};

			CHECK(taskrt_run(&t, 1, NULL) == TASKRT_ETASK);
			const struct taskrt_failure *f =
			    &taskrt_report()->failures[0];
			CHECK(f->kind == TASKRT_CRASH);
			CHECK(f->addr == m + PAGE + 8);
			CHECK(strstr(f->message, "taskrt_private") != NULL);
		}
		struct taskrt_task t = {print_secret, m + PAGE + 8};
		CHECK(taskrt_run(&t, 1, NULL) == 0);
		CHECK(a_global == 99); /* EFAULT */
		/* Pages beside it are shared as ever. */
		CHECK(taskrt_run(next_to, 2, NULL) == 0);
		CHECK(((int *)m)[2] == 1);
		((int *)m)[2] = ((int *)(m + 3 * PAGE))[2] = 0;
	}
	CHECK(strcmp(m + PAGE + 8, "the password") == 0);
	CHECK(taskrt_share(m + PAGE, 2 * PAGE) == 0);
	struct taskrt_task t = {peek, m + PAGE};
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(memcmp(&a_global, "the ", 4) == 0);
	void *heap = dsm_aligned_alloc(PAGE, PAGE);
	CHECK(taskrt_private(heap, PAGE) == TASKRT_EINVAL);
	CHECK(strstr(taskrt_report()->message, "dsm_malloc") != NULL);
	CHECK(taskrt_private(m + 1, PAGE) == TASKRT_EINVAL);
	CHECK(taskrt_private(m, 100) == TASKRT_EINVAL);
	CHECK(taskrt_private(NULL, PAGE) == TASKRT_EINVAL);
	dsm_free(heap);
	munmap(m, 4 * PAGE);
}

static void
copy_global(size_t i, void *ctx)
{
	((int *)ctx)[i] = a_global;
}

static void
changed_globals_and_locals_reach_the_next_run(void)
{
	int *out = dsm_calloc(8, sizeof(*out));

	for (int round = 0; round < 5; round++) {
		int local = round * 11;
		struct spots s = {&local, out, out};

		a_global = round;
		CHECK(taskrt_for(0, 8, copy_global, out, NULL) == 0);
		for (int i = 0; i < 8; i++)
			CHECK(out[i] == round);
		(void)s;
	}
	dsm_free(out);
}

static void
sum_list(size_t i, void *ctx)
{
	struct node *n = ((struct node **)ctx)[0];
	size_t *sums = (size_t *)((void **)ctx)[1];
	size_t s = 0;

	for (; n != NULL; n = n->next)
		s += n->value;
	sums[i] = s + i;
}

static void
memory_mapped_between_runs_is_found(void)
{
	size_t *sums = dsm_calloc(4, sizeof(*sums));

	for (int round = 0; round < 4; round++) {
		size_t len = 300 * PAGE;
		char *m = mmap(NULL, len, PROT_READ | PROT_WRITE,
		               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct node *head = NULL;
		void *ctx[2];

		CHECK(m != MAP_FAILED);
		for (size_t k = 0; k < 300; k++) {
			struct node *n = (struct node *)(m + k * PAGE);

			n->value = k + (size_t)round;
			n->next = head;
			head = n;
		}
		ctx[0] = head;
		ctx[1] = sums;
		CHECK(taskrt_for(0, 4, sum_list, ctx, NULL) == 0);
		for (size_t i = 0; i < 4; i++)
			CHECK(sums[i] ==
			      300 * 299 / 2 + 300 * (size_t)round + i);
		munmap(m, len);
	}
	dsm_free(sums);
}

struct grown {
	char *first,
	    *second; /* neighbours; second is mapped after the launch */
	int seen;
};

static void
use_what_came_later(void *arg)
{
	struct grown *g = arg;

	g->first[10] = 1;
	for (volatile int k = 0; k < 60000000; k++)
		;
	g->seen = (unsigned char)g->second[20];
	g->first[11] = 2;
}

static void
memory_mapped_in_mid_run_is_found_and_no_write_is_lost(void)
{
	size_t len = 16 * PAGE, spare = (size_t)64 << 20;
	struct grown g = {0};
	struct taskrt_task t = {use_what_came_later, &g};
	struct taskrt_run *run;

	/* Room behind it: what the launch maps comes from its upper end. */
	g.first = mmap(NULL, 2 * len + spare, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(g.first != MAP_FAILED);
	g.second = g.first + len;
	munmap(g.second, len + spare);
	g.first[0] = 1;
	CHECK(taskrt_start(&t, 1, NULL, &run) == 0);
	CHECK(mmap(g.second, len, PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
	           0) == g.second);
	g.second[20] = 77;
	CHECK(taskrt_wait(run) == 0);
	CHECK(g.seen == 77);
	CHECK(g.first[10] == 1 && g.first[11] == 2);
	munmap(g.first, 2 * len);
}

static char *late;

static void
touch_late(void *arg)
{
	*(int *)arg = (unsigned char)late[5];
}

static void
an_address_that_was_unmapped_may_be_mapped_in_the_next_run(void)
{
	int seen = 0;
	struct taskrt_options one = {.max_slots = 1};
	struct taskrt_task t = {touch_late, &seen};

	/* Where no mapping is put that does not ask for it. */
	late = (char *)UINT64_C(0x123400000000);
	CHECK(taskrt_run(&t, 1, &one) == TASKRT_ETASK);
	CHECK(mmap(late, PAGE, PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
	           0) == late);
	late[5] = 9;
	CHECK(taskrt_run(&t, 1, &one) == 0);
	CHECK(seen == 9);
	munmap(late, PAGE);
}

/* --- asynchronous runs and threads --- */

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
	struct taskrt_task t[3] = {
	    {nested, &outside[2]}, {set_outside, NULL}, {nested, &outside[1]}};
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
	size_t *forever = dsm_calloc(1, sizeof(*forever));
	struct taskrt_task t = {(void (*)(void *))slow_copy, NULL};
	struct taskrt_run *run;
	int *p = dsm_calloc(4096, sizeof(*p));
	struct taskrt_task many[20];

	p[0] = 5;
	for (int i = 0; i < 20; i++)
		many[i] = (struct taskrt_task){slow_copy, p};
	t = many[0];
	(void)t;
	CHECK(taskrt_start(many, 20, NULL, &run) == 0);
	CHECK(taskrt_cancel(run) == 0);
	CHECK(taskrt_wait(run) == TASKRT_ECANCELED);
	CHECK(p[1024] == 0);
	CHECK(taskrt_run(many, 1, NULL) == 0);
	CHECK(p[1024] == 5);
	dsm_free(p);
	dsm_free(forever);
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

/* --- mappings that change --- */

/* Inaccessible memory to be opened piece by piece, more of it on both sides; it
 * starts at a multiple of 2 MiB. */
static char *
lonely_memory(size_t reserve)
{
	const size_t align = (size_t)2 << 20;
	char *p = mmap(NULL, reserve + 2 * align, PROT_NONE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED
	           ? NULL
	           : (char *)(((uintptr_t)p + align) & ~(align - 1));
}

static void
add_one(void *arg)
{
	++*(char *)arg;
}

static void
a_mapping_that_has_grown_stays_writable(void)
{
	char *m = lonely_memory((size_t)2 << 20);
	const size_t step = 16 * PAGE;
	struct taskrt_task steady = {add_one, m + 4 * step};

	CHECK(m != NULL);
	/* The first steps may bring other new mappings, the next ones do not. */
	for (size_t len = step; len < 12 * step; len += step) {
		struct taskrt_task last = {add_one, m + len - PAGE};

		CHECK(mprotect(m, len, PROT_READ | PROT_WRITE) == 0);
		CHECK(taskrt_run(&last, 1, NULL) == 0);
		for (int round = 0; round < 6 && len > 4 * step; round++)
			CHECK(taskrt_run(&steady, 1, NULL) == 0);
		CHECK(m[len - PAGE] == 1);
	}
	CHECK(m[4 * step] == 7 * 6);
}

static void
memory_made_writable_between_runs_can_be_written(void)
{
	char *m = lonely_memory((size_t)2 << 20);
	struct taskrt_task t = {add_one, m + 5};
	struct taskrt_task u[2] = {{add_one, m + PAGE},
	                           {add_one, m + 9 * PAGE}};

	CHECK(m != NULL);
	CHECK(mprotect(m, 2 * PAGE, PROT_READ | PROT_WRITE) == 0);
	m[5] = 7;
	CHECK(taskrt_run(u, 1, NULL) == 0);
	CHECK(mprotect(m, PAGE, PROT_READ) == 0);
	CHECK(mprotect(m + 9 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(taskrt_run(u, 2, NULL) == 0); /* asks: the table is read again */
	CHECK(mprotect(m, PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(m[5] == 8 && m[PAGE] == 2);
}

#define FAR ((size_t)2 << 20)
#define N_FAR 4100 /* more than a slot watches one by one */
#define N_SINGLE 60

struct far_apart {
	char *heap, *mapped;
};

static void
write_far_apart(void *arg)
{
	struct far_apart *f = arg;

	for (size_t k = 0; k < N_FAR; k++) {
		f->heap[k * FAR] = 1;
		if (N_FAR - k <= N_SINGLE / 2) {
			f->mapped[(N_FAR - k) * 4 * PAGE] = 1;
			f->mapped[(N_FAR - k) * 4 * PAGE - 2 * PAGE] = 1;
		}
	}
}

static void
writes_may_lie_far_apart(void)
{
	struct far_apart f = {dsm_malloc(N_FAR * FAR),
	                      lonely_memory((size_t)2 << 20)};
	struct taskrt_task t = {write_far_apart, &f};

	CHECK(f.heap != NULL && f.mapped != NULL);
	for (size_t k = 1; k <= N_SINGLE; k++)
		CHECK(mprotect(f.mapped + k * 2 * PAGE, PAGE,
		               PROT_READ | PROT_WRITE) == 0);
	for (int round = 0; round < 2; round++) {
		CHECK(taskrt_run(&t, 1, NULL) == 0);
		for (size_t k = 0; k < N_FAR; k++)
			CHECK(f.heap[k * FAR] == 1);
		for (size_t k = 1; k <= N_SINGLE; k++)
			CHECK(f.mapped[k * 2 * PAGE] == 1);
		for (size_t k = 0; k < N_FAR; k++)
			f.heap[k * FAR] = 0;
		for (size_t k = 1; k <= N_SINGLE; k++)
			f.mapped[k * 2 * PAGE] = 0;
	}
	dsm_free(f.heap);
}

struct shrunk {
	char *kept, *late;
	int seen;
};

static void
write_wait_and_look(void *arg)
{
	struct shrunk *s = arg;
	const struct timespec pause = {0, 300000000};

	s->kept[10] = 1;
	s->kept[3 * PAGE] = 1;
	nanosleep(&pause, NULL);
	s->seen =
	    (unsigned char)s->late[20]; /* asks for the table of mappings */
	s->kept[11] = s->kept[10];
}

static void
writes_survive_when_their_mapping_shrinks_or_splits(void)
{
	const struct timespec pause = {0, 100000000};
	char *m = lonely_memory((size_t)2 << 20);
	struct shrunk s = {m, m + 64 * PAGE, 0};
	struct taskrt_task t = {write_wait_and_look, &s};
	struct taskrt_run *run;

	CHECK(m != NULL);
	CHECK(mprotect(m, 16 * PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(taskrt_start(&t, 1, NULL, &run) == 0);
	nanosleep(&pause, NULL);
	CHECK(mprotect(m + 8 * PAGE, 8 * PAGE, PROT_NONE) == 0);
	CHECK(mprotect(m + 2 * PAGE, PAGE, PROT_READ) == 0);
	CHECK(mprotect(s.late, PAGE, PROT_READ | PROT_WRITE) == 0);
	s.late[20] = 9;
	CHECK(taskrt_wait(run) == 0);
	CHECK(s.seen == 9);
	CHECK(m[10] == 1 && m[11] == 1 && m[3 * PAGE] == 1);
	t = (struct taskrt_task){add_one, m + PAGE};
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(m[PAGE] == 1 && m[10] == 1);
}

/* --- the list --- */

static const struct {
	const char *name;
	void (*fn)(void);
} cases[] = {
#define CASE(fn)        \
	{               \
#fn, fn \
	}
    CASE(loop_results_are_in_place),
    CASE(globals_stack_malloc_and_mmap_are_committed),
    CASE(for_range_covers_every_index_once),
    CASE(foreach_calls_the_body_with_every_element_once),
    CASE(empty_runs_are_fine),
    CASE(bad_arguments_are_refused),
    CASE(two_writers_of_one_byte_are_a_race_and_change_nothing),
    CASE(neighbouring_bytes_are_no_race),
    CASE(tasks_see_the_launch_state_only),
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
    CASE(libc_calls_work_in_tasks),
    CASE(calls_that_only_ask_work_in_tasks),
    CASE(a_thread_in_a_task_is_forbidden),
    CASE(text_of_tasks_comes_out_whole_and_once),
    CASE(functions_bound_at_their_first_call_are_no_race),
    CASE(malloc_and_free_in_tasks_are_no_race),
    CASE(blocks_born_in_tasks_survive_the_commit),
    CASE(ten_thousand_blocks_come_back_from_as_many_tasks),
    CASE(tasks_may_return_blocks_for_ever),
    CASE(two_tasks_that_free_the_same_block_do_no_harm),
    CASE(free_of_what_malloc_has_not_returned_is_the_tasks_failure),
    CASE(a_task_may_allocate_gigabytes),
    CASE(two_hundred_thousand_scattered_pages_can_be_read),
    CASE(hundred_thousand_scattered_pages_can_be_written),
    CASE(every_other_byte_of_much_scattered_memory_can_be_written),
    CASE(four_gigabytes_mostly_untouched_cost_little),
    CASE(a_million_iterations),
    CASE(a_hundred_thousand_tasks_in_one_bunch),
    CASE(clean_pages_are_not_fetched_again),
    CASE(memory_that_the_program_keeps_is_out_of_reach),
    CASE(advice_changes_how_pages_travel_and_no_result),
    CASE(changed_globals_and_locals_reach_the_next_run),
    CASE(memory_mapped_between_runs_is_found),
    CASE(memory_mapped_in_mid_run_is_found_and_no_write_is_lost),
    CASE(an_address_that_was_unmapped_may_be_mapped_in_the_next_run),
    CASE(an_asynchronous_run_sees_the_launch_state),
    CASE(a_byte_of_a_task_and_the_program_is_a_race),
    CASE(a_race_with_the_program_names_the_task),
    CASE(outside_the_heap_such_a_race_is_found_too),
    CASE(a_second_launch_commits_the_first),
    CASE(a_cancelled_run_changes_nothing),
    CASE(several_threads_may_launch),
    CASE(another_thread_loses_no_store_while_runs_launch),
    CASE(a_mapping_that_has_grown_stays_writable),
    CASE(memory_made_writable_between_runs_can_be_written),
    CASE(writes_may_lie_far_apart),
    CASE(writes_survive_when_their_mapping_shrinks_or_splits),
};

static int
wanted(const char *name, int argc, char **argv)
{
	int named = 0, any = 0;

	for (int i = 1; i < argc; i++) {
		int without = argv[i][0] == '-';
		int has = strstr(name, argv[i] + without) != NULL;

		if (without && has)
			return 0;
		any |= !without;
		named |= !without && has;
	}
	return named || !any;
}

int
main(int argc, char **argv)
{
	const char *label = getenv("LABEL");
	int failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (!wanted(cases[i].name, argc, argv))
			continue;
		why = NULL;
		alarm(120); /* nothing may hang */
		cases[i].fn();
		printf("  %s %s%s%s%s%s\n", why == NULL ? "ok" : "FAIL",
		       label != NULL ? label : "", label != NULL ? ": " : "",
		       cases[i].name, why == NULL ? "" : ": ",
		       why == NULL ? "" : why);
		failed += why != NULL;
	}
	return failed > 0;
}
