#include "../../../dsm/base/pagemap.h"

#include <sys/mman.h>
#include <unistd.h>

#include "../../test.h"

#define N_PAGES 4096

/* A private file mapping and what is private in it. */
struct area {
	struct dsm_pagemap pm;
	uint8_t *base;
	int fd;
	uint8_t found[N_PAGES];
	unsigned n_calls;
	uint64_t last_end;
	int ascending; /* extents came in order, never touching each other */
};

static int
note(void *arg, uint64_t start, uint64_t n_pages)
{
	struct area *a = arg;
	uint64_t first = (start - (uintptr_t)a->base) >> DSM_PAGE_SHIFT;

	if (start <= a->last_end || n_pages == 0 || first + n_pages > N_PAGES)
		a->ascending = 0;
	else
		memset(a->found + first, 1, n_pages);
	a->last_end = start + n_pages * DSM_PAGE;
	a->n_calls++;
	return DSM_OK;
}

static void
search(struct area *a, uint64_t first, uint64_t n)
{
	memset(a->found, 0, N_PAGES);
	a->n_calls = 0;
	a->last_end = 0;
	a->ascending = 1;
	MUST_OK(dsm__pagemap_private(
	    &a->pm, (uintptr_t)a->base + first * DSM_PAGE, n, note, a));
	MUST(a->ascending);
}

static void
area_init(struct area *a, int use_scan)
{
	memset(a, 0, sizeof(*a));
	MUST_OK(dsm__pagemap_init(&a->pm, use_scan));
	a->fd = memfd_create("test", MFD_CLOEXEC);
	MUST(a->fd >= 0 && ftruncate(a->fd, N_PAGES * DSM_PAGE) == 0);
	a->base = mmap(NULL, N_PAGES * DSM_PAGE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_NORESERVE, a->fd, 0);
	MUST(a->base != MAP_FAILED);
}

static void
area_fini(struct area *a)
{
	munmap(a->base, N_PAGES * DSM_PAGE);
	close(a->fd);
	dsm__pagemap_fini(&a->pm);
}

static void
touch(struct area *a, uint64_t page, int write)
{
	volatile uint8_t *p = a->base + page * DSM_PAGE;

	if (write)
		*p = 1;
	else
		(void)*p;
}

static void
check_read_pages(int use_scan)
{
	struct area a;

	area_init(&a, use_scan);
	for (unsigned i = 0; i < N_PAGES; i++)
		touch(&a, i, 0);
	search(&a, 0, N_PAGES);
	MUST_BE(a.n_calls, 0);
	area_fini(&a);
}

static void
test_read_pages_are_not_private(void)
{
	check_read_pages(1);
	check_read_pages(0);
}

/* More extents than one call to the kernel returns, and one long extent over
 * several calls. */
static void
check_many(int use_scan)
{
	struct area a;
	unsigned i;

	area_init(&a, use_scan);
	for (i = 0; i < N_PAGES; i += 2)
		touch(&a, i, 1);
	search(&a, 0, N_PAGES);
	MUST_BE(a.n_calls, N_PAGES / 2);
	for (i = 0; i < N_PAGES; i++)
		MUST_BE(a.found[i], i % 2 == 0);
	for (i = 1; i < N_PAGES; i += 2)
		touch(&a, i, 1);
	search(&a, 0, N_PAGES);
	MUST_BE(a.n_calls, 1);
	area_fini(&a);
}

static void
test_every_second_page_is_found_and_all_pages_are_one_extent(void)
{
	check_many(1);
	check_many(0);
}

static void
test_search_stays_inside_its_range(void)
{
	struct area a;

	for (int use_scan = 0; use_scan < 2; use_scan++) {
		area_init(&a, use_scan);
		for (unsigned i = 0; i < 20; i++)
			touch(&a, i, 1);
		search(&a, 5, 10);
		for (unsigned i = 0; i < 20; i++)
			MUST_BE(a.found[i], i >= 5 && i < 15);
		search(&a, 5, 0);
		MUST_BE(a.n_calls, 0);
		area_fini(&a);
	}
}

static void
test_dropped_pages_are_no_longer_private(void)
{
	struct area a;

	area_init(&a, 1);
	for (unsigned i = 0; i < 10; i++)
		touch(&a, i, 1);
	madvise(a.base, 5 * DSM_PAGE, MADV_DONTNEED);
	search(&a, 0, N_PAGES);
	for (unsigned i = 0; i < 10; i++)
		MUST_BE(a.found[i], i >= 5);
	area_fini(&a);
}

static int
stop(void *arg, uint64_t start, uint64_t n_pages)
{
	(void)start;
	(void)n_pages;
	++*(int *)arg;
	return 77;
}

static void
test_callback_ends_the_walk(void)
{
	struct area a;

	for (int use_scan = 0; use_scan < 2; use_scan++) {
		int n = 0;

		area_init(&a, use_scan);
		touch(&a, 1, 1);
		touch(&a, 3, 1);
		touch(&a, 5, 1);
		MUST_BE(dsm__pagemap_private(&a.pm, (uintptr_t)a.base, N_PAGES,
		                             stop, &n),
		        77);
		MUST_BE(n, 1);
		area_fini(&a);
	}
}

/* Runs of random length that are written, read or left alone. */
static void
test_both_ways_of_search_agree_on_random_patterns(void)
{
	uint64_t seed = test_seed(), state = seed;
	uint8_t want[N_PAGES], scanned[N_PAGES];
	struct area a;

	for (unsigned round = 0; round < 20; round++) {
		uint64_t longest = 1 + test_rand(&state) % 300;
		unsigned i = 0;

		area_init(&a, 1);
		memset(want, 0, sizeof(want));
		while (i < N_PAGES) {
			uint64_t n = 1 + test_rand(&state) % longest;
			uint64_t how = test_rand(&state) % 3;

			for (; n > 0 && i < N_PAGES; n--, i++) {
				if (how != 0)
					touch(&a, i, how == 1);
				want[i] = how == 1;
			}
		}
		search(&a, 0, N_PAGES);
		memcpy(scanned, a.found, N_PAGES);
		a.pm.scan = 0;
		search(&a, 0, N_PAGES);
		if (memcmp(scanned, a.found, N_PAGES) != 0 ||
		    memcmp(want, a.found, N_PAGES) != 0)
			printf("    seed %#llx, round %u\n",
			       (unsigned long long)seed, round);
		MUST(memcmp(scanned, a.found, N_PAGES) == 0);
		MUST(memcmp(want, a.found, N_PAGES) == 0);
		area_fini(&a);
	}
}

SUITE(dsm_base_pagemap, "dsm.base.pagemap", T(test_read_pages_are_not_private),
      T(test_every_second_page_is_found_and_all_pages_are_one_extent),
      T(test_search_stays_inside_its_range),
      T(test_dropped_pages_are_no_longer_private),
      T(test_callback_ends_the_walk),
      T(test_both_ways_of_search_agree_on_random_patterns));
