/*
 * A run: its launch, its end, its clock.
 *
 * States: ON (session->run) -> gone. It ends with one VERDICT: when nothing is
 * pending or held, when failures end it early, when the client cancels, when no
 * worker can run it for too long, or when memory runs out. It ends without one
 * when its session does. coord__run_settle is called after whatever may have been
 * the last thing to do; the run may be gone then.
 */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runcheck.h"

#define DEFAULT_RETRIES 3
#define PROGRESS_AFTER (500 * DSM_MS)
#define PROGRESS_EVERY (250 * DSM_MS)

/* --- a run's begin --- */

/* NULL, or what is wrong with it. */
static const char *
run_check(const struct session *s, const struct dsm_msg_run *m)
{
	if (m->session != s->id)
		return "of another session";
	if (s->run != NULL)
		return "while another run is in flight";
	if (m->run != s->last_run + 1)
		return "out of order";
	if (s->table == NULL && (m->flags & DSM_RUN_RANGES) == 0)
		return "without a table of ranges";
	return coord__run_wrong(m);
}

static int
run_create(struct session *s, const struct dsm_msg_run *m, struct run **r_p)
{
	struct run *r = calloc(1, sizeof(*r));
	int err = r != NULL ? races_create(&r->races) : DSM_ENOMEM;

	if (err != DSM_OK) {
		free(r);
		return err;
	}
	r->session = s;
	r->m = *m;
	dsm__str_copy(r->name, sizeof(r->name), m->name);
	r->m.name = dsm__str(r->name);
	memset(&r->m.ranges, 0, sizeof(r->m.ranges));
	memset(&r->m.drops, 0, sizeof(r->m.drops));
	memset(&r->m.updates, 0, sizeof(r->m.updates));
	memset(&r->m.pages, 0, sizeof(r->m.pages));
	memset(&r->m.advice, 0, sizeof(r->m.advice));
	if (r->m.retries == 0)
		r->m.retries = DEFAULT_RETRIES;
	r->total = m->end - m->begin;
	coord__sched_init(&r->sched, m->begin, m->end, m->chunk);
	r->first_attempt = s->next_attempt;
	r->started = s->k->now;
	r->next_progress = r->started + PROGRESS_AFTER;
	*r_p = r;
	return DSM_OK;
}

void
coord__run_tell(struct run *r, struct sworker *sw)
{
	struct coord *k = r->session->k;
	struct dsm_msg_run m = r->m;

	m.flags |= DSM_RUN_RANGES;
	m.ranges = (struct dsm_array){r->session->table, r->session->n_ranges};
	m.advice =
	    (struct dsm_array){r->session->advice.ptr, r->session->n_advice};
	sw->has_table = 1;
	coord__peer_send_buf(k, sw->worker->peer, DSM_MSG_RUN,
	                     dsm__encode_run(&k->buf, &m));
}

int
coord__run_start(struct session *s, const struct dsm_frame *f)
{
	struct dsm_msg_run m;
	struct sworker *sw;
	const char *wrong;
	int err = dsm__decode_run(f->body, f->len, &m);

	if (err != DSM_OK)
		return err;
	wrong = run_check(s, &m);
	if (wrong != NULL)
		return coord__peer_refuse(s->client, DSM_EPROTO, "RUN %llu %s",
		                          (unsigned long long)m.run, wrong);
	err = coord__session_keep(s, &m);
	if (err != DSM_OK)
		return err;
	coord__session_ask_again(s); /* they hear of the run below */
	err = run_create(s, &m, &s->run);
	if (err != DSM_OK)
		return err;
	s->last_run = m.run;
	coord__user_run_begins(s->run);
	TAILQ_FOREACH(sw, &s->workers, of_session)
	{
		if (sw->state != SWORKER_TOLD)
			continue;
		if ((m.flags & DSM_RUN_RANGES) != 0)
			sw->has_table = 1;
		/* A worker without the table has no pages to drop either. */
		if (sw->has_table)
			coord__peer_send(sw->worker->peer, DSM_MSG_RUN, f->body,
			                 f->len);
		else
			coord__run_tell(s->run, sw);
	}
	log_debug("session %llu: run %llu %s, %llu tasks",
	          (unsigned long long)s->id, (unsigned long long)m.run,
	          s->run->name, (unsigned long long)s->run->total);
	coord__run_settle(s->run);
	coord__dispatch(s->k);
	return DSM_OK;
}

/* --- a run's end --- */

/* [lo, hi) has no result: each task of a bunch, an interval of a loop as one. */
static void
note_unfinished(struct run *r, uint64_t lo, uint64_t hi)
{
	struct dsm_rec_failure f = {.kind = DSM_FAIL_CANCELLED};
	uint64_t n = r->m.mode == DSM_MODE_TASKS ? hi - lo : 1;
	char text[128] = "not finished when the run ended";
	size_t len = strlen(text);
	struct dsm_blob b;

	if (lo == hi)
		return;
	if (n == 1 && hi - lo > 1)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
		                        " (iterations %llu to %llu)",
		                        (unsigned long long)lo,
		                        (unsigned long long)hi - 1);
	b = (struct dsm_blob){(const uint8_t *)text, (uint32_t)len};
	for (uint64_t i = 0; i < n && r->failures.n < COORD_MOST_FAILURES;
	     i++) {
		f.task = lo + i;
		if (coord__failure_add(&r->failures, &f, b,
		                       (struct dsm_blob){0}) != DSM_OK)
			r->out_of_memory = 1;
	}
}

/* Who keeps partial results must know which: what is not listed is there. */
static void
list_unfinished(struct run *r)
{
	const struct sworker *sw;
	const struct attempt *a;

	TAILQ_FOREACH(sw, &r->session->workers, of_session)
	TAILQ_FOREACH(a, &sw->held, link)
	if (a->twin == NULL || !a->copy)
		note_unfinished(r, a->lo, a->hi);
	for (size_t i = 0; i < r->sched.n_back; i++)
		note_unfinished(r, r->sched.back[i].lo, r->sched.back[i].hi);
	note_unfinished(r, r->sched.next, r->sched.end);
}

/* Whoever holds attempts of it loses them. */
static void
run_drop(struct run *r, int cancel)
{
	struct session *s = r->session;
	struct coord *k = s->k;
	const struct dsm_msg_cancel m = {s->id, r->m.run};
	struct sworker *sw;
	struct attempt *a;

	TAILQ_FOREACH(sw, &s->workers, of_session)
	{
		if (cancel && !TAILQ_EMPTY(&sw->held))
			coord__peer_send_buf(k, sw->worker->peer,
			                     DSM_MSG_CANCEL,
			                     dsm__encode_cancel(&k->buf, &m));
		while ((a = TAILQ_FIRST(&sw->held)) != NULL)
			coord__attempt_leave(r, a, ATTEMPT_BACK);
	}
}

static void
run_free(struct run *r)
{
	for (size_t i = 0; i < r->cap_blocks; i++)
		free(r->blocks[i]);
	free(r->blocks);
	coord__sched_fini(&r->sched);
	coord__failures_fini(&r->failures);
	races_destroy(r->races);
	free(r);
}

void
coord__run_destroy(struct run *r)
{
	struct session *s = r->session;
	int another = coord__user_run_ends(r);

	run_drop(r, 0);
	s->run = NULL;
	run_free(r);
	if (another)
		coord__dispatch(s->k);
}

void
coord__run_finish(struct run *r, int code, const char *text)
{
	struct session *s = r->session;
	int another = coord__user_run_ends(r);

	s->next_attempt = r->first_attempt + r->n_attempts;
	if ((r->m.flags & DSM_RUN_KEEP_PARTIAL) != 0 && code != DSM_ECANCELED)
		list_unfinished(r);
	run_drop(r, 1);
	coord__verdict_send(r, code, text);
	s->run = NULL;
	run_free(r);
	if (another)
		coord__dispatch(s->k);
}

/* Failures end the run early when asked to, or when there are so many that
 * listing more helps nobody. */
static int
gives_up(const struct run *r)
{
	if (r->failures.n == 0)
		return 0;
	return (r->m.flags & DSM_RUN_FAIL_FAST) != 0 ||
	       (r->failures.n >= COORD_MAX_FAILURES &&
	        (r->m.flags & DSM_RUN_KEEP_PARTIAL) == 0) ||
	       r->failures.n >= COORD_MOST_FAILURES;
}

void
coord__run_settle(struct run *r)
{
	if (r->out_of_memory)
		coord__run_finish(r, DSM_ENOMEM,
		                  "the coordinator is out of memory");
	else if (gives_up(r) || (r->n_held == 0 && r->sched.n_pending == 0))
		coord__run_finish(r, DSM_OK, NULL);
}

int
coord__run_cancel(struct session *s, const struct dsm_frame *f)
{
	struct coord *k = s->k;
	struct dsm_msg_cancel m;
	int err = dsm__decode_cancel(f->body, f->len, &m);

	if (err != DSM_OK)
		return err;
	if (s->run == NULL || s->run->m.run != m.run)
		return DSM_OK; /* its verdict is on the way */
	coord__run_finish(s->run, DSM_ECANCELED, "the run was cancelled");
	coord__dispatch(k);
	return DSM_OK;
}

/* --- time --- */

static void
send_progress(struct run *r)
{
	struct session *s = r->session;
	struct dsm_msg_progress m = {
	    .run = r->m.run,
	    .done = r->n_done + r->n_failed,
	    .total = r->total,
	    .slots = (uint32_t)(r->n_out < s->n_slots ? r->n_out : s->n_slots),
	};

	coord__peer_send_buf(s->k, s->client, DSM_MSG_PROGRESS,
	                     dsm__encode_progress(&s->k->buf, &m));
}

/* How long it waits for one that can run it. */
static uint64_t
no_worker_ms(const struct run *r)
{
	return r->m.wait_ms != 0 ? r->m.wait_ms
	                         : r->session->k->params.no_worker_ms;
}

/* What was with most workers, or slots, that were lost: perhaps their end. */
static void
suspect_text(const struct run *r, char *text, size_t size)
{
	const struct sched_iv *most = NULL;

	text[0] = '\0';
	for (size_t i = 0; i < r->sched.n_back; i++)
		if (r->sched.back[i].n_lost > 1 &&
		    (most == NULL || r->sched.back[i].n_lost > most->n_lost))
			most = &r->sched.back[i];
	if (most != NULL)
		snprintf(text, size,
		         "; %s %llu to %llu were lost %u times with theirs: is "
		         "one of them the cause?",
		         r->m.mode == DSM_MODE_TASKS ? "tasks" : "iterations",
		         (unsigned long long)most->lo,
		         (unsigned long long)most->hi - 1, most->n_lost);
}

/* Why there is nobody to run it. */
static void
no_worker_text(const struct run *r, char *text, size_t size)
{
	const struct session *s = r->session;
	const struct coord_params *p = &s->k->params;
	const struct sworker *sw;
	char suspect[160];
	size_t len = 0;

	if (TAILQ_EMPTY(&s->workers)) {
		suspect_text(r, suspect, sizeof(suspect));
		snprintf(text, size,
		         "%s the coordinator%s%s within %g s; start "
		         "taskrt-worker on a machine that is to help%s",
		         r->n_attempts > 0
		             ? "all workers were lost, and no other "
		               "has joined"
		             : "no worker has joined",
		         p->where != NULL ? " at " : "",
		         p->where != NULL ? p->where : "",
		         (double)no_worker_ms(r) / 1000, suspect);
		return;
	}
	text[0] = '\0';
	TAILQ_FOREACH(sw, &s->workers, of_session)
	if (len < size)
		len += (size_t)snprintf(
		    text + len, size - len,
		    "%sworker %s cannot run this program: %s",
		    len > 0 ? "; " : "", sw->worker->name, sw->reason);
}

/* Is there a worker that can run it, as far as we know? One that drains finishes what
 * it has. */
static int
has_worker(const struct run *r)
{
	const struct sworker *sw;

	TAILQ_FOREACH(sw, &r->session->workers, of_session)
	if (sw->state == SWORKER_TOLD && !sw->doubtful &&
	    (!sw->worker->draining || !TAILQ_EMPTY(&sw->held)))
		return 1;
	return 0;
}

uint64_t
coord__run_tick(struct run *r, uint64_t now)
{
	struct session *s = r->session;
	uint64_t wait = no_worker_ms(r) * DSM_MS;
	char text[1024];

	coord__session_ask_again(s);
	if (has_worker(r)) {
		r->alone_since = 0;
	} else if (r->alone_since == 0) {
		r->alone_since = now;
	} else if (now - r->alone_since >= wait) {
		no_worker_text(r, text, sizeof(text));
		coord__run_finish(r, DSM_ECONN, text);
		return DSM_FOREVER;
	}
	if (r->out_of_memory) {
		coord__run_settle(r);
		return DSM_FOREVER;
	}
	if (now >= r->next_progress) {
		if (!s->client->stopped)
			send_progress(r);
		r->next_progress = now + PROGRESS_EVERY;
	}
	return r->alone_since != 0 && r->alone_since + wait < r->next_progress
	           ? r->alone_since + wait
	           : r->next_progress;
}
