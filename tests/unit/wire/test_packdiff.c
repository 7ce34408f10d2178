/* Write sets as bytes, against a model that looks at one byte at a time. */
#include "../../test.h"

#include <stdlib.h>

#include "../../../dsm/wire/packdiff.h"

#define PAGE 4096u
#define BASE UINT64_C(0x7f1234567000)

/* --- pages and masks --- */

static uint8_t page[PAGE], twin[PAGE];

static void
fresh_pages(uint64_t *rng)
{
	for (unsigned i = 0; i < PAGE; i++)
		page[i] = twin[i] = (uint8_t)test_rand(rng);
}

static void
change(unsigned off, unsigned len)
{
	for (unsigned i = off; i < off + len; i++)
		page[i] = (uint8_t)~twin[i];
}

struct set {
	struct dsm_wbuf mask, data;
};

static void
set_fini(struct set *s)
{
	dsm__wbuf_fini(&s->mask);
	dsm__wbuf_fini(&s->data);
}

static uint32_t
diff_at(struct set *s, uint64_t addr)
{
	uint32_t n = 12345;

	MUST_OK(
	    dsm__packdiff_page(&s->mask, &s->data, addr, page, twin, 0, 0, &n));
	return n;
}

/* Kind of the first record. */
static int
kind_of(const struct set *s)
{
	return s->mask.ptr[0] & 15;
}

/*
 * The set must say exactly what the model says about this one page: the same
 * bytes, each run as long as can be.
 */
static void
must_match_model(const struct set *s, unsigned skip_lo, unsigned skip_hi)
{
	struct dsm_maskit it;
	uint64_t addr, len, n_bytes = 0;
	const uint8_t *data = s->data.ptr;
	unsigned next = 0;

#define CHANGED(i) (page[i] != twin[i] && !((i) >= skip_lo && (i) < skip_hi))
	dsm__maskit_init(&it, s->mask.ptr, s->mask.len);
	while (dsm__maskit_next(&it, &addr, &len) == 1) {
		unsigned off = (unsigned)(addr - BASE);

		for (; next < off; next++)
			MUST(!CHANGED(next));
		for (; next < off + len; next++) {
			MUST(CHANGED(next));
			MUST_BE(*data++, page[next]);
		}
		MUST(next == PAGE || !CHANGED(next));
		n_bytes += len;
	}
	MUST_BE(dsm__maskit_next(&it, &addr, &len), 0);
	for (; next < PAGE; next++)
		MUST(!CHANGED(next));
	MUST_BE(data - s->data.ptr, s->data.len);
	MUST_OK(dsm__mask_check(s->mask.ptr, s->mask.len, &len));
	MUST_BE(len, n_bytes);
}

static void
test_unchanged_page_adds_nothing(void)
{
	uint64_t rng = test_seed();
	struct set s = {0};

	fresh_pages(&rng);
	MUST_BE(diff_at(&s, BASE), 0);
	MUST_BE(s.mask.len + s.data.len, 0);
}

static void
test_every_single_byte_is_found(void)
{
	uint64_t rng = test_seed();
	struct set s = {0};

	fresh_pages(&rng);
	for (unsigned i = 0; i < PAGE; i++) {
		change(i, 1);
		dsm__wbuf_reset(&s.mask);
		dsm__wbuf_reset(&s.data);
		MUST_BE(diff_at(&s, BASE), 1);
		MUST_BE(s.mask.len, 8 + 2 + 4);
		must_match_model(&s, 0, 0);
		page[i] = twin[i];
	}
	set_fini(&s);
}

static void
test_random_changes_match_the_model(void)
{
	uint64_t rng = test_seed();

	for (int round = 0; round < 2000; round++) {
		struct set s = {0};
		unsigned n = (unsigned)(test_rand(&rng) % 400);
		unsigned longest = 1 + (unsigned)(test_rand(&rng) % 200);
		uint32_t changed = 0;

		fresh_pages(&rng);
		for (unsigned i = 0; i < n; i++) {
			unsigned off = (unsigned)(test_rand(&rng) % PAGE);
			unsigned len =
			    1 + (unsigned)(test_rand(&rng) % longest);

			change(off, len < PAGE - off ? len : PAGE - off);
		}
		for (unsigned i = 0; i < PAGE; i++)
			changed += page[i] != twin[i];
		MUST_BE(diff_at(&s, BASE), changed);
		must_match_model(&s, 0, 0);
		set_fini(&s);
	}
}

static void
test_skipped_bytes_do_not_count(void)
{
	uint64_t rng = test_seed();

	for (int round = 0; round < 500; round++) {
		struct set s = {0};
		unsigned lo = (unsigned)(test_rand(&rng) % (PAGE + 1));
		unsigned hi =
		    lo + (unsigned)(test_rand(&rng) % (PAGE + 1 - lo));
		uint32_t n;

		fresh_pages(&rng);
		change(0, PAGE);
		MUST_OK(dsm__packdiff_page(&s.mask, &s.data, BASE, page, twin,
		                           lo, hi, &n));
		MUST_BE(n, PAGE - (hi - lo));
		must_match_model(&s, lo, hi);
		set_fini(&s);
	}
}

static void
test_page_with_only_skipped_changes_adds_nothing(void)
{
	uint64_t rng = test_seed();
	struct set s = {0};
	uint32_t n = 1;

	fresh_pages(&rng);
	change(100, 50);
	MUST_OK(dsm__packdiff_page(&s.mask, &s.data, BASE, page, twin, 100, 150,
	                           &n));
	MUST_BE(n, 0);
	MUST_BE(s.mask.len + s.data.len, 0);
}

static void
test_smaller_record_is_chosen(void)
{
	uint64_t rng = test_seed();

	for (unsigned n_runs = 126; n_runs <= 129; n_runs++) {
		struct set s = {0};

		fresh_pages(&rng);
		for (unsigned i = 0; i < n_runs; i++)
			change(i * 16, 1 + i % 15);
		diff_at(&s, BASE);
		MUST_BE(kind_of(&s), n_runs <= 127 ? 2 : 1);
		MUST_BE(s.mask.len, n_runs <= 127 ? 10 + 4 * n_runs : 520);
		must_match_model(&s, 0, 0);
		set_fini(&s);
	}
}

static void
test_two_changes_with_one_unchanged_byte_between_are_two_runs(void)
{
	uint64_t rng = test_seed();
	struct set s = {0};
	struct dsm_maskit it;
	uint64_t addr, len;

	fresh_pages(&rng);
	change(63, 1);
	change(65, 1);
	diff_at(&s, BASE);
	dsm__maskit_init(&it, s.mask.ptr, s.mask.len);
	MUST_BE(dsm__maskit_next(&it, &addr, &len), 1);
	MUST_BE(addr, BASE + 63);
	MUST_BE(len, 1);
	MUST_BE(dsm__maskit_next(&it, &addr, &len), 1);
	MUST_BE(addr, BASE + 65);
	MUST_BE(dsm__maskit_next(&it, &addr, &len), 0);
	set_fini(&s);
}

/* --- WHOLE records --- */

static void
test_whole_pages_in_a_row_share_a_record(void)
{
	uint64_t rng = test_seed(), addr, len;
	struct set s = {0};
	struct dsm_maskit it;

	fresh_pages(&rng);
	change(0, PAGE);
	for (uint64_t i = 0; i < 3; i++)
		MUST_BE(diff_at(&s, BASE + i * PAGE), PAGE);
	MUST_BE(s.mask.len, 12);
	MUST_BE(s.data.len, 3 * PAGE);
	dsm__maskit_init(&it, s.mask.ptr, s.mask.len);
	MUST_BE(dsm__maskit_next(&it, &addr, &len), 1);
	MUST_BE(addr, BASE);
	MUST_BE(len, 3 * PAGE);
	MUST_BE(dsm__maskit_next(&it, &addr, &len), 0);
	/* A gap, and a page that is not whole, end it. */
	diff_at(&s, BASE + 4 * PAGE);
	MUST_BE(s.mask.len, 24);
	page[7] = twin[7];
	diff_at(&s, BASE + 5 * PAGE);
	change(7, 1);
	diff_at(&s, BASE + 6 * PAGE);
	MUST_BE(s.mask.len, 24 + 18 + 12);
	MUST_OK(dsm__mask_check(s.mask.ptr, s.mask.len, &len));
	MUST_BE(len, 6 * PAGE - 1);
	set_fini(&s);
}

static void
test_next_task_does_not_extend_a_whole_record(void)
{
	uint64_t rng = test_seed();
	struct set s = {0};

	fresh_pages(&rng);
	change(0, PAGE);
	diff_at(&s, BASE);
	dsm__wbuf_reset(&s.mask);
	diff_at(&s, BASE + PAGE);
	MUST_BE(s.mask.len, 12);
	MUST_BE(kind_of(&s), 0);
	MUST_BE(s.mask.ptr[8], 1);
	set_fini(&s);
}

/*
 * A bitmap whose last 12 bytes read like a WHOLE record of the page before must
 * not be taken for one.
 */
static void
test_bitmap_that_looks_like_whole_is_not_extended(void)
{
	const uint64_t head = (BASE / PAGE) << 4;
	const uint32_t one = 1;
	uint64_t rng = test_seed();
	uint8_t tail[12];
	struct set s = {0};

	memcpy(tail, &head, 8);
	memcpy(tail + 8, &one, 4);
	fresh_pages(&rng);
	for (unsigned i = 0; i < PAGE - 96; i += 2)
		change(i, 1);
	for (unsigned i = 0; i < 96; i++)
		if (tail[i / 8] >> (i % 8) & 1)
			change(PAGE - 96 + i, 1);
	diff_at(&s, BASE);
	MUST_BE(s.mask.len, 520);
	MUST(memcmp(s.mask.ptr + 508, tail, 12) == 0);
	change(0, PAGE);
	diff_at(&s, BASE + PAGE);
	MUST_BE(s.mask.len, 520 + 12);
	set_fini(&s);
}

/* --- malformed input --- */

struct raw {
	uint8_t bytes[600];
	size_t len;
};

static void
raw_put(struct raw *r, uint64_t v, size_t n)
{
	memcpy(r->bytes + r->len, &v, n);
	r->len += n;
}

static void
raw_head(struct raw *r, uint64_t page_no, unsigned kind)
{
	raw_put(r, page_no << 4 | kind, 8);
}

static void
must_be_malformed(const struct raw *r)
{
	struct dsm_maskit it;
	uint64_t addr, len;
	int got;

	MUST_BE(dsm__mask_check(r->bytes, r->len, &len), DSM_EPROTO);
	dsm__maskit_init(&it, r->bytes, r->len);
	while ((got = dsm__maskit_next(&it, &addr, &len)) == 1)
		;
	MUST_BE(got, DSM_EPROTO);
	MUST_BE(dsm__maskit_next(&it, &addr, &len), DSM_EPROTO);
}

static void
runs_must_be_malformed(unsigned n, const uint16_t *off_len)
{
	struct raw r = {.len = 0};

	raw_head(&r, 5, 2);
	raw_put(&r, n, 2);
	for (unsigned i = 0; i < 2 * n; i++)
		raw_put(&r, off_len[i], 2);
	must_be_malformed(&r);
}

static void
test_malformed_runs_are_refused(void)
{
	runs_must_be_malformed(0, NULL);
	runs_must_be_malformed(1, (uint16_t[]){0, 0});
	runs_must_be_malformed(1, (uint16_t[]){4096, 1});
	runs_must_be_malformed(1, (uint16_t[]){4095, 2});
	runs_must_be_malformed(1, (uint16_t[]){65535, 65535});
	runs_must_be_malformed(2, (uint16_t[]){0, 4, 4, 1});
	runs_must_be_malformed(2, (uint16_t[]){8, 4, 0, 1});
	runs_must_be_malformed(2, (uint16_t[]){4095, 1, 4096, 1});
}

static void
test_malformed_records_are_refused(void)
{
	struct raw r = {.len = 0};

	raw_head(&r, 5, 3); /* no such kind */
	must_be_malformed(&r);
	r.len = 0;
	raw_head(&r, 5, 0); /* no pages */
	raw_put(&r, 0, 4);
	must_be_malformed(&r);
	r.len = 0;
	raw_head(&r, (UINT64_C(1) << 35) - 1, 0); /* beyond 2^47 */
	raw_put(&r, 2, 4);
	must_be_malformed(&r);
	r.len = 0;
	raw_head(&r, UINT64_C(1) << 35, 0);
	raw_put(&r, 1, 4);
	must_be_malformed(&r);
	memset(&r, 0, sizeof(r));
	raw_head(&r, 5, 1); /* a bitmap of nothing */
	r.len = 520;
	must_be_malformed(&r);
}

static void
one_run(struct raw *r, uint64_t page_no, unsigned off)
{
	raw_head(r, page_no, 2);
	raw_put(r, 1, 2);
	raw_put(r, off, 2);
	raw_put(r, 1, 2);
}

static void
test_pages_out_of_order_are_refused(void)
{
	struct raw r = {.len = 0};
	uint64_t len;

	one_run(&r, 5, 0);
	one_run(&r, 5, 100);
	MUST_BE(dsm__mask_check(r.bytes, r.len, &len), DSM_EPROTO);
	r.len = 0;
	one_run(&r, 5, 0);
	one_run(&r, 4, 0);
	MUST_BE(dsm__mask_check(r.bytes, r.len, &len), DSM_EPROTO);
	r.len = 0;
	raw_head(&r, 5, 0);
	raw_put(&r, 3, 4);
	one_run(&r, 7, 0);
	MUST_BE(dsm__mask_check(r.bytes, r.len, &len), DSM_EPROTO);
	r.bytes[12] += 1 << 4; /* page 8 */
	MUST_OK(dsm__mask_check(r.bytes, r.len, &len));
	MUST_BE(len, 3 * PAGE + 1);
}

/* One record of each kind. */
static void
three_kinds(struct set *s, uint64_t *rng)
{
	fresh_pages(rng);
	change(0, PAGE);
	diff_at(s, BASE);
	fresh_pages(rng);
	change(10, 20);
	change(50, 2);
	diff_at(s, BASE + PAGE);
	for (unsigned i = 0; i < PAGE; i += 3)
		change(i, 1);
	diff_at(s, BASE + 2 * PAGE);
	MUST_BE(s->mask.len, 12 + 18 + 520);
}

static void
test_every_truncation_of_a_mask_is_refused(void)
{
	uint64_t rng = test_seed(), n;
	struct set s = {0};

	three_kinds(&s, &rng);
	MUST_OK(dsm__mask_check(s.mask.ptr, s.mask.len, &n));
	for (size_t len = 0; len < s.mask.len; len++) {
		uint8_t *cut = malloc(len != 0 ? len : 1);
		int want =
		    len == 0 || len == 12 || len == 30 ? DSM_OK : DSM_EPROTO;

		MUST(cut != NULL);
		memcpy(cut, s.mask.ptr, len);
		MUST_BE(dsm__mask_check(cut, len, &n), want);
		free(cut);
	}
	set_fini(&s);
}

/* --- compression --- */

static void
must_come_back(const void *raw, size_t len, int allow, int want_method)
{
	struct dsm_wbuf w = {0}, scratch = {0};
	const uint8_t *p;
	size_t n, used;

	MUST_OK(dsm__wbuf_put(&w, "x", 1)); /* a part may start anywhere */
	MUST_OK(dsm__squeeze(&w, raw, len, allow));
	MUST_BE(w.ptr[1], want_method);
	MUST_OK(
	    dsm__unsqueeze(w.ptr + 1, w.len - 1, len, &scratch, &p, &n, &used));
	MUST_BE(n, len);
	MUST_BE(used, w.len - 1);
	MUST(len == 0 || memcmp(p, raw, len) == 0);
	if (len > 0)
		MUST_BE(dsm__unsqueeze(w.ptr + 1, w.len - 1, len - 1, &scratch,
		                       &p, &n, &used),
		        DSM_EPROTO);
	dsm__wbuf_fini(&w);
	dsm__wbuf_fini(&scratch);
}

static void
test_lz4_is_chosen_only_where_it_pays(void)
{
	static uint8_t zeros[100000], noise[100000];
	uint64_t rng = test_seed();

	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)test_rand(&rng);
	must_come_back(zeros, 0, 1, 0);
	must_come_back(zeros, 255, 1, 0);
	must_come_back(zeros, 256, 1, 1);
	must_come_back(zeros, sizeof(zeros), 1, 1);
	must_come_back(zeros, sizeof(zeros), 0, 0);
	must_come_back(noise, sizeof(noise), 1, 0);
	/* Saves a little, but not an eighth. */
	memset(noise, 0, sizeof(noise) / 16);
	must_come_back(noise, sizeof(noise), 1, 0);
	memset(noise, 0, sizeof(noise) / 4);
	must_come_back(noise, sizeof(noise), 1, 1);
}

static void
test_every_truncation_of_a_part_is_refused(void)
{
	static uint8_t raw[1000];
	struct dsm_wbuf w = {0}, scratch = {0};
	const uint8_t *p;
	size_t n, used;

	for (size_t i = 0; i < sizeof(raw); i++)
		raw[i] = (uint8_t)(i / 50);
	for (int lz4 = 0; lz4 < 2; lz4++) {
		dsm__wbuf_reset(&w);
		MUST_OK(dsm__squeeze(&w, raw, sizeof(raw), lz4));
		for (size_t len = 0; len < w.len; len++) {
			uint8_t *cut = malloc(len != 0 ? len : 1);

			MUST(cut != NULL);
			memcpy(cut, w.ptr, len);
			MUST_BE(dsm__unsqueeze(cut, len, 1 << 20, &scratch, &p,
			                       &n, &used),
			        DSM_EPROTO);
			free(cut);
		}
	}
	w.ptr[0] = 2; /* no such method */
	MUST_BE(dsm__unsqueeze(w.ptr, w.len, 1 << 20, &scratch, &p, &n, &used),
	        DSM_EPROTO);
	dsm__wbuf_fini(&w);
	dsm__wbuf_fini(&scratch);
}

static void
test_lz4_part_with_a_wrong_raw_length_is_refused(void)
{
	static const uint8_t zeros[1000];
	struct dsm_wbuf w = {0}, scratch = {0};
	const uint8_t *p;
	size_t n, used;

	MUST_OK(dsm__squeeze(&w, zeros, sizeof(zeros), 1));
	for (int delta = -1; delta <= 1; delta += 2) {
		uint32_t wrong = (uint32_t)((int)sizeof(zeros) + delta);

		memcpy(w.ptr + 1, &wrong, 4);
		MUST_BE(dsm__unsqueeze(w.ptr, w.len, 1 << 20, &scratch, &p, &n,
		                       &used),
		        DSM_EPROTO);
	}
	/* A claim no lz4 block of that length can keep: no memory for it. */
	memcpy(w.ptr + 1, &(uint32_t){1 << 30}, 4);
	dsm__wbuf_fini(&scratch);
	MUST_BE(dsm__unsqueeze(w.ptr, w.len, SIZE_MAX, &scratch, &p, &n, &used),
	        DSM_EPROTO);
	MUST_BE(scratch.cap, 0);
	dsm__wbuf_fini(&w);
}

SUITE(dsm_wire_packdiff, "dsm.wire.packdiff",
      T(test_unchanged_page_adds_nothing), T(test_every_single_byte_is_found),
      T(test_random_changes_match_the_model),
      T(test_skipped_bytes_do_not_count),
      T(test_page_with_only_skipped_changes_adds_nothing),
      T(test_smaller_record_is_chosen),
      T(test_two_changes_with_one_unchanged_byte_between_are_two_runs),
      T(test_whole_pages_in_a_row_share_a_record),
      T(test_next_task_does_not_extend_a_whole_record),
      T(test_bitmap_that_looks_like_whole_is_not_extended),
      T(test_malformed_runs_are_refused), T(test_malformed_records_are_refused),
      T(test_pages_out_of_order_are_refused),
      T(test_every_truncation_of_a_mask_is_refused),
      T(test_lz4_is_chosen_only_where_it_pays),
      T(test_every_truncation_of_a_part_is_refused),
      T(test_lz4_part_with_a_wrong_raw_length_is_refused));
