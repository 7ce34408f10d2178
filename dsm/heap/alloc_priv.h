/* What the files of the allocator share: alloc.c, alloc_info.c, tcache.c, adopt.c. */
#ifndef DSM_HEAP_ALLOC_PRIV_H
#define DSM_HEAP_ALLOC_PRIV_H

#include <pthread.h>

#include "alloc.h"
#include "runs.h"

#define DSM_CACHE_SLOTS 64u

struct dsm_cached {
	/* The slot; bit 0 set: it was never handed out and reads as zero. */
	uintptr_t slot;
	dsm_slot_word *word; /* so that malloc need not look the span up */
};

struct dsm_bin {
	uint32_t n;
	uint32_t cap; /* at most DSM_CACHE_SLOTS */
	struct dsm_cached v[DSM_CACHE_SLOTS];
};

/* One thread's cache for one allocator. Lives in a pool of the process and is
 * never unmapped, so that a thread may look at one whose allocator is gone. */
struct dsm_tcache {
	struct dsm_alloc
	    *_Atomic owner;           /* pool lock; NULL: allocator is gone */
	struct dsm_tcache *of_thread; /* thread's other caches; thread */
	struct dsm_tcache *of_owner;  /* pool lock; also links unused ones */
	/* Written by the thread, read by dsm__alloc_stats: sums over all
	 * caches, one alone may be negative. */
	_Atomic int64_t bytes, blocks;
	struct dsm_bin bins[DSM_N_CLASSES]; /* thread */
};

struct dsm_class {
	_Alignas(64) pthread_mutex_t lock;
	struct dsm_span *partial; /* lock: spans with free slots */
};

struct dsm_meta_chunk {
	struct dsm_meta_chunk *next;
	size_t len;
};

struct dsm_alloc {
	char *base;           /* const */
	uint64_t size;        /* const */
	struct dsm_runs runs; /* page_lock, but for what runs.h says */
	struct dsm_alloc_params params;          /* const */
	_Atomic int64_t gone_bytes, gone_blocks; /* of threads that ended */
	struct dsm_tcache *caches;               /* pool lock */

	_Alignas(64) pthread_mutex_t page_lock;
	struct dsm_meta_chunk *chunks;       /* page_lock */
	size_t chunk_used;                   /* page_lock */
	struct dsm_label *free_labels;       /* page_lock */
	dsm_slot_word *words[DSM_N_CLASSES]; /* page_lock: arrays not in use,
	                                        linked by their first word */
	struct dsm_class classes[DSM_N_CLASSES];
};

/* ---- tcache.c ---- */

/* initial-exec: a dynamic access would allocate at a thread's first malloc,
 * which may be us. */
extern __thread struct dsm_tcache *dsm__tcache_mine
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* The pthread key that ends a thread's caches; DSM_OK or DSM_ESYS. */
int dsm__tcache_init(void);
/* The slow half of dsm__tcache; NULL: no memory. */
struct dsm_tcache *dsm__tcache_attach(struct dsm_alloc *a);
/* Take all threads' caches away from an allocator that goes. */
void dsm__tcache_orphan(struct dsm_alloc *a);
void dsm__tcache_stats(struct dsm_alloc *a, int64_t *bytes_p,
                       int64_t *blocks_p);
void dsm__tcache_lock(void);
void dsm__tcache_unlock(void);
void dsm__tcache_reinit(void);

static inline struct dsm_tcache *
dsm__tcache(struct dsm_alloc *a)
{
	struct dsm_tcache *tc = dsm__tcache_mine;

	if (__builtin_expect(
	        tc != NULL &&
	            atomic_load_explicit(&tc->owner, memory_order_relaxed) == a,
	        1))
		return tc;
	return dsm__tcache_attach(a);
}

/* Only the owning thread adds, so no read-modify-write is needed. */
static inline void
dsm__tcache_count(struct dsm_tcache *tc, int64_t bytes, int64_t blocks)
{
	atomic_store_explicit(
	    &tc->bytes,
	    atomic_load_explicit(&tc->bytes, memory_order_relaxed) + bytes,
	    memory_order_relaxed);
	atomic_store_explicit(
	    &tc->blocks,
	    atomic_load_explicit(&tc->blocks, memory_order_relaxed) + blocks,
	    memory_order_relaxed);
}

/* ---- alloc.c ---- */

/* Give the n oldest slots of a bin back to their spans. Takes the class lock.
 */
void dsm__alloc_flush(struct dsm_alloc *a, unsigned cls, struct dsm_bin *bin,
                      uint32_t n);
/* An array of words for a span of the class; page lock held. NULL: no memory.
 */
dsm_slot_word *dsm__alloc_words(struct dsm_alloc *a, unsigned cls);
/* Page lock. Requests are far smaller than a chunk; nothing is ever given back,
 * those who ask keep lists of what they do not use. ctx: the allocator. */
void *dsm__alloc_meta(void *ctx, size_t n);

static inline struct dsm_span *
entry_of(const struct dsm_alloc *a, const void *p)
{
	uint64_t off = (uint64_t)((const char *)p - a->base);

	return off < a->size ? dsm__runs_entry(&a->runs, off >> DSM_PAGE_SHIFT)
	                     : NULL;
}

/* ---- alloc_info.c ---- */

/* Page lock: the block goes. */
void dsm__label_drop(struct dsm_alloc *a, struct dsm_span *s,
                     const char *block);
/* The same, which takes the lock. */
void dsm__label_forget(struct dsm_alloc *a, struct dsm_span *s,
                       const char *block);
/* Takes the lock: `to`, a block, is called what `from` is. */
void dsm__label_move(struct dsm_alloc *a, const struct dsm_span *s,
                     const char *from, char *to);

#endif
