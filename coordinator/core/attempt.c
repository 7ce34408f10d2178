/*
 * Attempts: what becomes of the tasks that were given out.
 *
 * States of an attempt:
 *   OUT       EXEC was sent; counts against the worker's credits
 *   DONE      masks are in, STORED is not; the slot is free again
 *   COMPLETE  from OUT or DONE; its masks are with the race check for good
 *   BACK      from OUT or DONE: the worker lost it; its tasks are pending, or
 *             failed when that happened too often
 *   VOID      from OUT: it failed, and nothing of it counts; or from OUT or DONE:
 *             its twin answered first
 * coord__attempt_leave is the way out of OUT and DONE. A task that fails ends its
 * attempt: those before it stay done where each task is its own writer and the
 * slot says it ran them, those after it are pending again.
 *
 * Invariant: n_done + n_failed + sched.n_pending + the tasks of attempts OUT or
 * DONE, those of twins once, == total. So the run is over when nothing is pending
 * or held. A twin (copies.c) is held as long as its attempt is: whichever leaves
 * first either answers for both (the other one is VOID at once), or was lost (the
 * other one goes on alone).
 */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- attempts --- */

struct attempt *
coord__run_attempt(const struct run *r, size_t i)
{
	return &r->blocks[i / ATTEMPT_BLOCK][i % ATTEMPT_BLOCK];
}

/* NULL: never given out in this run. */
struct attempt *
coord__attempt_find(const struct run *r, uint64_t id)
{
	uint64_t i = id - r->first_attempt;

	return i < r->n_attempts ? coord__run_attempt(r, i) : NULL;
}

void
coord__attempt_leave(struct run *r, struct attempt *a, enum attempt_state to)
{
	if (a->state == ATTEMPT_OUT) {
		r->n_out--;
		a->sw->worker->n_out--;
		a->sw->n_out--;
		a->sw->session->user->n_out--;
	}
	/* What it reported counts no more. */
	if (a->state == ATTEMPT_DONE && to != ATTEMPT_COMPLETE)
		r->counters.tasks -= a->hi - a->lo;
	if (to != ATTEMPT_DONE) {
		struct worker_peer *w = a->sw->worker;

		TAILQ_REMOVE(&a->sw->held, a, link);
		coord__worker_release(w);
		r->n_held--;
		a->sw = NULL;
		coord__done_free(a->done);
		a->done = NULL;
	}
	a->state = to;
}

/* --- tasks that come back --- */

static void
give_back(struct run *r, uint64_t lo, uint64_t hi, uint32_t n_lost)
{
	if (coord__sched_give_back(&r->sched, lo, hi, n_lost) != DSM_OK)
		r->out_of_memory = 1;
}

static void
fail(struct run *r, const struct dsm_rec_failure *f, const char *text,
     size_t len, struct dsm_blob context)
{
	struct dsm_blob b = {(const uint8_t *)text, (uint32_t)len};

	if (coord__failure_add(&r->failures, f, b, context) != DSM_OK)
		r->out_of_memory = 1;
}

/* Each task of a bunch, or the chunk of a loop as one. */
static void
fail_lost(struct run *r, const struct attempt *a, const char *worker,
          const char *reason)
{
	struct dsm_rec_failure f = {.kind = DSM_FAIL_LOST};
	char text[COORD_NAME_MAX + COORD_REASON_MAX + 128];
	uint64_t n = r->m.mode == DSM_MODE_TASKS ? a->hi - a->lo : 1;
	int len = snprintf(text, sizeof(text),
	                   "lost %u times, the last time on worker %s: %s",
	                   a->n_lost + 1, worker,
	                   reason[0] != '\0' ? reason : "it gave no reason");

	if (n == 1 && a->hi - a->lo > 1)
		len += snprintf(text + len, sizeof(text) - (size_t)len,
		                " (iterations %llu to %llu)",
		                (unsigned long long)a->lo,
		                (unsigned long long)a->hi - 1);
	r->n_failed += a->hi - a->lo;
	for (uint64_t i = 0; i < n && r->failures.n < COORD_MAX_FAILURES; i++) {
		f.task = a->lo + i;
		fail(r, &f, text, (size_t)len, (struct dsm_blob){0});
	}
}

/* The slot was at that task when it was lost: the blame is the task's alone. Those
 * around it come back as if nothing had happened. Of a range's one call nothing is
 * known but where it began. */
static void
part_suspect(struct run *r, struct attempt *a, uint64_t task)
{
	if (a->state != ATTEMPT_OUT || a->twin != NULL || task < a->lo ||
	    task >= a->hi ||
	    (r->m.mode == DSM_MODE_FOR_RANGE && !coord__run_isolated(r)))
		return;
	r->counters.tasks_retried += a->hi - a->lo - 1;
	give_back(r, task + 1, a->hi, a->n_lost);
	give_back(r, a->lo, task, a->n_lost);
	a->lo = task;
	a->hi = task + 1;
}

/* OUT or DONE -> BACK. */
static void
take_back(struct run *r, struct attempt *a, const struct worker_peer *w,
          int blame, const char *reason)
{
	struct attempt *twin = a->twin;

	coord__attempt_leave(r, a, ATTEMPT_BACK);
	if (twin != NULL) {
		coord__copies_part(a);
		twin->n_lost += blame != 0;
		return;
	}
	if (blame && a->n_lost >= r->m.retries) {
		fail_lost(r, a, w->name, reason);
		return;
	}
	r->counters.tasks_retried += a->hi - a->lo;
	give_back(r, a->lo, a->hi, a->n_lost + (blame != 0));
}

void
coord__run_take_back(struct run *r, struct sworker *sw, int blame,
                     const char *reason)
{
	unsigned n_slots = sw->worker->n_slots;
	struct attempt *a;

	while ((a = TAILQ_FIRST(&sw->held)) != NULL) {
		if (blame && a->state == ATTEMPT_OUT && n_slots > 0) {
			r->counters.slots_lost++;
			n_slots--;
		}
		take_back(r, a, sw->worker, blame, reason);
	}
}

/* --- answers --- */

/* To the race check, for good. */
static int
add_masks(struct run *r, struct done *d)
{
	uint8_t *masks = d->masks;
	int err = races_keep(r->races, masks);

	if (err != DSM_OK)
		return err;
	d->masks = NULL;
	for (uint32_t i = 0; err == DSM_OK && i < d->n_sets; i++)
		err = races_add_kept(r->races, d->sets[i].task,
		                     masks + d->sets[i].mask_off,
		                     d->sets[i].mask_len);
	return err;
}

/* OUT or DONE -> COMPLETE. */
static void
complete(struct run *r, struct attempt *a)
{
	uint64_t start = dsm__now();
	int err = DSM_OK;

	for (struct done *d = a->done; d != NULL && err == DSM_OK; d = d->next)
		if (d->masks != NULL)
			err = add_masks(r, d);
	if (a->done != NULL)
		r->counters.check_ns += dsm__now() - start;
	if (err != DSM_OK)
		r->out_of_memory = 1;
	coord__copies_drop_twin(r, a);
	a->sw->worker->n_tasks += a->hi - a->lo;
	a->sw->n_tasks += a->hi - a->lo;
	r->n_done += a->hi - a->lo;
	coord__attempt_leave(r, a, ATTEMPT_COMPLETE);
}

/* OUT -> DONE or COMPLETE; takes d. */
static void
done(struct run *r, struct attempt *a, struct done *d, uint64_t n_bytes)
{
	d->next = a->done;
	a->done = d;
	if (n_bytes == 0 || a->stored)
		complete(r, a);
	else
		coord__attempt_leave(r, a, ATTEMPT_DONE);
}

static struct dsm_blob
context_of(const struct report *rep)
{
	const struct dsm_rec_failure *f = &rep->failure;

	if (f->context_len == 0)
		return (struct dsm_blob){0};
	return (struct dsm_blob){rep->m.texts.ptr + f->text_off + f->text_len,
	                         f->context_len};
}

/* One call of the body ran them all: the message's line gets to say which. */
static void
fail_chunk(struct run *r, const struct attempt *a, const struct report *rep)
{
	const char *text =
	    (const char *)rep->m.texts.ptr + rep->failure.text_off;
	size_t len = rep->failure.text_len;
	const char *newline = len > 0 ? memchr(text, '\n', len) : NULL;
	size_t line = newline != NULL ? (size_t)(newline - text) : len;
	char *all = malloc(len + 80);

	if (all == NULL) {
		r->out_of_memory = 1;
		return;
	}
	int n =
	    snprintf(all, len + 80, "%.*s (iterations %llu to %llu)", (int)line,
	             line > 0 ? text : "", (unsigned long long)a->lo,
	             (unsigned long long)a->hi - 1);
	if (newline != NULL)
		memcpy(all + n, newline, len - line);
	fail(r, &rep->failure, all, (size_t)n + len - line, context_of(rep));
	free(all);
}

/* Task t of the attempt failed. Returns 1 when [lo, t) stays done, else the
 * attempt is VOID. */
static int
done_with_failure(struct run *r, struct attempt *a, const struct report *rep)
{
	uint64_t t = rep->failure.task, lo = a->lo, hi = a->hi;

	/* A failure is an answer, too. */
	coord__copies_drop_twin(r, a);

	/* Where the call would have got with another part is not known. */
	if (r->m.mode == DSM_MODE_FOR_RANGE && !coord__run_isolated(r)) {
		fail_chunk(r, a, rep);
		r->n_failed += hi - lo;
		coord__attempt_leave(r, a, ATTEMPT_VOID);
		return 0;
	}
	fail(r, &rep->failure,
	     (const char *)rep->m.texts.ptr + rep->failure.text_off,
	     rep->failure.text_len, context_of(rep));
	give_back(r, t + 1, hi, a->n_lost);
	r->n_failed++;
	/* A slot that was killed has not sent what its tasks wrote before:
	 * then `tasks` is missing, too. */
	if (coord__run_isolated(r) && t > lo && rep->counters.tasks >= t - lo) {
		a->hi = t;
		return 1;
	}
	coord__attempt_leave(r, a, ATTEMPT_VOID);
	if (coord__run_isolated(r) || (r->m.flags & DSM_RUN_KEEP_PARTIAL) != 0)
		give_back(r, lo, t, a->n_lost);
	else
		r->n_failed += t - lo;
	return 0;
}

/*
 * The attempt that a worker speaks of. DSM_OK with *a_p = NULL: a late answer,
 * to be dropped. DSM_EPROTO: another worker holds it.
 */
static int
find_held(struct coord *k, const struct worker_peer *w, uint64_t session,
          uint64_t run, uint64_t attempt, struct run **r_p,
          struct attempt **a_p)
{
	struct session *s = coord__session_find(k, session);
	struct attempt *a = NULL;

	*a_p = NULL;
	if (s == NULL || s->run == NULL || s->run->m.run != run)
		return DSM_OK;
	a = coord__attempt_find(s->run, attempt);
	if (a == NULL || a->sw == NULL)
		return DSM_OK;
	if (a->sw->worker != w)
		return DSM_EPROTO;
	*r_p = s->run;
	*a_p = a;
	return DSM_OK;
}

/*
 * What a slot said of its attempt makes no sense. The slot runs the client's code:
 * that is the client's problem, not that of the worker and of all others that it
 * works for. So the attempt is lost, and the worker stays.
 */
static int
blame_slot(struct coord *k, struct worker_peer *w, struct run *r,
           struct attempt *a, unsigned type)
{
	char reason[64];

	snprintf(reason, sizeof(reason),
	         "its slot sent a %s that makes no sense", dsm__msg_name(type));
	log_warn("worker %s, session %llu: attempt %llu: %s", w->name,
	         (unsigned long long)r->session->id, (unsigned long long)a->id,
	         reason);
	take_back(r, a, w, 1, reason);
	coord__run_settle(r);
	coord__dispatch(k);
	return DSM_OK;
}

int
coord__run_done(struct coord *k, struct worker_peer *w,
                const struct dsm_frame *f)
{
	struct report rep = {.done = NULL};
	struct run *r = NULL;
	struct attempt *a;
	int err = dsm__decode_done(f->body, f->len, &rep.m);

	if (err != DSM_OK)
		return err;
	err = find_held(k, w, rep.m.session, rep.m.run, rep.m.attempt, &r, &a);
	if (err != DSM_OK || a == NULL || a->state != ATTEMPT_OUT)
		return err;
	err = coord__report_read(k, r, a, &rep);
	if (err != DSM_OK)
		coord__done_free(rep.done);
	if (err == DSM_EPROTO)
		return blame_slot(k, w, r, a, f->type);
	if (err != DSM_OK)
		return err;
	a->sw->doubtful = 0;
	a->sw->pause = 0;
	dsm__counters_add(&r->counters, &rep.counters);
	if (!rep.failed)
		coord__sched_measured(&r->sched, a->hi - a->lo,
		                      rep.counters.exec_ns);
	if (!rep.failed || done_with_failure(r, a, &rep))
		done(r, a, rep.done, rep.m.n_bytes);
	else
		coord__done_free(rep.done);
	coord__run_settle(r);
	/* A failure makes work pending, which any worker may take. */
	if (rep.failed)
		coord__dispatch(k);
	else
		coord__dispatch_to(k, w);
	return DSM_OK;
}

int
coord__run_masks(struct coord *k, struct worker_peer *w,
                 const struct dsm_frame *f)
{
	struct dsm_msg_masks m;
	struct run *r = NULL;
	struct attempt *a;
	int err = dsm__decode_masks(f->body, f->len, &m);

	if (err == DSM_OK)
		err = find_held(k, w, m.session, m.run, m.attempt, &r, &a);
	if (err != DSM_OK || a == NULL || a->state != ATTEMPT_OUT)
		return err;
	err = coord__masks_read(k, a, &m);
	return err == DSM_EPROTO ? blame_slot(k, w, r, a, f->type) : err;
}

/* It goes on as it is: the client knows what lies where, and adds it up. */
int
coord__run_fetched(struct coord *k, struct worker_peer *w,
                   const struct dsm_frame *f)
{
	struct dsm_msg_fetched m;
	struct run *r = NULL;
	struct attempt *a;
	int err = dsm__decode_fetched(f->body, f->len, &m);

	if (err == DSM_OK)
		err = find_held(k, w, m.session, m.run, m.attempt, &r, &a);
	if (err != DSM_OK || a == NULL || a->state != ATTEMPT_OUT)
		return err;
	if ((r->m.flags & DSM_RUN_FETCHED) == 0 ||
	    dsm__places_check(&m.places) != DSM_OK)
		return blame_slot(k, w, r, a, f->type);
	coord__peer_send(r->session->client, DSM_MSG_FETCHED, f->body, f->len);
	return DSM_OK;
}

int
coord__run_returned(struct coord *k, struct worker_peer *w,
                    const struct dsm_frame *f)
{
	struct dsm_msg_returned m;
	struct run *r = NULL;
	struct attempt *a;
	char reason[COORD_REASON_MAX];
	int err = dsm__decode_returned(f->body, f->len, &m);

	if (err != DSM_OK)
		return err;
	err = find_held(k, w, m.session, m.run, m.attempt, &r, &a);
	if (err != DSM_OK || a == NULL)
		return err;
	dsm__str_copy(reason, sizeof(reason), m.reason);
	/* No reason: no slot had begun it. */
	if (m.reason.len > 0 && a->state == ATTEMPT_OUT)
		r->counters.slots_lost++;
	if (m.reason.len > 0)
		part_suspect(r, a, m.task);
	take_back(r, a, w, m.reason.len > 0, reason);
	coord__run_settle(r);
	coord__dispatch(k);
	return DSM_OK;
}

int
coord__run_stored(struct session *s, const struct dsm_frame *f)
{
	struct dsm_msg_stored m;
	struct run *r = s->run;
	struct attempt *a;
	int err = dsm__decode_stored(f->body, f->len, &m);

	if (err != DSM_OK)
		return err;
	if (r == NULL || r->m.run != m.run)
		return DSM_OK;
	a = coord__attempt_find(r, m.attempt);
	if (a == NULL || a->sw == NULL)
		return DSM_OK;
	a->stored = 1;
	if (a->state == ATTEMPT_DONE) {
		complete(r, a);
		coord__run_settle(r);
	}
	return DSM_OK;
}
