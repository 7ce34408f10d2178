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
#include "heap_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../base/clock.h"
#include "../base/log.h"
#include "../base/secret.h"
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

void
dsm__heap_run_begin(struct dsm_heap *h)
{
	if (h->n_runs++ == 0)
		dsm__heap_take_back(h);
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

uint64_t
dsm__heap_used(struct dsm_heap *h)
{
	return used_of(h, dsm__alloc_high_water(h->alloc),
	               dsm__alloc_high_water(h->arenas));
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
	uint64_t secret, secret_end;
	int err = dsm__map_create(&h->map);

	/* Tokens and keys, before there are any. */
	dsm__secret_span(&secret, &secret_end);
	if (err == DSM_OK && secret == secret_end)
		err = DSM_ENOMEM;
	if (err == DSM_OK)
		err = dsm__map_exclude(h->map, secret, secret_end);
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

/* --- dsm.h --- */

/* errno alone does not tell why there is none; a line on stderr does, once. */
static struct dsm_heap *
wanted_heap(void)
{
	static _Atomic int said;
	struct dsm_heap *h = dsm__heap_default();

	if (h == NULL && !atomic_exchange(&said, 1))
		log_error("%s", dsm__heap_error()->text);
	return h;
}

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
	struct dsm_heap *h = wanted_heap();
	return h != NULL ? dsm__alloc_malloc(h->alloc, size, ra) : NULL;
}

void *
dsm_calloc(size_t n, size_t size)
{
	void *ra = __builtin_return_address(0);

	if (in_task())
		return task_ops->calloc(n, size, ra);
	struct dsm_heap *h = wanted_heap();
	return h != NULL ? dsm__alloc_calloc(h->alloc, n, size, ra) : NULL;
}

void *
dsm_aligned_alloc(size_t align, size_t size)
{
	void *ra = __builtin_return_address(0);

	if (in_task())
		return task_ops->aligned(align, size, ra);
	struct dsm_heap *h = wanted_heap();
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
	struct dsm_heap *h = wanted_heap();
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
		dsm__heap_free_if_block(h, p);
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
	struct dsm_heap *h = wanted_heap();

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
