/*
 * A span is a run of whole pages with one descriptor: a free run, one large
 * block, a reserved range, or the slots of one size class. Descriptors and
 * everything else the allocator knows lie away from the pages themselves.
 *
 * Slot words. Every slot of a small span has one 64-bit word of metadata:
 *
 *   live   bit 0: 1; bits 1-47: return address; bits 48-63: size and element
 *   free   bit 0: 0; bits 1-: index + 1 of the next free slot of the span, 0 at
 *          the end of the list, and 0 in slots that a thread cache holds
 *
 * so a free list never leaves a link in user memory, a second free is seen in
 * the word, and a race report finds who allocated a block. The 16 bits of size
 * and element: an 8-bit slack (slot size - size asked for) and an 8-bit code:
 * 1..127 the calloc element size, 0x80 + n: n elements, 0xa0 + h: no element
 * size and h is bits 8-11 of the slack, 0: neither.
 *
 * Descriptors are type-stable: never unmapped while their allocator lives, so a
 * stale pointer to one may be read and is then found out by its contents.
 */
#ifndef DSM_HEAP_SPAN_H
#define DSM_HEAP_SPAN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/page.h"
#include "sizeclass.h"

typedef _Atomic uint64_t dsm_slot_word;

enum dsm_span_kind {
	DSM_SPAN_NONE,  /* descriptor not in use; n_pages is 0 */
	DSM_SPAN_FREE,  /* in the tree of free runs */
	DSM_SPAN_BUSY,  /* just taken, or on its way back: no block yet or any
	                   more */
	DSM_SPAN_SMALL, /* slots of one class */
	DSM_SPAN_LARGE, /* one block */
	DSM_SPAN_RESERVED, /* a task arena */
};

#define DSM_LABEL_MAX 48u
struct dsm_label {
	struct dsm_label *next;
	char *block;
	char text[DSM_LABEL_MAX];
};

struct dsm_span {
	/* Const while the span holds a live block: read without a lock. */
	char *base;
	uint64_t start; /* page number in the region */
	uint64_t n_pages;
	dsm_slot_word *words; /* SMALL */
	uint32_t limit;       /* SMALL: bytes in slots, n_slots * slot_size */
	uint32_t reciprocal;  /* SMALL: 2^32 / slot_size, rounded up */
	uint16_t slot_size;   /* SMALL */
	uint8_t cls;          /* SMALL */
	uint8_t kind;         /* enum dsm_span_kind; page lock */
	uint8_t zeroed; /* pages (SMALL: slots from bump on) read as zero */
	struct dsm_label *_Atomic labels; /* page lock; NULL read without */

	/* SMALL: the class's lock. NONE: next links spare ones, page lock. */
	_Alignas(64) struct dsm_span *next;
	struct dsm_span *prev;
	uint16_t n_slots;
	uint16_t n_used;    /* slots handed out, to users or thread caches */
	uint16_t free_head; /* index + 1 of the first slot freed, 0: none */
	uint16_t bump;      /* slots from here on were never handed out */

	/* page lock */
	union {
		struct { /* FREE: treap by start, max_pages of the subtree */
			struct dsm_span *left, *right;
			uint64_t max_pages;
		};
		struct { /* LARGE; RESERVED: whose it is, in size */
			uint64_t size;
			uint64_t elem_size;
			void *return_address;
		};
	};
};

static inline bool
dsm__span_has(const struct dsm_span *s, uint64_t page)
{
	return page - s->start < s->n_pages;
}

static inline uint32_t
dsm__span_slots_of(unsigned cls)
{
	return (uint32_t)(dsm__class_pages(cls) * DSM_PAGE /
	                  dsm__class_size(cls));
}

/* Make a taken run of dsm__class_pages(cls) pages a span of free slots; words
 * has room for dsm__span_slots_of(cls) and need not be cleared. */
void dsm__span_small(struct dsm_span *s, unsigned cls, dsm_slot_word *words);

/* Index of the slot that starts at p; -1: p is no slot of this span. */
static inline int64_t
dsm__span_index(const struct dsm_span *s, const void *p)
{
	uint64_t off = (uint64_t)((const char *)p - s->base);

	if (off >= s->limit)
		return -1;

	/* Exact for off * slot_size < 2^32, and spans have at most 64 KiB. */
	uint64_t index = off * s->reciprocal >> 32;

	return index * s->slot_size == off ? (int64_t)index : -1;
}

/* Take a slot of a span that is not full; *fresh_p: it reads as zero. */
static inline uint32_t
dsm__slot_take(struct dsm_span *s, bool *fresh_p)
{
	uint32_t index;

	if (s->free_head != 0) {
		index = s->free_head - 1u;
		s->free_head =
		    (uint16_t)(atomic_load_explicit(&s->words[index],
		                                    memory_order_relaxed) >>
		               1);
		*fresh_p = false;
	} else {
		index = s->bump++;
		*fresh_p = s->zeroed;
	}
	atomic_store_explicit(&s->words[index], 0, memory_order_relaxed);
	s->n_used++;
	return index;
}

static inline void
dsm__slot_put(struct dsm_span *s, uint32_t index)
{
	atomic_store_explicit(&s->words[index], (uint64_t)s->free_head << 1,
	                      memory_order_relaxed);
	s->free_head = (uint16_t)(index + 1);
	s->n_used--;
}

static inline bool
dsm__span_full(const struct dsm_span *s)
{
	return s->n_used == s->n_slots;
}

/* Doubly linked list of spans with free slots. */
static inline void
dsm__span_link(struct dsm_span **head, struct dsm_span *s)
{
	s->prev = NULL;
	s->next = *head;
	if (*head != NULL)
		(*head)->prev = s;
	*head = s;
}

static inline void
dsm__span_unlink(struct dsm_span **head, struct dsm_span *s)
{
	if (s->prev != NULL)
		s->prev->next = s->next;
	else
		*head = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
}

#define DSM_WORD_LIVE UINT64_C(1)
#define DSM_WORD_RA_MASK ((UINT64_C(1) << 47) - 1)

/* Word of a live block whose slack is below 256 and that has no element. */
static inline uint64_t
dsm__word_plain(uint64_t slack, const void *return_address)
{
	return DSM_WORD_LIVE |
	       ((uint64_t)(uintptr_t)return_address & DSM_WORD_RA_MASK) << 1 |
	       slack << 48;
}

/* Word of any live block; elem_size 0: not an array, else it divides size. */
uint64_t dsm__word_make(uint64_t slot_size, uint64_t size, uint64_t elem_size,
                        const void *return_address);

static inline uint64_t
dsm__word_size(uint64_t word, uint64_t slot_size)
{
	uint64_t slack = word >> 48 & 0xff;
	uint64_t code = word >> 56;

	if (code >= 0xa0)
		slack |= (code & 0xf) << 8;
	return slot_size - slack;
}

/* 0 when the block is no array. */
uint64_t dsm__word_elem(uint64_t word, uint64_t slot_size);

static inline void *
dsm__word_return_address(uint64_t word)
{
	return (void *)(uintptr_t)(word >> 1 & DSM_WORD_RA_MASK);
}

/* One line "dsm: <what> 0x<p>" on stderr, then abort. Allocates nothing. */
_Noreturn void dsm__heap_die(const char *what, const void *p);

#endif
