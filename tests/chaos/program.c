/*
 * program - runs whose results are known, in a cluster that is being broken.
 *
 *   program SEED ROUNDS
 *
 * Its memory (heap, globals, malloc) has a shadow that no task touches. A round is a
 * run of a kind drawn from the seed; what its tasks do to the memory is then done to
 * the shadow, one task after another. Whatever happens to the cluster, a run must
 * have done exactly that, or nothing, and say a right reason:
 *
 *   STENCIL    sums of neighbours, some runs in a row, each from the last one's result
 *   SPARSE     a few words here and there, in all kinds of memory
 *   DENSE      all of half a megabyte
 *   LIST       tasks allocate lists and free the program's blocks; the program frees
 *              the lists
 *   RACE       as SPARSE, and two tasks write the same word: never a success
 *   PARTIAL    keep_partial, and some tasks crash: what the report does not name is
 *              there, what it names is not
 *   FAIL_FAST  a task crashes: nothing is there
 *   CANCEL     cancelled in mid-run
 *   TIMEOUT    a task does not end
 *
 * After its rounds it says "waits", and when it gets a line (the cluster is whole
 * again) does some more runs, in which nothing but their kind's own outcome is right. Then nothing may be left: blocks, descriptors. Prints "round N" before each
 * round, "right: …" at the end, or "WRONG: …" and exits with 1.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#include "rng.h"

#define N_MAX 24u
#define GRID 8192u /* words */
#define FIELD (64u << 10)
#define SMALL 2048u
#define FOUGHT (SMALL - 1) /* of `data`: what racing tasks write */
#define TIMEOUT_MS 60
/* From the first launch on: the list of threads, libuv's signal pipe. */
#define KEPT_FILES 3

enum kind {
	STENCIL,
	SPARSE,
	DENSE,
	LIST,
	RACE,
	PARTIAL,
	FAIL_FAST,
	CANCEL,
	TIMEOUT,
	N_KINDS,
};

static const char *const kind_names[N_KINDS] = {
    "stencil", "sparse",    "dense",  "list",   "race",
    "partial", "fail_fast", "cancel", "timeout"};

struct memory {
	uint64_t *grid[2]; /* heap */
	uint64_t *field;   /* heap */
	uint64_t *data;    /* globals */
	uint64_t *block;   /* malloc */
};

struct node {
	struct node *next;
	uint64_t value;
};

/* What tasks read. */
static struct {
	enum kind kind;
	unsigned n;
	uint64_t seed; /* of the round */
	unsigned flip; /* which grid is read */
	unsigned culprits[2];
	unsigned crash_percent;
	unsigned pause_us;
} op;

static uint64_t data[SMALL];
static struct memory real, shadow;
static struct node *heads[N_MAX];
static void *gifts[N_MAX]; /* blocks for tasks to free */
static uint64_t seed;
static unsigned round_no;
static int whole; /* the cluster is: no failure but the program's own */

/* Runs by what came of them. */
static unsigned n_runs, n_committed, n_refused, n_planned;

static void __attribute__((noreturn, format(printf, 1, 2)))
wrong(const char *fmt, ...)
{
	const struct taskrt_report *r = taskrt_report();
	va_list ap;

	printf("WRONG: ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("; round %u (%s), seed %" PRIu64 ", code %d: %s\n", round_no,
	       kind_names[op.kind], seed, r->error, r->message);
	for (size_t i = 0; i < r->n_failures && i < 30; i++)
		printf("  task %zu: kind %d: %s\n", r->failures[i].task,
		       r->failures[i].kind, r->failures[i].message);
	exit(1);
}

/* --- tasks --- */

static uint64_t
word(uint64_t i, uint64_t k)
{
	return rng_mix(op.seed + i * 1000003 + k * 7919);
}

static int
crashes(unsigned i)
{
	return op.kind == PARTIAL && word(i, 77) % 100 < op.crash_percent;
}

static void
stencil(const struct memory *m, unsigned i)
{
	const uint64_t *from = m->grid[op.flip];
	uint64_t *to = m->grid[!op.flip];
	unsigned lo = GRID * i / op.n, hi = GRID * (i + 1) / op.n;

	for (unsigned x = lo; x < hi; x++)
		to[x] = (from[(x + GRID - 1) % GRID] + 3 * from[x] +
		         from[(x + 1) % GRID]) *
		            UINT64_C(0x9e3779b97f4a7c15) +
		        op.seed;
}

static void
sparse(const struct memory *m, unsigned i)
{
	for (unsigned k = 0; k < 30; k++) {
		uint64_t at = word(i, k) % (FIELD / op.n) * op.n + i;

		m->field[at] += word(i, k + 100) | 1;
	}
	for (unsigned k = 0; k < 10; k++) {
		uint64_t at = word(i, k + 200) % (FOUGHT / op.n) * op.n + i;

		m->data[at] ^= word(i, k + 300) | 1;
		m->block[at] -= word(i, k + 400) | 1;
	}
}

static void
dense(const struct memory *m, unsigned i)
{
	for (unsigned x = FIELD * i / op.n; x < FIELD * (i + 1) / op.n; x++)
		m->field[x] = m->field[x] * 5 + op.seed + i;
}

/* What task i does to the memory. */
static void
act(const struct memory *m, unsigned i)
{
	switch (op.kind) {
	case STENCIL:
		stencil(m, i);
		break;
	case DENSE:
		dense(m, i);
		break;
	case LIST:
		break;
	default:
		sparse(m, i);
	}
}

static uint64_t
list_value(unsigned i, unsigned k)
{
	return word(i, k + 500);
}

static unsigned
list_len(unsigned i)
{
	return (unsigned)(word(i, 600) % 50);
}

static void
make_list(unsigned i)
{
	for (unsigned k = 0; k < list_len(i); k++) {
		struct node *n = malloc(sizeof(*n) + k % 5 * 100);

		n->value = list_value(i, k);
		n->next = heads[i];
		heads[i] = n;
	}
	free(gifts[i]);
}

static void
rest(unsigned us)
{
	const struct timespec pause = {us / 1000000, us % 1000000 * 1000L};

	nanosleep(&pause, NULL);
}

static void
work(size_t at, void *ctx)
{
	unsigned i = (unsigned)at;
	int culprit = i == op.culprits[0];

	(void)ctx;
	rest((unsigned)(word(i, 9) % (op.pause_us + 1)));
	act(&real, i);
	if (op.kind == LIST)
		make_list(i);
	if (op.kind == RACE && (culprit || i == op.culprits[1]))
		data[FOUGHT] ^= UINT64_C(0x5555555555555555) << culprit;
	if (crashes(i) || (op.kind == FAIL_FAST && culprit))
		abort();
	while (op.kind == TIMEOUT && culprit)
		rest(1000);
}

static void
work_task(void *arg)
{
	work((size_t)(uintptr_t)arg, NULL);
}

/* --- memory and its shadow --- */

#define EACH_PART(X)     \
	X(grid[0], GRID) \
	X(grid[1], GRID) \
	X(field, FIELD)  \
	X(data, SMALL)   \
	X(block, SMALL)

static uint64_t *
words(size_t n, void *(*alloc)(size_t size))
{
	uint64_t *w = alloc(n * sizeof(*w));

	if (w == NULL) {
		fprintf(stderr, "out of memory\n");
		exit(2);
	}
	return w;
}

static void
make_memory(void)
{
	real =
	    (struct memory){{words(GRID, dsm_malloc), words(GRID, dsm_malloc)},
	                    words(FIELD, dsm_malloc),
	                    data,
	                    words(SMALL, malloc)};
	shadow = (struct memory){{words(GRID, malloc), words(GRID, malloc)},
	                         words(FIELD, malloc),
	                         words(SMALL, malloc),
	                         words(SMALL, malloc)};
#define X(part, n)                       \
	for (size_t i = 0; i < (n); i++) \
		shadow.part[i] = real.part[i] = rng_mix(seed + i);
	EACH_PART(X)
#undef X
}

static void
compare(const char *when)
{
#define X(part, n)                                              \
	for (size_t i = 0; i < (n); i++)                        \
		if (real.part[i] != shadow.part[i])             \
			wrong("%s: " #part "[%zu] is %#" PRIx64 \
			      ", must be %#" PRIx64,            \
			      when, i, real.part[i], shadow.part[i]);
	EACH_PART(X)
#undef X
}

/* --- what a run may come to --- */

static const struct taskrt_failure *
failure_of(unsigned i)
{
	const struct taskrt_report *r = taskrt_report();

	for (size_t k = 0; k < r->n_failures; k++)
		if (r->failures[k].task == i)
			return &r->failures[k];
	return NULL;
}

/* All failures are of tasks that were lost. */
static int
only_lost(void)
{
	const struct taskrt_report *r = taskrt_report();

	for (size_t k = 0; k < r->n_failures; k++)
		if (r->failures[k].kind != TASKRT_LOST)
			return 0;
	return r->n_failures > 0;
}

/* The cluster may be blamed. */
static int
broken(int err)
{
	return !whole && (err == TASKRT_ECONN || err == TASKRT_ETIMEDOUT ||
	                  (err == TASKRT_ETASK && only_lost()));
}

/* Task i failed as it must, or was lost. */
static int
failed_as(unsigned i, int kind)
{
	const struct taskrt_failure *f = failure_of(i);

	return f != NULL &&
	       (f->kind == kind || (!whole && f->kind == TASKRT_LOST));
}

static int
race_is_right(void)
{
	const struct taskrt_report *r = taskrt_report();
	unsigned a = op.culprits[0], b = op.culprits[1];

	return r->n_races == 1 && r->races[0].task_a == (a < b ? a : b) &&
	       r->races[0].task_b == (a < b ? b : a) &&
	       (char *)r->races[0].addr >= (char *)&data[FOUGHT] &&
	       (char *)r->races[0].addr < (char *)&data[SMALL];
}

/* Is the code, with its report, a right one? */
static int
is_right(int err)
{
	const struct taskrt_report *r = taskrt_report();
	int culprit = (int)op.culprits[0];

	if (r->error != err)
		return 0;
	if (err != TASKRT_OK && r->message[0] == '\0')
		return 0;
	if (broken(err))
		return 1;
	switch (op.kind) {
	case RACE:
		return err == TASKRT_ERACE && race_is_right();
	case PARTIAL:
		for (unsigned i = 0; i < op.n; i++)
			if (crashes(i))
				return err == TASKRT_ETASK;
		return err == TASKRT_OK;
	case FAIL_FAST:
		return err == TASKRT_ETASK &&
		       failed_as((unsigned)culprit, TASKRT_CRASH);
	case TIMEOUT:
		return err == TASKRT_ETASK &&
		       failed_as((unsigned)culprit, TASKRT_TIMEOUT);
	case CANCEL:
		return err == TASKRT_ECANCELED || err == TASKRT_OK;
	default:
		return err == TASKRT_OK;
	}
}

/* The shadow gets what the run must have done. */
static void
follow(int err)
{
	int partial = op.kind == PARTIAL && err != TASKRT_OK &&
	              taskrt_report()->n_failures > 0;

	if (err != TASKRT_OK && !partial)
		return;
	for (unsigned i = 0; i < op.n; i++) {
		const struct taskrt_failure *f = failure_of(i);

		if (!partial || f == NULL) {
			if (crashes(i))
				wrong("task %u crashed, but is not named", i);
			act(&shadow, i);
		} else if (!(crashes(i) && f->kind == TASKRT_CRASH) &&
		           (whole || f->kind == TASKRT_CRASH)) {
			wrong("task %u failed as kind %d", i, f->kind);
		}
	}
}

static void
check_lists(int err)
{
	for (unsigned i = 0; i < N_MAX; i++) {
		unsigned k = err == TASKRT_OK && i < op.n ? list_len(i) : 0;
		struct node *n = heads[i], *next;

		for (; k > 0; k--, n = next) {
			if (n == NULL || n->value != list_value(i, k - 1))
				wrong("list %u, node %u", i, k - 1);
			next = n->next;
			free(n);
		}
		if (n != NULL)
			wrong("list %u is too long", i);
		heads[i] = NULL;
		/* After a commit the task has freed it. */
		if (err != TASKRT_OK || i >= op.n)
			free(gifts[i]);
		gifts[i] = NULL;
	}
}

/* --- a round --- */

static int
launch(void)
{
	static const unsigned retries[] = {0, 0, 1, 10};
	const struct taskrt_options o = {
	    .chunk = word(0, 700) % 3 != 0 ? 1 : 0,
	    .timeout_ms = op.kind == TIMEOUT ? TIMEOUT_MS : 0,
	    .retries = whole ? 0 : retries[word(0, 701) % 4],
	    .keep_partial = op.kind == PARTIAL,
	    .fail_fast = op.kind == FAIL_FAST,
	    .name = kind_names[op.kind],
	};
	struct taskrt_task tasks[N_MAX];
	struct taskrt_run *run;
	int err;

	for (unsigned i = 0; i < op.n; i++)
		tasks[i] =
		    (struct taskrt_task){work_task, (void *)(uintptr_t)i};
	/* Chunks of a loop are one writer: these must be told apart. */
	if (op.kind <= LIST && word(0, 702) % 2 == 0)
		return taskrt_for(0, op.n, work, NULL, &o);
	if (op.kind != CANCEL)
		return taskrt_run(tasks, op.n, &o);
	err = taskrt_start(tasks, op.n, &o, &run);
	if (err != TASKRT_OK)
		return err;
	rest((unsigned)(word(0, 703) % 20000));
	taskrt_cancel(run);
	return taskrt_wait(run);
}

static void
one_run(enum kind kind, struct rng *r)
{
	int err;

	op.kind = kind;
	op.seed = rng_next(r);
	op.n = (unsigned)rng_range(r, 4, N_MAX);
	op.culprits[0] = (unsigned)rng_below(r, op.n);
	op.culprits[1] =
	    (op.culprits[0] + 1 + (unsigned)rng_below(r, op.n - 1)) % op.n;
	op.crash_percent = (unsigned)rng_below(r, 16);
	op.pause_us = rng_chance(r, 50) ? (unsigned)rng_below(r, 8000) : 0;
	for (unsigned i = 0; kind == LIST && i < op.n; i++)
		gifts[i] = malloc(1 + word(i, 800) % 3000);
	err = launch();
	n_runs++;
	n_committed += err == TASKRT_OK;
	n_refused += broken(err);
	n_planned += err != TASKRT_OK && !broken(err);
	if (!is_right(err))
		wrong("not a right end");
	follow(err);
	if (kind == LIST)
		check_lists(err);
	if (kind == STENCIL && err == TASKRT_OK)
		op.flip = !op.flip;
	compare(err == TASKRT_OK ? "committed" : "not committed");
	/* The program goes on writing. */
	for (unsigned k = 0; k < 20; k++) {
		uint64_t at = rng_below(r, FIELD);

		real.field[at] = shadow.field[at] = rng_next(r);
		real.data[at % FOUGHT] = shadow.data[at % FOUGHT] = at;
	}
}

static void
one_round(enum kind kind, struct rng *r)
{
	uint64_t n = kind == STENCIL ? rng_range(r, 1, 4) : 1;

	printf("round %u\n", ++round_no);
	for (; n > 0; n--)
		one_run(kind, r);
}

/* Reports of failures take the most time of all (debug information is read for
 * them): half as many of those as of others. */
static enum kind
draw_kind(struct rng *r)
{
	return (enum kind)rng_below(r, rng_chance(r, 50) ? RACE : N_KINDS);
}

/* --- what is left --- */

static int
count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	if (dir == NULL)
		return -1;
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

static uint64_t
count_blocks(void)
{
	struct dsm_stats s;

	dsm_stats(&s);
	return s.blocks;
}

int
main(int argc, char **argv)
{
	unsigned long rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 10;
	struct rng r;
	static char out[4096], in[64]; /* no block that comes late */
	char line[8];

	setvbuf(stdout, out, _IOLBF, sizeof(out));
	setvbuf(stdin, in, _IOFBF, sizeof(in));
	seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	r = rng_of(seed, 1);
	make_memory();
	int n_files = count_descriptors();
	uint64_t n_blocks = count_blocks();
	for (unsigned long i = 0; i < rounds; i++) {
		one_round(draw_kind(&r), &r);
		if (rng_chance(&r, 5))
			taskrt_fini();
	}
	printf("waits\n");
	if (fgets(line, sizeof(line), stdin) == NULL)
		return 3;
	whole = 1;
	for (unsigned k = 0; k < RACE; k++)
		one_round((enum kind)k, &r);
	one_round((enum kind)rng_range(&r, RACE, N_KINDS - 1), &r);
	one_round((enum kind)rng_range(&r, RACE, N_KINDS - 1), &r);
	taskrt_fini();
	if (count_descriptors() > n_files + KEPT_FILES)
		wrong("%d descriptors are open, %d were at the start",
		      count_descriptors(), n_files);
	if (count_blocks() != n_blocks)
		wrong("%" PRIu64 " blocks are alive, %" PRIu64
		      " were at the start",
		      count_blocks(), n_blocks);
	printf("right: %u runs, %u committed, %u refused, %u failed as "
	       "planned\n",
	       n_runs, n_committed, n_refused, n_planned);
	return 0;
}
