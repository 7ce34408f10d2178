/*
 * The client's address space inside the slot: reserved ranges, opened pages,
 * blocks armed for writing, private pages.
 *
 * Back-end uffd: ranges are mapped readable from the image and registered with
 * userfaultfd; a missing page raises SIGBUS. Back-end segv: ranges are mapped
 * PROT_NONE and pages opened one run at a time (doc/ARCHITECTURE.md). Embedded,
 * the heap range is the client's own memfd: every page is there.
 *
 * uffd, in minor mode where the kernel has it: pages of the heap that the image's file
 * has and that this process has not mapped raise SIGBUS as well, so the file may have
 * old bytes of absent pages (image.h). space_open maps what is PRESENT.
 *
 * A block (DSM_ARM_BLOCK bytes, clipped to its range) is
 *   closed  no page of it can be written
 *   armed   writes go to private pages without a signal (segv: one signal a
 *           page); it is searched at task end
 * A task that writes into more blocks than the table holds arms whole ranges.
 */
#ifndef TASKRT_SLOT_SPACE_H
#define TASKRT_SLOT_SPACE_H

#include <stddef.h>
#include <stdint.h>

#include "../../dsm/base/status.h"
#include "../../dsm/image/image.h"
#include "../../dsm/wire/wire.h"

#define ARM_BLOCK (UINT64_C(2) << 20)

struct space_range {
	struct dsm_rec_range r;
	int present;   /* every page is there (embedded heap) */
	int all_armed; /* the whole range is one armed block */
	int stays;     /* space_set: in the new table, too */
};

struct space_params {
	struct dsm_image *image;
	int heap_fd; /* embedded: the heap's memfd, else -1 */
	int force_segv;
	int must_keep; /* absent pages may be in the file */
};

int space_init(const struct space_params *p, struct dsm_error *e);
const char *space_backend(void); /* "uffd" or "segv" */
/* Pages may vanish from the image's file while tasks run: they raise SIGBUS then. (A
 * hole of the file that segv has opened reads as zeros.) */
int space_can_evict(void);
/* Absent pages of the heap may be in the image's file. */
int space_can_keep(void);

/*
 * Take a new table: unmap what is gone, map what is new. In the middle of a task
 * nothing is unmapped, new places and rights are added. DSM_EINVAL: a range
 * overlaps the slot's zone (e names both); DSM_ESYS, DSM_ENOMEM.
 */
int space_set(const struct dsm_array *ranges, int in_task, struct dsm_error *e);
/* Range that holds addr, or NULL. Valid until the next space_set. */
struct space_range *space_find(uint64_t addr);
uint64_t space_heap_base(void); /* 0 when the table has no heap */
uint64_t space_heap_size(void);

/* Image bytes may have changed behind closed pages: segv closes everything. */
void space_new_run(void);
/* Between tasks: what is in the image of these pages of the heap will change. */
void space_let_go(uint64_t start, uint64_t n_pages);
/* The page is in the image: make it accessible. Returns 1 when the access can
 * be tried again, 0 when the page was open already; -1: impossible, errno says why. */
int space_open(struct space_range *r, uint64_t addr);
/* First write to a block. 0 when it was armed already and the page open. */
int space_arm(struct space_range *r, uint64_t addr);
/* Writable for the slot itself, for ever, never searched: the task page. */
int space_arm_own(uint64_t addr);

/*
 * Task end: cb for each run of private pages in an armed block, then drop them.
 * Blocks that were not written lately are disarmed. cb's error ends the walk
 * (pages are dropped all the same) and is returned.
 */
int space_collect(int (*cb)(void *arg, struct space_range *r, uint64_t start,
                            uint64_t n_pages),
                  void *arg);
/* Twin bytes of pages of one range: what the image (or heap) holds. The image is held
 * (hold.h), and has them. */
int space_read_twin(struct space_range *r, uint64_t addr, void *buf,
                    size_t len);

#endif
