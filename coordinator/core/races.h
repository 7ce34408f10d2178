/*
 * Race check of one run: which task wrote which bytes.
 *
 * Adding finds *suspects* only: pages, or blocks of pages, in which two write
 * sets met. Per page one slot of a radix tree: the mask record of its only
 * writer (by reference into the kept masks), or the union of all masks once a
 * second task wrote there. Cost is proportional to what was written, never to
 * the heap; a WHOLE record of any length is a few slots. The exact list is made
 * by one sweep over the suspects' records, so it does not depend on the order of
 * adding, and costs nothing where there is no race.
 *
 * An attempt is added when it is COMPLETE, and never taken back (a complete
 * attempt stays accepted).
 */
#ifndef COORDINATOR_CORE_RACES_H
#define COORDINATOR_CORE_RACES_H

#include <stddef.h>
#include <stdint.h>

#include "../../dsm/wire/wire.h"

struct races;

int races_create(struct races **r_p);
void races_destroy(struct races *r);

/*
 * Task `task` wrote the bytes of a checked mask part (copied). A byte that another
 * task wrote is a race: ranges of bytes in a row of one pair of tasks are merged
 * across calls order-independently: the final list is the same for any order of
 * adding. DSM_EPROTO: malformed mask. DSM_ENOMEM.
 */
int races_add(struct races *r, uint64_t task, const void *mask, size_t len);

/*
 * The same without copying or checking: races_keep hands over malloc'ed masks
 * (freed by races_destroy; on DSM_ENOMEM they stay the caller's), races_add_kept
 * adds a part of them that dsm__mask_check has passed. DSM_ENOMEM.
 */
int races_keep(struct races *r, void *masks);
int races_add_kept(struct races *r, uint64_t task, const void *mask,
                   size_t len);

/* Races found: one entry is one pair of tasks and one contiguous byte range.
 * Sorted by address, then tasks. The first max are written; returns the total.
 * More than two writers of a byte: every pair counts. Out of memory: 1, and an
 * entry of zeroes. */
uint64_t races_list(struct races *r, struct dsm_rec_race *out, size_t max);
/* Pages that any task wrote. */
uint64_t races_pages(const struct races *r);

#endif
