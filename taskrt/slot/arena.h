/*
 * Where tasks allocate: addresses of the heap that the slot borrows from the
 * client (BORROW, LOAN) and hands on to its tasks, one after the other.
 *
 * A task asks for its first range, and for more, with a system call of its own
 * number (taskpage.h), so that one that allocates nothing costs nothing. When its
 * blocks are all dead at its end, nothing of the range is sent and the next task
 * begins at the same place; else it begins behind. The rest of a range that is too
 * short for a block is left: the client takes it back when the run has ended.
 */
#ifndef TASKRT_SLOT_ARENA_H
#define TASKRT_SLOT_ARENA_H

#include <stdint.h>

struct taskrt_task_page;

/* The task page of the tasks to come; NULL: none. */
void arena_set_page(struct taskrt_task_page *page);
/* Tasks cannot ask (no syscall user dispatch): they get a range unasked. */
void arena_unasked(void);
/* Before a task. 0, or -1: the link to the client is lost. */
int arena_begin(void);
/* A task wants `least` bytes in one piece. 1: the task page shows a range that
 * has them; 0: there is none; -1: the link is lost. */
int arena_borrow(uint64_t least);
/* After a task that has not failed: see to it that of the arena nothing is sent
 * that need not be. 0, or -1: the task has damaged the task page. */
int arena_settle(void);

#endif
