/*
 * A session: this program's place at a coordinator, and everything that serves
 * its slots. The coordinator is a process reached over TCP (remote.c) or code in
 * this process (embedded.c); the rest is the same for both.
 *
 * States
 *   JOINING    HELLO is on its way
 *   READY      WELCOME came: runs may be launched
 *   REJOINING  the coordinator is gone while a run is on, which waits for it: no
 *              data link is there, nothing of the run is staged. -> READY, with
 *              another id and key, and the run is launched again; or -> LOST
 *   LOST       the coordinator refused us or is gone; `why` says what happened.
 *              The run in flight, if any, has ended with it. Only destroy
 *              follows; the next launch makes a new session
 *
 * Locks: everything but what is marked const belongs to the loop's drive lock.
 * Who launches or waits also holds the client's run lock (client.h).
 */
#ifndef TASKRT_CLIENT_SESSION_H
#define TASKRT_CLIENT_SESSION_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/queue.h>

#include "../../dsm/base/status.h"
#include "../../dsm/heap/heap.h"
#include "../../dsm/heap/serve.h"
#include "../../dsm/heap/views.h"
#include "../../dsm/transport/loop.h"
#include "../../dsm/wire/wire.h"
#include "config.h"
#include "said.h"

struct taskrt_run;
struct taskrt__serveconn;
struct taskrt__stagemap;
struct taskrt__listener;
struct taskrt__rdma;

enum taskrt__session_state {
	TASKRT__JOINING,
	TASKRT__READY,
	TASKRT__REJOINING,
	TASKRT__LOST,
};

struct taskrt__session;

/* How frames get to the coordinator. */
struct taskrt__link_ops {
	/* Send one frame. A failure shows as the session's loss, later. */
	void (*send)(struct taskrt__session *s, unsigned type,
	             const struct iovec *iov, int n_iov);
	/* The session is READY. */
	void (*welcomed)(struct taskrt__session *s);
	/* RELAY came; NULL: there is none. */
	void (*relay)(struct taskrt__session *s, uint64_t id);
	/* Stop everything; uv handles are closed with taskrt__session_uv_close.
	 * Nothing is freed that a callback may still see. */
	void (*stop)(struct taskrt__session *s);
	/* After the last callback: free link_state. */
	void (*free)(struct taskrt__session *s);
	/* taskrt__session_forget's part; NULL: nothing. */
	void (*forget)(struct taskrt__session *s);
};

/* Data links served, by transport; those that are gone count, too. */
struct taskrt__links {
	uint64_t shm, tcp, tls, relay, verbs;
	char rdma[200]; /* the device, or why there is none; "": not wanted */
};

/* The last one's device is kept. */
void taskrt__links_add(struct taskrt__links *to,
                       const struct taskrt__links *from);

#define TASKRT__KEY_MAX 64

struct taskrt__session {
	const struct taskrt__config *config; /* const */
	struct dsm_heap *heap;               /* const */
	struct dsm_loop *loop;               /* const */
	const struct taskrt__link_ops *link; /* const after start */
	void *link_state; /* remote.c's or embedded.c's; const after start */

	/* enum taskrt__session_state. Written under the drive lock; a launch looks
	 * at it before it has that. */
	_Atomic int state;
	struct dsm_error why; /* LOST */
	uint64_t id;          /* given by the last WELCOME, as the next two */
	uint8_t *key;         /* TASKRT__KEY_MAX bytes in memory for secrets */
	uint32_t key_len;
	uint16_t welcome_flags;
	int tls; /* control and data links: const after start */
	uint32_t heartbeat_ms;

	struct dsm_server *server;
	struct taskrt__listener *listener; /* NULL: none */
	TAILQ_HEAD(, taskrt__serveconn) serveconns;
	TAILQ_HEAD(, taskrt__stagemap) stagemaps;
	uint64_t said_strangers;   /* dsm__log_due */
	unsigned n_uv_closing;     /* uv handles whose close callback is due */
	struct taskrt__rdma *rdma; /* NULL: no link goes over verbs */
	int rdma_warned;           /* of a link that could not go over */
	struct taskrt__links links;
	struct taskrt__said said; /* text of tasks that was shown */

	struct taskrt_run *run; /* in flight, not over */
	uint64_t last_run;      /* number of the last RUN sent with this id */
	uint64_t sent_version;  /* table of ranges that the coordinator has;
	                        * UINT64_MAX: none */
	struct dsm_extents changed;    /* heap pages commits wrote since then */
	struct taskrt__launch *launch; /* launch.c's, from launch to launch */
};

/*
 * Make a session and join: on DSM_OK it is READY. Waits up to the configuration's
 * wait_ms. config and heap are borrowed until destroy. Failure: e says what was
 * tried; nothing is left behind.
 */
int taskrt__session_create(const struct taskrt__config *config,
                           struct dsm_heap *heap, struct taskrt__session **s_p,
                           struct dsm_error *e);
/* A run in flight ends with TASKRT_ECANCELED. Slots, threads and descriptors are
 * gone afterwards. Not from a callback; takes the drive lock. NULL is fine. */
void taskrt__session_destroy(struct taskrt__session *s);

/* --- drive lock held, callbacks included --- */

/* A frame of the coordinator. */
void taskrt__session_frame(struct taskrt__session *s, unsigned type,
                           const uint8_t *body, uint32_t len);
/* The coordinator is of no more use. The first reason given stays. */
void taskrt__session_lose(struct taskrt__session *s, int code, const char *fmt,
                          ...) __attribute__((format(printf, 3, 4)));
/*
 * The way to the coordinator is gone. 1: REJOINING, look for it. 0: no run waits
 * for it, or not any more: lose the session.
 */
int taskrt__session_suspend(struct taskrt__session *s);
/* Our HELLO as a client; points at static memory and at addr. */
void taskrt__session_hello(struct dsm_msg_hello *m, enum dsm_role role,
                           const char *addr);
/* Encode and send in one go: w is emptied. */
void taskrt__session_send(struct taskrt__session *s, unsigned type,
                          struct dsm_wbuf *w, int encode_err);
/* uv_close, counted: link->free comes after its callback. h->data is s. */
void taskrt__session_uv_close(struct taskrt__session *s, uv_handle_t *h);
/* Read the address space anew. */
int taskrt__session_refresh_map(struct taskrt__session *s, struct dsm_error *e);
/* The table of ranges, packed, appended to w: *n_p entries. When its version is
 * `known`, nothing is packed and *n_p is 0; UINT64_MAX: none is known. */
int taskrt__session_pack_ranges(struct taskrt__session *s, uint64_t known,
                                struct dsm_wbuf *w, uint32_t *n_p,
                                uint64_t *version_p);

/* --- remote.c, embedded.c --- */

/* Connect or set up, and send HELLO. deadline: of dsm__now. */
int taskrt__remote_start(struct taskrt__session *s, uint64_t deadline,
                         struct dsm_error *e);
int taskrt__embedded_start(struct taskrt__session *s, struct dsm_error *e);

/* --- listener.c: where slots connect to --- */

/* Listen on addr ("127.0.0.1:0"); *addr_p is what it became. */
int taskrt__listener_start(struct taskrt__session *s, const char *addr,
                           char addr_p[DSM_ADDR_MAX], struct dsm_error *e);
/* Nobody is accepted before this. */
void taskrt__listener_accept(struct taskrt__session *s);
void taskrt__listener_stop(struct taskrt__session *s);
int taskrt__listener_fd(const struct taskrt__session *s); /* -1: none */

/* In a child after fork(): close what keeps peers believing that the parent is
 * still there. Frees nothing, takes no lock. */
void taskrt__session_forget(struct taskrt__session *s);

#endif
