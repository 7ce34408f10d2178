/*
 * mandelbrot - render a part of the Mandelbrot set, one task a row.
 *
 * Much output for the computing: every pixel that a task writes has to come back.
 */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"
#include "common/picture.h"

/* Part of the plane: the island in a seahorse's tail, as a panorama. */
#define CENTRE_RE (-0.74364269)
#define CENTRE_IM 0.13182637
#define PLANE_WIDTH 4e-5

static uint64_t width = 10000, height = 1000, limit = 4000;
static const char *output;
static int check_all;

static uint16_t *pixels; /* shared: iterations of each point, limit: inside */

static uint16_t
iterations(double re, double im)
{
	double x = 0, y = 0, xx = 0, yy = 0;
	unsigned n = 0;

	while (n < limit && xx + yy <= 4) {
		y = 2 * x * y + im;
		x = xx - yy + re;
		xx = x * x;
		yy = y * y;
		n++;
	}
	return (uint16_t)n;
}

static void
compute_row(uint16_t *out, size_t row)
{
	double step = PLANE_WIDTH / (double)width;
	double im = CENTRE_IM + ((double)height / 2 - (double)row) * step;

	for (size_t i = 0; i < width; i++) {
		double re = CENTRE_RE + ((double)i - (double)width / 2) * step;

		out[i] = iterations(re, im);
	}
}

/* The task. It reads globals of the program and writes into its heap. */
static void
render_row(size_t row, void *ctx)
{
	uint16_t *image = ctx;

	compute_row(&image[row * width], row);
}

static int
run(enum example_mode mode)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, 0, height, 1, render_row, pixels);
	return taskrt_for(0, height, render_row, pixels,
	                  &(struct taskrt_options){.name = "mandelbrot"});
}

static int
setup(void)
{
	pixels = dsm_calloc(width * height, sizeof(*pixels));
	if (pixels == NULL) {
		perror("mandelbrot");
		return -1;
	}
	dsm_name(pixels, "pixels");
	return 0;
}

static void
reset(void)
{
	memset(pixels, 0, width * height * sizeof(*pixels));
}

static uint64_t
checksum(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < width * height; i++)
		sum = example_mix(sum ^ pixels[i]);
	return sum;
}

/* Recomputes some rows or all, and all modes must agree on the checksum. */
static int
check(char *text, size_t size)
{
	static uint64_t first;
	uint64_t sum = checksum();
	size_t step = check_all ? 1 : height / 10 + 1;
	size_t n_bad = 0;
	uint16_t *row = malloc(width * sizeof(*row));

	if (row == NULL) {
		snprintf(text, size, "no memory to check it");
		return -1;
	}
	for (size_t i = 0; i < height; i += step) {
		compute_row(row, i);
		n_bad +=
		    memcmp(row, &pixels[i * width], width * sizeof(*row)) != 0;
	}
	free(row);
	if (first == 0)
		first = sum;
	snprintf(text, size, "checksum %016" PRIx64, sum);
	return n_bad == 0 && sum == first ? 0 : -1;
}

/* --- the picture --- */

/* Entry 0 is the set itself; the others go round a wheel of five colours. */
static void
make_palette(example_palette palette)
{
	static const uint8_t wheel[][3] = {{6, 11, 66},     {32, 107, 203},
	                                   {237, 255, 255}, {255, 170, 0},
	                                   {86, 8, 24},     {6, 11, 66}};

	memset(palette[0], 0, 3);
	for (int i = 1; i < 256; i++) {
		int at = (i - 1) * 5, left = at / 255, part = at % 255;

		for (int c = 0; c < 3; c++)
			palette[i][c] =
			    (uint8_t)((wheel[left][c] * (255 - part) +
			               wheel[left + 1][c] * part) /
			              255);
	}
}

/* Slower and slower round the wheel: near the set the counts grow without end. */
static void
make_index(uint8_t *index)
{
	for (unsigned n = 0; n < limit; n++)
		index[n] = (uint8_t)(1 + (unsigned)(110 * log2(n + 1)) % 255);
	index[limit] = 0;
}

static int
write_picture(void)
{
	uint8_t index[UINT16_MAX + 1];
	example_palette palette;
	uint8_t *bytes = malloc(width * height);

	if (bytes == NULL) {
		perror(output);
		return -1;
	}
	make_palette(palette);
	make_index(index);
	for (size_t i = 0; i < width * height; i++)
		bytes[i] = index[pixels[i]];
	int err = example_write_png(output, width, height, bytes, palette);
	free(bytes);
	return err;
}

static int
finish(void)
{
	int err = output != NULL ? write_picture() : 0;

	dsm_free(pixels);
	return err;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"width", "N", "pixels in a row", .number = &width, .min = 1,
	     .max = 1000000},
	    {"height", "N", "rows", .number = &height, .min = 1,
	     .max = 1000000},
	    {"limit", "N", "iterations of a point at most", .number = &limit,
	     .min = 1, .max = UINT16_MAX},
	    {"output", "FILE", "write the picture there, as PNG",
	     .text = &output},
	    {"check", NULL, "recompute every row to check it, not ten",
	     .flag = &check_all},
	    {0},
	};
	static const struct example mandelbrot = {
	    .name = "mandelbrot",
	    .summary = "Render an island of the Mandelbrot set, a row a task.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&mandelbrot, argc, argv);
}
