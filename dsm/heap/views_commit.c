/* Commit into both views, and what commits would conflict with. See views.h. */
#include "views_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "../wire/packdiff.h"

/* Scanning present pages (13 ns each) is cheaper than one more scan. */
#define SCAN_GAP (64 * DSM_PAGE)
/* What a look for conflicts scans at a time: little where runs are scattered,
 * more and more where they follow each other. */
#define CONFLICT_LEAST 16u
#define CONFLICT_MOST 4096u

/* --- apply --- */

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
	rc = dsm__views_settle(v, e);
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
