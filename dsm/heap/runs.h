/*
 * Page runs: which pages of a region are free, and which span each page is in.
 *
 *   0            top                      bot         n_pages
 *   | used, free |      never used        | reserved, free |
 *
 * Free runs are kept in two trees, below top and above bot, and are merged with
 * free neighbours at once. Blocks are placed first-fit at the lowest address;
 * only when no free run fits does top grow. Ranges reserved for task arenas
 * come from the other end, so that they neither spread the blocks out nor raise
 * top.
 *
 * The trees are treaps ordered by address whose nodes know the longest run of
 * their subtree (first-fit in logarithmic time); a node's priority is a hash of
 * its page, so they need no random numbers and no storage of their own.
 *
 * The page map has a pointer for every page of the region, in memory that is
 * touched as it is used. It is exact for the first and last page of every span,
 * for all pages of a small one and for every 256th of a large one; other
 * entries may be stale, and are found out by the span's own page numbers. That
 * makes a block of 100 GiB cost 100,000 entries instead of 26 million.
 *
 * Context: every call with the owner's page lock held; nothing is touched in
 * the region itself.
 */
#ifndef DSM_HEAP_RUNS_H
#define DSM_HEAP_RUNS_H

#include "span.h"

typedef struct dsm_span *_Atomic dsm_map_entry;

struct dsm_runs {
	char *base;         /* const after init */
	uint64_t n_pages;   /* const after init; in a task arena always bot */
	dsm_map_entry *map; /* const after init */
	bool zeroed;        /* never used pages read as zero */
	bool map_zeroed;    /* so does the page map */

	uint64_t top, bot;
	struct dsm_span *low, *high; /* roots */
	struct dsm_span *spare;      /* descriptors not in use, by next */
	unsigned n_spare;
	uint64_t n_used,
	    peak_used; /* pages in spans other than FREE, RESERVED */

	/* Memory for n bytes of metadata, 64-aligned; NULL: none. */
	void *(*meta)(void *ctx, size_t n);
	void *ctx;
};

/*
 * dsm__runs_take - a run of n pages, kind BUSY, first page aligned.
 *
 * align       of the address, in bytes: a power of two
 * Returns     the span; NULL when no run fits or metadata is used up
 */
struct dsm_span *dsm__runs_take(struct dsm_runs *r, uint64_t n, uint64_t align);

/* The same, kind RESERVED; upper: from the upper end while there is room. */
struct dsm_span *dsm__runs_reserve(struct dsm_runs *r, uint64_t n, bool upper);

/* Give a span back; its zeroed says what the pages read. Merges: s is gone. */
void dsm__runs_give(struct dsm_runs *r, struct dsm_span *s);

/* Cut s down to n pages; the rest as a BUSY span of its own, or NULL when there
 * is no metadata for it: then s is as before. */
struct dsm_span *dsm__runs_split(struct dsm_runs *r, struct dsm_span *s,
                                 uint64_t n);

/* Lengthen s to n pages where it lies, if the pages behind it are free. */
bool dsm__runs_grow(struct dsm_runs *r, struct dsm_span *s, uint64_t n);

/* Forget a free run that ends at top: its pages are beyond top again, but no
 * longer known to be zero. For task arenas, whose metadata need the room. */
void dsm__runs_trim(struct dsm_runs *r);

/* An empty descriptor; NULL: no metadata. */
struct dsm_span *dsm__runs_desc(struct dsm_runs *r);
void dsm__runs_desc_free(struct dsm_runs *r, struct dsm_span *s);

/* Enter s for all its pages (small), or for as many as lookup needs (others).
 */
void dsm__runs_mark(struct dsm_runs *r, struct dsm_span *s);

/* The span that holds a page; NULL: never used, or in the midst of a free run. */
struct dsm_span *dsm__runs_lookup(const struct dsm_runs *r, uint64_t page);
/* The same, also in the midst of a free run. */
struct dsm_span *dsm__runs_around(const struct dsm_runs *r, uint64_t page);

/*
 * The map's entry for a page of the region: the right span when the page is the
 * first one of a live block or in a small span, else perhaps NULL or a stale
 * one. Without lock.
 */
static inline struct dsm_span *
dsm__runs_entry(const struct dsm_runs *r, uint64_t page)
{
	/* Whoever holds a block got it from a thread that had seen the entry.
	 */
	return atomic_load_explicit(&r->map[page], memory_order_relaxed);
}

static inline void
dsm__runs_count(struct dsm_runs *r, uint64_t n)
{
	r->n_used += n;
	if (r->n_used > r->peak_used)
		r->peak_used = r->n_used;
}

#endif
