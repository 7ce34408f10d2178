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
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/log.h"
#include "../include/dsm/dsm.h"

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

/* --- locks --- */

void
dsm__heap_lock(struct dsm_heap *h)
{
	pthread_mutex_lock(&h->lock);
}

void
dsm__heap_unlock(struct dsm_heap *h)
{
	pthread_mutex_unlock(&h->lock);
}

void
dsm__heap_run_begin(struct dsm_heap *h)
{
	h->n_runs++;
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
	pthread_mutex_lock(&h->arena_lock);
	/* Allocators first: the heap must not grow while its used part is made
	 * ready for the child. */
	dsm__alloc_fork_prepare(h->alloc);
	for (size_t i = 0; i < h->n_arenas; i++)
		dsm__alloc_fork_prepare(h->arenas[i].alloc);
	used = dsm__alloc_high_water_forking(h->alloc);
	if (h->arena_top > h->base + used)
		used = h->arena_top - h->base;
	dsm__views_fork_prepare(h->views, used);
}

static void
fork_parent(void)
{
	struct dsm_heap *h = atomic_load(&heap);

	if (h != NULL) {
		dsm__views_fork_parent(h->views);
		for (size_t i = h->n_arenas; i-- > 0;)
			dsm__alloc_fork_parent(h->arenas[i].alloc);
		dsm__alloc_fork_parent(h->alloc);
		pthread_mutex_unlock(&h->arena_lock);
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
		for (size_t i = h->n_arenas; i-- > 0;)
			dsm__alloc_fork_child(h->arenas[i].alloc);
		dsm__alloc_fork_child(h->alloc);
		h->n_runs = 0;
		pthread_mutex_unlock(&h->arena_lock);
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
	pthread_mutex_init(&h->arena_lock, NULL);
	if (make_map(h, e) != DSM_OK)
		goto destroy_map;
	params.base = dsm__views_base(h->views);
	params.size = h->user_size;
	int err = dsm__alloc_create(&params, &h->alloc);
	if (err != DSM_OK) {
		dsm__fail(e, err, "dsm_malloc: no allocator: %s",
		          dsm__strerror(err));
		goto destroy_map;
	}
	return h;
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

/* --- task arenas that have come back --- */

/* arena_lock. Index of the first arena that ends after addr. */
static size_t
find_arena(const struct dsm_heap *h, uint64_t addr)
{
	size_t lo = 0, hi = h->n_arenas;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (h->arenas[mid].base + h->arenas[mid].len <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

uint64_t
dsm__heap_arena_gap(uint64_t addr, uint64_t len)
{
	const struct dsm_heap *h = dsm__heap_peek();

	if (h == NULL)
		return addr;
	for (size_t i = find_arena(h, addr);
	     i < h->n_arenas && h->arenas[i].base < addr + len; i++)
		addr = h->arenas[i].base + h->arenas[i].len;
	return addr;
}

static int
is_arena_area(const struct dsm_heap *h, const void *p)
{
	return (uintptr_t)p - h->base >= h->user_size;
}

/* The allocator that p belongs to; NULL: an arena that was not adopted. */
static struct dsm_alloc *
alloc_of(struct dsm_heap *h, const void *p)
{
	struct dsm_alloc *a = NULL;

	if (!is_arena_area(h, p))
		return h->alloc;
	/* A task has no other thread, and the lock is the program's. */
	if (!in_task())
		pthread_mutex_lock(&h->arena_lock);
	size_t i = find_arena(h, (uintptr_t)p);
	if (i < h->n_arenas && h->arenas[i].base <= (uintptr_t)p)
		a = h->arenas[i].alloc;
	if (!in_task())
		pthread_mutex_unlock(&h->arena_lock);
	return a;
}

uint64_t
dsm__heap_used(struct dsm_heap *h)
{
	uint64_t high = dsm__alloc_high_water(h->alloc);

	return h->arena_top > h->base + high ? h->arena_top - h->base : high;
}

/* arena_lock. */
static int
insert_arena(struct dsm_heap *h, uint64_t base, uint64_t len,
             struct dsm_alloc *alloc)
{
	size_t i = find_arena(h, base);

	if (i < h->n_arenas && h->arenas[i].base < base + len)
		return DSM_EINVAL; /* overlaps one that is there */
	if (h->n_arenas == h->cap_arenas) {
		size_t cap = h->cap_arenas == 0 ? 16 : 2 * h->cap_arenas;
		struct dsm_heap_arena *v = realloc(h->arenas, cap * sizeof(*v));

		if (v == NULL)
			return DSM_ENOMEM;
		h->arenas = v;
		h->cap_arenas = cap;
	}
	memmove(&h->arenas[i + 1], &h->arenas[i],
	        (h->n_arenas - i) * sizeof(*h->arenas));
	h->arenas[i] = (struct dsm_heap_arena){base, len, alloc};
	h->n_arenas++;
	if (h->arena_top < base + len)
		h->arena_top = base + len;
	return DSM_OK;
}

static int
adopt(struct dsm_heap *h, uint64_t base, uint64_t len)
{
	struct dsm_alloc_params params = {
	    .base = (void *)(uintptr_t)base,
	    .size = len,
	};
	struct dsm_alloc *a;
	bool zeroed;
	int err = dsm__alloc_create(&params, &a);

	if (err != DSM_OK)
		return err;
	void *p = dsm__alloc_reserve(a, len, true, &zeroed);
	err = p == params.base ? dsm__alloc_adopt(a, p, len) : DSM_EINVAL;
	if (err == DSM_OK) {
		pthread_mutex_lock(&h->arena_lock);
		err = insert_arena(h, base, len, a);
		pthread_mutex_unlock(&h->arena_lock);
	}
	if (err != DSM_OK)
		dsm__alloc_destroy(a);
	return err;
}

/* dsm_free of a pointer that may be no block. */
static void
free_if_block(struct dsm_heap *h, void *p)
{
	struct dsm_alloc *a = alloc_of(h, p);
	struct dsm_alloc_info info;

	if (a != NULL && dsm__alloc_find(a, p, &info) && info.alive &&
	    info.base == p)
		dsm__alloc_free(a, p);
}

/* Free what the task has freed, as far as it makes sense. */
static void
free_deferred(struct dsm_heap *h, uint64_t base, uint64_t len)
{
	struct dsm_task_root *root = (void *)(uintptr_t)base;

	if (root->magic != DSM_TASK_ROOT_MAGIC)
		return;
	uint64_t off = (uintptr_t)root->list - base;
	if (root->n > 0 && off < len && off % sizeof(void *) == 0 &&
	    root->n <= (len - off) / sizeof(void *)) {
		for (uint64_t i = 0; i < root->n; i++) {
			void *p = root->list[i];

			if (dsm__heap_has(p))
				free_if_block(h, p);
			else
				free(p); /* malloc's, as the task knew it */
		}
		free_if_block(h, root->list);
	}
	free_if_block(h, root);
}

/* Does the page start with a sealed arena's header? See task_arena.h. */
static void
adopt_page(struct dsm_heap *h, uint64_t page, int *err_p)
{
	const uint64_t *words = (const void *)(uintptr_t)page;
	uint64_t base = words[1], len = words[2];
	struct dsm_task_view view;

	/* The header names its arena; all must fit before it is believed. */
	if (base < h->base + h->user_size || base > page ||
	    ((base | len) & DSM_PAGE_MASK) != 0 ||
	    len > h->base + h->size - base || page >= base + len ||
	    dsm__task_view_open(&view, (void *)(uintptr_t)base, len) !=
	        DSM_OK ||
	    (uintptr_t)view.meta_end != page)
		return;
	int err = adopt(h, base, len);
	if (err == DSM_OK)
		free_deferred(h, base, len);
	else if (err == DSM_ENOMEM)
		*err_p = err;
	else
		log_debug("task arena at 0x%" PRIx64 " not taken over: %s",
		          base, dsm__strerror(err));
}

int
dsm__heap_adopt(struct dsm_heap *h, const struct dsm_extents *changed)
{
	uint64_t start = h->base + h->user_size;
	int err = DSM_OK;

	for (size_t i = dsm__extents_find(changed, start); i < changed->n;
	     i++) {
		const struct dsm_extent *x = &changed->v[i];

		for (uint64_t k = 0; k < x->n_pages; k++)
			if (x->start + k * DSM_PAGE >= start)
				adopt_page(h, x->start + k * DSM_PAGE, &err);
	}
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
	size_t old = a != NULL ? dsm__alloc_usable(a, p) : 0;
	void *q;

	if (a == NULL) {
		errno = ENOMEM;
		return NULL;
	}
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
	if (a != NULL)
		dsm__alloc_free(a, p);
}

int
dsm_name(const void *p, const char *label)
{
	struct dsm_heap *h = dsm__heap_peek();

	if (h == NULL || !dsm__heap_has(p) || in_task())
		return DSM_EINVAL;
	struct dsm_alloc *a = alloc_of(h, p);
	return a != NULL ? dsm__alloc_name(a, p, label) : DSM_EINVAL;
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
	pthread_mutex_lock(&h->arena_lock);
	for (size_t i = 0; i < h->n_arenas; i++) {
		struct dsm_stats arena;

		dsm__alloc_stats(h->arenas[i].alloc, &arena);
		stats->allocated += arena.allocated;
		stats->blocks += arena.blocks;
		stats->committed += arena.committed;
		stats->touched += arena.touched;
		stats->peak += arena.peak;
	}
	pthread_mutex_unlock(&h->arena_lock);
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

void
dsm__heap_describe(const void *addr, char *buf, size_t size)
{
	struct dsm_heap *h = dsm__heap_peek();
	struct dsm_alloc *a =
	    h != NULL && dsm__heap_has(addr) ? alloc_of(h, addr) : NULL;
	struct dsm_alloc_info info;
	char place[40] = "";

	buf[0] = '\0';
	if (a == NULL || !dsm__alloc_find(a, addr, &info) || !info.alive)
		return;
	size_t off = (size_t)((const char *)addr - (const char *)info.base);
	if (info.elem_size > 0)
		snprintf(place, sizeof(place), "[%zu]", off / info.elem_size);
	else if (off > 0)
		snprintf(place, sizeof(place), " + %zu", off);
	snprintf(buf, size, "%s%s, %zu bytes allocated at %p",
	         info.label[0] != '\0' ? info.label : "block", place, info.size,
	         info.return_address);
}
