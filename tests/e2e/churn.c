/*
 * churn - a program that keeps changing its heap between runs, and during them.
 *
 *   churn [ROUNDS [SEED]]
 *
 * Blocks are allocated, filled densely or here and there, changed and freed. In
 * each round a task a block looks at all of it and changes some of it; what the
 * tasks saw must be what the program had at the launch, and what they wrote must be
 * there. Some rounds fail or are cancelled (then nothing may have changed), in some
 * the program writes while the run is on (tasks must not see that), in some a forked
 * child looks, after the run, at what it had before. Prints "right", or what was
 * wrong, and the seed.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#define N 24u
#define PAGE 4096u
#define WORDS (PAGE / 8)
#define PAGES_MAX 6144u /* of all blocks */

/* Of each page: TASK_WORD is the tasks', every STEPth the program's. */
#define TASK_WORD 1u
#define STEP 61u

struct block {
	uint64_t *words;
	size_t n_pages;
	uint64_t seen; /* by its task */
};

enum how { PLAIN, ASYNC, FAILING, CANCELLED, N_HOW };

static struct block *blocks;   /* N of them, in the heap */
static struct block mirror[N]; /* what must be in them */
static uint64_t sums[N];       /* of the mirror, at the launch */
static size_t n_pages;
static uint64_t round_no, seed, state;
static enum how how;

static uint64_t
mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static uint64_t
draw(uint64_t n)
{
	state += UINT64_C(0x9e3779b97f4a7c15);
	return mix(state) % n;
}

static void __attribute__((noreturn)) wrong(const char *what, size_t i)
{
	printf("WRONG: %s: block %zu of %zu pages, round %" PRIu64
	       " of kind %d, seed %" PRIu64 " (report: %s)\n",
	       what, i, blocks[i].n_pages, round_no, (int)how, seed,
	       taskrt_report()->message);
	exit(1);
}

static uint64_t
look(const struct block *b)
{
	uint64_t sum = b->n_pages;

	for (size_t p = 0; p < b->n_pages; p++) {
		const uint64_t *page = b->words + p * WORDS;

		sum = mix(sum + page[TASK_WORD]);
		for (size_t w = 0; w < WORDS; w += STEP)
			sum = mix(sum + page[w]);
	}
	return sum;
}

/* What the task of block i does to it. */
static void
change(struct block *b, uint64_t i)
{
	uint64_t at = round_no * N + i + 1;

	for (int k = 0; k < 40 && b->n_pages > 0; k++) {
		at = mix(at + 1);
		b->words[at % b->n_pages * WORDS + TASK_WORD] += at;
	}
}

static void
work(void *arg)
{
	size_t i = (size_t)(uintptr_t)arg;
	struct block *b = &blocks[i];

	b->seen = look(b);
	change(b, i);
	if (how == FAILING && i == N / 2)
		raise(SIGSEGV);
}

/* --- what the program does --- */

static void
put(size_t i, size_t at, uint64_t value)
{
	blocks[i].words[at] = value;
	mirror[i].words[at] = value;
}

static void
renew(size_t i)
{
	size_t n = 1 + draw(draw(3) == 0 ? 1500 : 100);
	size_t gap = draw(3) == 0 ? 1 + draw(60) : 1;

	n_pages -= blocks[i].n_pages;
	dsm_free(blocks[i].words);
	free(mirror[i].words);
	blocks[i] = mirror[i] = (struct block){0};
	if (n_pages + n > PAGES_MAX)
		return;
	blocks[i].words = dsm_calloc(n, PAGE);
	mirror[i].words = calloc(n, PAGE);
	if (blocks[i].words == NULL || mirror[i].words == NULL)
		exit(2);
	blocks[i].n_pages = mirror[i].n_pages = n;
	n_pages += n;
	for (size_t p = 0; p < n; p += gap)
		for (size_t w = 0; w < WORDS; w += STEP)
			put(i, p * WORDS + w, draw(UINT64_MAX));
}

static void
scribble(unsigned n)
{
	for (; n > 0; n--) {
		size_t i = draw(N);

		if (blocks[i].n_pages > 0)
			put(i, draw(blocks[i].n_pages) * WORDS,
			    draw(UINT64_MAX));
	}
}

/* Looks when `fd` ends. */
static pid_t
start_child(int *fd_p)
{
	int fds[2];
	char c;

	if (pipe(fds) != 0)
		exit(2);
	fflush(stdout);
	pid_t pid = fork();
	if (pid < 0)
		exit(2);
	if (pid > 0) {
		close(fds[0]);
		*fd_p = fds[1];
		return pid;
	}
	close(fds[1]);
	if (read(fds[0], &c, 1) != 0)
		_exit(2);
	for (size_t i = 0; i < N; i++)
		if (look(&blocks[i]) != sums[i])
			_exit(1);
	_exit(0);
}

static void
end_child(pid_t pid, int fd)
{
	int status;

	close(fd);
	if (waitpid(pid, &status, 0) != pid || status != 0)
		wrong("a forked child has other memory", 0);
}

/* --- a round --- */

static int
run(void)
{
	static struct taskrt_task tasks[N];
	struct taskrt_run *r;
	int err;

	for (size_t i = 0; i < N; i++)
		tasks[i] = (struct taskrt_task){work, (void *)(uintptr_t)i};
	if (how == PLAIN || how == FAILING)
		return taskrt_run(tasks, N, NULL);
	err = taskrt_start(tasks, N, NULL, &r);
	if (err != TASKRT_OK)
		return err;
	scribble(200);
	if (how == CANCELLED)
		taskrt_cancel(r);
	return taskrt_wait(r);
}

static void
check(int err)
{
	if (err != TASKRT_OK && !(err == TASKRT_ETASK && how == FAILING) &&
	    !(err == TASKRT_ECANCELED && how == CANCELLED))
		wrong("the run's code", 0);
	if (err == TASKRT_OK && how == FAILING)
		wrong("a run with a crash has succeeded", N / 2);
	for (size_t i = 0; i < N; i++) {
		if (err == TASKRT_OK) {
			if (blocks[i].seen != sums[i])
				wrong("a task saw other memory", i);
			change(&mirror[i], i);
		}
		if (look(&blocks[i]) != look(&mirror[i]))
			wrong("the program's memory", i);
	}
}

static void
one_round(void)
{
	pid_t child = 0;
	int fd = -1;

	for (unsigned k = (unsigned)draw(6); k > 0; k--)
		renew(draw(N));
	scribble(100);
	how = draw(3) == 0 ? (enum how)draw(N_HOW) : PLAIN;
	for (size_t i = 0; i < N; i++)
		sums[i] = look(&mirror[i]);
	if (draw(8) == 0)
		child = start_child(&fd);
	check(run());
	if (child != 0)
		end_child(child, fd);
}

int
main(int argc, char **argv)
{
	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 50;

	seed = argc > 2 ? strtoul(argv[2], NULL, 10) : (unsigned)getpid();
	state = seed;
	blocks = dsm_calloc(N, sizeof(*blocks));
	if (blocks == NULL)
		return 2;
	for (size_t i = 0; i < N; i++)
		renew(i);
	for (round_no = 1; round_no <= rounds; round_no++)
		one_round();
	printf("right, %lu rounds, seed %" PRIu64 "\n", rounds, seed);
	return 0;
}
