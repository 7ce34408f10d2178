/*
 * race_check: what the coordinator does per written page when write sets of 16
 * tasks arrive: check, add, list races (there are none). Every page but those
 * at the ends was written by two tasks, alternate words: nothing is decided
 * without looking at the bitmaps. Floor: reading the same bitmaps once.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#include "../coordinator/core/races.h"
#include "../dsm/base/clock.h"
#include "../dsm/base/page.h"
#include "../dsm/wire/packdiff.h"

#define N_TASKS 16
#define PAGES_A_TASK 4096u
#define WORDS_A_PAGE (DSM_PAGE / sizeof(uint64_t))
#define HEAP_START UINT64_C(0x100000000000)
#define ROUNDS 7

static struct dsm_wbuf masks[N_TASKS];

static void
make_masks(void)
{
	static uint64_t page[WORDS_A_PAGE], twin[WORDS_A_PAGE];
	struct dsm_wbuf data = {0};
	uint32_t changed;

	for (uint64_t task = 0; task < N_TASKS; task++) {
		/* Neighbours have half their pages in common. */
		uint64_t first = task * PAGES_A_TASK / 2;

		for (size_t i = 0; i < WORDS_A_PAGE; i++)
			page[i] = i % 2 == task % 2 ? UINT64_MAX : 0;
		for (uint64_t i = first; i < first + PAGES_A_TASK; i++) {
			dsm__wbuf_reset(&data);
			if (dsm__packdiff_page(&masks[task], &data,
			                       HEAP_START + i * DSM_PAGE, page,
			                       twin, 0, 0, &changed) != DSM_OK)
				bench_die("out of memory");
		}
	}
	dsm__wbuf_fini(&data);
}

static double
read_masks(void)
{
	uint64_t start = dsm__now(), sum = 0;

	for (int task = 0; task < N_TASKS; task++) {
		const uint8_t *p = masks[task].ptr;

		for (size_t i = 0; i + 8 <= masks[task].len; i += 8) {
			uint64_t word;

			memcpy(&word, p + i, sizeof(word));
			sum += word;
		}
	}
	__asm__ volatile("" : : "r"(sum));
	return (double)(dsm__now() - start);
}

static double
check_masks(void)
{
	struct dsm_rec_race found[1];
	void *copies[N_TASKS];
	uint64_t n_bytes;
	struct races *r;

	for (int task = 0; task < N_TASKS; task++) {
		copies[task] = malloc(masks[task].len);
		if (copies[task] == NULL)
			bench_die("out of memory");
		memcpy(copies[task], masks[task].ptr, masks[task].len);
	}
	if (races_create(&r) != DSM_OK)
		bench_die("out of memory");
	uint64_t start = dsm__now();
	for (uint64_t task = 0; task < N_TASKS; task++) {
		if (dsm__mask_check(copies[task], masks[task].len, &n_bytes) !=
		        DSM_OK ||
		    races_keep(r, copies[task]) != DSM_OK ||
		    races_add_kept(r, task, copies[task], masks[task].len) !=
		        DSM_OK)
			bench_die("a write set was not taken");
	}
	if (races_list(r, found, 1) != 0)
		bench_die("a race where there is none");
	double ns = (double)(dsm__now() - start);
	if (races_pages(r) != (N_TASKS + 1) * PAGES_A_TASK / 2)
		bench_die("pages are missing");
	races_destroy(r);
	return ns;
}

void
bench_race_check(struct bench_result *r)
{
	double value[ROUNDS], floor_ns[ROUNDS];

	make_masks();
	for (int i = 0; i < ROUNDS; i++) {
		floor_ns[i] = read_masks() / (N_TASKS * PAGES_A_TASK);
		value[i] = check_masks() / (N_TASKS * PAGES_A_TASK);
	}
	r->value = bench_median(value, ROUNDS);
	r->floor = bench_median(floor_ns, ROUNDS);
	r->unit = "ns";
}
