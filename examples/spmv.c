/*
 * spmv - products of a sparse matrix and a vector that spans more than 1 GiB of
 * addresses.
 *
 * The vector is an array over all columns, one page in eight of which has
 * anything in it: 36,000 pages, not one next to another as a rule, read at random.
 * They are fetched when they are first needed. What the program changes in the
 * vector between the rounds is all that is fetched again.
 *
 * All numbers are whole and small, so sums are exact in any order.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"

#define PAGE_COLUMNS 512 /* doubles in 4 KiB */
#define ROW_LEN 16       /* nonzeros of a row */
#define ROW_BLOCK 64     /* OpenMP hands out so many rows */

struct entry {
	uint32_t col;
	float value;
};

static uint64_t n_cols = 150000000, n_rows = 400000, n_rounds = 3;
static uint64_t sparseness = 8; /* one page of the vector in so many is used */

static double *x;            /* the vector */
static struct entry *matrix; /* row by row */
static double *y;            /* results: n_rows for each round */

static uint32_t *used; /* pages of x, ascending */
static size_t n_used;

/* --- the product --- */

/* The task: some rows. */
static void
multiply(size_t lo, size_t hi, void *ctx)
{
	double *out = ctx;

	for (size_t row = lo; row < hi; row++) {
		const struct entry *e = &matrix[row * ROW_LEN];
		double sum = 0;

		for (int i = 0; i < ROW_LEN; i++)
			sum += (double)e[i].value * x[e[i].col];
		out[row] = sum;
	}
}

static int
run_round(enum example_mode mode, double *out)
{
	switch (mode) {
	case EXAMPLE_TASKRT:
		return taskrt_for_range(
		    0, n_rows, multiply, out,
		    &(struct taskrt_options){.name = "spmv"});
	case EXAMPLE_OPENMP:
#pragma omp parallel for schedule(dynamic)
		for (size_t i = 0; i < n_rows; i += ROW_BLOCK)
			multiply(
			    i, i + ROW_BLOCK < n_rows ? i + ROW_BLOCK : n_rows,
			    out);
		return 0;
	default:
		multiply(0, n_rows, out);
		return 0;
	}
}

static uint32_t
some_column(uint64_t seed)
{
	uint64_t h = example_mix(seed);
	uint64_t col = (uint64_t)used[h % n_used] * PAGE_COLUMNS +
	               (h >> 40) % PAGE_COLUMNS;

	return (uint32_t)(col < n_cols ? col : n_cols - 1);
}

/* One row in a hundred changes the vector: the input of the next round. */
static void
feed_back(const double *out)
{
	for (uint64_t row = 0; row < n_rows; row += 100)
		x[some_column(~row)] = (double)((uint64_t)out[row] % 1000);
}

static int
run(enum example_mode mode)
{
	for (uint64_t i = 0; i < n_rounds; i++) {
		int err = run_round(mode, &y[i * n_rows]);

		if (err != 0)
			return err;
		feed_back(&y[i * n_rows]);
	}
	return 0;
}

/* --- the input --- */

static void
fill_vector(void)
{
	for (size_t i = 0; i < n_used; i++) {
		uint64_t begin = (uint64_t)used[i] * PAGE_COLUMNS;

		for (uint64_t col = begin;
		     col < begin + PAGE_COLUMNS && col < n_cols; col++)
			x[col] = (double)(example_mix(col) % 1000);
	}
}

static void
find_used_pages(void)
{
	uint64_t n_pages = (n_cols + PAGE_COLUMNS - 1) / PAGE_COLUMNS;

	for (uint64_t page = 0; page < n_pages; page++) {
		if (page == 0 || example_mix(page) % sparseness == 0)
			used[n_used++] = (uint32_t)page;
	}
}

static int
setup(void)
{
	x = dsm_calloc(n_cols, sizeof(*x));
	y = dsm_calloc(n_rounds * n_rows, sizeof(*y));
	matrix = dsm_calloc(n_rows * ROW_LEN, sizeof(*matrix));
	used = calloc(n_cols / PAGE_COLUMNS + 1, sizeof(*used));
	if (x == NULL || y == NULL || matrix == NULL || used == NULL) {
		perror("spmv");
		return -1;
	}
	dsm_name(x, "x");
	dsm_name(y, "y");
	dsm_name(matrix, "matrix");
	find_used_pages();
	for (uint64_t i = 0; i < n_rows * ROW_LEN; i++)
		matrix[i] = (struct entry){some_column(i),
		                           (float)(1 + example_mix(i) % 16)};
	return 0;
}

static void
reset(void)
{
	fill_vector();
	memset(y, 0, n_rounds * n_rows * sizeof(*y));
}

/* --- is it right? --- */

/*
 * Freivalds' check: w (A x) == (w A) x for a vector w of random numbers, here in
 * whole numbers, for the vector x that went into that round.
 */
static int
is_product(const double *out)
{
	uint64_t left = 0, right = 0;

	for (uint64_t row = 0; row < n_rows; row++) {
		uint64_t w = example_mix(row);

		left += w * (uint64_t)out[row];
		for (uint64_t i = row * ROW_LEN; i < (row + 1) * ROW_LEN; i++)
			right += w * (uint64_t)matrix[i].value *
			         (uint64_t)x[matrix[i].col];
	}
	return left == right;
}

static int
check(char *text, size_t size)
{
	uint64_t n_right = 0, sum = 0;

	fill_vector();
	for (uint64_t i = 0; i < n_rounds; i++) {
		const double *out = &y[i * n_rows];

		n_right += (uint64_t)is_product(out);
		feed_back(out);
		for (uint64_t row = 0; row < n_rows; row++)
			sum = example_mix(sum ^ (uint64_t)out[row]);
	}
	snprintf(text, size,
	         "%" PRIu64 " of %" PRIu64 " products over %.2f GiB, "
	         "checksum %016" PRIx64,
	         n_right, n_rounds, (double)(n_cols * sizeof(*x)) / (1 << 30),
	         sum);
	return n_right == n_rounds ? 0 : -1;
}

static int
finish(void)
{
	dsm_free(x);
	dsm_free(y);
	dsm_free(matrix);
	free(used);
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"columns", "N", "of the matrix, 8 bytes of the vector each",
	     .number = &n_cols, .min = 1, .max = UINT32_MAX},
	    {"sparseness", "N", "one page of the vector in N is used",
	     .number = &sparseness, .min = 1, .max = 1000000},
	    {"rows", "N", "of the matrix, 16 nonzeros each", .number = &n_rows,
	     .min = 1, .max = 100000000},
	    {"rounds", "N", "products; each changes the vector a little",
	     .number = &n_rounds, .min = 1, .max = 1000},
	    {0},
	};
	static const struct example spmv = {
	    .name = "spmv",
	    .summary = "Multiply a sparse matrix with a vector over 1 GiB.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&spmv, argc, argv);
}
