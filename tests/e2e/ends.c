/*
 * Ends a run whose task spins, waits for a page, or was stopped, and says how long
 * it takes until the call is back and until the task's process is gone:
 *
 *   ends HOW KIND WORKER
 *     HOW     timeout, cancel, fail-fast
 *     KIND    spin, page, stop
 *     WORKER  process whose slots they are; 0: our own
 *
 *   running
 *   cancel spin: code -34 untouched, back after 3 ms, gone after 5 ms
 *
 * page: from "running" on somebody has a second to see to it that no page comes.
 * Times are counted from the moment that ends it.
 */
#include <ctype.h>
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#define PAGES 64u
#define PAGE_WORDS 512u
#define TOUCH_MS \
	1000u        /* after the launch: the task reads what it has not got */
#define END_MS 1400u /* after the launch: it ends */
#define GONE_MS 10000u
#define SLOTS_MAX 64u

static uint64_t *array, *result;
static char kind;
static uint64_t touch_at, crash_at;

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void
sleep_until(uint64_t at)
{
	const struct timespec ts = {(time_t)(at / 1000000000u),
	                            (long)(at % 1000000000u)};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static void
endless(void *arg)
{
	volatile uint64_t n = 0;

	(void)arg;
	*result = 1;
	if (kind == 'a') {
		while (now_ns() < touch_at)
			;
		n = array[(PAGES - 1) * PAGE_WORDS];
	}
	for (;;)
		n++;
}

static int *volatile nowhere;

/* All that it touches it has before pages are kept back. */
static void
crash(void *arg)
{
	int *p = nowhere;

	(void)arg;
	while (now_ns() < crash_at)
		;
	*p = 1;
}

static void
nothing(void *arg)
{
	(void)arg;
}

/* --- slots --- */

static long
parent_of(long pid, char name[32])
{
	char path[64], line[512], *end, *start;
	long parent = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
	f = fopen(path, "r");
	if (f == NULL)
		return -1;
	if (fgets(line, sizeof(line), f) != NULL &&
	    (start = strchr(line, '(')) != NULL &&
	    (end = strrchr(line, ')')) != NULL && end[2] != 'Z') {
		snprintf(name, 32, "%.*s", (int)(end - start - 1), start + 1);
		parent = strtol(end + 4, NULL, 10);
	}
	fclose(f);
	return parent;
}

/* Its slots: children of its child. */
static unsigned
find_slots(long worker, long pids[SLOTS_MAX])
{
	DIR *dir = opendir("/proc");
	struct dirent *d;
	char name[32];
	unsigned n = 0;

	while (dir != NULL && n < SLOTS_MAX && (d = readdir(dir)) != NULL) {
		long pid = strtol(d->d_name, NULL, 10);
		long parent = pid > 0 ? parent_of(pid, name) : -1;

		if (parent > 0 && strncmp(name, "taskrt-slot", 11) == 0 &&
		    parent_of(parent, name) == worker)
			pids[n++] = pid;
	}
	if (dir != NULL)
		closedir(dir);
	return n;
}

/* A slot that ran no task when it ended may stay: one of them is gone. */
static int
one_is_gone(const long *pids, unsigned n)
{
	char name[32];

	for (unsigned i = 0; i < n; i++)
		if (parent_of(pids[i], name) < 0)
			return 1;
	return 0;
}

static unsigned long long
ms_since(uint64_t at)
{
	uint64_t now = now_ns();

	return now > at ? (now - at) / 1000000u : 0;
}

static int
run(const char *how, const char *what, long worker)
{
	struct taskrt_task tasks[2] = {{endless, NULL}, {crash, NULL}};
	struct taskrt_options opt = {.name = "ends"};
	unsigned long long back_ms;
	struct taskrt_run *r;
	long pids[SLOTS_MAX];
	uint64_t begin, end;
	unsigned n;
	int code;

	kind = what[1]; /* p, a, t */
	opt.fail_fast = how[0] == 'f';
	opt.timeout_ms = how[0] == 't' ? END_MS : 0;
	begin = now_ns();
	end = begin + END_MS * 1000000ull;
	touch_at = begin + TOUCH_MS * 1000000ull;
	crash_at = end;
	code = taskrt_start(tasks, opt.fail_fast ? 2 : 1, &opt, &r);
	if (code != 0)
		return code;
	puts("running");
	sleep_until(begin + TOUCH_MS * 1000000ull);
	n = find_slots(worker, pids);
	for (unsigned i = 0; i < n && kind == 't'; i++)
		kill((pid_t)pids[i], SIGSTOP);
	/* A crash needs a slot that goes on: the one that was in its sleep
	 * does not matter. */
	if (how[0] == 'c') {
		sleep_until(end);
		taskrt_cancel(r);
	}
	code = taskrt_wait(r);
	back_ms = ms_since(end);
	while (!one_is_gone(pids, n) && ms_since(end) < GONE_MS)
		poll(NULL, 0, 1);
	printf("%s %s: code %d %s, back after %llu ms, gone after %llu ms\n",
	       how, what, code, *result == 0 ? "untouched" : "WRONG", back_ms,
	       ms_since(end));
	return 0;
}

int
main(int argc, char **argv)
{
	struct taskrt_task warm = {nothing, NULL};

	if (argc != 4)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	array = dsm_calloc(PAGES, PAGE_WORDS * sizeof(*array));
	result = dsm_calloc(1, sizeof(*result));
	long worker = strtol(argv[3], NULL, 10);
	if (array == NULL || result == NULL)
		return 1;
	if (taskrt_run(&warm, 1, NULL) != 0) {
		taskrt_report_print(stdout);
		return 1;
	}
	return run(argv[1], argv[2], worker != 0 ? worker : getpid());
}
