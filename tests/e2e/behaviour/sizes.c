/* Many pages, many tasks, much memory. */
#include "behaviour.h"

#include <stdio.h>

static void
read_scattered(size_t i, void *ctx)
{
	const unsigned char *p = ((unsigned char **)ctx)[0];
	uint64_t *sum = (uint64_t *)((void **)ctx)[1];
	uint64_t s = 0;

	(void)i;
	/* 200,000 single pages, no two adjacent, in an order no prefetcher
	 * likes. */
	for (uint64_t k = 0; k < 200000; k++)
		s += p[(k * 7919 % 200003) * 2 * PAGE];
	*sum = s;
}

static void
two_hundred_thousand_scattered_pages_can_be_read(void)
{
	size_t len = (size_t)200003 * 2 * PAGE;
	unsigned char *p = dsm_malloc(len);
	uint64_t *sum = dsm_calloc(1, sizeof(*sum)), want = 0;
	void *ctx[2] = {p, sum};

	CHECK(p != NULL);
	for (uint64_t k = 0; k < 200003; k += 10)
		p[k * 2 * PAGE] = 3;
	for (uint64_t k = 0; k < 200000; k++)
		want += p[(k * 7919 % 200003) * 2 * PAGE];
	CHECK(taskrt_for(0, 1, read_scattered, ctx, NULL) == 0);
	CHECK(*sum == want);
	dsm_free(p);
	dsm_free(sum);
}

static void
write_scattered(size_t i, void *ctx)
{
	unsigned char *p = ctx;

	(void)i;
	for (uint64_t k = 0; k < 100000; k++)
		p[(k * 7919 % 100003) * 2 * PAGE + 5] = (unsigned char)(k | 1);
}

static void
hundred_thousand_scattered_pages_can_be_written(void)
{
	unsigned char *p = dsm_malloc((size_t)100003 * 2 * PAGE);

	CHECK(p != NULL);
	CHECK(taskrt_for(0, 1, write_scattered, p, NULL) == 0);
	for (uint64_t k = 0; k < 100000; k++)
		CHECK(p[(k * 7919 % 100003) * 2 * PAGE + 5] ==
		      (unsigned char)(k | 1));
	dsm_free(p);
}

static void
poke_corners(size_t i, void *ctx)
{
	unsigned char *p = ctx;

	p[i * (1024u << 20)] = (unsigned char)(i + 1);
	p[i * (1024u << 20) + (1024u << 20) - 1] = (unsigned char)(i + 11);
}

enum { STRIPES = 40000 }; /* pages; what changed takes 20 MB to say */

static void
write_every_other_byte(void *arg)
{
	unsigned char *p = *(unsigned char **)arg;

	for (size_t i = 0; i < (size_t)STRIPES * PAGE; i += 2)
		p[i] = (unsigned char)(i >> 12 | 1);
}

static void
write_one_odd_byte(void *arg)
{
	(*(unsigned char **)arg)[17 * PAGE + 1] = 1;
}

static void
every_other_byte_of_much_scattered_memory_can_be_written(void)
{
	unsigned char *p = dsm_calloc(STRIPES, PAGE);
	struct taskrt_task t[] = {{write_every_other_byte, &p},
	                          {write_one_odd_byte, &p}};
	size_t bad = 0;

	CHECK(p != NULL);
	CHECK(taskrt_run(t, 2, NULL) == 0);
	for (size_t i = 0; i < (size_t)STRIPES * PAGE; i++)
		bad += p[i] != (i % 2 == 0 ? (unsigned char)(i >> 12 | 1)
		                           : i == 17 * PAGE + 1);
	CHECK(bad == 0);
	t[1].fn = write_every_other_byte;
	memset(p, 0, (size_t)STRIPES * PAGE);
	CHECK(taskrt_run(t, 2, NULL) == TASKRT_ERACE);
	dsm_free(p);
}

/* Pages of this process that are in memory; SIZE_MAX when nobody says. */
static size_t
resident(void)
{
	size_t all, n = SIZE_MAX;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f == NULL)
		return SIZE_MAX;
	if (fscanf(f, "%zu %zu", &all, &n) != 2)
		n = SIZE_MAX;
	fclose(f);
	return n;
}

static void
four_gigabytes_mostly_untouched_cost_little(void)
{
	size_t len = (size_t)4 << 30, before = resident();
	unsigned char *p = dsm_malloc(len);

	CHECK(p != NULL);
	CHECK(taskrt_for(0, 4, poke_corners, p, NULL) == 0);
	for (size_t i = 0; i < 4; i++)
		CHECK(p[i << 30] == i + 1 &&
		      p[(i << 30) + (1u << 30) - 1] == i + 11);
	CHECK(p[12345678] == 0);
	CHECK(resident() < before + (64u << 20) / PAGE);
	dsm_free(p);
}

static void
nothing(size_t i, void *ctx)
{
	(void)i, (void)ctx;
}

static void
a_million_iterations(void)
{
	CHECK(taskrt_for(0, 1000000, nothing, NULL, NULL) == 0);
	CHECK(taskrt_report()->counters.tasks == 1000000);
}

static void
a_hundred_thousand_tasks_in_one_bunch(void)
{
	size_t n = 100000;
	unsigned *v = dsm_calloc(n, sizeof(*v));
	struct taskrt_task *t = malloc(n * sizeof(*t));

	for (size_t i = 0; i < n; i++)
		t[i] = (struct taskrt_task){count_one, &v[i]};
	CHECK(taskrt_run(t, n, NULL) == 0);
	for (size_t i = 0; i < n; i++)
		CHECK(v[i] == 1);
	free(t);
	dsm_free(v);
}

const struct cases_one sizes_cases[] = {
    CASE(two_hundred_thousand_scattered_pages_can_be_read),
    CASE(hundred_thousand_scattered_pages_can_be_written),
    CASE(every_other_byte_of_much_scattered_memory_can_be_written),
    CASE(four_gigabytes_mostly_untouched_cost_little),
    CASE(a_million_iterations),
    CASE(a_hundred_thousand_tasks_in_one_bunch),
    {0},
};
