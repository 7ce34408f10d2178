#include "runs.h"

#include <string.h>

#define MAP_STRIDE UINT64_C(256)

/* ---- treap of free runs ---- */

static uint32_t
priority(const struct dsm_span *s)
{
	return (uint32_t)((s->start + 1) * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

static uint64_t
longest(const struct dsm_span *s)
{
	return s == NULL ? 0 : s->max_pages;
}

static void
pull(struct dsm_span *s)
{
	uint64_t max = s->n_pages;

	if (longest(s->left) > max)
		max = longest(s->left);
	if (longest(s->right) > max)
		max = longest(s->right);
	s->max_pages = max;
}

static struct dsm_span *
join(struct dsm_span *a, struct dsm_span *b)
{
	if (a == NULL || b == NULL)
		return a != NULL ? a : b;
	if (priority(a) > priority(b)) {
		a->right = join(a->right, b);
		pull(a);
		return a;
	}
	b->left = join(a, b->left);
	pull(b);
	return b;
}

/* a: nodes below page, b: the others. */
static void
cut(struct dsm_span *t, uint64_t page, struct dsm_span **a, struct dsm_span **b)
{
	if (t == NULL) {
		*a = *b = NULL;
		return;
	}
	if (t->start < page) {
		cut(t->right, page, &t->right, b);
		*a = t;
	} else {
		cut(t->left, page, a, &t->left);
		*b = t;
	}
	pull(t);
}

static struct dsm_span **
root_of(struct dsm_runs *r, uint64_t page)
{
	return page >= r->bot ? &r->high : &r->low;
}

static void
tree_insert(struct dsm_runs *r, struct dsm_span *s)
{
	struct dsm_span **root = root_of(r, s->start);
	struct dsm_span *a, *b;

	s->left = s->right = NULL;
	pull(s);
	cut(*root, s->start, &a, &b);
	*root = join(join(a, s), b);
}

static struct dsm_span *
tree_without(struct dsm_span *t, const struct dsm_span *s)
{
	if (t == s)
		return join(t->left, t->right);
	if (s->start < t->start)
		t->left = tree_without(t->left, s);
	else
		t->right = tree_without(t->right, s);
	pull(t);
	return t;
}

static void
tree_remove(struct dsm_runs *r, struct dsm_span *s)
{
	struct dsm_span **root = root_of(r, s->start);

	*root = tree_without(*root, s);
}

/* First page at or above page whose address is aligned. */
static uint64_t
aligned_page(const struct dsm_runs *r, uint64_t page, uint64_t align)
{
	uint64_t base = (uint64_t)(uintptr_t)r->base;
	uint64_t addr = base + (page << DSM_PAGE_SHIFT);

	return (((addr + align - 1) & ~(align - 1)) - base) >> DSM_PAGE_SHIFT;
}

/* The lowest free run that holds n aligned pages. Logarithmic without alignment
 * (a subtree that is long enough has a fit); with it, runs that are long enough
 * but lie badly are passed over one by one. */
static struct dsm_span *
tree_fit(const struct dsm_runs *r, struct dsm_span *t, uint64_t n,
         uint64_t align)
{
	struct dsm_span *fit;

	if (longest(t) < n)
		return NULL;
	fit = tree_fit(r, t->left, n, align);
	if (fit != NULL)
		return fit;
	if (aligned_page(r, t->start, align) + n <= t->start + t->n_pages)
		return t;
	return tree_fit(r, t->right, n, align);
}

/* ---- descriptors and the page map ---- */

/* So that no step after the first can fail for want of a descriptor. */
static bool
have_spare(struct dsm_runs *r, unsigned n)
{
	while (r->n_spare < n) {
		struct dsm_span *s = r->meta(r->ctx, sizeof(*s));

		if (s == NULL)
			return false;
		memset(s, 0, sizeof(*s));
		dsm__runs_desc_free(r, s);
	}
	return true;
}

struct dsm_span *
dsm__runs_desc(struct dsm_runs *r)
{
	struct dsm_span *s;

	if (!have_spare(r, 1))
		return NULL;
	s = r->spare;
	r->spare = s->next;
	r->n_spare--;
	memset(s, 0, sizeof(*s));
	return s;
}

void
dsm__runs_desc_free(struct dsm_runs *r, struct dsm_span *s)
{
	s->kind = DSM_SPAN_NONE;
	s->n_pages = 0;
	s->next = r->spare;
	r->spare = s;
	r->n_spare++;
}

static void
map_set(struct dsm_runs *r, uint64_t page, struct dsm_span *s)
{
	atomic_store_explicit(&r->map[page], s, memory_order_relaxed);
}

static void
mark_ends(struct dsm_runs *r, struct dsm_span *s)
{
	map_set(r, s->start, s);
	map_set(r, s->start + s->n_pages - 1, s);
}

void
dsm__runs_mark(struct dsm_runs *r, struct dsm_span *s)
{
	uint64_t step = s->kind == DSM_SPAN_SMALL ? 1 : MAP_STRIDE;
	uint64_t page = (s->start + step - 1) & ~(step - 1);

	mark_ends(r, s);
	for (; page < s->start + s->n_pages; page += step)
		map_set(r, page, s);
}

static bool
is_mapped(const struct dsm_runs *r, uint64_t page)
{
	return page < r->top || (page >= r->bot && page < r->n_pages);
}

struct dsm_span *
dsm__runs_lookup(const struct dsm_runs *r, uint64_t page)
{
	if (!is_mapped(r, page))
		return NULL;
	for (uint64_t p = page;; p--) {
		struct dsm_span *s = dsm__runs_entry(r, p);

		if (s != NULL && dsm__span_has(s, page))
			return s;
		if (p % MAP_STRIDE == 0 || !is_mapped(r, p - 1))
			return NULL;
	}
}

struct dsm_span *
dsm__runs_around(const struct dsm_runs *r, uint64_t page)
{
	struct dsm_span *s = page >= r->bot ? r->high : r->low;

	while (s != NULL && !dsm__span_has(s, page))
		s = page < s->start ? s->left : s->right;
	return s != NULL ? s : dsm__runs_lookup(r, page);
}

/* The free run of the same zone that ends or starts at the page. */
static struct dsm_span *
free_at(struct dsm_runs *r, uint64_t page, bool high)
{
	struct dsm_span *s;

	if (!is_mapped(r, page) || (page >= r->bot) != high)
		return NULL;
	s = dsm__runs_entry(r, page);
	return s != NULL && s->kind == DSM_SPAN_FREE && dsm__span_has(s, page)
	           ? s
	           : NULL;
}

static void
add_free(struct dsm_runs *r, uint64_t start, uint64_t n, bool zeroed)
{
	struct dsm_span *s = dsm__runs_desc(r); /* have_spare() before */

	s->start = start;
	s->n_pages = n;
	s->base = r->base + (start << DSM_PAGE_SHIFT);
	s->zeroed = zeroed;
	s->kind = DSM_SPAN_FREE;
	mark_ends(r, s);
	tree_insert(r, s);
}

static struct dsm_span *
finish(struct dsm_runs *r, struct dsm_span *s, uint64_t start, uint64_t n)
{
	s->start = start;
	s->n_pages = n;
	s->base = r->base + (start << DSM_PAGE_SHIFT);
	s->kind = DSM_SPAN_BUSY;
	mark_ends(r, s);
	dsm__runs_count(r, n);
	return s;
}

/* ---- taking ---- */

static struct dsm_span *
take_from(struct dsm_runs *r, struct dsm_span *root, uint64_t n, uint64_t align)
{
	struct dsm_span *s = tree_fit(r, root, n, align);

	if (s == NULL)
		return NULL;

	uint64_t from = s->start;
	uint64_t to = from + s->n_pages;
	uint64_t start = aligned_page(r, from, align);

	tree_remove(r, s);
	if (start > from)
		add_free(r, from, start - from, s->zeroed);
	if (to > start + n)
		add_free(r, start + n, to - start - n, s->zeroed);
	return finish(r, s, start, n);
}

static void
raise_top(struct dsm_runs *r, uint64_t top)
{
	if (!r->map_zeroed)
		memset((void *)(r->map + r->top), 0,
		       (top - r->top) * sizeof(*r->map));
	r->top = top;
}

/* From the pages never used, and the free run just below them. */
static struct dsm_span *
take_new(struct dsm_runs *r, uint64_t n, uint64_t align)
{
	struct dsm_span *last =
	    r->top == 0 ? NULL : free_at(r, r->top - 1, false);
	uint64_t from = last != NULL ? last->start : r->top;
	uint64_t start = aligned_page(r, from, align);
	bool zeroed =
	    r->zeroed && (start >= r->top || last == NULL || last->zeroed);
	bool gap_zeroed = r->zeroed && (last == NULL || last->zeroed);
	struct dsm_span *s;

	if (start < from || start > r->bot || n > r->bot - start)
		return NULL;
	if (last != NULL) {
		tree_remove(r, last);
		dsm__runs_desc_free(r, last);
	}
	raise_top(r, start + n);
	if (start > from)
		add_free(r, from, start - from, gap_zeroed);
	s = dsm__runs_desc(r);
	s->zeroed = zeroed;
	return finish(r, s, start, n);
}

struct dsm_span *
dsm__runs_take(struct dsm_runs *r, uint64_t n, uint64_t align)
{
	struct dsm_span *s;

	if (n == 0 || n > r->n_pages || !have_spare(r, 2))
		return NULL;
	s = take_from(r, r->low, n, align);
	if (s == NULL)
		s = take_new(r, n, align);
	if (s == NULL)
		s = take_from(r, r->high, n, align);
	return s;
}

static struct dsm_span *
take_upper(struct dsm_runs *r, uint64_t n)
{
	struct dsm_span *s = take_from(r, r->high, n, DSM_PAGE);

	if (s != NULL || n > r->bot - r->top)
		return s;
	r->bot -= n;
	s = dsm__runs_desc(r);
	s->zeroed = r->zeroed;
	return finish(r, s, r->bot, n);
}

struct dsm_span *
dsm__runs_reserve(struct dsm_runs *r, uint64_t n, bool upper)
{
	struct dsm_span *s = NULL;

	if (n == 0 || n > r->n_pages || !have_spare(r, 2))
		return NULL;
	if (upper)
		s = take_upper(r, n);
	if (s == NULL)
		s = dsm__runs_take(r, n, DSM_PAGE);
	if (s == NULL)
		return NULL;
	r->n_used -= n;
	s->kind = DSM_SPAN_RESERVED;
	return s;
}

/* ---- giving back, growing, shrinking ---- */

void
dsm__runs_give(struct dsm_runs *r, struct dsm_span *s)
{
	bool high = s->start >= r->bot;
	struct dsm_span *before =
	    s->start == 0 ? NULL : free_at(r, s->start - 1, high);
	struct dsm_span *after = free_at(r, s->start + s->n_pages, high);

	if (s->kind != DSM_SPAN_RESERVED)
		r->n_used -= s->n_pages;
	if (after != NULL) {
		tree_remove(r, after);
		s->n_pages += after->n_pages;
		s->zeroed &= after->zeroed;
		dsm__runs_desc_free(r, after);
	}
	if (before != NULL) {
		tree_remove(r, before);
		before->n_pages += s->n_pages;
		before->zeroed &= s->zeroed;
		dsm__runs_desc_free(r, s);
		s = before;
	}
	s->kind = DSM_SPAN_FREE;
	mark_ends(r, s);
	tree_insert(r, s);
}

struct dsm_span *
dsm__runs_split(struct dsm_runs *r, struct dsm_span *s, uint64_t n)
{
	struct dsm_span *rest = dsm__runs_desc(r);

	if (rest == NULL)
		return NULL;
	rest->start = s->start + n;
	rest->n_pages = s->n_pages - n;
	rest->base = s->base + (n << DSM_PAGE_SHIFT);
	rest->kind = DSM_SPAN_BUSY;
	s->n_pages = n;
	mark_ends(r, s);
	mark_ends(r, rest);
	return rest;
}

bool
dsm__runs_grow(struct dsm_runs *r, struct dsm_span *s, uint64_t n)
{
	uint64_t end = s->start + s->n_pages;
	uint64_t want = n - s->n_pages;
	bool high = s->start >= r->bot;
	struct dsm_span *after = free_at(r, end, high);
	uint64_t have = after != NULL ? after->n_pages : 0;

	if (have < want) {
		/* The rest may be there above top. */
		if (high || end + have != r->top || want > r->bot - end)
			return false;
		raise_top(r, end + want);
		have = want;
	}
	if (after != NULL) {
		tree_remove(r, after);
		after->start += want;
		after->n_pages = have - want;
		after->base += want << DSM_PAGE_SHIFT;
		if (after->n_pages != 0) {
			mark_ends(r, after);
			tree_insert(r, after);
		} else {
			dsm__runs_desc_free(r, after);
		}
	}
	s->n_pages = n;
	dsm__runs_mark(r, s);
	dsm__runs_count(r, want);
	return true;
}

void
dsm__runs_trim(struct dsm_runs *r)
{
	struct dsm_span *last =
	    r->top == 0 ? NULL : free_at(r, r->top - 1, false);

	if (last == NULL)
		return;
	tree_remove(r, last);
	r->top = last->start;
	r->zeroed = r->map_zeroed = false;
	dsm__runs_desc_free(r, last);
}
