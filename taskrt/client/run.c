/* Runs: launch, verdict, commit, report. */
#include "run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/log.h"
#include "../../dsm/heap/heap.h"
#include "../../dsm/heap/selfmem.h"
#include "checklog.h"
#include "client.h"
#include "context.h"
#include "copied.h"
#include "dyntls.h"
#include "serveconn.h"
#include "debuginfo.h"
#include "taskpage.h"

/* Pages that changed outside the heap are sent along up to this; more are
 * dropped instead, and fetched by those who need them. */
#define UPDATES_MAX (UINT64_C(16) << 20)
#define CLIENT_RACES_MAX 16
#define LAUNCH_KEEP (UINT64_C(1) << 20)
/* A run that staged so much has its staging files looked through. */
#define SHRINK_BYTES (UINT64_C(64) << 20)

/* --- launch --- */

static void
free_run(struct taskrt_run *run)
{
	if (run->stage != NULL)
		dsm__stage_destroy(run->stage);
	dsm__wbuf_fini(&run->verdict);
	taskrt__report_free(run->report);
	dsm_free(run->tasks);
	free(run->name);
	free(run);
}

static struct taskrt_run *
new_run(const struct taskrt__job *job, const struct taskrt_options *opt)
{
	struct taskrt_run *run = calloc(1, sizeof(*run));
	const char *name = opt->name != NULL ? opt->name : "";

	if (run == NULL)
		return NULL;
	run->job = *job;
	run->keep_partial = opt->keep_partial != 0;
	run->name = strdup(name);
	if (run->name == NULL || dsm__stage_create(&run->stage) != DSM_OK) {
		free(run->name);
		free(run);
		return NULL;
	}
	return run;
}

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

/* Heap lock held. */
static int
follow_advice(struct taskrt__session *s, struct taskrt__launch *l)
{
	const struct dsm_advices *x = &s->heap->advice;
	uint64_t used = s->heap->base + dsm__heap_used(s->heap);
	int err = DSM_OK;

	if (shares_heap(s))
		return DSM_OK;
	for (size_t i = 0; i < x->n && err == DSM_OK; i++) {
		const struct dsm_advice *a = &x->v[i];
		const struct dsm_rec_advice rec = {a->start, a->end, a->kind};
		uint64_t end = a->end < used ? a->end : used;

		if (a->kind == DSM_ADVICE_WILLNEED && a->start < end)
			dsm__server_push(s->server, a->start, end, UPDATES_MAX,
			                 &l->updates, &l->pages);
		err = dsm__pack_advice(&l->packed_advice, &rec);
		l->n_advice++;
	}
	return err;
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
	if (err == DSM_OK && follow_advice(s, l) != DSM_OK)
		l->n_advice = 0; /* it was advice */
	if (err == DSM_OK) {
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

static int
send_run(struct taskrt__session *s, struct taskrt_run *run,
         struct taskrt__launch *l, const struct taskrt_options *opt,
         const struct taskrt__context *context, struct dsm_error *e)
{
	struct dsm_msg_run m = {
	    .session = s->id,
	    .run = run->id,
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
	    .ranges = {l->packed_ranges.ptr, l->n_ranges},
	    .drops = {l->packed_drops.ptr, (uint32_t)l->drops.n},
	    .updates = {l->packed_updates.ptr, (uint32_t)l->updates.n},
	    .pages = {l->pages.ptr, (uint32_t)l->pages.len},
	    .advice = {l->packed_advice.ptr, l->n_advice},
	};
	struct dsm_wbuf w = {0};

	if (l->version != s->sent_version)
		m.flags |= DSM_RUN_RANGES;
	int err = dsm__encode_run(&w, &m);
	if (err == DSM_OK && w.len > DSM_FRAME_MAX)
		err = DSM_ENOSPC;
	if (err != DSM_OK)
		dsm__fail(e, err,
		          "cannot describe the launch in a message of "
		          "%zu bytes: %s",
		          w.len, dsm__strerror(err));
	taskrt__session_send(s, DSM_MSG_RUN, &w, err);
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
	err = send_run(s, run, l, opt, &context, e);
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

/* run_lock held. */
static int
launch(struct taskrt__client *c, struct taskrt_run *run,
       const struct taskrt_options *opt, struct dsm_error *e)
{
	struct taskrt__session *s;
	int err = taskrt__client_session(c, &s, e);

	if (err != DSM_OK)
		return err;
	if (keep_tasks(run) != DSM_OK)
		return dsm__fail(e, DSM_ENOMEM,
		                 "out of memory for a copy of the task array");
	run->costs = c->sums->costs;
	c->sums->heap_shared = shares_heap(s);
	run->launched = dsm__now();
	taskrt__progress_start(&run->progress, run->launched);
	run->exclusive = taskrt__threads_exclusive(&c->threads);
	/* A call that waits drives the loop itself: its launch wakes nobody. */
	if (!run->job.async)
		dsm__loop_enter(s->loop);
	dsm__loop_lock(s->loop);
	if (s->state == TASKRT__LOST)
		err = dsm__fail(e, s->why.code, "%s", s->why.text);
	else
		err = launch_locked(s, run, opt, e);
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
	struct taskrt_run *run = new_run(job, opt);
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
		free_run(run);
		return taskrt__report_error(&e);
	}
	*run_p = run;
	return TASKRT_OK;
}

/* --- from the session --- */

static void
end(struct taskrt_run *run)
{
	run->over = 1;
	if (run->session->run == run)
		run->session->run = NULL;
	taskrt__progress_end(&run->progress);
	dsm__loop_kick(run->session->loop);
}

int
taskrt__run_verdict(struct taskrt_run *run, const uint8_t *body, uint32_t len)
{
	int err = dsm__wbuf_put(&run->verdict, body, len);

	if (err == DSM_OK)
		end(run);
	return err;
}

void
taskrt__run_end(struct taskrt_run *run, const struct dsm_error *why)
{
	run->lost = *why;
	end(run);
}

void
taskrt__run_progress(struct taskrt_run *run, const struct dsm_msg_progress *m)
{
	taskrt__progress_show(&run->progress, run->name, m->done, m->total,
	                      m->slots);
}

void
taskrt__run_fetched(struct taskrt_run *run, const struct dsm_array *places)
{
	if (run->costs != NULL)
		taskrt__costs_fetched(run->costs, places);
}

int
taskrt__run_writes(struct taskrt_run *run, const struct dsm_msg_writes *m,
                   const uint8_t *staged)
{
	int last = (m->flags & DSM_WRITES_LAST) != 0;
	int err;

	if (staged != NULL)
		err = dsm__stage_add_borrowed(run->stage, m->attempt, m->part,
		                              last, staged, m->staged_len);
	else
		err = dsm__stage_add(run->stage, m->attempt, m->part, last,
		                     m->packed.ptr, m->packed.len);
	if (err == DSM_OK && m->marks.n > 0)
		err = dsm__stage_marks(run->stage, m->attempt, &m->marks);
	if (err != DSM_OK || !last)
		return err;
	const struct dsm_msg_stored stored = {
	    .run = m->run,
	    .attempt = m->attempt,
	};
	struct dsm_wbuf w = {0};
	err = dsm__encode_stored(&w, &stored);
	taskrt__session_send(run->session, DSM_MSG_STORED, &w, err);
	return DSM_OK;
}

/* --- the end --- */

_Static_assert(DSM_NO_TASK == TASKRT_CLIENT, "a task that is not known");

/* What finish works on. */
struct outcome {
	struct dsm_error error; /* code 0: all is well */
	struct dsm_msg_verdict verdict;
	struct taskrt_race client_races[CLIENT_RACES_MAX];
	size_t n_client_races;
};

/* Of all that were accepted: the stage knows those that wrote, and minds one that
 * is not whole. */
static int
accepted_ids(const struct dsm_array *accepted, uint64_t **ids_p, size_t *n_p)
{
	uint64_t *ids = malloc(((size_t)accepted->n + 1) * sizeof(*ids));

	if (ids == NULL)
		return DSM_ENOMEM;
	for (uint32_t i = 0; i < accepted->n; i++) {
		struct dsm_rec_attempt rec;
		int err = dsm__unpack_attempt(accepted, i, &rec);

		if (err != DSM_OK) {
			free(ids);
			return err;
		}
		ids[i] = rec.id;
	}
	*ids_p = ids;
	*n_p = accepted->n;
	return DSM_OK;
}

static void
note_client_races(struct outcome *o, const struct dsm_client_race *races,
                  size_t n)
{
	if (n > CLIENT_RACES_MAX)
		n = CLIENT_RACES_MAX;
	for (size_t i = 0; i < n; i++)
		o->client_races[i] = (struct taskrt_race){
		    .task_a = races[i].task,
		    .task_b = TASKRT_CLIENT,
		    .addr = (void *)(uintptr_t)races[i].addr,
		    .len = races[i].len,
		};
	o->n_client_races = n;
	o->error.code = DSM_ERACE;
	o->error.text[0] = '\0'; /* the report makes one of the races */
}

/* Nobody but us can have written when nobody else runs. */
static int
program_ran_on(const struct taskrt_run *run)
{
	return run->job.async || !run->exclusive;
}

static const uint8_t *
served_page(void *server, uint64_t addr)
{
	return dsm__server_copy(server, addr);
}

/* Drive lock held: did the program write outside the heap where tasks did? The page
 * server knows what they were given. */
static void
look_outside(struct taskrt_run *run, struct outcome *o)
{
	struct taskrt__session *s = run->session;
	const struct dsm_served served = {served_page, s->server};
	struct dsm_client_race races[CLIENT_RACES_MAX];
	size_t n, n_races;
	uint64_t *ids;

	if (accepted_ids(&o->verdict.accepted, &ids, &n) != DSM_OK)
		return; /* commit meets it again */
	dsm__stage_outside(run->stage, s->heap->map, s->heap->views, ids, n,
	                   &served, races, CLIENT_RACES_MAX, &n_races);
	free(ids);
	if (n_races > 0)
		note_client_races(o, races, n_races);
}

/* Heap lock held. */
static int
apply(struct taskrt_run *run, struct outcome *o, const uint64_t *ids, size_t n,
      struct dsm_error *e)
{
	struct taskrt__session *s = run->session;
	struct dsm_client_race races[CLIENT_RACES_MAX];
	size_t n_races = 0;
	struct dsm_extents changed = {0};
	struct dsm_commit_stats stats = {0};
	int look = program_ran_on(run);

	int err =
	    dsm__stage_commit(run->stage, s->heap->map, s->heap->views, ids, n,
	                      look ? races : NULL, look ? CLIENT_RACES_MAX : 0,
	                      &n_races, &changed, &stats, e);
	if (err == DSM_ERACE)
		note_client_races(o, races, n_races);
	else if (err == DSM_OK && dsm__heap_adopt(s->heap, &changed) != DSM_OK)
		log_warn("out of memory: blocks that tasks allocated cannot be "
		         "freed");
	/* Also after a failure: too many dropped pages do no harm. */
	for (size_t i = 0; i < changed.n; i++)
		if (dsm__extents_push(&s->changed, changed.v[i].start,
		                      changed.v[i].n_pages) != DSM_OK)
			taskrt__session_lose(s, DSM_ENOMEM, "out of memory");
	dsm__extents_normalise(&s->changed);
	dsm__extents_fini(&changed);
	return err;
}

static void
commit(struct taskrt_run *run, struct outcome *o)
{
	uint64_t started = dsm__now();
	struct dsm_error e = {0};
	uint64_t *ids;
	size_t n;

	int err = accepted_ids(&o->verdict.accepted, &ids, &n);
	if (err == DSM_OK) {
		if (n > 0)
			err = apply(run, o, ids, n, &e);
		run->counters.commit_ns = dsm__now() - started;
		if (err == DSM_OK && run->costs != NULL)
			dsm__stage_each(run->stage, ids, n,
			                taskrt__costs_written, run->costs);
		free(ids);
	}
	if (err != DSM_OK && err != DSM_ERACE)
		dsm__fail(&o->error, err, "nothing was committed: %s",
		          e.text[0] != '\0' ? e.text : dsm__strerror(err));
}

/* The verdict's text; when workers are missing, with the place they are missing
 * at. */
static void
name_coordinator(struct outcome *o, const struct taskrt__config *config,
                 struct dsm_str text)
{
	size_t used = 0;

	if (o->error.code == DSM_ECONN && text.len > 0 &&
	    config->coordinator[0] != '\0')
		used = (size_t)snprintf(
		    o->error.text, sizeof(o->error.text),
		    "coordinator %.200s: ", config->coordinator);
	dsm__str_copy(o->error.text + used, sizeof(o->error.text) - used, text);
}

/* Decode what came, or tell why nothing did. */
static void
read_verdict(struct taskrt_run *run, struct outcome *o)
{
	struct dsm_msg_verdict *v = &o->verdict;
	struct dsm_counters counters = {0};

	if (run->verdict.len == 0) {
		o->error = run->lost;
		return;
	}
	/* It was decoded once when it came. */
	dsm__decode_verdict(run->verdict.ptr, run->verdict.len, v);
	dsm__counters_unpack(v->counters, &counters);
	dsm__counters_add(&run->counters, &counters);
	if (v->code != 0) {
		o->error.code = v->code < 1000 ? -(int)v->code : DSM_EPROTO;
		name_coordinator(o, run->session->config, v->text);
	}
}

/* "temperatures[17] of 800 bytes, allocated at heat.c:42" */
static void
where(void *ctx, const void *addr, char *buf, size_t size)
{
	struct dsm_alloc_info info;
	char place[40] = "", by[200];
	uint64_t call;

	if (!dsm__heap_find(addr, &info)) {
		taskrt__debuginfo_data(ctx, (uintptr_t)addr, buf, size);
		return;
	}
	size_t off = (size_t)((const char *)addr - (const char *)info.base);
	if (info.elem_size > 0)
		snprintf(place, sizeof(place), "[%zu]", off / info.elem_size);
	else if (off > 0)
		snprintf(place, sizeof(place), " + %zu", off);
	/* The return address belongs to the call before it. */
	call = (uintptr_t)info.return_address - 1;
	taskrt__debuginfo_code(ctx, call, by, sizeof(by));
	snprintf(buf, size, "%s%s of %zu bytes%s%s",
	         info.label[0] != '\0' ? info.label : "block", place, info.size,
	         by[0] != '\0' ? ", allocated in " : "", by);
}

static size_t
backtrace(void *ctx, struct dsm_blob context, struct dsm_wbuf *w, size_t *own_p)
{
	return taskrt__debuginfo_backtrace(ctx, context, w, own_p);
}

/* What the program has there, whatever that address is. */
static void
program_value(struct dsm_value *v)
{
	const struct iovec to = {v->bytes, v->len};
	const struct iovec from = {(void *)(uintptr_t)v->addr, v->len};

	v->n = dsm__self_read(&to, &from, 1) == v->len ? v->len : 0;
}

/* Both sides of each listed race; NULL: none, or no memory for them. */
static struct dsm_value *
race_values(struct taskrt_run *run, const struct outcome *o)
{
	const struct dsm_array *listed = &o->verdict.races;
	size_t n = listed->n + o->n_client_races;
	struct dsm_value *v;

	if (n == 0 || n > DSM_MAX_RACES)
		return NULL;
	v = calloc(2 * n, sizeof(*v));
	for (size_t i = 0; i < n && v != NULL; i++) {
		struct dsm_rec_race rec = {0};

		if (i < listed->n)
			(void)dsm__unpack_race(listed, (uint32_t)i, &rec);
		else
			rec = (struct dsm_rec_race){
			    o->client_races[i - listed->n].task_a,
			    TASKRT_CLIENT,
			    (uintptr_t)o->client_races[i - listed->n].addr,
			    o->client_races[i - listed->n].len,
			};
		v[2 * i] = v[2 * i + 1] = (struct dsm_value){
		    .task = rec.task_a,
		    .addr = rec.addr,
		    .len = rec.len < DSM_VALUE_MAX ? (uint32_t)rec.len
		                                   : DSM_VALUE_MAX,
		};
		v[2 * i + 1].task = rec.task_b;
	}
	if (v == NULL)
		return NULL;
	dsm__stage_values(run->stage, v, 2 * n);
	for (size_t i = listed->n; i < n; i++)
		program_value(&v[2 * i + 1]);
	return v;
}

static void
make_report(struct taskrt_run *run, const struct outcome *o)
{
	const struct dsm_msg_verdict *v = &o->verdict;
	struct taskrt__report_source src = {
	    .error = taskrt__public_code(o->error.code),
	    .text = o->error.text,
	    .name = run->name,
	    .failures = v->failures,
	    .texts = v->texts,
	    .n_races = v->n_races,
	    .races = v->races,
	    .client_races = o->client_races,
	    .n_client_races = o->n_client_races,
	    .counters = &run->counters,
	    .where = where,
	    .backtrace = backtrace,
	    .loop = run->job.mode != DSM_MODE_TASKS,
	    .chunked = run->job.mode != DSM_MODE_TASKS &&
	               !run->session->config->check_iterations,
	};

	run->error = o->error;
	if (src.n_races + src.n_client_races + src.failures.n > 0)
		src.ctx = taskrt__debuginfo_open();
	struct dsm_value *values = race_values(run, o);
	src.values = values;
	int err = taskrt__report_make(&src, &run->report);
	free(values);
	taskrt__debuginfo_close(src.ctx);
	if (err != DSM_OK && o->error.code == DSM_OK)
		log_warn("no report of a run: %s", dsm__strerror(err));
	if (err == DSM_OK)
		taskrt__checklog_races(run->session->config->check_log,
		                       run->name, &run->report->pub);
}

static int
is_over(void *arg)
{
	const struct taskrt_run *run = arg;

	return run->over;
}

void
taskrt__run_finish(struct taskrt__client *c)
{
	struct taskrt_run *run = c->run;
	struct taskrt__session *s = run->session;
	struct outcome o = {0};

	dsm__loop_lock(s->loop);
	dsm__loop_drive(s->loop, is_over, run, DSM_FOREVER);
	dsm__loop_unlock(s->loop);
	if (!run->job.async)
		dsm__loop_leave(s->loop);
	read_verdict(run, &o);
	/* The verdict names attempts only where their results may be kept. */
	int keep = run->verdict.len > 0 &&
	           (o.error.code == DSM_OK || run->keep_partial);
	if (keep && program_ran_on(run)) {
		dsm__loop_lock(s->loop);
		look_outside(run, &o);
		dsm__loop_unlock(s->loop);
		keep = o.n_client_races == 0;
	}
	dsm__heap_lock(s->heap);
	if (keep)
		commit(run, &o);
	dsm__heap_run_end(s->heap);
	dsm__heap_unlock(s->heap);
	run->counters.total_ns = dsm__now() - run->launched;
	make_report(run, &o);
	dsm__counters_add(&c->sums->totals, &run->counters);
	c->sums->n_runs++;
	/* Staged bytes may lie in staging files, which the next launch unmaps. */
	dsm__stage_destroy(run->stage);
	run->stage = NULL;
	if (run->counters.bytes_sent > SHRINK_BYTES) {
		dsm__loop_lock(s->loop);
		taskrt__stagemap_shrink(s);
		dsm__loop_unlock(s->loop);
	}
	dsm__wbuf_fini(&run->verdict);
	pthread_mutex_lock(&c->session_lock);
	run->session = NULL;
	pthread_mutex_unlock(&c->session_lock);
	run->finished = 1;
	c->run = NULL;
}

void
taskrt__run_forget(struct taskrt_run *run, const char *why)
{
	run->session = NULL;
	run->finished = 1;
	dsm__fail(&run->error, DSM_ECONN, "%s", why);
}

/* --- taskrt.h --- */

int
taskrt_wait(struct taskrt_run *run)
{
	struct taskrt__client *c = taskrt__client_default();

	if (taskrt__in_task())
		return taskrt__report_fail(
		    TASKRT_EINVAL, "taskrt_wait was called inside a task");
	if (run == NULL)
		return taskrt__report_fail(TASKRT_EINVAL,
		                           "taskrt_wait: run is NULL");
	pthread_mutex_lock(&c->run_lock);
	if (!run->finished)
		taskrt__run_finish(c);
	pthread_mutex_unlock(&c->run_lock);
	int error = taskrt__public_code(run->error.code);
	if (run->report == NULL && error != TASKRT_OK) {
		taskrt__report_error(&run->error);
	} else {
		taskrt__report_give(run->report);
		run->report = NULL;
	}
	free_run(run);
	return error;
}

int
taskrt_cancel(struct taskrt_run *run)
{
	struct taskrt__client *c = taskrt__client_default();
	struct taskrt__session *s;

	if (taskrt__in_task())
		return taskrt__report_fail(
		    TASKRT_EINVAL, "taskrt_cancel was called inside a task");
	if (run == NULL)
		return taskrt__report_fail(TASKRT_EINVAL,
		                           "taskrt_cancel: run is NULL");
	pthread_mutex_lock(&c->session_lock);
	s = run->session;
	if (s != NULL && s == c->session) {
		dsm__loop_lock(s->loop);
		if (!run->over) {
			const struct dsm_msg_cancel m = {
			    .session = s->id,
			    .run = run->id,
			};
			struct dsm_wbuf w = {0};
			int err = dsm__encode_cancel(&w, &m);

			taskrt__session_send(s, DSM_MSG_CANCEL, &w, err);
		}
		dsm__loop_unlock(s->loop);
	}
	pthread_mutex_unlock(&c->session_lock);
	return TASKRT_OK;
}

int
taskrt__run_whole(const struct taskrt__job *job,
                  const struct taskrt_options *opt)
{
	struct taskrt_run *run = NULL;
	int err = taskrt__run_launch(job, opt, &run);

	return err != TASKRT_OK ? err : taskrt_wait(run);
}

static int
launch_tasks(const struct taskrt_task *tasks, size_t n, int async,
             const char *call, const struct taskrt_options *opt,
             struct taskrt_run **run_p)
{
	const struct taskrt__job job = {
	    .mode = DSM_MODE_TASKS,
	    .ctx = (uintptr_t)tasks,
	    .end = n,
	    .async = async,
	};

	if (tasks == NULL && n > 0)
		return taskrt__report_fail(
		    TASKRT_EINVAL, "%s: tasks is NULL but n is %zu", call, n);
	if (n > SIZE_MAX / sizeof(*tasks))
		return taskrt__report_fail(
		    TASKRT_EINVAL, "%s: n is %zu, more than fit into memory",
		    call, n);
	return taskrt__run_launch(&job, opt, run_p);
}

int
taskrt_run(const struct taskrt_task *tasks, size_t n,
           const struct taskrt_options *opt)
{
	struct taskrt_run *run = NULL;
	int err = launch_tasks(tasks, n, 0, "taskrt_run", opt, &run);

	return err != TASKRT_OK ? err : taskrt_wait(run);
}

int
taskrt_start(const struct taskrt_task *tasks, size_t n,
             const struct taskrt_options *opt, struct taskrt_run **run_p)
{
	struct taskrt_run *run = NULL;

	if (run_p == NULL)
		return taskrt__report_fail(TASKRT_EINVAL,
		                           "taskrt_start: run_p is NULL");
	int err = launch_tasks(tasks, n, 1, "taskrt_start", opt, &run);
	if (err == TASKRT_OK)
		*run_p = run;
	return err;
}
