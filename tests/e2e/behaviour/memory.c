/* What tasks allocate and free. */
#include "behaviour.h"

#include <sys/auxv.h>

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

const struct cases_one memory_cases[] = {
    CASE(malloc_and_free_in_tasks_are_no_race),
    CASE(blocks_born_in_tasks_survive_the_commit),
    CASE(ten_thousand_blocks_come_back_from_as_many_tasks),
    CASE(tasks_may_return_blocks_for_ever),
    CASE(two_tasks_that_free_the_same_block_do_no_harm),
    CASE(free_of_what_malloc_has_not_returned_is_the_tasks_failure),
    CASE(a_task_may_allocate_gigabytes),
    {0},
};
