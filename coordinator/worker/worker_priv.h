/*
 * Inside the worker core. Who may call whom:
 *
 *   worker.c    frames from the coordinator, messages to it
 *     wsession.c  a session: runs, the queue of EXECs, which slot gets which
 *       wslot.c     the life of one slot process      watch.c  time-outs
 *         fate.c      why one has ended, and what that means for its task
 *         dial.c      its connection to the client
 *         wlink.c     by which transport, and who hears of it
 *           spawn.h     processes                     wuv.c  libuv handles
 *
 *     wmemory.c   limits, eviction
 *
 * Upwards there are only the session_… calls that wslot.c makes when a slot has
 * news. Everything: drive lock of the loop.
 */
#ifndef COORDINATOR_WORKER_WORKER_PRIV_H
#define COORDINATOR_WORKER_WORKER_PRIV_H

#include <sys/queue.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/log.h"
#include "../../dsm/image/image.h"
#include "../../taskrt/slot/slotctl.h"
#include "spawn.h"
#include "worker.h"

#define SLOT_VARIANTS 2
#define SLOT_OUT_MAX 2 /* EXECs a slot has at a time */
#define SLOT_START_TRIES 3
#define SLOT_DIAL_TRIES 2
#define SLOT_RETRY_MS 100
#define STAGE_SIZE (UINT64_C(64) << 30)

#define ULL(x) ((unsigned long long)(x))

struct wpoll;
struct wtimer;
struct dial;

/* --- wuv.c: handles that may be closed at any time, by their own callback too.
 * Closing frees; NULL is fine. --- */

int wpoll_open(struct dsm_loop *l, int fd, int events, void (*fn)(void *arg),
               void *arg, struct wpoll **p_p);
void wpoll_close(struct wpoll *p);
int wtimer_open(struct dsm_loop *l, void (*fn)(void *arg), void *arg,
                struct wtimer **t_p);
void wtimer_start(struct wtimer *t, uint64_t ms, uint64_t repeat_ms);
void wtimer_stop(struct wtimer *t);
void wtimer_close(struct wtimer *t);

/* --- */

struct wexec {
	uint64_t run, attempt, lo, hi;
	unsigned n_requeued; /* slots that ended before they began it */
};
struct wexec_item {
	struct wexec x;
	STAILQ_ENTRY(wexec_item) link;
};

/*
 * NONE -> DIALLING -> READY -> SPAWNING -> UP -> REAPING -> NONE. Embedded:
 * NONE -> READY. A start that fails goes back to NONE with the retry timer on, and
 * so does slot_kill before SPAWNING.
 */
enum wslot_state {
	WSLOT_NONE,     /* no process and none on its way */
	WSLOT_DIALLING, /* connecting to the client */
	WSLOT_READY,    /* has its descriptors, waits for its turn to start */
	WSLOT_SPAWNING, /* asked for; a reply will come */
	WSLOT_UP,       /* runs; idle when n_out is 0 */
	WSLOT_REAPING,  /* ended; its exit status will come */
};

enum kill_why {
	KILL_NOT,
	KILL_TIMEOUT,  /* its task ran too long */
	KILL_STOPPED,  /* it was stopped for too long */
	KILL_CANCEL,   /* run cancelled, or a newer one has begun */
	KILL_RECALL,   /* its attempt's twin has answered */
	KILL_MEMORY,   /* it uses too much: wslot.over says how much */
	KILL_CLOSING,  /* the session is over */
	KILL_NONSENSE, /* it sent a bad frame */
	KILL_CLOSED,   /* its control stream closed: it is ending anyway */
};

struct wslot {
	struct wsession *ss; /* const */
	uint32_t number;     /* const: in the session, on this worker */
	enum wslot_state state;
	enum kill_why kill_why;
	unsigned variant; /* slot program it was started with */
	int verbs;        /* its client has offered a queue pair */
	int connected;    /* verbs: it has said by which transport */
	struct dial *dial;
	struct wtimer *retry;
	/* Descriptors for the process to come, -1 when not there. */
	int data_fd, stage_fd, control_fd, control_peer_fd;
	int ctl_fd;
	struct slot_ctl *ctl; /* of all its lives; NULL before the first */
	pid_t pid;
	int pidfd;
	struct wpoll *exit_poll;
	struct dsm_handle *control;

	struct wexec out[SLOT_OUT_MAX]; /* out[0] is running */
	unsigned n_out;
	uint64_t used;     /* wmemory.c: bytes, at the last sample */
	char over[256];    /* KILL_MEMORY: what is wrong */
	uint64_t recalled; /* attempt that is not wanted any more; 0: none */
	uint64_t told_run, told_table; /* what its process knows, 0: nothing */
	uint64_t stamp;                /* when it last became busy or idle */
	struct dsm_wbuf wrote; /* u64 attempts of this run with a write set */
	unsigned n_failed_starts, n_failed_dials; /* in a row */

	/* watch.c; times are of the session's `watched` */
	int seen;  /* seen_… are of the task it is at */
	int asked; /* seen: to fail it, at asked_at */
	uint64_t seen_attempt, seen_current, seen_since, asked_at;
	uint64_t stopped; /* for so long it has been */
	uint64_t idled;   /* so long it says it is idle, and owes an answer */
};

/* wlink.c */
struct wlink {
	int client_insists; /* on verbs: its WELCOME said so */
	/* Until then: no warnings, and no verbs unless somebody insists. */
	uint64_t off_until;
	char failure[400];             /* why */
	char transport[16], text[400]; /* what the coordinator was told */
};

enum wsession_state {
	WSESSION_OPEN,
	WSESSION_UNFIT,   /* said so; no slots; remembered until its end */
	WSESSION_CLOSING, /* freed when the last slot is gone */
};

/* wmemory.c: bytes */
struct wmemory_use {
	uint64_t image, slots;
};

struct wsession {
	struct worker *w;
	LIST_ENTRY(wsession) link;
	uint64_t id;
	enum wsession_state state;
	struct dsm_wbuf key;
	char addr[DSM_ADDR_MAX]; /* client's data listener, "": relay only */
	int use_relay;           /* direct connections have failed */
	struct wlink way;
	struct dsm_image image;
	uint64_t memory; /* limit, 0: none */
	struct wmemory_use use;
	uint64_t hand;   /* image offset: where to evict next */
	unsigned n_over; /* samples in a row */
	int tried;
	int keeps;         /* the image has had kept pages */
	unsigned variant;  /* slot program to start */
	unsigned collided; /* bit: that slot program does not fit */

	/* The run whose drops and updates are in the image. */
	uint64_t run;                 /* 0: none yet */
	uint64_t table;               /* version of `ranges`, 0: none yet */
	struct dsm_rec_range *ranges; /* ascending */
	uint32_t n_ranges;
	uint32_t timeout_ms;
	struct dsm_wbuf run_full, run_short; /* RUN for slots: with, without
	                                      * the table of ranges */
	/* RUNs that wait for busy slots to end: the newest one's number or 0;
	 * {u64 length, body} of each, as the drops of all count. */
	uint64_t waiting_run;
	struct dsm_wbuf waiting;
	STAILQ_HEAD(, wexec_item) queue; /* no slot has them yet */
	unsigned n_queued;
	/* watch.c */
	struct wtimer *watch;
	int watching;     /* it is on */
	uint64_t ticked;  /* when, of dsm__now */
	uint64_t watched; /* nanoseconds that count, at the last tick */
	uint64_t looked;  /* at the state of processes, of `watched` */

	unsigned n_slots; /* const */
	struct wslot slots[];
};

struct worker {
	struct dsm_loop *loop;
	struct worker_params p; /* relay: copied */
	char host[64];
	struct spawner *spawner;
	struct wpoll *spawner_poll;
	int image_fd[SLOT_VARIANTS]; /* slot programs, -1 until needed */
	int heap_fd;    /* embedded: the client's heap, for reading; else -1 */
	uint64_t clock; /* for wslot.stamp */
	int draining;   /* worker_drain */
	uint64_t n_oom_kills;        /* oom_kills() as last seen */
	struct wtimer *memory_timer; /* NULL: no limit yet */
	unsigned n_over;             /* samples in a row */
	LIST_HEAD(, wsession) sessions;
	char relay[DSM_ADDR_MAX];
};

/* --- worker.c: to the coordinator --- */

/* A frame of a slot, as it is. */
void worker_pass_on(struct worker *w, const struct dsm_frame *f);
void worker_send_failed(struct wsession *ss, const struct wexec *x,
                        const struct dsm_rec_failure *failure,
                        const char *text);
#define NO_TASK UINT64_MAX
void worker_send_returned(struct worker *w, uint64_t session,
                          const struct wexec *x, uint64_t task,
                          const char *reason);
void worker_send_unfit(struct wsession *ss, const char *reason);
void worker_send_link(struct wsession *ss, const char *transport,
                      const char *text);
/* HELLO with this machine's facts; the caller sets the role. */
void worker_fill_hello(const struct worker *w, struct dsm_msg_hello *h);
/* Descriptor of a slot program; borrowed. */
int worker_image(struct worker *w, unsigned variant, int *fd_p,
                 struct dsm_error *e);

/* --- wsession.c --- */

int session_open(struct worker *w, const struct dsm_msg_session *m);
struct wsession *session_find(struct worker *w, uint64_t id);
/* The client is gone. May free ss. */
void session_close(struct wsession *ss);
/* Free it, whatever state it is in; its processes are gone. */
void session_free(struct wsession *ss);
/* DSM_EPROTO: not a valid RUN. */
int session_run(struct wsession *ss, const uint8_t *body, size_t len);
void session_exec(struct wsession *ss, const struct wexec *x);
void session_cancel(struct wsession *ss, uint64_t run);
/* The attempt is wanted no more. */
void session_recall(struct wsession *ss, uint64_t run, uint64_t attempt);
/* What no slot has goes back to the coordinator. */
void session_drain(struct wsession *ss);
/* This worker cannot serve the session: say so, end its slots. */
void session_unfit(struct wsession *ss, const char *reason);
int session_busy(const struct wsession *ss);
/* From wslot.c. A slot's EXEC was not begun: give it to another. */
void session_requeue(struct wsession *ss, const struct wexec *x);
/* From wslot.c, last: a slot came up, got idle or ended. May free ss. */
void session_settle(struct wsession *ss);

/* --- wslot.c --- */

void slot_init(struct wslot *s, struct wsession *ss, uint32_t number);
/* NONE: begin a new life. */
void slot_start(struct wslot *s);
/* READY: ask for the process now if there is room. */
void slot_spawn(struct wslot *s);
/* Any state. Its end is reported by session_settle, or was immediate. */
void slot_kill(struct wslot *s, enum kill_why why);
/* End the attempt if the slot has it. */
void slot_recall(struct wslot *s, uint64_t attempt);
/* Close what belongs to its life; its process is gone or never was. */
void slot_clear(struct wslot *s);
void slot_fini(struct wslot *s);
void slot_reply(struct wslot *s, const struct spawn_reply *r);
int slot_is_up(const struct wslot *s);
/* Up. Sends the session's RUN (when has not got it) and EXEC. */
void slot_exec(struct wslot *s, const struct wexec *x);
void slot_send_run(struct wslot *s);
/* These pages of the heap are dropped but kept: it is to let go of them. */
void slot_add_stale(struct wslot *s, uint64_t start, uint64_t n_pages);
/* There is none, or it can tell kept pages. */
int slot_can_keep(const struct wslot *s);

/* --- dial.c --- */

struct dialled {
	int fd;                   /* the callback's; -1: see why */
	struct dsm_tls_state tls; /* the connection goes on with these keys */
	int verbs;                /* the client takes a queue pair */
	int hopeless;             /* fd -1: would be the same the next time */
	int silent;    /* fd -1: somebody listens there, but does not answer */
	char why[600]; /* "10.0.0.5:4000: Connection refused; relay …" */
};

/*
 * Connect to the session's client as DATA and exchange HELLO and WELCOME:
 * directly, then, unless verbs is a must, through the relay. done is called once,
 * from the loop.
 */
int dial_start(struct wsession *ss,
               void (*done)(void *arg, const struct dialled *d), void *arg,
               struct dial **d_p);
void dial_cancel(struct dial *d); /* not after done; NULL is fine */

/* --- wlink.c --- */

/* Somebody wants verbs or nothing. */
int link_insists(const struct wsession *ss);
/* Offer verbs to the client in the next HELLO? */
int link_offers_verbs(const struct wsession *ss);
/* Why a slot that was just connected is on TCP; "" is nothing to tell. */
const char *link_why_tcp(const struct wsession *ss, char *buf, size_t size);
/* What a new slot uses; the coordinator hears what it does not know. */
void link_is(struct wsession *ss, const char *transport, const char *text,
             int warn);
/* A queue pair has failed. */
void link_failed(struct wsession *ss, const char *why);

/* --- watch.c --- */

int watch_init(struct wsession *ss);
/* A slot got busy: sample until none is. */
void watch_wake(struct wsession *ss);

/* --- wmemory.c --- */

/* A session has come: watch memory, if there is a limit. */
void memory_watch(struct worker *w);

/* --- slotelf.c --- */

/* The slot program linked at address `variant`; DSM_EINVAL: not built in. */
int slot_elf(unsigned variant, const void **p, size_t *len);

#endif
