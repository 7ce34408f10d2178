/*
 * The radix tree has 6 levels of 64 slots over the 35 bits of a page number.
 * States of a slot:
 *   EMPTY   nobody wrote there
 *   WHOLE   one task wrote every byte of all its pages (any level)
 *   SUSPECT two tasks met somewhere in it (any level; above the leaves all its
 *           pages were written)
 *   CHILD   a node (above the leaves)
 *   ONE     leaf: the mask record of the only writer
 *   UNION   leaf: the bytes written so far, no two tasks met
 * EMPTY -> ONE -> UNION -> SUSPECT, EMPTY -> CHILD -> SUSPECT, EMPTY -> WHOLE
 * -> SUSPECT. SUSPECT is final. It may be said too often (a block for one page;
 * a task that meets itself), never too rarely: the sweep is exact.
 */
#include "races_priv.h"

#include <assert.h>
#include <stdlib.h>

#include "../../dsm/base/page.h"
#include "../../dsm/wire/packdiff.h"

/* Set bits [off, off + len); non-zero when one was set. */
static uint64_t
bits_set(uint64_t *bits, unsigned off, unsigned len)
{
	uint64_t met = 0, mask;
	unsigned end = off + len, bit, n;

	for (; off < end; off += n) {
		bit = off % 64;
		n = end - off < 64 - bit ? end - off : 64 - bit;
		mask = (n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1) << bit;
		met |= bits[off / 64] & mask;
		bits[off / 64] |= mask;
	}
	return met;
}

uint64_t
races__merge(uint64_t *bits, const uint8_t *rec)
{
	const uint8_t *p = rec + 8;
	uint64_t met = 0;
	unsigned i, n;

	switch (get64(rec) & 15) {
	case REC_WHOLE:
		return bits_set(bits, 0, DSM_PAGE);
	case REC_BITMAP:
		for (i = 0; i < WORDS; i++) {
			uint64_t v = get64(p + 8 * (size_t)i);

			met |= bits[i] & v;
			bits[i] |= v;
		}
		return met;
	default:
		n = get16(p);
		for (i = 0, p += 2; i < n; i++, p += 4)
			met |= bits_set(bits, get16(p), get16(p + 2));
		return met;
	}
}

/* --- the tree --- */

/* Frees what hangs on a slot; returns how many pages in it were written. */
static uint64_t
slot_free(slot s, unsigned level)
{
	uint64_t n = 0;

	switch (slot_state(s)) {
	case EMPTY:
		return 0;
	case CHILD:
		assert(level > 0);
		for (unsigned i = 0; i < FAN; i++)
			n += slot_free(((struct node *)slot_ptr(s))->slot[i],
			               level - 1);
		free(slot_ptr(s));
		return n;
	case UNION:
		free(slot_ptr(s));
		return 1;
	default:
		return UINT64_C(1) << (FAN_BITS * level);
	}
}

static void
suspect(struct races *r, slot *s, unsigned level)
{
	slot_free(*s, level);
	*s = SUSPECT;
	r->suspect = 1;
}

static unsigned
slot_index(uint64_t page, unsigned level)
{
	return (page >> (FAN_BITS * level)) % FAN;
}

/* The child of a slot, made when it is empty. */
static struct node *
child_get(slot *s)
{
	struct node *child;

	if (slot_state(*s) == CHILD)
		return slot_ptr(*s);
	child = calloc(1, sizeof(*child));
	if (child != NULL)
		*s = slot_make(child, CHILD);
	return child;
}

/* *leaf_p: NULL when the page lies in a block that is a suspect (now). */
static int
leaf_find(struct races *r, uint64_t page, struct node **leaf_p)
{
	struct node *node = &r->root;

	if (page >> FAN_BITS == r->leaf_key) {
		*leaf_p = r->leaf;
		return DSM_OK;
	}
	for (unsigned level = TOP; level > 0; level--) {
		slot *s = &node->slot[slot_index(page, level)];

		if (slot_state(*s) == WHOLE || slot_state(*s) == SUSPECT) {
			suspect(r, s, level);
			*leaf_p = NULL;
			return DSM_OK;
		}
		node = child_get(s);
		if (node == NULL)
			return DSM_ENOMEM;
	}
	r->leaf_key = page >> FAN_BITS;
	r->leaf = node;
	*leaf_p = node;
	return DSM_OK;
}

static int
page_add(struct races *r, const struct record *rec)
{
	uint64_t *bits;
	struct node *leaf;
	int err = leaf_find(r, rec->page, &leaf);
	slot *s;

	if (err != DSM_OK || leaf == NULL)
		return err;
	s = &leaf->slot[rec->page % FAN];
	switch (slot_state(*s)) {
	case EMPTY:
		*s = slot_make(rec->bytes, ONE);
		r->n_pages++;
		return DSM_OK;
	case ONE:
		bits = calloc(WORDS, sizeof(*bits));
		if (bits == NULL)
			return DSM_ENOMEM;
		races__merge(bits, slot_ptr(*s));
		*s = slot_make(bits, UNION);
		/* fall through */
	case UNION:
		if (races__merge(slot_ptr(*s), rec->bytes) != 0)
			suspect(r, s, 0);
		return DSM_OK;
	default:
		suspect(r, s, 0);
		return DSM_OK;
	}
}

/* Every byte of pages [lo, hi), which lie in a node that begins at page base. */
static int
whole_add(struct races *r, struct node *node, unsigned level, uint64_t base,
          uint64_t lo, uint64_t hi)
{
	uint64_t span = UINT64_C(1) << (FAN_BITS * level);
	uint64_t i = lo <= base ? 0 : (lo - base) / span;

	for (; i < FAN && base + i * span < hi; i++) {
		uint64_t from = base + i * span, to = from + span;
		slot *s = &node->slot[i];
		struct node *child;

		if (lo <= from && to <= hi) {
			uint64_t had = slot_free(*s, level);

			r->suspect |= had != 0;
			*s = had == 0 ? WHOLE : SUSPECT;
			r->n_pages += span - had;
		} else if (slot_state(*s) == WHOLE ||
		           slot_state(*s) == SUSPECT) {
			suspect(r, s, level);
		} else {
			child = child_get(s);
			if (child == NULL ||
			    whole_add(r, child, level - 1, from,
			              lo > from ? lo : from,
			              hi < to ? hi : to) != DSM_OK)
				return DSM_ENOMEM;
		}
	}
	return DSM_OK;
}

static int
any_suspect(const struct node *node, unsigned level, uint64_t base, uint64_t lo,
            uint64_t hi)
{
	uint64_t span = UINT64_C(1) << (FAN_BITS * level);
	uint64_t i = lo <= base ? 0 : (lo - base) / span;

	for (; i < FAN && base + i * span < hi; i++) {
		slot s = node->slot[i];

		if (slot_state(s) == SUSPECT ||
		    (slot_state(s) == CHILD &&
		     any_suspect(slot_ptr(s), level - 1, base + i * span, lo,
		                 hi)))
			return 1;
	}
	return 0;
}

/* --- adding --- */

int
races_create(struct races **r_p)
{
	struct races *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return DSM_ENOMEM;
	r->leaf_key = UINT64_MAX;
	*r_p = r;
	return DSM_OK;
}

void
races_destroy(struct races *r)
{
	if (r == NULL)
		return;
	for (unsigned i = 0; i < FAN; i++)
		slot_free(r->root.slot[i], TOP);
	for (size_t i = 0; i < r->n_kept; i++)
		free(r->kept[i]);
	free(r->kept);
	free(r->parts);
	free(r);
}

int
races__grow(void **v, size_t *cap, size_t n, size_t size)
{
	size_t want = *cap != 0 ? *cap * 2 : 16;
	void *p;

	if (n < *cap)
		return DSM_OK;
	p = realloc(*v, want * size);
	if (p == NULL)
		return DSM_ENOMEM;
	*v = p;
	*cap = want;
	return DSM_OK;
}

int
races_keep(struct races *r, void *masks)
{
	int err = races__grow((void **)&r->kept, &r->cap_kept, r->n_kept,
	                      sizeof(*r->kept));

	if (err == DSM_OK)
		r->kept[r->n_kept++] = masks;
	return err;
}

int
races_add_kept(struct races *r, uint64_t task, const void *mask, size_t len)
{
	const uint8_t *p = mask, *end = p + len;
	struct record rec;
	int err = races__grow((void **)&r->parts, &r->cap_parts, r->n_parts,
	                      sizeof(*r->parts));

	if (err != DSM_OK)
		return err;
	r->parts[r->n_parts++] = (struct part){task, mask, len};
	while (p < end && err == DSM_OK) {
		p = record_read(p, &rec);
		if (rec.kind != REC_WHOLE) {
			err = page_add(r, &rec);
		} else {
			/* It may free the node we remember. */
			r->leaf_key = UINT64_MAX;
			err = whole_add(r, &r->root, TOP, 0, rec.page,
			                rec.page + rec.n);
		}
	}
	return err;
}

int
races_add(struct races *r, uint64_t task, const void *mask, size_t len)
{
	uint64_t n_bytes;
	void *copy;
	int err = dsm__mask_check(mask, len, &n_bytes);

	if (err != DSM_OK || len == 0)
		return err;
	copy = malloc(len);
	if (copy == NULL)
		return DSM_ENOMEM;
	memcpy(copy, mask, len);
	err = races_keep(r, copy);
	if (err != DSM_OK) {
		free(copy);
		return err;
	}
	return races_add_kept(r, task, copy, len);
}

uint64_t
races_pages(const struct races *r)
{
	return r->n_pages;
}

int
races__suspect(const struct races *r, uint64_t lo, uint64_t hi)
{
	return any_suspect(&r->root, TOP, 0, lo, hi);
}
