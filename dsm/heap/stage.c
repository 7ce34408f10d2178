/*
 * See stage.h.
 *
 * A commit goes over the parts up to four times, so that each step that can
 * fail comes before the first one that cannot be taken back:
 *
 *   check      every part well-formed, every run in memory that may be written
 *   conflicts  (asked for only by asynchronous runs)
 *   others     memory outside the heap; what is overwritten is saved first,
 *              and put back when a page turns out to be gone or read-only
 *   heap       dsm__views_apply in batches
 *
 * Parts are unpacked again in each step rather than kept: unpacking is quicker
 * than the page faults of fresh memory for it. Most parts are all heap and are
 * skipped in the step for the others.
 *
 * Staged bytes lie in chunks of their own mappings: malloc may be the shared
 * heap, which should not grow by what a run is about to write to it.
 */
#include "stage.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../wire/packdiff.h"
#include "../wire/wire.h"
#include "idtab.h"
#include "selfmem.h"

#define CHUNK_MIN ((size_t)64 << 10)
#define CHUNK_MAX ((size_t)16 << 20)
#define BATCH 4096                     /* runs in one dsm__views_apply */
#define SAVED_MAX ((size_t)64 << 20)   /* in one batch, but for one big run */
#define PART_RAW_MAX ((size_t)1 << 30) /* unpacked, what a peer may claim */

struct part {
	const uint8_t *bytes;
	size_t len;
	int has_heap, has_other; /* known after check */
	const struct dsm_rec_mark *marks;
	size_t n_marks;
	struct part *next;
};

struct attempt {
	uint64_t id;
	struct part *first, *last;
	uint32_t n_parts;
	int whole;
};

struct chunk {
	struct chunk *next;
	size_t size, used; /* this header included */
};

struct dsm_stage {
	struct dsm_idtab attempts;
	struct chunk *chunks; /* the newest first; freed with the stage */
	size_t n_bytes;       /* packed, of live attempts */
};

/* --- memory --- */

static void *
chunk_alloc(struct dsm_stage *s, size_t len)
{
	struct chunk *c = s->chunks;
	size_t size = c == NULL ? CHUNK_MIN : 2 * c->size;

	len = (len + 15) & ~(size_t)15;
	if (c == NULL || c->size - c->used < len) {
		size = size < CHUNK_MAX ? size : CHUNK_MAX;
		if (size < len + sizeof(*c))
			size = dsm__page_up(len + sizeof(*c));
		c = mmap(NULL, size, PROT_READ | PROT_WRITE,
		         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (c == MAP_FAILED)
			return NULL;
		*c = (struct chunk){s->chunks, size,
		                    (sizeof(*c) + 15) & ~(size_t)15};
		s->chunks = c;
	}
	c->used += len;
	return (char *)c + c->used - len;
}

int
dsm__stage_create(struct dsm_stage **s_p)
{
	struct dsm_stage *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return DSM_ENOMEM;
	*s_p = s;
	return DSM_OK;
}

void
dsm__stage_destroy(struct dsm_stage *s)
{
	struct chunk *c, *next;

	if (s == NULL)
		return;
	for (c = s->chunks; c != NULL; c = next) {
		next = c->next;
		munmap(c, c->size);
	}
	dsm__idtab_fini(&s->attempts);
	free(s);
}

/* --- staging --- */

static struct attempt *
attempt_get(struct dsm_stage *s, uint64_t id)
{
	struct attempt *a = dsm__idtab_get(&s->attempts, id);

	if (a != NULL)
		return a;
	a = chunk_alloc(s, sizeof(*a));
	if (a == NULL)
		return NULL;
	*a = (struct attempt){.id = id};
	return dsm__idtab_put(&s->attempts, id, a) == DSM_OK ? a : NULL;
}

static int
add(struct dsm_stage *s, uint64_t id, uint32_t n, int last, const void *packed,
    size_t len, int borrowed)
{
	struct attempt *a = dsm__idtab_get(&s->attempts, id);
	struct part *part;
	uint8_t *copy;

	if (a != NULL ? a->whole || n != a->n_parts : n != 0)
		return DSM_EPROTO;
	part = chunk_alloc(s, sizeof(*part));
	copy = borrowed ? NULL : chunk_alloc(s, len);
	if (part == NULL || (copy == NULL && !borrowed))
		return DSM_ENOMEM;
	a = attempt_get(s, id);
	if (a == NULL)
		return DSM_ENOMEM;
	if (copy != NULL && len > 0)
		memcpy(copy, packed, len);
	*part = (struct part){.bytes = borrowed ? packed : copy, .len = len};
	if (a->last != NULL)
		a->last->next = part;
	else
		a->first = part;
	a->last = part;
	a->n_parts++;
	a->whole = last != 0;
	s->n_bytes += len;
	return DSM_OK;
}

int
dsm__stage_add(struct dsm_stage *s, uint64_t attempt, uint32_t part, int last,
               const void *packed, size_t len)
{
	return add(s, attempt, part, last, packed, len, 0);
}

int
dsm__stage_add_borrowed(struct dsm_stage *s, uint64_t attempt, uint32_t part,
                        int last, const void *packed, size_t len)
{
	return add(s, attempt, part, last, packed, len, 1);
}

int
dsm__stage_marks(struct dsm_stage *s, uint64_t attempt,
                 const struct dsm_array *marks)
{
	struct attempt *a = dsm__idtab_get(&s->attempts, attempt);
	struct dsm_rec_mark *v;

	if (a == NULL)
		return DSM_EPROTO;
	v = chunk_alloc(s, marks->n * sizeof(*v));
	if (v == NULL)
		return DSM_ENOMEM;
	for (uint32_t i = 0; i < marks->n; i++) {
		int err = dsm__unpack_mark(marks, i, &v[i]);

		if (err != DSM_OK)
			return err;
		if (v[i].off >= a->last->len ||
		    v[i].off < (i > 0 ? v[i - 1].off + 1 : 0))
			return DSM_EPROTO;
	}
	a->last->marks = v;
	a->last->n_marks = marks->n;
	return DSM_OK;
}

int
dsm__stage_whole(const struct dsm_stage *s, uint64_t attempt)
{
	const struct attempt *a = dsm__idtab_get(&s->attempts, attempt);

	return a != NULL && a->whole;
}

void
dsm__stage_drop(struct dsm_stage *s, uint64_t attempt)
{
	struct attempt *a = dsm__idtab_take(&s->attempts, attempt);

	if (a == NULL)
		return;
	for (const struct part *p = a->first; p != NULL; p = p->next)
		s->n_bytes -= p->len;
}

size_t
dsm__stage_bytes(const struct dsm_stage *s)
{
	return s->n_bytes;
}

/* --- unpacking --- */

/* Walks a part: pair by pair, in each run by run with its bytes. */
struct reader {
	const struct part *part;
	const uint8_t *p; /* of the part: pairs not yet unpacked */
	size_t left;
	size_t at;                          /* the pair's place in the part */
	struct dsm_wbuf mask_buf, data_buf; /* kept from pair to pair */
	const uint8_t *mask, *data;         /* the pair */
	size_t mask_len, data_len, pos;
	struct dsm_maskit it;
};

static void
reader_fini(struct reader *r)
{
	dsm__wbuf_fini(&r->mask_buf);
	dsm__wbuf_fini(&r->data_buf);
}

static void
reader_open(struct reader *r, const struct part *part)
{
	r->part = part;
	r->p = part->bytes;
	r->left = part->len;
}

static int
unpack(struct reader *r, struct dsm_wbuf *buf, const uint8_t **p_p,
       size_t *len_p)
{
	size_t used;
	int err =
	    dsm__unsqueeze(r->p, r->left, PART_RAW_MAX, buf, p_p, len_p, &used);

	if (err != DSM_OK)
		return err;
	r->p += used;
	r->left -= used;
	return DSM_OK;
}

/* Next pair: 1, 0 at the end. Bytes of the pair before are gone then. */
static int
reader_pair(struct reader *r)
{
	int err;

	if (r->left == 0)
		return 0;
	r->at = (size_t)(r->p - r->part->bytes);
	err = unpack(r, &r->mask_buf, &r->mask, &r->mask_len);
	if (err == DSM_OK)
		err = unpack(r, &r->data_buf, &r->data, &r->data_len);
	if (err != DSM_OK)
		return err;
	dsm__maskit_init(&r->it, r->mask, r->mask_len);
	r->pos = 0;
	return 1;
}

/* Take w's bytes out of the data part. Bounds are checked although the part
 * was: borrowed bytes are also in the memory of the process that wrote them. */
static int
reader_bytes(struct reader *r, struct dsm_write *w)
{
	if (w->n_bytes > r->data_len - r->pos)
		return DSM_EPROTO;
	w->bytes = r->data + r->pos;
	r->pos += w->n_bytes;
	return 1;
}

/* Next run of the pair: 1, 0 at the end. */
static int
reader_next(struct reader *r, struct dsm_write *w)
{
	int more = dsm__maskit_next(&r->it, &w->addr, &w->len);

	w->bitmap = NULL;
	w->n_bytes = w->len;
	return more != 1 ? more : reader_bytes(r, w);
}

/* The same, a page with its bitmap where the write set has one. */
static int
reader_next_page(struct reader *r, struct dsm_write *w)
{
	int more = dsm__maskit_next_page(&r->it, &w->addr, &w->len, &w->bitmap,
	                                 &w->n_bytes);

	return more != 1 ? more : reader_bytes(r, w);
}

/* --- commit --- */

/* Bytes that were there before: to put them back. */
struct undo {
	struct undo *next; /* the batch before */
	size_t n;
	struct iovec *old, *at;
};

struct commit {
	struct dsm_stage *s;
	struct dsm_map *map;
	struct dsm_views *views;
	struct dsm_extents *changed;
	struct dsm_error *e;
	uint64_t heap_start, heap_end;
	struct reader reader;
	struct dsm_commit_stats stats;
	int refreshed;
	struct undo *undo;
	struct dsm_write *batch; /* BATCH of them */
	size_t n_batch, batch_bytes;
	struct dsm_client_race *races;
	size_t races_cap, n_races;
	/* Outside the heap: the page looked at last, and what is there now. */
	const struct dsm_served *served;
	uint64_t page;
	const uint8_t *given; /* NULL: not known */
	uint8_t now[DSM_PAGE];
};

static int
in_heap(const struct commit *c, uint64_t addr)
{
	return addr - c->heap_start < c->heap_end - c->heap_start;
}

static int
is_committed(const struct dsm_range *r)
{
	return (r->prot & PROT_WRITE) != 0 &&
	       (r->kind == DSM_RANGE_HEAP || r->kind == DSM_RANGE_DATA ||
	        r->kind == DSM_RANGE_ANON || r->kind == DSM_RANGE_STACK);
}

static int
find_committed(struct commit *c, uint64_t addr, struct dsm_range *r)
{
	int ok = dsm__map_find(c->map, addr, r) && is_committed(r);

	if (ok || c->refreshed)
		return ok;
	/* Mapped or made writable since the table was read? */
	c->refreshed = 1;
	return dsm__map_refresh(c->map, NULL, NULL) == DSM_OK &&
	       dsm__map_find(c->map, addr, r) && is_committed(r);
}

/* Does all of the run lie in memory that is committed? r: the last range. */
static int
check_run(struct commit *c, struct part *part, uint64_t id,
          const struct dsm_write *w, struct dsm_range *r)
{
	uint64_t at = w->addr, end = w->addr + w->len;

	while (at < end) {
		int heap;

		if ((at < r->start || at >= r->end) &&
		    !find_committed(c, at, r)) {
			*r = (struct dsm_range){0};
			return dsm__fail(
			    c->e, DSM_EINVAL,
			    "attempt %llu wrote to %#llx, which the program "
			    "has not mapped as writable memory of its own",
			    (unsigned long long)id, (unsigned long long)at);
		}
		heap = r->kind == DSM_RANGE_HEAP;
		if (heap != in_heap(c, at) || (heap && r->end > c->heap_end))
			return dsm__fail(
			    c->e, DSM_EINVAL,
			    "the heap's range and its views do not agree");
		part->has_heap |= heap;
		part->has_other |= !heap;
		at = r->end;
	}
	return DSM_OK;
}

static int
check_pair(struct commit *c, struct part *part, uint64_t id)
{
	struct dsm_range range = {0};
	struct dsm_write w;
	uint64_t n_bytes, free_page = 0;
	int err = dsm__mask_check(c->reader.mask, c->reader.mask_len, &n_bytes);

	if (err != DSM_OK || n_bytes != c->reader.data_len)
		return DSM_EPROTO;
	while ((err = reader_next_page(&c->reader, &w)) == 1) {
		uint64_t page = w.addr / DSM_PAGE;
		uint64_t end = (w.addr + w.len - 1) / DSM_PAGE + 1;

		err = check_run(c, part, id, &w, &range);
		if (err != DSM_OK)
			return err;
		page = page > free_page ? page : free_page;
		c->stats.pages += end - page;
		free_page = end;
	}
	c->stats.bytes += n_bytes;
	return err;
}

static int
check_part(struct commit *c, struct part *part, uint64_t id)
{
	int err;

	part->has_heap = part->has_other = 0;
	reader_open(&c->reader, part);
	while ((err = reader_pair(&c->reader)) == 1) {
		err = check_pair(c, part, id);
		if (err != DSM_OK)
			break;
	}
	if (err == DSM_ENOMEM)
		return dsm__fail(c->e, err, "no memory to unpack a write set");
	if (err == DSM_EPROTO)
		return dsm__fail(c->e, err,
		                 "the write set of attempt %llu is malformed",
		                 (unsigned long long)id);
	return err;
}

static int
check_attempt(struct commit *c, struct attempt *a)
{
	int err = DSM_OK;

	if (!a->whole)
		return dsm__fail(
		    c->e, DSM_EINVAL,
		    "the write set of attempt %llu is not complete",
		    (unsigned long long)a->id);
	for (struct part *p = a->first; p != NULL && err == DSM_OK; p = p->next)
		err = check_part(c, p, a->id);
	return err;
}

typedef int run_fn(struct commit *c, uint64_t id, const struct dsm_write *w);

static int heap_run(struct commit *c, uint64_t id, const struct dsm_write *w);

/* Call fn for what of a run lies in the heap (or outside). */
static int
walk_run(struct commit *c, uint64_t id, struct dsm_write w, int heap,
         run_fn *fn)
{
	int err = DSM_OK;

	while (w.len > 0 && err == DSM_OK) {
		struct dsm_write cut = w;
		uint64_t edge =
		    in_heap(c, w.addr) ? c->heap_end : c->heap_start;

		if (edge > w.addr && edge - w.addr < w.len)
			cut.len = edge - w.addr;
		if (w.bitmap == NULL) {
			cut.n_bytes = cut.len;
			w.bytes += cut.len;
		}
		w.addr += cut.len;
		w.len -= cut.len;
		if (in_heap(c, cut.addr) == heap)
			err = fn(c, id, &cut);
	}
	return err;
}

static int
walk_part(struct commit *c, uint64_t id, const struct part *p, int heap,
          run_fn *fn, int (*flush)(struct commit *c))
{
	/* Only the heap's commit takes pages with bitmaps. */
	int (*next)(struct reader *, struct dsm_write *) =
	    fn == heap_run ? reader_next_page : reader_next;
	struct dsm_write w;
	int err, more;

	reader_open(&c->reader, p);
	while ((more = reader_pair(&c->reader)) == 1) {
		while ((err = next(&c->reader, &w)) == 1) {
			err = walk_run(c, id, w, heap, fn);
			if (err != DSM_OK)
				return err;
		}
		/* Unpacked bytes and bitmaps go away with the next pair. */
		if (err == DSM_OK && flush != NULL &&
		    (c->reader.data == c->reader.data_buf.ptr ||
		     c->reader.mask == c->reader.mask_buf.ptr))
			err = flush(c);
		if (err != DSM_OK)
			return err;
	}
	return more;
}

/* The runs of an attempt that lie in the heap (or outside). Those that fn has
 * collected and flush has not seen are the caller's to flush. */
static int
walk(struct commit *c, const struct attempt *a, int heap, run_fn *fn,
     int (*flush)(struct commit *c))
{
	int err = DSM_OK;

	for (const struct part *p = a->first; p != NULL && err == DSM_OK;
	     p = p->next)
		if (heap ? p->has_heap : p->has_other)
			err = walk_part(c, a->id, p, heap, fn, flush);
	return err;
}

/* --- conflicts with the program --- */

/* The program may be writing the byte right now: either value is right. */
__attribute__((no_sanitize("thread"))) static int
program_changed(const struct commit *c, uint64_t addr)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	const uint8_t *now = (const uint8_t *)(uintptr_t)addr;
	const uint8_t *frozen = dsm__views_serving(c->views, addr);

	return __atomic_load_n(now, __ATOMIC_RELAXED) !=
	       __atomic_load_n(frozen, __ATOMIC_RELAXED);
}

/* Whose the pair is that is being read. */
static uint64_t
task_of_pair(const struct reader *r)
{
	const struct part *p = r->part;
	size_t lo = 0, hi = p->n_marks; /* marks before lo start at or below */

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (p->marks[mid].off <= r->at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo > 0 ? p->marks[lo - 1].task : DSM_NO_TASK;
}

static void
add_race(struct commit *c, uint64_t id, uint64_t addr, uint64_t len)
{
	struct dsm_client_race *last =
	    c->n_races > 0 ? &c->races[c->n_races - 1] : NULL;
	uint64_t task = task_of_pair(&c->reader);

	if (last != NULL && last->attempt == id && last->task == task &&
	    last->addr + last->len == addr)
		last->len += len;
	else if (c->races != NULL && c->n_races < c->races_cap)
		c->races[c->n_races++] =
		    (struct dsm_client_race){id, task, addr, len};
}

static int
conflict_run(struct commit *c, uint64_t id, const struct dsm_write *w)
{
	uint64_t at, end, start;

	if (!dsm__views_conflict(c->views, w->addr, w->len, &at, &end))
		return DSM_OK;
	/* Between the first byte and the last there may be innocent ones. */
	while (at < end) {
		for (start = at; at < end && program_changed(c, at); at++)
			;
		if (at > start)
			add_race(c, id, start, at - start);
		else
			at++;
	}
	return DSM_OK;
}

static void
look_at(struct commit *c, uint64_t page)
{
	const struct iovec to = {c->now, DSM_PAGE};
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	const struct iovec from = {(void *)(uintptr_t)page, DSM_PAGE};

	c->page = page;
	c->given = c->served->page(c->served->ctx, page);
	if (c->given != NULL && dsm__self_read(&to, &from, 1) != DSM_PAGE)
		c->given = NULL;
}

static int
outside_run(struct commit *c, uint64_t id, const struct dsm_write *w)
{
	uint64_t at = w->addr, end = w->addr + w->len;

	while (at < end) {
		uint64_t page = dsm__page_down(at), start = at;
		uint64_t stop = page + DSM_PAGE < end ? page + DSM_PAGE : end;

		if (page != c->page)
			look_at(c, page);
		if (c->given == NULL) {
			at = stop;
			continue;
		}
		while (at < stop && c->now[at - page] != c->given[at - page])
			at++;
		if (at > start)
			add_race(c, id, start, at - start);
		else
			at++;
	}
	return DSM_OK;
}

/* --- memory outside the heap --- */

static void
undo_all(struct commit *c)
{
	for (struct undo *u = c->undo; u != NULL; u = u->next)
		(void)dsm__self_write(u->old, u->at, u->n);
	c->undo = NULL;
}

/* Room to save a batch: its structs and bytes in one piece of the stage. */
static struct undo *
undo_make(struct commit *c, size_t n, size_t n_bytes)
{
	size_t iov = n * sizeof(struct iovec);
	struct undo *u = chunk_alloc(c->s, sizeof(*u) + 2 * iov + n_bytes);
	uint8_t *bytes;

	if (u == NULL)
		return NULL;
	u->n = n;
	u->old = (struct iovec *)(u + 1);
	u->at = u->old + n;
	bytes = (uint8_t *)(u->at + n);
	for (size_t i = 0; i < n; i++) {
		size_t len = c->batch[i].len;

		/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
		u->at[i].iov_base = (void *)(uintptr_t)c->batch[i].addr;
		u->at[i].iov_len = len;
		u->old[i] = (struct iovec){bytes, len};
		bytes += len;
	}
	return u;
}

static int
write_others(struct commit *c)
{
	struct iovec from[DSM_SELFMEM_IOV];
	size_t n = c->n_batch, total = 0;
	struct undo *u;

	for (size_t i = 0; i < n; i++) {
		from[i] =
		    (struct iovec){(void *)c->batch[i].bytes, c->batch[i].len};
		total += c->batch[i].len;
	}
	c->n_batch = c->batch_bytes = 0;
	u = undo_make(c, n, total);
	if (u == NULL)
		return DSM_ENOMEM;
	if (dsm__self_read(u->old, u->at, n) != total)
		return DSM_EINVAL;
	/* Listed first: a write that ends half-way is taken back, too. */
	u->next = c->undo;
	c->undo = u;
	return dsm__self_write(from, u->at, n) == total ? DSM_OK : DSM_EINVAL;
}

static int
other_run(struct commit *c, uint64_t id, const struct dsm_write *w)
{
	int err = DSM_OK;

	(void)id;
	if (c->n_batch == DSM_SELFMEM_IOV ||
	    (c->n_batch > 0 && c->batch_bytes + w->len > SAVED_MAX))
		err = write_others(c);
	c->batch[c->n_batch++] = *w;
	c->batch_bytes += w->len;
	return err;
}

static int
flush_others(struct commit *c)
{
	return c->n_batch > 0 ? write_others(c) : DSM_OK;
}

/* --- the heap --- */

static int
flush_heap(struct commit *c)
{
	size_t n = c->n_batch;

	c->n_batch = 0;
	return n == 0
	           ? DSM_OK
	           : dsm__views_apply(c->views, c->batch, n, c->changed, c->e);
}

static int
heap_run(struct commit *c, uint64_t id, const struct dsm_write *w)
{
	(void)id;
	c->batch[c->n_batch++] = *w;
	return c->n_batch < BATCH ? DSM_OK : flush_heap(c);
}

/* --- all of it --- */

static int
check_all(struct commit *c, struct attempt **v, size_t n)
{
	int err = DSM_OK;

	for (size_t i = 0; i < n && err == DSM_OK; i++)
		err = check_attempt(c, v[i]);
	if (c->races == NULL || c->views == NULL)
		return err;
	dsm__views_conflict_start(c->views);
	for (size_t i = 0; i < n && err == DSM_OK; i++)
		err = walk(c, v[i], 1, conflict_run, NULL);
	if (err == DSM_OK && c->n_races > 0)
		err = dsm__fail(
		    c->e, DSM_ERACE,
		    "a task and the program wrote the same byte at %#llx",
		    (unsigned long long)c->races[0].addr);
	return err;
}

static int
apply_all(struct commit *c, struct attempt **v, size_t n)
{
	int err = DSM_OK;

	c->batch = chunk_alloc(c->s, BATCH * sizeof(*c->batch));
	if (c->batch == NULL)
		return dsm__fail(c->e, DSM_ENOMEM, "no memory for a commit");
	for (size_t i = 0; i < n && err == DSM_OK; i++)
		err = walk(c, v[i], 0, other_run, flush_others);
	if (err == DSM_OK)
		err = flush_others(c);
	if (err == DSM_EINVAL)
		dsm__fail(c->e, err,
		          "memory that tasks wrote to was unmapped or made "
		          "read-only during the run");
	for (size_t i = 0; i < n && err == DSM_OK; i++)
		err = walk(c, v[i], 1, heap_run, flush_heap);
	if (err == DSM_OK)
		err = flush_heap(c);
	if (err != DSM_OK)
		undo_all(c);
	return err;
}

/* Those of the attempts that were staged: the others wrote nothing. */
static struct attempt **
staged(struct dsm_stage *s, const uint64_t *ids, size_t n, size_t *n_p)
{
	struct attempt **v = chunk_alloc(s, (n + 1) * sizeof(struct attempt *));

	*n_p = 0;
	for (size_t i = 0; i < n && v != NULL; i++) {
		v[*n_p] = dsm__idtab_get(&s->attempts, ids[i]);
		*n_p += v[*n_p] != NULL;
	}
	return v;
}

void
dsm__stage_outside(struct dsm_stage *s, struct dsm_map *map,
                   struct dsm_views *views, const uint64_t *attempts, size_t n,
                   const struct dsm_served *served,
                   struct dsm_client_race *races, size_t races_cap,
                   size_t *n_races_p)
{
	struct dsm_error e;
	struct commit c = {.s = s,
	                   .map = map,
	                   .views = views,
	                   .e = &e,
	                   .races = races,
	                   .races_cap = races_cap,
	                   .served = served};
	struct attempt **v;
	size_t n_wrote = 0;
	int err = DSM_OK;

	*n_races_p = 0;
	if (s->attempts.n == 0)
		return;
	v = staged(s, attempts, n, &n_wrote);
	if (v == NULL)
		return;
	if (views != NULL) {
		c.heap_start = (uint64_t)(uintptr_t)dsm__views_base(views);
		c.heap_end = c.heap_start + dsm__views_size(views);
	}
	for (size_t i = 0; i < n_wrote && err == DSM_OK; i++)
		err = check_attempt(&c, v[i]);
	for (size_t i = 0; i < n_wrote && err == DSM_OK; i++)
		err = walk(&c, v[i], 0, outside_run, NULL);
	reader_fini(&c.reader);
	*n_races_p = err == DSM_OK ? c.n_races : 0;
}

int
dsm__stage_commit(struct dsm_stage *s, struct dsm_map *map,
                  struct dsm_views *views, const uint64_t *attempts, size_t n,
                  struct dsm_client_race *races, size_t races_cap,
                  size_t *n_races_p, struct dsm_extents *changed,
                  struct dsm_commit_stats *stats_p, struct dsm_error *e)
{
	struct commit c = {.s = s,
	                   .map = map,
	                   .views = views,
	                   .changed = changed,
	                   .e = e,
	                   .races = races,
	                   .races_cap = races_cap};
	struct attempt **v;
	size_t n_wrote = 0;
	int err;

	if (n_races_p != NULL)
		*n_races_p = 0;
	if (stats_p != NULL)
		*stats_p = c.stats;
	if (s->attempts.n == 0)
		return DSM_OK;
	v = staged(s, attempts, n, &n_wrote);
	if (v == NULL)
		return dsm__fail(e, DSM_ENOMEM, "no memory for a commit");
	if (views != NULL) {
		c.heap_start = (uint64_t)(uintptr_t)dsm__views_base(views);
		c.heap_end = c.heap_start + dsm__views_size(views);
	}
	err = check_all(&c, v, n_wrote);
	if (err == DSM_OK && n_wrote > 0)
		err = apply_all(&c, v, n_wrote);
	reader_fini(&c.reader);
	if (n_races_p != NULL)
		*n_races_p = c.n_races;
	if (err == DSM_OK && stats_p != NULL)
		*stats_p = c.stats;
	return err;
}

/* --- reports --- */

void
dsm__stage_each(struct dsm_stage *s, const uint64_t *attempts, size_t n,
                void (*fn)(void *ctx, uint64_t addr, uint64_t len), void *ctx)
{
	struct reader r = {0};
	struct dsm_write w;

	for (size_t i = 0; i < n; i++) {
		const struct attempt *a =
		    dsm__idtab_get(&s->attempts, attempts[i]);

		for (const struct part *p = a != NULL ? a->first : NULL;
		     p != NULL; p = p->next) {
			reader_open(&r, p);
			while (reader_pair(&r) == 1)
				while (reader_next(&r, &w) == 1)
					fn(ctx, w.addr, w.len);
		}
	}
	reader_fini(&r);
}

/* A value that is looked for. */
struct want {
	struct dsm_value *value;
	uint64_t attempt; /* that `have` is of */
	unsigned have;    /* bit: byte is known */
};

/* Those of an attempt, by task, then address. */
struct wants {
	struct want *v;
	size_t n;
	const struct attempt *attempt;
};

static int
compare_wants(const void *a, const void *b)
{
	const struct dsm_value *x = ((const struct want *)a)->value;
	const struct dsm_value *y = ((const struct want *)b)->value;

	if (x->task != y->task)
		return x->task < y->task ? -1 : 1;
	return (x->addr > y->addr) - (x->addr < y->addr);
}

/* The first that may reach to addr in a task or comes after all that do. */
static size_t
first_want(const struct wants *x, uint64_t task, uint64_t addr)
{
	size_t lo = 0, hi = x->n; /* those before lo come before */

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct dsm_value *v = x->v[mid].value;

		if (v->task < task ||
		    (v->task == task && v->addr + DSM_VALUE_MAX <= addr))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int
is_wanted(const struct wants *x, uint64_t task)
{
	size_t i = first_want(x, task, 0);

	return i < x->n && x->v[i].value->task == task;
}

static void
fill_want(const struct wants *x, struct want *want, const struct dsm_write *w)
{
	struct dsm_value *v = want->value;

	if (want->have != 0 && want->attempt > x->attempt->id)
		return;
	for (unsigned i = 0; i < v->len; i++) {
		uint64_t off = v->addr + i - w->addr;

		if (off >= w->len)
			continue;
		if (want->attempt != x->attempt->id)
			want->have = 0;
		want->attempt = x->attempt->id;
		want->have |= 1u << i;
		v->bytes[i] = w->bytes[off];
	}
}

/* Borrowed bytes may have become nonsense: then there is less to say. */
static void
fill_part(const struct wants *x, struct reader *r, const struct part *p)
{
	struct dsm_write w;
	int wanted = 0;

	for (size_t i = 0; i < p->n_marks && !wanted; i++)
		wanted = is_wanted(x, p->marks[i].task);
	if (!wanted)
		return;
	reader_open(r, p);
	while (reader_pair(r) == 1) {
		uint64_t task = task_of_pair(r);

		if (!is_wanted(x, task))
			continue;
		while (reader_next(r, &w) == 1)
			for (size_t i = first_want(x, task, w.addr);
			     i < x->n && x->v[i].value->task == task &&
			     (x->v[i].value->addr < w.addr ||
			      x->v[i].value->addr - w.addr < w.len);
			     i++)
				fill_want(x, &x->v[i], &w);
	}
}

void
dsm__stage_values(struct dsm_stage *s, struct dsm_value *values, size_t n)
{
	struct wants x = {.v = chunk_alloc(s, (n + 1) * sizeof(*x.v)), .n = n};
	struct reader r = {0};

	for (size_t i = 0; i < n; i++)
		values[i].n = 0;
	if (x.v == NULL)
		return;
	for (size_t i = 0; i < n; i++)
		x.v[i] = (struct want){.value = &values[i]};
	qsort(x.v, n, sizeof(*x.v), compare_wants);
	for (size_t i = 0; i < s->attempts.cap; i++) {
		const struct attempt *a = s->attempts.v[i].p;

		if (a == NULL || !a->whole)
			continue;
		x.attempt = a;
		for (const struct part *p = a->first; p != NULL; p = p->next)
			fill_part(&x, &r, p);
	}
	reader_fini(&r);
	for (size_t i = 0; i < n; i++)
		if (x.v[i].have == (1u << x.v[i].value->len) - 1)
			x.v[i].value->n = x.v[i].value->len;
}
