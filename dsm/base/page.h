/* Page arithmetic. 4 KiB: a peer with another page size is refused. */
#ifndef DSM_BASE_PAGE_H
#define DSM_BASE_PAGE_H

#include <stdint.h>

#define DSM_PAGE_SHIFT 12
#define DSM_PAGE (UINT64_C(1) << DSM_PAGE_SHIFT)
#define DSM_PAGE_MASK (DSM_PAGE - 1)

static inline uint64_t
dsm__page_down(uint64_t x)
{
	return x & ~DSM_PAGE_MASK;
}

static inline uint64_t
dsm__page_up(uint64_t x)
{
	return (x + DSM_PAGE_MASK) & ~DSM_PAGE_MASK;
}

/* A run of whole pages: start is a byte address, page aligned. */
struct dsm_extent {
	uint64_t start;
	uint64_t n_pages;
};

#endif
