/*
 * ising - the Ising model of a magnet in two dimensions, many short rounds.
 *
 * A large array that every round reads and changes in many places: two runs a
 * sweep, one for each colour of a chessboard, each a barrier for all. A spin's
 * neighbours are of the other colour, so a run changes nothing that it reads.
 * Pages that a round leaves as they are stay where they are; the others travel.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"
#include "common/picture.h"

static uint64_t side = 1024, n_sweeps = 50, temperature = 210;
static const char *output;

static int8_t *spins; /* shared: 1 or -1, a row after the other, a torus */

/* Of one run; tasks read them. */
static struct {
	uint64_t sweep;
	unsigned colour;
	uint64_t limit[5]; /* flip when a random number is below: by the sum
	                    * of spin * neighbour, from -4 to 4 in twos */
} now;

/* Metropolis: what costs energy is done with probability exp(-energy / T). */
static void
set_limits(void)
{
	for (int i = 0; i < 5; i++) {
		double energy = 2 * (2 * i - 4);
		double p = exp(-energy / ((double)temperature / 100));

		now.limit[i] = p >= 1 ? UINT64_MAX : (uint64_t)(p * 0x1p64);
	}
}

/* The task. A spin's random numbers depend on its place and the sweep alone. */
static void
sweep_row(size_t row, void *ctx)
{
	int8_t *all = ctx, *mine = &all[row * side];
	const int8_t *above = &all[(row + side - 1) % side * side];
	const int8_t *below = &all[(row + 1) % side * side];
	uint64_t first = (now.sweep * side + row) * side;

	for (size_t i = (row + now.colour) % 2; i < side; i += 2) {
		size_t left = i > 0 ? i - 1 : side - 1;
		size_t right = i + 1 < side ? i + 1 : 0;
		int sum = above[i] + below[i] + mine[left] + mine[right];

		if (example_mix(first + i) <=
		    now.limit[(mine[i] * sum + 4) / 2])
			mine[i] = (int8_t)-mine[i];
	}
}

static int
run_colour(enum example_mode mode)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, 0, side, 16, sweep_row, spins);
	return taskrt_for(0, side, sweep_row, spins,
	                  &(struct taskrt_options){.name = "ising"});
}

static int
run(enum example_mode mode)
{
	int err = 0;

	set_limits();
	for (now.sweep = 0; now.sweep < n_sweeps; now.sweep++) {
		for (now.colour = 0; now.colour < 2 && err == 0; now.colour++)
			err = run_colour(mode);
		if (err != 0)
			return err;
	}
	return 0;
}

static int
setup(void)
{
	if (side % 2 != 0) {
		fprintf(stderr,
		        "ising: --side %" PRIu64
		        " is odd: no chessboard on a torus\n",
		        side);
		return -1;
	}
	spins = dsm_malloc(side * side);
	if (spins == NULL) {
		perror("ising");
		return -1;
	}
	dsm_name(spins, "spins");
	return 0;
}

/* A magnet, cold at first. */
static void
reset(void)
{
	memset(spins, 1, side * side);
}

/* Yang, 1952: of an infinite magnet in equilibrium. */
static double
exact_magnetisation(void)
{
	double s = sinh(2 / ((double)temperature / 100));

	return s > 1 ? pow(1 - pow(s, -4), 0.125) : 0;
}

/*
 * After some thirty sweeps, and not too near to the temperature where order ends
 * (2.27), the magnetisation is the exact one but for fluctuations, which shrink
 * with the side. All modes must agree to the last spin.
 */
static int
check(char *text, size_t size)
{
	static uint64_t first;
	int64_t sum = 0;
	uint64_t hash = 1;

	for (uint64_t i = 0; i < side * side; i++) {
		sum += spins[i];
		hash = example_mix(hash ^ (uint8_t)spins[i]);
	}
	if (first == 0)
		first = hash;
	double m = (double)sum / ((double)side * (double)side);
	double exact = exact_magnetisation();
	snprintf(text, size,
	         "magnetisation %.4f, in theory %.4f, checksum %016" PRIx64, m,
	         exact, hash);
	return hash == first && fabs(m - exact) < 0.01 + 5 / (double)side ? 0
	                                                                  : -1;
}

static int
write_picture(void)
{
	static const example_palette palette = {{20, 24, 82}, {255, 196, 84}};
	uint8_t *pixel = malloc(side * side);

	if (pixel == NULL) {
		perror(output);
		return -1;
	}
	for (uint64_t i = 0; i < side * side; i++)
		pixel[i] = spins[i] > 0;
	int err = example_write_png(output, side, side, pixel, palette);
	free(pixel);
	return err;
}

static int
finish(void)
{
	int err = output != NULL ? write_picture() : 0;

	dsm_free(spins);
	return err;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"side", "N", "spins in a row, and rows; even", .number = &side,
	     .min = 2, .max = 100000},
	    {"sweeps", "N", "rounds; two runs each", .number = &n_sweeps,
	     .min = 1, .max = 1000000},
	    {"temperature", "N", "in hundredths; order ends at 227",
	     .number = &temperature, .min = 1, .max = 100000},
	    {"output", "FILE", "write the spins there, as PNG",
	     .text = &output},
	    {0},
	};
	static const struct example ising = {
	    .name = "ising",
	    .summary = "Warm a magnet up: the Ising model in two dimensions.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&ising, argc, argv);
}
