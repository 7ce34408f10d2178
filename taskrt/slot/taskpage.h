/*
 * The task page: how code of libtaskrt knows that it runs inside a task.
 *
 * libtaskrt has one page-aligned object of this type in its data; its address
 * goes out with each RUN. In the client in_task is 0 for ever. The slot writes the
 * fields below into its private view before each task; the page belongs to a SYS
 * range, so nothing of it is ever committed.
 */
#ifndef TASKRT_SLOT_TASKPAGE_H
#define TASKRT_SLOT_TASKPAGE_H

#include <stdint.h>

struct taskrt_task_page {
	uint32_t in_task;     /* slot: 1 */
	uint32_t arena_ready; /* slot: 0; set by the task's first malloc */
	uint64_t arena_base;  /* slot: addresses for this task; another range */
	uint64_t arena_size;  /* after each TASKRT_CALL_BORROW */
	uint64_t arena_stamp;
	/* task, after each call of its allocator: blocks alive; bytes from
	 * arena_base that are in use */
	uint64_t arena_live;
	uint64_t arena_used; /* slot: 0 for a new range */
	/* client: called in the task when its function has returned: flushes
	 * what stdio has buffered */
	void (*at_end)(void);
	/* task: what taskrt_fail was told, before it aborts; "": nothing */
	char failure[512];
	uint8_t pad[4096 - 56 - 512];
	char out[4096]; /* client: stdout's buffer when it has none yet */
	uint8_t state[8 * 4096]; /* struct dsm_task_arena lives here */
};

/*
 * The one system call that only tasks know: a range of at least so many bytes
 * (first argument) for arenas. 0: the task page shows it; else -1. No kernel has
 * a call of that number.
 */
#define TASKRT_CALL_BORROW 0x54524b

_Static_assert(sizeof(struct taskrt_task_page) % 4096 == 0, "whole pages");

#endif
