/*
 * commit_dense, commit_sparse: launch to commit, over TCP, of a task that
 * writes pages its worker has: every byte of 64 MiB, or one word in each of
 * 10,000 pages. Floor: the same stores into a private mapping, one
 * copy-on-write a page, then the changed bytes streamed over TCP, then copied
 * once.
 */
#include "bench.h"

#include <stdlib.h>

#include "../dsm/base/page.h"
#include <taskrt/taskrt.h>

#define WORDS_A_PAGE (DSM_PAGE / sizeof(uint64_t))
#define DENSE_BYTES (UINT64_C(64) << 20)
#define SPARSE_PAGES UINT64_C(10000)
#define TOP_BITS UINT64_C(0x8080808080808080)
#define ROUNDS 5

/* Differs from the value of the round before in every byte, and does not
 * compress. */
static uint64_t
dense_word(uint64_t i, uint64_t round)
{
	return (bench_mix(i) & ~TOP_BITS) | (round % 2 != 0 ? TOP_BITS : 0);
}

static void
store_dense(uint64_t *base, uint64_t round)
{
	for (uint64_t i = 0; i < DENSE_BYTES / sizeof(*base); i++)
		base[i] = dense_word(i, round);
}

static void
store_sparse(uint64_t *base, uint64_t round)
{
	for (uint64_t page = 0; page < SPARSE_PAGES; page++) {
		/* Another word in each page. */
		uint64_t i = page * WORDS_A_PAGE + page % WORDS_A_PAGE;

		base[i] = dense_word(i, round);
	}
}

struct stores {
	const char *name;
	void (*store)(uint64_t *base, uint64_t round);
	uint64_t len, changed; /* bytes */
	uint64_t *base;
	uint64_t round;
};

static void
store_task(void *arg)
{
	struct stores *s = arg;

	s->store(s->base, s->round);
}

static void
read_task(void *arg)
{
	struct stores *s = arg;
	const volatile uint64_t *base = s->base;

	for (uint64_t i = 0; i < s->len / sizeof(*base); i += WORDS_A_PAGE)
		(void)base[i];
}

static double
measure(struct stores *s)
{
	const struct taskrt_task reads = {read_task, s};
	const struct taskrt_task writes = {store_task, s};

	bench_ok(taskrt_run(&reads, 1, NULL), "the reading task");
	uint64_t start = bench_ticks();
	bench_ok(taskrt_run(&writes, 1, NULL), "the writing task");
	double ns = (double)(bench_ticks() - start) * bench_ns_per_tick();
	bench_note_costs(s->name);
	return ns;
}

static double
measure_floor(struct stores *s, struct floor_tcp *tcp)
{
	double stores = floor_stores(s->len, s->store, s->round);
	double wire = floor_tcp_stream(tcp, s->changed);
	double copy = floor_memcpy(s->changed);

	bench_note("floor: stores %.3f ms, wire %.3f, copy %.3f", stores / 1e6,
	           wire / 1e6, copy / 1e6);
	return stores + wire + copy;
}

static void
check_committed(const struct stores *s)
{
	uint64_t *expected = malloc(s->len);

	if (expected == NULL)
		bench_die("out of memory");
	/* The stores tell by themselves which words must be there. */
	for (uint64_t i = 0; i < s->len / sizeof(*expected); i++)
		expected[i] = s->base[i];
	s->store(expected, s->round);
	for (uint64_t i = 0; i < s->len / sizeof(*expected); i++) {
		if (expected[i] != s->base[i])
			bench_die("word %llu was not committed",
			          (unsigned long long)i);
	}
	free(expected);
}

static void
measure_commit(struct bench_result *r, struct stores *s)
{
	double value[ROUNDS], floor_ns[ROUNDS];
	struct floor_tcp tcp;

	floor_tcp_start(&tcp);
	bench_cluster_start(1);
	bench_session_tcp();
	bench_ns_per_tick();
	s->base = dsm_aligned_alloc(DSM_PAGE, s->len);
	if (s->base == NULL)
		bench_die("out of memory");
	for (uint64_t i = 0; i < s->len / sizeof(*s->base); i++)
		s->base[i] = dense_word(i, 0);
	for (int i = 0; i < ROUNDS; i++) {
		s->round = (uint64_t)i + 1;
		floor_ns[i] = measure_floor(s, &tcp);
		value[i] = measure(s);
	}
	check_committed(s);
	r->value = bench_median(value, ROUNDS) / 1e6;
	r->floor = bench_median(floor_ns, ROUNDS) / 1e6;
	r->unit = "ms";
}

void
bench_commit_dense(struct bench_result *r)
{
	struct stores s = {.name = "64 MiB",
	                   .store = store_dense,
	                   .len = DENSE_BYTES,
	                   .changed = DENSE_BYTES};

	measure_commit(r, &s);
}

void
bench_commit_sparse(struct bench_result *r)
{
	struct stores s = {.name = "10,000 words",
	                   .store = store_sparse,
	                   .len = SPARSE_PAGES * DSM_PAGE,
	                   .changed = SPARSE_PAGES * sizeof(uint64_t)};

	measure_commit(r, &s);
}
