/*
 * The public dsm_* calls: the process's default heap, made when first needed.
 *
 * Making it is done by one thread while others wait (a mutex, not pthread_once:
 * a failed attempt may be repeated). From then on `heap` never changes, so that
 * callers pay one acquire load.
 *
 * fork(): the child has its own copy of the heap's memory (views.h), made while
 * fork() is under way; locks are taken before and let go of after.
 */
#include "heap.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/clock.h"
#include "../base/log.h"
#include "../include/dsm/dsm.h"
#include "../wire/wire.h"

#define SIZE_DEFAULT (UINT64_C(256) << 30)
#define SIZE_LEAST (UINT64_C(1) << 30) /* with limited address space */

/* The implicit default context of dsm.h. */
static struct dsm_heap *_Atomic heap;
static pthread_mutex_t make_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t wished_size;        /* make_lock; 0: default */
static struct dsm_error make_error; /* make_lock */

/* What dsm__heap_has compares with; 0 and 0 until there is a heap. */
static _Atomic uint64_t heap_base, heap_len;

static const uint32_t never_in_task;
static const volatile uint32_t *task_flag = &never_in_task;
static const struct dsm_task_ops *task_ops;

static inline int
in_task(void)
{
	return __builtin_expect(*task_flag != 0, 0);
}

void
dsm__heap_set_task(const volatile uint32_t *flag,
                   const struct dsm_task_ops *ops)
{
	task_ops = ops;
	task_flag = flag;
}

static void *
at(uint64_t addr)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	return (void *)(uintptr_t)addr;
}

/* --- locks --- */

void
dsm__heap_lock(struct dsm_heap *h)
{
	pthread_mutex_lock(&h->lock);
}

int
dsm__heap_lock_within(struct dsm_heap *h, unsigned ms)
{
	uint64_t deadline = dsm__deadline_ms(ms);

	while (pthread_mutex_trylock(&h->lock) != 0) {
		if (dsm__now() >= deadline)
			return DSM_ETIMEDOUT;
		poll(NULL, 0, 1);
	}
	return DSM_OK;
}

void
dsm__heap_unlock(struct dsm_heap *h)
{
	pthread_mutex_unlock(&h->lock);
}

/* Loans that have ended: what no block lies in is free again. */
static void
take_back(struct dsm_heap *h)
{
	size_t kept = 0;

	pthread_mutex_lock(&h->loan_lock);
	for (size_t i = 0; i < h->n_loans; i++) {
		struct dsm_loan l = h->loans[i];

		if (l.ended)
			dsm__alloc_unreserve(h->arenas, at(l.base), l.len,
			                     l.stamp, true);
		else
			h->loans[kept++] = l;
	}
	h->n_loans = kept;
	pthread_mutex_unlock(&h->loan_lock);
}

void
dsm__heap_run_begin(struct dsm_heap *h)
{
	if (h->n_runs++ == 0)
		take_back(h);
}

void
dsm__heap_run_end(struct dsm_heap *h)
{
	h->n_runs--;
}

/* Of the allocator, by the thread that frees: without its locks. Slots may ask
 * for the pages while a run is on. */
static void
release(void *ctx, void *p, size_t len)
{
	struct dsm_heap *h = ctx;

	if (pthread_mutex_trylock(&h->lock) != 0)
		return;
	if (h->n_runs == 0)
		dsm__views_release(h->views, (uintptr_t)p, len);
	pthread_mutex_unlock(&h->lock);
}

/* The arenas' area begins at the end of the program's. */
static uint64_t
used_of(const struct dsm_heap *h, uint64_t high, uint64_t arenas_high)
{
	return arenas_high > 0 ? h->user_size + arenas_high : high;
}

/* --- fork --- */

static void
fork_prepare(void)
{
	struct dsm_heap *h = atomic_load(&heap);
	uint64_t used;

	pthread_mutex_lock(&make_lock);
	if (h == NULL)
		return;
	dsm__heap_lock(h);
	pthread_mutex_lock(&h->loan_lock);
	/* Allocators first: the heap must not grow while its used part is made
	 * ready for the child. */
	dsm__alloc_fork_prepare(h->alloc);
	dsm__alloc_fork_prepare(h->arenas);
	used = used_of(h, dsm__alloc_high_water_forking(h->alloc),
	               dsm__alloc_high_water_forking(h->arenas));
	dsm__views_fork_prepare(h->views, used);
}

static void
fork_parent(void)
{
	struct dsm_heap *h = atomic_load(&heap);

	if (h != NULL) {
		dsm__views_fork_parent(h->views);
		dsm__alloc_fork_parent(h->arenas);
		dsm__alloc_fork_parent(h->alloc);
		pthread_mutex_unlock(&h->loan_lock);
		dsm__heap_unlock(h);
	}
	pthread_mutex_unlock(&make_lock);
}

static void
fork_child(void)
{
	struct dsm_heap *h = atomic_load(&heap);

	if (h != NULL) {
		int err = dsm__views_fork_child(h->views);

		if (err != DSM_OK) {
			log_error("no copy of the heap for a forked child: %s",
			          dsm__strerror(err));
			abort();
		}
		dsm__alloc_fork_child(h->arenas);
		dsm__alloc_fork_child(h->alloc);
		h->n_runs = 0;
		/* They were the parent's slots'. */
		for (size_t i = 0; i < h->n_loans; i++)
			h->loans[i].ended = 1;
		pthread_mutex_unlock(&h->loan_lock);
		dsm__heap_unlock(h);
	}
	pthread_mutex_unlock(&make_lock);
}

/* --- making it --- */

/* With a limit on address space a smaller heap is better than none, unless a
 * size was asked for. */
static int
make_views(struct dsm_heap *h, struct dsm_error *e)
{
	struct dsm_views_params params = {.size = wished_size};
	int err;

	if (wished_size != 0)
		return dsm__views_create(&params, &h->views, e);
	params.size = SIZE_DEFAULT;
	do {
		err = dsm__views_create(&params, &h->views, e);
		params.size /= 2;
	} while (err != DSM_OK && params.size >= SIZE_LEAST);
	return err;
}

static int
make_map(struct dsm_heap *h, struct dsm_error *e)
{
	uint64_t serving = (uintptr_t)dsm__views_serving(h->views, h->base);
	int err = dsm__map_create(&h->map);

	if (err == DSM_OK)
		err = dsm__map_heap(h->map, h->base, h->base + h->size);
	if (err == DSM_OK)
		err = dsm__map_exclude(h->map, serving, serving + h->size);
	if (err != DSM_OK)
		return dsm__fail(e, err, "dsm_malloc: no table of ranges: %s",
		                 dsm__strerror(err));
	return DSM_OK;
}

static struct dsm_heap *
make(struct dsm_error *e)
{
	struct dsm_heap *h = calloc(1, sizeof(*h));
	struct dsm_alloc_params params = {.release = release, .ctx = h};

	if (h == NULL) {
		dsm__fail(e, DSM_ENOMEM, "dsm_malloc: out of memory");
		return NULL;
	}
	if (make_views(h, e) != DSM_OK)
		goto free_heap;
	h->base = (uintptr_t)dsm__views_base(h->views);
	h->size = dsm__views_size(h->views);
	h->user_size = dsm__page_down(h->size / 4 * 3);
	pthread_mutex_init(&h->lock, NULL);
	pthread_mutex_init(&h->loan_lock, NULL);
	if (make_map(h, e) != DSM_OK)
		goto destroy_map;
	params.base = dsm__views_base(h->views);
	params.size = h->user_size;
	int err = dsm__alloc_create(&params, &h->alloc);
	if (err == DSM_OK) {
		params.base = at(h->base + h->user_size);
		params.size = h->size - h->user_size;
		params.uncached = true;
		err = dsm__alloc_create(&params, &h->arenas);
	}
	if (err != DSM_OK) {
		dsm__fail(e, err, "dsm_malloc: no allocator: %s",
		          dsm__strerror(err));
		goto destroy_allocs;
	}
	return h;
destroy_allocs:
	dsm__alloc_destroy(h->alloc);
destroy_map:
	if (h->map != NULL)
		dsm__map_destroy(h->map);
	dsm__views_destroy(h->views);
free_heap:
	free(h);
	return NULL;
}

static struct dsm_heap *
make_once(void)
{
	static int have_atfork; /* make_lock */
	struct dsm_heap *h;

	pthread_mutex_lock(&make_lock);
	h = atomic_load(&heap);
	if (h == NULL) {
		h = make(&make_error);
		if (h != NULL) {
			if (!have_atfork)
				pthread_atfork(fork_prepare, fork_parent,
				               fork_child);
			have_atfork = 1;
			make_error.code = DSM_OK;
			make_error.text[0] = '\0';
			atomic_store(&heap_base, h->base);
			atomic_store(&heap_len, h->size);
			/* Pairs with the acquire load of dsm__heap_peek. */
			atomic_store_explicit(&heap, h, memory_order_release);
		}
	}
	pthread_mutex_unlock(&make_lock);
	if (h == NULL)
		errno = ENOMEM;
	return h;
}

struct dsm_heap *
dsm__heap_peek(void)
{
	return atomic_load_explicit(&heap, memory_order_acquire);
}

struct dsm_heap *
dsm__heap_default(void)
{
	struct dsm_heap *h = dsm__heap_peek();

	return __builtin_expect(h != NULL, 1) ? h : make_once();
}

const struct dsm_error *
dsm__heap_error(void)
{
	return &make_error;
}

int
dsm__heap_set_size(uint64_t size)
{
	uint64_t chunk =
	    DSM_HEAP_CHUNK * 4; /* a quarter is whole chunks, too */
	int err = DSM_OK;

	if (size == 0 || size > UINT64_MAX - chunk)
		return DSM_EINVAL;
	size = (size + chunk - 1) / chunk * chunk;
	pthread_mutex_lock(&make_lock);
	struct dsm_heap *h = atomic_load(&heap);
	if (h != NULL && h->size != size)
		err = DSM_EINVAL;
	else
		wished_size = size;
	pthread_mutex_unlock(&make_lock);
	return err;
}

int
dsm__heap_has(const void *p)
{
	uint64_t base = atomic_load_explicit(&heap_base, memory_order_relaxed);

	/* Who holds a block of the heap has seen both values. */
	return (uintptr_t)p - base <
	       atomic_load_explicit(&heap_len, memory_order_relaxed);
}

/* --- task arenas --- */

static int
is_arena_area(const struct dsm_heap *h, const void *p)
{
	return (uintptr_t)p - h->base >= h->user_size;
}

static struct dsm_alloc *
alloc_of(struct dsm_heap *h, const void *p)
{
	return is_arena_area(h, p) ? h->arenas : h->alloc;
}

uint64_t
dsm__heap_used(struct dsm_heap *h)
{
	return used_of(h, dsm__alloc_high_water(h->alloc),
	               dsm__alloc_high_water(h->arenas));
}

/* loan_lock. */
static int
loans_reserve(struct dsm_heap *h)
{
	size_t cap = h->cap_loans == 0 ? 16 : 2 * h->cap_loans;
	struct dsm_loan *v;

	if (h->n_loans < h->cap_loans)
		return DSM_OK;
	v = realloc(h->loans, cap * sizeof(*v));
	if (v == NULL)
		return DSM_ENOMEM;
	h->loans = v;
	h->cap_loans = cap;
	return DSM_OK;
}

int
dsm__heap_lend(struct dsm_heap *h, uint64_t least, uint64_t want,
               struct dsm_loan *loan_p)
{
	uint64_t size = h->size - h->user_size, len;
	void *p = NULL;
	bool zeroed;
	int err;

	if (least == 0 || least > size)
		return DSM_ENOMEM;
	len = dsm__page_up(want < least ? least : want > size ? size : want);
	least = dsm__page_up(least);
	pthread_mutex_lock(&h->loan_lock);
	err = loans_reserve(h);
	while (err == DSM_OK && p == NULL) {
		p = dsm__alloc_reserve(h->arenas, len, false, h->last_stamp + 1,
		                       &zeroed);
		if (p == NULL && len == least)
			err = DSM_ENOMEM;
		len = p != NULL         ? len
		      : len / 2 > least ? dsm__page_up(len / 2)
		                        : least;
	}
	if (err == DSM_OK) {
		*loan_p =
		    (struct dsm_loan){(uintptr_t)p, len, ++h->last_stamp, 0};
		h->loans[h->n_loans++] = *loan_p;
	}
	pthread_mutex_unlock(&h->loan_lock);
	return err;
}

/* loan_lock. */
static struct dsm_loan *
find_loan(struct dsm_heap *h, uint64_t stamp)
{
	size_t lo = 0, hi = h->n_loans;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (h->loans[mid].stamp < stamp)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < h->n_loans && h->loans[lo].stamp == stamp ? &h->loans[lo]
	                                                      : NULL;
}

void
dsm__heap_lend_end(struct dsm_heap *h, uint64_t stamp)
{
	struct dsm_loan *l;

	pthread_mutex_lock(&h->loan_lock);
	l = find_loan(h, stamp);
	if (l != NULL)
		l->ended = 1;
	pthread_mutex_unlock(&h->loan_lock);
}

/* dsm_free of a pointer that may be no block; 1: it was one. */
static int
free_if_block(struct dsm_heap *h, void *p)
{
	struct dsm_alloc *a = alloc_of(h, p);
	struct dsm_alloc_info info;

	if (!dsm__alloc_find(a, p, &info) || !info.alive || info.base != p)
		return 0;
	dsm__alloc_free(a, p);
	return 1;
}

/* Blocks of malloc's that tasks have freed. */
struct frees {
	void **v;
	size_t n, cap;
};

static void
frees_add(struct frees *f, void *p)
{
	size_t cap = f->cap == 0 ? 64 : 2 * f->cap;

	if (f->n == f->cap) {
		void **v = realloc(f->v, cap * sizeof(*v));

		if (v == NULL)
			return; /* it leaks: better than to lose the commit */
		f->v = v;
		f->cap = cap;
	}
	f->v[f->n++] = p;
}

static int
by_address(const void *a, const void *b)
{
	uintptr_t x = (uintptr_t) * (void *const *)a;
	uintptr_t y = (uintptr_t) * (void *const *)b;

	return x < y ? -1 : x > y;
}

/* Two tasks may have freed the same block: that must not end the program. */
static void
frees_do(struct frees *f)
{
	if (f->n > 1)
		qsort(f->v, f->n, sizeof(void *), by_address);
	for (size_t i = 0; i < f->n; i++) {
		if (i > 0 && f->v[i] == f->v[i - 1])
			log_warn("tasks of one run have freed the block at %p "
			         "twice",
			         f->v[i]);
		else
			free(f->v[i]);
	}
	free(f->v);
}

/* Free what the task has freed, as far as it makes sense. */
static void
free_deferred(struct dsm_heap *h, uint64_t base, uint64_t len, struct frees *f)
{
	struct dsm_task_root *root = at(base);

	if (root->magic != DSM_TASK_ROOT_MAGIC)
		return;
	uint64_t off = (uintptr_t)root->list - base;
	if (root->n > 0 && off < len && off % sizeof(void *) == 0 &&
	    root->n <= (len - off) / sizeof(void *)) {
		for (uint64_t i = 0; i < root->n; i++) {
			void *p = root->list[i];

			if (!dsm__heap_has(p))
				frees_add(f, p); /* as the task knew it */
			else if (!free_if_block(h, p))
				log_warn("a task has freed %p, which is no "
				         "block that is alive (freed twice?)",
				         p);
		}
		free_if_block(h, root->list);
	}
	free_if_block(h, root);
}

/* Does the page start with a sealed arena's header? See task_arena.h. */
static void
adopt_page(struct dsm_heap *h, uint64_t page, struct frees *f, int *err_p)
{
	const uint64_t *words = at(page);
	uint64_t base = words[1], len = words[2];
	struct dsm_task_view view;

	/* The header names its arena; all must fit before it is believed. */
	if (base < h->base + h->user_size || base > page ||
	    ((base | len) & DSM_PAGE_MASK) != 0 ||
	    len > h->base + h->size - base || page >= base + len ||
	    dsm__task_view_open(&view, at(base), len) != DSM_OK ||
	    (uintptr_t)view.meta_end != page)
		return;
	int err = dsm__alloc_adopt(h->arenas, at(base), len, view.stamp);
	if (err == DSM_OK)
		free_deferred(h, base, len, f);
	else if (err == DSM_ENOMEM)
		*err_p = err;
	else
		log_debug("task arena at 0x%" PRIx64 " not taken over: %s",
		          base, dsm__strerror(err));
}

/* What tasks have left in lent pages that are in no arena now: the program may
 * use it, so these pages are never lent again. */
static void
keep_strays(struct dsm_heap *h, const struct dsm_extents *changed,
            uint64_t start)
{
	uint64_t n = 0;

	for (size_t i = dsm__extents_find(changed, start); i < changed->n;
	     i++) {
		uint64_t lo = changed->v[i].start;
		uint64_t hi = lo + changed->v[i].n_pages * DSM_PAGE;

		lo = lo > start ? lo : start;
		n += dsm__alloc_abandon(h->arenas, at(lo), hi - lo);
	}
	if (n == 0)
		return;
	h->lost = 1;
	log_warn("%" PRIu64 " pages of blocks that tasks allocated cannot be "
	         "used again: their allocator's state is damaged or memory "
	         "was short",
	         n);
}

int
dsm__heap_adopt(struct dsm_heap *h, const struct dsm_extents *changed)
{
	uint64_t start = h->base + h->user_size;
	struct frees f = {0};
	int err = DSM_OK;

	for (size_t i = dsm__extents_find(changed, start); i < changed->n;
	     i++) {
		const struct dsm_extent *x = &changed->v[i];

		for (uint64_t k = 0; k < x->n_pages; k++)
			if (x->start + k * DSM_PAGE >= start)
				adopt_page(h, x->start + k * DSM_PAGE, &f,
				           &err);
	}
	keep_strays(h, changed, start);
	frees_do(&f);
	return err;
}

/* --- dsm.h --- */

/* A call on an existing block outside of tasks: its allocator. Ends the program
 * for a pointer that is none of the heap's, as dsm_free promises. */
static struct dsm_alloc *
alloc_for(void *p, const char *call)
{
	struct dsm_heap *h = dsm__heap_peek();

	if (h == NULL || !dsm__heap_has(p))
		dsm__heap_die(call, p);
	return alloc_of(h, p);
}

void *
dsm_malloc(size_t size)
{
	void *ra = __builtin_return_address(0);

	if (in_task())
		return task_ops->malloc(size, ra);
	struct dsm_heap *h = dsm__heap_default();
	return h != NULL ? dsm__alloc_malloc(h->alloc, size, ra) : NULL;
}

void *
dsm_calloc(size_t n, size_t size)
{
	void *ra = __builtin_return_address(0);

	if (in_task())
		return task_ops->calloc(n, size, ra);
	struct dsm_heap *h = dsm__heap_default();
	return h != NULL ? dsm__alloc_calloc(h->alloc, n, size, ra) : NULL;
}

void *
dsm_aligned_alloc(size_t align, size_t size)
{
	void *ra = __builtin_return_address(0);

	if (in_task())
		return task_ops->aligned(align, size, ra);
	struct dsm_heap *h = dsm__heap_default();
	return h != NULL ? dsm__alloc_aligned(h->alloc, align, size, ra) : NULL;
}

/* Blocks that came out of a task move to the heap proper when they change. */
static void *
move_from_arena(struct dsm_heap *h, struct dsm_alloc *a, void *p, size_t size,
                void *ra)
{
	size_t old = dsm__alloc_usable(a, p);
	void *q;

	if (size == 0) {
		dsm__alloc_free(a, p);
		return NULL;
	}
	q = dsm__alloc_malloc(h->alloc, size, ra);
	if (q == NULL)
		return NULL;
	memcpy(q, p, old < size ? old : size);
	dsm__alloc_free(a, p);
	return q;
}

void *
dsm_realloc(void *p, size_t size)
{
	void *ra = __builtin_return_address(0);

	if (in_task())
		return task_ops->realloc(p, size, ra);
	struct dsm_heap *h = dsm__heap_default();
	if (h == NULL)
		return NULL;
	if (p == NULL)
		return dsm__alloc_malloc(h->alloc, size, ra);
	struct dsm_alloc *a = alloc_for(p, "dsm_realloc of a pointer that is "
	                                   "in no block");
	if (a == h->alloc)
		return dsm__alloc_realloc(a, p, size, ra);
	return move_from_arena(h, a, p, size, ra);
}

void
dsm_free(void *p)
{
	if (p == NULL)
		return;
	if (in_task()) {
		task_ops->free(p);
		return;
	}
	struct dsm_alloc *a = alloc_for(p, "dsm_free of a pointer that is in "
	                                   "no block");
	struct dsm_heap *h = dsm__heap_peek();
	if (a == h->arenas && h->lost)
		free_if_block(h, p);
	else
		dsm__alloc_free(a, p);
}

int
dsm_name(const void *p, const char *label)
{
	struct dsm_heap *h = dsm__heap_peek();

	if (h == NULL || !dsm__heap_has(p) || in_task())
		return DSM_EINVAL;
	return dsm__alloc_name(alloc_of(h, p), p, label);
}

int
dsm_advise(const void *p, size_t len, int advice)
{
	struct dsm_heap *h = dsm__heap_peek();
	uint64_t start = (uintptr_t)p, end;

	_Static_assert((int)DSM_WILLNEED == (int)DSM_ADVICE_WILLNEED &&
	                   (int)DSM_SEQUENTIAL == (int)DSM_ADVICE_SEQUENTIAL &&
	                   (int)DSM_RANDOM == (int)DSM_ADVICE_RANDOM,
	               "one number for one advice");
	if (h == NULL || in_task() || advice < DSM_NORMAL ||
	    advice > DSM_RANDOM || __builtin_add_overflow(start, len, &end) ||
	    start < h->base || end > h->base + h->size)
		return DSM_EINVAL;
	dsm__heap_lock(h);
	int err = dsm__advices_set(&h->advice, dsm__page_down(start),
	                           dsm__page_up(end), (uint32_t)advice);
	dsm__heap_unlock(h);
	return err;
}

int
dsm_stats(struct dsm_stats *stats)
{
	struct dsm_heap *h = dsm__heap_default();

	if (stats == NULL)
		return DSM_EINVAL;
	if (h == NULL)
		return DSM_ENOMEM;
	dsm__alloc_stats(h->alloc, stats);
	stats->address_space = h->size;
	if (in_task())
		return DSM_OK;
	struct dsm_stats arenas;
	dsm__alloc_stats(h->arenas, &arenas);
	stats->allocated += arenas.allocated;
	stats->blocks += arenas.blocks;
	stats->committed += arenas.committed;
	stats->touched += arenas.touched;
	stats->peak += arenas.peak;
	return DSM_OK;
}

size_t
dsm__heap_usable(const void *p)
{
	struct dsm_heap *h = dsm__heap_peek();
	struct dsm_alloc *a =
	    h != NULL && dsm__heap_has(p) ? alloc_of(h, p) : NULL;

	return a != NULL ? dsm__alloc_usable(a, p) : 0;
}

int
dsm__heap_find(const void *addr, struct dsm_alloc_info *info_p)
{
	struct dsm_heap *h = dsm__heap_peek();
	struct dsm_alloc *a =
	    h != NULL && dsm__heap_has(addr) ? alloc_of(h, addr) : NULL;

	return a != NULL && dsm__alloc_find(a, addr, info_p) && info_p->alive;
}
