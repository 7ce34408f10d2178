/* Parallel loops: one run whose tasks are iterations. */
#include "run.h"

static int
loop(enum dsm_run_mode mode, size_t begin, size_t end, uintptr_t fn, void *ctx,
     const struct taskrt_options *opt)
{
	const char *call =
	    mode == DSM_MODE_FOR ? "taskrt_for" : "taskrt_for_range";
	const struct taskrt__job job = {
	    .mode = mode,
	    .fn = fn,
	    .ctx = (uintptr_t)ctx,
	    .begin = begin,
	    .end = end,
	};

	if (fn == 0)
		return taskrt__report_fail(TASKRT_EINVAL, "%s: body is NULL",
		                           call);
	if (begin > end)
		return taskrt__report_fail(
		    TASKRT_EINVAL, "%s: begin %zu is greater than end %zu",
		    call, begin, end);
	return taskrt__run_whole(&job, opt);
}

int
taskrt_for(size_t begin, size_t end, void (*body)(size_t i, void *ctx),
           void *ctx, const struct taskrt_options *opt)
{
	return loop(DSM_MODE_FOR, begin, end, (uintptr_t)body, ctx, opt);
}

int
taskrt_for_range(size_t begin, size_t end,
                 void (*body)(size_t lo, size_t hi, void *ctx), void *ctx,
                 const struct taskrt_options *opt)
{
	return loop(DSM_MODE_FOR_RANGE, begin, end, (uintptr_t)body, ctx, opt);
}
