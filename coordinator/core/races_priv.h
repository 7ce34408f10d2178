/* What races.c (the tree, adding) and races_sweep.c (pairs and ranges) share. */
#ifndef COORDINATOR_CORE_RACES_PRIV_H
#define COORDINATOR_CORE_RACES_PRIV_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "races.h"

#define WORDS 64 /* of a page's bitmap */
#define FAN_BITS 6
#define FAN (1u << FAN_BITS)
#define TOP 5 /* level of the root */

enum { EMPTY, WHOLE, SUSPECT, CHILD, ONE, UNION };
enum { REC_WHOLE, REC_BITMAP, REC_RUNS };

/* A slot is a pointer << 3 | state: records are not aligned. */
typedef uint64_t slot;

struct node {
	slot slot[FAN];
};

struct part {
	uint64_t task;
	const uint8_t *mask;
	size_t len;
};

struct races {
	struct node root;
	struct node *leaf; /* last one used, of pages leaf_key << FAN_BITS */
	uint64_t leaf_key;
	struct part *parts; /* everything added */
	size_t n_parts, cap_parts;
	void **kept; /* memory behind the parts */
	size_t n_kept, cap_kept;
	uint64_t n_pages;
	int suspect; /* any slot is */
};

static inline slot
slot_make(const void *p, unsigned state)
{
	return (uint64_t)(uintptr_t)p << 3 | state;
}

static inline unsigned
slot_state(slot s)
{
	return s & 7;
}

static inline void *
slot_ptr(slot s)
{
	return (void *)(uintptr_t)(s >> 3);
}

struct record {
	uint64_t page, n; /* pages covered */
	unsigned kind;
	const uint8_t *bytes; /* where it begins */
};

static inline uint16_t
get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static inline uint64_t
get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* Read the record at p, which the mask check has passed; returns its end. */
static inline const uint8_t *
record_read(const uint8_t *p, struct record *rec)
{
	uint64_t head = get64(p);
	uint32_t n;

	rec->page = head >> 4;
	rec->kind = head & 15;
	rec->n = 1;
	rec->bytes = p;
	p += 8;
	switch (rec->kind) {
	case REC_WHOLE:
		memcpy(&n, p, sizeof(n));
		rec->n = le32toh(n);
		return p + 4;
	case REC_BITMAP:
		return p + WORDS * 8;
	default:
		return p + 2 + 4 * (size_t)get16(p);
	}
}

/* Or a page's record into bits; non-zero when they had a byte in common. */
uint64_t races__merge(uint64_t *bits, const uint8_t *rec);
/* Is a slot of pages [lo, hi) SUSPECT? */
int races__suspect(const struct races *r, uint64_t lo, uint64_t hi);
/* Room for one more of n in *v, which has *cap. */
int races__grow(void **v, size_t *cap, size_t n, size_t size);

#endif
