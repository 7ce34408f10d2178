/*
 * See map.h.
 *
 * A refresh works in three steps, all on arrays sorted by address:
 *
 *   pieces   lines of /proc/self/maps, each with its kind; anonymous ones split
 *            where a module's .bss or the main thread's TLS ends; excluded
 *            spans cut out; the heap put in
 *   entries  pieces with image offsets: where the entries of the refresh before
 *            have the same kind and backing the offset stays, else it is new
 *   table    entries without their backing, neighbours joined; what readers
 *            see, published when it differs from the one before
 *
 * Two mappings have the same backing when they show the same byte of the same
 * file at the same address; all private anonymous memory is alike. So memory
 * that is unmapped and mapped again between two refreshes keeps its offset: its
 * pages are compared at launch like all that may change.
 */
#include "map_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <urcu-bp.h>

#include "../base/page.h"
#include "../wire/wire.h"

#define IMAGE_END (UINT64_C(1) << 46) /* size of an image: image.h */

/* --- arrays --- */

static int
entries_add(struct entries *x, const struct entry *e)
{
	struct entry *v;

	if (x->n == x->cap) {
		size_t cap = x->cap == 0 ? 128 : 2 * x->cap;

		v = realloc(x->v, cap * sizeof(*v));
		if (v == NULL)
			return DSM_ENOMEM;
		x->v = v;
		x->cap = cap;
	}
	x->v[x->n++] = *e;
	return DSM_OK;
}

int
dsm__spans_reserve(struct spans *x, size_t cap)
{
	struct span *v;

	if (cap <= x->cap)
		return DSM_OK;
	v = realloc(x->v, cap * sizeof(*v));
	if (v == NULL)
		return DSM_ENOMEM;
	x->v = v;
	x->cap = cap;
	return DSM_OK;
}

int
dsm__spans_insert(struct spans *x, struct span s)
{
	size_t i = x->n;

	if (x->n == x->cap &&
	    dsm__spans_reserve(x, x->cap == 0 ? 32 : 2 * x->cap) != DSM_OK)
		return DSM_ENOMEM;
	for (; i > 0 && x->v[i - 1].start > s.start; i--)
		x->v[i] = x->v[i - 1];
	x->v[i] = s;
	x->n++;
	return DSM_OK;
}

static void
spans_remove(struct spans *x, struct span s)
{
	for (size_t i = 0; i < x->n; i++) {
		if (x->v[i].start != s.start || x->v[i].end != s.end)
			continue;
		memmove(&x->v[i], &x->v[i + 1],
		        (x->n - i - 1) * sizeof(x->v[0]));
		x->n--;
		break;
	}
}

/* --- life --- */

int
dsm__map_create(struct dsm_map **m_p)
{
	struct dsm_map *m = calloc(1, sizeof(*m));
	struct table *t = calloc(1, sizeof(*t));
	ssize_t k;

	if (m == NULL || t == NULL) {
		free(m);
		free(t);
		return DSM_ENOMEM;
	}
	pthread_mutex_init(&m->lock, NULL);
	m->table = t;
	k = readlink("/proc/self/exe", m->exe, sizeof(m->exe) - 1);
	m->exe[k > 0 ? k : 0] = '\0';
	*m_p = m;
	return DSM_OK;
}

void
dsm__map_destroy(struct dsm_map *m)
{
	if (m == NULL)
		return;
	pthread_mutex_destroy(&m->lock);
	free(m->table);
	free(m->now.v);
	free(m->pieces.v);
	free(m->next.v);
	free(m->excluded.v);
	free(m->own.v);
	free(m->plt.v);
	dsm__maptext_fini(&m->text);
	free(m);
}

/* --- cutting --- */

/* Add those parts of e that lie outside the excluded spans. */
static int
add_cut(struct entries *to, const struct entry *e, const struct spans *cuts)
{
	struct entry part = *e;
	uint64_t at = e->r.start;
	int err = DSM_OK;

	for (size_t i = 0; i <= cuts->n && err == DSM_OK; i++) {
		uint64_t lo = i < cuts->n ? cuts->v[i].start : e->r.end;
		uint64_t hi = i < cuts->n ? cuts->v[i].end : e->r.end;

		if (hi <= at && i < cuts->n)
			continue;
		lo = lo < e->r.end ? lo : e->r.end;
		if (lo > at) {
			part.r.start = at;
			part.r.end = lo;
			part.r.image_off = e->r.image_off + at - e->r.start;
			err = entries_add(to, &part);
		}
		at = hi;
		if (at >= e->r.end)
			break;
	}
	return err;
}

/* --- pieces --- */

static int
add_anonymous(struct dsm_map *m, const struct entry *whole)
{
	struct entry part = *whole;
	uint64_t at = whole->r.start, end = whole->r.end;
	int err = DSM_OK;

	for (size_t i = 0; i <= m->own.n && at < end && err == DSM_OK; i++) {
		struct span s = {end, end, 0};

		if (i < m->own.n)
			s = m->own.v[i];
		if (i < m->own.n && (s.end <= at || s.start >= end))
			continue;
		if (s.start > at) {
			part.r.start = at;
			part.r.end = s.start;
			part.r.kind = whole->r.kind;
			err = add_cut(&m->pieces, &part, &m->excluded);
			at = s.start;
		}
		if (at < s.end && err == DSM_OK) {
			part.r.start = at;
			part.r.end = s.end < end ? s.end : end;
			part.r.kind = s.kind;
			err = add_cut(&m->pieces, &part, &m->excluded);
			at = part.r.end;
		}
	}
	return err;
}

static int
add_line(struct dsm_map *m, const struct dsm_mapline *l, uint64_t from)
{
	struct entry e = {
	    .r = {.start = l->start < from ? from : l->start,
	          .end = l->end,
	          .prot = l->prot,
	          .kind =
	              dsm__map_classify(l->path, l->prot, l->shared, m->exe)},
	};

	if (e.r.kind == 0 || e.r.start >= e.r.end)
		return DSM_OK;
	if (l->ino != 0)
		e.b = (struct backing){l->dev, l->ino, l->off - l->start};
	if (l->path[0] == '\0' && !l->shared)
		return add_anonymous(m, &e);
	return add_cut(&m->pieces, &e, &m->excluded);
}

/* The heap takes the place of whatever lies there. */
static int
add_heap(struct dsm_map *m)
{
	struct span span = {m->heap_start, m->heap_end, 0};
	const struct spans cut = {&span, 1, 1};
	struct entry heap = {
	    .r = {.start = m->heap_start,
	          .end = m->heap_end,
	          .prot = PROT_READ | PROT_WRITE,
	          .kind = DSM_RANGE_HEAP},
	};
	struct entries swap;
	int err = DSM_OK, placed = 0;

	if (m->heap_start == m->heap_end)
		return DSM_OK;
	m->next.n = 0;
	for (size_t i = 0; i < m->pieces.n && err == DSM_OK; i++) {
		const struct entry *e = &m->pieces.v[i];
		struct entry below = *e, above = *e;

		if (below.r.end > span.start)
			below.r.end = span.start;
		if (below.r.start < below.r.end)
			err = entries_add(&m->next, &below);
		if (e->r.end > span.start && !placed && err == DSM_OK) {
			err = entries_add(&m->next, &heap);
			placed = 1;
		}
		if (above.r.start < span.end)
			above.r.start = span.end;
		if (err == DSM_OK && above.r.start < above.r.end &&
		    e->r.end > span.start)
			err = add_cut(&m->next, &above, &cut);
	}
	if (err == DSM_OK && !placed)
		err = entries_add(&m->next, &heap);
	swap = m->pieces;
	m->pieces = m->next;
	m->next = swap;
	return err;
}

/* Whatever lies in those spans loses its rights. */
static int
take_kept(struct dsm_map *m)
{
	struct entries swap;
	int err = DSM_OK;

	if (m->kept.n == 0)
		return DSM_OK;
	m->next.n = 0;
	for (size_t i = 0; i < m->pieces.n && err == DSM_OK; i++) {
		struct entry e = m->pieces.v[i];
		const uint64_t end = e.r.end;
		const uint32_t prot = e.r.prot, kind = e.r.kind;

		for (size_t k = 0;
		     k <= m->kept.n && e.r.start < end && err == DSM_OK; k++) {
			const struct dsm_advice *a = &m->kept.v[k];
			int last = k == m->kept.n || a->start >= end;

			if (!last && a->end <= e.r.start)
				continue;
			e.r.prot = prot;
			e.r.kind = kind;
			e.r.end = last ? end : a->start;
			if (e.r.end > e.r.start)
				err = entries_add(&m->next, &e);
			if (last || err != DSM_OK)
				break;
			if (a->start > e.r.start)
				e.r.start = a->start;
			e.r.end = a->end < end ? a->end : end;
			e.r.prot = PROT_NONE;
			e.r.kind = DSM_RANGE_KEPT;
			err = entries_add(&m->next, &e);
			e.r.start = e.r.end;
		}
	}
	swap = m->pieces;
	m->pieces = m->next;
	m->next = swap;
	return err;
}

static int
make_pieces(struct dsm_map *m)
{
	struct dsm_mapline l;
	uint64_t from = 0;
	char *p = m->text.ptr;
	int err = DSM_OK;

	m->pieces.n = 0;
	while (err == DSM_OK && dsm__maptext_line(&p, &l)) {
		err = add_line(m, &l, from);
		if (l.end > from)
			from = l.end;
	}
	if (err == DSM_OK)
		err = take_kept(m);
	return err == DSM_OK ? add_heap(m) : err;
}

/* --- entries --- */

static int
same_backing(const struct entry *a, const struct entry *b)
{
	return a->r.kind == b->r.kind && a->b.dev == b->b.dev &&
	       a->b.ino == b->b.ino && a->b.delta == b->b.delta;
}

/* off 0: fresh offsets. */
static int
add_entry(struct dsm_map *m, struct entry e, uint64_t end, uint64_t off)
{
	struct entries *x = &m->next;
	struct entry *last = x->n > 0 ? &x->v[x->n - 1] : NULL;

	e.r.end = end;
	e.r.image_off = off;
	if (off == 0) {
		if (end - e.r.start > IMAGE_END - m->next_off)
			return DSM_ENOSPC;
		e.r.image_off = m->next_off;
		m->next_off += end - e.r.start;
	}
	if (last != NULL && last->r.end == e.r.start &&
	    last->r.prot == e.r.prot && same_backing(last, &e) &&
	    last->r.image_off + (e.r.start - last->r.start) == e.r.image_off) {
		last->r.end = end;
		return DSM_OK;
	}
	return entries_add(x, &e);
}

static int
make_entries(struct dsm_map *m)
{
	size_t j = 0;
	int err = DSM_OK;

	if (m->next_off == 0)
		m->next_off = DSM_PAGE; /* 0 is "fresh" */
	m->next.n = 0;
	for (size_t i = 0; i < m->pieces.n && err == DSM_OK; i++) {
		struct entry e = m->pieces.v[i];
		const uint64_t end = e.r.end;

		while (e.r.start < end && err == DSM_OK) {
			const struct entry *old;
			uint64_t to = end, off = 0;

			while (j < m->now.n && m->now.v[j].r.end <= e.r.start)
				j++;
			old = j < m->now.n ? &m->now.v[j] : NULL;
			if (old != NULL && old->r.start > e.r.start) {
				if (old->r.start < to)
					to = old->r.start;
			} else if (old != NULL) {
				if (old->r.end < to)
					to = old->r.end;
				if (same_backing(old, &e))
					off = old->r.image_off + e.r.start -
					      old->r.start;
			}
			err = add_entry(m, e, to, off);
			e.r.start = to;
		}
	}
	return err;
}

/* --- the table --- */

static void
set_private(struct dsm_range *r, const struct spans *plt)
{
	for (size_t i = 0; i < plt->n; i++) {
		const struct span *s = &plt->v[i];

		if (s->start >= r->end || s->end <= r->start)
			continue;
		r->priv_start = s->start > r->start ? s->start : r->start;
		r->priv_end = s->end < r->end ? s->end : r->end;
	}
}

static struct table *
make_table(const struct entries *x, const struct spans *plt)
{
	struct table *t = malloc(sizeof(*t) + x->n * sizeof(t->v[0]));

	if (t == NULL)
		return NULL;
	t->n = 0;
	for (size_t i = 0; i < x->n; i++) {
		const struct dsm_range *r = &x->v[i].r;
		struct dsm_range *last = t->n > 0 ? &t->v[t->n - 1] : NULL;

		if (last != NULL && last->end == r->start &&
		    last->prot == r->prot && last->kind == r->kind &&
		    last->image_off + (last->end - last->start) == r->image_off)
			last->end = r->end;
		else
			t->v[t->n++] = *r;
	}
	for (size_t i = 0; i < t->n; i++)
		if (t->v[i].prot & PROT_WRITE)
			set_private(&t->v[i], plt);
	return t;
}

/* m->next becomes the truth; readers get a new table when it differs. */
static int
publish(struct dsm_map *m)
{
	struct table *old = m->table;
	struct table *t = make_table(&m->next, &m->plt);
	struct entries swap = m->now;

	if (t == NULL)
		return DSM_ENOMEM;
	m->now = m->next;
	m->next = swap;
	if (old->version > 0 && t->n == old->n &&
	    memcmp(t->v, old->v, t->n * sizeof(t->v[0])) == 0) {
		free(t);
		return DSM_OK;
	}
	t->version = old->version + 1;
	rcu_assign_pointer(m->table, t);
	/* Waits for readers in dsm__map_find, which never block. */
	synchronize_rcu();
	free(old);
	return DSM_OK;
}

static int
refresh(struct dsm_map *m)
{
	uint64_t adds, subs;
	int err;

	/* First the count of libraries: one loaded meanwhile makes us stale. */
	err = dsm__map_owners(m, &adds, &subs);
	if (err == DSM_OK)
		err = dsm__maptext_read(&m->text);
	if (err == DSM_OK)
		err = make_pieces(m);
	if (err == DSM_OK)
		err = make_entries(m);
	if (err == DSM_OK)
		err = publish(m);
	if (err == DSM_OK) {
		m->adds = adds;
		m->subs = subs;
		m->current = 1;
	}
	return err;
}

int
dsm__map_refresh(struct dsm_map *m, uint64_t *version_p, struct dsm_error *e)
{
	int err;

	pthread_mutex_lock(&m->lock);
	err = refresh(m);
	if (err == DSM_OK && version_p != NULL)
		*version_p = m->table->version;
	pthread_mutex_unlock(&m->lock);
	switch (err) {
	case DSM_OK:
		return DSM_OK;
	case DSM_ESYS:
		return dsm__fail(e, err, "cannot read /proc/self/maps: %s",
		                 strerror(errno));
	case DSM_ENOSPC:
		return dsm__fail(
		    e, err,
		    "the program has mapped more than 64 TiB in this session");
	default:
		return dsm__fail(e, err, "no memory for the table of mappings");
	}
}

/* --- what the caller knows --- */

static int
check_span(uint64_t start, uint64_t end)
{
	return start < end && ((start | end) & DSM_PAGE_MASK) == 0 ? DSM_OK
	                                                           : DSM_EINVAL;
}

int
dsm__map_exclude(struct dsm_map *m, uint64_t start, uint64_t end)
{
	const struct span s = {start, end, 0};
	int err = check_span(start, end);

	if (err != DSM_OK)
		return err;
	pthread_mutex_lock(&m->lock);
	err = dsm__spans_insert(&m->excluded, s);
	m->next.n = 0;
	for (size_t i = 0; i < m->now.n && err == DSM_OK; i++)
		err = add_cut(&m->next, &m->now.v[i], &m->excluded);
	if (err == DSM_OK && m->table->version > 0)
		err = publish(m);
	if (err != DSM_OK)
		spans_remove(&m->excluded, s);
	pthread_mutex_unlock(&m->lock);
	return err;
}

void
dsm__map_unexclude(struct dsm_map *m, uint64_t start, uint64_t end)
{
	const struct span s = {start, end, 0};

	pthread_mutex_lock(&m->lock);
	spans_remove(&m->excluded, s);
	pthread_mutex_unlock(&m->lock);
}

int
dsm__map_heap(struct dsm_map *m, uint64_t start, uint64_t end)
{
	int err = check_span(start, end);

	if (err != DSM_OK)
		return err;
	pthread_mutex_lock(&m->lock);
	if (start != m->heap_start || end != m->heap_end)
		m->current = 0;
	m->heap_start = start;
	m->heap_end = end;
	pthread_mutex_unlock(&m->lock);
	return DSM_OK;
}

int
dsm__map_keep(struct dsm_map *m, uint64_t start, uint64_t end, int keep)
{
	int err = check_span(start, end);

	if (err != DSM_OK)
		return err;
	pthread_mutex_lock(&m->lock);
	if (start < m->heap_end && end > m->heap_start)
		err = DSM_EINVAL;
	else
		err = dsm__advices_set(&m->kept, start, end, keep != 0);
	m->current = 0;
	pthread_mutex_unlock(&m->lock);
	return err;
}

/* --- readers --- */

/* ThreadSanitizer does not know that synchronize_rcu keeps free away. */
__attribute__((no_sanitize("thread"))) int
dsm__map_find(struct dsm_map *m, uint64_t addr, struct dsm_range *r_p)
{
	const struct table *t;
	size_t lo = 0, hi;
	int found;

	rcu_read_lock();
	t = rcu_dereference(m->table);
	hi = t->n; /* ranges before lo end at or below addr, from hi on above */
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (t->v[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	found = lo < t->n && t->v[lo].start <= addr;
	if (found)
		*r_p = t->v[lo];
	rcu_read_unlock();
	return found;
}

uint64_t
dsm__map_version(struct dsm_map *m)
{
	uint64_t version;

	pthread_mutex_lock(&m->lock);
	version = m->table->version;
	pthread_mutex_unlock(&m->lock);
	return version;
}

int
dsm__map_table(struct dsm_map *m, struct dsm_range **v_p, size_t *n_p,
               uint64_t *version_p)
{
	struct dsm_range *v;

	pthread_mutex_lock(&m->lock);
	v = malloc((m->table->n + 1) * sizeof(*v));
	if (v != NULL) {
		memcpy(v, m->table->v, m->table->n * sizeof(*v));
		*v_p = v;
		*n_p = m->table->n;
		if (version_p != NULL)
			*version_p = m->table->version;
	}
	pthread_mutex_unlock(&m->lock);
	return v == NULL ? DSM_ENOMEM : DSM_OK;
}
