/*
 * The core's own structures. Who owns what:
 *
 *   coord -> peers (connections) -> client's session, worker
 *   session -> sworkers (its side of each worker) -> run -> attempts
 *
 * A sworker exists for every pair of a live session and a live worker, and is in
 * a list of each. An attempt in state OUT or DONE is in its sworker's list
 * `held`, an attempt in another state belongs to nobody. Two attempts that are held
 * may have the same tasks: twins (copies.c).
 */
#ifndef COORDINATOR_CORE_CORE_H
#define COORDINATOR_CORE_CORE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/counters.h"
#include "../../dsm/base/log.h"
#include "../../dsm/base/status.h"
#include "../../dsm/wire/wire.h"
#include "coord.h"
#include "races.h"
#include "sched.h"

#define COORD_NAME_MAX 96
#define COORD_REASON_MAX 200
#define COORD_CPU_MAX 256
/* A run that failed so often stops, unless it keeps partial results. */
#define COORD_MAX_FAILURES 10000
/* Even then: the verdict lists them all, in one frame. */
#define COORD_MOST_FAILURES 250000

/* --- peers (coord.c) --- */

struct coord_peer {
	TAILQ_ENTRY(coord_peer) link;
	struct coord_link *out;
	/* Whose token it has shown; no name: there are no tokens, all is allowed.
	 * A session is its client's: session->client->who. */
	struct dsm_identity who;
	unsigned role;
	char name[COORD_NAME_MAX]; /* of the connection, for logs */
	uint64_t last_heard;       /* 0: not looked at yet */
	uint64_t next_ping, ping_seq;
	int stopped; /* a client that is silent, but not gone */
	int closing; /* close was called: it hears and says no more */
	char reason[COORD_REASON_MAX]; /* why closing */
	struct session *session;       /* role client */
	struct worker_peer *worker;    /* role worker */
};

struct worker_peer {
	TAILQ_ENTRY(worker_peer) link;
	struct coord *k;
	struct coord_peer *peer;
	uint64_t id;
	char name[COORD_NAME_MAX]; /* host */
	uint8_t key[DSM_KEY_LEN];  /* who shows it is this worker, come back */
	unsigned n_slots;
	unsigned n_out;   /* attempts OUT, over all sessions */
	int draining;     /* it leaves when it holds nothing any more */
	int released;     /* and was told so */
	uint64_t n_tasks; /* done here */
	uint8_t cpu[COORD_CPU_MAX];
	size_t cpu_len;
	TAILQ_HEAD(, sworker) sessions;
};

/* users.c */
struct user {
	TAILQ_ENTRY(user) link;
	struct dsm_identity who; /* with its quotas */
	unsigned n_sessions;
	unsigned n_runs; /* at work */
	uint64_t n_out;  /* attempts, of all its sessions */
};

struct coord {
	struct coord_params params;
	uint64_t now, last_tick; /* as last passed in */
	uint64_t next_session, next_worker;
	uint64_t serial; /* of EXECs, for round robin */
	TAILQ_HEAD(, coord_peer) peers;
	TAILQ_HEAD(, worker_peer) workers;
	TAILQ_HEAD(, session) sessions;
	TAILQ_HEAD(, user) users;
	struct dsm_wbuf buf; /* scratch of encoders */
	struct dsm_wbuf raw; /* scratch of dsm__unsqueeze */
};

/* A client that has so much to read yet gets nothing new to do. */
#define COORD_SLOW ((size_t)16 << 20)
/* A peer that has so much to read yet is closed: larger than any run's messages. */
#define COORD_DEAF ((size_t)512 << 20)
size_t coord__peer_backlog(const struct coord_peer *p);
void coord__peer_send(struct coord_peer *p, unsigned type, const void *body,
                      size_t len);
/* Send what k->buf holds (err: of the encoder that filled it), empty it. */
void coord__peer_send_buf(struct coord *k, struct coord_peer *p, unsigned type,
                          int err);
/* REFUSE and close. Returns code. */
int coord__peer_refuse(struct coord_peer *p, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* --- sessions (session.c) --- */

/*
 * UNFIT with told = 1: it said so by itself, and must hear SESSION_END. What it said may
 * be over (a way to the client that was broken), so it becomes TOLD again after a
 * pause that doubles, while there is a run; then it is *doubtful* until it has done
 * something: a run does not count on it.
 */
enum sworker_state {
	SWORKER_UNTOLD, /* SESSION not sent yet */
	SWORKER_TOLD,   /* gets every RUN, may get EXECs */
	SWORKER_UNFIT,  /* gets nothing */
};

struct sworker {
	TAILQ_ENTRY(sworker) of_session, of_worker;
	struct session *session;
	struct worker_peer *worker;
	enum sworker_state state;
	int told;
	int has_table;            /* it was sent the session's ranges */
	int doubtful;             /* TOLD again, and not heard of */
	uint64_t retry_at, pause; /* UNFIT: when, how long after it said so */
	char reason[COORD_REASON_MAX]; /* UNFIT; of the last time */
	/* How its newest slot reaches the client, "": it has not said. */
	char transport[16], link_text[COORD_REASON_MAX];
	unsigned n_out;   /* attempts OUT */
	uint64_t n_tasks; /* done here */
	TAILQ_HEAD(, attempt) held;
};

struct session {
	TAILQ_ENTRY(session) link;
	struct coord *k;
	struct coord_peer *client;
	struct user *user;
	uint64_t id;
	uint8_t key[DSM_KEY_LEN];
	char name[COORD_NAME_MAX];
	char addr[DSM_ADDR_MAX];
	uint32_t pid;
	uint8_t cpu[COORD_CPU_MAX];
	size_t cpu_len;
	TAILQ_HEAD(, sworker) workers;
	uint64_t n_slots; /* of the TOLD ones */
	uint8_t *table;   /* newest ranges, packed */
	uint32_t n_ranges;
	struct dsm_wbuf advice; /* the last RUN's, packed */
	uint32_t n_advice;
	uint64_t last_run;
	uint64_t next_attempt;
	uint64_t last_exec;    /* coord.serial */
	struct run *run;       /* in flight, or NULL */
	struct dsm_wbuf costs; /* its last COSTS, checked; may be empty */
};

int coord__session_create(struct coord *k, struct coord_peer *client,
                          const struct dsm_msg_hello *hello,
                          struct session **s_p);
/* SESSION_END to its workers; ends its run without a verdict. */
void coord__session_destroy(struct session *s);
/* costs.c: a client's COSTS; its i-th line, with what it is about: how many lines are
 * left from there, 0: none. */
int coord__session_costs(struct session *s, const struct dsm_frame *f);
size_t coord__session_cost(const struct session *s, size_t i,
                           struct dsm_rec_cost *r_p, char *what, size_t size);
struct session *coord__session_find(struct coord *k, uint64_t id);
/* Pair the session with a worker: TOLD and the run in flight, or UNFIT. */
int coord__session_meet(struct session *s, struct worker_peer *w);
void coord__sworker_destroy(struct sworker *sw);
/* The worker gets no more work: its slots count for no session. */
void coord__worker_drain(struct worker_peer *w);
/* Tell a worker that drains and holds nothing that it may go. */
void coord__worker_release(struct worker_peer *w);
int coord__takes_work(const struct worker_peer *w);
void coord__sworker_unfit(struct sworker *sw, const char *reason);
/* Those who have said that they are unfit are asked again when it is time: they are
 * TOLD, and hear of the run in flight. */
void coord__session_ask_again(struct session *s);
/* Keep of a RUN what a worker that joins later needs: the table, if it has one, and
 * the advice. DSM_ENOMEM. */
int coord__session_keep(struct session *s, const struct dsm_msg_run *m);

/* --- users: users.c --- */

/* Of that name, made if there is none. NULL: out of memory. */
struct user *coord__user_get(struct coord *k, const struct dsm_identity *who);
void coord__user_put(struct coord *k, struct user *u);
/* May it have one more attempt out? */
int coord__user_has_room(const struct user *u);
/* Once each for every run. 1: another one has stopped waiting, dispatch. */
void coord__user_run_begins(struct run *r);
int coord__user_run_ends(struct run *r);

/* --- runs and attempts --- */

/* DONE, waiting for STORED. */
struct done {
	struct done *next; /* what came before it, in MASKS */
	uint8_t *masks;    /* raw; NULL when nothing was written */
	uint32_t n_sets;
	struct dsm_rec_taskset sets[];
};

enum attempt_state {
	ATTEMPT_OUT,
	ATTEMPT_DONE,
	ATTEMPT_COMPLETE, /* accepted, unless the run fails */
	ATTEMPT_BACK,     /* pending again */
	ATTEMPT_VOID,     /* failed: its writes do not count */
};

struct attempt {
	TAILQ_ENTRY(attempt) link; /* sw->held */
	struct sworker *sw;        /* NULL unless OUT or DONE */
	struct done *done;         /* OUT: of MASKS; DONE: all */
	struct attempt *twin;      /* of the same tasks, held too; or NULL */
	uint64_t id, lo, hi;
	uint64_t given; /* when EXEC was sent */
	uint32_t n_lost;
	uint8_t state;
	uint8_t copy;   /* the second of two */
	uint8_t stored; /* STORED is in (it may overtake DONE) */
};

#define ATTEMPT_BLOCK 128 /* small: most runs have few attempts */

struct failures {
	struct dsm_rec_failure *v;
	size_t n, cap;
	struct dsm_wbuf texts;
	uint64_t n_lost;     /* of kind DSM_FAIL_LOST */
	uint32_t n_contexts; /* of those that have one */
};

struct run {
	struct session *session;
	struct dsm_msg_run m; /* without arrays; strings in `name` */
	char name[COORD_NAME_MAX];
	uint64_t total;
	struct sched sched;
	struct races *races;
	struct attempt **blocks; /* by id - first_attempt; they do not move */
	size_t n_attempts, cap_blocks;
	uint64_t first_attempt;
	uint64_t serial;           /* of its launch */
	int waits;                 /* its user has as many runs as it may */
	uint64_t n_out, n_held;    /* OUT; OUT or DONE */
	uint64_t n_done, n_failed; /* tasks */
	struct failures failures;
	struct dsm_counters counters;
	uint64_t started, next_progress;
	uint64_t next_copies; /* when to look for stragglers */
	uint64_t alone_since; /* no usable worker since then; 0: there is one */
	int out_of_memory;    /* coord__run_settle ends it */
};

/* --- runs: run.c --- */

int coord__run_start(struct session *s, const struct dsm_frame *f);
/* RUN with the whole table to a worker that knows nothing. */
void coord__run_tell(struct run *r, struct sworker *sw);
int coord__run_cancel(struct session *s, const struct dsm_frame *f);
/* Send the verdict when nothing is left to do; r may be gone afterwards. */
void coord__run_settle(struct run *r);
/* End now, with CANCEL to the workers. */
void coord__run_finish(struct run *r, int code, const char *text);
/* The same without a verdict, as the session ends. */
void coord__run_destroy(struct run *r);
/* Progress and time-outs. Returns when to call again. */
uint64_t coord__run_tick(struct run *r, uint64_t now);

/* --- attempts: attempt.c --- */

struct attempt *coord__run_attempt(const struct run *r, size_t i);
/* NULL: never given out in this run. */
struct attempt *coord__attempt_find(const struct run *r, uint64_t id);
/* Out of OUT or DONE. */
void coord__attempt_leave(struct run *r, struct attempt *a,
                          enum attempt_state to);
int coord__run_done(struct coord *k, struct worker_peer *w,
                    const struct dsm_frame *f);
int coord__run_masks(struct coord *k, struct worker_peer *w,
                     const struct dsm_frame *f);
int coord__run_fetched(struct coord *k, struct worker_peer *w,
                       const struct dsm_frame *f);
int coord__run_returned(struct coord *k, struct worker_peer *w,
                        const struct dsm_frame *f);
int coord__run_stored(struct session *s, const struct dsm_frame *f);
/*
 * Everything the worker holds of the run is pending again. blame: the tasks
 * count as lost. Then call coord__run_settle.
 */
void coord__run_take_back(struct run *r, struct sworker *sw, int blame,
                          const char *reason);

/* --- second copies: copies.c --- */

/* Start copies of what is late, on slots that have nothing else to do. Returns when
 * to look again. */
uint64_t coord__copies_tick(struct coord *k, uint64_t now);
/* a's answer counts, or a is lost: which of the two goes on is no question any more. */
void coord__copies_part(struct attempt *a);
/* a's answer counts: its twin is ended, wherever it is. */
void coord__copies_drop_twin(struct run *r, struct attempt *a);

/* --- DONE messages: report.c --- */

/* A decoded and checked DONE. */
struct report {
	struct dsm_msg_done m;
	struct dsm_counters counters;
	int failed;
	struct dsm_rec_failure failure; /* of the first task that failed */
	struct done *done;              /* owned, also after an error */
};

/* rep->m is decoded; fill in the rest. DSM_EPROTO, DSM_ENOMEM. */
int coord__report_read(struct coord *k, struct run *r, const struct attempt *a,
                       struct report *rep);
/* Keep them with the attempt until its DONE. */
int coord__masks_read(struct coord *k, struct attempt *a,
                      const struct dsm_msg_masks *m);
void coord__done_free(struct done *d);
/* Each task is its own writer. */
int coord__run_isolated(const struct run *r);

/* --- dispatch.c --- */

/* Give out pending work: to all workers, or to one that has just got a slot
 * free. */
void coord__dispatch(struct coord *k);
void coord__dispatch_to(struct coord *k, struct worker_peer *w);
/* Slots that may work on the run at a time. */
uint64_t coord__usable_slots(const struct run *r);
/* Send the tasks to the worker: a new attempt, OUT. NULL: out of memory, which the
 * run's next tick ends it for. */
struct attempt *coord__hand_out(struct coord *k, struct sworker *sw,
                                const struct sched_iv *iv);

/* --- verdicts (verdict.c) --- */

int coord__failure_add(struct failures *fs, const struct dsm_rec_failure *f,
                       struct dsm_blob text, struct dsm_blob context);
void coord__failures_fini(struct failures *fs);
/* code 0: worked out from races and failures, with a text of its own. */
void coord__verdict_send(struct run *r, int code, const char *text);

#endif
