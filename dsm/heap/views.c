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
#include "views_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* 5.18+ */
#endif

/* Dropping clean pages between two folded ones is cheaper than one more call. */
#define DROP_GAP (8 * DSM_PAGE)

/* --- create, destroy --- */

int
dsm__views_file(uint64_t size, int *fd_p, struct dsm_error *e)
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

int
dsm__views_map(void *at, uint64_t off, uint64_t len, int fd, int flags)
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
	    dsm__views_map(v->serving, 0, v->size, v->fd, MAP_SHARED) !=
	        DSM_OK ||
	    dsm__views_map(v->base, 0, v->size, v->fd, MAP_SHARED) != DSM_OK)
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
	rc = dsm__views_file(v->size, &v->fd, e);
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

/* --- freeze --- */

int
dsm__views_flip(struct dsm_views *v, uint64_t used)
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
	rc = dsm__views_settle(v, e);
	if (rc != DSM_OK)
		return rc;
	rc = report_unseen(v, f->used, f->changed);
	if (rc != DSM_OK)
		return dsm__fail(e, rc, "heap: out of memory");
	rc = dsm__views_flip(v, f->used);
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
	if (dsm__views_children(v, 0) != DSM_OK)
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
