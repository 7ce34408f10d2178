/*
 * Two views of one memfd: see views.h for states and invariants.
 *
 * SHARED chunks are always those from private_end on: a freeze flips all chunks
 * that are in use, and the heap grows upwards. So the state of all chunks is
 * one number, and their private pages are found with one scan.
 *
 * Why flipping loses no store of another thread: mmap(MAP_FIXED) replaces the
 * mapping under the address space's write lock, and no fault gets through before
 * it ends. A store either reaches the file page through the old mapping (all
 * processors have given it up when mmap returns), and then both views have it,
 * as if it had come before the launch; or it faults in the new one and goes to a
 * private copy of a file page that nobody writes any more.
 *
 * Why dropping a folded page needs `exclusive`: a store between the copy and the
 * drop would be gone. This holds for the calling thread as well: between the two
 * it must store nothing in the heap, neither in lists nor on its stack nor in a
 * signal handler.
 */
#include "views.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../wire/packdiff.h"
#include "../base/clock.h"
#include "../base/pagemap.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* 5.18+ */
#endif

/* Dropping clean pages between two folded ones is cheaper than one more call. */
#define DROP_GAP (8 * DSM_PAGE)
/* Scanning present pages (13 ns each) is cheaper than one more scan. */
#define SCAN_GAP (64 * DSM_PAGE)
/* What a look for conflicts scans at a time: little where runs are scattered,
 * more and more where they follow each other. */
#define CONFLICT_LEAST 16u
#define CONFLICT_MOST 4096u
/* A forked child copies one chunk (0.03 s) between two signs of life. */
#define CHILD_SILENT_MS 10000

struct dsm_views {
	uint8_t *base, *serving; /* const after init */
	uint64_t size;           /* const after init */
	int fd; /* const after init, the number even in a child */
	struct dsm_pagemap pm;       /* const after init */
	uint64_t private_end;        /* run lock; bytes from base, see above */
	uint64_t seen_end;           /* run lock; largest `used` of a freeze */
	struct dsm_extents released; /* run lock; not yet reported */
	struct dsm_extents touched;  /* run lock; scratch of apply */
	struct dsm_extents privates; /* run lock; scratch of apply */
	struct dsm_extents pinned;   /* run lock */

	/* Run lock: private pages of [scan_lo, scan_hi), see conflict. */
	struct dsm_extents scanned;
	uint64_t scan_lo, scan_hi, scan_pages;

	/* Fork, run lock. One pipe for all children that still copy: they write
	 * signs of life, and end of file says that the last one is done (or
	 * dead). -1: no child copies. */
	int children_fd;
	int child_fd;       /* write end, from prepare to parent/child */
	uint64_t fork_used; /* from prepare to child */
	int fork_err;       /* of prepare */
};

static uint64_t
offset_of(const struct dsm_views *v, uint64_t addr)
{
	return addr - (uintptr_t)v->base;
}

static int
inside(const struct dsm_views *v, uint64_t addr, uint64_t len)
{
	uint64_t off = offset_of(v, addr); /* huge when below base */

	return off <= v->size && len <= v->size - off;
}

/* --- create, destroy --- */

static int
make_file(uint64_t size, int *fd_p, struct dsm_error *e)
{
	struct rlimit lim;
	int fd, rc = DSM_OK;

	/* ftruncate past the limit would kill us with SIGXFSZ */
	if (getrlimit(RLIMIT_FSIZE, &lim) == 0 && lim.rlim_cur < size)
		return dsm__fail(
		    e, DSM_ESYS,
		    "heap of %llu bytes: more than the file size limit of %llu "
		    "(ulimit -f)",
		    (unsigned long long)size, (unsigned long long)lim.rlim_cur);
	fd = memfd_create("dsm-heap", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return dsm__fail(e, DSM_ESYS, "heap: memfd_create: %s",
		                 strerror(errno));
	/* Who is given the descriptor must not be able to cut it off under us. */
	if (ftruncate(fd, (off_t)size) != 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) !=
	        0)
		rc = dsm__fail(e, DSM_ESYS, "heap of %llu bytes: %s",
		               (unsigned long long)size, strerror(errno));
	if (rc != DSM_OK)
		close(fd);
	else
		*fd_p = fd;
	return rc;
}

static int
map_at(void *at, uint64_t off, uint64_t len, int fd, int flags)
{
	void *p = mmap(at, len, PROT_READ | PROT_WRITE,
	               flags | MAP_FIXED | MAP_NORESERVE, fd, (off_t)off);

	return p == MAP_FAILED ? DSM_ENOMEM : DSM_OK;
}

static void *
reserve(uint64_t len, void *hint)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	uintptr_t p, base;
	void *got;

	if (hint != NULL) {
		got = mmap(hint, len, PROT_NONE, flags | MAP_FIXED_NOREPLACE,
		           -1, 0);
		if (got == hint)
			return got;
		/* a kernel before 4.17 takes it for a mere wish */
		if (got != MAP_FAILED)
			munmap(got, len);
	}
	got = mmap(NULL, len + DSM_HEAP_CHUNK, PROT_NONE, flags, -1, 0);
	if (got == MAP_FAILED)
		return NULL;
	p = (uintptr_t)got;
	base = (p + DSM_HEAP_CHUNK - 1) & ~(uintptr_t)(DSM_HEAP_CHUNK - 1);
	if (base > p)
		munmap(got, base - p);
	if (base - p < DSM_HEAP_CHUNK)
		munmap((void *)(base + len), p + DSM_HEAP_CHUNK - base);
	return (void *)base;
}

static int
map_views(struct dsm_views *v, void *hint)
{
	v->base = reserve(v->size, hint);
	if (v->base == NULL)
		return DSM_ENOMEM;
	v->serving = reserve(v->size, NULL);
	if (v->serving == NULL ||
	    map_at(v->serving, 0, v->size, v->fd, MAP_SHARED) != DSM_OK ||
	    map_at(v->base, 0, v->size, v->fd, MAP_SHARED) != DSM_OK)
		return DSM_ENOMEM;
	/* the program view is in the core already */
	madvise(v->serving, v->size, MADV_DONTDUMP);
	return DSM_OK;
}

void
dsm__views_destroy(struct dsm_views *v)
{
	if (v == NULL)
		return;
	dsm__extents_fini(&v->pinned);
	dsm__extents_fini(&v->privates);
	dsm__extents_fini(&v->touched);
	dsm__extents_fini(&v->released);
	dsm__extents_fini(&v->scanned);
	if (v->children_fd >= 0)
		close(v->children_fd);
	if (v->pm.fd >= 0)
		dsm__pagemap_fini(&v->pm);
	if (v->serving != NULL)
		munmap(v->serving, v->size);
	if (v->base != NULL)
		munmap(v->base, v->size);
	if (v->fd >= 0)
		close(v->fd);
	munmap(v, sizeof(*v));
}

int
dsm__views_create(const struct dsm_views_params *p, struct dsm_views **views_p,
                  struct dsm_error *e)
{
	struct dsm_views *v;
	int rc;

	if (p->size == 0 || p->size % DSM_HEAP_CHUNK != 0 ||
	    ((uintptr_t)p->hint & DSM_PAGE_MASK) != 0)
		return dsm__fail(e, DSM_EINVAL, "heap of %llu bytes at %p",
		                 (unsigned long long)p->size, p->hint);
	v = mmap(NULL, sizeof(*v), PROT_READ | PROT_WRITE,
	         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (v == MAP_FAILED)
		return dsm__fail(e, DSM_ENOMEM, "heap: out of memory");
	v->size = p->size;
	v->fd = v->pm.fd = v->children_fd = v->child_fd = -1;
	rc = make_file(v->size, &v->fd, e);
	if (rc != DSM_OK)
		goto destroy;
	rc = dsm__pagemap_init(&v->pm, 1);
	if (rc != DSM_OK) {
		dsm__fail(e, rc, "heap: /proc/self/pagemap: %s",
		          strerror(errno));
		goto destroy;
	}
	rc = map_views(v, p->hint);
	if (rc != DSM_OK) {
		dsm__fail(e, rc,
		          "heap: cannot map %llu bytes twice: %s (ulimit -v?)",
		          (unsigned long long)v->size, strerror(errno));
		goto destroy;
	}
	*views_p = v;
	return DSM_OK;
destroy:
	dsm__views_destroy(v);
	return rc;
}

void *
dsm__views_base(const struct dsm_views *v)
{
	return v->base;
}

uint64_t
dsm__views_size(const struct dsm_views *v)
{
	return v->size;
}

int
dsm__views_fd(const struct dsm_views *v)
{
	return v->fd;
}

const void *
dsm__views_serving(const struct dsm_views *v, uint64_t addr)
{
	return v->serving + offset_of(v, addr);
}

/* --- children that still copy --- */

/* Wait until none does: DSM_OK, or DSM_ETIMEDOUT when none has given a sign of
 * life for silent_ms. */
static int
wait_children(struct dsm_views *v, unsigned silent_ms)
{
	uint64_t deadline = dsm__deadline_ms(silent_ms);
	struct pollfd p = {.fd = v->children_fd, .events = POLLIN};
	char buf[256];
	ssize_t n;

	if (v->children_fd < 0)
		return DSM_OK;
	for (;;) {
		if (poll(&p, 1, dsm__ms_left(deadline)) == 0)
			return DSM_ETIMEDOUT;
		n = read(v->children_fd, buf, sizeof(buf));
		if (n == 0)
			break;
		if (n > 0)
			deadline = dsm__deadline_ms(silent_ms);
	}
	close(v->children_fd);
	v->children_fd = -1;
	return DSM_OK;
}

static int
settle_children(struct dsm_views *v, struct dsm_error *e)
{
	int rc = wait_children(v, CHILD_SILENT_MS);

	if (rc != DSM_OK)
		dsm__fail(
		    e, rc,
		    "heap: a forked child has not copied its memory for %d s "
		    "(is it stopped?)",
		    CHILD_SILENT_MS / 1000);
	return rc;
}

/* --- freeze --- */

static int
flip(struct dsm_views *v, uint64_t used)
{
	uint64_t end = (used + DSM_HEAP_CHUNK - 1) & ~(DSM_HEAP_CHUNK - 1);

	if (end <= v->private_end)
		return DSM_OK;
	/* When there are too many mappings or too little memory to promise, it
	 * is refused before the old mapping is touched. Not by mmap(3): thread
	 * sanitizers take that for a write of every byte. */
	if (syscall(SYS_mmap, v->base + v->private_end, end - v->private_end,
	            PROT_READ | PROT_WRITE,
	            MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, v->fd,
	            v->private_end) == -1)
		return DSM_ENOMEM;
	v->private_end = end;
	return DSM_OK;
}

/* Reads what others may be writing on purpose, also stacks that lie in the heap
 * with their red zones. */
#define READS_ANYTHING __attribute__((no_sanitize("thread", "address")))

/*
 * Compare and copy a page that other threads may be writing: word by word, so
 * that the copy holds no half-written pointer.
 */
READS_ANYTHING static int
racing_page_differs(const uint8_t *a, const uint8_t *b)
{
	const volatile uint64_t *x = (const volatile uint64_t *)a;
	const volatile uint64_t *y = (const volatile uint64_t *)b;
	uint64_t diff = 0;

	for (size_t i = 0; i < DSM_PAGE / 8 && diff == 0; i += 4)
		diff = (x[i] ^ y[i]) | (x[i + 1] ^ y[i + 1]) |
		       (x[i + 2] ^ y[i + 2]) | (x[i + 3] ^ y[i + 3]);
	return diff != 0;
}

READS_ANYTHING static void
copy_racing_page(uint8_t *to, const uint8_t *from)
{
	const volatile uint64_t *x = (const volatile uint64_t *)from;
	volatile uint64_t *y = (volatile uint64_t *)to;

	for (size_t i = 0; i < DSM_PAGE / 8; i++)
		y[i] = x[i];
}

/* On the caller's stack: what is written here must not be in the heap. */
struct fold {
	struct dsm_views *v;
	int drop;
	struct dsm_extents changed;
	uint64_t n_folded;
	uint64_t drop_lo, drop_hi; /* folded, to be dropped */
};

static void
fold_drop(struct fold *f)
{
	void *at = (void *)(uintptr_t)f->drop_lo;
	uint64_t len = f->drop_hi - f->drop_lo;

	/* Refused (locked memory on an old kernel): the pages stay private, and
	 * the next freeze compares them again. */
	if (len != 0 && madvise(at, len, MADV_DONTNEED) != 0 && errno == EINVAL)
		madvise(at, len, MADV_DONTNEED_LOCKED);
	f->drop_lo = f->drop_hi = 0;
}

static int
fold_page(struct fold *f, uint64_t addr)
{
	const uint8_t *from = (const uint8_t *)(uintptr_t)addr;
	uint8_t *to = f->v->serving + offset_of(f->v, addr);
	int rc;

	if (f->drop ? memcmp(from, to, DSM_PAGE) == 0
	            : !racing_page_differs(from, to))
		return DSM_OK;
	rc = dsm__extents_add(&f->changed, addr, 1);
	if (rc != DSM_OK)
		return rc;
	if (f->drop)
		memcpy(to, from, DSM_PAGE);
	else
		copy_racing_page(to, from);
	f->n_folded++;
	return DSM_OK;
}

static int
fold_extent(void *arg, uint64_t start, uint64_t n_pages)
{
	struct fold *f = arg;
	uint64_t end = start + (n_pages << DSM_PAGE_SHIFT);
	uint64_t addr;
	int rc;

	if (f->drop && start - f->drop_hi > DROP_GAP) {
		fold_drop(f);
		f->drop_lo = f->drop_hi = start;
	}
	for (addr = start; addr < end; addr += DSM_PAGE) {
		rc = fold_page(f, addr);
		if (rc != DSM_OK)
			return rc;
		if (f->drop)
			f->drop_hi = addr + DSM_PAGE;
	}
	return DSM_OK;
}

static int
fold(struct dsm_views *v, const struct dsm_freeze *p, uint64_t len)
{
	uintptr_t stack = (uintptr_t)__builtin_frame_address(0);
	struct fold f = {.v = v,
	                 .drop = p->exclusive && !inside(v, stack, 1),
	                 .changed = *p->changed};
	sigset_t all, mask;
	int rc;

	/* From before the scan: a handler's first store in a page between two
	 * folded ones would be dropped with them. */
	if (f.drop) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &mask);
	}
	rc = dsm__pagemap_private(&v->pm, (uintptr_t)v->base,
	                          len >> DSM_PAGE_SHIFT, fold_extent, &f);
	if (f.drop) {
		fold_drop(&f);
		pthread_sigmask(SIG_SETMASK, &mask, NULL);
	}
	/* from here on the heap may be written */
	*p->changed = f.changed;
	if (p->n_folded != NULL)
		*p->n_folded = f.n_folded;
	return rc;
}

/* Changes that no scan finds: released pages, parts never seen. */
static int
report_unseen(struct dsm_views *v, uint64_t used, struct dsm_extents *changed)
{
	int rc = DSM_OK;

	for (; v->released.n != 0 && rc == DSM_OK; v->released.n--) {
		const struct dsm_extent *x = &v->released.v[v->released.n - 1];

		rc = dsm__extents_add(changed, x->start, x->n_pages);
		if (rc != DSM_OK)
			return rc;
	}
	if (used > v->seen_end) {
		rc = dsm__extents_add(changed, (uintptr_t)v->base + v->seen_end,
		                      (used - v->seen_end) >> DSM_PAGE_SHIFT);
		if (rc == DSM_OK)
			v->seen_end = used;
	}
	return rc;
}

int
dsm__views_freeze(struct dsm_views *v, const struct dsm_freeze *f,
                  struct dsm_error *e)
{
	/* What is flipped now has no private page that this launch must see. */
	uint64_t len = f->used < v->private_end ? f->used : v->private_end;
	int rc;

	if (f->used > v->size || (f->used & DSM_PAGE_MASK) != 0)
		return dsm__fail(e, DSM_EINVAL, "heap: %llu bytes used of %llu",
		                 (unsigned long long)f->used,
		                 (unsigned long long)v->size);
	rc = settle_children(v, e);
	if (rc != DSM_OK)
		return rc;
	rc = report_unseen(v, f->used, f->changed);
	if (rc != DSM_OK)
		return dsm__fail(e, rc, "heap: out of memory");
	rc = flip(v, f->used);
	if (rc != DSM_OK)
		return dsm__fail(e, rc, "heap: cannot map it privately: %s",
		                 strerror(errno));
	rc = fold(v, f, len);
	if (rc != DSM_OK)
		return dsm__fail(e, rc, "heap: search for written pages: %s",
		                 rc == DSM_ESYS ? strerror(errno)
		                                : dsm__strerror(rc));
	return DSM_OK;
}

/* --- apply --- */

static uint64_t
max_of(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t
min_of(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* The part of w that lies in [lo, hi), into the program view. */
static void
write_part(const struct dsm_write *w, uint64_t lo, uint64_t hi)
{
	lo = max_of(lo, w->addr);
	hi = min_of(hi, w->addr + w->len);
	if (lo < hi && w->bitmap != NULL) /* whole pages only */
		dsm__bitmap_store((void *)(uintptr_t)w->addr, w->bitmap,
		                  w->bytes, w->n_bytes);
	else if (lo < hi)
		memcpy((void *)(uintptr_t)lo, w->bytes + (lo - w->addr),
		       hi - lo);
}

struct apply {
	struct dsm_views *v;
	const struct dsm_write *w;
	size_t n;
};

static int
apply_found(void *arg, uint64_t start, uint64_t n_pages)
{
	struct apply *a = arg;
	uint64_t end = start + (n_pages << DSM_PAGE_SHIFT);

	if (dsm__extents_push(&a->v->privates, start, n_pages) == DSM_OK)
		return DSM_OK;
	/* No memory for the list, but too late to give up: the slow way. */
	for (size_t i = 0; i < a->n; i++)
		write_part(&a->w[i], start, end);
	return DSM_OK;
}

/*
 * Copy-on-write faults that are under way may have copied old bytes already, and
 * a scan does not see their pages yet. Changing a flag of the mapping waits for
 * all of them (the kernel takes the mapping's write lock); one that starts later
 * copies what is in the serving view now. The flag says whether the pages are in
 * a core dump, so nobody minds that it is off for a moment.
 */
static void
settle_faults(struct dsm_views *v)
{
	madvise(v->base, v->private_end, MADV_DONTDUMP);
	madvise(v->base, v->private_end, MADV_DODUMP);
}

/* Private pages among those touched, in as few scans as are sensible. */
static int
apply_scan(struct apply *a)
{
	const struct dsm_extents *t = &a->v->touched;
	uint64_t limit = (uintptr_t)a->v->base + a->v->private_end;
	uint64_t lo, hi, end;
	size_t i = 0;
	int rc = DSM_OK;

	while (rc == DSM_OK && i < t->n && t->v[i].start < limit) {
		lo = t->v[i].start;
		do {
			end =
			    t->v[i].start + (t->v[i].n_pages << DSM_PAGE_SHIFT);
			hi = min_of(end, limit);
			i++;
		} while (i < t->n && t->v[i].start < limit &&
		         t->v[i].start - hi <= SCAN_GAP);
		rc = dsm__pagemap_private(
		    &a->v->pm, lo, (hi - lo) >> DSM_PAGE_SHIFT, apply_found, a);
	}
	return rc;
}

static int
apply_private(struct apply *a)
{
	const struct dsm_extents *p = &a->v->privates;
	const struct dsm_write *w;
	size_t i, k;
	int rc;

	if (a->v->touched.n == 0 ||
	    offset_of(a->v, a->v->touched.v[0].start) >= a->v->private_end)
		return DSM_OK;
	settle_faults(a->v);
	a->v->privates.n = 0;
	rc = apply_scan(a);
	for (i = 0; i < a->n && p->n != 0; i++) {
		w = &a->w[i];
		for (k = dsm__extents_find(p, w->addr);
		     k < p->n && p->v[k].start < w->addr + w->len; k++)
			write_part(w, p->v[k].start,
			           p->v[k].start +
			               (p->v[k].n_pages << DSM_PAGE_SHIFT));
	}
	return rc;
}

/* The pages of all runs, into v->touched. */
static int
list_touched(struct dsm_views *v, const struct dsm_write *w, size_t n)
{
	uint64_t first, end;
	int rc;

	v->touched.n = 0;
	for (size_t i = 0; i < n; i++) {
		if (!inside(v, w[i].addr, w[i].len))
			return DSM_EINVAL;
		if (w[i].len == 0)
			continue;
		first = dsm__page_down(w[i].addr);
		end = dsm__page_up(w[i].addr + w[i].len);
		rc = dsm__extents_push(&v->touched, first,
		                       (end - first) >> DSM_PAGE_SHIFT);
		if (rc != DSM_OK)
			return rc;
	}
	dsm__extents_normalise(&v->touched);
	return DSM_OK;
}

int
dsm__views_apply(struct dsm_views *v, const struct dsm_write *w, size_t n,
                 struct dsm_extents *changed, struct dsm_error *e)
{
	struct apply a = {.v = v, .w = w, .n = n};
	size_t i;
	int rc = list_touched(v, w, n);

	if (rc != DSM_OK)
		return dsm__fail(e, rc, "heap: commit: %s",
		                 rc == DSM_EINVAL ? "bytes outside the heap"
		                                  : dsm__strerror(rc));
	rc = settle_children(v, e);
	if (rc != DSM_OK)
		return rc;
	for (i = 0; changed != NULL && i < v->touched.n; i++) {
		rc = dsm__extents_add(changed, v->touched.v[i].start,
		                      v->touched.v[i].n_pages);
		if (rc != DSM_OK)
			return dsm__fail(e, rc, "heap: commit: out of memory");
	}
	for (i = 0; i < n; i++) {
		uint8_t *to = (uint8_t *)v->serving + offset_of(v, w[i].addr);

		if (w[i].bitmap != NULL)
			dsm__bitmap_store(to, w[i].bitmap, w[i].bytes,
			                  w[i].n_bytes);
		else if (w[i].len != 0)
			memcpy(to, w[i].bytes, w[i].len);
	}
	rc = apply_private(&a);
	if (rc != DSM_OK)
		return dsm__fail(e, rc, "heap: commit: private pages: %s",
		                 strerror(errno));
	return DSM_OK;
}

/* --- conflict --- */

struct conflict {
	struct dsm_views *v;
	uint64_t addr, end; /* asked for */
	uint64_t lo, hi;    /* found; lo == hi: nothing */
};

READS_ANYTHING static int
byte_differs(const struct dsm_views *v, uint64_t addr)
{
	const volatile uint8_t *mine = (const volatile uint8_t *)addr;
	const volatile uint8_t *served = v->serving + offset_of(v, addr);

	return *mine != *served;
}

static void
conflict_extent(struct conflict *c, uint64_t start, uint64_t n_pages)
{
	uint64_t lo = max_of(start, c->addr);
	uint64_t hi = min_of(start + (n_pages << DSM_PAGE_SHIFT), c->end);
	uint64_t last = hi;

	while (lo < hi && !byte_differs(c->v, lo))
		lo++;
	if (lo >= hi)
		return;
	while (!byte_differs(c->v, last - 1) && last - 1 > lo)
		last--;
	if (c->lo == c->hi)
		c->lo = lo;
	c->hi = last;
}

static int
conflict_found(void *arg, uint64_t start, uint64_t n_pages)
{
	return dsm__extents_push(arg, start, n_pages);
}

/* A call for every run of bytes would cost more than the whole commit. */
static int
conflict_scan(struct dsm_views *v, uint64_t first, uint64_t end)
{
	uint64_t limit = (uintptr_t)v->base + v->private_end;
	uint64_t n = CONFLICT_LEAST;

	if (first >= v->scan_lo && end <= v->scan_hi)
		return DSM_OK;
	if (first >= v->scan_lo &&
	    first <= v->scan_hi + (v->scan_pages << DSM_PAGE_SHIFT))
		n = min_of(v->scan_pages * 4, CONFLICT_MOST);
	v->scanned.n = 0;
	v->scan_lo = first;
	v->scan_hi = min_of(max_of(end, first + (n << DSM_PAGE_SHIFT)), limit);
	v->scan_pages = n;
	int rc = dsm__pagemap_private(&v->pm, first,
	                              (v->scan_hi - first) >> DSM_PAGE_SHIFT,
	                              conflict_found, &v->scanned);
	if (rc != DSM_OK)
		dsm__views_conflict_start(v);
	return rc;
}

void
dsm__views_conflict_start(struct dsm_views *v)
{
	v->scan_lo = v->scan_hi = 0;
	v->scan_pages = 0;
}

int
dsm__views_conflict(struct dsm_views *v, uint64_t addr, uint64_t len,
                    uint64_t *lo_p, uint64_t *hi_p)
{
	struct conflict c = {.v = v, .addr = addr, .end = addr + len};
	const struct dsm_extents *p = &v->scanned;
	uint64_t first = dsm__page_down(addr);
	uint64_t end = min_of(dsm__page_up(addr + len),
	                      (uintptr_t)v->base + v->private_end);

	/* A scan that fails is no proof of a conflict; apply will say so. */
	if (!inside(v, addr, len) || len == 0 || first >= end ||
	    conflict_scan(v, first, end) != DSM_OK)
		return 0;
	for (size_t k = dsm__extents_find(p, first);
	     k < p->n && p->v[k].start < end; k++)
		conflict_extent(&c, p->v[k].start, p->v[k].n_pages);
	if (c.lo == c.hi)
		return 0;
	*lo_p = c.lo;
	*hi_p = c.hi;
	return 1;
}

/* --- pages that must stay --- */

int
dsm__views_pin(struct dsm_views *v, uint64_t addr, uint64_t len)
{
	if (!inside(v, addr, len) || ((addr | len) & DSM_PAGE_MASK) != 0)
		return DSM_EINVAL;
	return dsm__extents_add(&v->pinned, addr, len >> DSM_PAGE_SHIFT);
}

void
dsm__views_unpin(struct dsm_views *v)
{
	v->pinned.n = 0;
}

const struct dsm_extents *
dsm__views_pinned(const struct dsm_views *v)
{
	return &v->pinned;
}

uint64_t
dsm__views_frozen(const struct dsm_views *v)
{
	/* After a freeze that failed the one may be ahead of the other. */
	return min_of(v->seen_end, v->private_end);
}

/* By lseek: mincore, as fast, takes swapped pages for missing ones. */
uint64_t
dsm__views_present(const struct dsm_views *v, uint64_t addr, uint64_t len,
                   uint64_t enough)
{
	uint64_t off = offset_of(v, addr), end = off + len, n = 0;

	while (n < enough && off < end) {
		off_t data = lseek(v->fd, (off_t)off, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(v->fd, data, SEEK_HOLE);

		if (data < 0 || hole < 0 || (uint64_t)data >= end)
			break;
		off = min_of((uint64_t)hole, end);
		n += (off - (uint64_t)data) >> DSM_PAGE_SHIFT;
	}
	return min_of(n, enough);
}

/* --- release --- */

/* Bytes [off, end) of the file read as zero: by a hole, or where pages must stay
 * by zeros. */
static int
empty_file(struct dsm_views *v, uint64_t off, uint64_t end)
{
	const struct dsm_extents *p = &v->pinned;
	size_t k = dsm__extents_find(p, (uintptr_t)v->base + off);

	while (off < end) {
		uint64_t lo = end, hi = end;

		if (k < p->n) {
			uint64_t at = offset_of(v, p->v[k].start);

			lo = min_of(max_of(at, off), end);
			hi = min_of(at + (p->v[k].n_pages << DSM_PAGE_SHIFT),
			            end);
			hi = max_of(hi, lo);
			k++;
		}
		if (off < lo &&
		    fallocate(v->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		              (off_t)off, (off_t)(lo - off)) != 0)
			return DSM_ESYS;
		memset(v->serving + lo, 0, hi - lo);
		off = hi;
	}
	return DSM_OK;
}

int
dsm__views_release(struct dsm_views *v, uint64_t addr, uint64_t len)
{
	uint64_t first = dsm__page_up(addr);
	uint64_t end = dsm__page_down(addr + len);
	uint64_t off = offset_of(v, first);
	int rc;

	if (!inside(v, addr, len))
		return DSM_EINVAL;
	if (first >= end)
		return DSM_OK;
	if (wait_children(v, 0) != DSM_OK)
		return DSM_EAGAIN;
	rc = dsm__extents_add(&v->released, first,
	                      (end - first) >> DSM_PAGE_SHIFT);
	/* The file first: private pages dropped before would show it. */
	if (rc == DSM_OK)
		rc = empty_file(v, off, off + (end - first));
	if (rc != DSM_OK)
		return rc;
	if (off < v->private_end &&
	    madvise(v->base + off, end - first, MADV_DONTNEED) != 0 &&
	    madvise(v->base + off, end - first, MADV_DONTNEED_LOCKED) != 0)
		memset(v->base + off, 0, end - first);
	return DSM_OK;
}

/* --- fork --- */

/* Another write end of the pipe, made again when no child copies. */
static int
open_pipe(struct dsm_views *v)
{
	char path[40];
	int fds[2];

	if (v->children_fd < 0) {
		if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0)
			return DSM_ESYS;
		v->children_fd = fds[0];
		v->child_fd = fds[1];
		return DSM_OK;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", v->children_fd);
	v->child_fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	return v->child_fd < 0 ? DSM_ESYS : DSM_OK;
}

void
dsm__views_fork_prepare(struct dsm_views *v, uint64_t used)
{
	wait_children(v, 0); /* closes the pipe when all are done */
	v->fork_used = dsm__page_up(min_of(used, v->size));
	v->fork_err = flip(v, v->fork_used);
	if (v->fork_err == DSM_OK)
		v->fork_err = open_pipe(v);
}

void
dsm__views_fork_parent(struct dsm_views *v)
{
	/* the child has its own; end of file comes when it closes that */
	if (v->child_fd >= 0)
		close(v->child_fd);
	v->child_fd = -1;
}

static int
write_out(const struct dsm_views *v, int to, uint64_t off, uint64_t end)
{
	ssize_t n;

	while (off < end) {
		n = pwrite(to, v->base + off, end - off, (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return DSM_ENOMEM;
		off += (uint64_t)n;
	}
	return DSM_OK;
}

/*
 * Pages of [off, end) that the old file has, as the program view shows them. The
 * parent may add pages of zeros to the file meanwhile (it reads holes), no more.
 */
static int
copy_data(const struct dsm_views *v, int to, uint64_t off, uint64_t end)
{
	off_t data, hole;
	int rc = DSM_OK;

	while (rc == DSM_OK && off < end) {
		data = lseek(v->fd, (off_t)off, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? DSM_OK : DSM_ESYS;
		hole = lseek(v->fd, data, SEEK_HOLE);
		if (hole < 0)
			return DSM_ESYS;
		off = min_of((uint64_t)hole, end);
		rc = write_out(v, to, (uint64_t)data, off);
	}
	return rc;
}

struct fork_copy {
	const struct dsm_views *v;
	int to;
};

/* A private page over a hole of the file: rare, but copy_data missed it. */
static int
copy_private(void *arg, uint64_t start, uint64_t n_pages)
{
	struct fork_copy *c = arg;
	uint64_t off = offset_of(c->v, start);
	uint64_t end = off + (n_pages << DSM_PAGE_SHIFT);
	int rc = DSM_OK;

	for (; rc == DSM_OK && off < end; off += DSM_PAGE)
		if (lseek(c->v->fd, (off_t)off, SEEK_DATA) != (off_t)off)
			rc = write_out(c->v, c->to, off, off + DSM_PAGE);
	return rc;
}

static int
copy_heap(struct dsm_views *v, int to)
{
	struct fork_copy c = {.v = v, .to = to};
	uint64_t off, end;
	int rc = DSM_OK;

	for (off = 0; rc == DSM_OK && off < v->fork_used; off = end) {
		end = min_of(off + DSM_HEAP_CHUNK, v->fork_used);
		rc = copy_data(v, to, off, end);
		if (rc == DSM_OK && write(v->child_fd, "", 1) < 0)
			rc = errno == EAGAIN ? DSM_OK : DSM_ESYS;
	}
	if (rc == DSM_OK)
		rc = dsm__pagemap_private(&v->pm, (uintptr_t)v->base,
		                          v->fork_used >> DSM_PAGE_SHIFT,
		                          copy_private, &c);
	return rc;
}

static int
adopt(struct dsm_views *v, int fd)
{
	if (map_at(v->base, 0, v->size, fd, MAP_SHARED) != DSM_OK ||
	    map_at(v->serving, 0, v->size, fd, MAP_SHARED) != DSM_OK)
		return DSM_ENOMEM;
	madvise(v->serving, v->size, MADV_DONTDUMP);
	if (dup3(fd, v->fd, O_CLOEXEC) < 0)
		return DSM_ESYS;
	v->private_end = 0;
	v->seen_end = 0;
	v->released.n = 0;
	v->pinned.n = 0; /* another file's pages */
	return DSM_OK;
}

/* A thread whose stack lies in the heap (a coroutine's) would lose what it
 * pushes between copy and change of mapping. */
static int
become_own(struct dsm_views *v)
{
	int fd = -1, rc;

	if (v->fork_err != DSM_OK)
		return v->fork_err;
	if (inside(v, (uintptr_t)__builtin_frame_address(0), 1))
		return DSM_EINVAL;
	/* the old descriptor still shows the parent's pages */
	dsm__pagemap_fini(&v->pm);
	rc = dsm__pagemap_init(&v->pm, 1);
	if (rc != DSM_OK)
		return rc;
	rc = make_file(v->size, &fd, NULL);
	if (rc != DSM_OK)
		return rc;
	rc = copy_heap(v, fd);
	if (rc == DSM_OK)
		rc = adopt(v, fd);
	close(fd);
	return rc;
}

int
dsm__views_fork_child(struct dsm_views *v)
{
	sigset_t all, mask;
	int rc;

	/* a handler's stores would be lost likewise */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	rc = become_own(v);
	/* Both ends only now: while we hold the read end too, a parent that dies
	 * costs us no SIGPIPE. */
	if (v->child_fd >= 0)
		close(v->child_fd);
	if (v->children_fd >= 0)
		close(v->children_fd);
	v->child_fd = v->children_fd = -1;
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	return rc;
}
