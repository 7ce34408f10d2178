/*
 * Commit: all or nothing. See stage.h.
 *
 * It goes over the parts up to four times, so that each step that can fail comes
 * before the first one that cannot be taken back:
 *
 *   check      every part well-formed, every run in memory that may be written
 *   conflicts  (asked for only by asynchronous runs)
 *   others     memory outside the heap; what is overwritten is saved first,
 *              and put back when a page turns out to be gone or read-only
 *   heap       dsm__views_apply in batches
 *
 * Most parts are all heap and are skipped in the step for the others.
 */
#include "stage_priv.h"

#include <sys/mman.h>

#include "selfmem.h"

#define BATCH 4096                   /* runs in one dsm__views_apply */
#define SAVED_MAX ((size_t)64 << 20) /* in one batch, but for one big run */

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
	struct dsm_reader reader;
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
	while ((err = dsm__reader_next_page(&c->reader, &w)) == 1) {
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
	dsm__reader_open(&c->reader, part);
	while ((err = dsm__reader_pair(&c->reader)) == 1) {
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
	int (*next)(struct dsm_reader *, struct dsm_write *) =
	    fn == heap_run ? dsm__reader_next_page : dsm__reader_next;
	struct dsm_write w;
	int err, more;

	dsm__reader_open(&c->reader, p);
	while ((more = dsm__reader_pair(&c->reader)) == 1) {
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

static void
add_race(struct commit *c, uint64_t id, uint64_t addr, uint64_t len)
{
	struct dsm_client_race *last =
	    c->n_races > 0 ? &c->races[c->n_races - 1] : NULL;
	uint64_t task = dsm__reader_task(&c->reader);

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
	struct undo *u = dsm__stage_alloc(c->s, sizeof(*u) + 2 * iov + n_bytes);
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

	c->batch = dsm__stage_alloc(c->s, BATCH * sizeof(*c->batch));
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
	struct attempt **v =
	    dsm__stage_alloc(s, (n + 1) * sizeof(struct attempt *));

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
	dsm__reader_fini(&c.reader);
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
	dsm__reader_fini(&c.reader);
	if (n_races_p != NULL)
		*n_races_p = c.n_races;
	if (err == DSM_OK && stats_p != NULL)
		*stats_p = c.stats;
	return err;
}
