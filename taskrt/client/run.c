/* The life of a run, and the calls of taskrt.h on it. */
#include "run_priv.h"

#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/heap/heap.h"
#include "client.h"
#include "costs.h"
#include "serveconn.h"
#include "taskpage.h"

/* A run that staged so much has its staging files looked through. */
#define SHRINK_BYTES (UINT64_C(64) << 20)

/* --- its memory --- */

void
taskrt__run_free(struct taskrt_run *run)
{
	if (run->stage != NULL)
		dsm__stage_destroy(run->stage);
	dsm__wbuf_fini(&run->verdict);
	taskrt__report_free(run->report);
	dsm_free(run->tasks);
	free(run->name);
	free(run);
}

struct taskrt_run *
taskrt__run_new(const struct taskrt__job *job, const struct taskrt_options *opt)
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

void
taskrt__run_forget_attempt(struct taskrt_run *run, uint64_t attempt)
{
	/* Without memory it stays staged until the end of the run. */
	(void)dsm__stage_refuse(run->stage, attempt);
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

static int
is_over(void *arg)
{
	const struct taskrt_run *run = arg;

	return run->over;
}

/* Nobody can ask a program that is its own coordinator. */
static void
tell_costs(struct taskrt_run *run)
{
	struct taskrt__session *s = run->session;
	struct dsm_wbuf w = {0};
	int err;

	if (run->costs == NULL || s->config->coordinator[0] == '\0')
		return;
	err = taskrt__costs_encode(run->costs, run->id, &w);
	if (err == DSM_EAGAIN)
		return;
	dsm__loop_lock(s->loop);
	taskrt__session_send(s, DSM_MSG_COSTS, &w, err);
	dsm__loop_unlock(s->loop);
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
	taskrt__run_read_verdict(run, &o);
	/* The verdict names attempts only where their results may be kept. */
	int keep = run->verdict.len > 0 &&
	           (o.error.code == DSM_OK || run->keep_partial);
	if (keep && taskrt__run_went_on(run)) {
		dsm__loop_lock(s->loop);
		taskrt__run_look_outside(run, &o);
		dsm__loop_unlock(s->loop);
		keep = o.n_client_races == 0;
	}
	dsm__heap_lock(s->heap);
	if (keep)
		taskrt__run_commit(run, &o);
	dsm__heap_run_end(s->heap);
	dsm__heap_unlock(s->heap);
	run->counters.total_ns = dsm__now() - run->launched;
	taskrt__run_report(run, &o);
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
	tell_costs(run);
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
	taskrt__run_free(run);
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
		if (!run->over && s->state == TASKRT__REJOINING) {
			taskrt__session_lose(s, DSM_ECANCELED,
			                     "the run was cancelled");
		} else if (!run->over) {
			const struct dsm_msg_cancel m = {
			    .session = s->id,
			    .run = run->id,
			};
			struct dsm_wbuf w = {0};
			int err = dsm__encode_cancel(&w, &m);

			run->cancelled = 1;
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
