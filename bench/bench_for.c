/*
 * for_empty: 10^6 iterations of an empty body, called through a pointer,
 * embedded, default chunk. Floor: OpenMP on as many cores, the same body
 * through the same pointer, schedule(dynamic) with the chunk that taskrt used
 * on average.
 */
#include "bench.h"

#include <omp.h>

#include "../dsm/base/clock.h"
#include <taskrt/taskrt.h>

#define N UINT64_C(1000000)
#define ROUNDS 9

static void
empty_body(size_t i, void *ctx)
{
	(void)i, (void)ctx;
}

/* Read at run time: nobody may inline the body. */
static void (*volatile body)(size_t i, void *ctx) = empty_body;

static uint64_t
openmp_loop(uint64_t chunk)
{
	void (*fn)(size_t i, void *ctx) = body;

	omp_set_num_threads((int)bench_cores());
#pragma omp parallel for schedule(dynamic, chunk)
	for (size_t i = 0; i < N; i++)
		fn(i, NULL);
	return 0;
}

void
bench_for_empty(struct bench_result *r)
{
	double value[ROUNDS], floor_ns[ROUNDS];
	struct bench_rival openmp;
	uint64_t chunk = 1;

	bench_rival_start(&openmp, openmp_loop);
	bench_session_embedded();
	for (int i = -2; i < ROUNDS; i++) { /* two to warm up */
		uint64_t start = dsm__now();
		int err = taskrt_for(0, N, body, NULL, NULL);
		double ns = (double)(dsm__now() - start);

		bench_ok(err, "the empty loop");
		uint64_t chunks = taskrt_report()->counters.chunks;
		chunk = chunks > 0 ? (N + chunks - 1) / chunks : N;
		bench_pause_ms(10);
		double omp_ns = bench_rival_run(&openmp, chunk, NULL);
		bench_pause_ms(10);
		if (i >= 0) {
			value[i] = ns;
			floor_ns[i] = omp_ns;
		}
	}
	bench_note("chunks of %llu iterations", (unsigned long long)chunk);
	bench_note_costs("last run");
	r->value = bench_median(value, ROUNDS) / 1e3;
	r->floor = bench_median(floor_ns, ROUNDS) / 1e3;
	r->unit = "us";
}
