/*
 * A program that needs more memory than its workers have: for memory.sh.
 *
 *   memory STEP…       N: MiB, of a heap of dsm_malloc that is read whole
 *     scan:N    tasks add up all words, each task a part
 *     twins:N   tasks change a word in each page of a part of their own, read the
 *               whole rest, print, sleep, and change another word there
 *     write:N   one task writes all of it; the others a page each
 * A line for each step: "scan: code 0 right: MESSAGE", or "untouched", or "WRONG".
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <taskrt/taskrt.h>

#define N_TASKS 8u
#define PAGE 4096u
#define WORDS (PAGE / 8)
#define OWN_PAGES 1024u /* that a task of twins changes */

static uint64_t *words;
static size_t n_pages;
static uint64_t sums[N_TASKS], wanted[N_TASKS];

static uint64_t
value(size_t page)
{
	return (page + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

static int
make(size_t mib)
{
	n_pages = (mib << 20) / PAGE;
	words = dsm_malloc(n_pages * PAGE);
	if (words == NULL)
		return 0;
	for (size_t p = 0; p < n_pages; p++)
		words[p * WORDS + p % WORDS] = value(p);
	memset(sums, 0, sizeof(sums));
	return 1;
}

static uint64_t
sum_of(size_t lo, size_t hi)
{
	uint64_t sum = 0;

	for (size_t p = lo; p < hi; p++)
		sum += words[p * WORDS + p % WORDS];
	return sum;
}

static void
scan(size_t i, void *ctx)
{
	size_t each = n_pages / N_TASKS;

	(void)ctx;
	sums[i] = sum_of(i * each, (i + 1) * each);
}

static void
twins(size_t i, void *ctx)
{
	const struct timespec pause = {0, 20000000};
	uint64_t *own = words + i * OWN_PAGES * WORDS;

	(void)ctx;
	for (size_t p = 0; p < OWN_PAGES; p++)
		own[p * WORDS + 511] = ~value(p);
	sums[i] = sum_of(N_TASKS * OWN_PAGES, n_pages);
	printf("task %zu has read it\n", i);
	nanosleep(&pause, NULL);
	for (size_t p = 0; p < OWN_PAGES; p++)
		own[p * WORDS + 510] = value(p) + i;
}

static void
write_all(size_t i, void *ctx)
{
	(void)ctx;
	if (i == 1)
		memset(words, 0x5a, n_pages * PAGE);
	else
		sums[i] = 1;
}

/* Results, and that no byte counts as written that was not: the twins of pages, which
 * they are compared with, were evicted meanwhile. */
static int
twins_are_right(void)
{
	if (taskrt_report()->counters.bytes_written >
	    N_TASKS * (OWN_PAGES * 16 + 1000))
		return 0;
	for (size_t i = 0; i < N_TASKS; i++)
		for (size_t p = 0; p < OWN_PAGES; p++) {
			size_t page = i * OWN_PAGES + p;
			const uint64_t *w = words + page * WORDS;

			for (size_t k = 0; k < WORDS; k++) {
				uint64_t want = k == 511   ? ~value(p)
				                : k == 510 ? value(p) + i
				                : k == page % WORDS
				                    ? value(page)
				                    : 0;
				if (w[k] != want)
					return 0;
			}
		}
	return 1;
}

static int
is_untouched(void)
{
	for (size_t p = 0; p < n_pages; p++)
		if (words[p * WORDS + p % WORDS] != value(p))
			return 0;
	for (size_t i = 0; i < N_TASKS; i++)
		if (sums[i] != 0)
			return 0;
	return 1;
}

static int
step(const char *word)
{
	const struct taskrt_options one = {.chunk = 1, .name = "memory"};
	void (*body)(size_t, void *) = scan;
	const char *memory;
	char how[8];
	size_t mib;
	int code, right;

	if (sscanf(word, "%7[a-z]:%zu", how, &mib) != 2 || !make(mib))
		return 1;
	if (how[0] == 't')
		body = twins;
	else if (how[0] == 'w')
		body = write_all;
	for (size_t i = 0; i < N_TASKS; i++)
		wanted[i] = body == scan ? sum_of(i * (n_pages / N_TASKS),
		                                  (i + 1) * (n_pages / N_TASKS))
		                         : sum_of(N_TASKS * OWN_PAGES, n_pages);
	code = taskrt_for(0, N_TASKS, body, NULL, &one);
	right = memcmp(sums, wanted, sizeof(sums)) == 0 &&
	        (body != twins || twins_are_right());
	memory = code == 0 && right               ? "right"
	         : code != 0 && is_untouched()    ? "untouched"
	         : code == 0 && body == write_all ? "written"
	                                          : "WRONG";
	printf("%s: code %d %s: %s\n", how, code, memory,
	       taskrt_report()->message);
	dsm_free(words);
	return 0;
}

int
main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++)
		if (step(argv[i]) != 0)
			return 1;
	return 0;
}
