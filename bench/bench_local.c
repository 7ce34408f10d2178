/*
 * local_…: whole programs' hot loops on all cores, embedded, against OpenMP:
 * the same body, compiled once, the same number of cores, in turns. The
 * result is the turn whose ratio is the median: what else runs on the machine
 * disturbs whole turns.
 */
#include "bench.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "../dsm/base/clock.h"
#include <taskrt/taskrt.h>

#define ROUNDS 5

struct loop {
	void (*body)(size_t i, void *ctx);
	size_t n;
	size_t out_size; /* bytes of results */
};

/* OpenMP's process has one of its own. */
static const struct loop *rival_loop;
static void *rival_out;

static uint64_t
digest(const void *out, size_t size)
{
	const unsigned char *p = out;
	uint64_t hash = 14695981039346656037u; /* FNV-1a */

	for (size_t i = 0; i < size; i++)
		hash = (hash ^ p[i]) * 1099511628211u;
	return hash;
}

static uint64_t
openmp_loop(uint64_t want_digest)
{
	const struct loop *l = rival_loop;

	if (want_digest)
		return digest(rival_out, l->out_size);
	if (rival_out == NULL)
		rival_out = calloc(1, l->out_size);
	omp_set_num_threads((int)bench_cores());
#pragma omp parallel for schedule(dynamic)
	for (size_t i = 0; i < l->n; i++)
		l->body(i, rival_out);
	return 0;
}

static void
compare(struct bench_result *r, const struct loop *l)
{
	double value[ROUNDS], floor_ns[ROUNDS], ratio[ROUNDS];
	struct bench_rival openmp;
	uint64_t expected;

	rival_loop = l;
	bench_rival_start(&openmp, openmp_loop);
	bench_session_embedded();
	void *out = dsm_calloc(1, l->out_size);
	if (out == NULL)
		bench_die("out of memory");
	for (int i = 0; i < ROUNDS; i++) {
		floor_ns[i] = bench_rival_run(&openmp, 0, NULL);
		bench_pause_ms(20);
		memset(out, 0, l->out_size);
		uint64_t start = dsm__now();
		int err = taskrt_for(0, l->n, l->body, out, NULL);

		value[i] = (double)(dsm__now() - start);
		bench_ok(err, "the loop");
		ratio[i] = value[i] / floor_ns[i];
		bench_note("%.1f ms, OpenMP %.1f ms", value[i] / 1e6,
		           floor_ns[i] / 1e6);
		bench_pause_ms(20);
	}
	bench_note_costs("last run");
	bench_rival_run(&openmp, 1, &expected);
	if (digest(out, l->out_size) != expected)
		bench_die("the results differ from OpenMP's");
	/* ROUNDS is odd: the median is one of them. */
	double median = bench_median(ratio, ROUNDS);
	for (int i = 0; i < ROUNDS; i++) {
		if (value[i] / floor_ns[i] != median)
			continue;
		r->value = value[i] / 1e9;
		r->floor = floor_ns[i] / 1e9;
	}
	r->unit = "s";
}

/* --- Mandelbrot set: much output for the computing --- */

#define WIDTH 2500
#define HEIGHT 1500
#define MAX_STEPS 1000

static void
mandelbrot_row(size_t row, void *ctx)
{
	uint32_t *pixel = (uint32_t *)ctx + row * WIDTH;
	double im = (double)row / HEIGHT * 2 - 1;

	for (size_t col = 0; col < WIDTH; col++) {
		double re = (double)col / WIDTH * 3 - 2;
		double x = 0, y = 0;
		uint32_t steps = 0;

		while (x * x + y * y <= 4 && steps < MAX_STEPS) {
			double next = x * x - y * y + re;

			y = 2 * x * y + im;
			x = next;
			steps++;
		}
		pixel[col] = steps;
	}
}

void
bench_local_mandelbrot(struct bench_result *r)
{
	static const struct loop l = {mandelbrot_row, HEIGHT,
	                              WIDTH * HEIGHT * sizeof(uint32_t)};

	compare(r, &l);
}

/* --- primes below 1.5 * 10^7 by trial division: short tasks --- */

#define PRIMES_BLOCK 1000
#define PRIMES_BLOCKS 15000

static int
is_prime(uint32_t n)
{
	if (n < 2 || (n % 2 == 0 && n != 2))
		return 0;
	for (uint32_t d = 3; d * d <= n; d += 2) {
		if (n % d == 0)
			return 0;
	}
	return 1;
}

static void
count_primes(size_t block, void *ctx)
{
	uint32_t first = (uint32_t)block * PRIMES_BLOCK, count = 0;

	for (uint32_t n = first; n < first + PRIMES_BLOCK; n++)
		count += (uint32_t)is_prime(n);
	((uint32_t *)ctx)[block] = count;
}

void
bench_local_primes(struct bench_result *r)
{
	static const struct loop l = {count_primes, PRIMES_BLOCKS,
	                              PRIMES_BLOCKS * sizeof(uint32_t)};

	compare(r, &l);
}

/* --- open knight's tours on a 5 x 5 board: long tasks --- */

#define BOARD 5
#define SQUARES (BOARD * BOARD)
#define KNIGHTS_REPEATS 5 /* of every start: a second's worth */

static uint64_t
tours_from(unsigned row, unsigned col, uint64_t visited, unsigned n_visited)
{
	static const signed char moves[8][2] = {{1, 2},  {2, 1},   {2, -1},
	                                        {1, -2}, {-1, -2}, {-2, -1},
	                                        {-2, 1}, {-1, 2}};
	uint64_t tours = 0;

	visited |= UINT64_C(1) << (row * BOARD + col);
	if (n_visited + 1 == SQUARES)
		return 1;
	for (int i = 0; i < 8; i++) {
		/* Below 0 wraps to above BOARD. */
		unsigned to_row = row + (unsigned)moves[i][0];
		unsigned to_col = col + (unsigned)moves[i][1];

		if (to_row < BOARD && to_col < BOARD &&
		    !(visited >> (to_row * BOARD + to_col) & 1))
			tours +=
			    tours_from(to_row, to_col, visited, n_visited + 1);
	}
	return tours;
}

static void
count_tours(size_t i, void *ctx)
{
	unsigned square = (unsigned)(i % SQUARES);

	((uint64_t *)ctx)[i] = tours_from(square / BOARD, square % BOARD, 0, 0);
}

void
bench_local_knights(struct bench_result *r)
{
	static const struct loop l = {count_tours, SQUARES * KNIGHTS_REPEATS,
	                              SQUARES * KNIGHTS_REPEATS *
	                                  sizeof(uint64_t)};

	compare(r, &l);
}

/* --- factors of products of two primes near 10^13 --- */

#define N_NUMBERS 500

static uint64_t numbers[N_NUMBERS];

static uint64_t
smallest_factor(uint64_t n)
{
	for (uint64_t d = 3; d * d <= n; d += 2) {
		if (n % d == 0)
			return d;
	}
	return n;
}

static void
factor_number(size_t i, void *ctx)
{
	((uint64_t *)ctx)[i] = smallest_factor(numbers[i]);
}

static uint32_t
prime_from(uint32_t n)
{
	while (!is_prime(n))
		n++;
	return n;
}

void
bench_local_factor(struct bench_result *r)
{
	static const struct loop l = {factor_number, N_NUMBERS,
	                              N_NUMBERS * sizeof(uint64_t)};

	for (uint64_t i = 0; i < N_NUMBERS; i++) {
		uint32_t p =
		    prime_from(3000000 + (uint32_t)(bench_mix(i) % 160000));
		uint32_t q =
		    prime_from(3160000 + (uint32_t)(bench_mix(~i) % 300000));

		numbers[i] = (uint64_t)p * q;
	}
	compare(r, &l);
}
