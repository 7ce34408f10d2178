/* Inside a task: its part of the heap's arena area. */
#ifndef TASKRT_CLIENT_TASK_H
#define TASKRT_CLIENT_TASK_H

#include <stddef.h>

/* As malloc and its family; NULL with ENOMEM when the arena is full. free: of any
 * block; what the task did not allocate is freed at the commit. */
void *taskrt__task_malloc(size_t size, void *ra);
void *taskrt__task_calloc(size_t n, size_t elem_size, void *ra);
void *taskrt__task_realloc(void *p, size_t size, void *ra);
void *taskrt__task_aligned(size_t align, size_t size, void *ra);
void taskrt__task_free(void *p);
size_t taskrt__task_usable(void *p);
/* free and realloc; quiet: a block of the program is not freed at the commit. */
void taskrt__task_drop(void *p, int quiet);
void *taskrt__task_resize(void *p, size_t size, void *ra, int quiet);

#endif
