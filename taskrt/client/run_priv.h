/*
 * A run's parts, and who calls whom:
 *
 *   run.c        its life: taskrt_wait, taskrt_cancel, what its session says of it
 *     launch.c     freeze memory, describe it, send RUN
 *     resubmit.c   RUN once more, to a coordinator that came back
 *     commit.c     read the verdict, apply all or nothing
 *     runreport.c  what the program is told
 */
#ifndef TASKRT_CLIENT_RUN_PRIV_H
#define TASKRT_CLIENT_RUN_PRIV_H

#include "run.h"

#define CLIENT_RACES_MAX 16

/* What became of it. */
struct outcome {
	struct dsm_error error; /* code 0: all is well */
	struct dsm_msg_verdict verdict;
	struct taskrt_race client_races[CLIENT_RACES_MAX];
	size_t n_client_races;
};

/* --- run.c --- */

/* NULL: no memory. */
struct taskrt_run *taskrt__run_new(const struct taskrt__job *job,
                                   const struct taskrt_options *opt);
void taskrt__run_free(struct taskrt_run *run);

/* --- launch.c; drive lock held --- */

/* Pack advice on the heap for RUN; *n_p: how many. Heap lock held. */
int taskrt__launch_advice(struct taskrt__session *s, struct dsm_wbuf *w,
                          uint32_t *n_p);
/* Send what run->m and the arrays of m make together. */
int taskrt__launch_send(struct taskrt_run *run, const struct dsm_msg_run *m,
                        struct dsm_error *e);

/* --- commit.c; the run is over --- */

/* Nobody but us can have written when nobody else runs. */
int taskrt__run_went_on(const struct taskrt_run *run);
/* Decode what came, or tell why nothing did. */
void taskrt__run_read_verdict(struct taskrt_run *run, struct outcome *o);
/* Drive lock held: did the program write outside the heap where tasks did? The page
 * server knows what they were given. */
void taskrt__run_look_outside(struct taskrt_run *run, struct outcome *o);
/* Heap lock held: apply the write sets, all or none. */
void taskrt__run_commit(struct taskrt_run *run, struct outcome *o);

/* --- runreport.c --- */

/* run->report and run->error. */
void taskrt__run_report(struct taskrt_run *run, const struct outcome *o);

#endif
