/* Who is hit, and when. */
#include "world.h"

#include <signal.h>
#include <stdio.h>

#include "../../dsm/base/clock.h"

void
world_frame(void *arg, enum lane lane, int back, unsigned type)
{
	struct world *w = arg;
	uint64_t *count = type == 0      ? &w->frames[lane][back]
	                  : type < TYPES ? &w->seen[lane][back][type]
	                                 : NULL;

	if (count != NULL)
		++*count;
}

static struct actor *
pick_worker(struct world *w, uint64_t pick)
{
	return &w->workers[pick % w->plan.n_workers];
}

/* Slots come and go: any that a worker, or a program by itself, has now. */
static pid_t
pick_process(struct world *w, uint64_t pick, int keeper)
{
	pid_t all[128];
	size_t n = 0;

	for (unsigned i = 0; i < WORKERS_MAX + CLIENTS_MAX; i++) {
		const struct actor *a = i < WORKERS_MAX
		                            ? &w->workers[i]
		                            : &w->clients[i - WORKERS_MAX];

		if (a->state != ACTOR_RUNNING)
			continue;
		if (keeper)
			n += children_of(a->pid, all + n, 128 - n);
		else
			n += slots_of(a->pid, all + n, 128 - n);
	}
	return n > 0 ? all[pick % n] : 0;
}

static int
stop_slot(struct world *w, pid_t pid, unsigned ms)
{
	if (pid == 0 || w->n_hidden == 16 || kill(pid, SIGSTOP) != 0)
		return 0;
	w->hidden[w->n_hidden] = pid;
	w->hidden_due[w->n_hidden++] = dsm__deadline_ms(ms);
	return 1;
}

void
world_wake_slots(struct world *w, uint64_t now)
{
	for (unsigned i = w->n_hidden; i-- > 0;)
		if (now >= w->hidden_due[i]) {
			kill(w->hidden[i], SIGCONT);
			w->n_hidden--;
			w->hidden[i] = w->hidden[w->n_hidden];
			w->hidden_due[i] = w->hidden_due[w->n_hidden];
		}
}

/* Whether there was anybody to hit. */
static int
strike(struct world *w, const struct strike *s)
{
	struct actor *worker = pick_worker(w, s->pick);
	struct actor *client = &w->clients[s->pick % w->plan.n_clients];
	pid_t pid;

	switch (s->action) {
	case KILL_SLOT:
	case KILL_KEEPER:
		pid = pick_process(w, s->pick, s->action == KILL_KEEPER);
		return pid != 0 && kill(pid, SIGKILL) == 0;
	case STOP_SLOT:
		return stop_slot(w, pick_process(w, s->pick, 0), s->ms);
	case KILL_WORKER:
		return actor_kill(worker, s->ms);
	case STOP_WORKER:
		return actor_stop(worker, s->ms);
	case KILL_CLIENT:
		return actor_kill(client, s->ms);
	case STOP_CLIENT:
		return actor_stop(client, s->ms);
	case CUT_LINK:
		proxy_cut_one(w->proxy, (enum lane)(s->pick % N_LANES),
		              s->pick >> 8);
		return 1;
	case KILL_COORDINATOR:
		return actor_kill(&w->coordinator, s->ms);
	case STOP_COORDINATOR:
		return actor_stop(&w->coordinator, s->ms);
	case N_ACTIONS:
		break;
	}
	return 0;
}

/* Its moment has come. Where frames cannot be read any of them counts. */
static int
is_due(const struct world *w, const struct strike *s)
{
	if (s->type == 0)
		return w->rounds[s->client] >= s->nth;
	return w->seen[s->lane][s->back][s->type] +
	           w->frames[s->lane][s->back] / 4 >=
	       s->nth;
}

void
world_strike(struct world *w)
{
	for (unsigned i = 0; i < w->plan.n_strikes; i++) {
		struct strike *s = &w->plan.strikes[i];

		if (s->fired || !is_due(w, s))
			continue;
		s->fired = 1;
		if (!strike(w, s))
			continue;
		totals->strikes[s->action]++;
		if (w->verbose)
			fprintf(stderr, "strike %u: %s, for %u ms\n", i,
			        plan_actions[s->action], s->ms);
	}
}
