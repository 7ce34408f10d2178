/*
 * View: the image's file as a slot can write to it, for pages that the file has
 * already. A store into such a page, or a receive, costs the copy and nothing else,
 * where write(2) pays once more for what the kernel does for a page of a file; for
 * pages that the file does not have it is the other way round (doc/ARCHITECTURE.md).
 *
 * Pieces of the file are mapped as they are used, each in the one place that its
 * offset has modulo the view's length, and stay until another one takes the place.
 */
#ifndef DSM_IMAGE_VIEW_H
#define DSM_IMAGE_VIEW_H

#include "image.h"

#define DSM_VIEW_PIECE (UINT64_C(1) << 30)
#define DSM_VIEW_PIECES 64u
#define DSM_VIEW_SIZE (DSM_VIEW_PIECES * DSM_VIEW_PIECE)

/* {0} is one without addresses: dsm__view_at finds nothing. */
struct dsm_view {
	uint8_t *base; /* DSM_VIEW_SIZE addresses set aside */
	uint64_t
	    mapped[DSM_VIEW_PIECES]; /* file offset of the piece, plus one */
};

/* Where the pages [off, +n) of the file can be written, or NULL: not in one piece,
 * or there is no memory for the mapping. Valid until the next call. */
uint8_t *dsm__view_at(struct dsm_view *v, const struct dsm_image *im,
                      uint64_t off, uint32_t n);

#endif
