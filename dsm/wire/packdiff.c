/*
 * Write sets as bytes. The encoder compares a page with its twin 64 bytes at a
 * time into a bitmap with one bit a byte; run count, choice of record and data
 * part all come from the bitmap. The decoder walks records without allocating.
 *
 * Runs inside slots: nothing here beyond libc and lz4.
 */
#include "packdiff.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <endian.h>
#include <lz4.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "../base/page.h"

#define WORDS ((int)(DSM_PAGE / 64)) /* of a page's bitmap */
#define MAP_BYTES 512
#define MAX_PAGE_NO (UINT64_C(1) << (47 - DSM_PAGE_SHIFT))

enum kind {
	KIND_WHOLE = 0,
	KIND_BITMAP = 1,
	KIND_RUNS = 2,
	KIND_BAD = 16, /* iterator only: malformed input was seen */
};

/* --- comparing --- */

/* Bit i of the result: byte i of the 64 differs. */
static uint64_t
compare64(const uint8_t *a, const uint8_t *b)
{
	uint64_t map = 0;

#if defined(__SSE2__)
	for (int i = 0; i < 4; i++) {
		__m128i x = _mm_loadu_si128((const __m128i *)a + i);
		__m128i y = _mm_loadu_si128((const __m128i *)b + i);
		unsigned same =
		    (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(x, y));

		map |= (uint64_t)(~same & 0xffff) << (16 * i);
	}
#else
	const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);

	for (int i = 0; i < 8; i++) {
		uint64_t x, y;

		memcpy(&x, a + 8 * i, 8);
		memcpy(&y, b + 8 * i, 8);
		x = le64toh(x ^ y);
		/* Bit 7 of each byte: byte is not 0; then gather the eight. */
		x = ((((x & low) + low) | x) & ~low) >> 7;
		map |= (x * UINT64_C(0x0102040810204080) >> 56) << (8 * i);
	}
#endif
	return map;
}

static void
clear_bits(uint64_t *map, unsigned lo, unsigned hi)
{
	for (unsigned i = lo; i < hi && i < DSM_PAGE; i++)
		map[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

struct summary {
	uint32_t n_bytes, n_runs;
};

static struct summary
summarise(const uint64_t *map)
{
	struct summary s = {0, 0};
	uint64_t carry = 0; /* last bit of the word before */

	for (int i = 0; i < WORDS; i++) {
		uint64_t w = map[i];

		/* popcount is a library call on baseline x86-64. */
		if (w == 0) {
			carry = 0;
			continue;
		}
		s.n_bytes += (uint32_t)__builtin_popcountll(w);
		s.n_runs +=
		    (uint32_t)__builtin_popcountll(w & ~(w << 1 | carry));
		carry = w >> 63;
	}
	return s;
}

/* --- encoding; room was reserved, so nothing can fail --- */

static void
append(struct dsm_wbuf *w, const void *p, size_t n)
{
	memcpy(w->ptr + w->len, p, n);
	w->len += n;
}

static void
append_head(struct dsm_wbuf *mask, uint64_t page_no, enum kind kind)
{
	uint64_t head = htole64(page_no << 4 | kind);

	append(mask, &head, sizeof(head));
}

/* Pages of the WHOLE record that ends right before this page, 0: no such. */
static uint32_t
pages_before(const struct dsm_wbuf *mask, uint64_t page_no)
{
	uint64_t head;
	uint32_t n;

	if (mask->len == 0 || mask->whole_end != mask->len)
		return 0;
	memcpy(&head, mask->ptr + mask->len - 12, sizeof(head));
	memcpy(&n, mask->ptr + mask->len - 4, sizeof(n));
	n = le32toh(n);
	return (le64toh(head) >> 4) + n == page_no && n < UINT32_MAX ? n : 0;
}

static void
append_whole(struct dsm_wbuf *mask, uint64_t page_no)
{
	uint32_t n = pages_before(mask, page_no);

	if (n > 0)
		mask->len -= sizeof(n);
	else
		append_head(mask, page_no, KIND_WHOLE);
	n = htole32(n + 1);
	append(mask, &n, sizeof(n));
	mask->whole_end = mask->len;
}

static void
append_bitmap(struct dsm_wbuf *mask, uint64_t page_no, const uint64_t *map)
{
	append_head(mask, page_no, KIND_BITMAP);
	for (int i = 0; i < WORDS; i++) {
		uint64_t w = htole64(map[i]);

		append(mask, &w, sizeof(w));
	}
}

/* First bit >= from that is set in (map ^ flip); DSM_PAGE when none is. */
static unsigned
find_bit(const uint8_t *map, unsigned from, uint64_t flip)
{
	unsigned i = from / 64;
	uint64_t below =
	    from % 64 != 0 ? ~UINT64_C(0) << (from % 64) : ~UINT64_C(0);

	for (; i < (unsigned)WORDS; i++, below = ~UINT64_C(0)) {
		uint64_t w;

		memcpy(&w, map + (size_t)8 * i, sizeof(w));
		w = (le64toh(w) ^ flip) & below;
		if (w != 0)
			return i * 64 + (unsigned)__builtin_ctzll(w);
	}
	return DSM_PAGE;
}

/* Next run of set bits at or after from: 1 and [*off_p, *end_p), or 0. */
static int
next_run(const uint8_t *map, unsigned from, unsigned *off_p, unsigned *end_p)
{
	*off_p = find_bit(map, from, 0);
	if (*off_p == DSM_PAGE)
		return 0;
	*end_p = find_bit(map, *off_p + 1, ~UINT64_C(0));
	return 1;
}

static void
append_runs(struct dsm_wbuf *mask, uint64_t page_no, const uint64_t *map,
            uint32_t n_runs)
{
	uint16_t n = htole16((uint16_t)n_runs);
	uint64_t le_map[WORDS];
	unsigned off, end = 0;

	for (int i = 0; i < WORDS; i++)
		le_map[i] = htole64(map[i]);
	append_head(mask, page_no, KIND_RUNS);
	append(mask, &n, sizeof(n));
	while (next_run((const uint8_t *)le_map, end, &off, &end)) {
		uint16_t run[2] = {htole16((uint16_t)off),
		                   htole16((uint16_t)(end - off))};

		append(mask, run, sizeof(run));
	}
}

/*
 * The bytes of the page whose bits are set. Copies of eight at a time may write
 * past the last byte: dst has seven bytes of slack, and the end of the page,
 * where they would read past it, is copied exactly.
 */
static uint8_t *
copy_word(uint8_t *dst, const uint8_t *src, uint64_t w, int at_end)
{
	while (w != 0) {
		unsigned off = (unsigned)__builtin_ctzll(w);
		uint64_t gap = ~(w >> off);
		unsigned n = gap != 0 ? (unsigned)__builtin_ctzll(gap) : 64;

		if (n <= 8 && !(at_end && off > 56))
			memcpy(dst, src + off, 8);
		else
			memcpy(dst, src + off, n);
		dst += n;
		if (off + n >= 64)
			break;
		w &= ~UINT64_C(0) << (off + n);
	}
	return dst;
}

#define SLACK 7

#if defined(__x86_64__)
/* Bit i of m becomes byte i: 0xff where it is set. */
__attribute__((target("bmi2"))) static uint64_t
spread(uint64_t m)
{
	return _pdep_u64(m, UINT64_C(0x0101010101010101)) * 0xff;
}

/* Eight bytes at a time: a word of short runs costs no more than one of long
 * ones. */
__attribute__((target("bmi2,popcnt"))) static uint8_t *
gather_bmi2(uint8_t *dst, const uint8_t *page, const uint8_t *map)
{
	for (unsigned i = 0; i < MAP_BYTES; i++) {
		uint64_t v;

		if (map[i] == 0)
			continue;
		memcpy(&v, page + (size_t)8 * i, sizeof(v));
		v = _pext_u64(v, spread(map[i]));
		memcpy(dst, &v, sizeof(v));
		dst += __builtin_popcountll(map[i]);
	}
	return dst;
}

static int
have_bmi2(void)
{
	return __builtin_cpu_supports("bmi2") &&
	       __builtin_cpu_supports("popcnt");
}
#endif

static void
append_data(struct dsm_wbuf *data, const uint8_t *page, const uint64_t *map)
{
	uint8_t *dst = data->ptr + data->len;

#if defined(__x86_64__)
	if (have_bmi2()) {
		dst = gather_bmi2(dst, page, (const uint8_t *)map);
		data->len = (size_t)(dst - data->ptr);
		return;
	}
#endif

	for (int i = 0; i < WORDS; i++)
		dst = copy_word(dst, page + (size_t)64 * (size_t)i, map[i],
		                i == WORDS - 1);
	data->len = (size_t)(dst - data->ptr);
}

int
dsm__packdiff_page(struct dsm_wbuf *mask, struct dsm_wbuf *data, uint64_t addr,
                   const void *page, const void *twin, unsigned skip_lo,
                   unsigned skip_hi, uint32_t *n_changed_p)
{
	uint64_t map[WORDS];
	struct summary s;
	int err;

	if (memcmp(page, twin, DSM_PAGE) == 0) {
		*n_changed_p = 0;
		return DSM_OK;
	}
	for (int i = 0; i < WORDS; i++)
		map[i] =
		    compare64((const uint8_t *)page + (size_t)64 * (size_t)i,
		              (const uint8_t *)twin + (size_t)64 * (size_t)i);
	clear_bits(map, skip_lo, skip_hi);
	s = summarise(map);
	if (s.n_bytes > 0) {
		err = dsm__wbuf_reserve(mask, 8 + MAP_BYTES);
		if (err == DSM_OK)
			err = dsm__wbuf_reserve(data, s.n_bytes + SLACK);
		if (err != DSM_OK)
			return err;
		if (s.n_bytes == DSM_PAGE)
			append_whole(mask, addr >> DSM_PAGE_SHIFT);
		else if (2 + 4 * s.n_runs < MAP_BYTES)
			append_runs(mask, addr >> DSM_PAGE_SHIFT, map,
			            s.n_runs);
		else
			append_bitmap(mask, addr >> DSM_PAGE_SHIFT, map);
		append_data(data, page, map);
	}
	*n_changed_p = s.n_bytes;
	return DSM_OK;
}

/* --- walking --- */

void
dsm__maskit_init(struct dsm_maskit *it, const void *mask, size_t len)
{
	*it = (struct dsm_maskit){.p = mask};
	it->end = len > 0 ? it->p + len : it->p;
}

/* n bytes of the input, or NULL. */
static const uint8_t *
take(struct dsm_maskit *it, size_t n)
{
	const uint8_t *p = it->p;

	if ((size_t)(it->end - p) < n)
		return NULL;
	it->p += n;
	return p;
}

static uint32_t
le16_at(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static int
open_whole(struct dsm_maskit *it)
{
	uint32_t n;

	it->rec = take(it, sizeof(n));
	if (it->rec == NULL)
		return DSM_EPROTO;
	memcpy(&n, it->rec, sizeof(n));
	it->left = le32toh(n);
	if (it->left == 0 || it->left > MAX_PAGE_NO - it->page)
		return DSM_EPROTO;
	return DSM_OK;
}

static int
open_bitmap(struct dsm_maskit *it)
{
	it->rec = take(it, MAP_BYTES);
	if (it->rec == NULL || find_bit(it->rec, 0, 0) == DSM_PAGE)
		return DSM_EPROTO;
	it->left = 1;
	return DSM_OK;
}

static int
open_runs(struct dsm_maskit *it)
{
	const uint8_t *n = take(it, 2);

	if (n == NULL)
		return DSM_EPROTO;
	it->left = le16_at(n);
	it->rec = take(it, (size_t)4 * it->left);
	return it->rec == NULL || it->left == 0 ? DSM_EPROTO : DSM_OK;
}

/* Open the record at p: rec at its body, left > 0. */
static int
open_record(struct dsm_maskit *it)
{
	const uint8_t *p = take(it, 8);
	uint64_t head;

	if (p == NULL)
		return DSM_EPROTO;
	memcpy(&head, p, sizeof(head));
	head = le64toh(head);
	it->page = head >> 4;
	it->kind = head & 15;
	it->pos = 0;
	if (it->page >= MAX_PAGE_NO)
		return DSM_EPROTO;
	switch (it->kind) {
	case KIND_WHOLE:
		return open_whole(it);
	case KIND_BITMAP:
		return open_bitmap(it);
	case KIND_RUNS:
		return open_runs(it);
	default:
		return DSM_EPROTO;
	}
}

/* The next run of the open record; left becomes 0 with its last. */
static int
run_of_record(struct dsm_maskit *it, unsigned *off_p, uint64_t *len_p)
{
	unsigned end = 0;

	switch (it->kind) {
	case KIND_WHOLE:
		*off_p = 0;
		*len_p = (uint64_t)it->left << DSM_PAGE_SHIFT;
		it->left = 0;
		return DSM_OK;
	case KIND_BITMAP:
		next_run(it->rec, it->pos, off_p, &end);
		*len_p = end - *off_p;
		it->pos = end;
		it->left = find_bit(it->rec, end, 0) < DSM_PAGE;
		return DSM_OK;
	default:
		*off_p = le16_at(it->rec);
		*len_p = le16_at(it->rec + 2);
		it->rec += 4;
		it->left--;
		if (*off_p < it->pos || *len_p == 0 ||
		    *off_p + *len_p > DSM_PAGE)
			return DSM_EPROTO;
		/* The byte after a run is unchanged. */
		it->pos = *off_p + (unsigned)*len_p + 1;
		return DSM_OK;
	}
}

int
dsm__maskit_next_page(struct dsm_maskit *it, uint64_t *addr_p, uint64_t *len_p,
                      const uint8_t **bitmap_p, uint64_t *n_bytes_p)
{
	int r;

	if (it->kind != KIND_BAD && it->left == 0 && it->p != it->end &&
	    open_record(it) != DSM_OK) {
		it->kind = KIND_BAD;
		return DSM_EPROTO;
	}
	*bitmap_p = NULL;
	if (it->kind == KIND_BITMAP && it->left > 0 && it->pos == 0) {
		uint64_t n = 0;

		for (unsigned i = 0; i < MAP_BYTES; i += 8) {
			uint64_t word;

			memcpy(&word, it->rec + i, sizeof(word));
			n += (uint64_t)__builtin_popcountll(word);
		}
		it->left = 0;
		*addr_p = it->page << DSM_PAGE_SHIFT;
		*len_p = DSM_PAGE;
		*bitmap_p = it->rec;
		*n_bytes_p = n;
		return 1;
	}
	r = dsm__maskit_next(it, addr_p, len_p);
	*n_bytes_p = *len_p;
	return r;
}

void
dsm__bitmap_store(void *page, const uint8_t *bitmap, const uint8_t *bytes,
                  size_t n_bytes)
{
	const uint8_t *end = bytes + n_bytes;

	for (unsigned i = 0; i < MAP_BYTES; i++) {
		uint8_t *to = (uint8_t *)page + (size_t)8 * i;
		unsigned m = bitmap[i];

		if (m == 0xff && end - bytes >= 8) {
			memcpy(to, bytes, 8);
			bytes += 8;
			continue;
		}
		/* Byte by byte: another thread may be writing those between. */
		for (; m != 0 && bytes < end; m &= m - 1)
			to[__builtin_ctz(m)] = *bytes++;
	}
}

int
dsm__maskit_next(struct dsm_maskit *it, uint64_t *addr_p, uint64_t *len_p)
{
	unsigned off = 0;
	uint64_t len = 0;

	if (it->kind == KIND_BAD)
		return DSM_EPROTO;
	if (it->left == 0) {
		if (it->p == it->end)
			return 0;
		if (open_record(it) != DSM_OK)
			goto bad;
	}
	if (run_of_record(it, &off, &len) != DSM_OK)
		goto bad;
	*addr_p = (it->page << DSM_PAGE_SHIFT) + off;
	*len_p = len;
	return 1;
bad:
	it->kind = KIND_BAD;
	return DSM_EPROTO;
}

/* Changed bytes of the record that it has just opened, or DSM_EPROTO. */
static int
check_record(struct dsm_maskit *it, uint64_t *n_bytes_p, uint64_t *n_pages_p)
{
	uint64_t run, n_bytes = 0;
	unsigned off;

	*n_pages_p = it->kind == KIND_WHOLE ? it->left : 1;
	if (it->kind == KIND_BITMAP) {
		/* Every bitmap but the empty one is well-formed: count. */
		for (unsigned i = 0; i < MAP_BYTES; i += 8) {
			uint64_t word;

			memcpy(&word, it->rec + i, sizeof(word));
			n_bytes += (uint64_t)__builtin_popcountll(word);
		}
		it->left = 0;
	}
	while (it->left > 0) {
		if (run_of_record(it, &off, &run) != DSM_OK)
			return DSM_EPROTO;
		n_bytes += run;
	}
	*n_bytes_p = n_bytes;
	return DSM_OK;
}

int
dsm__mask_check(const void *mask, size_t len, uint64_t *n_bytes_p)
{
	struct dsm_maskit it;
	uint64_t n_bytes = 0, free_page = 0;

	dsm__maskit_init(&it, mask, len);
	while (it.p != it.end) {
		uint64_t n, n_pages;

		if (open_record(&it) != DSM_OK || it.page < free_page ||
		    check_record(&it, &n, &n_pages) != DSM_OK)
			return DSM_EPROTO;
		n_bytes += n;
		free_page = it.page + n_pages;
	}
	*n_bytes_p = n_bytes;
	return DSM_OK;
}

/* --- compression --- */

#define STORED 0
#define LZ4 1
#define STORED_HEAD 5 /* u8 method, u32 raw length */
#define LZ4_HEAD 9    /* and u32 packed length */
#define LZ4_MIN 256
#define LZ4_MAX_RATIO 255 /* of the format: bounds what a peer can claim */

static void
append_part_head(struct dsm_wbuf *out, uint8_t method, uint32_t raw_len)
{
	raw_len = htole32(raw_len);
	append(out, &method, 1);
	append(out, &raw_len, sizeof(raw_len));
}

/* The lz4 form, if it is small enough: its packed length, or 0. */
static uint32_t
squeeze_lz4(struct dsm_wbuf *out, const void *raw, size_t len)
{
	size_t room = len - len / 8 - (LZ4_HEAD - STORED_HEAD);
	uint32_t le;
	int n;

	if (len < LZ4_MIN || len > LZ4_MAX_INPUT_SIZE)
		return 0;
	n = LZ4_compress_default(raw, (char *)out->ptr + out->len + LZ4_HEAD,
	                         (int)len, (int)room);
	if (n <= 0)
		return 0;
	append_part_head(out, LZ4, (uint32_t)len);
	le = htole32((uint32_t)n);
	append(out, &le, sizeof(le));
	out->len += (size_t)n;
	return (uint32_t)n;
}

int
dsm__squeeze(struct dsm_wbuf *out, const void *raw, size_t len, int allow_lz4)
{
	int err;

	if (len > UINT32_MAX)
		return DSM_EINVAL;
	err = dsm__wbuf_reserve(out, len + LZ4_HEAD);
	if (err != DSM_OK)
		return err;
	if (allow_lz4 && squeeze_lz4(out, raw, len) > 0)
		return DSM_OK;
	append_part_head(out, STORED, (uint32_t)len);
	return dsm__wbuf_put(out, raw, len);
}

static uint32_t
le32_at(const uint8_t *p)
{
	return le16_at(p) | le16_at(p + 2) << 16;
}

static int
unsqueeze_lz4(const uint8_t *in, size_t in_len, uint32_t raw_len,
              struct dsm_wbuf *scratch, size_t *packed_p)
{
	uint32_t packed;
	int err;

	if (in_len < LZ4_HEAD || raw_len > LZ4_MAX_INPUT_SIZE)
		return DSM_EPROTO;
	packed = le32_at(in + STORED_HEAD);
	if (packed > in_len - LZ4_HEAD || raw_len / LZ4_MAX_RATIO > packed)
		return DSM_EPROTO;
	dsm__wbuf_reset(scratch);
	err = dsm__wbuf_reserve(scratch, (size_t)raw_len + 1);
	if (err != DSM_OK)
		return err;
	if (LZ4_decompress_safe((const char *)in + LZ4_HEAD,
	                        (char *)scratch->ptr, (int)packed,
	                        (int)raw_len) != (int)raw_len)
		return DSM_EPROTO;
	scratch->len = raw_len;
	*packed_p = packed;
	return DSM_OK;
}

int
dsm__unsqueeze(const uint8_t *in, size_t in_len, size_t max,
               struct dsm_wbuf *scratch, const uint8_t **p_p, size_t *len_p,
               size_t *used_p)
{
	uint32_t raw_len;
	size_t packed = 0;
	int err;

	if (in_len < STORED_HEAD)
		return DSM_EPROTO;
	raw_len = le32_at(in + 1);
	if (raw_len > max)
		return DSM_EPROTO;
	switch (in[0]) {
	case STORED:
		if (raw_len > in_len - STORED_HEAD)
			return DSM_EPROTO;
		*p_p = in + STORED_HEAD;
		*used_p = STORED_HEAD + (size_t)raw_len;
		break;
	case LZ4:
		err = unsqueeze_lz4(in, in_len, raw_len, scratch, &packed);
		if (err != DSM_OK)
			return err;
		*p_p = scratch->ptr;
		*used_p = LZ4_HEAD + packed;
		break;
	default:
		return DSM_EPROTO;
	}
	*len_p = raw_len;
	return DSM_OK;
}
