/*
 * A program with and without races, for check.sh. Prints a line per run: what it
 * returned and what the first race is; exit status 3.
 *
 *   check CASE…
 *     none     a loop without a race
 *     loop     iterations 40 and 41 write one byte: they share a chunk
 *     range    the same with taskrt_for_range, reading what a neighbour writes
 *     bunch    two tasks of a bunch
 *     crash    ends itself by a signal after a race
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#define N 64

static int table[N + 1];

static void
set_own(size_t i, void *ctx)
{
	((int *)ctx)[i] = (int)i + 1;
}

static void
set_neighbour(size_t i, void *ctx)
{
	int *p = ctx;

	p[i == 41 ? 40 : i] = (int)i + 1;
}

/* With isolated iterations all see the launch state. */
static void
add_up(size_t lo, size_t hi, void *ctx)
{
	int *p = ctx;

	for (size_t i = lo; i < hi; i++)
		p[i + 1] = p[i] + 1;
}

static void
set_one(void *arg)
{
	*(int *)arg = 7;
}

static void
show(const char *name, int code)
{
	const struct taskrt_report *r = taskrt_report();

	printf("%s: %d, %zu races", name, code, r->n_races);
	if (r->n_races > 0)
		printf(", tasks %zu and %zu", r->races[0].task_a,
		       r->races[0].task_b);
	printf("\n");
}

static int
run_case(const char *name)
{
	/* One chunk unless iterations are isolated. */
	struct taskrt_options whole = {.chunk = N, .name = name};
	struct taskrt_task two[2] = {{set_one, table}, {set_one, table}};

	memset(table, 0, sizeof(table));
	if (strcmp(name, "none") == 0)
		show(name, taskrt_for(0, N, set_own, table, &whole));
	else if (strcmp(name, "loop") == 0 || strcmp(name, "crash") == 0)
		show(name, taskrt_for(0, N, set_neighbour, table, &whole));
	else if (strcmp(name, "range") == 0)
		show(name, taskrt_for_range(0, N, add_up, table, &whole));
	else if (strcmp(name, "bunch") == 0)
		show(name, taskrt_run(two, 2, NULL));
	else
		return -1;
	if (strcmp(name, "range") == 0)
		printf("range: %d %d\n", table[1], table[N]);
	return 0;
}

int
main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (run_case(argv[i]) != 0)
			return 2;
	fflush(stdout);
	if (argc > 1 && strcmp(argv[argc - 1], "crash") == 0)
		raise(SIGKILL);
	return 3;
}
