/* Ranges that slots borrow for the arenas of their tasks, and what comes back in
 * them with a commit. See heap.h. */
#include "heap_priv.h"

#include <inttypes.h>
#include <stdlib.h>

#include "../base/log.h"

void
dsm__heap_take_back(struct dsm_heap *h)
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

int
dsm__heap_free_if_block(struct dsm_heap *h, void *p)
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
			else if (!dsm__heap_free_if_block(h, p))
				log_warn("a task has freed %p, which is no "
				         "block that is alive (freed twice?)",
				         p);
		}
		dsm__heap_free_if_block(h, root->list);
	}
	dsm__heap_free_if_block(h, root);
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
