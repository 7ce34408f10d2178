/*
 * The frame: runs each benchmark in a child process and prints its result as
 * one JSON object a line. One that fails or hangs says so on stderr, makes the
 * exit status 1, and does not stop the others.
 */
#include "bench.h"

#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include <taskrt/taskrt.h>

#define TIME_LIMIT_MS 180000

static const struct benchmark {
	const char *name, *question;
	void (*run)(struct bench_result *r);
} benchmarks[] = {
#define X(name, question) {#name, question, bench_##name},
    BENCHMARKS(X)
#undef X
};
#define N_BENCHMARKS (sizeof(benchmarks) / sizeof(*benchmarks))

static const char *current = "bench"; /* benchmark of this process */
static int verbose;

static void
say(const char *fmt, va_list ap)
{
	char text[1024];

	vsnprintf(text, sizeof(text), fmt, ap);
	fprintf(stderr, "bench %s: %s\n", current, text);
}

void
bench_die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	bench_cluster_stop();
	/* Not exit: what is half done may not be torn down in order. */
	_exit(1);
}

void
bench_skip(const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "bench %s: skipped: %s\n", current, text);
	bench_cluster_stop();
	_exit(0);
}

void
bench_note(const char *fmt, ...)
{
	va_list ap;

	if (!verbose)
		return;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

void
bench_ok(int err, const char *what)
{
	if (err == TASKRT_OK)
		return;
	taskrt_report_print(stderr);
	bench_die("%s: %s", what, taskrt_strerror(err));
}

void
bench_note_costs(const char *what)
{
	const struct taskrt_counters *c = &taskrt_report()->counters;
	static const struct {
		const char *name, *unit;
		size_t off;
	} rows[] = {
#define DSM_COUNTER(name, unit, help) \
	{#name, unit, offsetof(struct taskrt_counters, name)},
#include <dsm/stats.def>
#undef DSM_COUNTER
	};
	char line[1024];
	size_t len = 0;

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		uint64_t v;

		memcpy(&v, (const char *)c + rows[i].off, sizeof(v));
		if (v == 0 || len >= sizeof(line))
			continue;
		if (strcmp(rows[i].unit, "ns") == 0)
			len += (size_t)snprintf(line + len, sizeof(line) - len,
			                        " %.*s %.1f us,",
			                        (int)strlen(rows[i].name) - 3,
			                        rows[i].name, (double)v / 1e3);
		else
			len += (size_t)snprintf(line + len, sizeof(line) - len,
			                        " %s %llu,", rows[i].name,
			                        (unsigned long long)v);
	}
	bench_note("%s:%s", what, len > 0 ? line : " no counters");
}

static int
compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double
bench_median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare_doubles);
	return n % 2 != 0 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

unsigned
bench_cores(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return 1;
	return (unsigned)CPU_COUNT(&set);
}

void
bench_pause_ms(unsigned ms)
{
	const struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000};

	nanosleep(&ts, NULL);
}

uint64_t
bench_mix(uint64_t x)
{
	/* The finisher of splitmix64. */
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

double
bench_ns_per_tick(void)
{
	static double ns;

	if (ns == 0) {
		uint64_t t0 = dsm__now(), c0 = bench_ticks();

		bench_pause_ms(50);
		uint64_t t1 = dsm__now(), c1 = bench_ticks();
		ns = (double)(t1 - t0) / (double)(c1 - c0);
	}
	return ns;
}

/* --- running them --- */

/* Values of those that have run in this call of the program; shared with the
 * processes that run them. */
static double *values;

/* What encryption costs: against the same without, when that has run, too. */
static void
compare_to_tcp(const struct benchmark *b)
{
	const size_t n = strlen(b->name);
	char plain[64];

	if (n < 4 || strcmp(b->name + n - 4, "_tls") != 0)
		return;
	snprintf(plain, sizeof(plain), "%.*s_tcp", (int)n - 4, b->name);
	for (size_t i = 0; i < N_BENCHMARKS; i++)
		if (strcmp(benchmarks[i].name, plain) == 0 && values[i] > 0)
			fprintf(stderr, "bench %s: %.2f times %s\n", b->name,
			        values[b - benchmarks] / values[i], plain);
}

static void
run_here(const struct benchmark *b, pid_t parent)
{
	struct bench_result r = {0};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	current = b->name;
	b->run(&r);
	double ratio = r.value / r.floor;
	if (!isfinite(ratio) || !(r.value > 0))
		bench_die("no result: value %g, floor %g", r.value, r.floor);
	printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", "
	       "\"floor\": %.6g, \"ratio\": %.4g}\n",
	       b->name, r.value, r.unit, r.floor, ratio);
	fflush(stdout);
	values[b - benchmarks] = r.value;
	compare_to_tcp(b);
	taskrt_fini();
	bench_cluster_stop();
	_exit(0);
}

/*
 * Floors are medians of two pinned processes and hardly notice other work on
 * the machine; what is measured needs more processes and does. So say it.
 */
static void
warn_if_busy(const struct benchmark *b)
{
	double others[11];
	int n = sizeof(others) / sizeof(*others);

	for (int i = 0; i < n; i++) {
		FILE *f = fopen("/proc/loadavg", "re");
		int running = 1; /* us */

		if (f == NULL)
			return;
		if (fscanf(f, "%*f %*f %*f %d/", &running) != 1)
			running = 1;
		fclose(f);
		others[i] = running - 1;
		bench_pause_ms(10);
	}
	double median = bench_median(others, (size_t)n);
	if (median >= 1)
		fprintf(stderr,
		        "bench %s: %.0f other threads want to run on this "
		        "machine: do not trust the ratio\n",
		        b->name, median);
}

static int
run_benchmark(const struct benchmark *b)
{
	warn_if_busy(b);
	pid_t parent = getpid(), pid = fork();
	int status;

	if (pid == 0)
		run_here(b, parent);
	if (pid < 0) {
		perror("bench: fork");
		return -1;
	}
	struct pollfd p = {(int)syscall(SYS_pidfd_open, pid, 0), POLLIN, 0};
	if (p.fd >= 0 && poll(&p, 1, TIME_LIMIT_MS) == 0) {
		fprintf(stderr, "bench %s: no end after %d s\n", b->name,
		        TIME_LIMIT_MS / 1000);
		kill(pid, SIGKILL);
	}
	close(p.fd);
	if (waitpid(pid, &status, 0) != pid)
		return -1;
	if (WIFSIGNALED(status))
		fprintf(stderr, "bench %s: ended by signal %d (%s)\n", b->name,
		        WTERMSIG(status), strsignal(WTERMSIG(status)));
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static const struct benchmark *
find(const char *name)
{
	for (size_t i = 0; i < N_BENCHMARKS; i++) {
		if (strcmp(benchmarks[i].name, name) == 0)
			return &benchmarks[i];
	}
	return NULL;
}

/* What is measured must not depend on the caller's settings. */
static void
clean_environment(void)
{
	static const char *const names[] = {
	    "TASKRT_COORDINATOR", "TASKRT_TOKEN_FILE", "TASKRT_SLOTS",
	    "TASKRT_TRANSPORT",   "TASKRT_CHECK",      "TASKRT_STAT",
	    "OMP_NUM_THREADS",    "OMP_WAIT_POLICY",   "GOMP_SPINCOUNT",
	    "OMP_SCHEDULE",       "OMP_PROC_BIND",     "GOMP_CPU_AFFINITY",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		unsetenv(names[i]);
	setenv("TASKRT_LOG", "error", 0);
}

static void
usage(FILE *f)
{
	fprintf(f, "usage: bench [-v] [NAME...]\n"
	           "Prints one JSON object a line: name, value, unit, floor "
	           "(what the machine\ncan do, measured in the same run), "
	           "ratio = value / floor.\n"
	           "-v: remarks on stderr. All, or those named:\n");
	for (size_t i = 0; i < N_BENCHMARKS; i++)
		fprintf(f, "  %-18s %s\n", benchmarks[i].name,
		        benchmarks[i].question);
}

int
main(int argc, char **argv)
{
	int failed = 0, opt;

	while ((opt = getopt(argc, argv, "vh")) != -1) {
		if (opt == 'v') {
			verbose = 1;
			continue;
		}
		usage(opt == 'h' ? stdout : stderr);
		return opt == 'h' ? 0 : 2;
	}
	for (int i = optind; i < argc; i++) {
		if (find(argv[i]) == NULL) {
			fprintf(stderr, "bench: no benchmark \"%s\"\n",
			        argv[i]);
			usage(stderr);
			return 2;
		}
	}
	clean_environment();
	values =
	    mmap(NULL, sizeof(*values) * N_BENCHMARKS, PROT_READ | PROT_WRITE,
	         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (values == MAP_FAILED) {
		perror("bench: mmap");
		return 1;
	}
	for (int i = optind; i < argc; i++)
		failed |= run_benchmark(find(argv[i]));
	for (size_t i = 0; optind == argc && i < N_BENCHMARKS; i++)
		failed |= run_benchmark(&benchmarks[i]);
	return failed != 0;
}
