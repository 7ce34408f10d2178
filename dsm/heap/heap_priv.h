/* The two parts of the default heap: for dsm.c and heap_arenas.c. */
#ifndef DSM_HEAP_HEAP_PRIV_H
#define DSM_HEAP_HEAP_PRIV_H

#include "heap.h"

static inline void *
at(uint64_t addr)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	return (void *)(uintptr_t)addr;
}

static inline int
is_arena_area(const struct dsm_heap *h, const void *p)
{
	return (uintptr_t)p - h->base >= h->user_size;
}

static inline struct dsm_alloc *
alloc_of(struct dsm_heap *h, const void *p)
{
	return is_arena_area(h, p) ? h->arenas : h->alloc;
}

/* Loans that have ended: what no block lies in is free again. */
void dsm__heap_take_back(struct dsm_heap *h);
/* dsm_free of a pointer that may be no block; 1: it was one. */
int dsm__heap_free_if_block(struct dsm_heap *h, void *p);

#endif
