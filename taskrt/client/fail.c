/* taskrt_fail: the message goes to the slot through the task page. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "taskpage.h"
#include <taskrt/taskrt.h>

void
taskrt_fail(const char *message)
{
	char *to = taskrt__task_page.failure;
	const size_t cap = sizeof(taskrt__task_page.failure);

	if (message == NULL || message[0] == '\0')
		message = "taskrt_fail was called";
	if (!taskrt__in_task()) {
		fprintf(stderr, "taskrt_fail outside of a task: %s\n", message);
		abort();
	}
	/* What it printed is shown, as that of tasks that end well. */
	taskrt__task_page.at_end();
	size_t len = strnlen(message, cap - 1);
	for (size_t i = 0; i < len; i++)
		to[i] = message[i] == '\n' ? ' ' : message[i];
	to[len] = '\0';
	abort();
}
