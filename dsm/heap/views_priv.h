/* What two views are made of, for views.c, views_commit.c and views_fork.c. */
#ifndef DSM_HEAP_VIEWS_PRIV_H
#define DSM_HEAP_VIEWS_PRIV_H

#include <stdint.h>

#include "../base/pagemap.h"
#include "views.h"

struct dsm_views {
	uint8_t *base, *serving; /* const after init */
	uint64_t size;           /* const after init */
	int fd; /* const after init, the number even in a child */
	struct dsm_pagemap pm;       /* const after init */
	uint64_t private_end;        /* run lock; bytes from base, see above */
	uint64_t seen_end;           /* run lock; largest `used` of a freeze */
	struct dsm_extents released; /* run lock; not yet reported */
	struct dsm_extents touched;  /* run lock; scratch of apply */
	struct dsm_extents privates; /* run lock; scratch of apply */
	struct dsm_extents pinned;   /* run lock */

	/* Run lock: private pages of [scan_lo, scan_hi), see conflict. */
	struct dsm_extents scanned;
	uint64_t scan_lo, scan_hi, scan_pages;

	/* Fork, run lock. One pipe for all children that still copy: they write
	 * signs of life, and end of file says that the last one is done (or
	 * dead). -1: no child copies. */
	int children_fd;
	int child_fd;       /* write end, from prepare to parent/child */
	uint64_t fork_used; /* from prepare to child */
	int fork_err;       /* of prepare */
};

static inline uint64_t
offset_of(const struct dsm_views *v, uint64_t addr)
{
	return addr - (uintptr_t)v->base;
}

static inline int
inside(const struct dsm_views *v, uint64_t addr, uint64_t len)
{
	uint64_t off = offset_of(v, addr); /* huge when below base */

	return off <= v->size && len <= v->size - off;
}

static inline uint64_t
max_of(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t
min_of(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Reads what others may be writing on purpose, also stacks that lie in the heap
 * with their red zones. */
#define READS_ANYTHING __attribute__((no_sanitize("thread", "address")))

/* A file of that size; *fd_p is the caller's to close. */
int dsm__views_file(uint64_t size, int *fd_p, struct dsm_error *e);
/* Bytes [off, off + len) of the file, mapped there. */
int dsm__views_map(void *at, uint64_t off, uint64_t len, int fd, int flags);
/* Chunks below `used` become private in the program view. */
int dsm__views_flip(struct dsm_views *v, uint64_t used);
/* Wait until no forked child copies any more: DSM_OK, or DSM_ETIMEDOUT when none
 * has given a sign of life for silent_ms. */
int dsm__views_children(struct dsm_views *v, unsigned silent_ms);
/* The same with the usual patience, and in words. */
int dsm__views_settle(struct dsm_views *v, struct dsm_error *e);

#endif
