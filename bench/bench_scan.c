/*
 * scan_tcp: one task reads every word of 256 MiB that no image has, in order.
 * Timed inside the task. Floor: a raw TCP stream of as many bytes.
 */
#include "bench.h"

#include "../dsm/base/page.h"
#include <taskrt/taskrt.h>

#define BYTES (UINT64_C(256) << 20)
#define N_WORDS (BYTES / sizeof(uint64_t))
#define ROUNDS 3

struct scan {
	const uint64_t *words;
	uint64_t sum, ticks; /* of the task */
};

static uint64_t
sum_words(const uint64_t *w)
{
	uint64_t sums[4] = {0};

	for (size_t i = 0; i < N_WORDS; i += 4) {
		for (int k = 0; k < 4; k++)
			sums[k] += w[i + (size_t)k];
	}
	return sums[0] + sums[1] + sums[2] + sums[3];
}

static void
scan(void *arg)
{
	struct scan *s = arg;
	uint64_t start = bench_ticks();
	uint64_t sum = sum_words(s->words);

	s->ticks = bench_ticks() - start;
	s->sum = sum;
}

/* A word a page: what the program writes, images drop at the next launch. */
static void
make_cold(uint64_t *words, uint64_t round)
{
	for (size_t i = 0; i < N_WORDS; i += DSM_PAGE / sizeof(*words))
		words[i] = bench_mix(i + round);
}

void
bench_scan_tcp(struct bench_result *r)
{
	double value[ROUNDS], floor_rate[ROUNDS];
	struct floor_tcp tcp;
	struct scan s = {0};
	const struct taskrt_task task = {scan, &s};

	floor_tcp_start(&tcp);
	bench_cluster_start(1);
	bench_session_tcp();
	uint64_t *words = dsm_aligned_alloc(DSM_PAGE, BYTES);
	if (words == NULL)
		bench_die("out of memory");
	for (size_t i = 0; i < N_WORDS; i++)
		words[i] = bench_mix(i);
	s.words = words;
	for (int i = 0; i < ROUNDS; i++) {
		double ns = floor_tcp_stream(&tcp, BYTES);

		floor_rate[i] = (double)BYTES / ns;
		make_cold(words, (uint64_t)i);
		bench_ok(taskrt_run(&task, 1, NULL), "the scanning task");
		bench_note_costs("run");
		if (s.sum != sum_words(words))
			bench_die("the task read something else");
		value[i] =
		    (double)BYTES / ((double)s.ticks * bench_ns_per_tick());
	}
	r->value = bench_median(value, ROUNDS); /* bytes a ns: GB/s */
	r->floor = bench_median(floor_rate, ROUNDS);
	r->unit = "GB/s";
}
