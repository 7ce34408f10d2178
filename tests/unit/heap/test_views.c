#include "../../../dsm/heap/views.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../../dsm/base/pagemap.h"
#include "../../test.h"

#define MANY_PAGES 300

/* Sanitizers have threads of their own and know only their own stacks. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* Two chunks of heap, n_used pages in use. */
struct heap {
	struct dsm_views *v;
	uint8_t *base;
	uint64_t used;
	struct dsm_extents changed;
	uint64_t n_folded;
};

static void
heap_init(struct heap *h, uint64_t size, uint64_t used)
{
	const struct dsm_views_params p = {.size = size};
	struct dsm_error e = {0};

	memset(h, 0, sizeof(*h));
	MUST_OK(dsm__views_create(&p, &h->v, &e));
	h->base = dsm__views_base(h->v);
	h->used = used;
}

static void
heap_fini(struct heap *h)
{
	dsm__extents_fini(&h->changed);
	dsm__views_destroy(h->v);
}

static int
try_freeze(struct heap *h, int exclusive)
{
	const struct dsm_freeze f = {.used = h->used,
	                             .exclusive = exclusive,
	                             .changed = &h->changed,
	                             .n_folded = &h->n_folded};
	struct dsm_error e = {0};
	int rc;

	h->changed.n = 0;
	rc = dsm__views_freeze(h->v, &f, &e);
	if (rc != DSM_OK)
		printf("    %s\n", e.text);
	return rc;
}

static void
freeze(struct heap *h, int exclusive)
{
	MUST_OK(try_freeze(h, exclusive));
}

static const uint8_t *
serving(struct heap *h, uint64_t off)
{
	return dsm__views_serving(h->v, (uintptr_t)h->base + off);
}

static void
apply(struct heap *h, uint64_t off, const void *bytes, uint64_t len)
{
	const struct dsm_write w = {
	    .addr = (uintptr_t)h->base + off, .len = len, .bytes = bytes};
	struct dsm_error e = {0};

	MUST_OK(dsm__views_apply(h->v, &w, 1, NULL, &e));
}

/* The i-th changed extent is n pages from page first on. */
static int
is_extent(struct heap *h, size_t i, uint64_t first, uint64_t n)
{
	return i < h->changed.n &&
	       h->changed.v[i].start == (uintptr_t)h->base + first * DSM_PAGE &&
	       h->changed.v[i].n_pages == n;
}

/* --- extents --- */

static void
test_extents_in_any_order_are_ascending_and_merged(void)
{
	uint64_t state = test_seed();
	struct dsm_extents x = {0}, y = {0};
	uint8_t want[2000] = {0}, got[2000] = {0};

	for (int round = 0; round < 400; round++) {
		uint64_t first = 1 + test_rand(&state) % 1900;
		uint64_t n = test_rand(&state) % 8;

		memset(want + first, 1, n);
		MUST_OK(dsm__extents_add(&x, first * DSM_PAGE, n));
		if (n != 0)
			MUST_OK(dsm__extents_push(&y, first * DSM_PAGE, n));
	}
	dsm__extents_normalise(&y);
	MUST_BE(x.n, y.n);
	MUST(memcmp(x.v, y.v, x.n * sizeof(x.v[0])) == 0);
	for (size_t i = 0; i < x.n; i++) {
		MUST(i == 0 ||
		     x.v[i].start >
		         x.v[i - 1].start + x.v[i - 1].n_pages * DSM_PAGE);
		memset(got + x.v[i].start / DSM_PAGE, 1, x.v[i].n_pages);
	}
	MUST(memcmp(want, got, sizeof(want)) == 0);
	dsm__extents_fini(&x);
	dsm__extents_fini(&y);
}

/* --- freeze --- */

static void
test_bad_sizes_are_refused(void)
{
	struct dsm_views_params p = {.size = DSM_HEAP_CHUNK + 1};
	struct dsm_views *v;
	struct dsm_error e;
	struct dsm_extents x = {0};
	struct dsm_freeze f = {.changed = &x};

	MUST_BE(dsm__views_create(&p, &v, &e), DSM_EINVAL);
	p.size = DSM_HEAP_CHUNK;
	MUST_OK(dsm__views_create(&p, &v, &e));
	f.used = 100;
	MUST_BE(dsm__views_freeze(v, &f, &e), DSM_EINVAL);
	f.used = DSM_HEAP_CHUNK + DSM_PAGE;
	MUST_BE(dsm__views_freeze(v, &f, &e), DSM_EINVAL);
	dsm__views_destroy(v);
}

static void
test_hint_is_taken_when_free_and_only_then(void)
{
	struct dsm_views_params p = {.size = DSM_HEAP_CHUNK};
	struct dsm_views *a, *b;
	struct dsm_error e;

	MUST_OK(dsm__views_create(&p, &a, &e));
	p.hint = dsm__views_base(a);
	MUST_OK(dsm__views_create(&p, &b, &e));
	MUST(dsm__views_base(b) != p.hint);
	dsm__views_destroy(b);
	dsm__views_destroy(a);
	MUST_OK(dsm__views_create(&p, &a, &e));
	MUST(dsm__views_base(a) == p.hint);
	*(char *)dsm__views_base(a) = 1;
	dsm__views_destroy(a);
}

static void
test_before_a_launch_both_views_are_the_same_memory(void)
{
	struct heap h;

	heap_init(&h, 2 * DSM_HEAP_CHUNK, 0);
	h.base[5] = 1;
	h.base[DSM_HEAP_CHUNK] = 2;
	MUST_BE(*serving(&h, 5), 1);
	MUST_BE(*serving(&h, DSM_HEAP_CHUNK), 2);
	heap_fini(&h);
}

static void
check_serving_stands(int exclusive)
{
	struct heap h;

	heap_init(&h, 2 * DSM_HEAP_CHUNK, 4 * DSM_PAGE);
	memset(h.base, 1, 2 * DSM_PAGE);
	freeze(&h, exclusive);
	memset(h.base, 2, 3 * DSM_PAGE);
	MUST_BE(*serving(&h, 0), 1);
	MUST_BE(*serving(&h, DSM_PAGE), 1);
	MUST_BE(*serving(&h, 2 * DSM_PAGE), 0);
	freeze(&h, exclusive);
	MUST_BE(*serving(&h, 0), 2);
	memset(h.base, 3, 3 * DSM_PAGE);
	MUST_BE(*serving(&h, 0), 2);
	MUST_BE(*serving(&h, 2 * DSM_PAGE), 2);
	MUST_BE(h.base[0], 3);
	heap_fini(&h);
}

static void
test_serving_view_does_not_move_while_the_program_writes_after_freeze(void)
{
	check_serving_stands(0);
	check_serving_stands(1);
}

static void
test_first_freeze_reports_the_used_part_as_one_extent(void)
{
	struct heap h;

	heap_init(&h, 2 * DSM_HEAP_CHUNK, 7 * DSM_PAGE);
	freeze(&h, 1);
	MUST_BE(h.changed.n, 1);
	MUST(is_extent(&h, 0, 0, 7));
	/* growth within the chunk, and into the next one */
	h.used = 9 * DSM_PAGE;
	freeze(&h, 1);
	MUST_BE(h.changed.n, 1);
	MUST(is_extent(&h, 0, 7, 2));
	h.used = DSM_HEAP_CHUNK + DSM_PAGE;
	freeze(&h, 1);
	MUST_BE(h.changed.n, 1);
	MUST(is_extent(&h, 0, 9, DSM_HEAP_CHUNK / DSM_PAGE - 8));
	heap_fini(&h);
}

static void
check_exact_report(int exclusive)
{
	uint64_t seed = test_seed(), state = seed;
	struct heap h;

	heap_init(&h, DSM_HEAP_CHUNK, MANY_PAGES * DSM_PAGE);
	memset(h.base, 1, h.used);
	freeze(&h, exclusive);
	for (int round = 2; round < 30; round++) {
		uint8_t want[MANY_PAGES] = {0}, got[MANY_PAGES] = {0};
		uint64_t n = test_rand(&state) % 60, n_want = 0;

		for (; n > 0; n--) {
			uint64_t page = test_rand(&state) % MANY_PAGES;

			h.base[page * DSM_PAGE + test_rand(&state) % DSM_PAGE] =
			    (uint8_t)round;
			n_want += !want[page];
			want[page] = 1;
		}
		freeze(&h, exclusive);
		for (size_t i = 0; i < h.changed.n; i++)
			memset(got +
			           (h.changed.v[i].start - (uintptr_t)h.base) /
			               DSM_PAGE,
			       1, h.changed.v[i].n_pages);
		if (memcmp(want, got, sizeof(want)) != 0)
			printf("    seed %#llx\n", (unsigned long long)seed);
		MUST(memcmp(want, got, sizeof(want)) == 0);
		MUST_BE(h.n_folded, n_want);
		MUST(memcmp(h.base, serving(&h, 0), h.used) == 0);
	}
	heap_fini(&h);
}

static void
test_second_freeze_reports_exactly_the_pages_written(void)
{
	check_exact_report(0);
	check_exact_report(1);
}

static void
test_pages_rewritten_with_the_same_bytes_are_not_reported(void)
{
	struct heap h;

	for (int exclusive = 0; exclusive < 2; exclusive++) {
		heap_init(&h, DSM_HEAP_CHUNK, 10 * DSM_PAGE);
		memset(h.base, 1, h.used);
		freeze(&h, exclusive);
		memset(h.base, 1, h.used);
		h.base[3 * DSM_PAGE] = 2;
		freeze(&h, exclusive);
		MUST_BE(h.n_folded, 1);
		MUST_BE(h.changed.n, 1);
		MUST(is_extent(&h, 0, 3, 1));
		freeze(&h, exclusive);
		MUST_BE(h.changed.n, 0);
		heap_fini(&h);
	}
}

static int
count_pages(void *arg, uint64_t start, uint64_t n_pages)
{
	(void)start;
	*(uint64_t *)arg += n_pages;
	return DSM_OK;
}

static uint64_t
private_pages(struct heap *h)
{
	struct dsm_pagemap pm;
	uint64_t n = 0;

	MUST_OK(dsm__pagemap_init(&pm, 1));
	MUST_OK(dsm__pagemap_private(&pm, (uintptr_t)h->base,
	                             h->used / DSM_PAGE, count_pages, &n));
	dsm__pagemap_fini(&pm);
	return n;
}

static void
test_exclusive_freeze_drops_private_pages_and_the_other_keeps_them(void)
{
	struct heap h;

	heap_init(&h, DSM_HEAP_CHUNK, 10 * DSM_PAGE);
	freeze(&h, 0);
	memset(h.base, 1, h.used);
	freeze(&h, 0);
	MUST_BE(private_pages(&h), 10);
	/* unchanged since: dropped, not reported */
	freeze(&h, 1);
	MUST_BE(h.changed.n, 0);
	MUST_BE(private_pages(&h), 0);
	MUST_BE(h.base[9 * DSM_PAGE], 1);
	heap_fini(&h);
}

/* A stack in the heap must survive an exclusive freeze. */
static void *
freeze_on_heap_stack(void *arg)
{
	struct heap *h = arg;
	volatile uint64_t sum = 0;

	for (uint64_t i = 0; i < 20; i++) {
		h->base[0] = (uint8_t)i;
		if (try_freeze(h, 1) != DSM_OK || *serving(h, 0) != i)
			return NULL;
		sum += i;
	}
	return sum == 190 ? arg : NULL;
}

static void
test_freeze_on_a_stack_that_lies_in_the_heap_keeps_the_stack(void)
{
	pthread_attr_t attr;
	pthread_t t;
	struct heap h;
	void *ok;

	if (SANITIZED)
		return;
	heap_init(&h, DSM_HEAP_CHUNK, 512 * DSM_PAGE);
	/* pthread_join waits in a shared futex on that stack: no flip then */
	freeze(&h, 1);
	MUST_BE(pthread_attr_init(&attr), 0);
	MUST_BE(pthread_attr_setstack(&attr, h.base + 64 * DSM_PAGE,
	                              256 * DSM_PAGE),
	        0);
	MUST_BE(pthread_create(&t, &attr, freeze_on_heap_stack, &h), 0);
	MUST_BE(pthread_join(t, &ok), 0);
	MUST(ok == &h);
	heap_fini(&h);
}

/* --- freeze with other threads --- */

struct writer {
	uint8_t *base;
	unsigned number;
	_Atomic int *stop;
	uint64_t n_rounds;
};

#define N_WRITERS 3

/* Each thread counts in its own word of every page. */
static void *
count_in_own_words(void *arg)
{
	struct writer *w = arg;

	while (!atomic_load_explicit(w->stop, memory_order_relaxed)) {
		for (uint64_t i = 0; i < MANY_PAGES; i++)
			++*(volatile uint64_t *)(w->base + i * DSM_PAGE +
			                         w->number * 8);
		w->n_rounds++;
	}
	return NULL;
}

static void
test_freeze_that_is_not_exclusive_loses_no_store_of_other_threads(void)
{
	struct writer w[N_WRITERS];
	pthread_t t[N_WRITERS];
	_Atomic int stop;
	struct heap h;

	for (int round = 0; round < 10; round++) {
		heap_init(&h, DSM_HEAP_CHUNK, MANY_PAGES * DSM_PAGE);
		atomic_store(&stop, 0);
		for (unsigned i = 0; i < N_WRITERS; i++) {
			w[i] = (struct writer){h.base, i, &stop, 0};
			MUST_BE(pthread_create(&t[i], NULL, count_in_own_words,
			                       &w[i]),
			        0);
		}
		test_pause();
		/* the first one flips under their hands */
		for (int i = 0; i < 60; i++)
			freeze(&h, 0);
		atomic_store(&stop, 1);
		for (unsigned i = 0; i < N_WRITERS; i++)
			pthread_join(t[i], NULL);
		for (unsigned i = 0; i < N_WRITERS; i++)
			for (uint64_t p = 0; p < MANY_PAGES; p++)
				MUST_BE(*(uint64_t *)(h.base + p * DSM_PAGE +
				                      i * 8),
				        w[i].n_rounds);
		freeze(&h, 1);
		MUST(memcmp(h.base, serving(&h, 0), h.used) == 0);
		heap_fini(&h);
	}
}

/* --- apply, conflict --- */

static void
test_bitmap_write_stores_only_its_bytes_in_both_views(void)
{
	struct heap h;
	struct dsm_error e = {0};
	uint8_t bitmap[512] = {0}, bytes[3] = {7, 8, 9};
	struct dsm_write w;

	heap_init(&h, DSM_HEAP_CHUNK, DSM_PAGE);
	memset(h.base, 1, DSM_PAGE);
	freeze(&h, 1);
	h.base[100] = 55; /* a private page */
	bitmap[0] = 0x05; /* bytes 0 and 2 */
	bitmap[511] = 0x80;
	w = (struct dsm_write){.addr = (uintptr_t)h.base,
	                       .len = DSM_PAGE,
	                       .bytes = bytes,
	                       .bitmap = bitmap,
	                       .n_bytes = 3};
	MUST_OK(dsm__views_apply(h.v, &w, 1, NULL, &e));
	MUST(h.base[0] == 7 && h.base[1] == 1 && h.base[2] == 8);
	MUST(h.base[4095] == 9 && h.base[100] == 55);
	heap_fini(&h);
}

static void
test_apply_is_seen_in_both_views_and_leaves_other_bytes_alone(void)
{
	struct heap h;
	uint8_t bytes[3 * DSM_PAGE];

	heap_init(&h, DSM_HEAP_CHUNK, 20 * DSM_PAGE);
	memset(h.base, 1, h.used);
	freeze(&h, 1);
	/* page 5 has a private copy, 4 and 6 have none */
	memset(h.base + 5 * DSM_PAGE, 2, 200);
	memset(bytes, 3, sizeof(bytes));
	apply(&h, 5 * DSM_PAGE + 50, bytes, 100);
	apply(&h, 4 * DSM_PAGE + 7, bytes, 1);
	for (uint64_t i = 0; i < DSM_PAGE; i++) {
		uint8_t want = i >= 50 && i < 150 ? 3 : i < 200 ? 2 : 1;

		MUST_BE(h.base[5 * DSM_PAGE + i], want);
		MUST_BE(*serving(&h, 5 * DSM_PAGE + i),
		        i >= 50 && i < 150 ? 3 : 1);
		MUST_BE(h.base[4 * DSM_PAGE + i], i == 7 ? 3 : 1);
	}
	/* one run over a private page and others */
	apply(&h, 5 * DSM_PAGE + 100, bytes, 2 * DSM_PAGE);
	for (uint64_t i = 0; i < 2 * DSM_PAGE; i++) {
		MUST_BE(h.base[5 * DSM_PAGE + 100 + i], 3);
		MUST_BE(*serving(&h, 5 * DSM_PAGE + 100 + i), 3);
	}
	MUST_BE(h.base[7 * DSM_PAGE + 100], 1);
	MUST_BE(h.base[5 * DSM_PAGE + 49], 2);
	/* what was committed is no change of the program's */
	freeze(&h, 1);
	MUST_BE(h.changed.n, 1);
	MUST(is_extent(&h, 0, 5, 1));
	heap_fini(&h);
}

static void
test_apply_works_in_a_chunk_that_no_launch_has_seen(void)
{
	struct heap h;
	uint8_t bytes[2 * DSM_PAGE];

	heap_init(&h, 2 * DSM_HEAP_CHUNK, DSM_PAGE);
	freeze(&h, 1);
	memset(bytes, 3, sizeof(bytes));
	/* half in the private chunk, half in the shared one */
	h.base[DSM_HEAP_CHUNK - 1] = 1;
	apply(&h, DSM_HEAP_CHUNK - DSM_PAGE, bytes, sizeof(bytes));
	MUST(memcmp(h.base + DSM_HEAP_CHUNK - DSM_PAGE, bytes, sizeof(bytes)) ==
	     0);
	MUST(memcmp(serving(&h, DSM_HEAP_CHUNK - DSM_PAGE), bytes,
	            sizeof(bytes)) == 0);
	heap_fini(&h);
}

static void
test_apply_of_many_scattered_runs_in_any_order(void)
{
	enum { N = 500 };
	uint64_t seed = test_seed(), state = seed;
	static uint8_t want[MANY_PAGES * DSM_PAGE], bytes[N];
	struct dsm_write w[N];
	struct dsm_extents changed = {0};
	struct dsm_error e;
	struct heap h;

	heap_init(&h, DSM_HEAP_CHUNK, sizeof(want));
	memset(want, 0, sizeof(want));
	freeze(&h, 1);
	for (int i = 0; i < MANY_PAGES; i += 3)
		h.base[i * (int)DSM_PAGE] = want[i * (int)DSM_PAGE] = 99;
	for (int i = 0; i < N; i++) {
		uint64_t off = test_rand(&state) % (sizeof(want) - 8);

		bytes[i] = (uint8_t)test_rand(&state);
		want[off] = bytes[i];
		w[i] = (struct dsm_write){.addr = (uintptr_t)h.base + off,
		                          .len = 1,
		                          .bytes = &bytes[i]};
	}
	MUST_OK(dsm__views_apply(h.v, w, N, &changed, &e));
	if (memcmp(want, h.base, sizeof(want)) != 0)
		printf("    seed %#llx\n", (unsigned long long)seed);
	MUST(memcmp(want, h.base, sizeof(want)) == 0);
	for (int i = 0; i < N; i++) {
		size_t at = dsm__extents_find(&changed, w[i].addr);

		MUST(at < changed.n && changed.v[at].start <= w[i].addr);
	}
	dsm__extents_fini(&changed);
	heap_fini(&h);
}

static void
test_apply_outside_the_heap_writes_nothing(void)
{
	uint8_t byte = 9;
	struct heap h;
	struct dsm_error e;

	heap_init(&h, DSM_HEAP_CHUNK, DSM_PAGE);
	struct dsm_write w[2] = {
	    {.addr = (uintptr_t)h.base, .len = 1, .bytes = &byte},
	    {.addr = (uintptr_t)h.base + DSM_HEAP_CHUNK,
	     .len = 1,
	     .bytes = &byte}};
	MUST_BE(dsm__views_apply(h.v, w, 2, NULL, &e), DSM_EINVAL);
	w[1].addr = (uintptr_t)h.base - 1;
	MUST_BE(dsm__views_apply(h.v, w, 2, NULL, &e), DSM_EINVAL);
	w[1] = (struct dsm_write){
	    .addr = (uintptr_t)h.base + 1, .len = UINT64_MAX, .bytes = &byte};
	MUST_BE(dsm__views_apply(h.v, w, 2, NULL, &e), DSM_EINVAL);
	MUST_BE(h.base[0], 0);
	heap_fini(&h);
}

/*
 * A thread makes a page private (by its byte 1) while the page's byte 0 is
 * committed: a fault that is under way must not bring back the old byte 0.
 */
struct cow_race {
	uint8_t *base;
	_Atomic unsigned go, done;
};

#define N_RACES 20000
#define N_RACE_PAGES 500

static volatile uint8_t *
race_page(struct cow_race *r, unsigned i)
{
	return r->base + i % N_RACE_PAGES * DSM_PAGE;
}

/* Both threads want to be quick, but there may be one processor only. */
static void
spin_until(_Atomic unsigned *at, unsigned value)
{
	for (unsigned n = 0; atomic_load(at) < value; n++) {
		dsm__cpu_relax();
		if (n > 1000)
			sched_yield();
	}
}

static void *
write_byte_1(void *arg)
{
	struct cow_race *r = arg;

	for (unsigned i = 1; i <= N_RACES; i++) {
		spin_until(&r->go, i);
		race_page(r, i)[1] = (uint8_t)(i >> 4);
		atomic_store(&r->done, i);
	}
	return NULL;
}

static void
test_apply_survives_copy_on_write_of_the_same_page(void)
{
	struct cow_race r = {0};
	unsigned lost = 0;
	struct heap h;
	pthread_t t;

	heap_init(&h, DSM_HEAP_CHUNK, N_RACE_PAGES * DSM_PAGE);
	r.base = h.base;
	MUST_BE(pthread_create(&t, NULL, write_byte_1, &r), 0);
	for (unsigned i = 1; i <= N_RACES; i++) {
		uint8_t byte = (uint8_t)(i >> 4);

		if (i % N_RACE_PAGES == 1)
			freeze(&h, 1); /* the thread does not write now */
		/* mapped for reading, so that the fault is a mere copy */
		(void)*race_page(&r, i);
		atomic_store(&r.go, i);
		for (unsigned k = i * 7 % 64; k > 0; k--)
			dsm__cpu_relax();
		apply(&h, (uint64_t)(race_page(&r, i) - h.base), &byte, 1);
		spin_until(&r.done, i);
		lost +=
		    race_page(&r, i)[0] != byte || race_page(&r, i)[1] != byte;
	}
	pthread_join(t, NULL);
	MUST_BE(lost, 0);
	heap_fini(&h);
}

static void
test_conflict_finds_the_bytes_the_program_changed(void)
{
	struct heap h;
	uint64_t lo = 1, hi = 2, base;

	heap_init(&h, 2 * DSM_HEAP_CHUNK, 10 * DSM_PAGE);
	base = (uintptr_t)h.base;
	freeze(&h, 0);
	MUST_BE(dsm__views_conflict(h.v, base, h.used, &lo, &hi), 0);
	MUST(lo == 1 && hi == 2);
	h.base[3 * DSM_PAGE + 10] = 1;
	h.base[5 * DSM_PAGE + 20] = 1;
	dsm__views_conflict_start(h.v);
	MUST_BE(dsm__views_conflict(h.v, base, h.used, &lo, &hi), 1);
	MUST_BE(lo - base, 3 * DSM_PAGE + 10);
	MUST_BE(hi - base, 5 * DSM_PAGE + 21);
	MUST_BE(dsm__views_conflict(h.v, base + 3 * DSM_PAGE + 10, 1, &lo, &hi),
	        1);
	MUST_BE(hi - lo, 1);
	MUST_BE(dsm__views_conflict(h.v, base + 3 * DSM_PAGE + 11,
	                            2 * DSM_PAGE + 9, &lo, &hi),
	        0);
	/* a chunk that no launch has seen has no launch state to differ from */
	h.base[DSM_HEAP_CHUNK] = 1;
	dsm__views_conflict_start(h.v);
	MUST_BE(dsm__views_conflict(h.v, base + DSM_HEAP_CHUNK - DSM_PAGE,
	                            2 * DSM_PAGE, &lo, &hi),
	        0);
	/* a kept private page counts from the last freeze on */
	freeze(&h, 0);
	dsm__views_conflict_start(h.v);
	MUST_BE(dsm__views_conflict(h.v, base, h.used, &lo, &hi), 0);
	heap_fini(&h);
}

/* Scans grow and start anew as it suits them: nothing is lost in between. */
static void
test_conflict_finds_single_bytes_in_any_order(void)
{
	enum { N = 3000, STEP = 7 };
	struct heap h;
	uint64_t lo, hi, base;
	int wrong = 0;

	heap_init(&h, 2 * DSM_HEAP_CHUNK, N * DSM_PAGE);
	base = (uintptr_t)h.base;
	freeze(&h, 0);
	for (size_t i = 0; i < N; i += STEP)
		h.base[i * DSM_PAGE + i % DSM_PAGE] = 1;
	dsm__views_conflict_start(h.v);
	for (size_t pass = 0; pass < 3; pass++)
		for (size_t k = 0; k < N; k++) {
			size_t i = pass == 0   ? k
			           : pass == 1 ? N - 1 - k
			                       : k * 1009 % N;
			int found = dsm__views_conflict(
			    h.v, base + i * DSM_PAGE + i % DSM_PAGE, 1, &lo,
			    &hi);

			wrong += found != (i % STEP == 0);
		}
	MUST_BE(wrong, 0);
	heap_fini(&h);
}

/* --- release, size --- */

static uint64_t
file_blocks(struct heap *h)
{
	struct stat st;

	MUST(fstat(dsm__views_fd(h->v), &st) == 0);
	return (uint64_t)st.st_blocks;
}

static void
test_release_zeroes_whole_pages_and_gives_their_memory_back(void)
{
	struct heap h;

	heap_init(&h, DSM_HEAP_CHUNK, 100 * DSM_PAGE);
	for (int launched = 0; launched < 2; launched++) {
		memset(h.base, 7, h.used);
		if (launched) {
			freeze(&h, 1);
			memset(h.base, 8, h.used);
		}
		uint64_t before = file_blocks(&h);

		MUST_OK(dsm__views_release(h.v, (uintptr_t)h.base + 10,
		                           50 * DSM_PAGE));
		MUST(file_blocks(&h) <= before - 49 * 8);
		MUST_BE(h.base[DSM_PAGE - 1], 7 + launched);
		MUST_BE(h.base[DSM_PAGE], 0);
		MUST_BE(h.base[50 * DSM_PAGE - 1], 0);
		MUST_BE(h.base[50 * DSM_PAGE], 7 + launched);
		MUST_BE(*serving(&h, 20 * DSM_PAGE), 0);
	}
	/* workers may hold the old contents */
	freeze(&h, 1);
	MUST_BE(h.changed.n, 1);
	MUST(is_extent(&h, 0, 0, 100));
	MUST_OK(dsm__views_release(h.v, (uintptr_t)h.base + 8 * DSM_PAGE,
	                           2 * DSM_PAGE));
	MUST_OK(dsm__views_release(h.v, (uintptr_t)h.base + 3 * DSM_PAGE,
	                           DSM_PAGE));
	freeze(&h, 1);
	MUST_BE(h.changed.n, 2);
	MUST(is_extent(&h, 0, 3, 1));
	MUST(is_extent(&h, 1, 8, 2));
	freeze(&h, 1);
	MUST_BE(h.changed.n, 0);
	heap_fini(&h);
}

static uint64_t
resident_pages(void)
{
	unsigned long long size = 0, rss = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	MUST(f != NULL && fscanf(f, "%llu %llu", &size, &rss) == 2);
	fclose(f);
	return rss;
}

static void
test_four_gigabytes_in_use_with_few_pages_touched_cost_little(void)
{
	struct heap h;
	uint64_t size = UINT64_C(4) << 30, before = resident_pages();

	heap_init(&h, 4 * size, size);
	for (int round = 0; round < 3; round++) {
		for (uint64_t off = 0; off < size; off += size / 64)
			h.base[off + 5]++;
		freeze(&h, round & 1);
	}
	MUST_BE(h.changed.n, 64);
	/* 64 pages in the file, 64 private, and page tables elsewhere */
	MUST_BE(file_blocks(&h), 64 * 8);
	MUST(resident_pages() < before + 1000);
	heap_fini(&h);
}

/* --- fork --- */

struct pipes {
	int to_child[2], to_parent[2];
};

static int
child_keeps(struct heap *h, struct pipes *p)
{
	char c;

	if (dsm__views_fork_child(h->v) != DSM_OK)
		return 2;
	if (write(p->to_parent[1], "c", 1) != 1 ||
	    read(p->to_child[0], &c, 1) != 1)
		return 3;
	for (uint64_t i = 0; i < 50; i++) {
		uint8_t want = i < 10 ? 1 : i < 20 ? 2 : 0;

		if (h->base[i * DSM_PAGE] != want ||
		    *serving(h, i * DSM_PAGE) != want)
			return 10 + (int)i;
	}
	/* and its heap works: shared, then frozen */
	h->base[0] = 5;
	if (*serving(h, 0) != 5 || try_freeze(h, 1) != DSM_OK ||
	    !is_extent(h, 0, 0, 50))
		return 4;
	h->base[0] = 6;
	if (*serving(h, 0) != 5 || try_freeze(h, 1) != DSM_OK ||
	    !is_extent(h, 0, 0, 1) || *serving(h, 0) != 6)
		return 5;
	return 0;
}

/* launched: chunks are private at the fork already, else shared. */
static void
check_fork(int launched)
{
	struct heap h;
	struct pipes p;
	uint8_t byte = 9;
	int status;
	pid_t pid;
	char c;

	heap_init(&h, 2 * DSM_HEAP_CHUNK, 50 * DSM_PAGE);
	MUST(pipe(p.to_child) == 0 && pipe(p.to_parent) == 0);
	memset(h.base, 1, 20 * DSM_PAGE);
	if (launched)
		freeze(&h, 1);
	memset(h.base + 10 * DSM_PAGE, 2, 10 * DSM_PAGE);
	dsm__views_fork_prepare(h.v, h.used);
	pid = fork();
	if (pid == 0)
		_exit(child_keeps(&h, &p));
	dsm__views_fork_parent(h.v);
	/* the parent goes on at once: stores, folds, commits, frees */
	memset(h.base, 7, 30 * DSM_PAGE);
	MUST_BE(*serving(&h, 0), 1);
	freeze(&h, 1);
	apply(&h, 15 * DSM_PAGE, &byte, 1);
	apply(&h, 40 * DSM_PAGE, &byte, 1);
	MUST_OK(dsm__views_release(h.v, (uintptr_t)h.base, DSM_PAGE));
	h.base[DSM_HEAP_CHUNK] = 1;
	MUST_BE(h.base[15 * DSM_PAGE], 9);
	MUST_BE(h.base[15 * DSM_PAGE + 1], 7);
	MUST(read(p.to_parent[0], &c, 1) == 1);
	MUST(write(p.to_child[1], "p", 1) == 1);
	MUST(waitpid(pid, &status, 0) == pid);
	MUST_BE(status, 0);
	MUST_BE(h.base[40 * DSM_PAGE], 9);
	close(p.to_child[0]);
	close(p.to_child[1]);
	close(p.to_parent[0]);
	close(p.to_parent[1]);
	heap_fini(&h);
}

static void
test_forked_child_keeps_its_memory_while_the_parent_goes_on(void)
{
	check_fork(0);
	check_fork(1);
}

static void
test_dead_or_failed_child_does_not_hold_the_parent_up(void)
{
	struct heap h;
	uint64_t start = dsm__now();
	pid_t pid;

	heap_init(&h, DSM_HEAP_CHUNK, DSM_PAGE);
	for (int i = 0; i < 5; i++) {
		dsm__views_fork_prepare(h.v, h.used);
		pid = fork();
		if (pid == 0)
			_exit(0); /* without a copy */
		dsm__views_fork_parent(h.v);
	}
	/* prepare, and then fork fails */
	dsm__views_fork_prepare(h.v, h.used);
	dsm__views_fork_parent(h.v);
	freeze(&h, 1);
	MUST(dsm__now() - start < 5 * DSM_SEC);
	while (waitpid(-1, NULL, 0) > 0)
		;
	heap_fini(&h);
}

static void
test_several_children_copy_at_the_same_time(void)
{
	enum { N = 6 };
	struct heap h;
	pid_t pid[N];
	int status, ok;

	heap_init(&h, DSM_HEAP_CHUNK, 2000 * DSM_PAGE);
	for (int i = 0; i < N; i++) {
		memset(h.base, 10 + i, h.used);
		dsm__views_fork_prepare(h.v, h.used);
		pid[i] = fork();
		if (pid[i] == 0) {
			ok = dsm__views_fork_child(h.v) == DSM_OK;
			for (uint64_t k = 0; k < h.used; k++)
				ok = ok && h.base[k] == 10 + i;
			_exit(!ok);
		}
		dsm__views_fork_parent(h.v);
	}
	memset(h.base, 1, h.used);
	freeze(&h, 1);
	memset(h.base, 2, h.used);
	freeze(&h, 1);
	for (int i = 0; i < N; i++) {
		MUST(waitpid(pid[i], &status, 0) == pid[i]);
		MUST_BE(status, 0);
	}
	heap_fini(&h);
}

/* --- quiet --- */

struct other {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	_Atomic int ready, stop;
	_Atomic int tid;
	pthread_t joinee;
};

static void *
spin(void *arg)
{
	struct other *o = arg;

	atomic_store(&o->tid, gettid());
	atomic_store(&o->ready, 1);
	while (!atomic_load_explicit(&o->stop, memory_order_relaxed))
		dsm__cpu_relax();
	return NULL;
}

static void *
wait_for_cond(void *arg)
{
	struct other *o = arg;

	pthread_mutex_lock(&o->lock);
	atomic_store(&o->ready, 1);
	while (!atomic_load(&o->stop))
		pthread_cond_wait(&o->cond, &o->lock);
	pthread_mutex_unlock(&o->lock);
	return NULL;
}

static void *
wait_for_cond_timed(void *arg)
{
	struct other *o = arg;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 100;
	pthread_mutex_lock(&o->lock);
	atomic_store(&o->ready, 1);
	while (!atomic_load(&o->stop))
		pthread_cond_timedwait(&o->cond, &o->lock, &until);
	pthread_mutex_unlock(&o->lock);
	return NULL;
}

static void
on_usr1(int sig)
{
	(void)sig;
}

static void *
nap(void *arg)
{
	const struct timespec ts = {0, 50 * DSM_MS};
	struct other *o = arg;

	atomic_store(&o->ready, 1);
	while (!atomic_load(&o->stop))
		nanosleep(&ts, NULL);
	return NULL;
}

static void *
join_other(void *arg)
{
	struct other *o = arg;

	atomic_store(&o->ready, 1);
	pthread_join(o->joinee, NULL);
	return NULL;
}

/* The thread has `blocked` blocked; the test program handles SIGALRM. */
static pthread_t
start_with(struct other *o, void *(*fn)(void *arg), const sigset_t *blocked)
{
	sigset_t mask;
	pthread_t t;

	atomic_store(&o->ready, 0);
	pthread_sigmask(SIG_SETMASK, blocked, &mask);
	MUST_BE(pthread_create(&t, NULL, fn, o), 0);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	MUST_WITHIN_MS(5000, atomic_load(&o->ready));
	return t;
}

static pthread_t
start(struct other *o, void *(*fn)(void *arg))
{
	sigset_t all;

	sigfillset(&all);
	return start_with(o, fn, &all);
}

static void
other_init(struct other *o)
{
	memset(o, 0, sizeof(*o));
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->cond, NULL);
}

static void
wake(struct other *o, pthread_t t)
{
	pthread_mutex_lock(&o->lock);
	atomic_store(&o->stop, 1);
	pthread_cond_broadcast(&o->cond);
	pthread_mutex_unlock(&o->lock);
	pthread_join(t, NULL);
}

static void
must_become_quiet(void)
{
	if (!SANITIZED)
		MUST_WITHIN_MS(5000, dsm__threads_quiet(NULL, 0));
}

static int
never_quiet(void)
{
	for (int i = 0; i < 100; i++) {
		if (dsm__threads_quiet(NULL, 0))
			return 0;
		test_pause();
	}
	return 1;
}

static void
test_process_with_one_thread_is_quiet(void)
{
	must_become_quiet();
}

static void
test_spinning_thread_is_not_quiet_unless_it_is_ours(void)
{
	struct other o;
	pthread_t t;
	int tid;

	other_init(&o);
	t = start(&o, spin);
	tid = atomic_load(&o.tid);
	MUST(never_quiet());
	MUST(dsm__threads_quiet(&tid, 1) || SANITIZED);
	wake(&o, t);
}

static void
test_thread_in_an_untimed_wait_is_quiet(void)
{
	struct other o;
	pthread_t t;

	other_init(&o);
	t = start(&o, wait_for_cond);
	must_become_quiet();
	wake(&o, t);
}

static void
test_thread_that_joins_another_is_quiet(void)
{
	struct other o, sleeper;
	pthread_t t, joiner;

	other_init(&o);
	other_init(&sleeper);
	t = start(&sleeper, wait_for_cond);
	o.joinee = t;
	joiner = start(&o, join_other);
	must_become_quiet();
	pthread_mutex_lock(&sleeper.lock);
	atomic_store(&sleeper.stop, 1);
	pthread_cond_broadcast(&sleeper.cond);
	pthread_mutex_unlock(&sleeper.lock);
	pthread_join(joiner, NULL);
}

static void
test_thread_in_a_timed_wait_is_not_quiet(void)
{
	struct other o;
	pthread_t t;

	other_init(&o);
	t = start(&o, wait_for_cond_timed);
	MUST(never_quiet());
	wake(&o, t);
}

static void
test_thread_in_nanosleep_is_not_quiet(void)
{
	struct other o;
	pthread_t t;

	other_init(&o);
	t = start(&o, nap);
	MUST(never_quiet());
	wake(&o, t);
}

static void
test_sleeping_thread_that_may_handle_a_signal_is_not_quiet(void)
{
	struct sigaction sa = {.sa_handler = on_usr1}, old;
	struct other o;
	sigset_t but_usr1;
	pthread_t t;

	other_init(&o);
	sigfillset(&but_usr1);
	sigdelset(&but_usr1, SIGUSR1);
	MUST_BE(sigaction(SIGUSR1, &sa, &old), 0);
	t = start_with(&o, wait_for_cond, &but_usr1);
	MUST(never_quiet());
	MUST_BE(sigaction(SIGUSR1, &old, NULL), 0);
	must_become_quiet();
	wake(&o, t);
}

SUITE(dsm_heap_views, "dsm.heap.views",
      T(test_extents_in_any_order_are_ascending_and_merged),
      T(test_bad_sizes_are_refused),
      T(test_hint_is_taken_when_free_and_only_then),
      T(test_before_a_launch_both_views_are_the_same_memory),
      T(test_serving_view_does_not_move_while_the_program_writes_after_freeze),
      T(test_first_freeze_reports_the_used_part_as_one_extent),
      T(test_second_freeze_reports_exactly_the_pages_written),
      T(test_pages_rewritten_with_the_same_bytes_are_not_reported),
      T(test_exclusive_freeze_drops_private_pages_and_the_other_keeps_them),
      T(test_freeze_on_a_stack_that_lies_in_the_heap_keeps_the_stack),
      T(test_freeze_that_is_not_exclusive_loses_no_store_of_other_threads),
      T(test_apply_is_seen_in_both_views_and_leaves_other_bytes_alone),
      T(test_bitmap_write_stores_only_its_bytes_in_both_views),
      T(test_apply_works_in_a_chunk_that_no_launch_has_seen),
      T(test_apply_of_many_scattered_runs_in_any_order),
      T(test_apply_outside_the_heap_writes_nothing),
      T(test_apply_survives_copy_on_write_of_the_same_page),
      T(test_conflict_finds_the_bytes_the_program_changed),
      T(test_conflict_finds_single_bytes_in_any_order),
      T(test_release_zeroes_whole_pages_and_gives_their_memory_back),
      T(test_four_gigabytes_in_use_with_few_pages_touched_cost_little),
      T(test_forked_child_keeps_its_memory_while_the_parent_goes_on),
      T(test_dead_or_failed_child_does_not_hold_the_parent_up),
      T(test_several_children_copy_at_the_same_time),
      T(test_process_with_one_thread_is_quiet),
      T(test_spinning_thread_is_not_quiet_unless_it_is_ours),
      T(test_thread_in_an_untimed_wait_is_quiet),
      T(test_thread_that_joins_another_is_quiet),
      T(test_thread_in_a_timed_wait_is_not_quiet),
      T(test_thread_in_nanosleep_is_not_quiet),
      T(test_sleeping_thread_that_may_handle_a_signal_is_not_quiet));
