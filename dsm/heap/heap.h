/*
 * The process's default heap: what dsm_malloc and its family work on. The one
 * implicit context of libdsm; made by the first call that needs it.
 *
 *   base                          3/4                       size
 *   | user allocations (alloc)     | task arenas              |
 *
 * Slots borrow ranges of the arena area (dsm__heap_lend), for the arenas of their
 * tasks; what is alive in one after a commit is taken over by dsm__heap_adopt. The
 * program frees it like any block, and its pages can be lent again.
 *
 * Locks: dsm__heap_lock excludes freeze, commit, release of freed pages and
 * fork() from each other. Rank: above the allocator's locks, below the drive lock
 * of a session. Allocation takes no lock of this file.
 */
#ifndef DSM_HEAP_HEAP_H
#define DSM_HEAP_HEAP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/status.h"
#include "advice.h"
#include "alloc.h"
#include "map.h"
#include "task_arena.h"
#include "views.h"

/* A range of the arena area that a slot uses. */
struct dsm_loan {
	uint64_t base, len;
	uint64_t stamp; /* never used twice in a process */
	int ended;      /* the slot takes no more of it; its tasks may be in the
	                 * run in flight */
};

struct dsm_heap {
	struct dsm_views *views;  /* const after create, as the next five */
	struct dsm_alloc *alloc;  /* of [base, base + user_size) */
	struct dsm_alloc *arenas; /* of the rest: of blocks that came back */
	struct dsm_map *map;      /* this process's address space */
	uint64_t base, size;
	uint64_t user_size;

	pthread_mutex_t lock;
	unsigned n_runs; /* lock: in flight; freed pages are kept meanwhile */
	struct dsm_advices advice; /* lock */

	pthread_mutex_t loan_lock;
	struct dsm_loan *loans; /* loan_lock; by stamp */
	size_t n_loans, cap_loans;
	uint64_t last_stamp;
	_Atomic int lost; /* some blocks of tasks cannot be freed */
};

/*
 * The default heap, made on the first call. NULL when that fails: errno is set,
 * and dsm__heap_error() says why. In a child after fork() it is the child's.
 */
struct dsm_heap *dsm__heap_default(void);
/* The same without making it: NULL when nobody needed it yet. */
struct dsm_heap *dsm__heap_peek(void);
const struct dsm_error *dsm__heap_error(void);
/* Size of the default heap, before it is made. DSM_EINVAL: too late. */
int dsm__heap_set_size(uint64_t size);

/* 1 when p lies in the default heap. Cheap: on the path of every free(). */
int dsm__heap_has(const void *p);

void dsm__heap_lock(struct dsm_heap *h);
/* DSM_ETIMEDOUT: somebody else had it all the time. */
int dsm__heap_lock_within(struct dsm_heap *h, unsigned ms);
void dsm__heap_unlock(struct dsm_heap *h);
/* Under the lock: a run is launched, and has ended. A launch takes back what was
 * lent to slots that are gone. */
void dsm__heap_run_begin(struct dsm_heap *h);
void dsm__heap_run_end(struct dsm_heap *h);
/* Under the lock: bytes from base that a freeze must look at. */
uint64_t dsm__heap_used(struct dsm_heap *h);

/*
 * Lend a range of the arena area: `want` bytes, or less when there is no such
 * room, but at least `least`. DSM_ENOMEM: there is not. The borrower is the only
 * one to write there, in tasks.
 */
int dsm__heap_lend(struct dsm_heap *h, uint64_t least, uint64_t want,
                   struct dsm_loan *loan_p);
/* The borrower is gone, or has got another range. 0 is none. */
void dsm__heap_lend_end(struct dsm_heap *h, uint64_t stamp);

/*
 * After a commit, under the lock: take over the task arenas among the pages that
 * it changed. What makes no sense there (it comes from another machine) is left
 * alone: its memory stays, its blocks cannot be freed. DSM_ENOMEM: the same.
 */
int dsm__heap_adopt(struct dsm_heap *h, const struct dsm_extents *changed);

/* Bytes that may be used of a live block of the default heap. Also in tasks, on
 * the program's blocks. */
size_t dsm__heap_usable(const void *p);

/*
 * Inside a task the family works on the task's arena. libtaskrt says how to tell:
 * *in_task is not 0 in a task (read behind the compiler's back), and then these
 * are called instead. libdsm alone has no tasks.
 */
struct dsm_task_ops {
	void *(*malloc)(size_t size, void *ra);
	void *(*calloc)(size_t n, size_t elem_size, void *ra);
	void *(*realloc)(void *p, size_t size, void *ra);
	void *(*aligned)(size_t align, size_t size, void *ra);
	void (*free)(void *p);
};
void dsm__heap_set_task(const volatile uint32_t *in_task,
                        const struct dsm_task_ops *ops);

/*
 * What a task leaves for the commit, in the first block of its first arena: the
 * blocks of the program that it freed. Input, like all that a task sends.
 */
#define DSM_TASK_ROOT_MAGIC UINT64_C(0x746f6f72206d7364)
struct dsm_task_root {
	uint64_t magic;
	uint64_t n; /* pointers at list */
	void **list;
	uint64_t zero;
};

/* The live block that addr is in: 1, else 0. For reports; any thread. */
int dsm__heap_find(const void *addr, struct dsm_alloc_info *info_p);

#endif
