#include "keys.h"

#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/page.h"

/* Index of the first region that ends behind addr. */
static size_t
first_after(const struct keys *k, uint64_t addr)
{
	size_t lo = 0, hi = k->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (k->v[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct dsm_rec_region *
keys_find(const struct keys *k, uint64_t addr)
{
	size_t i = first_after(k, addr);

	return i < k->n && k->v[i].start <= addr ? &k->v[i] : NULL;
}

static int
is_sane(const struct dsm_rec_region *r)
{
	return r->start < r->end &&
	       ((r->start | r->end) & DSM_PAGE_MASK) == 0 &&
	       r->remote <= UINT64_MAX - (r->end - r->start);
}

static int
reserve(struct keys *k)
{
	size_t cap = k->cap ? k->cap * 2 : 64;
	void *p;

	/* Cutting a region in two adds two. */
	if (k->n + 2 <= k->cap)
		return DSM_OK;
	if (k->n + 2 > KEYS_MAX)
		return DSM_EPROTO;
	p = realloc(k->v, cap * sizeof(*k->v));
	if (p == NULL)
		return DSM_ENOMEM;
	k->v = p;
	k->cap = cap;
	return DSM_OK;
}

/* Put n entries in the place of those from i to j. */
static void
replace(struct keys *k, size_t i, size_t j, const struct dsm_rec_region *v,
        size_t n)
{
	memmove(&k->v[i + n], &k->v[j], (k->n - j) * sizeof(*k->v));
	memcpy(&k->v[i], v, n * sizeof(*v));
	k->n = k->n - (j - i) + n;
}

static struct dsm_rec_region
cut(const struct dsm_rec_region *r, uint64_t start, uint64_t end)
{
	struct dsm_rec_region c = *r;

	c.start = start;
	c.end = end;
	c.remote += start - r->start;
	return c;
}

/* r instead of whatever is there; what sticks out of it stays. */
static int
put(struct keys *k, const struct dsm_rec_region *r)
{
	struct dsm_rec_region v[3];
	size_t i = first_after(k, r->start), j = i, n = 0;
	int err = reserve(k);

	if (err != DSM_OK)
		return err;
	while (j < k->n && k->v[j].start < r->end)
		j++;
	if (j > i && k->v[i].start < r->start)
		v[n++] = cut(&k->v[i], k->v[i].start, r->start);
	v[n++] = *r;
	if (j > i && k->v[j - 1].end > r->end)
		v[n++] = cut(&k->v[j - 1], r->end, k->v[j - 1].end);
	replace(k, i, j, v, n);
	return DSM_OK;
}

/* The parts of r, which has no key, where none is known. */
static int
put_around(struct keys *k, const struct dsm_rec_region *r)
{
	uint64_t at = r->start;

	while (at < r->end) {
		const struct dsm_rec_region *have;
		size_t i = first_after(k, at);
		uint64_t end = r->end;
		struct dsm_rec_region part;
		int err;

		while (i < k->n && k->v[i].rkey == 0)
			i++;
		have = i < k->n ? &k->v[i] : NULL;
		if (have != NULL && have->start <= at) {
			at = have->end;
			continue;
		}
		if (have != NULL && have->start < end)
			end = have->start;
		part = cut(r, at, end);
		at = end;
		err = put(k, &part);
		if (err != DSM_OK)
			return err;
	}
	return DSM_OK;
}

int
keys_add(struct keys *k, const struct dsm_array *regions)
{
	struct dsm_rec_region r;
	int err = DSM_OK;

	for (uint32_t i = 0; i < regions->n && err == DSM_OK; i++) {
		err = dsm__unpack_region(regions, i, &r);
		if (err == DSM_OK && !is_sane(&r))
			err = DSM_EPROTO;
		if (err == DSM_OK)
			err = r.rkey != 0 ? put(k, &r) : put_around(k, &r);
	}
	return err;
}

void
keys_new_run(struct keys *k)
{
	size_t n = 0;

	for (size_t i = 0; i < k->n; i++)
		if (k->v[i].rkey != 0)
			k->v[n++] = k->v[i];
	k->n = n;
}

void
keys_fini(struct keys *k)
{
	free(k->v);
	*k = (struct keys){0};
}
