#include "task_arena.h"
#include "runs.h"

#include <errno.h>
#include <string.h>

#define MAGIC UINT64_C(0x616e6572616b7374) /* "tskarena" */
#define CHUNK_POINTERS 62u

/* In the range, before the page map. */
struct header {
	uint64_t magic;
	uint64_t base, len;
	uint64_t top;      /* pages */
	uint64_t meta_low; /* address */
	uint64_t n_blocks;
	uint64_t stamp;
	uint64_t zero;
};
_Static_assert(sizeof(struct header) == 64, "the page map comes next");

struct deferred_chunk {
	struct deferred_chunk *next;
	uint64_t n;
	void *v[CHUNK_POINTERS];
};

struct dsm_task_arena {
	char *base;
	uint64_t size;
	uint64_t stamp;
	char *meta_low, *meta_end; /* meta_end: the header */
	struct dsm_runs runs;
	struct dsm_span *partial[DSM_N_CLASSES];
	dsm_slot_word *words[DSM_N_CLASSES]; /* not in use; by first word */
	uint64_t n_blocks;

	struct deferred_chunk *more, *last_more; /* when inline_v is full */
	size_t n_inline, inline_cap;
	void *inline_v[];
};
_Static_assert(sizeof(struct dsm_task_arena) + 64 <= DSM_TASK_STATE_MIN,
               "room for some deferred frees");

/* Pages at the end for header and map; the map covers itself too, for the sake
 * of a simple sum. */
static uint64_t
tail_len(uint64_t size)
{
	return dsm__page_up(sizeof(struct header) +
	                    (size >> DSM_PAGE_SHIFT) * sizeof(dsm_map_entry));
}

/* Metadata grow down towards the blocks; bot follows. */
static void *
meta(void *ctx, size_t n)
{
	struct dsm_task_arena *ta = ctx;
	uint64_t used = (uint64_t)(ta->meta_low - ta->base);
	uint64_t bot;

	n = (n + 63) & ~(size_t)63;
	if (n > used)
		return NULL;
	bot = (used - n) >> DSM_PAGE_SHIFT;
	if (bot < ta->runs.top)
		dsm__runs_trim(&ta->runs);
	if (bot < ta->runs.top)
		return NULL;
	ta->meta_low -= n;
	ta->runs.bot = ta->runs.n_pages = bot;
	return ta->meta_low;
}

int
dsm__task_arena_init(void *state, size_t state_len, void *base, uint64_t size,
                     bool zeroed, uint64_t stamp, struct dsm_task_arena **ta_p)
{
	struct dsm_task_arena *ta = state;

	if ((uintptr_t)state % 64 != 0 || state_len < DSM_TASK_STATE_MIN ||
	    size < DSM_TASK_ARENA_MIN ||
	    (((uintptr_t)base | size) & DSM_PAGE_MASK) != 0)
		return DSM_EINVAL;
	memset(ta, 0, sizeof(*ta));
	ta->base = base;
	ta->size = size;
	ta->stamp = stamp;
	ta->meta_low = ta->meta_end = ta->base + size - tail_len(size);
	ta->inline_cap = (state_len - sizeof(*ta)) / sizeof(void *);
	ta->runs.base = base;
	ta->runs.n_pages = ta->runs.bot =
	    (uint64_t)(ta->meta_low - ta->base) >> DSM_PAGE_SHIFT;
	ta->runs.map = (dsm_map_entry *)(ta->meta_end + sizeof(struct header));
	ta->runs.zeroed = ta->runs.map_zeroed = zeroed;
	ta->runs.meta = meta;
	ta->runs.ctx = ta;
	*ta_p = ta;
	return DSM_OK;
}

bool
dsm__task_has(const struct dsm_task_arena *ta, const void *p)
{
	return (uint64_t)((const char *)p - ta->base) < ta->size;
}

/* ---- spans ---- */

static void
free_words(struct dsm_task_arena *ta, unsigned cls, dsm_slot_word *words)
{
	words[0] = (uintptr_t)ta->words[cls];
	ta->words[cls] = words;
}

static struct dsm_span *
new_span(struct dsm_task_arena *ta, unsigned cls)
{
	dsm_slot_word *words = ta->words[cls];
	struct dsm_span *s;

	if (words != NULL)
		ta->words[cls] = (dsm_slot_word *)(uintptr_t)words[0];
	else
		words = meta(ta, dsm__span_slots_of(cls) * sizeof(*words));
	if (words == NULL)
		return NULL;
	s = dsm__runs_take(&ta->runs, dsm__class_pages(cls), DSM_PAGE);
	if (s == NULL) {
		free_words(ta, cls, words);
		return NULL;
	}
	dsm__span_small(s, cls, words);
	dsm__runs_mark(&ta->runs, s);
	dsm__span_link(&ta->partial[cls], s);
	return s;
}

static void *
out_of_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

static void *
small(struct dsm_task_arena *ta, unsigned cls, size_t size, size_t elem_size,
      bool zero, void *ra)
{
	struct dsm_span *s = ta->partial[cls];
	bool fresh;
	uint32_t i;
	void *p;

	if (s == NULL)
		s = new_span(ta, cls);
	if (s == NULL)
		return out_of_memory();
	i = dsm__slot_take(s, &fresh);
	if (dsm__span_full(s))
		dsm__span_unlink(&ta->partial[cls], s);
	s->words[i] = dsm__word_make(s->slot_size, size, elem_size, ra);
	ta->n_blocks++;
	p = s->base + i * s->slot_size;
	if (zero && !fresh)
		memset(p, 0, size);
	return p;
}

static void
free_small(struct dsm_task_arena *ta, struct dsm_span *s, uint32_t i)
{
	struct dsm_span **partial = &ta->partial[s->cls];

	if (dsm__span_full(s))
		dsm__span_link(partial, s);
	dsm__slot_put(s, i);
	if (s->n_used != 0 || (s->prev == NULL && s->next == NULL))
		return;
	dsm__span_unlink(partial, s);
	free_words(ta, s->cls, s->words);
	s->zeroed = false;
	dsm__runs_give(&ta->runs, s);
}

static void *
large(struct dsm_task_arena *ta, size_t align, size_t size, size_t elem_size,
      bool zero, void *ra)
{
	struct dsm_span *s;
	bool zeroed;

	if (size > ta->size)
		return out_of_memory();
	s = dsm__runs_take(&ta->runs,
	                   size == 0 ? 1 : dsm__page_up(size) >> DSM_PAGE_SHIFT,
	                   align < DSM_PAGE ? DSM_PAGE : align);
	if (s == NULL)
		return out_of_memory();
	s->size = size;
	s->elem_size = elem_size;
	s->return_address = ra;
	s->kind = DSM_SPAN_LARGE;
	zeroed = s->zeroed;
	s->zeroed = false;
	dsm__runs_mark(&ta->runs, s);
	ta->n_blocks++;
	if (zero && !zeroed)
		memset(s->base, 0, size);
	return s->base;
}

/* The live block that starts at p of the arena, or death; index: its slot. */
static struct dsm_span *
block_at(const struct dsm_task_arena *ta, const void *p, uint32_t *index_p)
{
	struct dsm_span *s = dsm__runs_lookup(
	    &ta->runs,
	    (uint64_t)((const char *)p - ta->base) >> DSM_PAGE_SHIFT);

	if (s != NULL && s->kind == DSM_SPAN_LARGE && s->base == p)
		return s;
	if (s != NULL && s->kind == DSM_SPAN_SMALL) {
		int64_t i = dsm__span_index(s, p);

		/* Words above bump were never set. */
		if (i >= 0 && i < s->bump && (s->words[i] & DSM_WORD_LIVE)) {
			*index_p = (uint32_t)i;
			return s;
		}
	}
	dsm__heap_die("free: not a live block of this task:", p);
}

/* ---- deferred frees ---- */

static void
defer(struct dsm_task_arena *ta, void *p)
{
	struct deferred_chunk *c = ta->last_more;

	if (ta->n_inline < ta->inline_cap) {
		ta->inline_v[ta->n_inline++] = p;
		return;
	}
	if (c == NULL || c->n == CHUNK_POINTERS) {
		c = meta(ta, sizeof(*c));
		if (c == NULL)
			return; /* the block leaks: better than to fail a free
			         */
		c->next = NULL;
		c->n = 0;
		if (ta->last_more != NULL)
			ta->last_more->next = c;
		else
			ta->more = c;
		ta->last_more = c;
	}
	c->v[c->n++] = p;
}

size_t
dsm__task_deferred(const struct dsm_task_arena *ta, void **out, size_t cap)
{
	size_t n = 0;

	for (size_t i = 0; i < ta->n_inline; i++, n++)
		if (n < cap)
			out[n] = ta->inline_v[i];
	for (const struct deferred_chunk *c = ta->more; c != NULL; c = c->next)
		for (size_t i = 0; i < c->n; i++, n++)
			if (n < cap)
				out[n] = c->v[i];
	return n;
}

/* ---- the family ---- */

void *
dsm__task_malloc(struct dsm_task_arena *ta, size_t size, void *ra)
{
	if (size > DSM_SMALL_MAX)
		return large(ta, DSM_PAGE, size, 0, false, ra);
	return small(ta, dsm__class_of(size), size, 0, false, ra);
}

void *
dsm__task_calloc(struct dsm_task_arena *ta, size_t n, size_t elem_size,
                 void *ra)
{
	size_t size;

	if (__builtin_mul_overflow(n, elem_size, &size))
		return out_of_memory();
	if (size > DSM_SMALL_MAX)
		return large(ta, DSM_PAGE, size, elem_size, true, ra);
	return small(ta, dsm__class_of(size), size, elem_size, true, ra);
}

void *
dsm__task_aligned(struct dsm_task_arena *ta, size_t align, size_t size,
                  void *ra)
{
	if (align == 0 || (align & (align - 1)) != 0 ||
	    align > UINT64_C(1) << 30) {
		errno = EINVAL;
		return NULL;
	}

	int cls = dsm__class_aligned(align, size);

	if (cls >= 0)
		return small(ta, (unsigned)cls, size, 0, false, ra);
	return large(ta, align, size, 0, false, ra);
}

void
dsm__task_free(struct dsm_task_arena *ta, void *p)
{
	struct dsm_span *s;
	uint32_t i;

	if (p == NULL)
		return;
	if (!dsm__task_has(ta, p)) {
		defer(ta, p);
		return;
	}
	s = block_at(ta, p, &i);
	ta->n_blocks--;
	if (s->kind == DSM_SPAN_SMALL) {
		free_small(ta, s, i);
		return;
	}
	s->kind = DSM_SPAN_BUSY;
	dsm__runs_give(&ta->runs, s);
}

size_t
dsm__task_usable(const struct dsm_task_arena *ta, const void *p)
{
	const struct dsm_span *s;
	uint32_t i;

	if (!dsm__task_has(ta, p))
		return 0;
	s = block_at(ta, p, &i);
	return s->kind == DSM_SPAN_SMALL ? s->slot_size
	                                 : s->n_pages << DSM_PAGE_SHIFT;
}

static bool
resize_run(struct dsm_task_arena *ta, struct dsm_span *s, size_t size, void *ra)
{
	uint64_t n = dsm__page_up(size) >> DSM_PAGE_SHIFT;

	if (size <= DSM_SMALL_MAX || size > ta->size)
		return false;
	if (n > s->n_pages && !dsm__runs_grow(&ta->runs, s, n))
		return false;
	if (n < s->n_pages) {
		struct dsm_span *rest = dsm__runs_split(&ta->runs, s, n);

		if (rest != NULL)
			dsm__runs_give(&ta->runs, rest);
	}
	s->size = size;
	s->elem_size = 0;
	s->return_address = ra;
	return true;
}

/* In place, if the block can stay and not waste more than half. */
static bool
resize(struct dsm_task_arena *ta, void *p, size_t size, void *ra)
{
	uint32_t i;
	struct dsm_span *s = block_at(ta, p, &i);

	if (s->kind == DSM_SPAN_LARGE)
		return resize_run(ta, s, size, ra);
	if (size > s->slot_size ||
	    (size < s->slot_size / 2u && s->slot_size > 16))
		return false;
	s->words[i] = dsm__word_make(s->slot_size, size, 0, ra);
	return true;
}

void *
dsm__task_realloc(struct dsm_task_arena *ta, void *p, size_t size,
                  size_t foreign_usable, void *ra)
{
	bool mine = dsm__task_has(ta, p);
	size_t old;
	void *q;

	if (p == NULL)
		return dsm__task_malloc(ta, size, ra);
	if (size == 0) {
		dsm__task_free(ta, p);
		return NULL;
	}
	if (mine && resize(ta, p, size, ra))
		return p;
	if (!mine && size <= foreign_usable && size >= foreign_usable / 2)
		return p;
	q = dsm__task_malloc(ta, size, ra);
	if (q == NULL)
		return NULL;
	old = mine ? dsm__task_usable(ta, p) : foreign_usable;
	memcpy(q, p, old < size ? old : size);
	dsm__task_free(ta, p);
	return q;
}

/* ---- the end of the task ---- */

void
dsm__task_arena_bounds(const struct dsm_task_arena *ta, uint64_t *live_p,
                       uint64_t *used_p, uint64_t *meta_p)
{
	*live_p = ta->n_blocks;
	*used_p = ta->runs.top << DSM_PAGE_SHIFT;
	*meta_p = (uint64_t)(ta->meta_low - ta->base);
}

size_t
dsm__task_arena_seal(struct dsm_task_arena *ta)
{
	if (ta->n_blocks == 0)
		return 0;

	struct header h = {
	    .magic = MAGIC,
	    .base = (uintptr_t)ta->base,
	    .len = ta->size,
	    .top = ta->runs.top,
	    .meta_low = (uintptr_t)ta->meta_low,
	    .n_blocks = ta->n_blocks,
	    .stamp = ta->stamp,
	};

	memcpy(ta->meta_end, &h, sizeof(h));
	return ta->n_blocks;
}

static bool
slots_live(const struct dsm_span *s, uint64_t off)
{
	uint64_t end = (off + DSM_PAGE - 1) / s->slot_size + 1;

	for (uint64_t i = off / s->slot_size; i < end && i < s->bump; i++)
		if (s->words[i] & DSM_WORD_LIVE)
			return true;
	return false;
}

bool
dsm__task_page_live(const struct dsm_task_arena *ta, const void *addr)
{
	uint64_t page =
	    (uint64_t)((const char *)addr - ta->base) >> DSM_PAGE_SHIFT;
	const struct dsm_span *s;

	if (ta->n_blocks == 0)
		return false;
	if (page >= (uint64_t)(ta->meta_low - ta->base) >> DSM_PAGE_SHIFT)
		return true;
	s = dsm__runs_lookup(&ta->runs, page);
	if (s == NULL || s->kind == DSM_SPAN_FREE)
		return false;
	return s->kind != DSM_SPAN_SMALL ||
	       slots_live(s, (page - s->start) << DSM_PAGE_SHIFT);
}

/* ---- the client's side ---- */

int
dsm__task_view_open(struct dsm_task_view *v, void *base, uint64_t len)
{
	char *end = (char *)base + len;
	struct header h;
	uint64_t room;

	if (len < DSM_TASK_ARENA_MIN)
		return DSM_EPROTO;
	v->base = base;
	v->meta_end = end - tail_len(len);
	memcpy(&h, v->meta_end, sizeof(h));
	room = (uint64_t)(v->meta_end - v->base);
	if (h.magic != MAGIC || h.base != (uintptr_t)base || h.len != len ||
	    h.meta_low - h.base > room ||
	    h.top > (h.meta_low - h.base) >> DSM_PAGE_SHIFT)
		return DSM_EPROTO;
	v->meta_low = v->base + (h.meta_low - h.base);
	v->map = (const dsm_slot_word *)(v->meta_end + sizeof(h));
	v->stamp = h.stamp;
	v->top = h.top;
	return DSM_OK;
}

/* n bytes at p, aligned, are metadata. */
static bool
is_meta(const struct dsm_task_view *v, uint64_t p, uint64_t n)
{
	uint64_t off = p - (uint64_t)(uintptr_t)v->meta_low;
	uint64_t room = (uint64_t)(v->meta_end - v->meta_low);

	return p % 64 == 0 && n <= room && off <= room - n;
}

static bool
word_ok(uint64_t word, uint64_t slot_size)
{
	/* A slack beyond the slot makes the size wrap round. */
	return !(word & DSM_WORD_LIVE) ||
	       dsm__word_size(word, slot_size) <= slot_size;
}

static int
small_piece(const struct dsm_task_view *v, const struct dsm_span *s,
            struct dsm_task_piece *p)
{
	bool live = false;

	if (s->cls >= DSM_N_CLASSES || s->n_pages != dsm__class_pages(s->cls) ||
	    s->bump > dsm__span_slots_of(s->cls) ||
	    !is_meta(v, (uintptr_t)s->words,
	             dsm__span_slots_of(s->cls) * sizeof(uint64_t)))
		return -1;
	for (uint32_t i = 0; i < s->bump; i++) {
		if (!word_ok(s->words[i], dsm__class_size(s->cls)))
			return -1;
		live |= s->words[i] & DSM_WORD_LIVE;
	}
	p->kind = live ? DSM_SPAN_SMALL : DSM_SPAN_FREE;
	p->cls = s->cls;
	p->words = s->words;
	p->n_words = s->bump;
	return 1;
}

int
dsm__task_view_piece(const struct dsm_task_view *v, uint64_t page,
                     struct dsm_task_piece *p)
{
	struct dsm_span s;
	uint64_t at;

	if (page == v->top)
		return 0;
	at = v->map[page];
	if (!is_meta(v, at, sizeof(s)))
		return -1;
	memcpy(&s, (const void *)(uintptr_t)at, sizeof(s));
	if (s.start != page || s.n_pages == 0 || s.n_pages > v->top - page)
		return -1;
	memset(p, 0, sizeof(*p));
	p->kind = (enum dsm_span_kind)s.kind;
	p->base = v->base + (page << DSM_PAGE_SHIFT);
	p->n_pages = s.n_pages;
	p->size = s.size;
	p->elem_size = s.elem_size;
	p->return_address = s.return_address;
	if (s.kind == DSM_SPAN_SMALL)
		return small_piece(v, &s, p);
	if (s.kind == DSM_SPAN_LARGE)
		return s.size <= s.n_pages << DSM_PAGE_SHIFT ? 1 : -1;
	return s.kind == DSM_SPAN_FREE ? 1 : -1;
}
