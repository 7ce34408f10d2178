/*
 * Which parts of the heap slots read by themselves (RDMA READ), and under which
 * names. One object a session.
 *
 * Only the serving view is ever registered, for reading, and only what a freeze
 * has seen: a private mapping would be broken out of copy-on-write, a part that no
 * launch has seen still changes under the program's hands.
 *
 * A piece is registered when a slot asks for an address in it. Pieces are granules
 * of 2 MiB. Registering populates and pins each page, so a granule that has less
 * than half of its pages stays out, and its pages go in messages: a sparse heap
 * stays sparse. It is looked at anew whenever somebody asks. A region that goes on
 * where another one ends is twice as long as that one, up to 32 MiB, as far as
 * granules are dense: a scan asks rarely, scattered accesses pin little.
 *
 * A region stays until the session ends, because slots keep its key: its pages are
 * pinned in the views (no hole is punched there), and each of them counts as served
 * (dsm__server_launch).
 *
 * When the device refuses (RLIMIT_MEMLOCK, no room for more), one warning says so,
 * and nothing more is registered in this session.
 *
 * Locks: the drive lock of the session for all; ask and destroy also hold the
 * heap lock, which keeps holes from being punched between populating and pinning.
 */
#ifndef DSM_HEAP_REGIONS_H
#define DSM_HEAP_REGIONS_H

#include <stddef.h>
#include <stdint.h>

#include "../transport/verbs.h"
#include "../wire/wire.h"
#include "views.h"

#define DSM_REGION_GRANULE (UINT64_C(2) << 20)
#define DSM_REGION_MAX (UINT64_C(32) << 20)

struct dsm_regions;

/* What registers: dsm__verbs_register and its kin, or a test. */
struct dsm_regions_ops {
	int (*add)(struct dsm_verbs_domain *d, void *base, size_t len,
	           struct dsm_verbs_region **r_p, struct dsm_error *e);
	void (*remove)(struct dsm_verbs_region *r);
	uint32_t (*rkey)(const struct dsm_verbs_region *r);
};

/* Borrows all three. DSM_ENOMEM. */
int dsm__regions_create(struct dsm_views *views,
                        const struct dsm_regions_ops *ops,
                        struct dsm_verbs_domain *domain,
                        struct dsm_regions **r_p);
/* No queue pair of the domain may be left. NULL is fine. */
void dsm__regions_destroy(struct dsm_regions *r);

/*
 * May a slot read at addr by itself? len: how much from there it will want soon, 0
 * when it does not know. *rec_p: the region that holds addr; with rkey 0 the part
 * of the heap around addr that goes in messages until the next launch.
 * DSM_EINVAL: addr is not in the heap. May take some milliseconds.
 */
int dsm__regions_ask(struct dsm_regions *r, uint64_t addr, uint64_t len,
                     struct dsm_rec_region *rec_p);

/* All regions so far, in the order they were made: none ever goes. */
size_t dsm__regions_count(const struct dsm_regions *r);
void dsm__regions_get(const struct dsm_regions *r, size_t i,
                      struct dsm_rec_region *rec_p);
uint64_t dsm__regions_bytes(const struct dsm_regions *r);

#endif
