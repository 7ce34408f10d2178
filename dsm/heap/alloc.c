/* First, so that this file sees its own spelling of the status codes. */
#include "../include/dsm/dsm.h"

#include "alloc_priv.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define META_CHUNK (UINT64_C(1) << 20)
#define FRESH ((uintptr_t)1)
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define E(name, number, text) \
	_Static_assert(DSM_##name == number, "dsm.h and errors.def differ");
#include "../base/errors.def"
#undef E

/* ---- metadata ---- */

static void *
default_map(void *ctx, size_t len)
{
	(void)ctx;
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p != MAP_FAILED ? p : NULL;
}

static void
default_unmap(void *ctx, void *p, size_t len)
{
	(void)ctx;
	munmap(p, len);
}

static struct dsm_meta_chunk *
new_chunk(const struct dsm_alloc_params *params)
{
	struct dsm_meta_chunk *c = params->meta_map(params->ctx, META_CHUNK);

	if (c != NULL)
		c->len = META_CHUNK;
	return c;
}

void *
dsm__alloc_meta(void *ctx, size_t n)
{
	struct dsm_alloc *a = ctx;

	n = (n + 63) & ~(size_t)63;
	if (a->chunk_used + n > a->chunks->len) {
		struct dsm_meta_chunk *c = new_chunk(&a->params);

		if (c == NULL)
			return NULL;
		c->next = a->chunks;
		a->chunks = c;
		a->chunk_used = 64;
	}

	void *p = (char *)a->chunks + a->chunk_used;

	a->chunk_used += n;
	return p;
}

dsm_slot_word *
dsm__alloc_words(struct dsm_alloc *a, unsigned cls)
{
	dsm_slot_word *words = a->words[cls];

	if (words == NULL)
		return dsm__alloc_meta(a, dsm__span_slots_of(cls) *
		                              sizeof(*words));
	a->words[cls] = (dsm_slot_word *)(uintptr_t)words[0];
	return words;
}

static void
free_words(struct dsm_alloc *a, unsigned cls, dsm_slot_word *words)
{
	words[0] = (uintptr_t)a->words[cls];
	a->words[cls] = words;
}

static uint64_t
map_len(const struct dsm_alloc_params *params)
{
	return dsm__page_up((params->size >> DSM_PAGE_SHIFT) *
	                    sizeof(dsm_map_entry));
}

static void
init_locks(struct dsm_alloc *a)
{
	pthread_mutex_init(&a->page_lock, NULL);
	for (unsigned c = 0; c < DSM_N_CLASSES; c++)
		pthread_mutex_init(&a->classes[c].lock, NULL);
}

int
dsm__alloc_create(const struct dsm_alloc_params *params, struct dsm_alloc **a_p)
{
	struct dsm_alloc_params p = *params;
	struct dsm_meta_chunk *chunk;
	struct dsm_alloc *a;
	int err;

	if (p.size == 0 || ((uintptr_t)p.base | p.size) & DSM_PAGE_MASK)
		return DSM_EINVAL;
	if (p.meta_map == NULL) {
		p.meta_map = default_map;
		p.meta_unmap = default_unmap;
	}
	err = dsm__tcache_init();
	if (err != DSM_OK)
		return err;
	chunk = new_chunk(&p);
	if (chunk == NULL)
		return DSM_ENOMEM;
	a = (struct dsm_alloc *)((char *)chunk + 64);
	a->runs.map = p.meta_map(p.ctx, map_len(&p));
	if (a->runs.map == NULL)
		goto unmap_chunk;

	a->base = p.base;
	a->size = p.size;
	a->params = p;
	a->chunks = chunk;
	a->chunk_used = 64 + ((sizeof(*a) + 63) & ~UINT64_C(63));
	a->runs.base = p.base;
	a->runs.n_pages = a->runs.bot = p.size >> DSM_PAGE_SHIFT;
	a->runs.zeroed = a->runs.map_zeroed = true;
	a->runs.meta = dsm__alloc_meta;
	a->runs.ctx = a;
	init_locks(a);
	*a_p = a;
	return DSM_OK;
unmap_chunk:
	if (p.meta_unmap != NULL)
		p.meta_unmap(p.ctx, chunk, chunk->len);
	return DSM_ENOMEM;
}

void
dsm__alloc_destroy(struct dsm_alloc *a)
{
	if (a == NULL)
		return;
	dsm__tcache_orphan(a);

	struct dsm_alloc_params p = a->params;
	struct dsm_meta_chunk *c = a->chunks;

	if (p.meta_unmap == NULL)
		return;
	p.meta_unmap(p.ctx, (void *)a->runs.map, map_len(&p));
	while (c != NULL) {
		struct dsm_meta_chunk *next = c->next;

		p.meta_unmap(p.ctx, c, c->len);
		c = next;
	}
}

/* ---- spans of a class: class lock held ---- */

static struct dsm_span *
new_span(struct dsm_alloc *a, unsigned cls)
{
	struct dsm_span *s = NULL;
	dsm_slot_word *words;

	pthread_mutex_lock(&a->page_lock);
	words = dsm__alloc_words(a, cls);
	if (words != NULL)
		s = dsm__runs_take(&a->runs, dsm__class_pages(cls), DSM_PAGE);
	if (s != NULL) {
		dsm__span_small(s, cls, words);
		dsm__runs_mark(&a->runs, s);
	} else if (words != NULL) {
		free_words(a, cls, words);
	}
	pthread_mutex_unlock(&a->page_lock);
	return s;
}

static void
give_span(struct dsm_alloc *a, struct dsm_span *s)
{
	pthread_mutex_lock(&a->page_lock);
	free_words(a, s->cls, s->words);
	s->words = NULL;
	s->zeroed = s->zeroed && s->bump == 0;
	dsm__runs_give(&a->runs, s);
	pthread_mutex_unlock(&a->page_lock);
}

/* Take up to n slots into v, so that they pop in ascending order. */
static uint32_t
take_slots(struct dsm_alloc *a, unsigned cls, struct dsm_cached *v, uint32_t n)
{
	struct dsm_class *c = &a->classes[cls];
	uint32_t got = 0;

	pthread_mutex_lock(&c->lock);
	while (got < n) {
		struct dsm_span *s = c->partial;

		if (s == NULL) {
			s = new_span(a, cls);
			if (s == NULL)
				break;
			dsm__span_link(&c->partial, s);
		}
		while (got < n && !dsm__span_full(s)) {
			bool fresh;
			uint32_t i = dsm__slot_take(s, &fresh);

			v[got].slot = (uintptr_t)s->base + i * s->slot_size;
			v[got].slot |= fresh ? FRESH : 0;
			v[got++].word = &s->words[i];
		}
		if (dsm__span_full(s))
			dsm__span_unlink(&c->partial, s);
	}
	pthread_mutex_unlock(&c->lock);
	for (uint32_t i = 0; i < got / 2; i++) {
		struct dsm_cached t = v[i];

		v[i] = v[got - 1 - i];
		v[got - 1 - i] = t;
	}
	return got;
}

static bool
refill(struct dsm_alloc *a, unsigned cls, struct dsm_bin *bin)
{
	bin->n = take_slots(a, cls, bin->v, bin->cap / 2);
	return bin->n != 0;
}

void
dsm__alloc_flush(struct dsm_alloc *a, unsigned cls, struct dsm_bin *bin,
                 uint32_t n)
{
	struct dsm_class *c = &a->classes[cls];

	if (n == 0)
		return;
	pthread_mutex_lock(&c->lock);
	for (uint32_t i = 0; i < n; i++) {
		struct dsm_span *s = entry_of(a, (void *)bin->v[i].slot);

		if (dsm__span_full(s))
			dsm__span_link(&c->partial, s);
		dsm__slot_put(s, (uint32_t)(bin->v[i].word - s->words));
		/* The last one stays: a class that goes between none and one
		 * block would take and give a span each time. */
		if (s->n_used == 0 && (s->prev != NULL || s->next != NULL)) {
			dsm__span_unlink(&c->partial, s);
			give_span(a, s);
		}
	}
	pthread_mutex_unlock(&c->lock);
	memmove(bin->v, bin->v + n, (bin->n - n) * sizeof(bin->v[0]));
	bin->n -= n;
}

/* ---- small blocks ---- */

/* A slot of the class; NULL: none. *tc_p may be NULL: no memory for a cache. */
static bool
take_slot(struct dsm_alloc *a, unsigned cls, struct dsm_tcache **tc_p,
          struct dsm_cached *slot_p)
{
	struct dsm_tcache *tc = dsm__tcache(a);

	*tc_p = tc;
	if (unlikely(tc == NULL))
		return take_slots(a, cls, slot_p, 1) == 1;

	struct dsm_bin *bin = &tc->bins[cls];

	if (unlikely(bin->n == 0) && !refill(a, cls, bin))
		return false;
	*slot_p = bin->v[--bin->n];
	return true;
}

/* NULL: none, or no memory for one. */
static inline struct dsm_tcache *
cache_of(struct dsm_alloc *a)
{
	return likely(!a->params.uncached) ? dsm__tcache(a) : NULL;
}

static void
count(struct dsm_alloc *a, struct dsm_tcache *tc, int64_t bytes, int64_t blocks)
{
	if (likely(tc != NULL)) {
		dsm__tcache_count(tc, bytes, blocks);
		return;
	}
	a->gone_bytes += bytes;
	a->gone_blocks += blocks;
}

static void *
out_of_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

static void *
small(struct dsm_alloc *a, unsigned cls, size_t size, size_t elem_size,
      bool zero, void *ra)
{
	struct dsm_tcache *tc;
	struct dsm_cached c;
	uint32_t slot_size = dsm__class_size(cls);

	if (!take_slot(a, cls, &tc, &c))
		return out_of_memory();
	atomic_store_explicit(c.word,
	                      dsm__word_make(slot_size, size, elem_size, ra),
	                      memory_order_relaxed);
	count(a, tc, (int64_t)size, 1);

	void *p = (void *)(c.slot & ~FRESH);

	if (zero && !(c.slot & FRESH))
		memset(p, 0, size);
	return p;
}

/* ---- large blocks ---- */

static void *
large(struct dsm_alloc *a, size_t align, size_t size, size_t elem_size,
      bool zero, void *ra)
{
	struct dsm_tcache *tc = dsm__tcache(a);
	struct dsm_span *s;
	bool zeroed;

	if (size > a->size)
		return out_of_memory();
	pthread_mutex_lock(&a->page_lock);
	s = dsm__runs_take(&a->runs,
	                   size == 0 ? 1 : dsm__page_up(size) >> DSM_PAGE_SHIFT,
	                   align < DSM_PAGE ? DSM_PAGE : align);
	if (s != NULL) {
		s->size = size;
		s->elem_size = elem_size;
		s->return_address = ra;
		s->kind = DSM_SPAN_LARGE;
		zeroed = s->zeroed;
		s->zeroed = false;
		dsm__runs_mark(&a->runs, s);
	}
	pthread_mutex_unlock(&a->page_lock);
	if (s == NULL)
		return out_of_memory();
	count(a, tc, (int64_t)size, 1);
	if (zero && !zeroed)
		memset(s->base, 0, size);
	return s->base;
}

/* Give a BUSY run back. */
static void
give_run(struct dsm_alloc *a, struct dsm_span *s)
{
	uint64_t len = s->n_pages << DSM_PAGE_SHIFT;

	if (a->params.release != NULL && len >= DSM_ALLOC_RELEASE_MIN)
		a->params.release(a->params.ctx, s->base, len);
	pthread_mutex_lock(&a->page_lock);
	dsm__runs_give(&a->runs, s);
	pthread_mutex_unlock(&a->page_lock);
}

/* ---- free ---- */

static _Noreturn void
bad_pointer(const struct dsm_alloc *a, const void *p)
{
	const struct dsm_span *s = entry_of(a, p);

	/* A slot that is free, or the first page of a free run. */
	if (s != NULL &&
	    ((s->kind == DSM_SPAN_SMALL && dsm__span_index(s, p) >= 0) ||
	     (s->kind == DSM_SPAN_FREE && ((uintptr_t)p & DSM_PAGE_MASK) == 0)))
		dsm__heap_die("free: block is not alive (freed twice?):", p);
	dsm__heap_die("free: not a block of the shared heap:", p);
}

static void
free_large(struct dsm_alloc *a, struct dsm_span *s, void *p)
{
	bool mine;

	pthread_mutex_lock(&a->page_lock);
	mine = s != NULL && s->kind == DSM_SPAN_LARGE && s->base == p;
	if (mine) {
		/* From here on a second free is found out. */
		s->kind = DSM_SPAN_BUSY;
		dsm__label_drop(a, s, p);
	}
	pthread_mutex_unlock(&a->page_lock);
	if (!mine)
		bad_pointer(a, p);
	count(a, cache_of(a), -(int64_t)s->size, -1);
	give_run(a, s);
}

static void
free_uncached(struct dsm_alloc *a, unsigned cls, struct dsm_cached c)
{
	struct dsm_bin one;

	one.n = 1;
	one.v[0] = c;
	dsm__alloc_flush(a, cls, &one, 1);
}

/* The slot of a live block, or death. */
static inline dsm_slot_word *
live_word(const struct dsm_alloc *a, const struct dsm_span *s, const void *p,
          uint64_t *word_p)
{
	int64_t i = dsm__span_index(s, p);

	if (unlikely(i < 0))
		bad_pointer(a, p);

	dsm_slot_word *w = &s->words[i];

	*word_p = atomic_load_explicit(w, memory_order_relaxed);
	if (unlikely(!(*word_p & DSM_WORD_LIVE)))
		bad_pointer(a, p);
	return w;
}

static inline bool
is_small(const struct dsm_span *s)
{
	return s != NULL && s->kind == DSM_SPAN_SMALL;
}

void
dsm__alloc_free(struct dsm_alloc *a, void *p)
{
	struct dsm_span *s = entry_of(a, p);
	struct dsm_cached c = {.slot = (uintptr_t)p};
	uint64_t word;

	if (unlikely(!is_small(s))) {
		int saved = errno;

		if (p != NULL)
			free_large(a, s, p);
		errno = saved;
		return;
	}
	c.word = live_word(a, s, p, &word);
	if (unlikely(atomic_load_explicit(&s->labels, memory_order_relaxed) !=
	             NULL))
		dsm__label_forget(a, s, p);
	atomic_store_explicit(c.word, 0, memory_order_relaxed);

	struct dsm_tcache *tc = cache_of(a);

	count(a, tc, -(int64_t)dsm__word_size(word, s->slot_size), -1);
	if (unlikely(tc == NULL)) {
		free_uncached(a, s->cls, c);
		return;
	}

	struct dsm_bin *bin = &tc->bins[s->cls];

	/* The oldest half goes: what was freed last is warm. */
	if (unlikely(bin->n == bin->cap))
		dsm__alloc_flush(a, s->cls, bin, bin->cap / 2);
	bin->v[bin->n++] = c;
}

/* ---- the family ---- */

void *
dsm__alloc_malloc(struct dsm_alloc *a, size_t size, void *ra)
{
	struct dsm_tcache *tc = dsm__tcache(a);

	if (unlikely(size > DSM_SMALL_MAX))
		return large(a, DSM_PAGE, size, 0, false, ra);

	unsigned cls = dsm__class_of(size);

	if (unlikely(tc == NULL || tc->bins[cls].n == 0))
		return small(a, cls, size, 0, false, ra);

	struct dsm_bin *bin = &tc->bins[cls];
	struct dsm_cached c = bin->v[--bin->n];

	atomic_store_explicit(c.word,
	                      dsm__word_plain(dsm__class_size(cls) - size, ra),
	                      memory_order_relaxed);
	dsm__tcache_count(tc, (int64_t)size, 1);
	return (void *)(c.slot & ~FRESH);
}

void *
dsm__alloc_calloc(struct dsm_alloc *a, size_t n, size_t elem_size, void *ra)
{
	size_t size;

	if (__builtin_mul_overflow(n, elem_size, &size))
		return out_of_memory();
	if (size > DSM_SMALL_MAX)
		return large(a, DSM_PAGE, size, elem_size, true, ra);
	return small(a, dsm__class_of(size), size, elem_size, true, ra);
}

void *
dsm__alloc_aligned(struct dsm_alloc *a, size_t align, size_t size, void *ra)
{
	if (align == 0 || (align & (align - 1)) != 0 ||
	    align > DSM_ALLOC_ALIGN_MAX) {
		errno = EINVAL;
		return NULL;
	}

	int cls = dsm__class_aligned(align, size);

	if (cls >= 0)
		return small(a, (unsigned)cls, size, 0, false, ra);
	return large(a, align, size, 0, false, ra);
}

size_t
dsm__alloc_usable(const struct dsm_alloc *a, const void *p)
{
	const struct dsm_span *s = entry_of(a, p);
	uint64_t word;

	if (is_small(s)) {
		live_word(a, s, p, &word);
		return s->slot_size;
	}
	if (s == NULL || s->kind != DSM_SPAN_LARGE || s->base != p)
		bad_pointer(a, p);
	return s->n_pages << DSM_PAGE_SHIFT;
}

/* ---- realloc ---- */

/* Stay in the slot unless half of it would be wasted. */
static bool
resize_slot(struct dsm_alloc *a, const struct dsm_span *s, void *p, size_t size,
            size_t *old_p, void *ra)
{
	uint64_t word;
	dsm_slot_word *w = live_word(a, s, p, &word);

	*old_p = dsm__word_size(word, s->slot_size);
	if (size > s->slot_size ||
	    (size < s->slot_size / 2u && s->slot_size > 16))
		return false;
	atomic_store_explicit(w, dsm__word_make(s->slot_size, size, 0, ra),
	                      memory_order_relaxed);
	return true;
}

/* Shrink to fewer pages, or grow into free ones behind. */
static bool
resize_run(struct dsm_alloc *a, struct dsm_span *s, const void *p, size_t size,
           size_t *old_p, void *ra)
{
	uint64_t n = dsm__page_up(size) >> DSM_PAGE_SHIFT;
	struct dsm_span *rest = NULL;
	bool done;

	pthread_mutex_lock(&a->page_lock);
	if (s == NULL || s->kind != DSM_SPAN_LARGE || s->base != p) {
		pthread_mutex_unlock(&a->page_lock);
		bad_pointer(a, p);
	}
	*old_p = s->size;
	done = size > DSM_SMALL_MAX && size <= a->size;
	if (done && n > s->n_pages)
		done = dsm__runs_grow(&a->runs, s, n);
	else if (done && n < s->n_pages)
		rest = dsm__runs_split(&a->runs, s, n);
	if (done) {
		s->size = size;
		s->elem_size = 0;
		s->return_address = ra;
	}
	pthread_mutex_unlock(&a->page_lock);
	if (rest != NULL)
		give_run(a, rest);
	return done;
}

void *
dsm__alloc_realloc(struct dsm_alloc *a, void *p, size_t size, void *ra)
{
	struct dsm_span *s = entry_of(a, p);
	size_t old;
	void *q;

	if (p == NULL)
		return dsm__alloc_malloc(a, size, ra);
	if (size == 0) {
		dsm__alloc_free(a, p);
		return NULL;
	}
	if (is_small(s) ? resize_slot(a, s, p, size, &old, ra)
	                : resize_run(a, s, p, size, &old, ra)) {
		count(a, cache_of(a), (int64_t)size - (int64_t)old, 0);
		return p;
	}
	q = dsm__alloc_malloc(a, size, ra);
	if (q == NULL)
		return NULL;
	/* Not only what was asked for: programs use what malloc_usable_size
	 * said. */
	old = dsm__alloc_usable(a, p);
	memcpy(q, p, old < size ? old : size);
	if (s->labels != NULL)
		dsm__label_move(a, s, p, q);
	dsm__alloc_free(a, p);
	return q;
}

/* ---- fork ---- */

void
dsm__alloc_fork_prepare(struct dsm_alloc *a)
{
	dsm__tcache_lock();
	for (unsigned c = 0; c < DSM_N_CLASSES; c++)
		pthread_mutex_lock(&a->classes[c].lock);
	pthread_mutex_lock(&a->page_lock);
}

void
dsm__alloc_fork_parent(struct dsm_alloc *a)
{
	pthread_mutex_unlock(&a->page_lock);
	for (unsigned c = 0; c < DSM_N_CLASSES; c++)
		pthread_mutex_unlock(&a->classes[c].lock);
	dsm__tcache_unlock();
}

void
dsm__alloc_fork_child(struct dsm_alloc *a)
{
	/* The locks' owner is a thread of the parent: make new ones. */
	init_locks(a);
	dsm__tcache_reinit();
}
