/*
 * Users: the sessions that have shown one token, what they have at work together, and
 * what they may have (the quotas of the token file). Without tokens there is one
 * user, without quotas.
 *
 * Sharing: a free place goes to the user with the least at work, then to that user's
 * session with the least (dispatch.c). So many programs of one user weigh as much as
 * one of another, and a run of a million tasks as much as one of ten.
 *
 * slots=N   attempts that may be out at a time. More waits, as for any slot.
 * runs=N    runs that may be at work at a time. One more *waits*: workers know of it,
 *           but it is given no place until a run of the user has ended; the one that
 *           was launched first goes first. It is not refused, because a program cannot
 *           do better than wait; it is seen in `taskrt stat`.
 * memory=   is the workers' business: SESSION tells them.
 *
 * Invariants: n_out is the sum of its runs' n_out; n_runs counts its runs that do not
 * wait; one waits only while n_runs >= the quota. A user exists while it has a
 * session. When the token file changes, the quotas of the newest session count.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

static struct user *
find(struct coord *k, const char *name)
{
	struct user *u;

	TAILQ_FOREACH(u, &k->users, link)
	if (strcmp(u->who.name, name) == 0)
		return u;
	return NULL;
}

struct user *
coord__user_get(struct coord *k, const struct dsm_identity *who)
{
	struct user *u = find(k, who->name);

	if (u == NULL) {
		u = calloc(1, sizeof(*u));
		if (u == NULL)
			return NULL;
		TAILQ_INSERT_TAIL(&k->users, u, link);
	}
	u->who = *who;
	u->n_sessions++;
	return u;
}

void
coord__user_put(struct coord *k, struct user *u)
{
	if (--u->n_sessions > 0)
		return;
	TAILQ_REMOVE(&k->users, u, link);
	free(u);
}

int
coord__user_has_room(const struct user *u)
{
	return u->who.slots == 0 || u->n_out < u->who.slots;
}

void
coord__user_run_begins(struct run *r)
{
	struct user *u = r->session->user;

	r->waits = u->who.runs != 0 && u->n_runs >= u->who.runs;
	r->serial = ++r->session->k->serial;
	if (!r->waits)
		u->n_runs++;
	else
		log_info("session %llu: run %llu waits: %s has %u runs at "
		         "work, and may have no more",
		         (unsigned long long)r->session->id,
		         (unsigned long long)r->m.run, u->who.name, u->n_runs);
}

int
coord__user_run_ends(struct run *r)
{
	struct user *u = r->session->user;
	struct session *s;
	struct run *first = NULL;

	if (r->waits)
		return 0;
	u->n_runs--;
	TAILQ_FOREACH(s, &r->session->k->sessions, link)
	if (s->user == u && s->run != NULL && s->run != r && s->run->waits &&
	    (first == NULL || s->run->serial < first->serial))
		first = s->run;
	if (first == NULL || (u->who.runs != 0 && u->n_runs >= u->who.runs))
		return 0;
	first->waits = 0;
	u->n_runs++;
	return 1;
}
