/*
 * packdiff - the write set of tasks as bytes: which bytes of which pages
 * changed (the mask part) and their new values (the data part).
 *
 * Two byte strings, because they go to two places: masks to the coordinator
 * (race check) and, with the data, to the client (commit).
 *
 * Mask part: a sequence of page records, ascending by page within a task:
 *   u64  page number (address >> 12) << 4 | kind
 *   kind 0 WHOLE   every byte of n pages:     u32 n
 *        1 BITMAP  512 bytes, bit i = byte i
 *        2 RUNS    u16 n, then n x {u16 off, u16 len}: ascending, disjoint,
 *                  not touching (a gap of one unchanged byte at least), len >= 1,
 *                  off + len <= 4096
 * A run never includes an unchanged byte: bridging a gap would claim writes
 * that were not made (doc/MEMORY-MODEL.md).
 * Data part: the changed bytes, in mask order, nothing else.
 *
 * On the wire either part may be lz4-compressed (dsm__squeeze, dsm__unsqueeze
 * below). BLOB `masks` of DONE is one squeezed mask part: the concatenated masks of
 * the attempt's tasks. BLOB `packed` of WRITES is zero or more pairs: a squeezed
 * mask part, then the squeezed data part that belongs to it.
 */
#ifndef DSM_WIRE_PACKDIFF_H
#define DSM_WIRE_PACKDIFF_H

#include "wire.h"

/*
 * dsm__packdiff_page - compare one page with its twin and append the difference.
 *
 * addr        byte address of the page, page aligned
 * page, twin  4096 bytes each; read only
 * mask, data  appended to; unchanged when the page is. A mask buffer holds the
 *             pages of one task: dsm__wbuf_reset it before the next one's
 * n_changed_p [out] changed bytes, 0 when equal
 * Returns     DSM_OK, DSM_ENOMEM (then mask and data are as before the call)
 * Context     any thread; never blocks or logs
 * A page whose every byte changed extends a preceding WHOLE record when it is the
 * next page. Otherwise the smaller of BITMAP and RUNS is chosen.
 * skip_lo, skip_hi: bytes [skip_lo, skip_hi) of the page do not count as
 * changed (thread-local storage); both 0 for none.
 */
int dsm__packdiff_page(struct dsm_wbuf *mask, struct dsm_wbuf *data,
                       uint64_t addr, const void *page, const void *twin,
                       unsigned skip_lo, unsigned skip_hi,
                       uint32_t *n_changed_p);

/* Walks a mask part, run by run. */
struct dsm_maskit {
	const uint8_t *p, *end; /* private */
	uint64_t page;
	uint32_t kind, left, pos;
	const uint8_t *rec;
};
void dsm__maskit_init(struct dsm_maskit *it, const void *mask, size_t len);
/*
 * Next run of changed bytes: 1 and {addr, len} (len up to n whole pages for
 * WHOLE, else within one page), 0 at the end, DSM_EPROTO for malformed input.
 */
int dsm__maskit_next(struct dsm_maskit *it, uint64_t *addr_p, uint64_t *len_p);

/*
 * The same, but a BITMAP record not yet begun comes whole: *addr_p its page,
 * *len_p DSM_PAGE, *bitmap_p its 512 bytes, *n_bytes_p how many bits are set.
 * Otherwise *bitmap_p is NULL and *n_bytes_p is *len_p.
 */
int dsm__maskit_next_page(struct dsm_maskit *it, uint64_t *addr_p,
                          uint64_t *len_p, const uint8_t **bitmap_p,
                          uint64_t *n_bytes_p);
/* Store the bytes of a page whose bits are set in bitmap (512 bytes); they lie
 * one after the other at bytes, n_bytes of them. Others are not written. */
void dsm__bitmap_store(void *page, const uint8_t *bitmap, const uint8_t *bytes,
                       size_t n_bytes);

/* Check a mask part whole: DSM_OK and its number of changed bytes, or
 * DSM_EPROTO. Page numbers must be ascending without repetition, addresses
 * below 2^47. */
int dsm__mask_check(const void *mask, size_t len, uint64_t *n_bytes_p);

/*
 * A part on the wire: u8 method, u32 raw length, then for method
 *   0 stored  the raw bytes
 *   1 lz4     u32 packed length, one lz4 block of that length
 * dsm__squeeze picks lz4 when it saves an eighth and the part is >= 256 bytes
 * (allow_lz4 = 0: always stored). dsm__unsqueeze: *p_p points into `in` for
 * stored parts and to *scratch (grown as needed) otherwise; max bounds the raw
 * length a peer may make us allocate. used_p: bytes of `in` the part took.
 */
int dsm__squeeze(struct dsm_wbuf *out, const void *raw, size_t len,
                 int allow_lz4);
int dsm__unsqueeze(const uint8_t *in, size_t in_len, size_t max,
                   struct dsm_wbuf *scratch, const uint8_t **p_p, size_t *len_p,
                   size_t *used_p);

#endif
