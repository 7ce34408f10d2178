/* Options, and running an example in one mode or in all. */
#include "example.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_OPTIONS 16

/* The options that every example has. */
struct settings {
	const char *mode;
	int stat;
};

static const char *const mode_names[EXAMPLE_N_MODES] = {"taskrt", "sequential",
                                                        "openmp"};

uint64_t
example_mix(uint64_t x)
{
	/* The finaliser of splitmix64. */
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* --- options --- */

static void
print_option(const struct example_option *o)
{
	char left[40];

	snprintf(left, sizeof(left), "--%s%s%s", o->name,
	         o->arg != NULL ? " " : "", o->arg != NULL ? o->arg : "");
	printf("  %-18s %s", left, o->help);
	if (o->number != NULL)
		printf(" (%" PRIu64 ")", *o->number);
	else if (o->text != NULL && *o->text != NULL)
		printf(" (%s)", *o->text);
	putchar('\n');
}

static void
print_help(const struct example *ex, const struct example_option *common)
{
	printf("usage: %s [OPTION]...\n%s\n\n", ex->name, ex->summary);
	for (const struct example_option *o = ex->options; o->name != NULL; o++)
		print_option(o);
	for (const struct example_option *o = common; o->name != NULL; o++)
		print_option(o);
	printf("  %-18s %s\n", "--help", "this text");
}

static int
set_option(const struct example *ex, const struct example_option *o,
           const char *value)
{
	if (o->flag != NULL) {
		*o->flag = 1;
	} else if (o->text != NULL) {
		*o->text = value;
	} else {
		char *end;

		errno = 0;
		unsigned long long n = strtoull(value, &end, 10);
		if (errno != 0 || value[0] < '0' || value[0] > '9' ||
		    *end != '\0' || n < o->min || n > o->max) {
			fprintf(stderr,
			        "%s: --%s: '%s' is not a number from %" PRIu64
			        " to %" PRIu64 "\n",
			        ex->name, o->name, value, o->min, o->max);
			return -1;
		}
		*o->number = n;
	}
	return 0;
}

/* 0 to go on, or the program's exit status + 1. */
static int
parse_options(const struct example *ex, int argc, char **argv,
              const struct example_option *common)
{
	const struct example_option *known[MAX_OPTIONS];
	struct option list[MAX_OPTIONS + 2] = {{0}};
	int n = 0, c, which;

	for (const struct example_option *o = ex->options; o->name != NULL; o++)
		known[n++] = o;
	for (const struct example_option *o = common; o->name != NULL; o++)
		known[n++] = o;
	for (int i = 0; i < n; i++) {
		list[i].name = known[i]->name;
		list[i].has_arg = known[i]->arg != NULL;
	}
	list[n].name = "help";

	while ((c = getopt_long(argc, argv, "", list, &which)) != -1) {
		if (c != 0) /* getopt has said what is wrong */
			return 2 + 1;
		if (which == n) {
			print_help(ex, common);
			return 0 + 1;
		}
		if (set_option(ex, known[which], optarg) != 0)
			return 2 + 1;
	}
	if (optind < argc) {
		fprintf(stderr, "%s: unexpected argument '%s'\n", ex->name,
		        argv[optind]);
		return 2 + 1;
	}
	return 0;
}

/* The mode called that; EXAMPLE_N_MODES for all of them, -1 for none. */
static int
find_mode(const char *name)
{
	for (int i = 0; i < EXAMPLE_N_MODES; i++) {
		if (strcmp(name, mode_names[i]) == 0)
			return i;
	}
	if (strcmp(name, "compare") == 0 || strcmp(name, "all") == 0)
		return EXAMPLE_N_MODES;
	return -1;
}

/* --- runs --- */

int
example_loop(enum example_mode mode, size_t begin, size_t end, size_t chunk,
             void (*body)(size_t i, void *ctx), void *ctx)
{
	if (mode == EXAMPLE_OPENMP) {
#pragma omp parallel for schedule(dynamic, chunk)
		for (size_t i = begin; i < end; i++)
			body(i, ctx);
	} else {
		for (size_t i = begin; i < end; i++)
			body(i, ctx);
	}
	return 0;
}

/* One run and its line of output. 0 when it went well and is right. */
static int
run_mode(const struct example *ex, enum example_mode mode, int stat,
         double *time_p)
{
	char text[200] = "";

	ex->reset();
	double start = seconds();
	int err = ex->run(mode);
	*time_p = seconds() - start;
	if (err != 0) {
		fprintf(stderr, "%s: %s\n", ex->name, taskrt_strerror(err));
		taskrt_report_print(stderr);
		return -1;
	}
	int wrong = ex->check(text, sizeof(text));
	printf("%-10s %8.3f s  %s: %s\n", mode_names[mode], *time_p,
	       wrong ? "WRONG" : "correct", text);
	if (stat && mode == EXAMPLE_TASKRT)
		example_print_costs(stdout, &taskrt_report()->counters);
	fflush(stdout);
	return wrong;
}

/* The order matters: OpenMP keeps its threads, which would disturb the others. */
static int
run_all(const struct example *ex, int stat)
{
	double time[EXAMPLE_N_MODES];
	int bad = 0;

	for (int i = 0; i < EXAMPLE_N_MODES; i++)
		bad |= run_mode(ex, (enum example_mode)i, stat, &time[i]) != 0;
	if (!bad)
		printf("speed-up over sequential: taskrt %.2f, openmp %.2f\n",
		       time[EXAMPLE_SEQUENTIAL] / time[EXAMPLE_TASKRT],
		       time[EXAMPLE_SEQUENTIAL] / time[EXAMPLE_OPENMP]);
	return bad;
}

int
example_main(const struct example *ex, int argc, char **argv)
{
	struct settings set = {.mode = "taskrt"};
	const struct example_option common[] = {
	    {"mode", "MODE", "taskrt, openmp, sequential, or compare: all",
	     .text = &set.mode},
	    {"stat", NULL, "show where the taskrt run's time went",
	     .flag = &set.stat},
	    {0},
	};
	double time;

	int done = parse_options(ex, argc, argv, common);
	if (done)
		return done - 1;
	int mode = find_mode(set.mode);
	if (mode < 0) {
		fprintf(stderr, "%s: --mode: '%s' is not a mode\n", ex->name,
		        set.mode);
		return 2;
	}
	if (ex->setup() != 0)
		return 1;
	int bad = mode == EXAMPLE_N_MODES
	              ? run_all(ex, set.stat)
	              : run_mode(ex, (enum example_mode)mode, set.stat, &time);
	if (ex->finish() != 0)
		bad = 1;
	return bad ? 1 : 0;
}
