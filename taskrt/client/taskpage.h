/* The client library's own task page: see taskrt/slot/taskpage.h. */
#ifndef TASKRT_CLIENT_TASKPAGE_H
#define TASKRT_CLIENT_TASKPAGE_H

#include "../slot/taskpage.h"

/* Written by slots only, in their private view; zero for ever in the client. */
extern struct taskrt_task_page taskrt__task_page;

/*
 * 1 in a task. Volatile: the slot changes it behind the compiler's back. On the
 * path of every malloc: keep it one load.
 */
static inline int
taskrt__in_task(void)
{
	return *(const volatile uint32_t *)&taskrt__task_page.in_task != 0;
}

#endif
