/*
 * See serve.h.
 *
 * A copy is made when a page is first served, and served from then on: workers
 * that ask for the page at different times of a run must get the same bytes,
 * for a launch compares the program's memory with one copy and tells all
 * workers the difference. A copy belongs to an image offset: when the page's
 * range has got another one, no worker can have the page any more and the copy
 * is worthless.
 *
 * Buffer and copies lie in mappings of their own, which are excluded from the
 * table: malloc may be the shared heap, and then every copy would be a change
 * of it.
 */
#include "serve.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../wire/wire.h"
#include "idtab.h"
#include "selfmem.h"

#define BATCH_IOV 64
#define SLAB_MIN 64 /* pages; each slab doubles, up to SLAB_MAX */
#define SLAB_MAX 16384
#define N_SLABS 1024
#define CHUNK_PAGES (DSM_HEAP_CHUNK / DSM_PAGE)
#define CHUNK_WORDS (CHUNK_PAGES / 64)

struct copy {
	uint64_t addr, image_off;
	uint8_t *bytes;
	int unsent; /* the workers' bytes are others: a launch failed */
};

/* Copies' pages; the free ones are linked through their first word. */
struct slabs {
	struct {
		uint8_t *base;
		size_t n_pages;
	} v[N_SLABS];
	size_t n;
	size_t used; /* pages of the last one handed out */
	void *free;
};

struct dsm_server {
	struct dsm_map *map;
	struct dsm_views *views; /* may be NULL: no heap */
	uint8_t *buf;            /* DSM_READ_MAX pages */
	struct dsm_idtab by_addr;
	struct copy **copies; /* by address, when sorted */
	size_t n_copies, cap_copies;
	int sorted;
	struct slabs slabs;
	uint64_t heap_base, n_chunks;
	uint64_t **served; /* per chunk a bit a page, NULL: none */
	uint64_t n_served;
};

/* --- memory --- */

static void *
own_map(struct dsm_map *map, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t at = (uint64_t)(uintptr_t)p;

	if (p == MAP_FAILED)
		return NULL;
	if (dsm__map_exclude(map, at, at + len) != DSM_OK) {
		munmap(p, len);
		return NULL;
	}
	return p;
}

static void
own_unmap(struct dsm_map *map, void *p, size_t len)
{
	uint64_t at = (uint64_t)(uintptr_t)p;

	if (p == NULL)
		return;
	munmap(p, len);
	dsm__map_unexclude(map, at, at + len);
}

static uint8_t *
page_take(struct dsm_server *s)
{
	struct slabs *x = &s->slabs;
	size_t n = x->n > 0 ? 2 * x->v[x->n - 1].n_pages : SLAB_MIN;
	void *p = x->free;

	if (p != NULL) {
		memcpy(&x->free, p, sizeof(x->free));
		return p;
	}
	if (x->n == 0 || x->used == x->v[x->n - 1].n_pages) {
		n = n < SLAB_MAX ? n : SLAB_MAX;
		p = x->n < N_SLABS ? own_map(s->map, n * DSM_PAGE) : NULL;
		if (p == NULL)
			return NULL;
		x->v[x->n].base = p;
		x->v[x->n++].n_pages = n;
		x->used = 0;
	}
	return x->v[x->n - 1].base + x->used++ * DSM_PAGE;
}

static void
page_give(struct dsm_server *s, uint8_t *page)
{
	memcpy(page, &s->slabs.free, sizeof(s->slabs.free));
	s->slabs.free = page;
}

/* --- life --- */

int
dsm__server_create(struct dsm_map *map, struct dsm_views *views,
                   struct dsm_server **s_p)
{
	struct dsm_server *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return DSM_ENOMEM;
	s->map = map;
	s->views = views;
	s->sorted = 1;
	if (views != NULL) {
		s->heap_base = (uint64_t)(uintptr_t)dsm__views_base(views);
		s->n_chunks = (dsm__views_size(views) + DSM_HEAP_CHUNK - 1) /
		              DSM_HEAP_CHUNK;
		s->served = calloc(s->n_chunks, sizeof(*s->served));
		if (s->served == NULL)
			goto free_server;
	}
	s->buf = own_map(map, DSM_READ_MAX * DSM_PAGE);
	if (s->buf == NULL)
		goto free_served;
	*s_p = s;
	return DSM_OK;
free_served:
	free(s->served);
free_server:
	free(s);
	return DSM_ENOMEM;
}

void
dsm__server_destroy(struct dsm_server *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->n_copies; i++)
		free(s->copies[i]);
	free(s->copies);
	dsm__idtab_fini(&s->by_addr);
	for (size_t i = 0; i < s->slabs.n; i++)
		own_unmap(s->map, s->slabs.v[i].base,
		          s->slabs.v[i].n_pages * DSM_PAGE);
	own_unmap(s->map, s->buf, DSM_READ_MAX * DSM_PAGE);
	for (uint64_t i = 0; i < s->n_chunks; i++)
		free(s->served[i]);
	free(s->served);
	free(s);
}

uint64_t
dsm__server_pages_served(const struct dsm_server *s)
{
	return s->n_served;
}

/* --- heap --- */

/* The word of 64 bits that has the page's. NULL: none was ever served, or
 * (make) no memory. */
static uint64_t *
served_word(struct dsm_server *s, uint64_t page, int make)
{
	uint64_t **chunk = page / CHUNK_PAGES < s->n_chunks
	                       ? &s->served[page / CHUNK_PAGES]
	                       : NULL;

	if (chunk == NULL)
		return NULL;
	if (*chunk == NULL && make)
		*chunk = calloc(CHUNK_WORDS, sizeof(**chunk));
	return *chunk == NULL ? NULL : *chunk + page % CHUNK_PAGES / 64;
}

/* Those of pages [page, end) that lie in the word of `page`. */
static uint64_t
word_mask(uint64_t page, uint64_t end)
{
	unsigned lo = page % 64;
	uint64_t n = end - page < 64 - lo ? end - page : 64 - lo;

	return (n == 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1) << lo;
}

static int
mark_served(struct dsm_server *s, uint64_t addr, uint64_t n_pages)
{
	uint64_t page = (addr - s->heap_base) / DSM_PAGE, end = page + n_pages;

	for (; page < end; page = (page | 63) + 1) {
		uint64_t *w = served_word(s, page, 1);

		if (w == NULL)
			return DSM_ENOMEM;
		*w |= word_mask(page, end);
	}
	return DSM_OK;
}

/* Move the served pages of [start, end) to drops. */
static int
drop_served(struct dsm_server *s, uint64_t start, uint64_t stop,
            struct dsm_extents *drops)
{
	uint64_t page = (start - s->heap_base) / DSM_PAGE;
	uint64_t end = (stop - s->heap_base) / DSM_PAGE;
	int err = DSM_OK;

	for (; page < end; page = (page | 63) + 1) {
		uint64_t *w = served_word(s, page, 0);
		uint64_t base = page & ~UINT64_C(63), hit;

		if (w == NULL) { /* the whole chunk was not */
			page |= CHUNK_PAGES - 1;
			continue;
		}
		hit = *w & word_mask(page, end);
		while (hit != 0) {
			unsigned lo = (unsigned)__builtin_ctzll(hit);
			uint64_t rest = ~(hit >> lo);
			unsigned n =
			    rest == 0 ? 64 : (unsigned)__builtin_ctzll(rest);

			err = dsm__extents_add(
			    drops, s->heap_base + (base + lo) * DSM_PAGE, n);
			if (err != DSM_OK)
				return err;
			hit &= ~word_mask(base + lo, base + lo + n);
			*w &= ~word_mask(base + lo, base + lo + n);
		}
	}
	return err;
}

/* What slots may have of a changed extent: pages that were served, and all pinned
 * ones, which they read without asking. */
static int
drop_changed(struct dsm_server *s, const struct dsm_extent *x,
             struct dsm_extents *drops)
{
	static const struct dsm_extents none;
	const struct dsm_extents *p =
	    s->views != NULL ? dsm__views_pinned(s->views) : &none;
	uint64_t at = x->start, end = at + x->n_pages * DSM_PAGE;
	size_t k = dsm__extents_find(p, at);
	int err = DSM_OK;

	for (; at < end && err == DSM_OK; k++) {
		uint64_t lo = end, hi = end;

		if (k < p->n && p->v[k].start < end) {
			lo = p->v[k].start > at ? p->v[k].start : at;
			hi = p->v[k].start + p->v[k].n_pages * DSM_PAGE;
			hi = hi < end ? hi : end;
		}
		err = drop_served(s, at, lo, drops);
		if (err == DSM_OK && lo < hi)
			err = dsm__extents_add(drops, lo, (hi - lo) / DSM_PAGE);
		at = hi;
	}
	return err;
}

/* --- copies --- */

static int
copies_reserve(struct dsm_server *s)
{
	size_t cap = s->cap_copies == 0 ? 64 : 2 * s->cap_copies;
	struct copy **v;

	if (s->n_copies < s->cap_copies)
		return DSM_OK;
	v = realloc(s->copies, cap * sizeof(struct copy *));
	if (v == NULL)
		return DSM_ENOMEM;
	s->copies = v;
	s->cap_copies = cap;
	return DSM_OK;
}

static int
copy_make(struct dsm_server *s, uint64_t addr, uint64_t image_off,
          const void *bytes)
{
	struct copy *c = malloc(sizeof(*c));
	uint8_t *page = page_take(s);

	if (c == NULL || page == NULL || copies_reserve(s) != DSM_OK ||
	    dsm__idtab_put(&s->by_addr, addr, c) != DSM_OK) {
		free(c);
		if (page != NULL)
			page_give(s, page);
		return DSM_ENOMEM;
	}
	memcpy(page, bytes, DSM_PAGE);
	*c = (struct copy){addr, image_off, page, 0};
	if (s->n_copies > 0 && addr < s->copies[s->n_copies - 1]->addr)
		s->sorted = 0;
	s->copies[s->n_copies++] = c;
	return DSM_OK;
}

/* Forget a copy; its place in `copies` is the caller's to close. */
static void
copy_drop(struct dsm_server *s, struct copy *c)
{
	dsm__idtab_take(&s->by_addr, c->addr);
	page_give(s, c->bytes);
	free(c);
}

/* The page was read into `bytes`: keep that, or serve what is kept. */
static int
copy_keep(struct dsm_server *s, const struct dsm_range *r, uint64_t addr,
          uint8_t *bytes)
{
	uint64_t image_off = r->image_off + (addr - r->start);
	struct copy *c = dsm__idtab_get(&s->by_addr, addr);

	if (c == NULL)
		return copy_make(s, addr, image_off, bytes);
	if (c->image_off == image_off) {
		memcpy(bytes, c->bytes, DSM_PAGE);
	} else {
		c->image_off = image_off;
		memcpy(c->bytes, bytes, DSM_PAGE);
	}
	return DSM_OK;
}

/* --- reading --- */

static uint32_t
read_memory(struct dsm_server *s, uint64_t addr, uint32_t n)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	const struct iovec from = {(void *)(uintptr_t)addr, n * DSM_PAGE};
	const struct iovec to = {s->buf, n * DSM_PAGE};

	return (uint32_t)(dsm__self_read(&to, &from, 1) / DSM_PAGE);
}

static int
read_range(struct dsm_server *s, const struct dsm_range *r, uint64_t addr,
           uint32_t n, struct iovec *iov_p, uint32_t *n_p)
{
	int err = DSM_OK;

	if (n > (r->end - addr) / DSM_PAGE)
		n = (uint32_t)((r->end - addr) / DSM_PAGE);
	iov_p->iov_base = s->buf;
	if (r->kind == DSM_RANGE_KEPT) {
		n = 0;
	} else if (r->kind == DSM_RANGE_HEAP) {
		if (s->views == NULL)
			return DSM_EINVAL;
		/* Fails for pages of a heap that is not the views', too. */
		err = mark_served(s, addr, n);
		iov_p->iov_base = (void *)dsm__views_serving(s->views, addr);
	} else {
		n = read_memory(s, addr, n);
	}
	if (r->kind != DSM_RANGE_HEAP && r->kind != DSM_RANGE_CODE &&
	    r->kind != DSM_RANGE_VDSO)
		for (uint32_t i = 0; i < n && err == DSM_OK; i++)
			err = copy_keep(s, r, addr + i * DSM_PAGE,
			                s->buf + i * DSM_PAGE);
	iov_p->iov_len = n * DSM_PAGE;
	*n_p = n;
	return err;
}

int
dsm__server_read(struct dsm_server *s, uint64_t addr, uint32_t n_pages,
                 struct iovec *iov_p, uint32_t *n_p)
{
	struct dsm_range r;
	struct iovec iov = {s->buf, 0};
	uint32_t n = 0;
	int err = DSM_OK;

	if ((addr & DSM_PAGE_MASK) != 0 || n_pages == 0)
		return DSM_EINVAL;
	if (n_pages > DSM_READ_MAX)
		n_pages = DSM_READ_MAX;
	if (dsm__map_find(s->map, addr, &r))
		err = read_range(s, &r, addr, n_pages, &iov, &n);
	if (n == 0 && err == DSM_OK) {
		/* Mapped since, or mapped anew with another offset. */
		err = dsm__map_refresh(s->map, NULL, NULL);
		if (err == DSM_OK && dsm__map_find(s->map, addr, &r))
			err = read_range(s, &r, addr, n_pages, &iov, &n);
	}
	if (err != DSM_OK)
		return err;
	s->n_served += n;
	*iov_p = iov;
	*n_p = n;
	return DSM_OK;
}

/* --- launch --- */

static int
by_addr(const void *a, const void *b)
{
	const struct copy *x = *(struct copy *const *)a;
	const struct copy *y = *(struct copy *const *)b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

/* The range that c was served from is still what lies there. *r_p: the range of
 * the copy before, often the same. */
static int
still_mapped(struct dsm_server *s, const struct copy *c, struct dsm_range *r_p)
{
	if ((c->addr < r_p->start || c->addr >= r_p->end) &&
	    !dsm__map_find(s->map, c->addr, r_p)) {
		r_p->start = r_p->end = 0;
		return 0;
	}
	return r_p->image_off + (c->addr - r_p->start) == c->image_off;
}

const uint8_t *
dsm__server_copy(struct dsm_server *s, uint64_t addr)
{
	const struct copy *c = dsm__idtab_get(&s->by_addr, addr);
	struct dsm_range r = {0};

	return c != NULL && !c->unsent && still_mapped(s, c, &r) ? c->bytes
	                                                         : NULL;
}

/* Read the pages of v[0..n) into the buffer: how many were there in a row. */
static size_t
read_batch(struct dsm_server *s, struct copy **v, size_t n)
{
	struct iovec from[BATCH_IOV], to[BATCH_IOV];
	size_t k = 0;

	for (size_t i = 0; i < n; i++) {
		if (i > 0 && v[i]->addr == v[i - 1]->addr + DSM_PAGE) {
			from[k - 1].iov_len += DSM_PAGE;
			to[k - 1].iov_len += DSM_PAGE;
			continue;
		}
		if (k == BATCH_IOV)
			break;
		/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
		from[k].iov_base = (void *)(uintptr_t)v[i]->addr;
		from[k].iov_len = DSM_PAGE;
		to[k++] = (struct iovec){s->buf + i * DSM_PAGE, DSM_PAGE};
	}
	return dsm__self_read(to, from, k) / DSM_PAGE;
}

static int
compare(struct copy *c, const uint8_t *now, struct dsm_extents *updates,
        struct dsm_wbuf *pages)
{
	int err;

	if (!c->unsent && memcmp(now, c->bytes, DSM_PAGE) == 0)
		return DSM_OK;
	err = dsm__extents_add(updates, c->addr, 1);
	if (err == DSM_OK)
		err = dsm__wbuf_put(pages, now, DSM_PAGE);
	if (err == DSM_OK) {
		memcpy(c->bytes, now, DSM_PAGE);
		c->unsent = 0;
	}
	return err;
}

/* Drop the copies of pages that have another offset now; close the gaps. */
static void
forget_unmapped(struct dsm_server *s)
{
	struct dsm_range r = {0};
	size_t n = 0;

	for (size_t i = 0; i < s->n_copies; i++)
		if (still_mapped(s, s->copies[i], &r))
			s->copies[n++] = s->copies[i];
		else
			copy_drop(s, s->copies[i]);
	s->n_copies = n;
}

static int
compare_copies(struct dsm_server *s, struct dsm_extents *drops,
               struct dsm_extents *updates, struct dsm_wbuf *pages)
{
	struct copy **v = s->copies;
	size_t i = 0, kept = 0;
	int err = DSM_OK;

	while (i < s->n_copies && err == DSM_OK) {
		size_t n = s->n_copies - i;
		size_t got;

		n = n < DSM_READ_MAX ? n : DSM_READ_MAX;
		got = read_batch(s, v + i, n);
		for (size_t j = 0; j < got && err == DSM_OK; j++) {
			err = compare(v[i], s->buf + j * DSM_PAGE, updates,
			              pages);
			if (err == DSM_OK)
				v[kept++] = v[i++];
		}
		if (got == 0 && err == DSM_OK) {
			/* Mapped, says the table, but not readable. */
			err = dsm__extents_add(drops, v[i]->addr, 1);
			if (err == DSM_OK)
				copy_drop(s, v[i++]);
		}
	}
	while (i < s->n_copies)
		v[kept++] = v[i++];
	s->n_copies = kept;
	return err;
}

/* The launch fails, what was found is not sent: the next one must find it. */
static void
find_again(struct dsm_server *s, const struct dsm_extents *drops,
           const struct dsm_extents *updates)
{
	for (size_t i = 0; i < drops->n; i++)
		for (uint64_t k = 0; k < drops->v[i].n_pages; k++) {
			uint64_t page = drops->v[i].start / DSM_PAGE + k -
			                s->heap_base / DSM_PAGE;
			uint64_t *w = served_word(s, page, 0);

			if (w != NULL)
				*w |= word_mask(page, page + 1);
		}
	for (size_t i = 0; i < updates->n; i++)
		for (uint64_t k = 0; k < updates->v[i].n_pages; k++) {
			struct copy *c = dsm__idtab_get(
			    &s->by_addr, updates->v[i].start + k * DSM_PAGE);

			if (c != NULL)
				c->unsent = 1;
		}
}

int
dsm__server_launch(struct dsm_server *s, const struct dsm_extents *changed,
                   struct dsm_extents *drops, struct dsm_extents *updates,
                   struct dsm_wbuf *pages)
{
	int err = DSM_OK;

	if (!s->sorted && s->n_copies > 0)
		qsort(s->copies, s->n_copies, sizeof(struct copy *), by_addr);
	s->sorted = 1;
	forget_unmapped(s);
	if (s->n_copies > 0)
		err = compare_copies(s, drops, updates, pages);
	for (size_t i = 0; i < changed->n && err == DSM_OK; i++)
		err = drop_changed(s, &changed->v[i], drops);
	if (err != DSM_OK)
		find_again(s, drops, updates);
	return err;
}

void
dsm__server_push(struct dsm_server *s, uint64_t start, uint64_t end,
                 size_t max_bytes, struct dsm_extents *updates,
                 struct dsm_wbuf *pages)
{
	uint64_t page = (start - s->heap_base) / DSM_PAGE;
	uint64_t stop = (end - s->heap_base) / DSM_PAGE;

	while (page < stop && pages->len + DSM_PAGE <= max_bytes) {
		uint64_t *w = served_word(s, page, 1);
		uint64_t new = w != NULL ? ~*w &word_mask(page, stop) : 0;
		uint64_t at;

		if (w == NULL)
			return;
		if (new == 0) { /* 64 at a time: much is advised once for all */
			page = (page | 63) + 1;
			continue;
		}
		page = (page & ~UINT64_C(63)) + (unsigned)__builtin_ctzll(new);
		at = s->heap_base + page * DSM_PAGE;
		if (dsm__wbuf_put(pages, dsm__views_serving(s->views, at),
		                  DSM_PAGE) != DSM_OK)
			return;
		if (dsm__extents_push(updates, at, 1) != DSM_OK) {
			pages->len -= DSM_PAGE;
			return;
		}
		*w |= word_mask(page, page + 1);
		s->n_served++;
		page++;
	}
}
