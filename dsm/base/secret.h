/*
 * Memory for secrets: tokens, keys, and whatever works on them.
 *
 * A client serves its own memory to its tasks, so what must not be seen there lies
 * in one region of address space that the client leaves out of its table of
 * ranges (dsm__secret_span). Core dumps leave it out, too.
 *
 * Blocks are wiped when they are freed. Code that works on secrets leaves copies
 * on its stack: dsm__secret_call runs it on a stack that lies in the region.
 *
 * Locks: one mutex for the blocks, one for the stack. The owner of the program's
 * fork handlers calls dsm__secret_before_fork and after_fork.
 */
#ifndef DSM_BASE_SECRET_H
#define DSM_BASE_SECRET_H

#include <stddef.h>
#include <stdint.h>

/* Reserve the region. 0, or -1 with errno; the others do it when needed. */
int dsm__secret_init(void);
/* Where it is; the same from dsm__secret_init to the end of the process. */
void dsm__secret_span(uint64_t *start_p, uint64_t *end_p);

/* As malloc and its family; NULL: out of memory. What alloc returns is zero. */
void *dsm__secret_alloc(size_t size);
void *dsm__secret_realloc(void *p, size_t size);
void dsm__secret_free(void *p); /* wipes; NULL is fine */

/* Overwrite, and do not be optimised away. */
void dsm__wipe(void *p, size_t len);
/* Equal? The time it takes does not depend on where they differ. */
int dsm__secret_equal(const void *a, const void *b, size_t len);

/*
 * Call fn(arg) on a stack in the region, which is wiped afterwards. From there it
 * is an ordinary call. fn must not block on anything but memory and locks. Where
 * the region cannot be had it is an ordinary call.
 */
void dsm__secret_call(void (*fn)(void *arg), void *arg);
/* The same, often and fast: nothing is wiped. */
void dsm__secret_run(void (*fn)(void *arg), void *arg);

/* Around fork(): the child's copy of the region is usable. */
void dsm__secret_before_fork(void);
void dsm__secret_after_fork(int in_child);

#endif
