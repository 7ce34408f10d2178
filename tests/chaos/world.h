/*
 * A seed's cluster: its processes, the proxy between them, what has befallen them.
 *
 * Phases: world_begin -> world_break (until all programs have done their rounds) ->
 * world_leave_alone (until their last runs have succeeded) -> world_look_for_leaks ->
 * world_end. Each returns 0, or -1 after world_fail.
 */
#ifndef TESTS_CHAOS_WORLD_H
#define TESTS_CHAOS_WORLD_H

#include <signal.h>
#include <stdint.h>

#include "actors.h"
#include "plan.h"
#include "proxy.h"

#define SEED_SECONDS 60 /* of one seed, on a machine that is not busy */
#define CLEAN_MS 15000  /* what is left must be gone by then */
#define TYPES 64

/* Of all seeds; shared by their processes. */
struct totals {
	_Atomic uint64_t passed, failed;
	_Atomic uint64_t runs, committed, refused, planned;
	_Atomic uint64_t links[N_LANES], bytes, frames;
	_Atomic uint64_t shorts, delayed, cut, stalled, doubled;
	_Atomic uint64_t strikes[N_ACTIONS];
};

extern struct totals *totals;
extern volatile sig_atomic_t world_ended; /* by a signal */

struct world {
	struct plan plan;
	const char *build;
	char dir[64], tmp[80];
	char tokens[80]; /* "": none, nothing is encrypted */
	char ip[32];
	struct proxy *proxy;
	struct actor coordinator;
	struct actor workers[WORKERS_MAX];
	struct actor clients[CLIENTS_MAX];
	unsigned rounds[CLIENTS_MAX];
	int waits[CLIENTS_MAX], right[CLIENTS_MAX];
	uint64_t seen[N_LANES][2][TYPES];
	uint64_t frames[N_LANES][2]; /* those of no type */
	int coordinator_files;
	pid_t hidden[16]; /* slots that are stopped */
	uint64_t hidden_due[16];
	unsigned n_hidden;
	uint64_t deadline;
	int verbose;
	char failure[700]; /* "": none yet */
};

/* The first reason stays. Returns -1. */
int world_fail(struct world *w, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Whatever there is to do, for up to ms milliseconds. */
void world_step(struct world *w, int ms);

int world_begin(struct world *w);
int world_break(struct world *w);
int world_leave_alone(struct world *w);
int world_look_for_leaks(struct world *w); /* leaks.c */
int world_end(struct world *w);            /* leaks.c */

/* --- strikes.c --- */

/* The proxy's frame callback; arg is the world. */
void world_frame(void *arg, enum lane lane, int back, unsigned type);
/* Those whose moment has come. */
void world_strike(struct world *w);
/* Slots that were stopped for a time go on. */
void world_wake_slots(struct world *w, uint64_t now);

#endif
