/*
 * Stragglers: a second copy of tasks that run much longer than their like, on a
 * slot that has nothing else to do.
 *
 * An attempt is *late* when nothing of its run is pending and it has been out for
 * more than LATE_TIMES what so many tasks of the run usually take (the median of
 * the last chunks), and LATE_LEAST more. The latest one gets a twin: an attempt of
 * the same tasks [lo, hi), on another worker if one has an idle slot, else on
 * another slot of the same one. No attempt ever has more than one twin.
 *
 * Safe, because nothing of an attempt is visible before the verdict:
 * - The first of the two whose answer counts (DONE, and STORED when it wrote; or a
 *   failure) decides. At that moment the other one is VOID: its masks never reach
 *   the race check, its write set is in no verdict, and what it says later is late.
 * - A loop's chunk is one writer, and a body that is called once a chunk may do
 *   other things in another one: hence the same bounds, never a part of them.
 * - One that is lost while its twin lives just leaves; the twin takes over how often
 *   the tasks were lost.
 *
 * The loser's worker is told to end it (RECALL), the client to drop its bytes
 * (FORGET). Idle means: fewer attempts out than slots, after every session has got
 * what it wanted. So copies cost nobody a slot, and a place that is not there when
 * other work comes is there again when the first of the two has answered.
 */
#include "core.h"

#define LATE_TIMES 3
#define LATE_LEAST (100 * DSM_MS)
#define LOOK_EVERY (25 * DSM_MS)

static uint64_t
late_after(const struct run *r, const struct attempt *a)
{
	return LATE_TIMES * coord__sched_typical(&r->sched, a->hi - a->lo) +
	       LATE_LEAST;
}

/* May the run have copies at all, now? */
static int
has_stragglers(const struct run *r)
{
	return r != NULL && r->sched.n_pending == 0 && r->n_out > 0 &&
	       r->sched.n_samples > 0 && !r->out_of_memory &&
	       (r->m.flags & DSM_RUN_NO_COPIES) == 0 &&
	       (r->m.max_slots == 0 || r->n_out < r->m.max_slots) &&
	       coord__user_has_room(r->session->user) &&
	       !r->session->client->closing && !r->session->client->stopped;
}

/* The attempt that is late by most, or NULL. */
static struct attempt *
latest(const struct run *r, uint64_t now)
{
	struct attempt *a, *best = NULL;
	struct sworker *sw;
	uint64_t most = 0;

	TAILQ_FOREACH(sw, &r->session->workers, of_session)
	TAILQ_FOREACH(a, &sw->held, link)
	{
		uint64_t due = a->given + late_after(r, a);

		if (a->state == ATTEMPT_OUT && a->twin == NULL && now > due &&
		    now - due > most) {
			most = now - due;
			best = a;
		}
	}
	return best;
}

static unsigned
idle_slots(const struct worker_peer *w)
{
	return coord__takes_work(w) && w->n_out < w->n_slots
	           ? w->n_slots - w->n_out
	           : 0;
}

/* Where a copy of a may run: another worker than a's before a's own. */
static struct sworker *
place_for(const struct run *r, const struct attempt *a)
{
	struct sworker *sw, *best = NULL;

	TAILQ_FOREACH(sw, &r->session->workers, of_session)
	{
		unsigned idle = idle_slots(sw->worker);

		if (sw->state != SWORKER_TOLD || idle == 0)
			continue;
		if (best == NULL || best == a->sw ||
		    (sw != a->sw && idle > idle_slots(best->worker)))
			best = sw;
	}
	return best;
}

static int
copy_one(struct coord *k, struct run *r)
{
	struct attempt *a = latest(r, k->now);
	struct sworker *sw = a != NULL ? place_for(r, a) : NULL;
	struct attempt *copy;

	if (sw == NULL)
		return 0;
	copy = coord__hand_out(
	    k, sw, &(const struct sched_iv){a->lo, a->hi, a->n_lost});
	if (copy == NULL)
		return 0;
	copy->copy = 1;
	copy->twin = a;
	a->twin = copy;
	r->counters.copies_started++;
	log_debug("session %llu: tasks %llu to %llu are late on worker %s: a "
	          "copy on %s",
	          (unsigned long long)r->session->id, (unsigned long long)a->lo,
	          (unsigned long long)a->hi - 1, a->sw->worker->name,
	          sw->worker->name);
	return 1;
}

uint64_t
coord__copies_tick(struct coord *k, uint64_t now)
{
	uint64_t next = DSM_FOREVER;
	struct session *s;

	if (k->params.no_copies)
		return next;
	TAILQ_FOREACH(s, &k->sessions, link)
	{
		if (!has_stragglers(s->run))
			continue;
		if (now >= s->run->next_copies) {
			s->run->next_copies = now + LOOK_EVERY;
			while (has_stragglers(s->run) && copy_one(k, s->run))
				;
		}
		if (s->run->next_copies < next)
			next = s->run->next_copies;
	}
	return next;
}

void
coord__copies_part(struct attempt *a)
{
	a->twin->twin = NULL;
	a->twin = NULL;
}

void
coord__copies_drop_twin(struct run *r, struct attempt *a)
{
	struct session *s = r->session;
	struct attempt *loser = a->twin;
	const struct dsm_msg_forget forget = {r->m.run,
	                                      loser != NULL ? loser->id : 0};
	const struct dsm_msg_recall recall = {s->id, r->m.run, forget.attempt};

	if (loser == NULL)
		return;
	coord__copies_part(a);
	r->counters.copies_won += a->copy;
	/* One that is done has no slot to be ended. */
	if (loser->state == ATTEMPT_OUT)
		coord__peer_send_buf(s->k, loser->sw->worker->peer,
		                     DSM_MSG_RECALL,
		                     dsm__encode_recall(&s->k->buf, &recall));
	coord__attempt_leave(r, loser, ATTEMPT_VOID);
	coord__peer_send_buf(s->k, s->client, DSM_MSG_FORGET,
	                     dsm__encode_forget(&s->k->buf, &forget));
}
