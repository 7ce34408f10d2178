/*
 * kept - large parts of the heap change again and again: the workers keep those pages
 * of their images to overwrite them, and every slot must let go of the old ones,
 * whether it had a task of the runs in between or not.
 *
 *   kept [ROUNDS]
 *
 * PARTS parts of the heap, with a page between them that never changes. Each round the
 * program changes some of them, in 1 to all places, and launches one task or many;
 * each looks at all pages and must find what the program has. Prints "right", or what
 * was wrong.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <taskrt/taskrt.h>

#define WORDS (4096u / 8)
#define PART 64u /* pages: as few as are worth keeping */
#define PARTS 100u
#define PAGES (PARTS * (PART + 1))
#define TASKS 8u

static uint64_t *words;
static uint64_t sums[TASKS];

static uint64_t
sum_all(const uint64_t *w)
{
	uint64_t sum = 0;

	for (size_t p = 0; p < PAGES; p++)
		sum = (sum + w[p * WORDS] + w[p * WORDS + WORDS - 1]) *
		      UINT64_C(0x9e3779b97f4a7c15);
	return sum;
}

static void
look(void *arg)
{
	*(uint64_t *)arg = sum_all(words);
}

static void
change(size_t n_parts, uint64_t round)
{
	for (size_t i = 0; i < n_parts; i++) {
		size_t part = (i * 37 + round) % PARTS;
		uint64_t *w = words + part * (PART + 1) * WORDS;

		for (size_t p = 0; p < PART; p++, w += WORDS) {
			w[0] = round * PAGES + p;
			w[WORDS - 1] += w[0];
		}
	}
}

int
main(int argc, char **argv)
{
	static const size_t n_changed[] = {1, PARTS, 10, 63, 64, 65, 3};
	static const size_t n_tasks[] = {1, TASKS, 1, 1, 2};
	uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 20;
	struct taskrt_task tasks[TASKS];

	words = dsm_aligned_alloc(4096, PAGES * WORDS * 8);
	if (words == NULL)
		return 2;
	for (size_t i = 0; i < PAGES * WORDS; i++)
		words[i] = i * i;
	for (size_t i = 0; i < TASKS; i++)
		tasks[i] = (struct taskrt_task){look, &sums[i]};
	for (uint64_t r = 0; r < rounds; r++) {
		size_t n = n_tasks[r % 5];

		change(n_changed[r % 7], r);
		if (taskrt_run(tasks, n, NULL) != 0) {
			taskrt_report_print(stdout);
			return 1;
		}
		for (size_t i = 0; i < n; i++) {
			if (sums[i] == sum_all(words))
				continue;
			printf("WRONG: task %zu of %zu, round %" PRIu64 "\n", i,
			       n, r);
			return 1;
		}
	}
	printf("right, %" PRIu64 " rounds\n", rounds);
	return 0;
}
