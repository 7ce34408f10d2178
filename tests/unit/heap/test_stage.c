/* Staged write sets and their commit: all or nothing. */
#include "../../test.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "../../../dsm/base/page.h"
#include "../../../dsm/heap/stage.h"
#include "../../../dsm/wire/packdiff.h"
#include "../../../dsm/wire/wire.h"

#define RW (PROT_READ | PROT_WRITE)
#define N_OTHER 8
#define HEAP_PAGES 64

/* Memory outside the heap, the heap, and what both must be in the end. */
struct fixture {
	struct dsm_map *map;
	struct dsm_views *views;
	struct dsm_stage *stage;
	struct dsm_extents changed;
	char *heap, *other;
	struct dsm_error e;
};

static uint64_t
addr_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static void
freeze(struct fixture *f)
{
	struct dsm_extents changed = {0};
	struct dsm_freeze p = {
	    .used = HEAP_PAGES * DSM_PAGE, .exclusive = 1, .changed = &changed};

	MUST_OK(dsm__views_freeze(f->views, &p, &f->e));
	dsm__extents_fini(&changed);
}

static void
set_up(struct fixture *f)
{
	const struct dsm_views_params p = {.size = DSM_HEAP_CHUNK};

	*f = (struct fixture){0};
	MUST_OK(dsm__views_create(&p, &f->views, &f->e));
	f->heap = dsm__views_base(f->views);
	memset(f->heap, 'h', HEAP_PAGES * DSM_PAGE);
	f->other = mmap(NULL, N_OTHER * DSM_PAGE, RW,
	                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(f->other != MAP_FAILED);
	memset(f->other, 'o', N_OTHER * DSM_PAGE);
	MUST_OK(dsm__map_create(&f->map));
	MUST_OK(
	    dsm__map_heap(f->map, addr_of(f->heap), addr_of(f->heap) + p.size));
	MUST_OK(dsm__map_refresh(f->map, NULL, NULL));
	MUST_OK(dsm__stage_create(&f->stage));
	freeze(f);
}

static void
tear_down(struct fixture *f)
{
	dsm__stage_destroy(f->stage);
	dsm__map_destroy(f->map);
	munmap(f->other, N_OTHER * DSM_PAGE);
	dsm__views_destroy(f->views);
	dsm__extents_fini(&f->changed);
}

static int
commit(struct fixture *f, uint64_t n)
{
	uint64_t ids[64];

	for (uint64_t i = 0; i < n; i++)
		ids[i] = i + 1;
	return dsm__stage_commit(f->stage, f->map, f->views, ids, n, NULL, 0,
	                         NULL, &f->changed, NULL, &f->e);
}

static int
is_filled(const char *p, int c, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] != c)
			return 0;
	return 1;
}

static void
must_be_untouched(struct fixture *f)
{
	MUST(is_filled(f->heap, 'h', HEAP_PAGES * DSM_PAGE));
	MUST(is_filled(f->other, 'o', N_OTHER * DSM_PAGE));
}

/* A write set under construction: both parts, not yet packed. */
struct set {
	struct dsm_wbuf mask, data;
};

/* Bytes [off, off + len) of the page at p change from what it is to c. */
static void
set_add(struct set *s, const char *page, size_t off, size_t len, int c)
{
	char now[DSM_PAGE];
	uint32_t n;

	memcpy(now, page, DSM_PAGE);
	memset(now + off, c, len);
	MUST_OK(dsm__packdiff_page(&s->mask, &s->data, addr_of(page), now, page,
	                           0, 0, &n));
	MUST_BE(n, len);
}

static struct dsm_wbuf
set_pack(struct set *s, int allow_lz4)
{
	struct dsm_wbuf out = {0};

	MUST_OK(dsm__squeeze(&out, s->mask.ptr, s->mask.len, allow_lz4));
	MUST_OK(dsm__squeeze(&out, s->data.ptr, s->data.len, allow_lz4));
	dsm__wbuf_fini(&s->mask);
	dsm__wbuf_fini(&s->data);
	return out;
}

static void
stage_set(struct fixture *f, uint64_t id, uint32_t part, int last,
          struct set *s)
{
	struct dsm_wbuf out = set_pack(s, 1);

	MUST_OK(dsm__stage_add(f->stage, id, part, last, out.ptr, out.len));
	dsm__wbuf_fini(&out);
}

/* --- staging --- */

static void
test_parts_come_in_order_and_not_after_the_last(void)
{
	struct dsm_stage *s;

	MUST_OK(dsm__stage_create(&s));
	MUST_BE(dsm__stage_add(s, 7, 1, 0, "x", 1), DSM_EPROTO);
	MUST_BE(dsm__stage_whole(s, 7), 0);
	MUST_OK(dsm__stage_add(s, 7, 0, 0, "xyz", 3));
	MUST_BE(dsm__stage_add(s, 7, 0, 0, "x", 1), DSM_EPROTO);
	MUST_BE(dsm__stage_add(s, 7, 2, 0, "x", 1), DSM_EPROTO);
	MUST_BE(dsm__stage_whole(s, 7), 0);
	MUST_OK(dsm__stage_add(s, 7, 1, 1, "x", 1));
	MUST_BE(dsm__stage_whole(s, 7), 1);
	MUST_BE(dsm__stage_add(s, 7, 2, 1, "x", 1), DSM_EPROTO);
	MUST_BE(dsm__stage_bytes(s), 4);
	dsm__stage_drop(s, 7);
	MUST_BE(dsm__stage_bytes(s), 0);
	MUST_BE(dsm__stage_whole(s, 7), 0);
	dsm__stage_drop(s, 7);
	MUST_OK(dsm__stage_add(s, 7, 0, 1, "x", 1));
	dsm__stage_destroy(s);
}

static void
test_a_refused_attempt_is_dropped_and_stays_so(void)
{
	static uint8_t page[3 * 4096];
	const struct dsm_array marks = {NULL, 0};
	struct dsm_stage *s;

	MUST_OK(dsm__stage_create(&s));
	MUST_OK(dsm__stage_add(s, 7, 0, 0, page, sizeof(page)));
	MUST_OK(dsm__stage_add(s, 8, 0, 1, "kept", 4));
	MUST_OK(dsm__stage_refuse(s, 7));
	MUST_BE(dsm__stage_bytes(s), 4);
	MUST_OK(dsm__stage_add(s, 7, 1, 1, "late", 4));
	MUST_OK(dsm__stage_marks(s, 7, &marks));
	MUST_BE(dsm__stage_whole(s, 7), 0);
	/* One that nothing has come of yet, too. */
	MUST_OK(dsm__stage_refuse(s, 9));
	MUST_OK(dsm__stage_add(s, 9, 0, 1, "late", 4));
	MUST_BE(dsm__stage_whole(s, 9), 0);
	MUST_BE(dsm__stage_whole(s, 8), 1);
	MUST_BE(dsm__stage_bytes(s), 4);
	dsm__stage_destroy(s);
}

static void
test_staged_bytes_are_a_copy_and_borrowed_ones_are_not(void)
{
	struct fixture f;
	struct set a = {0}, b = {0};
	struct dsm_wbuf x, y;

	set_up(&f);
	set_add(&a, f.other, 0, 4, 'a');
	set_add(&b, f.other + DSM_PAGE, 0, 4, 'b');
	x = set_pack(&a, 0);
	y = set_pack(&b, 0);
	MUST_OK(dsm__stage_add(f.stage, 1, 0, 1, x.ptr, x.len));
	MUST_OK(dsm__stage_add_borrowed(f.stage, 2, 0, 1, y.ptr, y.len));
	memset(x.ptr, 0xff, x.len);
	memset(y.ptr + y.len - 4, 'c', 4);
	MUST_OK(commit(&f, 2));
	MUST(is_filled(f.other, 'a', 4));
	MUST(is_filled(f.other + DSM_PAGE, 'c', 4));
	dsm__wbuf_fini(&x);
	dsm__wbuf_fini(&y);
	tear_down(&f);
}

/* --- commit --- */

static void
test_a_commit_of_nothing_changes_nothing(void)
{
	struct fixture f;

	set_up(&f);
	MUST_OK(commit(&f, 3));
	MUST_BE(f.changed.n, 0);
	must_be_untouched(&f);
	tear_down(&f);
}

static void
test_write_sets_are_applied_in_the_heap_and_outside(void)
{
	struct fixture f;
	struct set a = {0}, b = {0}, c = {0};
	const uint64_t ids[] = {5, 9, 4}; /* 9 wrote nothing */
	struct dsm_commit_stats stats;

	set_up(&f);
	/* 5: a part in the heap and one outside; 4: both in one part. */
	set_add(&a, f.heap + 3 * DSM_PAGE, 0, DSM_PAGE, 'A');
	set_add(&a, f.heap + 4 * DSM_PAGE, 0, DSM_PAGE, 'A');
	stage_set(&f, 5, 0, 0, &a);
	set_add(&b, f.other, 100, 50, 'B');
	stage_set(&f, 5, 1, 1, &b);
	if (f.heap < f.other) {
		set_add(&c, f.heap + 9 * DSM_PAGE, 10, 1, 'C');
		set_add(&c, f.other + 2 * DSM_PAGE, 4000, 96, 'C');
	} else {
		set_add(&c, f.other + 2 * DSM_PAGE, 4000, 96, 'C');
		set_add(&c, f.heap + 9 * DSM_PAGE, 10, 1, 'C');
	}
	stage_set(&f, 4, 0, 1, &c);

	MUST_OK(dsm__stage_commit(f.stage, f.map, f.views, ids, 3, NULL, 0,
	                          NULL, &f.changed, &stats, &f.e));
	MUST_BE(stats.pages, 5);
	MUST_BE(stats.bytes, 2 * DSM_PAGE + 50 + 1 + 96);
	MUST(is_filled(f.heap + 3 * DSM_PAGE, 'A', 2 * DSM_PAGE));
	MUST(is_filled(f.other + 100, 'B', 50));
	MUST(f.other[99] == 'o' && f.other[150] == 'o');
	MUST(f.heap[9 * DSM_PAGE + 10] == 'C');
	MUST(f.heap[9 * DSM_PAGE + 11] == 'h');
	MUST(is_filled(f.other + 2 * DSM_PAGE + 4000, 'C', 96));
	MUST_BE(f.changed.n, 2);
	MUST_BE(f.changed.v[0].start, addr_of(f.heap + 3 * DSM_PAGE));
	MUST_BE(f.changed.v[0].n_pages, 2);
	MUST_BE(f.changed.v[1].start, addr_of(f.heap + 9 * DSM_PAGE));
	/* The serving view has it, too. */
	MUST_BE(*(const char *)dsm__views_serving(
	            f.views, addr_of(f.heap + 4 * DSM_PAGE)),
	        'A');
	tear_down(&f);
}

struct seen {
	size_t n;
	uint64_t addr[4], len[4];
};

static void
see(void *ctx, uint64_t addr, uint64_t len)
{
	struct seen *s = ctx;

	MUST(s->n < 4);
	s->addr[s->n] = addr;
	s->len[s->n++] = len;
}

static void
test_what_a_commit_wrote_can_be_gone_through(void)
{
	struct fixture f;
	struct set a = {0}, b = {0}, c = {0};
	const uint64_t ids[] = {5, 9, 4}; /* 9 wrote nothing */
	struct seen s = {0};

	set_up(&f);
	set_add(&a, f.heap + DSM_PAGE, 10, 5, 'A');
	stage_set(&f, 5, 0, 0, &a);
	set_add(&b, f.other, 0, DSM_PAGE, 'B');
	stage_set(&f, 5, 1, 1, &b);
	set_add(&c, f.heap, 3, 1, 'C');
	stage_set(&f, 4, 0, 1, &c);
	MUST_OK(dsm__stage_commit(f.stage, f.map, f.views, ids, 3, NULL, 0,
	                          NULL, &f.changed, NULL, &f.e));
	dsm__stage_each(f.stage, ids, 3, see, &s);
	MUST_BE(s.n, 3);
	MUST(s.addr[0] == addr_of(f.heap + DSM_PAGE) + 10 && s.len[0] == 5);
	MUST(s.addr[1] == addr_of(f.other) && s.len[1] == DSM_PAGE);
	MUST(s.addr[2] == addr_of(f.heap) + 3 && s.len[2] == 1);
	tear_down(&f);
}

static void
test_the_attempt_that_is_last_in_order_wins(void)
{
	struct fixture f;
	struct set a = {0}, b = {0};
	const uint64_t ids[] = {2, 1};

	set_up(&f);
	set_add(&a, f.heap, 0, 8, 'a');
	set_add(&b, f.heap, 4, 8, 'b');
	stage_set(&f, 1, 0, 1, &a);
	stage_set(&f, 2, 0, 1, &b);
	MUST_OK(dsm__stage_commit(f.stage, f.map, f.views, ids, 2, NULL, 0,
	                          NULL, NULL, NULL, &f.e));
	MUST(is_filled(f.heap, 'a', 8) && is_filled(f.heap + 8, 'b', 4));
	tear_down(&f);
}

static void
test_many_scattered_runs_are_all_applied(void)
{
	struct fixture f;
	struct set heap = {0}, other = {0};
	char page[DSM_PAGE];
	uint32_t n;

	set_up(&f);
	/* Every second byte of 6 pages: 12288 runs, three batches. */
	for (size_t p = 0; p < 6; p++) {
		for (size_t i = 0; i < DSM_PAGE; i++)
			page[i] = i % 2 ? 'h' : (char)('a' + i / 2 % 16);
		MUST_OK(dsm__packdiff_page(&heap.mask, &heap.data,
		                           addr_of(f.heap + p * DSM_PAGE), page,
		                           f.heap + p * DSM_PAGE, 0, 0, &n));
		for (size_t i = 0; i < DSM_PAGE; i++)
			page[i] = i % 2 ? 'o' : (char)('A' + i / 2 % 16);
		page[0] = (char)('A' + p);
		MUST_OK(dsm__packdiff_page(
		    &other.mask, &other.data, addr_of(f.other + p * DSM_PAGE),
		    page, f.other + p * DSM_PAGE, 0, 0, &n));
	}
	stage_set(&f, 1, 0, 1, &heap);
	stage_set(&f, 2, 0, 1, &other);
	MUST_OK(commit(&f, 2));
	for (size_t i = 0; i < 6 * DSM_PAGE; i++) {
		char h = i % 2 ? 'h' : (char)('a' + i / 2 % 16);
		char o = i % 2 ? 'o' : (char)('A' + i / 2 % 16);

		/* byte 0 of a heap page may equal 'h': never, it is 'a' */
		if (i % DSM_PAGE == 0)
			o = (char)('A' + i / DSM_PAGE);
		CU_ASSERT_FATAL(f.heap[i] == h && f.other[i] == o);
	}
	tear_down(&f);
}

/* Masks that shrink (and are unpacked into a buffer) beside data that does not
 * (and is used where it lies): what of one pair is kept for the next? */
static void
test_bitmaps_of_one_pair_are_used_before_the_next_is_unpacked(void)
{
	struct fixture f;
	struct dsm_wbuf part = {0};
	char want[8 * DSM_PAGE];
	uint32_t n, random = 1;

	set_up(&f);
	memset(want, 'h', sizeof(want));
	for (size_t pair = 0; pair < 2; pair++) {
		struct set set = {0};
		struct dsm_wbuf packed;

		for (size_t p = pair * 4; p < pair * 4 + 4; p++) {
			char *page = want + p * DSM_PAGE;

			for (size_t i = pair; i < DSM_PAGE; i += 2 + pair) {
				random = random * 1664525 + 1013904223;
				page[i] = (char)(random >> 24 | 0x80);
			}
			MUST_OK(dsm__packdiff_page(
			    &set.mask, &set.data,
			    addr_of(f.heap + p * DSM_PAGE), page,
			    f.heap + p * DSM_PAGE, 0, 0, &n));
		}
		packed = set_pack(&set, 1);
		MUST_OK(dsm__wbuf_put(&part, packed.ptr, packed.len));
		dsm__wbuf_fini(&packed);
	}
	MUST_OK(dsm__stage_add(f.stage, 1, 0, 1, part.ptr, part.len));
	MUST_OK(commit(&f, 1));
	MUST(memcmp(f.heap, want, sizeof(want)) == 0);
	dsm__wbuf_fini(&part);
	tear_down(&f);
}

static void
test_memory_mapped_since_the_last_refresh_is_written(void)
{
	struct fixture f;
	struct set a = {0};
	char *p;

	set_up(&f);
	p = mmap(NULL, 64 * DSM_PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(p != MAP_FAILED);
	set_add(&a, p + 20 * DSM_PAGE, 1, 1, 'x');
	stage_set(&f, 1, 0, 1, &a);
	MUST_OK(commit(&f, 1));
	MUST_BE(p[20 * DSM_PAGE + 1], 'x');
	munmap(p, 64 * DSM_PAGE);
	tear_down(&f);
}

/* --- nothing at all --- */

static void
test_every_truncation_of_a_part_is_refused_and_touches_nothing(void)
{
	struct fixture f;
	struct set a = {0};
	struct dsm_wbuf x;

	set_up(&f);
	set_add(&a, f.other, 0, 3, 'a');
	set_add(&a, f.other + DSM_PAGE, 7, 900, 'b');
	set_add(&a, f.other + 2 * DSM_PAGE, 0, DSM_PAGE, 'c');
	for (int lz4 = 0; lz4 < 2; lz4++) {
		struct set copy = {0};

		MUST_OK(dsm__wbuf_put(&copy.mask, a.mask.ptr, a.mask.len));
		MUST_OK(dsm__wbuf_put(&copy.data, a.data.ptr, a.data.len));
		x = set_pack(&copy, lz4);
		for (size_t len = 1; len < x.len; len++) {
			MUST_OK(dsm__stage_add(f.stage, 1, 0, 1, x.ptr, len));
			MUST_BE(commit(&f, 1), DSM_EPROTO);
			dsm__stage_drop(f.stage, 1);
		}
		/* One byte too many is as bad. */
		MUST_OK(dsm__wbuf_put(&x, "", 1));
		MUST_OK(dsm__stage_add(f.stage, 1, 0, 1, x.ptr, x.len));
		MUST_BE(commit(&f, 1), DSM_EPROTO);
		dsm__stage_drop(f.stage, 1);
		must_be_untouched(&f);
		dsm__wbuf_fini(&x);
	}
	dsm__wbuf_fini(&a.mask);
	dsm__wbuf_fini(&a.data);
	tear_down(&f);
}

static void
test_a_part_may_hold_no_pair_or_several(void)
{
	struct fixture f;
	struct set a = {0}, b = {0};
	struct dsm_wbuf x, y;

	set_up(&f);
	MUST_OK(dsm__stage_add(f.stage, 1, 0, 1, NULL, 0));
	MUST_OK(commit(&f, 1));
	must_be_untouched(&f);

	/* Two tasks, the later one in a lower page; one pair packed. */
	set_add(&a, f.heap + 2 * DSM_PAGE, 0, 2000, 'a');
	x = set_pack(&a, 1);
	set_add(&b, f.heap, 0, 2000, 'b');
	set_add(&b, f.heap + 2 * DSM_PAGE, 3000, 96, 'b');
	y = set_pack(&b, 1);
	MUST_OK(dsm__wbuf_put(&x, y.ptr, y.len));
	MUST_OK(dsm__stage_add(f.stage, 2, 0, 1, x.ptr, x.len));
	MUST_OK(commit(&f, 2));
	MUST(is_filled(f.heap, 'b', 2000));
	MUST(is_filled(f.heap + 2 * DSM_PAGE, 'a', 2000));
	MUST(is_filled(f.heap + 2 * DSM_PAGE + 3000, 'b', 96));
	MUST_BE(f.changed.n, 2);

	/* A second pair that ends too soon. */
	MUST_OK(dsm__stage_add(f.stage, 3, 0, 1, x.ptr, x.len - 1));
	MUST_BE(commit(&f, 3), DSM_EPROTO);
	dsm__wbuf_fini(&x);
	dsm__wbuf_fini(&y);
	tear_down(&f);
}

static void
test_damaged_parts_never_write_where_nothing_may_be_written(void)
{
	uint64_t seed = test_seed();
	struct fixture f;
	struct set a = {0};
	struct dsm_wbuf x;
	char *copy;

	set_up(&f);
	set_add(&a, f.other, 0, 3, 'a');
	set_add(&a, f.other + DSM_PAGE, 7, 900, 'b');
	x = set_pack(&a, 0);
	copy = malloc(x.len);
	/*
	 * The page numbers (records at 5 and 19) stay: another page could be the
	 * test's own, and writing there would be right.
	 */
	for (int i = 0; i < 500; i++) {
		size_t at = test_rand(&seed) % 38;
		char flip = (char)(1 << test_rand(&seed) % 8);
		int page = (at >= 5 && at < 13) || (at >= 19 && at < 27);
		int err;

		memcpy(copy, x.ptr, x.len);
		if (!page)
			copy[at] ^= flip;
		else if (at == 5 || at == 19)
			copy[at] ^= flip & 15; /* the kind */
		MUST_OK(dsm__stage_add_borrowed(f.stage, 1, 0, 1, copy, x.len));
		err = commit(&f, 1);
		CU_ASSERT(err == DSM_OK || err == DSM_EPROTO ||
		          err == DSM_EINVAL);
		if (err == DSM_OK)
			memset(f.other, 'o', N_OTHER * DSM_PAGE);
		dsm__stage_drop(f.stage, 1);
		must_be_untouched(&f);
	}
	free(copy);
	dsm__wbuf_fini(&x);
	tear_down(&f);
}

static void
test_one_malformed_attempt_keeps_the_others_from_being_applied(void)
{
	struct fixture f;
	struct set a = {0}, b = {0}, c = {0};
	struct dsm_wbuf x;

	set_up(&f);
	set_add(&a, f.heap, 0, 4, 'a');
	stage_set(&f, 1, 0, 1, &a);
	set_add(&b, f.other, 0, 4, 'b');
	stage_set(&f, 2, 0, 0, &b);
	set_add(&c, f.other + DSM_PAGE, 0, 4, 'c');
	x = set_pack(&c, 0);
	MUST_OK(dsm__stage_add(f.stage, 2, 1, 1, x.ptr, x.len - 1));
	MUST_BE(commit(&f, 2), DSM_EPROTO);
	MUST(f.e.text[0] != '\0');
	must_be_untouched(&f);
	MUST_BE(f.changed.n, 0);
	dsm__wbuf_fini(&x);
	tear_down(&f);
}

static void
test_an_attempt_that_is_not_whole_is_refused(void)
{
	struct fixture f;
	struct set a = {0};

	set_up(&f);
	set_add(&a, f.heap, 0, 4, 'a');
	stage_set(&f, 1, 0, 0, &a);
	MUST_BE(commit(&f, 1), DSM_EINVAL);
	must_be_untouched(&f);
	tear_down(&f);
}

static void
must_refuse_write_to(struct fixture *f, const char *page)
{
	struct set good = {0}, bad = {0};

	set_add(&good, f->other, 0, 4, 'a');
	stage_set(f, 1, 0, 1, &good);
	set_add(&bad, page, 0, 1, page[0] ^ 1);
	stage_set(f, 2, 0, 1, &bad);
	MUST_BE(commit(f, 2), DSM_EINVAL);
	must_be_untouched(f);
	dsm__stage_drop(f->stage, 1);
	dsm__stage_drop(f->stage, 2);
}

static void
test_a_write_set_into_memory_that_is_not_committed_is_refused(void)
{
	struct fixture f;
	const void *code = (const void *)dsm__page_down(
	    addr_of((const void *)(uintptr_t)must_refuse_write_to));
	struct dsm_range r;
	const char *in_libc;

	set_up(&f);
	must_refuse_write_to(&f, code);
	in_libc = (const char *)dsm__page_down(addr_of(stdout));
	if (dsm__map_find(f.map, addr_of(stdout), &r) &&
	    r.kind == DSM_RANGE_SYS)
		must_refuse_write_to(&f, in_libc);
	MUST_BE(mprotect(f.other + 5 * DSM_PAGE, DSM_PAGE, PROT_READ), 0);
	MUST_OK(dsm__map_refresh(f.map, NULL, NULL));
	must_refuse_write_to(&f, f.other + 5 * DSM_PAGE);
	tear_down(&f);
}

/* The table says that it may be written, the kernel does not. */
static void
test_memory_that_vanished_during_the_run_takes_the_commit_back(void)
{
	struct fixture f;
	struct set a = {0}, b = {0}, c = {0};

	set_up(&f);
	set_add(&a, f.heap, 0, 4, 'a');
	stage_set(&f, 1, 0, 1, &a);
	set_add(&b, f.other, 0, 4, 'b');
	set_add(&b, f.other + DSM_PAGE, 0, DSM_PAGE, 'b');
	stage_set(&f, 2, 0, 1, &b);
	set_add(&c, f.other + 5 * DSM_PAGE, 0, 4, 'c');
	set_add(&c, f.other + 6 * DSM_PAGE, 0, 4, 'c');
	stage_set(&f, 3, 0, 1, &c);

	MUST_BE(mprotect(f.other + 6 * DSM_PAGE, DSM_PAGE, PROT_READ), 0);
	MUST_BE(commit(&f, 3), DSM_EINVAL);
	must_be_untouched(&f);
	MUST_BE(mprotect(f.other + 6 * DSM_PAGE, DSM_PAGE, PROT_NONE), 0);
	MUST_BE(commit(&f, 3), DSM_EINVAL);
	MUST_BE(mprotect(f.other + 6 * DSM_PAGE, DSM_PAGE, RW), 0);
	must_be_untouched(&f);
	MUST_OK(commit(&f, 3));
	MUST(f.heap[0] == 'a' && f.other[0] == 'b');
	MUST_BE(f.other[6 * DSM_PAGE], 'c');
	tear_down(&f);
}

/* --- conflicts --- */

static void
test_a_byte_that_the_program_wrote_too_is_a_race(void)
{
	struct fixture f;
	struct set a = {0}, b = {0};
	const uint64_t ids[] = {1, 2};
	struct dsm_client_race races[4];
	size_t n = 99;

	set_up(&f);
	set_add(&a, f.heap, 100, 10, 'a');
	set_add(&b, f.heap + DSM_PAGE, 0, 100, 'b');
	stage_set(&f, 1, 0, 1, &a);
	stage_set(&f, 2, 0, 1, &b);
	f.heap[99] = 'p';
	f.heap[DSM_PAGE + 20] = f.heap[DSM_PAGE + 21] = 'p';
	f.heap[DSM_PAGE + 50] = 'p';
	MUST_BE(dsm__stage_commit(f.stage, f.map, f.views, ids, 2, races, 4, &n,
	                          &f.changed, NULL, &f.e),
	        DSM_ERACE);
	MUST_BE(n, 2);
	MUST(races[0].attempt == 2 && races[1].attempt == 2);
	MUST_BE(races[0].addr, addr_of(f.heap + DSM_PAGE + 20));
	MUST_BE(races[0].len, 2);
	MUST_BE(races[1].addr, addr_of(f.heap + DSM_PAGE + 50));
	MUST_BE(races[1].len, 1);
	MUST(f.heap[100] == 'h' && f.heap[DSM_PAGE] == 'h');

	/* Only as many as there is room for. */
	MUST_BE(dsm__stage_commit(f.stage, f.map, f.views, ids, 2, races, 1, &n,
	                          &f.changed, NULL, &f.e),
	        DSM_ERACE);
	MUST_BE(n, 1);

	/* Nobody asks: the task's bytes win, the program's others stay. */
	MUST_OK(commit(&f, 2));
	MUST(is_filled(f.heap + DSM_PAGE, 'b', 100));
	MUST(f.heap[99] == 'p' && f.heap[100] == 'a');
	tear_down(&f);
}

static void
test_a_race_with_the_program_has_the_task_of_its_pair(void)
{
	struct fixture f;
	struct set a = {0}, b = {0};
	const uint64_t id = 1;
	struct dsm_client_race races[4];
	struct dsm_wbuf both, more, marks = {0};
	size_t n;

	set_up(&f);
	set_add(&a, f.heap, 0, 100, 'a');
	set_add(&b, f.heap, 100, 100, 'b');
	both = set_pack(&a, 1);
	const struct dsm_rec_mark first = {7, 0}, second = {9, both.len};
	MUST_OK(dsm__pack_mark(&marks, &first));
	MUST_OK(dsm__pack_mark(&marks, &second));
	more = set_pack(&b, 1);
	MUST_OK(dsm__wbuf_put(&both, more.ptr, more.len));
	MUST_OK(dsm__stage_add(f.stage, id, 0, 1, both.ptr, both.len));
	struct dsm_array array = {marks.ptr, 2};
	MUST_BE(dsm__stage_marks(f.stage, 2, &array), DSM_EPROTO);
	array.n = 3;
	MUST_OK(dsm__pack_mark(&marks, &second));
	MUST_BE(dsm__stage_marks(f.stage, id, &array), DSM_EPROTO);
	array.n = 2;
	MUST_OK(dsm__stage_marks(f.stage, id, &array));
	f.heap[98] = f.heap[99] = f.heap[100] = 'p';
	MUST_BE(dsm__stage_commit(f.stage, f.map, f.views, &id, 1, races, 4, &n,
	                          &f.changed, NULL, &f.e),
	        DSM_ERACE);
	MUST_BE(n, 2);
	MUST_BE(races[0].task, 7);
	MUST_BE(races[0].len, 2);
	MUST_BE(races[1].task, 9);
	MUST_BE(races[1].addr, addr_of(f.heap + 100));
	dsm__wbuf_fini(&both);
	dsm__wbuf_fini(&more);
	dsm__wbuf_fini(&marks);
	tear_down(&f);
}

/* What tasks were given: the fixture's other memory as it was at first, but for
 * one page that nobody asked for. */
static const uint8_t *
given_page(void *ctx, uint64_t addr)
{
	static uint8_t page[DSM_PAGE];
	const struct fixture *f = ctx;

	memset(page, 'o', sizeof(page));
	return addr == addr_of(f->other + 2 * DSM_PAGE) ? NULL : page;
}

static void
test_outside_the_heap_what_tasks_were_given_tells_of_races(void)
{
	struct fixture f;
	struct set a = {0}, b = {0};
	const uint64_t ids[] = {1, 2, 3};
	struct dsm_client_race races[4];
	size_t n = 9;

	set_up(&f);
	const struct dsm_served served = {given_page, &f};
	set_add(&a, f.heap, 0, 10, 'a');
	set_add(&a, f.other, 4090, 6, 'a');
	set_add(&a, f.other + DSM_PAGE, 0, 10, 'a');
	stage_set(&f, 1, 0, 1, &a);
	set_add(&b, f.other + 2 * DSM_PAGE, 0, 10, 'b');
	stage_set(&f, 2, 0, 1, &b);
	dsm__stage_outside(f.stage, f.map, f.views, ids, 3, &served, races, 4,
	                   &n);
	MUST_BE(n, 0);
	f.heap[3] = 'p';             /* not outside */
	f.other[100] = 'p';          /* no task wrote there */
	f.other[2 * DSM_PAGE] = 'p'; /* not known what was given */
	f.other[4095] = f.other[4096] = 'p';
	f.other[DSM_PAGE + 8] = 'p';
	dsm__stage_outside(f.stage, f.map, f.views, ids, 3, &served, races, 4,
	                   &n);
	MUST_BE(n, 2);
	MUST_BE(races[0].attempt, 1);
	MUST_BE(races[0].addr, addr_of(f.other + 4095));
	MUST_BE(races[0].len, 2);
	MUST_BE(races[1].addr, addr_of(f.other + DSM_PAGE + 8));
	MUST_BE(races[1].len, 1);
	tear_down(&f);
}

static void
test_without_a_conflict_an_asynchronous_commit_is_applied(void)
{
	struct fixture f;
	struct set a = {0};
	const uint64_t id = 1;
	struct dsm_client_race races[4];
	size_t n = 99;

	set_up(&f);
	set_add(&a, f.heap, 100, 10, 'a');
	stage_set(&f, 1, 0, 1, &a);
	f.heap[99] = f.heap[110] = 'p';
	MUST_OK(dsm__stage_commit(f.stage, f.map, f.views, &id, 1, races, 4, &n,
	                          &f.changed, NULL, &f.e));
	MUST_BE(n, 0);
	MUST(f.heap[99] == 'p' && f.heap[110] == 'p');
	MUST(is_filled(f.heap + 100, 'a', 10));
	tear_down(&f);
}

/* --- values --- */

/* A whole attempt of one part: first's pair, then second's when there is one. */
static void
stage_tasks(struct fixture *f, uint64_t id, struct set *a, uint64_t task_a,
            struct set *b, uint64_t task_b)
{
	struct dsm_wbuf packed = set_pack(a, 1), more, marks = {0};
	const struct dsm_rec_mark first = {task_a, 0},
	                          second = {task_b, packed.len};

	MUST_OK(dsm__pack_mark(&marks, &first));
	if (b != NULL) {
		more = set_pack(b, 1);
		MUST_OK(dsm__pack_mark(&marks, &second));
		MUST_OK(dsm__wbuf_put(&packed, more.ptr, more.len));
		dsm__wbuf_fini(&more);
	}
	struct dsm_array array = {marks.ptr, b != NULL ? 2 : 1};
	MUST_OK(dsm__stage_add(f->stage, id, 0, 1, packed.ptr, packed.len));
	MUST_OK(dsm__stage_marks(f->stage, id, &array));
	dsm__wbuf_fini(&marks);
	dsm__wbuf_fini(&packed);
}

static void
test_values_are_what_each_task_wrote_at_an_address(void)
{
	struct fixture f;
	struct set a = {0}, b = {0}, c = {0};

	set_up(&f);
	/* Across a page's end, one byte in another, two tasks in one part. */
	set_add(&a, f.heap, 4090, 6, 'a');
	set_add(&a, f.heap + DSM_PAGE, 0, 600, 'A');
	set_add(&b, f.heap, 4092, 2, 'b');
	stage_tasks(&f, 1, &a, 7, &b, 9);
	set_add(&c, f.heap, 4092, 4, 'c');
	stage_tasks(&f, 2, &c, 8, NULL, 0);

	struct dsm_value v[] = {
	    {.task = 9, .addr = addr_of(f.heap + 4092), .len = 2},
	    {.task = 7, .addr = addr_of(f.heap + 4092), .len = 8},
	    {.task = 8, .addr = addr_of(f.heap + 4093), .len = 1},
	    {.task = 7, .addr = addr_of(f.heap + DSM_PAGE + 599), .len = 1},
	    /* Not all written, never written, no such task. */
	    {.task = 9, .addr = addr_of(f.heap + 4092), .len = 3, .n = 3},
	    {.task = 8, .addr = addr_of(f.heap + 9000), .len = 1, .n = 1},
	    {.task = 6, .addr = addr_of(f.heap + 4092), .len = 1, .n = 1},
	};
	dsm__stage_values(f.stage, v, 7);
	MUST_BE(v[0].n, 2);
	MUST(memcmp(v[0].bytes, "bb", 2) == 0);
	MUST_BE(v[1].n, 8);
	MUST(memcmp(v[1].bytes, "aaaaAAAA", 8) == 0);
	MUST_BE(v[2].n, 1);
	MUST_BE(v[2].bytes[0], 'c');
	MUST_BE(v[3].n, 1);
	MUST_BE(v[3].bytes[0], 'A');
	for (size_t i = 4; i < 7; i++)
		MUST_BE(v[i].n, 0);
	tear_down(&f);
}

static void
test_values_of_a_task_that_ran_twice_are_the_newest_attempts(void)
{
	struct fixture f;
	struct dsm_value v;

	set_up(&f);
	/* In whatever order the table has them. */
	for (uint64_t id = 40; id > 20; id--) {
		struct set s = {0};

		set_add(&s, f.heap, 0, 4, (int)id);
		stage_tasks(&f, id, &s, 3, NULL, 0);
	}
	/* One that was cut off does not count. */
	struct set s = {0};
	set_add(&s, f.heap, 0, 4, 99);
	stage_set(&f, 50, 0, 0, &s);
	v = (struct dsm_value){.task = 3, .addr = addr_of(f.heap), .len = 4};
	dsm__stage_values(f.stage, &v, 1);
	MUST_BE(v.n, 4);
	MUST(is_filled((const char *)v.bytes, 40, 4));
	tear_down(&f);
}

SUITE(dsm_heap_stage, "dsm.heap.stage",
      T(test_parts_come_in_order_and_not_after_the_last),
      T(test_a_refused_attempt_is_dropped_and_stays_so),
      T(test_staged_bytes_are_a_copy_and_borrowed_ones_are_not),
      T(test_a_commit_of_nothing_changes_nothing),
      T(test_write_sets_are_applied_in_the_heap_and_outside),
      T(test_what_a_commit_wrote_can_be_gone_through),
      T(test_the_attempt_that_is_last_in_order_wins),
      T(test_many_scattered_runs_are_all_applied),
      T(test_bitmaps_of_one_pair_are_used_before_the_next_is_unpacked),
      T(test_memory_mapped_since_the_last_refresh_is_written),
      T(test_every_truncation_of_a_part_is_refused_and_touches_nothing),
      T(test_a_part_may_hold_no_pair_or_several),
      T(test_damaged_parts_never_write_where_nothing_may_be_written),
      T(test_one_malformed_attempt_keeps_the_others_from_being_applied),
      T(test_an_attempt_that_is_not_whole_is_refused),
      T(test_a_write_set_into_memory_that_is_not_committed_is_refused),
      T(test_memory_that_vanished_during_the_run_takes_the_commit_back),
      T(test_a_byte_that_the_program_wrote_too_is_a_race),
      T(test_a_race_with_the_program_has_the_task_of_its_pair),
      T(test_outside_the_heap_what_tasks_were_given_tells_of_races),
      T(test_without_a_conflict_an_asynchronous_commit_is_applied),
      T(test_values_are_what_each_task_wrote_at_an_address),
      T(test_values_of_a_task_that_ran_twice_are_the_newest_attempts));
