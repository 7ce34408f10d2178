/*
 * The heap as a task sees it: an arena of its own.
 *
 * A task runs in a copy of the client's memory. It must not touch the client's
 * allocator (two tasks that both call malloc would be a race), so each task has
 * a range of the heap to itself, handed out by dsm__alloc_reserve, and
 * allocates there with the same spans and page runs, single-threaded.
 *
 *   base                                       meta_low            end of range
 *   | spans, blocks, free runs -> top    <- descriptors, words | header | map |
 *
 * The arena's metadata lie at the end of its own range, so that they travel
 * with the blocks: after the commit dsm__alloc_adopt reads them there and
 * copies them into the client's. What only the running task needs (roots,
 * lists, deferred frees) is in the state buffer, which the caller provides in
 * memory of the task that is dropped at its end. Pointers in descriptors are
 * plain addresses: the range has the same address everywhere.
 *
 * A task that allocates nothing writes nothing to its arena. One whose blocks
 * are all dead again has no live page: nothing of the arena need be sent.
 *
 * Life of an arena: its range is reserved (client) - init, malloc/free, seal
 * (task) - commit - adopt (client). What was not adopted is given back with the
 * rest of the range. A seal of an earlier life may still lie in a range that is
 * used again: the stamp tells.
 *
 * Context: one thread at a time; no system calls, no locks, no thread-local
 * storage but errno; not in signal handlers.
 */
#ifndef DSM_HEAP_TASK_ARENA_H
#define DSM_HEAP_TASK_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/status.h"
#include "span.h"

struct dsm_task_arena;

#define DSM_TASK_STATE_MIN 2048u /* bytes of state; a page is good */
#define DSM_TASK_ARENA_MIN (UINT64_C(1) << 17) /* bytes of range */

/*
 * dsm__task_arena_init - an empty arena.
 *
 * state       state_len bytes, 64-aligned, need not be clear. What is left over
 *             holds deferred frees, 8 bytes each
 * base, size  the range: page aligned, writable; not touched before the first
 *             malloc
 * zeroed      the range reads as zero (dsm__alloc_reserve knows)
 * stamp       the seal shows it: whose range this is
 * Returns     DSM_OK; DSM_EINVAL: too small or misaligned
 * Owns        nothing but what it was given; there is no fini
 */
int dsm__task_arena_init(void *state, size_t state_len, void *base,
                         uint64_t size, bool zeroed, uint64_t stamp,
                         struct dsm_task_arena **ta_p);

/* As dsm_malloc and its family; NULL with errno when the arena is full. */
void *dsm__task_malloc(struct dsm_task_arena *ta, size_t size, void *ra);
void *dsm__task_calloc(struct dsm_task_arena *ta, size_t n, size_t elem_size,
                       void *ra);
void *dsm__task_aligned(struct dsm_task_arena *ta, size_t align, size_t size,
                        void *ra);

/*
 * As dsm_realloc. A block that is not of this arena is copied into it and its
 * free is deferred; foreign_usable is then its size (dsm__alloc_usable), else
 * not looked at.
 */
void *dsm__task_realloc(struct dsm_task_arena *ta, void *p, size_t size,
                        size_t foreign_usable, void *ra);

/* As dsm_free for blocks of the arena. Any other pointer is remembered: the
 * client checks and frees it at commit. NULL is nothing. */
void dsm__task_free(struct dsm_task_arena *ta, void *p);

/* Bytes that may be used of a block of the arena; 0: not in the arena. */
size_t dsm__task_usable(const struct dsm_task_arena *ta, const void *p);

/* Is the address in the arena's range? */
bool dsm__task_has(const struct dsm_task_arena *ta, const void *p);

/*
 * dsm__task_deferred - what was freed but belongs to the client.
 *
 * out         room for cap pointers, in the order of the frees; unchecked: one
 * may be there twice, or be no block at all Returns     how many there are,
 * perhaps more than cap
 */
size_t dsm__task_deferred(const struct dsm_task_arena *ta, void **out,
                          size_t cap);

/* Blocks alive; bytes from base that hold blocks; where metadata begin, bytes
 * from base. What lies between was never touched. */
void dsm__task_arena_bounds(const struct dsm_task_arena *ta, uint64_t *live_p,
                            uint64_t *used_p, uint64_t *meta_p);

/* At the end of a task, before its writes are looked for: note in the arena
 * what adopt needs. Returns the blocks that are alive; when 0, nothing was
 * noted. */
size_t dsm__task_arena_seal(struct dsm_task_arena *ta);

/*
 * Does the page of the arena that addr is in hold something that the client
 * needs, a live block's byte or metadata? Others need not be sent: their
 * contents are undefined for the client. Answers for the state at the time of
 * the call.
 */
bool dsm__task_page_live(const struct dsm_task_arena *ta, const void *addr);

/* ---- the client's side: reading a committed arena, as input ---- */

struct dsm_task_view {
	char *base;
	const dsm_slot_word *map;
	uint64_t stamp;
	uint64_t top; /* pages in use, from base */
	char *meta_low, *meta_end;
};

struct dsm_task_piece {
	enum dsm_span_kind kind; /* FREE, SMALL with a live slot, or LARGE */
	char *base;
	uint64_t n_pages;
	unsigned cls;               /* SMALL */
	const dsm_slot_word *words; /* SMALL: of the slots ever used */
	uint32_t n_words;
	uint64_t size, elem_size; /* LARGE */
	void *return_address;
};

/* Read a sealed arena's header. DSM_OK, or DSM_EPROTO: not one. */
int dsm__task_view_open(struct dsm_task_view *v, void *base, uint64_t len);

/* The piece that starts at a page: 1; 0: page is the end of the used part; -1:
 * malformed. Every number was checked. */
int dsm__task_view_piece(const struct dsm_task_view *v, uint64_t page,
                         struct dsm_task_piece *p);

#endif
