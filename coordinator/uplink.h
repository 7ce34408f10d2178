/*
 * A worker's connection to its coordinator: made, greeted, watched, made again.
 *
 * States:
 *   WAITING     until the next attempt; timer
 *   CONNECTING  TCP connect under way, or its failure to be noticed
 *   GREETING    HELLO sent; WELCOME must come within WELCOME_MS
 *   JOINED      frames are the worker core's
 *   OVER        given up; the loop has been stopped
 *
 *   WAITING -> CONNECTING -> GREETING -> JOINED; from any of them, when the
 *   connection fails -> WAITING, or -> OVER: refused, another version, the first
 *   attempts took longer than wait_ms, or lost with `once`.
 */
#ifndef COORDINATOR_UPLINK_H
#define COORDINATOR_UPLINK_H

#include "../dsm/transport/access.h"
#include "../dsm/transport/loop.h"
#include "worker/worker.h"

struct uplink;

struct uplink_params {
	const char *addr; /* HOST:PORT of the coordinator */
	const char *name; /* shown for this worker; NULL: the host name */
	uint64_t wait_ms; /* for the first WELCOME */
	int once;         /* lost: end instead of connecting again */
	struct dsm_access access;
};

int uplink_create(struct dsm_loop *loop, const struct uplink_params *p,
                  struct uplink **u_p);
/* For struct worker_params. */
struct coord_link *uplink_link(struct uplink *u);
/* Begin. The worker must live until uplink_stop. */
void uplink_start(struct uplink *u, struct worker *w, unsigned n_slots);
/* Finish what slots have, take no more, then stop the loop with status 0. Returns the
 * number of slots at work; 0 and not joined: the loop is stopped already. */
unsigned uplink_drain(struct uplink *u);
/* For struct worker_params. arg: the uplink. */
void uplink_drained(void *arg);
/* Disconnect; nothing reaches the worker from here on. */
void uplink_stop(struct uplink *u);
/* After dsm__loop_run: the exit status. */
int uplink_status(const struct uplink *u);
/* After the loop has been destroyed. */
void uplink_free(struct uplink *u);

#endif
