/*
 * Image: one session's pages on one machine, shared by its slots.
 *
 * Two memfds, mapped or used by the worker and every slot of the session:
 *   pages   sparse, the page with image offset o at file offset o
 *   states  one _Atomic uint32_t per page, at (o >> 12) * 4
 *
 * State of a page (the one machine for it; only the functions below move it):
 *
 *            claim                 publish
 *   ABSENT ---------> FETCHING|s ---------> PRESENT
 *     ^                   |                    |
 *     |   give up, slot s died (reclaim)       | drop (worker, no task running)
 *     +-------------------+--------------------+
 *
 * PRESENT is set (release) after the page's bytes are in the file; a reader that
 * sees it (acquire) sees them. FETCHING carries the claiming slot's number so
 * that the worker can take back what a dead slot left. A waiter sets bit WAITERS
 * and sleeps on the word (futex); whoever moves the state wakes all.
 *
 * Epochs: drops and updates for run r are applied by the worker only while no
 * slot of the session runs a task or has a fetch in flight, so a late page of an
 * older run cannot enter (slots still busy with a cancelled run are killed
 * first).
 *
 * Dropping a page punches a hole in the file: it vanishes from every slot's clean
 * mappings at once. Updating writes it in place: every slot sees the new bytes.
 *
 * Pages may be *evicted* by the worker at any time, tasks or not, where memory is short:
 * PRESENT (or ABSENT and kept) -> FETCHING|EVICTOR -> hole punched -> ABSENT. Nothing is
 * lost, as the program's memory is frozen for the run: whoever touches the page again
 * fetches the same bytes. That holds for the twin of a page that a task has written,
 * too; who reads twins, and all code that may not fault, holds the image
 * (taskrt/slot/hold.h). A slot that does not wait for the evictor (it may fetch a page
 * that is FETCHING, image_wait timed out) does no harm: its page is punched, or stays in
 * the file while the state says ABSENT, and is then fetched, or dropped, once more.
 *
 * A page may be dropped and yet be *kept*: ABSENT, but the file has its old bytes, and
 * the next fetch overwrites them, which is much cheaper than making a page. Nothing
 * vanishes then: only where the slots' mappings tell absent pages that the file has
 * (userfaultfd's minor mode), and each slot must let go of what it had mapped before
 * it runs client code again.
 */
#ifndef DSM_IMAGE_IMAGE_H
#define DSM_IMAGE_IMAGE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/page.h"
#include "../base/status.h"

#define DSM_IMAGE_SIZE (UINT64_C(1) << 46) /* of the pages file, sparse */
#define DSM_IMAGE_STATES (DSM_IMAGE_SIZE / DSM_PAGE * 4)

#define DSM_PG_ABSENT 0u
#define DSM_PG_PRESENT 1u
#define DSM_PG_FETCHING 2u       /* | slot << 8 */
#define DSM_PG_EVICTOR 0xffffffu /* in place of a slot's number */
#define DSM_PG_STATE 3u
#define DSM_PG_WAITERS 4u
#define DSM_PG_KEPT 8u /* ABSENT or FETCHING, and the file has the page */

struct dsm_image {
	int pages_fd;             /* const after init */
	int states_fd;            /* const after init */
	_Atomic uint32_t *states; /* whole file mapped, MAP_SHARED */
	int write_errno; /* why pages could not be stored; 0: they could */
};

/* Worker: make the two files. */
int dsm__image_create(struct dsm_image *im, struct dsm_error *e);
/* Slot: take the descriptors; states are mapped at `at` (MAP_FIXED_NOREPLACE)
 * when not NULL. */
int dsm__image_open(struct dsm_image *im, int pages_fd, int states_fd,
                    void *at);
void dsm__image_fini(struct dsm_image *im);

static inline _Atomic uint32_t *
dsm__image_state(struct dsm_image *im, uint64_t off)
{
	return &im->states[off >> DSM_PAGE_SHIFT];
}

/*
 * Claim up to max pages from off on that are ABSENT and adjacent. Returns how
 * many (0: the first is not ABSENT; *state_p is what it was).
 */
uint32_t dsm__image_claim(struct dsm_image *im, uint64_t off, uint32_t max,
                          uint32_t slot, uint32_t *state_p);
/* Bytes of claimed pages are there: write them to the file, mark PRESENT.
 * DSM_ENOMEM, DSM_ESYS: write_errno says why not. */
int dsm__image_publish(struct dsm_image *im, uint64_t off, uint32_t n,
                       const void *bytes);
/* The same when the file has the bytes already (stream.h). */
void dsm__image_present(struct dsm_image *im, uint64_t off, uint32_t n);
/* Claimed pages did not come: ABSENT again. */
void dsm__image_abandon(struct dsm_image *im, uint64_t off, uint32_t n);
/* Wait until the page is not FETCHING: spin, then futex. DSM_OK or
 * DSM_ETIMEDOUT. */
int dsm__image_wait(struct dsm_image *im, uint64_t off, uint64_t spin_ns,
                    uint64_t deadline);
/* Pages PRESENT in a row just before off, at most max: how far a sequential
 * reader has come. */
uint32_t dsm__image_run_before(struct dsm_image *im, uint64_t off,
                               uint32_t max);

/* Worker, no task running: */
int dsm__image_drop(struct dsm_image *im, uint64_t off, uint64_t n_pages);
/* The same, but the file's pages are kept for the next fetch. */
void dsm__image_keep(struct dsm_image *im, uint64_t off, uint64_t n_pages);
int dsm__image_update(struct dsm_image *im, uint64_t off, const void *page);
/* Worker: evict what the file has of [off, +n_pages). Returns how many pages. */
uint64_t dsm__image_evict(struct dsm_image *im, uint64_t off, uint64_t n_pages);
/* The next pages from off on that the file has: their number, and *off_p; 0: none. */
uint64_t dsm__image_next(const struct dsm_image *im, uint64_t off,
                         uint64_t *off_p);
/* Bytes of memory that the two files have. */
uint64_t dsm__image_bytes(const struct dsm_image *im);
/* Worker: pages [off, +n) that slot had claimed when it died: ABSENT again. */
void dsm__image_reclaim(struct dsm_image *im, uint64_t off, uint64_t n_pages,
                        uint32_t slot);

#endif
