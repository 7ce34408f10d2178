/*
 * scan_tcp, scan_tls, scan_verbs: one task reads every word of memory that no image has, in
 * order: the program has changed all its pages. Timed inside the task. Floor: as many
 * bytes as a raw TCP stream, or by RDMA READs with several in flight.
 *
 * scan_new_tcp: other memory each time, so that the kernel has to make pages for the
 * image, too, which costs more than to send them.
 */
#include "bench.h"

#include "../dsm/base/page.h"
#include <taskrt/taskrt.h>

/* Less over RDMA: Soft-RoCE in an emulated machine moves 30 MB a second. */
#define TCP_BYTES (UINT64_C(256) << 20)
#define VERBS_BYTES (UINT64_C(64) << 20)
#define ROUNDS 3

struct scan {
	const uint64_t *words;
	size_t n_words;
	uint64_t sum, ticks; /* of the task */
};

static uint64_t
sum_words(const uint64_t *w, size_t n_words)
{
	uint64_t sums[4] = {0};

	for (size_t i = 0; i < n_words; i += 4) {
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
	uint64_t sum = sum_words(s->words, s->n_words);

	s->ticks = bench_ticks() - start;
	s->sum = sum;
}

/* A word a page: what the program writes, images drop at the next launch. */
static void
make_cold(uint64_t *words, size_t n_words, uint64_t round)
{
	for (size_t i = 0; i < n_words; i += DSM_PAGE / sizeof(*words))
		words[i] = bench_mix(i + round);
}

static uint64_t *
new_words(size_t n_words)
{
	uint64_t *words = dsm_aligned_alloc(DSM_PAGE, n_words * sizeof(*words));

	if (words == NULL)
		bench_die("out of memory");
	for (size_t i = 0; i < n_words; i++)
		words[i] = bench_mix(i);
	return words;
}

static void
scan_memory(struct bench_result *r, const struct bench_wire *wire, size_t len,
            int new_each_round)
{
	double value[ROUNDS], floor_rate[ROUNDS];
	struct scan s = {.n_words = len / sizeof(uint64_t)};
	const struct taskrt_task task = {scan, &s};
	uint64_t *words = NULL;

	if (wire->tokens)
		bench_cluster_tokens();
	bench_cluster_start(1);
	wire->start();
	wire->session();
	for (int i = 0; i < ROUNDS; i++) {
		if (i == 0 || new_each_round)
			words = new_words(s.n_words);
		s.words = words;
		floor_rate[i] = (double)len / wire->stream(len);
		make_cold(words, s.n_words, (uint64_t)i);
		bench_ok(taskrt_run(&task, 1, NULL), "the scanning task");
		bench_note_costs("run");
		if (s.sum != sum_words(words, s.n_words))
			bench_die("the task read something else");
		value[i] =
		    (double)len / ((double)s.ticks * bench_ns_per_tick());
	}
	r->value = bench_median(value, ROUNDS); /* bytes a ns: GB/s */
	r->floor = bench_median(floor_rate, ROUNDS);
	r->unit = "GB/s";
}

void
bench_scan_tcp(struct bench_result *r)
{
	scan_memory(r, &bench_tcp, TCP_BYTES, 0);
}

void
bench_scan_tls(struct bench_result *r)
{
	scan_memory(r, &bench_tls, TCP_BYTES, 0);
}

void
bench_scan_new_tcp(struct bench_result *r)
{
	scan_memory(r, &bench_tcp, TCP_BYTES, 1);
}

void
bench_scan_verbs(struct bench_result *r)
{
	scan_memory(r, &bench_verbs, VERBS_BYTES, 0);
}
