/*
 * The coordinator daemon: connections around the coordinator's core.
 *
 * Every accepted connection is a `visit`. Its states:
 *   NEW      accepted; handshake and HELLO must come within HELLO_MS
 *   PEER     client, worker or tool: its frames are the core's
 *   WAITING  HELLO as data link; its client was asked to connect back
 *   JOINED   one end of a relay: frames go to `other`, unread
 *   DRAINING its other end is gone; what is queued goes out, then it closes
 *   DENIED   its handshake failed: it hears of that, and is gone, DENIED_MS
 *            later, so that guessing takes time
 *   DOOMED   of no more use; closed from the loop
 *
 *   NEW -> PEER | WAITING | JOINED | DENIED | DOOMED
 *   WAITING -> JOINED | DOOMED
 *   JOINED -> DRAINING | DOOMED                 any -> DOOMED
 *
 * Everything belongs to the loop's one thread. No visit is freed while the core
 * runs: the core may close links that its caller still uses. They become DOOMED
 * and are buried from a timer.
 *
 *   server.c  listening, timers     admit.c  HELLO, peers     relay.c  data links
 */
#ifndef COORDINATOR_SERVER_H
#define COORDINATOR_SERVER_H

#include <sys/queue.h>

#include "../dsm/transport/loop.h"
#include "core/coord.h"
#include "guard.h"

#define HELLO_MS 5000
#define RELAY_MS 10000 /* for a client to connect back, for a drain */
#define STRANGERS_MAX \
	256 /* visits in state NEW or DENIED; one more, and the oldest goes */
/* Answers that a peer does not take: then its requests wait. A worker or client
 * takes what it is sent; this is far beyond what it is ever sent at a time. */
#define TOOL_BACKLOG_MAX ((size_t)1 << 20)
#define PEER_BACKLOG_MAX ((size_t)256 << 20)
#define DENIED_MS 1000

enum visit_state {
	VISIT_NEW,
	VISIT_PEER,
	VISIT_WAITING,
	VISIT_JOINED,
	VISIT_DRAINING,
	VISIT_DENIED,
	VISIT_DOOMED,
};

struct server;

struct visit {
	struct coord_link link; /* first: the core hands it back */
	TAILQ_ENTRY(visit) entry;
	struct server *server;
	struct dsm_handle *handle;
	enum visit_state state;
	uint64_t deadline; /* NEW, WAITING, DRAINING, DENIED: then DOOMED */
	struct coord_peer *peer; /* the core's, until buried; NULL: none */

	/* WAITING: what the client will be told by the relay. */
	uint64_t relay, session;
	struct dsm_wbuf hello; /* body of its HELLO */
	uint64_t hello_tag;

	struct visit *other; /* JOINED */
};

struct server {
	struct dsm_loop *loop;
	struct coord *core;
	struct guard *guard;    /* NULL: no tokens, plain TCP */
	const char *token_file; /* const; NULL: none */
	TAILQ_HEAD(visits, visit) visits;
	unsigned n_new;
	uint64_t said_strangers, said_full; /* dsm__log_due */
	uint64_t last_relay;
	int fd; /* listening */
	uv_poll_t poll;
	uv_timer_t again; /* accepts again after a pause */
	uv_timer_t tick;  /* the core's clock */
	uv_timer_t sweep; /* deadlines of visits, burials */
};

struct server_params {
	const char *listen;     /* ADDR:PORT */
	const char *token_file; /* borrowed; NULL: none */
	struct coord_params core;
};

/* *addr_p: where it listens. Failure: e has the line for people. */
int server_create(struct dsm_loop *loop, const struct server_params *p,
                  char addr_p[DSM_ADDR_MAX], struct server **s_p,
                  struct dsm_error *e);
/* Closes all connections and destroys the loop, which has handles that lie in s. */
void server_destroy(struct server *s);

/* Read the token file again: who is not in it any more, or with another secret, is
 * cut off. A bad file: the old one stands, and a line says so. */
void server_reload(struct server *s);

/* --- between the files --- */

/* Call the core's clock now: its plans have changed. */
void server_tick(struct server *s);
/* Deadlines or doomed visits have changed. */
void server_wake_sweep(struct server *s);
/* The one place where states change. */
void visit_set_state(struct visit *v, enum visit_state state);
void visit_doom(struct visit *v);
/* REFUSE with a reason for people, then doom. */
void visit_refuse(struct visit *v, int code, const char *text);
/* Where it comes from, for logs. */
const char *visit_name(const struct visit *v);

/* Takes fd over. */
void visit_begin(struct server *s, int fd);
/* Close and free; tells the core. */
void visit_bury(struct visit *v);

/* relay.c. HELLO of role data, of role relay. */
void relay_wait(struct visit *v, const struct dsm_frame *f,
                const struct dsm_msg_hello *m);
void relay_join(struct visit *v, const struct dsm_frame *f,
                const struct dsm_msg_hello *m);
void relay_frame(struct visit *v, const struct dsm_frame *f);
/* v is about to be closed: the other end follows when it has sent all. */
void relay_part(struct visit *v);

#endif
