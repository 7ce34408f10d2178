#include "plan.h"

#include "../../dsm/wire/wire.h"
#include "rng.h"

const char *const plan_profiles[N_PROFILES] = {
    "pieces", "delays", "cuts", "stalls", "doubles", "slots", "workers", "all"};
const char *const plan_actions[N_ACTIONS] = {
    "slot killed",        "slot stopped",   "keeper killed",
    "worker killed",      "worker stopped", "program killed",
    "program stopped",    "connection cut", "coordinator killed",
    "coordinator stopped"};

/* Where in the work it may happen. */
static const struct {
	enum lane lane;
	int back;
	unsigned type;
} moments[] = {
    {LANE_WORKER, 1, DSM_MSG_SESSION}, {LANE_WORKER, 1, DSM_MSG_RUN},
    {LANE_WORKER, 1, DSM_MSG_EXEC},    {LANE_WORKER, 1, DSM_MSG_EXEC},
    {LANE_WORKER, 0, DSM_MSG_DONE},    {LANE_WORKER, 0, DSM_MSG_DONE},
    {LANE_CLIENT, 0, DSM_MSG_RUN},     {LANE_CLIENT, 0, DSM_MSG_STORED},
    {LANE_CLIENT, 0, DSM_MSG_STORED},  {LANE_CLIENT, 1, DSM_MSG_VERDICT},
    {LANE_CLIENT, 1, DSM_MSG_VERDICT}, {LANE_DATA, 0, DSM_MSG_READ},
    {LANE_DATA, 0, DSM_MSG_WRITES},    {LANE_DATA, 0, DSM_MSG_BORROW},
    {LANE_DATA, 1, DSM_MSG_PAGES},     {LANE_DATA, 1, DSM_MSG_PAGES},
};

static enum action
draw_action(struct rng *r, enum profile profile)
{
	static const enum action slots[] = {KILL_SLOT, KILL_SLOT, STOP_SLOT,
	                                    KILL_KEEPER};
	static const enum action workers[] = {
	    KILL_WORKER,      KILL_WORKER, STOP_WORKER, KILL_COORDINATOR,
	    STOP_COORDINATOR, KILL_CLIENT, STOP_CLIENT};

	if (profile == PROFILE_SLOTS)
		return slots[rng_below(r, sizeof(slots) / sizeof(*slots))];
	if (profile == PROFILE_WORKERS)
		return workers[rng_below(r,
		                         sizeof(workers) / sizeof(*workers))];
	return (enum action)rng_below(r, N_ACTIONS);
}

static void
draw_strike(struct plan *p, struct rng *r)
{
	struct strike *s = &p->strikes[p->n_strikes++];
	size_t at = rng_below(r, sizeof(moments) / sizeof(*moments));

	s->lane = moments[at].lane;
	s->back = moments[at].back;
	s->type = moments[at].type;
	s->nth = (unsigned)rng_log(r, 6);
	s->client = (unsigned)rng_below(r, p->n_clients);
	/* Programs by themselves have no frames to be seen. */
	if (p->embedded[s->client] || rng_chance(r, 20)) {
		s->type = 0;
		s->nth = (unsigned)rng_range(r, 1, p->n_rounds);
	}
	s->action = draw_action(r, p->profile);
	s->pick = rng_next(r);
	s->ms = (unsigned)rng_range(r, 5, 40 + 8 * p->heartbeat_ms);
}

static void
draw_odds(struct plan *p, struct rng *r)
{
	struct proxy_odds *o = &p->odds;
	int all = p->profile == PROFILE_ALL;

	o->delay_us = (uint32_t)rng_log(r, 12);
	o->stall_ms = 8 * p->heartbeat_ms;
	o->shorts = p->profile == PROFILE_PIECES ? 70 : 10;
	o->delay = p->profile == PROFILE_DELAYS ? 80 : 20;
	if (p->profile == PROFILE_PIECES && o->delay_us > 500)
		o->delay_us = 500;
	o->cut = p->profile == PROFILE_CUTS ? 35 : all ? 10 : 0;
	o->stall = p->profile == PROFILE_STALLS ? 35 : all ? 10 : 0;
	o->doubles = p->profile == PROFILE_DOUBLES ? 50 : all ? 10 : 0;
}

void
plan_make(struct plan *p, uint64_t seed)
{
	struct rng r = rng_of(seed, 0);
	unsigned n = 0;

	*p = (struct plan){.seed = seed,
	                   .profile = (enum profile)(seed % N_PROFILES)};
	p->n_workers = (unsigned)rng_range(&r, 1, WORKERS_MAX);
	for (unsigned i = 0; i < p->n_workers; i++) {
		p->n_slots[i] = (unsigned)rng_range(&r, 1, 2);
		p->segv[i] = rng_chance(&r, 15);
	}
	p->n_clients = (unsigned)rng_range(&r, 1, 2);
	p->n_rounds = (unsigned)rng_range(&r, 3, 6);
	for (unsigned i = 0; i < p->n_clients; i++)
		p->relayed[i] = rng_chance(&r, 25);
	p->heartbeat_ms = (unsigned)rng_range(&r, 60, 140);
	p->tls = rng_chance(&r, 40);
	/* Of itself no proxy sees anything. */
	if (p->profile == PROFILE_SLOTS)
		p->embedded[0] = rng_chance(&r, 40);
	draw_odds(p, &r);
	if (p->profile == PROFILE_SLOTS || p->profile == PROFILE_WORKERS)
		n = (unsigned)rng_range(&r, 2, 6);
	else if (p->profile == PROFILE_ALL)
		n = (unsigned)rng_range(&r, 1, 5);
	while (p->n_strikes < n)
		draw_strike(p, &r);
}
