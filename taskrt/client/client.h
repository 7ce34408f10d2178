/*
 * The process's default client: configuration, session, the run in flight. The
 * one implicit context of taskrt.h.
 *
 * Locks, in order:
 *   run_lock      held by who launches, waits or commits: one run at a time.
 *                 Waiting for a run's end keeps it
 *   session_lock  held for an instant: `session` and a run's `session` may be used
 *                 by taskrt_cancel, which must not wait for run_lock
 *   drive lock    of the session's loop
 *   heap lock     dsm/heap/heap.h
 */
#ifndef TASKRT_CLIENT_CLIENT_H
#define TASKRT_CLIENT_CLIENT_H

#include <pthread.h>

#include "../../dsm/base/counters.h"
#include "../../dsm/base/status.h"
#include "config.h"
#include "costs.h"
#include "session.h"
#include "threads.h"

struct taskrt_run;

/* For TASKRT_STAT. A block of its own: the client's lies among data that tasks
 * read, whose pages are sent again at each launch when anything in them changed. */
struct taskrt__sums {
	struct dsm_counters totals; /* of all runs */
	struct taskrt__links links; /* of the sessions that have ended */
	/* NULL without TASKRT_STAT. Drive lock while a run is on, else run_lock. */
	struct taskrt__costs *costs;
	int heap_shared; /* with the slots of the last run */
	uint64_t n_runs;
};

struct taskrt__client {
	pthread_mutex_t run_lock;
	pthread_mutex_t session_lock;
	struct taskrt__session *session; /* both locks to change, one to read */
	struct taskrt_run *run;          /* run_lock: in flight */

	/* run_lock, all below */
	int configured;
	struct taskrt__config config;
	int have_threads;
	struct taskrt__threads threads;
	struct taskrt__sums *sums; /* there when a session has been */
};

struct taskrt__client *taskrt__client_default(void);

/* run_lock held. The session, made or made again as needed. */
int taskrt__client_session(struct taskrt__client *c,
                           struct taskrt__session **s_p, struct dsm_error *e);
/* run_lock held: end the session, if there is one. */
void taskrt__client_end_session(struct taskrt__client *c);

#endif
