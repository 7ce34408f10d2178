#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../base/clock.h"

/* Fewer pages are not worth two system calls. */
#define AT_ONCE 4096u

static int
sparse_file(const char *name, uint64_t size, int *fd_p, struct dsm_error *e)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return dsm__fail(e, DSM_ESYS, "memfd_create(%s): %s", name,
		                 strerror(errno));
	/* Slots have it, too: were one to cut it off, the worker would meet SIGBUS
	 * in its mapping. */
	if (ftruncate(fd, (off_t)size) != 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) !=
	        0) {
		int err =
		    dsm__fail(e, DSM_ESYS, "cannot size %s to %llu: %s", name,
		              (unsigned long long)size, strerror(errno));

		close(fd);
		return err;
	}
	*fd_p = fd;
	return DSM_OK;
}

int
dsm__image_create(struct dsm_image *im, struct dsm_error *e)
{
	int pages_fd = -1, states_fd = -1;
	int err;

	err = sparse_file("taskrt-image", DSM_IMAGE_SIZE, &pages_fd, e);
	if (err != DSM_OK)
		return err;
	err = sparse_file("taskrt-states", DSM_IMAGE_STATES, &states_fd, e);
	if (err != DSM_OK) {
		close(pages_fd);
		return err;
	}
	err = dsm__image_open(im, pages_fd, states_fd, NULL);
	if (err != DSM_OK) {
		struct rlimit lim = {.rlim_cur = RLIM_INFINITY};
		const char *why = strerror(errno);

		close(pages_fd);
		close(states_fd);
		getrlimit(RLIMIT_AS, &lim);
		return dsm__fail(
		    e, err, "cannot map %llu GiB of page states: %s%s",
		    (unsigned long long)DSM_IMAGE_STATES >> 30, why,
		    lim.rlim_cur < 4 * DSM_IMAGE_STATES
		        ? " (addresses are limited: ulimit -v "
		          "unlimited)"
		        : "");
	}
	return DSM_OK;
}

int
dsm__image_open(struct dsm_image *im, int pages_fd, int states_fd, void *at)
{
	int flags = MAP_SHARED | MAP_NORESERVE;
	void *p;

	if (at != NULL)
		flags |= MAP_FIXED_NOREPLACE;
	p = mmap(at, DSM_IMAGE_STATES, PROT_READ | PROT_WRITE, flags, states_fd,
	         0);
	if (p == MAP_FAILED)
		return DSM_ENOMEM;
	if (at != NULL && p != at) {
		munmap(p, DSM_IMAGE_STATES);
		return DSM_ENOMEM;
	}
	im->pages_fd = pages_fd;
	im->states_fd = states_fd;
	im->states = p;
	return DSM_OK;
}

void
dsm__image_fini(struct dsm_image *im)
{
	munmap((void *)im->states, DSM_IMAGE_STATES);
	close(im->pages_fd);
	close(im->states_fd);
	im->states = NULL;
}

uint32_t
dsm__image_claim(struct dsm_image *im, uint64_t off, uint32_t max,
                 uint32_t slot, uint32_t *state_p)
{
	uint32_t n;

	for (n = 0; n < max; n++) {
		_Atomic uint32_t *w = dsm__image_state(im, off + n * DSM_PAGE);
		uint32_t old = atomic_load_explicit(w, memory_order_relaxed);

		/* acquire: pairs with publish, for the caller that finds
		 * PRESENT and goes on to read the page. */
		while ((old & DSM_PG_STATE) == DSM_PG_ABSENT &&
		       !atomic_compare_exchange_weak_explicit(
		           w, &old,
		           DSM_PG_FETCHING | (old & DSM_PG_KEPT) | slot << 8,
		           memory_order_acquire, memory_order_acquire))
			;
		if ((old & DSM_PG_STATE) != DSM_PG_ABSENT) {
			if (n == 0)
				*state_p = atomic_load_explicit(
				    w, memory_order_acquire);
			break;
		}
	}
	return n;
}

static void
set_state(_Atomic uint32_t *w, uint32_t state)
{
	/* release: the page's bytes are in the file before PRESENT is seen. */
	uint32_t old = atomic_exchange_explicit(w, state, memory_order_release);

	if (old & DSM_PG_WAITERS)
		syscall(SYS_futex, w, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* The file has the page of that state. */
static int
in_file(uint32_t state)
{
	return (state & DSM_PG_STATE) == DSM_PG_PRESENT ||
	       (state & DSM_PG_KEPT) != 0;
}

/* ABSENT, as it was before it was claimed. Nobody else moves the state. */
static void
set_absent(_Atomic uint32_t *w)
{
	uint32_t old = atomic_load_explicit(w, memory_order_relaxed);

	set_state(w, DSM_PG_ABSENT | (old & DSM_PG_KEPT));
}

int
dsm__image_publish(struct dsm_image *im, uint64_t off, uint32_t n,
                   const void *bytes)
{
	const char *p = bytes;
	size_t left = (size_t)n * DSM_PAGE;
	uint64_t at = off;

	/* write(2), not a store through a mapping: no page fault, no
	 * zeroing of a page that is overwritten whole. */
	while (left > 0) {
		ssize_t k = pwrite(im->pages_fd, p, left, (off_t)at);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0) {
			im->write_errno = k < 0 ? errno : EIO;
			return im->write_errno == ENOSPC ? DSM_ENOMEM
			                                 : DSM_ESYS;
		}
		p += k;
		at += (uint64_t)k;
		left -= (size_t)k;
	}
	dsm__image_present(im, off, n);
	return DSM_OK;
}

void
dsm__image_present(struct dsm_image *im, uint64_t off, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		set_state(dsm__image_state(im, off + i * DSM_PAGE),
		          DSM_PG_PRESENT);
}

void
dsm__image_abandon(struct dsm_image *im, uint64_t off, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		set_absent(dsm__image_state(im, off + i * DSM_PAGE));
}

int
dsm__image_wait(struct dsm_image *im, uint64_t off, uint64_t spin_ns,
                uint64_t deadline)
{
	_Atomic uint32_t *w = dsm__image_state(im, off);
	uint64_t spin_until = dsm__now() + spin_ns;
	uint32_t s;

	for (;;) {
		uint64_t now;
		struct timespec ts;

		for (int i = 0; i < 64; i++) {
			s = atomic_load_explicit(w, memory_order_acquire);
			if ((s & DSM_PG_STATE) != DSM_PG_FETCHING)
				return DSM_OK;
			dsm__cpu_relax();
		}
		now = dsm__now();
		if (now >= deadline)
			return DSM_ETIMEDOUT;
		if (now < spin_until)
			continue;
		if (!(s & DSM_PG_WAITERS) &&
		    !atomic_compare_exchange_strong(w, &s, s | DSM_PG_WAITERS))
			continue;
		s |= DSM_PG_WAITERS;
		/* Bounded: the fetcher may be killed; the worker's reclaim
		 * wakes us, but a lost worker would not. */
		ts.tv_sec = 0;
		ts.tv_nsec = 50 * 1000 * 1000;
		syscall(SYS_futex, w, FUTEX_WAIT, s, &ts, NULL, 0);
	}
}

uint32_t
dsm__image_run_before(struct dsm_image *im, uint64_t off, uint32_t max)
{
	uint32_t n;

	for (n = 0; n < max && off >= (n + 1) * DSM_PAGE; n++) {
		uint32_t s = atomic_load_explicit(
		    dsm__image_state(im, off - (n + 1) * DSM_PAGE),
		    memory_order_relaxed);

		if ((s & DSM_PG_STATE) != DSM_PG_PRESENT)
			break;
	}
	return n;
}

static void
make_absent(_Atomic uint32_t *w)
{
	set_state(w, DSM_PG_ABSENT);
}

static void
make_kept(_Atomic uint32_t *w)
{
	uint32_t old = atomic_load_explicit(w, memory_order_relaxed);

	set_state(w, DSM_PG_ABSENT | (in_file(old) ? DSM_PG_KEPT : 0));
}

/* Where the file of states has bytes in [at, end): 1; 0: nowhere. One that does not
 * say has them everywhere. */
static int
next_states(const struct dsm_image *im, off_t at, off_t end, off_t *lo_p,
            off_t *hi_p)
{
	off_t lo = lseek(im->states_fd, at, SEEK_DATA), hi;

	if (lo < 0 && errno == ENXIO)
		return 0;
	hi = lo < 0 ? -1 : lseek(im->states_fd, lo, SEEK_HOLE);
	*lo_p = hi < 0 ? at : lo;
	*hi_p = hi < 0 || hi > end ? end : hi;
	return *lo_p < end;
}

/*
 * Change the states of n pages (not: of ABSENT ones to another). Of many only
 * those that the file has bytes for: when a whole address space is dropped, states
 * that nobody has touched must not become memory full of zeros.
 */
static void
each_state(struct dsm_image *im, uint64_t off, uint64_t n,
           void (*change)(_Atomic uint32_t *w))
{
	const off_t size = sizeof(im->states[0]);
	off_t at = (off_t)(off >> DSM_PAGE_SHIFT) * size;
	off_t end = at + (off_t)n * size;
	off_t lo = at, hi = end;

	while (n <= AT_ONCE ? at < end : next_states(im, at, end, &lo, &hi)) {
		for (at = lo; at < hi; at += size)
			change(&im->states[at / size]);
	}
}

int
dsm__image_drop(struct dsm_image *im, uint64_t off, uint64_t n_pages)
{
	each_state(im, off, n_pages, make_absent);
	if (fallocate(im->pages_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	              (off_t)off, (off_t)(n_pages * DSM_PAGE)) != 0)
		return DSM_ESYS;
	return DSM_OK;
}

void
dsm__image_keep(struct dsm_image *im, uint64_t off, uint64_t n_pages)
{
	each_state(im, off, n_pages, make_kept);
}

int
dsm__image_update(struct dsm_image *im, uint64_t off, const void *page)
{
	return dsm__image_publish(im, off, 1, page);
}

void
dsm__image_reclaim(struct dsm_image *im, uint64_t off, uint64_t n_pages,
                   uint32_t slot)
{
	for (uint64_t i = 0; i < n_pages; i++) {
		_Atomic uint32_t *w = dsm__image_state(im, off + i * DSM_PAGE);
		uint32_t s = atomic_load_explicit(w, memory_order_relaxed);

		if ((s & DSM_PG_STATE) == DSM_PG_FETCHING && s >> 8 == slot)
			set_absent(w);
	}
}

/* Claim a page for eviction: 1, or 0 when the file does not have it, or a slot is at
 * it. */
static int
claim_to_evict(_Atomic uint32_t *w)
{
	uint32_t old = atomic_load_explicit(w, memory_order_relaxed);

	while ((old & DSM_PG_STATE) != DSM_PG_FETCHING && in_file(old))
		if (atomic_compare_exchange_weak_explicit(
		        w, &old, DSM_PG_FETCHING | DSM_PG_EVICTOR << 8,
		        memory_order_acquire, memory_order_relaxed))
			return 1;
	return 0;
}

uint64_t
dsm__image_evict(struct dsm_image *im, uint64_t off, uint64_t n_pages)
{
	uint64_t evicted = 0, end = off + n_pages * DSM_PAGE, lo, hi;

	for (lo = off; lo < end; lo = hi + DSM_PAGE) {
		for (hi = lo; hi < end; hi += DSM_PAGE)
			if (!claim_to_evict(dsm__image_state(im, hi)))
				break;
		if (hi == lo)
			continue;
		/* When it fails, the pages are just not gone. */
		(void)fallocate(im->pages_fd,
		                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		                (off_t)lo, (off_t)(hi - lo));
		for (uint64_t at = lo; at < hi; at += DSM_PAGE)
			set_state(dsm__image_state(im, at), DSM_PG_ABSENT);
		evicted += (hi - lo) / DSM_PAGE;
	}
	return evicted;
}

uint64_t
dsm__image_next(const struct dsm_image *im, uint64_t off, uint64_t *off_p)
{
	off_t lo = lseek(im->pages_fd, (off_t)off, SEEK_DATA);
	off_t hi = lo >= 0 ? lseek(im->pages_fd, lo, SEEK_HOLE) : -1;

	if (hi <= lo)
		return 0;
	*off_p = dsm__page_down((uint64_t)lo);
	return dsm__page_up((uint64_t)hi - *off_p) / DSM_PAGE;
}

static uint64_t
bytes_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

uint64_t
dsm__image_bytes(const struct dsm_image *im)
{
	return bytes_of(im->pages_fd) + bytes_of(im->states_fd);
}
