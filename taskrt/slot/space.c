#include "space.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../dsm/base/pagemap.h"
#include "zone.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define MAX_BLOCKS 4096u
/* Beyond that a range has one block; there cannot be more ranges than mappings,
 * see vm.max_map_count. */
#define ROOM_BLOCKS (MAX_BLOCKS + (1u << 16))
/* segv: mappings that opening single pages may cost before all are closed. */
#define OPEN_LIMIT 24000u
/* segv: pages opened with one mprotect when they are there. */
#define OPEN_RUN 64u
/* minor: pages mapped at a fault when they are there, before and behind. */
#define MAP_BEFORE 16u
#define MAP_BEHIND 64u
/* Tasks in a row that must leave an armed block alone before it is closed. */
#define IDLE_LIMIT 2u

struct block {
	uint64_t start, end;
	uint32_t idle;
};

/* One slot process, one address space: the only state of this kind. */
static struct {
	struct dsm_image *image;
	int heap_fd;
	int uffd;  /* -1: segv back-end */
	int minor; /* uffd: of the heap, pages in the file raise SIGBUS too */
	struct dsm_pagemap pagemap;
	struct space_range *ranges; /* ascending */
	size_t n_ranges;
	struct block *blocks; /* ROOM_BLOCKS, unordered */
	size_t n_blocks;
	uint32_t n_opened; /* segv: mprotects since the last close */
	uint64_t own_page; /* armed by space_arm_own, 0: none */
	size_t last;       /* range found last */
} sp;

static int
open_uffd_with(uint64_t features)
{
	struct uffdio_api api = {
	    .api = UFFD_API,
	    .features = UFFD_FEATURE_SIGBUS | features,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return -1;
	if (ioctl(fd, UFFDIO_API, &api) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Minor mode: Linux 5.14. */
static void
open_uffd(int must_keep)
{
	sp.uffd = open_uffd_with(UFFD_FEATURE_MISSING_SHMEM |
	                         UFFD_FEATURE_MINOR_SHMEM);
	sp.minor = sp.uffd >= 0;
	if (!sp.minor && !must_keep)
		sp.uffd = open_uffd_with(UFFD_FEATURE_MISSING_SHMEM);
}

int
space_init(const struct space_params *p, struct dsm_error *e)
{
	int err;

	sp.image = p->image;
	sp.heap_fd = p->heap_fd;
	sp.uffd = -1;
	if (!p->force_segv)
		open_uffd(p->must_keep);
	err = dsm__pagemap_init(&sp.pagemap, 1);
	if (err != DSM_OK)
		return dsm__fail(e, err, "cannot open /proc/self/pagemap: %s",
		                 strerror(errno));
	sp.blocks = zone_map(ROOM_BLOCKS * sizeof(*sp.blocks));
	if (sp.blocks == NULL)
		return dsm__fail(e, DSM_ENOMEM, "no memory for the slot");
	return DSM_OK;
}

const char *
space_backend(void)
{
	return sp.uffd >= 0 ? "uffd" : "segv";
}

int
space_can_evict(void)
{
	return sp.uffd >= 0;
}

int
space_can_keep(void)
{
	/* segv: a page is opened only when its state says that it is there. */
	return sp.minor || sp.uffd < 0;
}

static int
base_prot(const struct space_range *r)
{
	if (sp.uffd < 0 && !r->present)
		return PROT_NONE;
	return (int)(r->r.prot & (PROT_READ | PROT_EXEC));
}

/* Map [lo, hi) of the range. */
static int
map_piece(const struct space_range *r, uint64_t lo, uint64_t hi,
          struct dsm_error *e)
{
	void *at = (void *)lo, *p;
	int fd = r->present ? sp.heap_fd : sp.image->pages_fd;
	uint64_t off = lo - r->r.start + (r->present ? 0 : r->r.image_off);

	p = mmap(at, hi - lo, base_prot(r),
	         MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd,
	         (off_t)off);
	if (p != at) {
		int saved = errno;

		if (p != MAP_FAILED)
			munmap(p, hi - lo);
		return dsm__fail(
		    e, saved == EEXIST ? DSM_EINVAL : DSM_ENOMEM,
		    "cannot reserve the program's range %llx-%llx: %s",
		    (unsigned long long)lo, (unsigned long long)hi,
		    strerror(saved));
	}
	if (sp.uffd >= 0 && !r->present) {
		struct uffdio_register reg = {
		    .range = {lo, hi - lo},
		    .mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		if (sp.minor && r->r.kind == DSM_RANGE_HEAP)
			reg.mode |= UFFDIO_REGISTER_MODE_MINOR;

		if (ioctl(sp.uffd, UFFDIO_REGISTER, &reg) != 0)
			return dsm__fail(
			    e, DSM_ESYS, "userfaultfd register %llx-%llx: %s",
			    (unsigned long long)lo, (unsigned long long)hi,
			    strerror(errno));
	}
	return DSM_OK;
}

/* [lo, hi) has got another protection: the task page keeps its own. */
static void
keep_own(uint64_t lo, uint64_t hi)
{
	if (sp.own_page != 0 && sp.own_page >= lo && sp.own_page < hi)
		mprotect((void *)sp.own_page, DSM_PAGE, PROT_READ | PROT_WRITE);
}

static void
unmap_range(struct space_range *r)
{
	size_t kept = 0;

	munmap((void *)r->r.start, r->r.end - r->r.start);
	for (size_t i = 0; i < sp.n_blocks; i++) {
		if (sp.blocks[i].start >= r->r.start &&
		    sp.blocks[i].start < r->r.end)
			continue;
		sp.blocks[kept++] = sp.blocks[i];
	}
	sp.n_blocks = kept;
	if (sp.own_page >= r->r.start && sp.own_page < r->r.end)
		sp.own_page = 0;
}

/* Every page of `old` has the same place and rights in `r`. */
static int
covers(const struct dsm_rec_range *r, const struct dsm_rec_range *old)
{
	return r->start <= old->start && r->end >= old->end &&
	       r->image_off - r->start == old->image_off - old->start &&
	       r->prot == old->prot && r->kind == old->kind;
}

static int
check_zone(const struct space_range *r, struct dsm_error *e)
{
	if (r->r.start >= zone_end() || r->r.end <= zone_start())
		return DSM_OK;
	return dsm__fail(
	    e, DSM_EINVAL,
	    "the program's range %llx-%llx overlaps the slot at "
	    "%llx-%llx",
	    (unsigned long long)r->r.start, (unsigned long long)r->r.end,
	    (unsigned long long)zone_start(), (unsigned long long)zone_end());
}

/* Map what the old ranges in [*j_p, ...) that stay leave open of r. */
static int
map_rest(const struct space_range *r, size_t *j_p, struct dsm_error *e)
{
	uint64_t at = r->r.start;
	int err = check_zone(r, e);

	if (err != DSM_OK)
		return err;
	for (; *j_p < sp.n_ranges && sp.ranges[*j_p].r.start < r->r.end;
	     ++*j_p) {
		const struct space_range *old = &sp.ranges[*j_p];

		if (!old->stays)
			continue;
		if (old->r.start > at)
			err = map_piece(r, at, old->r.start, e);
		if (err != DSM_OK)
			return err;
		at = old->r.end;
	}
	return at < r->r.end ? map_piece(r, at, r->r.end, e) : DSM_OK;
}

/* Both tables ascend. Between tasks, when no page is private: what is gone or
 * has changed is unmapped, what stays keeps its mapping. */
static int
merge_tables(struct space_range *to, size_t n, struct dsm_error *e)
{
	size_t i = 0, j;
	int err = DSM_OK;

	for (j = 0; j < sp.n_ranges; j++) {
		struct space_range *old = &sp.ranges[j];

		while (i < n && to[i].r.end <= old->r.start)
			i++;
		old->stays = i < n && covers(&to[i].r, &old->r);
		if (!old->stays)
			unmap_range(old);
		else if (to[i].r.start == old->r.start &&
		         to[i].r.end == old->r.end)
			to[i].all_armed = old->all_armed;
	}
	for (i = 0, j = 0; i < n && err == DSM_OK; i++) {
		to[i].present =
		    to[i].r.kind == DSM_RANGE_HEAP && sp.heap_fd >= 0;
		err = map_rest(&to[i], &j, e);
	}
	return err;
}

/* uffd: a range that is mapped has got another protection. */
static int
reprotect(const struct space_range *r, struct dsm_error *e)
{
	int bad = mprotect((void *)r->r.start, r->r.end - r->r.start,
	                   base_prot(r)) != 0;

	for (size_t i = 0; i < sp.n_blocks && !bad; i++) {
		const struct block *b = &sp.blocks[i];
		uint64_t lo = b->start > r->r.start ? b->start : r->r.start;
		uint64_t hi = b->end < r->r.end ? b->end : r->r.end;

		bad = lo < hi &&
		      mprotect((void *)lo, hi - lo, (int)r->r.prot) != 0;
	}
	keep_own(r->r.start, r->r.end);
	return bad ? dsm__fail(e, DSM_ENOMEM, "mprotect %llx-%llx: %s",
	                       (unsigned long long)r->r.start,
	                       (unsigned long long)r->r.end, strerror(errno))
	           : DSM_OK;
}

/* The old and the new range that hold [at, end) of it; either may be NULL. */
struct piece {
	const struct space_range *old, *new;
	uint64_t at, end;
};

/* Make the piece what the task is to see from now on. */
static int
take_piece(const struct piece *p, struct space_range *r, struct dsm_error *e)
{
	const struct dsm_rec_range *w = p->new != NULL ? &p->new->r : NULL;
	int err = DSM_OK;

	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): one is there */
	*r = p->old != NULL ? *p->old : *p->new;
	r->r.image_off += p->at - r->r.start;
	r->r.start = p->at;
	r->r.end = p->end;
	if (p->old == NULL) {
		err = check_zone(r, e);
		return err == DSM_OK ? map_piece(r, p->at, p->end, e) : err;
	}
	if (w != NULL && w->kind == r->r.kind &&
	    w->image_off - w->start == r->r.image_off - r->r.start) {
		uint32_t more = w->prot & ~r->r.prot;

		r->r.prot |= more;
		if ((more & PROT_EXEC) && sp.uffd >= 0)
			err = reprotect(r, e);
	}
	return err;
}

static int
continues(const struct space_range *a, const struct space_range *b)
{
	return a->r.end == b->r.start &&
	       a->r.image_off - a->r.start == b->r.image_off - b->r.start &&
	       a->r.prot == b->r.prot && a->r.kind == b->r.kind &&
	       a->r.priv_start == b->r.priv_start &&
	       a->r.priv_end == b->r.priv_end && !a->all_armed && !b->all_armed;
}

/* The first piece at or after `at`: 1, or 0 at the end. */
static int
next_piece(uint64_t at, const struct space_range **old_p,
           const struct space_range *old_end, const struct space_range **new_p,
           const struct space_range *new_end, struct piece *p)
{
	const struct space_range *o, *w;
	uint64_t o_start, w_start;

	while (*old_p < old_end && (*old_p)->r.end <= at)
		++*old_p;
	while (*new_p < new_end && (*new_p)->r.end <= at)
		++*new_p;
	o = *old_p < old_end ? *old_p : NULL;
	w = *new_p < new_end ? *new_p : NULL;
	if (o == NULL && w == NULL)
		return 0;
	o_start = o != NULL ? o->r.start : UINT64_MAX;
	w_start = w != NULL ? w->r.start : UINT64_MAX;
	if (at < o_start && at < w_start)
		at = o_start < w_start ? o_start : w_start;
	p->at = at;
	p->old = o_start <= at ? o : NULL;
	p->new = w_start <= at ? w : NULL;
	p->end = p->old != NULL ? o->r.end : o_start;
	if ((p->new != NULL ? w->r.end : w_start) < p->end)
		p->end = p->new != NULL ? w->r.end : w_start;
	return 1;
}

/*
 * In the middle of a task, whose writes are in private pages: everything that is
 * mapped stays as it was at the launch, whatever the program has done to it
 * since; new places are added, and new rights.
 */
static int
add_table(const struct space_range *to, size_t n, struct dsm_error *e)
{
	const struct space_range *old = sp.ranges, *old_end = old + sp.n_ranges;
	const struct space_range *new = to, *new_end = to + n;
	struct space_range *v = calloc(2 * (n + sp.n_ranges) + 1, sizeof(*v));
	struct piece p = {.end = 0};
	size_t k = 0;
	int err = DSM_OK;

	if (v == NULL)
		return dsm__fail(e, DSM_ENOMEM, "no memory for %zu ranges", n);
	while (err == DSM_OK &&
	       next_piece(p.end, &old, old_end, &new, new_end, &p)) {
		err = take_piece(&p, &v[k], e);
		if (k > 0 && continues(&v[k - 1], &v[k]))
			v[k - 1].r.end = v[k].r.end;
		else
			k++;
	}
	free(sp.ranges);
	sp.ranges = v;
	sp.n_ranges = k;
	sp.last = 0;
	return err;
}

int
space_set(const struct dsm_array *ranges, int in_task, struct dsm_error *e)
{
	size_t n = ranges->n;
	struct space_range *to = calloc(n ? n : 1, sizeof(*to));
	uint64_t last_end = 0;
	int err;

	if (to == NULL)
		return dsm__fail(e, DSM_ENOMEM, "no memory for %zu ranges", n);
	for (uint32_t i = 0; i < n; i++) {
		struct dsm_rec_range *r = &to[i].r;

		if (dsm__unpack_range(ranges, i, r) != DSM_OK ||
		    r->start < last_end || r->end <= r->start ||
		    (r->start | r->end | r->image_off) & DSM_PAGE_MASK ||
		    r->end > (UINT64_C(1) << 47) ||
		    r->image_off > DSM_IMAGE_SIZE ||
		    r->end - r->start > DSM_IMAGE_SIZE - r->image_off) {
			free(to);
			return dsm__fail(e, DSM_EPROTO,
			                 "range %u of the table is malformed",
			                 i);
		}
		last_end = r->end;
	}
	if (in_task) {
		err = add_table(to, n, e);
		free(to);
		return err;
	}
	err = merge_tables(to, n, e);
	free(sp.ranges);
	sp.ranges = to;
	sp.n_ranges = n;
	sp.last = 0;
	return err;
}

struct space_range *
space_find(uint64_t addr)
{
	size_t lo = 0, hi = sp.n_ranges;

	if (sp.last < hi && addr >= sp.ranges[sp.last].r.start &&
	    addr < sp.ranges[sp.last].r.end)
		return &sp.ranges[sp.last];
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (addr >= sp.ranges[mid].r.end)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == sp.n_ranges || addr < sp.ranges[lo].r.start)
		return NULL;
	sp.last = lo;
	return &sp.ranges[lo];
}

static const struct space_range *
heap_range(void)
{
	for (size_t i = 0; i < sp.n_ranges; i++)
		if (sp.ranges[i].r.kind == DSM_RANGE_HEAP)
			return &sp.ranges[i];
	return NULL;
}

uint64_t
space_heap_base(void)
{
	const struct space_range *r = heap_range();

	return r != NULL ? r->r.start : 0;
}

uint64_t
space_heap_size(void)
{
	const struct space_range *r = heap_range();

	return r != NULL ? r->r.end - r->r.start : 0;
}

static struct block *
find_block(uint64_t addr)
{
	/* Latest first: writes cluster. */
	for (size_t i = sp.n_blocks; i-- > 0;)
		if (addr >= sp.blocks[i].start && addr < sp.blocks[i].end)
			return &sp.blocks[i];
	return NULL;
}

/* segv: one mprotect a range merges all the mappings that openings split. */
static void
close_all(void)
{
	for (size_t i = 0; i < sp.n_ranges; i++) {
		struct space_range *r = &sp.ranges[i];

		if (!r->present)
			mprotect((void *)r->r.start, r->r.end - r->r.start,
			         PROT_NONE);
	}
	sp.n_opened = 0;
	keep_own(0, UINT64_MAX);
}

void
space_new_run(void)
{
	if (sp.uffd < 0)
		close_all();
}

/* segv: open pages [addr, ...) that are in the image, up to OPEN_RUN. */
static int
open_run(struct space_range *r, uint64_t addr, int prot, uint64_t max)
{
	uint64_t off = r->r.image_off + (addr - r->r.start);
	uint64_t left = (r->r.end - addr) / DSM_PAGE;
	uint64_t n = 0;

	if (max > left)
		max = left;
	while (n < max) {
		uint32_t s = atomic_load_explicit(
		    dsm__image_state(sp.image, off + n * DSM_PAGE),
		    memory_order_acquire);

		if ((s & DSM_PG_STATE) != DSM_PG_PRESENT)
			break;
		n++;
	}
	if (n == 0)
		return 0;
	if (++sp.n_opened > OPEN_LIMIT)
		close_all();
	if (mprotect((void *)addr, n * DSM_PAGE, prot) != 0) {
		/* Another's split used the mappings up: start over. */
		close_all();
		if (mprotect((void *)addr, n * DSM_PAGE, prot) != 0)
			return 0;
	}
	keep_own(addr, addr + n * DSM_PAGE);
	return 1;
}

static int
is_present(const struct space_range *r, uint64_t addr)
{
	uint64_t off = r->r.image_off + (addr - r->r.start);

	return (atomic_load_explicit(dsm__image_state(sp.image, off),
	                             memory_order_acquire) &
	        DSM_PG_STATE) == DSM_PG_PRESENT;
}

/* Map [lo, hi) of the image up to the first page that is mapped already, or not in
 * the file. Returns where that is. */
static uint64_t
map_run(uint64_t lo, uint64_t hi)
{
	while (lo < hi) {
		struct uffdio_continue c = {.range = {lo, hi - lo}};

		if (ioctl(sp.uffd, UFFDIO_CONTINUE, &c) == 0)
			return hi;
		if (c.mapped > 0)
			lo += (uint64_t)c.mapped;
		else if (errno != EAGAIN)
			return lo;
	}
	return hi;
}

/* minor: the page, and those around it that are there. One call serves one of the
 * kernel's mappings, and an armed block is one. */
static int
map_present(const struct space_range *r, uint64_t addr)
{
	uint64_t first = addr & ~(ARM_BLOCK - 1), end = first + ARM_BLOCK;
	uint64_t lo = addr, hi = addr + DSM_PAGE;

	if (first < r->r.start)
		first = r->r.start;
	if (end > r->r.end)
		end = r->r.end;
	while (lo > first && addr - lo < MAP_BEFORE * DSM_PAGE &&
	       is_present(r, lo - DSM_PAGE))
		lo -= DSM_PAGE;
	while (hi < end && hi - addr < MAP_BEHIND * DSM_PAGE &&
	       is_present(r, hi))
		hi += DSM_PAGE;
	if (map_run(lo, hi) > addr || map_run(addr, hi) > addr ||
	    map_run(addr, addr + DSM_PAGE) > addr)
		return 1;
	/* Mapped by now, or dropped: the access will show. */
	return errno == EEXIST || errno == EFAULT ? 1 : -1;
}

void
space_let_go(uint64_t start, uint64_t n_pages)
{
	uint64_t end = start + n_pages * DSM_PAGE;

	for (size_t i = 0; i < sp.n_ranges && sp.minor; i++) {
		const struct dsm_rec_range *r = &sp.ranges[i].r;
		uint64_t lo = start > r->start ? start : r->start;
		uint64_t hi = end < r->end ? end : r->end;

		if (r->kind == DSM_RANGE_HEAP && !sp.ranges[i].present &&
		    lo < hi && !(sp.own_page >= lo && sp.own_page < hi))
			madvise((void *)lo, hi - lo, MADV_DONTNEED);
	}
}

int
space_open(struct space_range *r, uint64_t addr)
{
	struct block *b;

	addr = dsm__page_down(addr);
	if (sp.minor && r->r.kind == DSM_RANGE_HEAP && !r->present)
		return map_present(r, addr);
	if (sp.uffd >= 0 || r->present)
		return 1;
	/* In a block that is armed a neighbour may be open for writing, with a
	 * private page: only this page is touched. */
	b = r->all_armed ? NULL : find_block(addr);
	if (b != NULL || r->all_armed)
		return open_run(r, addr, (int)r->r.prot, 1);
	return open_run(r, addr, (int)(r->r.prot & ~PROT_WRITE), OPEN_RUN);
}

/* Too many blocks, or mappings: arm the whole range, which absorbs its blocks. */
static int
arm_range(struct space_range *r)
{
	size_t kept = 0;

	if (sp.n_blocks == ROOM_BLOCKS) {
		errno = ENOMEM;
		return 0;
	}
	for (size_t i = 0; i < sp.n_blocks; i++) {
		if (sp.blocks[i].start >= r->r.start &&
		    sp.blocks[i].start < r->r.end)
			continue;
		sp.blocks[kept++] = sp.blocks[i];
	}
	sp.n_blocks = kept;
	r->all_armed = 1;
	sp.blocks[sp.n_blocks++] = (struct block){r->r.start, r->r.end, 0};
	if (sp.uffd >= 0 || r->present)
		return mprotect((void *)r->r.start, r->r.end - r->r.start,
		                (int)r->r.prot) == 0;
	return 1;
}

/* The block to be of addr. Of another one there may be a part in the same place:
 * its range was smaller then. */
static struct block
block_around(const struct space_range *r, uint64_t addr)
{
	uint64_t lo = addr & ~(ARM_BLOCK - 1);
	uint64_t hi = lo + ARM_BLOCK;

	if (lo < r->r.start)
		lo = r->r.start;
	if (hi > r->r.end)
		hi = r->r.end;
	for (size_t i = 0; i < sp.n_blocks; i++) {
		const struct block *b = &sp.blocks[i];

		if (b->end <= addr && b->end > lo)
			lo = b->end;
		else if (b->start > addr && b->start < hi)
			hi = b->start;
	}
	return (struct block){lo, hi, 0};
}

int
space_arm(struct space_range *r, uint64_t addr)
{
	struct block *b;

	addr = dsm__page_down(addr);
	b = find_block(addr);
	if (b == NULL) {
		struct block new = block_around(r, addr);

		if (sp.n_blocks >= MAX_BLOCKS ||
		    ((sp.uffd >= 0 || r->present) &&
		     mprotect((void *)new.start, new.end - new.start,
		              (int)r->r.prot) != 0)) {
			if (!arm_range(r))
				return 0;
		} else {
			sp.blocks[sp.n_blocks++] = new;
		}
		if (sp.uffd >= 0 || r->present)
			return 1;
	} else if (sp.uffd >= 0 || r->present) {
		return 0;
	}
	return open_run(r, addr, (int)r->r.prot, 1);
}

int
space_arm_own(uint64_t addr)
{
	struct space_range *r = space_find(addr);

	if (r == NULL)
		return 0;
	if (sp.own_page == addr)
		return 1;
	if (mprotect((void *)addr, DSM_PAGE, PROT_READ | PROT_WRITE) != 0)
		return 0;
	sp.own_page = addr;
	return 1;
}

int
space_read_twin(struct space_range *r, uint64_t addr, void *buf, size_t len)
{
	int fd = r->present ? sp.heap_fd : sp.image->pages_fd;
	uint64_t off = addr - r->r.start + (r->present ? 0 : r->r.image_off);
	char *p = buf;

	while (len > 0) {
		ssize_t n = pread(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return DSM_ESYS;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return DSM_OK;
}

struct walk {
	int (*cb)(void *, struct space_range *, uint64_t, uint64_t);
	void *arg;
	struct space_range *r;
	uint64_t n_pages;
	int err;
};

/* The runs before this one may have used the mappings up. */
static int
reopen(const struct space_range *r, uint64_t start, uint64_t n_pages)
{
	for (int try = 0; try < 2; try++) {
		if (mprotect((void *)start, n_pages * DSM_PAGE,
		             (int)r->r.prot) == 0)
			return 1;
		close_all();
	}
	return 0;
}

static int
private_run(void *arg, uint64_t start, uint64_t n_pages)
{
	struct walk *w = arg;

	/* The task page is ours: neither searched nor dropped. */
	if (sp.own_page >= start && sp.own_page < start + n_pages * DSM_PAGE) {
		uint64_t before = (sp.own_page - start) / DSM_PAGE;
		uint64_t after = n_pages - before - 1;

		if (before > 0)
			private_run(arg, start, before);
		if (after > 0)
			private_run(arg, sp.own_page + DSM_PAGE, after);
		return 0;
	}
	w->n_pages += n_pages;
	/* segv: closed meanwhile by close_all, but private all the same. */
	if (sp.uffd < 0 && !w->r->present && !reopen(w->r, start, n_pages) &&
	    w->err == DSM_OK)
		w->err = DSM_ENOMEM;
	if (w->err == DSM_OK)
		w->err = w->cb(w->arg, w->r, start, n_pages);
	if (madvise((void *)start, n_pages * DSM_PAGE, MADV_DONTNEED) != 0 &&
	    w->err == DSM_OK)
		w->err = DSM_ESYS;
	return 0;
}

/* 0: not possible now (too many mappings); what is written must be searched. */
static int
disarm(struct block *b, struct space_range *r)
{
	int done =
	    mprotect((void *)b->start, b->end - b->start, base_prot(r)) == 0;

	if (done)
		r->all_armed = 0;
	keep_own(b->start, b->end);
	return done;
}

static int
by_start(const void *a, const void *b)
{
	const struct block *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

/* Write sets ascend by page; blocks were armed in any order. */
static void
sort_blocks(void)
{
	for (size_t i = 1; i < sp.n_blocks; i++) {
		if (sp.blocks[i - 1].start > sp.blocks[i].start) {
			qsort(sp.blocks, sp.n_blocks, sizeof(*sp.blocks),
			      by_start);
			return;
		}
	}
}

int
space_collect(int (*cb)(void *, struct space_range *, uint64_t, uint64_t),
              void *arg)
{
	struct walk w = {.cb = cb, .arg = arg, .err = DSM_OK};
	size_t kept = 0;

	sort_blocks();
	for (size_t i = 0; i < sp.n_blocks; i++) {
		struct block b = sp.blocks[i];
		int err;

		w.r = space_find(b.start);
		w.n_pages = 0;
		err = dsm__pagemap_private(&sp.pagemap, b.start,
		                           (b.end - b.start) / DSM_PAGE,
		                           private_run, &w);
		if (err != DSM_OK && w.err == DSM_OK)
			w.err = err;
		b.idle = w.n_pages > 0 ? 0 : b.idle + 1;
		if (b.idle > IDLE_LIMIT && disarm(&b, w.r))
			continue;
		sp.blocks[kept++] = b;
	}
	sp.n_blocks = kept;
	return w.err;
}
