/*
 * See stage.h: the parts of write sets as they come, and reading them.
 *
 * Parts are unpacked again in each step of a commit rather than kept: unpacking is
 * quicker than the page faults of fresh memory for it.
 *
 * Staged bytes lie in chunks of their own mappings: malloc may be the shared
 * heap, which should not grow by what a run is about to write to it.
 */
#include "stage_priv.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_MIN ((size_t)64 << 10)
#define CHUNK_MAX ((size_t)16 << 20)
#define PART_RAW_MAX ((size_t)1 << 30) /* unpacked, what a peer may claim */

/* --- memory --- */

void *
dsm__stage_alloc(struct dsm_stage *s, size_t len)
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
	a = dsm__stage_alloc(s, sizeof(*a));
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

	if (a != NULL && a->refused)
		return DSM_OK;
	if (a != NULL ? a->whole || n != a->n_parts : n != 0)
		return DSM_EPROTO;
	part = dsm__stage_alloc(s, sizeof(*part));
	copy = borrowed ? NULL : dsm__stage_alloc(s, len);
	if (part == NULL || (copy == NULL && !borrowed))
		return DSM_ENOMEM;
	a = attempt_get(s, id);
	if (a == NULL)
		return DSM_ENOMEM;
	if (copy != NULL && len > 0)
		memcpy(copy, packed, len);
	*part = (struct part){.bytes = borrowed ? packed : copy,
	                      .len = len,
	                      .borrowed = borrowed};
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
	if (a->refused)
		return DSM_OK;
	v = dsm__stage_alloc(s, marks->n * sizeof(*v));
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

/* The whole pages of a copied part; its place in the chunk is not used again. */
static void
release(const struct part *p)
{
	uintptr_t start = dsm__page_up((uintptr_t)p->bytes);
	uintptr_t end = dsm__page_down((uintptr_t)p->bytes + p->len);

	if (!p->borrowed && start < end)
		madvise((void *)start, end - start, MADV_DONTNEED);
}

int
dsm__stage_refuse(struct dsm_stage *s, uint64_t attempt)
{
	struct attempt *a = attempt_get(s, attempt);

	if (a == NULL)
		return DSM_ENOMEM;
	for (const struct part *p = a->first; p != NULL; p = p->next) {
		s->n_bytes -= p->len;
		release(p);
	}
	*a = (struct attempt){.id = attempt, .refused = 1};
	return DSM_OK;
}

size_t
dsm__stage_bytes(const struct dsm_stage *s)
{
	return s->n_bytes;
}

/* --- unpacking --- */

void
dsm__reader_fini(struct dsm_reader *r)
{
	dsm__wbuf_fini(&r->mask_buf);
	dsm__wbuf_fini(&r->data_buf);
}

void
dsm__reader_open(struct dsm_reader *r, const struct part *part)
{
	r->part = part;
	r->p = part->bytes;
	r->left = part->len;
}

static int
unpack(struct dsm_reader *r, struct dsm_wbuf *buf, const uint8_t **p_p,
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

int
dsm__reader_pair(struct dsm_reader *r)
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
reader_bytes(struct dsm_reader *r, struct dsm_write *w)
{
	if (w->n_bytes > r->data_len - r->pos)
		return DSM_EPROTO;
	w->bytes = r->data + r->pos;
	r->pos += w->n_bytes;
	return 1;
}

int
dsm__reader_next(struct dsm_reader *r, struct dsm_write *w)
{
	int more = dsm__maskit_next(&r->it, &w->addr, &w->len);

	w->bitmap = NULL;
	w->n_bytes = w->len;
	return more != 1 ? more : reader_bytes(r, w);
}

int
dsm__reader_next_page(struct dsm_reader *r, struct dsm_write *w)
{
	int more = dsm__maskit_next_page(&r->it, &w->addr, &w->len, &w->bitmap,
	                                 &w->n_bytes);

	return more != 1 ? more : reader_bytes(r, w);
}

uint64_t
dsm__reader_task(const struct dsm_reader *r)
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
