/*
 * A program for the scripts that break clusters: it launches runs whose tasks take
 * their time, checks what became of its memory, and says so, a line for each run:
 *
 *   run 1: code 0 right, 60 tasks, 4 retried, 1613 ms: MESSAGE
 *
 * "right": every result is in place. "untouched": the run failed and all memory is
 * as it was. "WRONG": neither.
 *
 *   cluster STEP…
 *     for:N:MS     a loop of N tasks, each MS milliseconds long
 *     tasks:N:MS   the same as a bunch
 *     start:N:MS   the same with taskrt_start, and meanwhile the program changes
 *                  what the tasks read
 *     cancel:N:MS  the same, cancelled when SIGUSR1 comes: "cancelled in N ms"
 *     crash:N      a bunch of N tasks, the middle one crashes
 *     await:FILE   until FILE is there
 *     arrays       a loop that reads every page of the block "scanned" and writes a
 *                  word in every page of "stored", 512 pages each
 *     end          taskrt_fini
 *     fds          print the number of open descriptors: "fds N"
 * Exit status 1 after a WRONG or when FILE does not come.
 */
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#define N_MAX 4096u
#define PAGE_WORDS 512u
#define IN_PAGES 256u
#define READS 8u /* input pages a task looks at */
#define ARRAY_PAGES 512u
#define ARRAY_TASKS 8u
#define AWAIT_MS 60000
#define STEP_MS 20

static uint64_t in_data[N_MAX]; /* results in three kinds of memory */
static uint64_t *in_heap, *in_malloc;
static uint64_t *input;
static unsigned round_no;
static uint64_t ms_each;
static int wrong;
static volatile sig_atomic_t signalled;

static uint64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static uint64_t
mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x9e3779b97f4a7c15u;
	return x ^ x >> 29;
}

/* What task i of this round comes to. */
static uint64_t
result(size_t i)
{
	uint64_t sum = round_no;

	for (size_t k = 0; k < READS; k++)
		sum = mix(sum + input[(i * 7 + k) % IN_PAGES * PAGE_WORDS]);
	return sum + i;
}

static void
work(size_t i, void *ctx)
{
	const struct timespec pause = {(time_t)(ms_each / 1000),
	                               (long)(ms_each % 1000) * 1000000};

	(void)ctx;
	nanosleep(&pause, NULL);
	in_data[i] = result(i);
	in_heap[i * 64] = ~in_data[i];
	in_malloc[i] = in_data[i] * 3;
}

static void
work_task(void *arg)
{
	work((size_t)(uintptr_t)arg, NULL);
}

static void
crash_task(void *arg)
{
	work_task(arg);
	abort();
}

static int
has_results(size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t want = result(i);

		if (in_data[i] != want || in_heap[i * 64] != ~want ||
		    in_malloc[i] != want * 3)
			return 0;
	}
	return 1;
}

/* Results of no round. */
static void
clear(void)
{
	memset(in_data, 0x11, sizeof(in_data));
	memset(in_heap, 0x22, N_MAX * 64 * sizeof(*in_heap));
	memset(in_malloc, 0x33, N_MAX * sizeof(*in_malloc));
}

static int
is_filled(const void *p, size_t len, unsigned char with)
{
	const unsigned char *c = p;

	for (size_t i = 0; i < len; i++)
		if (c[i] != with)
			return 0;
	return 1;
}

static int
is_clear(void)
{
	return is_filled(in_data, sizeof(in_data), 0x11) &&
	       is_filled(in_heap, N_MAX * 64 * sizeof(*in_heap), 0x22) &&
	       is_filled(in_malloc, N_MAX * sizeof(*in_malloc), 0x33);
}

static void
on_signal(int number)
{
	(void)number;
	signalled = 1;
}

static void
invert_input(void)
{
	for (size_t i = 0; i < IN_PAGES * PAGE_WORDS; i++)
		input[i] = ~input[i];
}

/* The tasks must not see what the program does meanwhile. */
static int
start_and_wait(const struct taskrt_task *t, size_t n, int cancel,
               const struct taskrt_options *opt)
{
	struct taskrt_run *run;
	uint64_t begin, end = now_ms() + AWAIT_MS;
	int code = taskrt_start(t, n, opt, &run);

	if (code != 0)
		return code;
	invert_input();
	while (cancel && !signalled && now_ms() < end)
		poll(NULL, 0, STEP_MS);
	begin = now_ms();
	if (cancel)
		taskrt_cancel(run);
	code = taskrt_wait(run);
	if (cancel)
		printf("cancelled in %llu ms\n",
		       (unsigned long long)(now_ms() - begin));
	invert_input();
	return code;
}

static int
launch(const char *how, size_t n)
{
	const struct taskrt_options one = {.chunk = 1, .name = how};
	struct taskrt_task *t;
	int code;

	if (strcmp(how, "for") == 0)
		return taskrt_for(0, n, work, NULL, &one);
	t = calloc(n, sizeof(*t));
	if (t == NULL)
		return TASKRT_ENOMEM;
	for (size_t i = 0; i < n; i++)
		t[i] = (struct taskrt_task){work_task, (void *)(uintptr_t)i};
	if (strcmp(how, "crash") == 0)
		t[n / 2].fn = crash_task;
	if (strcmp(how, "start") == 0 || strcmp(how, "cancel") == 0)
		code = start_and_wait(t, n, how[0] == 'c', &one);
	else
		code = taskrt_run(t, n, &one);
	free(t);
	return code;
}

static void
step_run(const char *how, size_t n, uint64_t ms)
{
	const struct taskrt_report *r;
	const char *memory;
	uint64_t begin;
	int code;

	round_no++;
	ms_each = ms;
	input[round_no % IN_PAGES * PAGE_WORDS] ^= (uint64_t)getpid();
	clear();
	begin = now_ms();
	code = launch(how, n);
	begin = now_ms() - begin;
	r = taskrt_report();
	memory = code == 0 && has_results(n) ? "right"
	         : code != 0 && is_clear()   ? "untouched"
	                                     : "WRONG";
	wrong |= memory[0] == 'W';
	printf("run %u: code %d %s, %llu tasks, %llu retried, %llu ms: %s\n",
	       round_no, code, memory, (unsigned long long)r->counters.tasks,
	       (unsigned long long)r->counters.tasks_retried,
	       (unsigned long long)begin, r->message);
}

static const uint64_t *scanned;
static uint64_t *stored;

static void
scan_and_store(size_t i, void *ctx)
{
	size_t each = ARRAY_PAGES / ARRAY_TASKS;

	(void)ctx;
	for (size_t page = i * each; page < (i + 1) * each; page++)
		stored[page * PAGE_WORDS] = ~scanned[page * PAGE_WORDS];
}

static int
step_arrays(void)
{
	const struct taskrt_options one = {.chunk = 1, .name = "arrays"};
	size_t len = ARRAY_PAGES * PAGE_WORDS * sizeof(uint64_t);
	uint64_t *in = dsm_malloc(len);

	stored = dsm_calloc(1, len);
	if (in == NULL || stored == NULL)
		return 1;
	dsm_name(in, "scanned");
	dsm_name(stored, "stored");
	memset(in, 0x11, len);
	scanned = in;
	if (taskrt_for(0, ARRAY_TASKS, scan_and_store, NULL, &one) != 0)
		return 1;
	for (size_t page = 0; page < ARRAY_PAGES; page++)
		wrong |= stored[page * PAGE_WORDS] != ~scanned[0];
	return 0;
}

static int
step_await(const char *file)
{
	uint64_t end = now_ms() + AWAIT_MS;

	while (access(file, F_OK) != 0) {
		if (now_ms() >= end) {
			printf("%s does not come\n", file);
			return 1;
		}
		poll(NULL, 0, STEP_MS);
	}
	return 0;
}

static void
step_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = -3; /* ".", "..", the folder's own */

	if (dir == NULL)
		return;
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	printf("fds %d\n", n);
}

static int
step(const char *word)
{
	char how[8];
	unsigned long long n, ms = 0;

	if (strncmp(word, "await:", 6) == 0)
		return step_await(word + 6);
	if (strcmp(word, "arrays") == 0)
		return step_arrays();
	if (strcmp(word, "end") == 0) {
		taskrt_fini();
	} else if (strcmp(word, "fds") == 0) {
		step_fds();
	} else if (sscanf(word, "%7[a-z]:%llu:%llu", how, &n, &ms) >= 2 &&
	           n > 0 && n <= N_MAX) {
		step_run(how, (size_t)n, ms);
	} else {
		printf("what is \"%s\"?\n", word);
		return 1;
	}
	return 0;
}

int
main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGUSR1, on_signal);
	in_heap = dsm_malloc(N_MAX * 64 * sizeof(*in_heap));
	in_malloc = malloc(N_MAX * sizeof(*in_malloc));
	input = dsm_malloc(IN_PAGES * PAGE_WORDS * sizeof(*input));
	if (in_heap == NULL || in_malloc == NULL || input == NULL)
		return 1;
	for (size_t i = 0; i < IN_PAGES * PAGE_WORDS; i++)
		input[i] = mix(i ^ (uint64_t)getpid());
	for (int i = 1; i < argc; i++)
		if (step(argv[i]) != 0)
			return 1;
	return wrong;
}
