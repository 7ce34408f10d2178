/*
 * Ranges for task arenas, and taking over what tasks left in them.
 *
 * A range is reserved for several arenas, one behind the other; each is cut out
 * of it when it comes back. What of a range no block lies in is free again.
 *
 * An arena's metadata (task_arena.h) are descriptors and slot words like ours,
 * at the end of the arena itself. They came from another machine with the
 * task's write set, so they are input: all are checked before anything changes,
 * and copied, because metadata do not live in user pages and later writes to
 * them must not show in a run.
 */
#include "alloc_priv.h"
#include "task_arena.h"

#include <string.h>

void *
dsm__alloc_reserve(struct dsm_alloc *a, size_t len, bool upper, uint64_t owner,
                   bool *zeroed_p)
{
	struct dsm_span *s;

	if ((len & DSM_PAGE_MASK) != 0)
		return NULL;
	pthread_mutex_lock(&a->page_lock);
	s = dsm__runs_reserve(&a->runs, len >> DSM_PAGE_SHIFT, upper);
	if (s != NULL) {
		s->size = owner;
		dsm__runs_mark(&a->runs, s); /* found by any page of it */
	}
	pthread_mutex_unlock(&a->page_lock);
	if (s == NULL)
		return NULL;
	*zeroed_p = s->zeroed;
	return s->base;
}

/* Page lock. The owner's reserved span that holds all of [base, base + len). */
static struct dsm_span *
reserved_around(struct dsm_alloc *a, const char *base, uint64_t len,
                uint64_t owner)
{
	uint64_t off = (uint64_t)(base - a->base);
	struct dsm_span *s =
	    off < a->size ? dsm__runs_lookup(&a->runs, off >> DSM_PAGE_SHIFT)
	                  : NULL;

	if (s == NULL || s->kind != DSM_SPAN_RESERVED || s->size != owner)
		return NULL;
	off = (uint64_t)(base - s->base);
	return len <= (s->n_pages << DSM_PAGE_SHIFT) - off ? s : NULL;
}

void
dsm__alloc_unreserve(struct dsm_alloc *a, void *base, uint64_t len,
                     uint64_t owner, bool written)
{
	uint64_t page = (uint64_t)((char *)base - a->base) >> DSM_PAGE_SHIFT;
	uint64_t end = page + (len >> DSM_PAGE_SHIFT);

	pthread_mutex_lock(&a->page_lock);
	while (page < end) {
		struct dsm_span *s = dsm__runs_around(&a->runs, page);

		if (s == NULL)
			break;
		page = s->start + s->n_pages;
		if (s->kind != DSM_SPAN_RESERVED || s->size != owner)
			continue;
		s->zeroed = s->zeroed && !written;
		dsm__runs_give(&a->runs, s);
	}
	pthread_mutex_unlock(&a->page_lock);
}

/* Page lock. Cut a reserved span in two; the second part, NULL: no memory. */
static struct dsm_span *
split_reserved(struct dsm_alloc *a, struct dsm_span *s, uint64_t n)
{
	struct dsm_span *rest = dsm__runs_split(&a->runs, s, n);

	if (rest == NULL)
		return NULL;
	rest->kind = DSM_SPAN_RESERVED;
	rest->size = s->size;
	rest->zeroed = s->zeroed;
	dsm__runs_mark(&a->runs, rest);
	return rest;
}

/* Page lock. [base, base + len) of a reserved span as a span of its own. */
static struct dsm_span *
carve(struct dsm_alloc *a, struct dsm_span *s, const char *base, uint64_t len)
{
	uint64_t before = (uint64_t)(base - s->base) >> DSM_PAGE_SHIFT;

	len >>= DSM_PAGE_SHIFT;
	if (before > 0)
		s = split_reserved(a, s, before);
	if (s == NULL || (s->n_pages > len && !split_reserved(a, s, len)))
		return NULL;
	return s;
}

uint64_t
dsm__alloc_abandon(struct dsm_alloc *a, void *base, uint64_t len)
{
	uint64_t page = (uint64_t)((char *)base - a->base) >> DSM_PAGE_SHIFT;
	uint64_t end = page + (len >> DSM_PAGE_SHIFT), n_lost = 0;

	pthread_mutex_lock(&a->page_lock);
	while (page < end) {
		struct dsm_span *s = dsm__runs_around(&a->runs, page);
		uint64_t n;

		if (s == NULL)
			break;
		n = s->start + s->n_pages - page;
		n = n < end - page ? n : end - page;
		if (s->kind == DSM_SPAN_RESERVED) {
			struct dsm_span *cut =
			    carve(a, s, a->base + (page << DSM_PAGE_SHIFT),
			          n << DSM_PAGE_SHIFT);

			/* Without memory for the cut all of it is lost. */
			s = cut != NULL ? cut : s;
			s->kind = DSM_SPAN_BUSY;
			dsm__runs_count(&a->runs, s->n_pages);
			n_lost += n;
		}
		page += n;
	}
	pthread_mutex_unlock(&a->page_lock);
	return n_lost;
}

static struct dsm_span *
new_piece(struct dsm_alloc *a, char *base, uint64_t n, enum dsm_span_kind kind)
{
	struct dsm_span *s = dsm__runs_desc(&a->runs);

	if (s == NULL)
		return NULL;
	s->base = base;
	s->start = (uint64_t)(base - a->base) >> DSM_PAGE_SHIFT;
	s->n_pages = n;
	s->kind = (uint8_t)kind;
	return s;
}

static int
adopt_free(struct dsm_alloc *a, char *base, uint64_t n)
{
	struct dsm_span *s;

	if (n == 0)
		return DSM_OK;
	s = new_piece(a, base, n, DSM_SPAN_RESERVED);
	if (s == NULL)
		return DSM_ENOMEM;
	dsm__runs_give(&a->runs, s);
	return DSM_OK;
}

static int
adopt_large(struct dsm_alloc *a, const struct dsm_task_piece *p)
{
	struct dsm_span *s = new_piece(a, p->base, p->n_pages, DSM_SPAN_LARGE);

	if (s == NULL)
		return DSM_ENOMEM;
	s->size = p->size;
	s->elem_size = p->elem_size;
	s->return_address = p->return_address;
	dsm__runs_mark(&a->runs, s);
	dsm__runs_count(&a->runs, s->n_pages);
	a->gone_bytes += (int64_t)s->size;
	a->gone_blocks++;
	return DSM_OK;
}

/* Class lock of every class held. */
static int
adopt_small(struct dsm_alloc *a, const struct dsm_task_piece *p)
{
	dsm_slot_word *words = dsm__alloc_words(a, p->cls);
	struct dsm_span *s =
	    words != NULL ? new_piece(a, p->base, p->n_pages, DSM_SPAN_BUSY)
	                  : NULL;

	if (s == NULL)
		return DSM_ENOMEM; /* the words are lost: memory is gone anyway
		                    */
	dsm__span_small(s, p->cls, words);
	for (uint32_t i = 0; i < p->n_words; i++) {
		uint64_t word = p->words[i];

		s->bump++;
		s->n_used++;
		if (word & DSM_WORD_LIVE) {
			words[i] = word;
			a->gone_bytes +=
			    (int64_t)dsm__word_size(word, s->slot_size);
			a->gone_blocks++;
		} else {
			dsm__slot_put(s, i);
		}
	}
	dsm__runs_mark(&a->runs, s);
	dsm__runs_count(&a->runs, s->n_pages);
	if (!dsm__span_full(s))
		dsm__span_link(&a->classes[p->cls].partial, s);
	return DSM_OK;
}

/* Page lock and all class locks held; the pieces have been checked. */
static int
adopt_all(struct dsm_alloc *a, struct dsm_span *range,
          const struct dsm_task_view *v)
{
	char *base = range->base;
	uint64_t n_pages = range->n_pages;
	struct dsm_task_piece p;
	uint64_t page = 0;
	int err = DSM_OK;

	dsm__runs_desc_free(&a->runs, range);
	while (err == DSM_OK && dsm__task_view_piece(v, page, &p) == 1) {
		if (p.kind == DSM_SPAN_SMALL)
			err = adopt_small(a, &p);
		else if (p.kind == DSM_SPAN_LARGE)
			err = adopt_large(a, &p);
		else
			err = adopt_free(a, p.base, p.n_pages);
		page += p.n_pages;
	}
	if (err == DSM_OK)
		err = adopt_free(a, base + (page << DSM_PAGE_SHIFT),
		                 n_pages - page);
	return err;
}

static int
check_all(const struct dsm_task_view *v)
{
	struct dsm_task_piece p;
	uint64_t page = 0;
	int r;

	while ((r = dsm__task_view_piece(v, page, &p)) == 1)
		page += p.n_pages;
	return r == 0 ? DSM_OK : DSM_EPROTO;
}

int
dsm__alloc_adopt(struct dsm_alloc *a, void *base, size_t len, uint64_t owner)
{
	struct dsm_task_view v;
	struct dsm_span *range;
	int err;

	for (unsigned c = 0; c < DSM_N_CLASSES; c++)
		pthread_mutex_lock(&a->classes[c].lock);
	pthread_mutex_lock(&a->page_lock);
	range = (len & DSM_PAGE_MASK) == 0 && len > 0
	            ? reserved_around(a, base, len, owner)
	            : NULL;
	if (range == NULL)
		err = DSM_EINVAL;
	else if (dsm__task_view_open(&v, base, len) != DSM_OK)
		err = DSM_EPROTO;
	else
		err = check_all(&v);
	if (err == DSM_OK) {
		range = carve(a, range, base, len);
		err = range != NULL ? adopt_all(a, range, &v) : DSM_ENOMEM;
	}
	pthread_mutex_unlock(&a->page_lock);
	for (unsigned c = 0; c < DSM_N_CLASSES; c++)
		pthread_mutex_unlock(&a->classes[c].lock);
	return err;
}
