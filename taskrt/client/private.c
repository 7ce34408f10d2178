/* Memory that tasks must not see: a kind of range in the table (dsm/heap/map.h). */
#include <stdint.h>

#include "../../dsm/base/page.h"
#include "../../dsm/heap/heap.h"
#include "report.h"
#include "taskpage.h"

static int
keep(void *p, size_t len, int on, const char *call)
{
	uint64_t start = (uintptr_t)p, end;
	struct dsm_heap *h;

	if (taskrt__in_task())
		return taskrt__report_fail(TASKRT_EINVAL,
		                           "%s was called inside a task", call);
	if (p == NULL || len == 0 || ((start | len) & DSM_PAGE_MASK) != 0 ||
	    __builtin_add_overflow(start, len, &end))
		return taskrt__report_fail(
		    TASKRT_EINVAL,
		    "%s: %zu bytes at %p are not whole pages of %u bytes; "
		    "allocate them with aligned_alloc or mmap",
		    call, len, p, (unsigned)DSM_PAGE);
	h = dsm__heap_default();
	if (h == NULL)
		return taskrt__report_fail(TASKRT_ENOMEM, "%s",
		                           dsm__heap_error()->text);
	int err = dsm__map_keep(h->map, start, end, on);
	if (err == DSM_EINVAL)
		return taskrt__report_fail(
		    TASKRT_EINVAL,
		    "%s: %p is in the heap of dsm_malloc, which is for "
		    "sharing; use malloc or mmap",
		    call, p);
	if (err != DSM_OK)
		return taskrt__report_fail(TASKRT_ENOMEM,
		                           "%s: more than %u separate ranges",
		                           call, DSM_ADVICE_MAX);
	return TASKRT_OK;
}

int
taskrt_private(void *p, size_t len)
{
	return keep(p, len, 1, "taskrt_private");
}

int
taskrt_share(void *p, size_t len)
{
	return keep(p, len, 0, "taskrt_share");
}
