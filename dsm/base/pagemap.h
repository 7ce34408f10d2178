/*
 * Which pages of a private file mapping are private copies: PAGEMAP_SCAN (6.7+),
 * else /proc/self/pagemap. A page is private when it is present or swapped and
 * not file-backed.
 */
#ifndef DSM_BASE_PAGEMAP_H
#define DSM_BASE_PAGEMAP_H

#include "page.h"
#include "status.h"

struct dsm_pagemap {
	int fd;   /* /proc/self/pagemap */
	int scan; /* 1: PAGEMAP_SCAN works */
};

/* Opens and probes. use_scan = 0 forces the old way (tests). DSM_ESYS. */
int dsm__pagemap_init(struct dsm_pagemap *pm, int use_scan);
void dsm__pagemap_fini(struct dsm_pagemap *pm);

/*
 * Private pages of [start, start + n_pages pages), ascending, merged into
 * extents: cb(arg, start, n_pages) for each; a non-zero answer ends the walk and
 * is returned. DSM_OK, DSM_ESYS. Allocates nothing. The slot uses it too.
 */
int dsm__pagemap_private(const struct dsm_pagemap *pm, uint64_t start,
                         uint64_t n_pages,
                         int (*cb)(void *arg, uint64_t start, uint64_t n_pages),
                         void *arg);

#endif
