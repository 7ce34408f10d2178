/* See regions.h. */
#include "regions.h"

#include <stdlib.h>
#include <string.h>

#include "../base/log.h"

#define GRANULE DSM_REGION_GRANULE

struct region {
	uint64_t off, len; /* bytes from the heap's base */
	struct dsm_verbs_region *reg;
};

struct dsm_regions {
	struct dsm_views *views;
	const struct dsm_regions_ops *ops;
	struct dsm_verbs_domain *domain;
	struct region *v; /* in the order they were made */
	size_t *by_off;   /* indices of v, ascending by off */
	size_t n, cap;
	uint64_t bytes;
	int closed; /* the device has refused */
};

int
dsm__regions_create(struct dsm_views *views, const struct dsm_regions_ops *ops,
                    struct dsm_verbs_domain *domain, struct dsm_regions **r_p)
{
	struct dsm_regions *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return DSM_ENOMEM;
	r->views = views;
	r->ops = ops;
	r->domain = domain;
	*r_p = r;
	return DSM_OK;
}

void
dsm__regions_destroy(struct dsm_regions *r)
{
	if (r == NULL)
		return;
	while (r->n > 0)
		r->ops->remove(r->v[--r->n].reg);
	dsm__views_unpin(r->views);
	free(r->v);
	free(r->by_off);
	free(r);
}

size_t
dsm__regions_count(const struct dsm_regions *r)
{
	return r->n;
}

uint64_t
dsm__regions_bytes(const struct dsm_regions *r)
{
	return r->bytes;
}

static uint64_t
heap_base(const struct dsm_regions *r)
{
	return (uintptr_t)dsm__views_base(r->views);
}

void
dsm__regions_get(const struct dsm_regions *r, size_t i,
                 struct dsm_rec_region *rec_p)
{
	const struct region *x = &r->v[i];
	uint64_t start = heap_base(r) + x->off;

	*rec_p = (struct dsm_rec_region){
	    .start = start,
	    .end = start + x->len,
	    .remote = (uintptr_t)dsm__views_serving(r->views, start),
	    .rkey = r->ops->rkey(x->reg),
	};
}

/* Place in by_off of the first region that ends after off; n: none does. */
static size_t
find(const struct dsm_regions *r, uint64_t off)
{
	size_t lo = 0, hi = r->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct region *x = &r->v[r->by_off[mid]];

		if (x->off + x->len <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int
reserve(struct dsm_regions *r)
{
	size_t cap = r->cap == 0 ? 64 : 2 * r->cap;
	struct region *v;
	size_t *by_off;

	if (r->n < r->cap)
		return DSM_OK;
	v = realloc(r->v, cap * sizeof(*v));
	if (v == NULL)
		return DSM_ENOMEM;
	r->v = v;
	by_off = realloc(r->by_off, cap * sizeof(*by_off));
	if (by_off == NULL)
		return DSM_ENOMEM;
	r->by_off = by_off;
	r->cap = cap;
	return DSM_OK;
}

/* Register [off, off + len) as number `at` by offset. */
static int
add(struct dsm_regions *r, size_t at, uint64_t off, uint64_t len,
    struct dsm_error *e)
{
	struct region *x;
	uint64_t start = heap_base(r) + off;
	void *serving = (void *)(uintptr_t)dsm__views_serving(r->views, start);
	int err = reserve(r);

	if (err != DSM_OK)
		return dsm__fail(e, err, "out of memory");
	x = &r->v[r->n];
	*x = (struct region){.off = off, .len = len};
	err = r->ops->add(r->domain, serving, len, &x->reg, e);
	if (err != DSM_OK)
		return err;
	err = dsm__views_pin(r->views, start, len);
	if (err != DSM_OK) {
		r->ops->remove(x->reg);
		return dsm__fail(e, err, "out of memory");
	}
	memmove(r->by_off + at + 1, r->by_off + at,
	        (r->n - at) * sizeof(*r->by_off));
	r->by_off[at] = r->n++;
	r->bytes += len;
	return DSM_OK;
}

/* Of the granule at off, the part that is in use. */
static int
is_dense(const struct dsm_regions *r, uint64_t off)
{
	uint64_t frozen = dsm__views_frozen(r->views);
	uint64_t len = frozen - off < GRANULE ? frozen - off : GRANULE;
	uint64_t half = (len / DSM_PAGE + 1) / 2;

	return dsm__views_present(r->views, heap_base(r) + off, len, half) ==
	       half;
}

/* How long a region from off on should be: by the one before it and the asker. */
static uint64_t
wanted(const struct dsm_regions *r, size_t at, uint64_t off, uint64_t ask)
{
	uint64_t len = GRANULE;

	if (at > 0) {
		const struct region *left = &r->v[r->by_off[at - 1]];

		if (left->off + left->len == off)
			len = 2 * left->len;
	}
	if (len < ask)
		len = ask;
	return len < DSM_REGION_MAX ? len : DSM_REGION_MAX;
}

static void
refuse(const struct dsm_regions *r, uint64_t off, uint64_t end,
       struct dsm_rec_region *rec_p)
{
	*rec_p = (struct dsm_rec_region){
	    .start = heap_base(r) + off,
	    .end = heap_base(r) + end,
	};
}

/* off lies in a part without a region, which ends at `limit`. */
static void
ask_new(struct dsm_regions *r, size_t at, uint64_t off, uint64_t limit,
        uint64_t len, struct dsm_rec_region *rec_p)
{
	uint64_t start = off & ~(GRANULE - 1), end = start + GRANULE;
	uint64_t frozen = dsm__views_frozen(r->views);
	struct dsm_error e = {0};
	int dense;

	if (start >= frozen || r->closed) {
		refuse(r, start, limit, rec_p);
		return;
	}
	len = len < DSM_REGION_MAX ? len : DSM_REGION_MAX;
	dense = is_dense(r, start);
	/* A slot that is told of a whole gap need not ask for each granule. */
	len = dense ? wanted(r, at, start, off + len - start) : DSM_REGION_MAX;
	while (end < limit && end < frozen && end - start < len &&
	       is_dense(r, end) == dense)
		end += GRANULE;
	if (!dense) {
		refuse(r, start, end, rec_p);
		return;
	}
	if (add(r, at, start, end - start, &e) == DSM_OK) {
		dsm__regions_get(r, r->n - 1, rec_p);
		log_debug("registered %llu KiB of the heap at 0x%llx",
		          (unsigned long long)(end - start) >> 10,
		          (unsigned long long)rec_p->start);
		return;
	}
	r->closed = 1;
	log_warn("RDMA: after %llu MiB no more of the heap can be registered: "
	         "%s; the rest is sent in messages",
	         (unsigned long long)(r->bytes >> 20), e.text);
	refuse(r, start, limit, rec_p);
}

int
dsm__regions_ask(struct dsm_regions *r, uint64_t addr, uint64_t len,
                 struct dsm_rec_region *rec_p)
{
	uint64_t off = addr - heap_base(r); /* huge when below */
	uint64_t limit = dsm__views_size(r->views);
	size_t at;

	if (off >= limit)
		return DSM_EINVAL;
	at = find(r, off);
	if (at < r->n) {
		const struct region *x = &r->v[r->by_off[at]];

		if (x->off <= off) {
			dsm__regions_get(r, r->by_off[at], rec_p);
			return DSM_OK;
		}
		limit = x->off;
	}
	ask_new(r, at, off, limit, len, rec_p);
	return DSM_OK;
}
