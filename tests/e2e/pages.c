/*
 * A program for the scripts that look at how pages travel: each step touches so
 * and so many heap pages in tasks, checks the results, and says by which way pages
 * came, a line for each:
 *
 *   scan 4096: right, fetched 4103, rdma 4096, message 7, reads 24
 *
 * rdma and message are the pages read one-sidedly and those the program's server
 * was asked for. A first small step fetches what all steps need (code, stack).
 *
 *   pages STEP…
 *     scan:N       one task reads N pages in order
 *     scatter:N    one task reads N pages of eight times as many, in no order
 *     write:N      a task a page: it reads and writes half of it
 *     iterate:N:R  R rounds over N pages of which every 16th changes in between;
 *                  counts are those of the last round
 * Exit status 1 after a wrong result or a failed run; its report on stderr.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#define PAGE 4096u
#define WORDS (PAGE / sizeof(uint64_t))
#define SPREAD 8u
#define CHANGED_EVERY 16u

struct job {
	uint64_t *words; /* shared heap, page aligned */
	uint64_t *sums;  /* a page, shared heap */
	size_t n;        /* pages */
	uint64_t sum;
};

static uint64_t
mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x9e3779b97f4a7c15u;
	return x ^ x >> 29;
}

static uint64_t *
page_of(const struct job *j, size_t i)
{
	return j->words + i * WORDS;
}

static uint64_t
sum_page(const uint64_t *w)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < WORDS; i++)
		sum = mix(sum + w[i]);
	return sum;
}

static void
fill_page(uint64_t *w, uint64_t seed)
{
	for (size_t i = 0; i < WORDS; i++)
		w[i] = mix(seed * WORDS + i);
}

/* The i-th page of a walk over n pages that comes by each once; n is no multiple
 * of the step. */
static size_t
scattered(size_t i, size_t n)
{
	return i * 7919 % n;
}

/* --- tasks; the program calls them, too, for the result to expect --- */

static void
scan(void *arg)
{
	struct job *j = arg;

	j->sum = 1;
	for (size_t i = 0; i < j->n; i++)
		j->sum += sum_page(page_of(j, i));
}

static void
scatter(void *arg)
{
	struct job *j = arg;
	size_t all = j->n * SPREAD - 1;

	j->sum = 1;
	for (size_t i = 0; i < j->n; i++)
		j->sum = mix(j->sum + *page_of(j, scattered(i, all)));
}

static void
write_half(size_t i, void *ctx)
{
	const struct job *j = ctx;
	uint64_t *w = page_of(j, i);

	for (size_t k = 0; k < WORDS; k += 2)
		w[k] = mix(w[k + 1]);
}

static void
sum_one(size_t i, void *ctx)
{
	const struct job *j = ctx;

	j->sums[i] = sum_page(page_of(j, i));
}

/* --- steps: 0, or 1 when the result is wrong --- */

static int
run_failed(int err)
{
	if (err != 0)
		taskrt_report_print(stderr);
	return err != 0;
}

static int
step_task(struct job *j, void (*fn)(void *arg))
{
	struct taskrt_task task = {fn, j};
	uint64_t got;

	if (run_failed(taskrt_run(&task, 1, NULL)))
		return 1;
	got = j->sum;
	fn(j);
	return got != j->sum;
}

static int
step_write(struct job *j)
{
	int bad = run_failed(taskrt_for(0, j->n, write_half, j, NULL));

	for (size_t i = 0; i < j->n && !bad; i++) {
		uint64_t want[WORDS];

		fill_page(want, i);
		for (size_t k = 0; k < WORDS; k += 2)
			want[k] = mix(want[k + 1]);
		bad = memcmp(want, page_of(j, i), PAGE) != 0;
	}
	return bad;
}

static int
step_iterate(struct job *j, unsigned rounds)
{
	for (unsigned r = 0; r < rounds; r++) {
		for (size_t i = r; i < j->n; i += CHANGED_EVERY)
			fill_page(page_of(j, i), mix(r) + i);
		if (run_failed(taskrt_for(0, j->n, sum_one, j, NULL)))
			return 1;
		for (size_t i = 0; i < j->n; i++)
			if (j->sums[i] != sum_page(page_of(j, i)))
				return 1;
	}
	return 0;
}

static int
job_init(struct job *j, size_t n, size_t spread)
{
	*j = (struct job){.n = n};
	j->words = dsm_aligned_alloc(PAGE, n * spread * PAGE);
	j->sums = dsm_calloc(n, sizeof(*j->sums));
	if (j->words == NULL || j->sums == NULL) {
		fprintf(stderr, "pages: out of memory\n");
		return -1;
	}
	for (size_t i = 0; i < n * spread; i++)
		fill_page(page_of(j, i), i);
	return 0;
}

static int
step(const char *name, size_t n, unsigned rounds)
{
	int wrong;
	struct job *j = dsm_malloc(sizeof(*j));

	if (j == NULL ||
	    job_init(j, n, strcmp(name, "scatter") == 0 ? SPREAD : 1) != 0)
		return 1;
	if (strcmp(name, "scan") == 0)
		wrong = step_task(j, scan);
	else if (strcmp(name, "scatter") == 0)
		wrong = step_task(j, scatter);
	else if (strcmp(name, "write") == 0)
		wrong = step_write(j);
	else
		wrong = step_iterate(j, rounds);
	const struct taskrt_counters *c = &taskrt_report()->counters;
	printf("%s %zu: %s, fetched %llu, rdma %llu, message %llu, "
	       "reads %llu\n",
	       name, n, wrong ? "WRONG" : "right",
	       (unsigned long long)c->pages_fetched,
	       (unsigned long long)c->pages_rdma,
	       (unsigned long long)(c->pages_fetched - c->pages_rdma),
	       (unsigned long long)c->rdma_reads);
	fflush(stdout);
	dsm_free(j->sums);
	dsm_free(j->words);
	dsm_free(j);
	return wrong;
}

int
main(int argc, char **argv)
{
	static const char *const names[] = {"scan", "scatter", "write",
	                                    "iterate"};
	int wrong = 0;

	for (int i = 1; i < argc; i++) {
		char name[16];
		unsigned n = 0, rounds = 1, known = 0;

		if (sscanf(argv[i], "%15[a-z]:%u:%u", name, &n, &rounds) < 2)
			n = 0;
		for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++)
			known |= n > 0 && strcmp(name, names[k]) == 0;
		if (!known) {
			fprintf(stderr, "pages: no step \"%s\"\n", argv[i]);
			return 2;
		}
		wrong |= step(name, n, rounds);
	}
	return wrong;
}
