#include "view.h"

#include <sys/mman.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

uint8_t *
dsm__view_at(struct dsm_view *v, const struct dsm_image *im, uint64_t off,
             uint32_t n)
{
	uint64_t piece = off & ~(DSM_VIEW_PIECE - 1);
	uint64_t i = piece / DSM_VIEW_PIECE % DSM_VIEW_PIECES;
	uint64_t len = n * DSM_PAGE;
	uint8_t *at = v->base + i * DSM_VIEW_PIECE;

	if (v->base == NULL || off - piece + len > DSM_VIEW_PIECE)
		return NULL;
	if (v->mapped[i] != piece + 1) {
		v->mapped[i] = 0;
		if (mmap(at, DSM_VIEW_PIECE, PROT_READ | PROT_WRITE,
		         MAP_SHARED | MAP_NORESERVE | MAP_FIXED, im->pages_fd,
		         (off_t)piece) != at)
			return NULL;
		v->mapped[i] = piece + 1;
	}
	at += off - piece;
	/* Many pages a fault. Before Linux 5.14 each is one of its own. */
	(void)madvise(at, len, MADV_POPULATE_READ);
	return at;
}
