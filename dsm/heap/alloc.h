/*
 * The allocator of the shared heap: blocks in a region that someone else maps.
 *
 * Design
 *
 *   thread caches   per thread and class a stack of free slots     no lock
 *   classes         per class the spans that have free slots       class lock
 *   page runs       spans, large blocks, free runs, the page map   page lock
 *
 * Blocks up to 2048 bytes are slots of spans (span.h), larger ones runs of
 * whole pages (runs.h). A thread takes slots from its class and gives them back
 * in batches; a block freed by another thread than the one that allocated it
 * goes to the cache of the thread that frees it, and so needs nothing special.
 *
 * Nothing but the user and calloc ever writes to the region. A run compares
 * pages to find what was written, so a free list linked through freed blocks
 * would show as writes, and free would bring pages to life that the fold then
 * copies. All metadata are in private mappings of their own, got by mmap: this
 * code stands behind malloc in static programs and must not use one.
 *
 * Invariants
 *   - A slot is in exactly one place: live (its word's bit 0 is 1), in one
 * thread cache (word 0), in its span's free list, or above the span's bump.
 *   - A span is in its class's list when it has a free slot that no cache
 * holds.
 *   - Two free runs of a zone are never neighbours.
 *   - Pages at or above high water, below the upper zone, were never handed
 * out.
 *
 * Lock order: pool lock (thread caches; one a process) < class lock < page
 * lock. The words of a live block belong to whoever owns the block; race
 * reports read them at any time, therefore they are atomics.
 *
 * Zero pages. A run knows whether its pages were ever handed out; calloc of one
 * that never was touches nothing. Slots above a span's bump inherit that.
 *
 * Fork: the child has the caches of its own thread only; slots in the caches of
 * the parent's other threads are lost to it (at most 64 a class and thread),
 * for such a cache may have been copied in the middle of an operation.
 *
 * Tasks do not use this allocator but an arena of their own (task_arena.h) in a
 * range that dsm__alloc_reserve hands out; dsm__alloc_adopt makes the blocks
 * that came back ordinary ones.
 *
 * Left out: runs of pages have no thread cache, so blocks above 2048 bytes cost
 * a lock; empty spans of small classes are given back except one a class.
 */
#ifndef DSM_HEAP_ALLOC_H
#define DSM_HEAP_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/status.h"
#include "../include/dsm/dsm.h"
#include "span.h"

struct dsm_alloc;

#define DSM_ALLOC_ALIGN_MAX (UINT64_C(1) << 30)
#define DSM_ALLOC_RELEASE_MIN (UINT64_C(64) << 10)

struct dsm_alloc_params {
	/* The region: page aligned, readable and writable, reads as zero until
	 * written. Stays the caller's; must outlive the allocator. */
	void *base;
	uint64_t size; /* bytes, multiple of the page size */

	/*
	 * Pages of a freed block of DSM_ALLOC_RELEASE_MIN bytes or more, before
	 * they can be handed out again; or NULL. May drop or keep their
	 * contents. Called without locks by the thread that frees; may not call
	 * the allocator.
	 */
	void (*release)(void *ctx, void *p, size_t len);

	/* Zero-filled private memory for metadata; NULL: mmap and munmap. Large
	 * lengths (1/512 of size) are touched sparsely: do not commit them. */
	void *(*meta_map)(void *ctx, size_t len);
	void (*meta_unmap)(void *ctx, void *p, size_t len);

	/* Freed slots go back to their spans at once, not to thread caches: for
	 * a region whose free pages shall soon be free. */
	bool uncached;

	void *ctx; /* of the callbacks */
};

/*
 * dsm__alloc_create - an allocator for an empty region.
 *
 * Returns     DSM_OK; DSM_EINVAL for a misaligned or empty region; DSM_ENOMEM;
 *             DSM_ESYS when the process has no pthread key left
 * Owns        *a_p: the caller, until dsm__alloc_destroy
 */
int dsm__alloc_create(const struct dsm_alloc_params *params,
                      struct dsm_alloc **a_p);

/* Drop the metadata; NULL is fine. No other thread may be in a call. */
void dsm__alloc_destroy(struct dsm_alloc *a);

/*
 * dsm__alloc_malloc and family - dsm.h has the contracts.
 *
 * ra          the return address to remember: 47 bits, may be NULL
 * Returns     NULL with errno: ENOMEM, or EINVAL for a bad alignment
 * Context     any thread, not in signal handlers; free keeps errno
 */
void *dsm__alloc_malloc(struct dsm_alloc *a, size_t size, void *ra);
void *dsm__alloc_calloc(struct dsm_alloc *a, size_t n, size_t elem_size,
                        void *ra);
void *dsm__alloc_realloc(struct dsm_alloc *a, void *p, size_t size, void *ra);
void *dsm__alloc_aligned(struct dsm_alloc *a, size_t align, size_t size,
                         void *ra);
void dsm__alloc_free(struct dsm_alloc *a, void *p);

/*
 * Bytes that may be used of a live block: at least the size asked for. Aborts,
 * as free does, for a pointer that is none. Takes no lock and writes nothing:
 * may be called in a task, on the task's copy of the client's metadata.
 */
size_t dsm__alloc_usable(const struct dsm_alloc *a, const void *p);

/*
 * From base to the first byte that was never part of a block, page multiple.
 * Never falls. Ranges reserved in the upper zone are not below it: those are
 * [base + dsm__alloc_upper, base + size).
 */
uint64_t dsm__alloc_high_water(struct dsm_alloc *a);
/* The same between fork_prepare and fork_parent, when the locks are held. */
uint64_t dsm__alloc_high_water_forking(const struct dsm_alloc *a);
uint64_t dsm__alloc_upper(struct dsm_alloc *a);

struct dsm_alloc_info {
	void *base;
	size_t size;          /* asked for */
	size_t elem_size;     /* of calloc; 0: none */
	void *return_address; /* of the call that made it or last resized it */
	char label[DSM_LABEL_MAX]; /* "" when it has none */
	bool alive;
};

/*
 * dsm__alloc_find - the block that an address lies in.
 *
 * Returns     true: *out is filled. A slot that holds no block is found too,
 * with alive false and its whole size; false when no slot or large block is
 * there Context     any thread; takes the page lock, allocates nothing
 */
bool dsm__alloc_find(struct dsm_alloc *a, const void *addr,
                     struct dsm_alloc_info *out);

/* dsm_name: DSM_OK, DSM_EINVAL (in no live block), DSM_ENOMEM. */
int dsm__alloc_name(struct dsm_alloc *a, const void *p, const char *label);

void dsm__alloc_stats(struct dsm_alloc *a, struct dsm_stats *out);

/*
 * Around fork(), from pthread_atfork handlers: prepare takes every lock, parent
 * and child let go of them. Several allocators may each have their handlers.
 */
void dsm__alloc_fork_prepare(struct dsm_alloc *a);
void dsm__alloc_fork_parent(struct dsm_alloc *a);
void dsm__alloc_fork_child(struct dsm_alloc *a);

/*
 * dsm__alloc_reserve - a range for task arenas.
 *
 * len         bytes, multiple of the page size
 * upper       from the upper end of the region, so that it does not raise high
 *             water; else from the lowest place where it fits
 * owner       to be named when the range is used or given back
 * zeroed_p    [out] the range was never used and reads as zero
 * Returns     its start; NULL when there is no room
 * Owns        the caller: adopt or unreserve it
 */
void *dsm__alloc_reserve(struct dsm_alloc *a, size_t len, bool upper,
                         uint64_t owner, bool *zeroed_p);

/* Give back what of [base, base + len) the owner still has: parts may have been
 * adopted, freed and reserved again. written: it may have been written to. */
void dsm__alloc_unreserve(struct dsm_alloc *a, void *base, uint64_t len,
                          uint64_t owner, bool written);

/* What of [base, base + len) is still reserved is lost for good: something may
 * be in use there that nobody knows. Returns the pages of it. */
uint64_t dsm__alloc_abandon(struct dsm_alloc *a, void *base, uint64_t len);

/*
 * dsm__alloc_adopt - take over the blocks of a committed task arena.
 *
 * base, len   the arena's, within a reserved range; it holds what the task's
 *             pages held. Only for arenas that were sealed: otherwise unreserve
 * Returns     DSM_OK: the blocks are found and freed like any other, the rest
 * of the arena is free. DSM_EPROTO when the arena's metadata make no sense
 * (they come from another machine: every number is checked); DSM_EINVAL when no
 * such range is the owner's: nothing changed. DSM_ENOMEM: some blocks may be
 * unknown to the allocator
 */
int dsm__alloc_adopt(struct dsm_alloc *a, void *base, size_t len,
                     uint64_t owner);

#endif
