/* The task page's one object. */
#include "taskpage.h"

#include <stdio.h>
#include <stdio_ext.h>

#include "copied.h"
#include "dyntls.h"

/* In a task. Looking first keeps a task that printed nothing from writing to the
 * C library's data. */
static void
flush_output(void)
{
	if (__fpending(stdout) > 0)
		fflush(stdout);
	if (__fpending(stderr) > 0)
		fflush(stderr);
}

static void
end_task(void)
{
	flush_output();
	taskrt__copied_restore();
	taskrt__dyntls_restore();
}

/* Page-aligned and whole pages, so that no other object shares its pages. */
struct taskrt_task_page taskrt__task_page __attribute__((aligned(4096))) = {
    .at_end = end_task,
};
