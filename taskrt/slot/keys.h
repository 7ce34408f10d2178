/*
 * Which parts of the client's heap this slot may read by itself, and what it
 * names in its READs: what REGIONS messages have told, kept as ascending regions
 * that do not overlap.
 *
 * A region with rkey 0 (not registered: send READ messages) is kept too, so that
 * the client is asked once a run and not at every fault; a new run forgets these.
 */
#ifndef TASKRT_SLOT_KEYS_H
#define TASKRT_SLOT_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "../../dsm/wire/wire.h"

/* A client that tells of more makes no sense: a terabyte in 2 MiB pieces. */
#define KEYS_MAX (1u << 19)

struct keys {
	struct dsm_rec_region *v;
	size_t n, cap;
};

/*
 * Add what a REGIONS message tells. Where it overlaps what is known, the new
 * region counts; one without a key never hides one with a key. DSM_EPROTO (not
 * page aligned, empty, too many; what stands before the bad one was added),
 * DSM_ENOMEM.
 */
int keys_add(struct keys *k, const struct dsm_array *regions);
/* The region that holds addr; NULL: nothing is known. Valid until keys_add. */
const struct dsm_rec_region *keys_find(const struct keys *k, uint64_t addr);
/* A new run: what was not registered may be so now. */
void keys_new_run(struct keys *k);
void keys_fini(struct keys *k);

#endif
