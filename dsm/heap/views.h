/*
 * The two views of the client's heap (doc/ARCHITECTURE.md, "Client heap").
 *
 * One memfd. Program view at `base`; serving view, MAP_SHARED, elsewhere.
 *
 * The heap is cut into chunks of DSM_HEAP_CHUNK bytes. State of a chunk:
 *   SHARED   program view is MAP_SHARED: no launch has seen it. Both views are
 *            the same pages.
 *   PRIVATE  program view is MAP_PRIVATE since the first launch (or fork) that
 *            found the chunk in use. Never goes back, except in a forked child.
 *
 * Invariants
 *   - Between freeze and the next freeze nothing changes in the serving view of
 *     the used part except by dsm__views_apply.
 *   - A byte of the program view always reads as the program last wrote it or as
 *     the last apply left it, whichever came later.
 *
 * Locks: freeze, apply, conflict, release and the fork handlers exclude each
 * other (caller's run lock). Any thread of the program may read and write the
 * program view at any time. The serving view may be read by any thread at any
 * time.
 *
 * Memory: nothing here calls malloc, which in the client is this very heap.
 *
 * Limits: writes by the kernel that go past the page tables (io_uring, O_DIRECT
 * reads in flight during a freeze) are not seen; a heap must not be the target
 * of one then. Who sleeps in a process-shared futex in a chunk while it is
 * flipped misses its wake-up; futexes are private unless asked otherwise.
 */
#ifndef DSM_HEAP_VIEWS_H
#define DSM_HEAP_VIEWS_H

#include <stddef.h>
#include <stdint.h>

#include "../base/page.h"
#include "../base/status.h"

#define DSM_HEAP_CHUNK (UINT64_C(64) << 20)

struct dsm_views;

struct dsm_views_params {
	uint64_t size; /* bytes of address space; multiple of DSM_HEAP_CHUNK */
	void *hint;    /* wished address, page aligned; NULL: any, aligned
	                * to a chunk; taken only when free */
};

int dsm__views_create(const struct dsm_views_params *p,
                      struct dsm_views **views_p, struct dsm_error *e);
void dsm__views_destroy(struct dsm_views *v);

void *dsm__views_base(const struct dsm_views *v);
uint64_t dsm__views_size(const struct dsm_views *v);
int dsm__views_fd(const struct dsm_views *v); /* memfd, borrowed */
/* Where addr of the program view lies in the serving view. */
const void *dsm__views_serving(const struct dsm_views *v, uint64_t addr);

/*
 * List of extents, grown as needed; {0} is empty. Ascending, disjoint, neighbours
 * merged. To use a list again set n = 0. DSM_ENOMEM.
 */
struct dsm_extents {
	struct dsm_extent *v; /* mapped, not malloc'ed */
	size_t n, cap;
};
/* In any order; at the end is cheap, elsewhere moves what follows. */
int dsm__extents_add(struct dsm_extents *x, uint64_t start, uint64_t n_pages);
void dsm__extents_fini(struct dsm_extents *x);
/* Index of the first extent that ends after addr; n when there is none. */
size_t dsm__extents_find(const struct dsm_extents *x, uint64_t addr);
/* Many in any order: push them all, then normalise once. */
int dsm__extents_push(struct dsm_extents *x, uint64_t start, uint64_t n_pages);
void dsm__extents_normalise(struct dsm_extents *x);

struct dsm_freeze {
	uint64_t used; /* fold only [base, base + used); page multiple */
	int exclusive; /* 1: no other thread writes into the heap now (see
	                 * dsm__threads_quiet; the library's own threads
	                 * count too), so a folded page may be dropped */
	struct dsm_extents *changed; /* pages whose serving contents changed
	                 * since the last freeze other than by apply:
	                 * written, released, and whatever lies in a part
	                 * of the heap that no freeze has seen; appended */
	uint64_t *n_folded;          /* pages copied; may be NULL */
};
/*
 * Launch: flip chunks in use for the first time, fold private pages. Returns
 * DSM_OK; DSM_EINVAL, DSM_ENOMEM, DSM_ESYS, DSM_ETIMEDOUT (a forked child does
 * not come on with its copy) with e: then the program view is intact, the
 * serving view must not be served (the launch fails), and `changed` holds what
 * has changed so far: keep it for the next launch.
 * Signals of the calling thread are held while pages are dropped. Called on a
 * stack that lies in the heap it does not drop any.
 */
int dsm__views_freeze(struct dsm_views *v, const struct dsm_freeze *f,
                      struct dsm_error *e);

/*
 * 1 when the process has no thread besides the caller and `n_own` threads of the
 * library, or all others sleep in an untimed futex wait (so only threads of
 * this process, all asleep, could wake them) and handle no signal. 0 when in
 * doubt: also for more than 64 sleepers. The caller sees to it that its own
 * threads wake none of them and write nothing into the heap meanwhile.
 * About 1 us alone, some 20 us for each sleeper.
 */
int dsm__threads_quiet(const int *own_tids, size_t n_own);

/* One changed run of bytes. */
struct dsm_write {
	uint64_t addr, len;
	const uint8_t *bytes;
	/* NULL, or the 512 bytes of a BITMAP record (packdiff.h): addr is then a
	 * page, len DSM_PAGE, and bytes are the n_bytes whose bits are set. */
	const uint8_t *bitmap;
	uint64_t n_bytes;
};
/*
 * Commit: copy the bytes into the serving view, then into the private pages of
 * the program view that exist after that. Runs must lie inside the heap.
 * `changed` (may be NULL) gets the pages, for later drops. A program thread that
 * writes the same byte meanwhile wins or loses; other bytes never suffer.
 * DSM_EINVAL, DSM_ENOMEM, DSM_ETIMEDOUT: nothing was written. DSM_ESYS: the
 * kernel refused to list private pages; the serving view has the bytes.
 */
int dsm__views_apply(struct dsm_views *v, const struct dsm_write *w, size_t n,
                     struct dsm_extents *changed, struct dsm_error *e);

/*
 * Before apply, asynchronous runs: bytes of [addr, addr+len) that the program
 * itself changed since the freeze (private page differs from serving view).
 * *lo_p, *hi_p: first and one past the last such byte. Returns 1 if any, else 0.
 * Pages that become private after conflict_start may be overlooked.
 */
void dsm__views_conflict_start(struct dsm_views *v);
int dsm__views_conflict(struct dsm_views *v, uint64_t addr, uint64_t len,
                        uint64_t *lo_p, uint64_t *hi_p);

/*
 * Freed pages: give the memory of whole pages in [addr, addr+len) back to the
 * system (hole punch in the file, private pages dropped). Contents read as zero
 * afterwards; the next freeze reports them as changed. Not while a run is in
 * flight. Pinned pages are overwritten instead. DSM_OK; DSM_EAGAIN (a forked child
 * still copies), DSM_ENOMEM, DSM_ESYS: contents may be as before or zero.
 */
int dsm__views_release(struct dsm_views *v, uint64_t addr, uint64_t len);

/*
 * Somebody reads the serving view's pages of [addr, addr + len) behind our back
 * (regions.h): until unpin, which ends it for all of them, the file keeps the
 * pages it has there. Whole pages. DSM_EINVAL, DSM_ENOMEM. In a forked child
 * nothing is pinned.
 */
int dsm__views_pin(struct dsm_views *v, uint64_t addr, uint64_t len);
void dsm__views_unpin(struct dsm_views *v);
const struct dsm_extents *dsm__views_pinned(const struct dsm_views *v);
/* Bytes from base on that a freeze has seen: nothing there changes in the serving
 * view without being told in a `changed`. */
uint64_t dsm__views_frozen(const struct dsm_views *v);
/* Pages of [addr, addr + len) that the file has, in memory or swapped out; `enough`
 * when there are that many or more. */
uint64_t dsm__views_present(const struct dsm_views *v, uint64_t addr,
                            uint64_t len, uint64_t enough);

/*
 * fork() in the program: prepare, parent and child of pthread_atfork, all under
 * the run lock. The child gets a memfd of its own with what the heap held at the
 * fork, at the same addresses and with the same descriptor number, all of it
 * SHARED again. [base, base + used) is kept, the rest reads as zero: take the
 * allocator's locks before prepare, so that nothing grows beyond `used`.
 *
 * prepare makes the used part PRIVATE, so that what the parent stores later
 * stays out of the file; freeze and apply of the parent then wait until the
 * child has its copy. Price: the child's fork() returns after copying the whole
 * used heap (about 0.5 s a GiB), also when it only wants to exec, and a parent
 * that never launched pays copy-on-write from then on. vfork and posix_spawn run
 * no handlers and pay nothing.
 *
 * child returns DSM_OK, or an error: then its heap would change under its hands,
 * and it must not go on.
 */
void dsm__views_fork_prepare(struct dsm_views *v, uint64_t used);
void dsm__views_fork_parent(struct dsm_views *v);
int dsm__views_fork_child(struct dsm_views *v);

#endif
