/*
 * What the program has said about how its tasks will use parts of the heap
 * (dsm_advise): disjoint ranges of whole pages, ascending, neighbours of one kind
 * merged. Pure data; the default heap's are guarded by its lock.
 */
#ifndef DSM_HEAP_ADVICE_H
#define DSM_HEAP_ADVICE_H

#include <stddef.h>
#include <stdint.h>

#include "../base/status.h"
#include "../wire/wire.h"

struct dsm_advice {
	uint64_t start, end; /* page aligned */
	uint32_t kind;       /* enum dsm_advice_kind of wire.h */
};

struct dsm_advices {
	struct dsm_advice v[DSM_ADVICE_MAX];
	size_t n;
};

/* [start, end) has this advice from now on; 0: none. DSM_ENOSPC: there would be too
 * many ranges; nothing has changed. */
int dsm__advices_set(struct dsm_advices *x, uint64_t start, uint64_t end,
                     uint32_t kind);

#endif
