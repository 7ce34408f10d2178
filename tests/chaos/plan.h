/*
 * What befalls a cluster: all that a seed decides. A seed's profile (seed modulo
 * N_PROFILES) says what kind of thing happens; how much, where and when is drawn.
 *
 * A *strike* hits a process, at a moment that the work itself comes to: when the n-th
 * frame of a type passes the proxy, or when a program begins its n-th round.
 */
#ifndef TESTS_CHAOS_PLAN_H
#define TESTS_CHAOS_PLAN_H

#include <stdint.h>

#include "proxy.h"

#define WORKERS_MAX 3
#define CLIENTS_MAX 3
#define STRIKES_MAX 8

enum profile {
	PROFILE_PIECES,  /* short reads and writes, small delays */
	PROFILE_DELAYS,  /* connections overtake each other */
	PROFILE_CUTS,    /* connections end */
	PROFILE_STALLS,  /* connections fall silent */
	PROFILE_DOUBLES, /* second connections with the same credentials */
	PROFILE_SLOTS,   /* slots and keepers are hit */
	PROFILE_WORKERS, /* workers, coordinator and programs are hit */
	PROFILE_ALL,
	N_PROFILES,
};

enum action {
	KILL_SLOT,
	STOP_SLOT,
	KILL_KEEPER,
	KILL_WORKER,
	STOP_WORKER,
	KILL_CLIENT,
	STOP_CLIENT,
	CUT_LINK,
	KILL_COORDINATOR,
	STOP_COORDINATOR,
	N_ACTIONS,
};

struct strike {
	/* Moment: type != 0: its nth frame; 0: the round of a client. */
	enum lane lane;
	int back;
	unsigned type, nth;
	unsigned client;
	enum action action;
	uint64_t pick; /* which of those there are */
	unsigned ms;   /* until it is back */
	int fired;
};

struct plan {
	uint64_t seed;
	enum profile profile;
	unsigned n_workers, n_slots[WORKERS_MAX];
	unsigned n_clients, n_rounds;
	int relayed[CLIENTS_MAX];  /* no data link reaches it */
	int embedded[CLIENTS_MAX]; /* it has no coordinator */
	int segv[WORKERS_MAX];     /* faults by SIGSEGV */
	int tls;                   /* tokens: all connections are encrypted */
	unsigned heartbeat_ms;
	struct proxy_odds odds;
	struct strike strikes[STRIKES_MAX];
	unsigned n_strikes;
};

extern const char *const plan_profiles[N_PROFILES];
extern const char *const plan_actions[N_ACTIONS];

void plan_make(struct plan *p, uint64_t seed);

#endif
