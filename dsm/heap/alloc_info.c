/* What is known of a block: its label, its size, where it was allocated; and how
 * much there is in all. See alloc.h. */
#include "alloc_priv.h"

#include <string.h>

/* ---- labels: page lock ---- */

static void
set_label(struct dsm_span *s, struct dsm_label *first)
{
	atomic_store_explicit(&s->labels, first, memory_order_relaxed);
}

static struct dsm_label *
label_of(const struct dsm_span *s, const char *block)
{
	struct dsm_label *l =
	    atomic_load_explicit(&s->labels, memory_order_relaxed);

	while (l != NULL && l->block != block)
		l = l->next;
	return l;
}

void
dsm__label_drop(struct dsm_alloc *a, struct dsm_span *s, const char *block)
{
	struct dsm_label *l = label_of(s, block);
	struct dsm_label *first = s->labels;

	if (l == NULL)
		return;
	if (first == l) {
		set_label(s, l->next);
	} else {
		while (first->next != l)
			first = first->next;
		first->next = l->next;
	}
	l->next = a->free_labels;
	a->free_labels = l;
}

static int
put_label(struct dsm_alloc *a, struct dsm_span *s, char *block,
          const char *text)
{
	struct dsm_label *l = label_of(s, block);

	if (l == NULL) {
		l = a->free_labels;
		if (l != NULL)
			a->free_labels = l->next;
		else
			l = dsm__alloc_meta(a, sizeof(*l));
		if (l == NULL)
			return DSM_ENOMEM;
		l->block = block;
		l->next = s->labels;
		set_label(s, l);
	}

	size_t n = strnlen(text, DSM_LABEL_MAX - 1);

	memcpy(l->text, text, n);
	l->text[n] = '\0';
	return DSM_OK;
}

void
dsm__label_forget(struct dsm_alloc *a, struct dsm_span *s, const char *block)
{
	pthread_mutex_lock(&a->page_lock);
	dsm__label_drop(a, s, block);
	pthread_mutex_unlock(&a->page_lock);
}

void
dsm__label_move(struct dsm_alloc *a, const struct dsm_span *s, const char *from,
                char *to)
{
	struct dsm_label *l;

	pthread_mutex_lock(&a->page_lock);
	l = label_of(s, from);
	if (l != NULL)
		put_label(a, entry_of(a, to), to, l->text);
	pthread_mutex_unlock(&a->page_lock);
}

/* ---- looking ---- */

static bool
find_slot(struct dsm_span *s, uint64_t off, struct dsm_alloc_info *out)
{
	uint64_t index = off / s->slot_size;
	uint64_t word;

	if (index >= s->n_slots)
		return false;
	word = atomic_load_explicit(&s->words[index], memory_order_relaxed);
	out->base = s->base + index * s->slot_size;
	out->alive = word & DSM_WORD_LIVE;
	if (!out->alive) {
		out->size = s->slot_size;
		return true;
	}
	out->size = dsm__word_size(word, s->slot_size);
	out->elem_size = dsm__word_elem(word, s->slot_size);
	out->return_address = dsm__word_return_address(word);
	return true;
}

static bool
find_locked(struct dsm_alloc *a, const void *addr, struct dsm_alloc_info *out,
            struct dsm_span **s_p)
{
	uint64_t off = (uint64_t)((const char *)addr - a->base);
	struct dsm_span *s =
	    off < a->size ? dsm__runs_lookup(&a->runs, off >> DSM_PAGE_SHIFT)
	                  : NULL;

	*s_p = s;
	if (s == NULL)
		return false;
	if (s->kind == DSM_SPAN_SMALL)
		return find_slot(s, off - (uint64_t)(s->base - a->base), out);
	if (s->kind != DSM_SPAN_LARGE)
		return false;
	out->base = s->base;
	out->size = s->size;
	out->elem_size = s->elem_size;
	out->return_address = s->return_address;
	out->alive = true;
	return true;
}

bool
dsm__alloc_find(struct dsm_alloc *a, const void *addr,
                struct dsm_alloc_info *out)
{
	struct dsm_alloc_info info = {0};
	struct dsm_span *s;
	bool found;

	pthread_mutex_lock(&a->page_lock);
	found = find_locked(a, addr, &info, &s);
	if (found && info.alive) {
		const struct dsm_label *l = label_of(s, info.base);

		if (l != NULL)
			memcpy(info.label, l->text, sizeof(info.label));
	}
	pthread_mutex_unlock(&a->page_lock);
	if (found)
		*out = info;
	return found;
}

int
dsm__alloc_name(struct dsm_alloc *a, const void *p, const char *label)
{
	struct dsm_alloc_info info = {0};
	struct dsm_span *s;
	int err = DSM_OK;

	pthread_mutex_lock(&a->page_lock);
	if (!find_locked(a, p, &info, &s) || !info.alive)
		err = DSM_EINVAL;
	else if (label == NULL || label[0] == '\0')
		dsm__label_drop(a, s, info.base);
	else
		err = put_label(a, s, info.base, label);
	pthread_mutex_unlock(&a->page_lock);
	return err;
}

uint64_t
dsm__alloc_high_water_forking(const struct dsm_alloc *a)
{
	return a->runs.top << DSM_PAGE_SHIFT;
}

uint64_t
dsm__alloc_high_water(struct dsm_alloc *a)
{
	uint64_t top;

	pthread_mutex_lock(&a->page_lock);
	top = a->runs.top;
	pthread_mutex_unlock(&a->page_lock);
	return top << DSM_PAGE_SHIFT;
}

uint64_t
dsm__alloc_upper(struct dsm_alloc *a)
{
	uint64_t bot;

	pthread_mutex_lock(&a->page_lock);
	bot = a->runs.bot;
	pthread_mutex_unlock(&a->page_lock);
	return bot << DSM_PAGE_SHIFT;
}

void
dsm__alloc_stats(struct dsm_alloc *a, struct dsm_stats *out)
{
	int64_t bytes, blocks;

	dsm__tcache_stats(a, &bytes, &blocks);
	/* Sums over running threads: a free may be seen before its malloc. */
	out->allocated = bytes < 0 ? 0 : (uint64_t)bytes;
	out->blocks = blocks < 0 ? 0 : (uint64_t)blocks;
	out->address_space = a->size;
	pthread_mutex_lock(&a->page_lock);
	out->committed = a->runs.n_used << DSM_PAGE_SHIFT;
	out->peak = a->runs.peak_used << DSM_PAGE_SHIFT;
	out->touched = a->runs.top << DSM_PAGE_SHIFT;
	pthread_mutex_unlock(&a->page_lock);
}
