/*
 * primes - find the primes below a number by trial division, a block a task.
 *
 * Short tasks: a third of a millisecond each, so the price of handing one out
 * shows. Tasks of neighbouring blocks write into the same page, and often into
 * neighbouring bytes: no race, a byte belongs to one of them.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"
#include "common/picture.h"

#define BLOCK 1000      /* numbers; whole bytes of the bitmap */
#define SPIRAL_SIDE 201 /* numbers */
#define ZOOM 4          /* pixels a number, each way */

static uint64_t below = 10000000;
static const char *output;

static size_t n_blocks;
static uint8_t *prime; /* shared: a bit for each number */

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

/* The task. */
static void
scan_block(size_t block, void *ctx)
{
	uint8_t *bits = ctx;
	uint32_t end = (uint32_t)(block + 1) * BLOCK;

	for (uint32_t n = (uint32_t)block * BLOCK; n < end && n < below; n++) {
		if (is_prime(n))
			bits[n / 8] |= (uint8_t)(1 << n % 8);
	}
}

static int
run(enum example_mode mode)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, 0, n_blocks, 1, scan_block, prime);
	return taskrt_for(0, n_blocks, scan_block, prime,
	                  &(struct taskrt_options){.name = "primes"});
}

static int
setup(void)
{
	n_blocks = (below + BLOCK - 1) / BLOCK;
	prime = dsm_calloc(n_blocks, BLOCK / 8);
	if (prime == NULL) {
		perror("primes");
		return -1;
	}
	dsm_name(prime, "primes");
	return 0;
}

static void
reset(void)
{
	memset(prime, 0, n_blocks * (BLOCK / 8));
}

static int
found(uint64_t n)
{
	return prime[n / 8] >> n % 8 & 1;
}

/* The sieve of Eratosthenes says the same of each number. */
static int
check(char *text, size_t size)
{
	uint8_t *composite = calloc(below, 1);
	uint64_t n_primes = 0, n_wrong = 0;

	if (composite == NULL) {
		snprintf(text, size, "no memory to check it");
		return -1;
	}
	for (uint64_t n = 2; n < below; n++) {
		if (composite[n])
			continue;
		for (uint64_t m = n * n; m < below; m += n)
			composite[m] = 1;
	}
	for (uint64_t n = 0; n < below; n++) {
		n_wrong += found(n) != (n >= 2 && !composite[n]);
		n_primes += (uint64_t)found(n);
	}
	free(composite);
	snprintf(text, size, "%" PRIu64 " primes below %" PRIu64, n_primes,
	         below);
	return n_wrong == 0 ? 0 : -1;
}

/* --- the picture: Ulam's spiral --- */

static void
draw_number(uint8_t *pixel, size_t x, size_t y, uint64_t n)
{
	if (n >= below || !found(n))
		return;
	for (size_t row = y * ZOOM; row < (y + 1) * ZOOM; row++)
		memset(&pixel[(row * SPIRAL_SIDE + x) * ZOOM], 1, ZOOM);
}

/* 1 in the middle, then 1 right, 1 up, 2 left, 2 down, 3 right... */
static void
draw_spiral(uint8_t *pixel)
{
	const uint64_t end = SPIRAL_SIDE * SPIRAL_SIDE;
	long x = SPIRAL_SIDE / 2, y = x, dx = 1, dy = 0;
	uint64_t n = 1;

	for (size_t leg = 2; n <= end; leg++) {
		for (size_t i = 0; i < leg / 2 && n <= end; i++) {
			draw_number(pixel, (size_t)x, (size_t)y, n++);
			x += dx;
			y += dy;
		}
		long turn = dx;
		dx = dy;
		dy = -turn;
	}
}

static int
write_picture(void)
{
	static const example_palette palette = {{6, 11, 66}, {255, 220, 120}};
	const size_t side = SPIRAL_SIDE * ZOOM;
	uint8_t *pixel = calloc(side, side);

	if (pixel == NULL) {
		perror(output);
		return -1;
	}
	draw_spiral(pixel);
	int err = example_write_png(output, side, side, pixel, palette);
	free(pixel);
	return err;
}

static int
finish(void)
{
	int err = output != NULL ? write_picture() : 0;

	dsm_free(prime);
	return err;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"below", "N", "look at the numbers below that", .number = &below,
	     .min = 1, .max = 4000000000},
	    {"output", "FILE", "write Ulam's spiral there, as PNG",
	     .text = &output},
	    {0},
	};
	static const struct example primes = {
	    .name = "primes",
	    .summary = "Find primes by trial division, 1000 numbers a task.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&primes, argc, argv);
}
