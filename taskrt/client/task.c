/*
 * Allocation inside a task. All of this runs as client code in a slot, on the
 * task's copy of the program's memory: one thread, no system call but our own.
 *
 * The slot gives the task ranges of addresses, on demand (taskpage.h). They are
 * used as a chain of arenas (dsm/heap/task_arena.h), each much longer than the one
 * before, so that a task that allocates little takes little, and one that allocates
 * very much is no special case. Each arena has its metadata at its own end, so of
 * the last range only arena_used bytes at the front are taken, and the slot's next
 * task starts there.
 *
 * Nobody tells us when the task ends, so every arena is sealed after each change:
 * 64 bytes.
 *
 * The first block of the first arena is the root: it lists the blocks of the
 * program that the task has freed, for the commit (dsm/heap/heap.h).
 */
#include "task.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/page.h"
#include "../../dsm/heap/heap.h"
#include "../../dsm/heap/task_arena.h"
#include "malloc.h"
#include "taskpage.h"

#define ARENAS_MAX 8u
#define STATE_EACH (sizeof(((struct taskrt_task_page *)0)->state) / ARENAS_MAX)

_Static_assert(STATE_EACH >= DSM_TASK_STATE_MIN && STATE_EACH % 64 == 0,
               "each arena has room for its state");

/* In the task page's pad: dropped at the task's end, like all of the page. */
struct task_heap {
	uint32_t n;
	uint64_t blocks[ARENAS_MAX]; /* alive in each, the root included */
	uint64_t used;               /* of the range that the task page shows */
	struct dsm_task_arena *arenas[ARENAS_MAX];
	struct dsm_task_root *root;
	uint64_t list_cap; /* pointers that root->list has room for */
};

_Static_assert(sizeof(struct task_heap) <=
                   sizeof(((struct taskrt_task_page *)0)->pad),
               "fits into the pad");
_Static_assert(offsetof(struct taskrt_task_page, pad) % 8 == 0, "aligned");

static struct task_heap *
task_heap(void)
{
	return (struct task_heap *)(void *)taskrt__task_page.pad;
}

/* --- the chain --- */

/* After each change of arena i. */
static void
seal(struct task_heap *t, uint32_t i)
{
	uint64_t alive = 0;

	t->blocks[i] = dsm__task_arena_seal(t->arenas[i]);
	for (uint32_t k = 0; k < t->n; k++)
		alive += t->blocks[k];
	/* The root alone says nothing. */
	if (t->root != NULL && alive == 1 && t->root->n == 0)
		alive = 0;
	taskrt__task_page.arena_live = alive;
	taskrt__task_page.arena_used = t->used;
}

/* Is there a free range of len bytes, now or for the asking? */
static int
have_range(struct task_heap *t, uint64_t len)
{
	const struct taskrt_task_page *page = &taskrt__task_page;

	if (page->arena_size - t->used >= len)
		return 1;
	if (syscall(TASKRT_CALL_BORROW, len) != 0)
		return 0;
	t->used = 0;
	return 1;
}

/* A further arena with room for a block of `need` bytes; 1, or 0: no room. */
static int
grow(struct task_heap *t, uint64_t need)
{
	/* 128 KiB, 512 KiB … 32 MiB, 256 MiB, 2 GiB, 16 GiB. */
	static const uint8_t shift[ARENAS_MAX] = {17, 19, 21, 23,
	                                          25, 28, 31, 34};
	struct taskrt_task_page *page = &taskrt__task_page;
	uint64_t len;

	if (t->n == ARENAS_MAX || need > UINT64_C(1) << 47)
		return 0;
	len = UINT64_C(1) << shift[t->n];
	/* Its page map and descriptors come on top. */
	need = dsm__page_up(need + need / 128 + DSM_TASK_ARENA_MIN);
	len = len > need ? len : need;
	if (!have_range(t, len)) {
		len = need;
		if (!have_range(t, len))
			return 0;
	}
	if (dsm__task_arena_init(page->state + t->n * STATE_EACH, STATE_EACH,
	                         /* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	                         (void *)(page->arena_base + t->used), len,
	                         false, page->arena_stamp,
	                         &t->arenas[t->n]) != DSM_OK)
		return 0;
	t->blocks[t->n++] = 0;
	t->used += len;
	return 1;
}

static void
start(struct task_heap *t)
{
	*t = (struct task_heap){0};
	taskrt__task_page.arena_ready = 1;
	if (!grow(t, 0))
		return;
	t->root = dsm__task_malloc(t->arenas[0], sizeof(*t->root), NULL);
	if (t->root != NULL)
		*t->root = (struct dsm_task_root){.magic = DSM_TASK_ROOT_MAGIC};
	seal(t, 0);
}

static struct task_heap *
ready(void)
{
	struct task_heap *t = task_heap();

	if (!taskrt__task_page.arena_ready)
		start(t);
	return t;
}

/* Index of the arena that p is in, t->n: in none. */
static uint32_t
arena_of(const struct task_heap *t, const void *p)
{
	uint32_t i;

	for (i = 0; i < t->n; i++)
		if (dsm__task_has(t->arenas[i], p))
			break;
	return i;
}

/* --- allocating --- */

struct request {
	enum { PLAIN, ARRAY, ALIGNED } how;
	size_t a, b; /* size; n, element size; alignment, size */
	void *ra;
};

static void *
try(struct dsm_task_arena *arena, const struct request *r)
{
	switch (r->how) {
	case ARRAY:
		return dsm__task_calloc(arena, r->a, r->b, r->ra);
	case ALIGNED:
		return dsm__task_aligned(arena, r->a, r->b, r->ra);
	case PLAIN:
		break;
	}
	return dsm__task_malloc(arena, r->a, r->ra);
}

/* From the newest arena, else from a new one. */
static void *
allocate(const struct request *r, uint64_t need)
{
	struct task_heap *t = ready();

	for (;;) {
		void *p = t->n > 0 ? try(t->arenas[t->n - 1], r) : NULL;

		if (p != NULL) {
			seal(t, t->n - 1);
			return p;
		}
		if ((t->n > 0 && errno != ENOMEM) || !grow(t, need)) {
			if (t->n == 0)
				errno = ENOMEM;
			return NULL;
		}
	}
}

void *
taskrt__task_malloc(size_t size, void *ra)
{
	const struct request r = {PLAIN, size, 0, ra};

	return allocate(&r, size);
}

void *
taskrt__task_calloc(size_t n, size_t elem_size, void *ra)
{
	const struct request r = {ARRAY, n, elem_size, ra};
	size_t size;

	if (__builtin_mul_overflow(n, elem_size, &size)) {
		errno = ENOMEM;
		return NULL;
	}
	return allocate(&r, size);
}

void *
taskrt__task_aligned(size_t align, size_t size, void *ra)
{
	const struct request r = {ALIGNED, align, size, ra};
	size_t need;

	if (__builtin_add_overflow(align, size, &need))
		need = SIZE_MAX / 2;
	return allocate(&r, need);
}

size_t
taskrt__task_usable(void *p)
{
	struct task_heap *t = ready();
	uint32_t i = arena_of(t, p);

	if (p == NULL)
		return 0;
	if (i < t->n)
		return dsm__task_usable(t->arenas[i], p);
	return dsm__heap_has(p) ? dsm__heap_usable(p)
	                        : taskrt__malloc_usable(p);
}

void *
taskrt__task_resize(void *p, size_t size, void *ra, int quiet)
{
	if (p == NULL)
		return taskrt__task_malloc(size, ra);
	if (size == 0) {
		taskrt__task_drop(p, quiet);
		return NULL;
	}
	size_t old = taskrt__task_usable(p);
	if (size <= old && size >= old / 2)
		return p;
	void *q = taskrt__task_malloc(size, ra);
	if (q == NULL)
		return NULL;
	memcpy(q, p, old < size ? old : size);
	taskrt__task_drop(p, quiet);
	return q;
}

void *
taskrt__task_realloc(void *p, size_t size, void *ra)
{
	return taskrt__task_resize(p, size, ra, 0);
}

/* --- freeing what the program allocated --- */

/* Room for one more pointer in the root's list: 1, or 0. */
static int
list_grow(struct task_heap *t)
{
	uint64_t cap = t->list_cap == 0 ? 32 : 2 * t->list_cap;

	if (t->root->n < t->list_cap)
		return 1;
	/* free_deferred looks for the list in the root's own arena. */
	void **list =
	    dsm__task_malloc(t->arenas[0], cap * sizeof(void *), NULL);
	if (list == NULL)
		return 0;
	if (t->root->n > 0)
		memcpy(list, t->root->list, t->root->n * sizeof(void *));
	dsm__task_free(t->arenas[0], t->root->list);
	t->root->list = list;
	t->list_cap = cap;
	return 1;
}

void
taskrt__task_drop(void *p, int quiet)
{
	int saved = errno;

	if (p == NULL)
		return;
	struct task_heap *t = ready();
	uint32_t i = arena_of(t, p);
	if (i < t->n) {
		dsm__task_free(t->arenas[i], p);
		seal(t, i);
	} else if ((!quiet || dsm__heap_has(p)) && t->root != NULL &&
	           list_grow(t)) {
		t->root->list[t->root->n++] = p;
		seal(t, 0);
	} /* else it is not freed: a leak is better than a failed task */
	errno = saved;
}

void
taskrt__task_free(void *p)
{
	taskrt__task_drop(p, 0);
}
