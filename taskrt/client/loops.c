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

/* What the iterations of a foreach share; lies on the launching thread's stack. */
struct foreach {
	char *base;
	size_t size;
	void (*body)(void *elem, void *ctx);
	void *ctx;
};

/* In a task. */
static void
one_element(size_t i, void *arg)
{
	const struct foreach *f = arg;

	f->body(f->base + i * f->size, f->ctx);
}

int
taskrt_foreach(void *base, size_t n, size_t size,
               void (*body)(void *elem, void *ctx), void *ctx,
               const struct taskrt_options *opt)
{
	struct foreach f = {base, size, body, ctx};
	const struct taskrt__job job = {
	    .mode = DSM_MODE_FOR,
	    .fn = (uintptr_t)one_element,
	    .ctx = (uintptr_t)&f,
	    .end = n,
	};

	if (body == NULL)
		return taskrt__report_fail(TASKRT_EINVAL,
		                           "taskrt_foreach: body is NULL");
	if (size == 0)
		return taskrt__report_fail(
		    TASKRT_EINVAL,
		    "taskrt_foreach: size is 0; it is that of one element");
	if (base == NULL && n > 0)
		return taskrt__report_fail(
		    TASKRT_EINVAL, "taskrt_foreach: base is NULL but n is %zu",
		    n);
	if (n > SIZE_MAX / size)
		return taskrt__report_fail(
		    TASKRT_EINVAL,
		    "taskrt_foreach: %zu elements of %zu bytes are more than "
		    "fit into memory",
		    n, size);
	return taskrt__run_whole(&job, opt);
}
