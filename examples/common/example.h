/*
 * What the example programs share: options, timing, the comparison of modes, the
 * cost breakdown. The examples themselves are about the library; this is not.
 */
#ifndef EXAMPLES_COMMON_EXAMPLE_H
#define EXAMPLES_COMMON_EXAMPLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <taskrt/taskrt.h>

/* How the same work is done. */
enum example_mode {
	EXAMPLE_TASKRT,     /* tasks: here or on the cluster */
	EXAMPLE_SEQUENTIAL, /* one thread */
	EXAMPLE_OPENMP,     /* threads */
	EXAMPLE_N_MODES,
};

/* --NAME ARG. Exactly one of number, text and flag says where its value goes;
 * what is there before is the default, which --help shows. */
struct example_option {
	const char *name; /* NULL ends a list */
	const char *arg;  /* as --help calls it; NULL for a flag */
	const char *help; /* one line */
	uint64_t *number; /* decimal, min to max */
	uint64_t min, max;
	const char **text;
	int *flag; /* set to 1 */
};

struct example {
	const char *name;
	const char *summary; /* one line for --help */
	const struct example_option *options;

	/* Once, after the options: makes the input. 0, or -1 when it said why not. */
	int (*setup)(void);
	/* Before each run: forgets the results. */
	void (*reset)(void);
	/* The work; this is timed. 0 or the code of the taskrt call. */
	int (*run)(enum example_mode mode);
	/* After each run: describes the results in text; 0 when they are right. */
	int (*check)(char *text, size_t size);
	/* Once, at the end: output files, frees. 0 or -1, as setup. */
	int (*finish)(void);
};

/*
 * A program's main: parses the options (the example's, --mode, --stat, --help), runs
 * the wanted mode or all of them, prints a line for each.
 *
 * Returns     the exit status: 0; 1 when a run failed or a result was wrong; 2
 *             after one line on stderr about the options
 */
int example_main(const struct example *ex, int argc, char **argv);

/* The loop of the modes without tasks, as taskrt_for does it with them; OpenMP hands
 * out `chunk` iterations at a time. Returns 0. */
int example_loop(enum example_mode mode, size_t begin, size_t end, size_t chunk,
                 void (*body)(size_t i, void *ctx), void *ctx);

/* Where a run's time went: execution, page transfer, dispatch, the rest. */
void example_print_costs(FILE *f, const struct taskrt_counters *c);

/* A one-to-one scrambling of the numbers: the same "random" input everywhere.
 * Fit for tasks: depends on nothing but its argument. */
uint64_t example_mix(uint64_t x);

#endif
