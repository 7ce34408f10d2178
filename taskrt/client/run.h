/*
 * One run, from its launch to its report.
 *
 * States
 *   in flight  RUN was sent; the session's callbacks feed it (drive lock).
 *              While its session is REJOINING it is nobody's; then RUN is sent
 *              once more, by resubmit.c
 *   over       verdict, or the session is lost: nothing more comes for it
 *   finished   committed or not, its report is made; it waits for taskrt_wait
 *
 * A launch by any thread finishes the run in flight first.
 */
#ifndef TASKRT_CLIENT_RUN_H
#define TASKRT_CLIENT_RUN_H

#include <stdint.h>

#include "../../dsm/base/counters.h"
#include "../../dsm/base/status.h"
#include "../../dsm/heap/stage.h"
#include "../../dsm/wire/wire.h"
#include "progress.h"
#include "report.h"
#include "session.h"

struct taskrt__client;

/* What to run, before it is a run. */
struct taskrt__job {
	enum dsm_run_mode mode;
	uint64_t fn, ctx;    /* as in RUN */
	uint64_t begin, end; /* tasks; not empty */
	int async;           /* the program goes on meanwhile */
};

struct taskrt_run {
	struct taskrt__session *session; /* session_lock; NULL when finished */
	uint64_t id;                     /* drive lock */
	struct dsm_msg_run m;            /* RUN, but for what it borrows; const
	                                  * after launch */
	struct taskrt__job job;
	int keep_partial;
	int exclusive; /* no other thread of the program ran at the launch */
	char *name;    /* "" if none */
	void *tasks;   /* dsm_malloc'ed copy of the task array, or NULL */

	/* drive lock until over */
	int over;
	int cancelled;           /* CANCEL was sent */
	unsigned n_resent;       /* RUN was sent so often again */
	struct dsm_error lost;   /* why, when there is no verdict */
	struct dsm_wbuf verdict; /* the message's body; empty: lost */
	struct dsm_stage *stage;
	struct taskrt__progress progress;
	struct taskrt__costs *costs; /* NULL: nobody asked */

	uint64_t launched; /* when, of dsm__now */
	struct dsm_counters counters;

	/* run_lock */
	int finished;
	struct taskrt__report *report; /* NULL: error is all there is */
	struct dsm_error error;
};

/*
 * Launch a job: *run_p is in flight, or finished already when there was nothing
 * to do. Failure: the calling thread's report says why.
 */
int taskrt__run_launch(const struct taskrt__job *job,
                       const struct taskrt_options *opt,
                       struct taskrt_run **run_p);
/* Launch and wait: what taskrt_run and the loops are. */
int taskrt__run_whole(const struct taskrt__job *job,
                      const struct taskrt_options *opt);

/* run_lock held: wait for the client's run in flight, commit, make its report. */
void taskrt__run_finish(struct taskrt__client *c);
/* It has no session any more: taskrt_wait gives TASKRT_ECONN and `why`. */
void taskrt__run_forget(struct taskrt_run *run, const char *why);

/* --- drive lock held: from the session --- */

int taskrt__run_verdict(struct taskrt_run *run, const uint8_t *body,
                        uint32_t len);
void taskrt__run_progress(struct taskrt_run *run,
                          const struct dsm_msg_progress *m);
void taskrt__run_fetched(struct taskrt_run *run,
                         const struct dsm_array *places);
/* Its twin has answered: what it has written is dropped. */
void taskrt__run_forget_attempt(struct taskrt_run *run, uint64_t attempt);
/* A part of an attempt's write set; staged: its bytes, or NULL: in the message. */
int taskrt__run_writes(struct taskrt_run *run, const struct dsm_msg_writes *m,
                       const uint8_t *staged);
/* Its session has lost the way to the coordinator. 1: what has come of it is thrown
 * away, taskrt__run_resubmit follows. 0: it cannot go on. */
int taskrt__run_may_resume(struct taskrt_run *run);
/* To its session's new coordinator. */
void taskrt__run_resubmit(struct taskrt_run *run);
struct taskrt__launch;
/* With its session; NULL is fine. */
void taskrt__launch_free(struct taskrt__launch *l);
/* It ends without a verdict. */
void taskrt__run_end(struct taskrt_run *run, const struct dsm_error *why);

#endif
