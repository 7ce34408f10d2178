/* Launching a run: freeze the program's memory, describe it, send RUN. */
#include "run_priv.h"

#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/heap/heap.h"
#include "client.h"
#include "context.h"
#include "copied.h"
#include "dyntls.h"
#include "serveconn.h"
#include "taskpage.h"

/* Pages that changed outside the heap are sent along up to this; more are
 * dropped instead, and fetched by those who need them. */
#define UPDATES_MAX (UINT64_C(16) << 20)
#define LAUNCH_KEEP (UINT64_C(1) << 20)

/*
 * The program may change tasks[] as soon as taskrt_start has returned. In the
 * heap slots see it as it was; from anywhere else it is copied there.
 */
static int
keep_tasks(struct taskrt_run *run)
{
	size_t len =
	    (run->job.end - run->job.begin) * sizeof(struct taskrt_task);
	const void *tasks = (const void *)(uintptr_t)run->job.ctx;

	if (!run->job.async || run->job.mode != DSM_MODE_TASKS ||
	    dsm__heap_has(tasks))
		return DSM_OK;
	run->tasks = dsm_malloc(len);
	if (run->tasks == NULL)
		return DSM_ENOMEM;
	memcpy(run->tasks, tasks, len);
	run->job.ctx = (uintptr_t)run->tasks;
	return DSM_OK;
}

/* What RUN carries besides numbers; the message borrows it. */
struct taskrt__launch {
	struct dsm_extents drops, updates;
	struct dsm_wbuf pages, packed_ranges, packed_drops, packed_updates;
	struct dsm_wbuf packed_advice;
	uint32_t n_ranges, n_advice;
	uint64_t version;
};

static void
launch_fini(struct taskrt__launch *l)
{
	dsm__extents_fini(&l->drops);
	dsm__extents_fini(&l->updates);
	dsm__wbuf_fini(&l->pages);
	dsm__wbuf_fini(&l->packed_ranges);
	dsm__wbuf_fini(&l->packed_drops);
	dsm__wbuf_fini(&l->packed_updates);
	dsm__wbuf_fini(&l->packed_advice);
	*l = (struct taskrt__launch){0};
}

/* The session's, emptied: making its buffers anew at each launch takes longer than
 * filling them. NULL: no memory. */
static struct taskrt__launch *
launch_begin(struct taskrt__session *s)
{
	struct taskrt__launch *l = s->launch;

	if (l == NULL)
		return s->launch = calloc(1, sizeof(*l));
	l->drops.n = l->updates.n = 0;
	dsm__wbuf_reset(&l->pages);
	dsm__wbuf_reset(&l->packed_ranges);
	dsm__wbuf_reset(&l->packed_drops);
	dsm__wbuf_reset(&l->packed_updates);
	dsm__wbuf_reset(&l->packed_advice);
	l->n_ranges = l->n_advice = 0;
	l->version = 0;
	return l;
}

/* Large buffers are not kept. */
static void
launch_end(struct taskrt__launch *l)
{
	if (l->pages.cap > LAUNCH_KEEP || l->packed_drops.cap > LAUNCH_KEEP ||
	    l->packed_ranges.cap > LAUNCH_KEEP)
		launch_fini(l);
}

void
taskrt__launch_free(struct taskrt__launch *l)
{
	if (l != NULL)
		launch_fini(l);
	free(l);
}

/* Slots have the heap itself: none of its pages ever travels. */
static int
shares_heap(const struct taskrt__session *s)
{
	return s->config->coordinator[0] == '\0' &&
	       s->config->transport != TASKRT__TRANSPORT_TCP;
}

int
taskrt__launch_advice(struct taskrt__session *s, struct dsm_wbuf *w,
                      uint32_t *n_p)
{
	const struct dsm_advices *x = &s->heap->advice;
	int err = DSM_OK;

	*n_p = 0;
	if (shares_heap(s))
		return DSM_OK;
	for (size_t i = 0; i < x->n && err == DSM_OK; i++) {
		const struct dsm_rec_advice rec = {x->v[i].start, x->v[i].end,
		                                   x->v[i].kind};

		err = dsm__pack_advice(w, &rec);
	}
	*n_p = err == DSM_OK ? (uint32_t)x->n : 0; /* it was advice */
	return err;
}

/* Heap lock held: pages that will be needed travel with RUN. */
static void
push_advised(struct taskrt__session *s, struct taskrt__launch *l)
{
	const struct dsm_advices *x = &s->heap->advice;
	uint64_t used = s->heap->base + dsm__heap_used(s->heap);

	if (shares_heap(s))
		return;
	for (size_t i = 0; i < x->n; i++) {
		const struct dsm_advice *a = &x->v[i];
		uint64_t end = a->end < used ? a->end : used;

		if (a->kind == DSM_ADVICE_WILLNEED && a->start < end)
			dsm__server_push(s->server, a->start, end, UPDATES_MAX,
			                 &l->updates, &l->pages);
	}
}

/*
 * Freeze the program's memory as the tasks will see it. The drive lock keeps
 * the page server still meanwhile.
 */
static int
freeze(struct taskrt__session *s, struct taskrt_run *run,
       struct taskrt__launch *l, struct dsm_error *e)
{
	struct dsm_heap *h = s->heap;
	uint64_t n_folded = 0;
	int err = DSM_OK;

	if (s->sent_version == UINT64_MAX || dsm__map_stale(h->map)) {
		err = taskrt__session_refresh_map(s, e);
		if (err != DSM_OK)
			return err;
	}
	dsm__heap_lock(h);
	const struct dsm_freeze f = {
	    .used = dsm__heap_used(h),
	    .exclusive = run->exclusive,
	    .changed = &s->changed,
	    .n_folded = &n_folded,
	};
	err = dsm__views_freeze(h->views, &f, e);
	if (err == DSM_OK) {
		err = dsm__server_launch(s->server, &s->changed, &l->drops,
		                         &l->updates, &l->pages);
		if (err != DSM_OK)
			dsm__fail(
			    e, err,
			    "cannot find what changed since the last run: %s",
			    dsm__strerror(err));
	}
	if (err == DSM_OK) {
		push_advised(s, l);
		taskrt__launch_advice(s, &l->packed_advice, &l->n_advice);
		s->changed.n = 0;
		dsm__heap_run_begin(h);
		run->counters.pages_folded = n_folded;
	}
	dsm__heap_unlock(h);
	return err;
}

static int
pack_extents(const struct dsm_extents *x, struct dsm_wbuf *w, uint64_t *n_p)
{
	int err = DSM_OK;

	for (size_t i = 0; i < x->n && err == DSM_OK; i++) {
		const struct dsm_rec_extent rec = {
		    .start = x->v[i].start,
		    .n_pages = x->v[i].n_pages,
		};
		err = dsm__pack_extent(w, &rec);
		*n_p += x->v[i].n_pages;
	}
	return err;
}

static int
pack_launch(struct taskrt__session *s, struct taskrt_run *run,
            struct taskrt__launch *l)
{
	int err = DSM_OK;

	if (l->pages.len > UPDATES_MAX) {
		for (size_t i = 0; i < l->updates.n && err == DSM_OK; i++)
			err = dsm__extents_add(&l->drops, l->updates.v[i].start,
			                       l->updates.v[i].n_pages);
		l->updates.n = 0;
		dsm__wbuf_reset(&l->pages);
	}
	if (err == DSM_OK)
		err = pack_extents(&l->drops, &l->packed_drops,
		                   &run->counters.pages_dropped);
	if (err == DSM_OK)
		err = pack_extents(&l->updates, &l->packed_updates,
		                   &run->counters.pages_updated);
	if (err == DSM_OK)
		err = taskrt__session_pack_ranges(s, s->sent_version,
		                                  &l->packed_ranges,
		                                  &l->n_ranges, &l->version);
	return err;
}

static uint32_t
run_flags(const struct taskrt_options *opt, const struct taskrt__config *config)
{
	return (opt->keep_partial ? DSM_RUN_KEEP_PARTIAL : 0) |
	       (opt->fail_fast ? DSM_RUN_FAIL_FAST : 0) |
	       (opt->no_copies || !config->copies ? DSM_RUN_NO_COPIES : 0) |
	       (config->check_iterations ? DSM_RUN_ISOLATE : 0) |
	       (config->stat ? DSM_RUN_FETCHED : 0);
}

/* How long for a first worker; 0: the coordinator knows better. */
static uint32_t
run_wait(const struct taskrt__config *config)
{
	if (config->origin[TASKRT__SET_WAIT] == TASKRT__FROM_DEFAULT)
		return 0;
	return config->wait_ms > 0 ? (uint32_t)config->wait_ms : 1;
}

/* All of RUN that a run keeps. */
static void
describe(struct taskrt__session *s, struct taskrt_run *run,
         const struct taskrt_options *opt,
         const struct taskrt__context *context)
{
	run->m = (struct dsm_msg_run){
	    .mode = run->job.mode,
	    .flags = run_flags(opt, s->config),
	    .fn = run->job.fn,
	    .ctx = run->job.ctx,
	    .begin = run->job.begin,
	    .end = run->job.end,
	    .chunk = opt->chunk,
	    .max_slots = opt->max_slots,
	    .timeout_ms = opt->timeout_ms,
	    .retries = opt->retries,
	    .wait_ms = run_wait(s->config),
	    .mxcsr = context->mxcsr,
	    .fpucw = context->fpucw,
	    .tp = context->tp,
	    .tls_start = context->tls_start,
	    .tls_end = context->tls_end,
	    .out_start = context->out_start,
	    .out_end = context->out_end,
	    .task_page = (uintptr_t)&taskrt__task_page,
	    .stack_size = context->stack_size,
	    .name = dsm__str(run->name),
	};
}

int
taskrt__launch_send(struct taskrt_run *run, const struct dsm_msg_run *m,
                    struct dsm_error *e)
{
	struct dsm_wbuf w = {0};

	int err = dsm__encode_run(&w, m);
	if (err == DSM_OK && w.len > DSM_FRAME_MAX)
		err = DSM_ENOSPC;
	if (err != DSM_OK)
		dsm__fail(e, err,
		          "cannot describe the launch in a message of "
		          "%zu bytes: %s",
		          w.len, dsm__strerror(err));
	taskrt__session_send(run->session, DSM_MSG_RUN, &w, err);
	return err;
}

static int
send_run(struct taskrt__session *s, struct taskrt_run *run,
         struct taskrt__launch *l, struct dsm_error *e)
{
	struct dsm_msg_run m = run->m;

	m.session = s->id;
	m.run = run->id;
	m.ranges = (struct dsm_array){l->packed_ranges.ptr, l->n_ranges};
	m.drops = (struct dsm_array){l->packed_drops.ptr, (uint32_t)l->drops.n};
	m.updates =
	    (struct dsm_array){l->packed_updates.ptr, (uint32_t)l->updates.n};
	m.pages = (struct dsm_blob){l->pages.ptr, (uint32_t)l->pages.len};
	m.advice = (struct dsm_array){l->packed_advice.ptr, l->n_advice};
	if (l->version != s->sent_version)
		m.flags |= DSM_RUN_RANGES;
	int err = taskrt__launch_send(run, &m, e);
	s->sent_version = l->version;
	return err;
}

/* Drive lock held. */
static int
launch_locked(struct taskrt__session *s, struct taskrt_run *run,
              const struct taskrt_options *opt, struct dsm_error *e)
{
	struct taskrt__context context;
	struct taskrt__launch *l = launch_begin(s);

	if (l == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory for a launch");
	taskrt__context_capture(&context);
	taskrt__stagemap_trim(s);
	taskrt__copied_save();
	int err = taskrt__dyntls_save();
	if (err != DSM_OK)
		return dsm__fail(e, err,
		                 "out of memory for a copy of thread-local "
		                 "data");
	err = freeze(s, run, l, e);
	if (err != DSM_OK)
		goto fini_launch;
	err = pack_launch(s, run, l);
	if (err != DSM_OK) {
		dsm__fail(e, err, "cannot describe the launch: %s",
		          dsm__strerror(err));
		/* What was found to have changed is lost with it. */
		taskrt__session_lose(s, err, "%s", e->text);
		goto end_run;
	}
	run->id = ++s->last_run;
	s->run = run;
	run->session = s;
	run->counters.fold_ns = dsm__now() - run->launched;
	describe(s, run, opt, &context);
	err = send_run(s, run, l, e);
	if (err == DSM_OK)
		goto fini_launch;
	s->run = NULL;
	run->session = NULL;
end_run:
	dsm__heap_lock(s->heap);
	dsm__heap_run_end(s->heap);
	dsm__heap_unlock(s->heap);
fini_launch:
	launch_end(l);
	return err;
}

/* run_lock held; its drive lock afterwards. A session that is found to be lost here
 * makes place for another one, once. NULL: e says why. */
static struct taskrt__session *
take_session(struct taskrt__client *c, const struct taskrt_run *run,
             struct dsm_error *e)
{
	for (int again = 0;; again++) {
		struct taskrt__session *s;

		if (taskrt__client_session(c, &s, e) != DSM_OK)
			return NULL;
		/* A call that waits drives the loop itself: its launch wakes
		 * nobody. */
		if (!run->job.async)
			dsm__loop_enter(s->loop);
		dsm__loop_lock(s->loop);
		if (s->state != TASKRT__LOST)
			return s;
		dsm__fail(e, s->why.code, "%s", s->why.text);
		dsm__loop_unlock(s->loop);
		if (!run->job.async)
			dsm__loop_leave(s->loop);
		if (again)
			return NULL;
	}
}

/* run_lock held. */
static int
launch(struct taskrt__client *c, struct taskrt_run *run,
       const struct taskrt_options *opt, struct dsm_error *e)
{
	struct taskrt__session *s;

	if (keep_tasks(run) != DSM_OK)
		return dsm__fail(e, DSM_ENOMEM,
		                 "out of memory for a copy of the task array");
	s = take_session(c, run, e);
	if (s == NULL)
		return e->code;
	run->costs = c->sums->costs;
	c->sums->heap_shared = shares_heap(s);
	run->launched = dsm__now();
	taskrt__progress_start(&run->progress, run->launched);
	run->exclusive = taskrt__threads_exclusive(&c->threads);
	int err = launch_locked(s, run, opt, e);
	dsm__loop_unlock(s->loop);
	if (err == DSM_OK)
		c->run = run;
	else if (!run->job.async)
		dsm__loop_leave(s->loop);
	return err;
}

int
taskrt__run_launch(const struct taskrt__job *job,
                   const struct taskrt_options *opt, struct taskrt_run **run_p)
{
	static const struct taskrt_options defaults;
	struct taskrt__client *c = taskrt__client_default();
	struct dsm_error e = {0};
	int err = DSM_OK;

	if (taskrt__in_task())
		return taskrt__report_fail(
		    TASKRT_EINVAL,
		    "a task tried to launch tasks: nested runs are not "
		    "possible in this version");
	if (opt == NULL)
		opt = &defaults;
	struct taskrt_run *run = taskrt__run_new(job, opt);
	if (run == NULL)
		return taskrt__report_fail(TASKRT_ENOMEM,
		                           "out of memory for a run");
	pthread_mutex_lock(&c->run_lock);
	if (c->run != NULL)
		taskrt__run_finish(c);
	/* What the program has buffered must not be in the tasks' copies of the
	 * buffer too. */
	if (__fpending(stdout) > 0)
		fflush(stdout);
	if (job->begin == job->end)
		run->finished = 1;
	else
		err = launch(c, run, opt, &e);
	pthread_mutex_unlock(&c->run_lock);
	if (err != DSM_OK) {
		taskrt__run_free(run);
		return taskrt__report_error(&e);
	}
	*run_p = run;
	return TASKRT_OK;
}
