/*
 * Giving out pending work: which session, which worker, how many chunks.
 *
 * A worker has at most 2 attempts OUT per slot, over all sessions; 1 for a
 * session whose work is nearly given out. Of the users that want a free place the
 * one with the fewest attempts OUT gets it, for its session with the fewest
 * (users.c: quotas). A session with max_slots never
 * has more than that many OUT.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

/* Room for one more attempt; it is the caller's to clear and count. */
static struct attempt *
attempt_room(struct run *r)
{
	size_t block = r->n_attempts / ATTEMPT_BLOCK;

	if (r->n_attempts % ATTEMPT_BLOCK == 0) {
		if (block == r->cap_blocks) {
			size_t cap = r->cap_blocks != 0 ? r->cap_blocks * 2 : 4;
			void *p = realloc(r->blocks, cap * sizeof(void *));

			if (p == NULL)
				return NULL;
			r->blocks = p;
			memset(r->blocks + r->cap_blocks, 0,
			       (cap - r->cap_blocks) * sizeof(void *));
			r->cap_blocks = cap;
		}
		/* May be there: the last call's room was not used. */
		if (r->blocks[block] == NULL)
			r->blocks[block] =
			    malloc(ATTEMPT_BLOCK * sizeof(struct attempt));
		if (r->blocks[block] == NULL)
			return NULL;
	}
	return coord__run_attempt(r, r->n_attempts);
}

uint64_t
coord__usable_slots(const struct run *r)
{
	uint64_t n = r->session->n_slots, quota = r->session->user->who.slots;

	if (quota != 0 && quota < n)
		n = quota;
	return r->m.max_slots != 0 && r->m.max_slots < n ? r->m.max_slots : n;
}

static int
wants(const struct sworker *sw, unsigned level)
{
	const struct worker_peer *w = sw->worker;
	const struct run *r = sw->session->run;
	unsigned credits;

	if (r == NULL || r->sched.n_pending == 0 || r->out_of_memory ||
	    r->waits || !coord__user_has_room(r->session->user))
		return 0;
	/* Then no slot gets a second one: the worker could start another slot
	 * for it. */
	if (r->m.max_slots != 0 && r->n_out >= r->m.max_slots)
		return 0;
	credits = coord__sched_credits(&r->sched, coord__usable_slots(r));
	/* Others keep its slots busy, two attempts each: one that is content
	 * with a free slot would wait for their end. */
	if (w->n_out > sw->n_out)
		credits = 2;
	return w->n_out < (credits < level ? credits : level) * w->n_slots;
}

/* Whose turn is it, a's or b's? The user's with the least at work, of that user the
 * session with the least, of those the one that waited longest. */
static int
goes_before(const struct session *a, const struct session *b)
{
	if (a->user->n_out != b->user->n_out)
		return a->user->n_out < b->user->n_out;
	if (a->run->n_out != b->run->n_out)
		return a->run->n_out < b->run->n_out;
	return a->last_exec < b->last_exec;
}

static struct sworker *
pick(const struct worker_peer *w, unsigned level)
{
	struct sworker *sw, *best = NULL;

	TAILQ_FOREACH(sw, &w->sessions, of_worker)
	{
		const struct session *s = sw->session;

		/* What it does not take would pile up here: FETCHED, verdicts.
		 * The next tick looks again. */
		if (sw->state != SWORKER_TOLD || s->client->closing ||
		    coord__peer_backlog(s->client) > COORD_SLOW ||
		    !wants(sw, level))
			continue;
		if (best == NULL || goes_before(s, best->session))
			best = sw;
	}
	return best;
}

struct attempt *
coord__hand_out(struct coord *k, struct sworker *sw, const struct sched_iv *iv)
{
	struct session *s = sw->session;
	struct run *r = s->run;
	struct attempt *a = attempt_room(r);
	struct dsm_msg_exec m;

	if (a == NULL) {
		r->out_of_memory = 1; /* the next tick ends the run */
		return NULL;
	}
	memset(a, 0, sizeof(*a));
	a->id = r->first_attempt + r->n_attempts++;
	a->lo = iv->lo;
	a->hi = iv->hi;
	a->n_lost = iv->n_lost;
	a->given = k->now;
	a->sw = sw;
	TAILQ_INSERT_TAIL(&sw->held, a, link);
	r->n_out++;
	r->n_held++;
	sw->worker->n_out++;
	sw->n_out++;
	s->user->n_out++;
	s->last_exec = ++k->serial;
	m = (struct dsm_msg_exec){s->id, r->m.run, a->id, a->lo, a->hi};
	coord__peer_send_buf(k, sw->worker->peer, DSM_MSG_EXEC,
	                     dsm__encode_exec(&k->buf, &m));
	return a;
}

static void
give(struct coord *k, struct sworker *sw)
{
	struct run *r = sw->session->run;
	struct sched_iv iv;

	/* Room first: tasks that were taken must be with somebody. */
	if (attempt_room(r) == NULL)
		r->out_of_memory = 1;
	else if (coord__sched_take(&r->sched, coord__usable_slots(r), &iv))
		coord__hand_out(k, sw, &iv);
}

static int
give_one(struct coord *k, struct worker_peer *w, unsigned level)
{
	struct sworker *sw = coord__takes_work(w) ? pick(w, level) : NULL;

	if (sw == NULL)
		return 0;
	give(k, sw);
	return 1;
}

void
coord__dispatch_to(struct coord *k, struct worker_peer *w)
{
	while (give_one(k, w, 2))
		;
}

/* One each in turn, first to slots that have nothing: few tasks spread over all
 * workers. */
void
coord__dispatch(struct coord *k)
{
	struct worker_peer *w;
	int given;

	for (unsigned level = 1; level <= 2; level++)
		do {
			given = 0;
			TAILQ_FOREACH(w, &k->workers, link)
			given |= give_one(k, w, level);
		} while (given);
}
