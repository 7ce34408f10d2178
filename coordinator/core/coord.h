/*
 * The coordinator without sockets: sessions, workers, scheduling, race check.
 * The daemon feeds it frames from TCP connections, embedded mode from queues.
 *
 * Single-threaded: everything here is called by the owner of one loop, under its
 * drive lock. It calls out only through links and the clock passed in.
 *
 * A **peer** is a client or a worker. The owner of a connection creates it when
 * the connection's HELLO has been read and passes every later frame in.
 *
 * States of a worker for a session (struct sworker): UNTOLD -> TOLD (SESSION sent;
 * from then on it gets every RUN) -> UNFIT (said so) -> TOLD (asked again, after a
 * pause that doubles, while there is a run).
 * States of an attempt: OUT (EXEC sent) -> DONE (masks in) -> COMPLETE (DONE and,
 * when it wrote, STORED are in); OUT or DONE -> BACK (its tasks are pending again)
 * when the worker is lost or returns it. Late messages of a BACK attempt are
 * dropped.
 * States of a run: ON -> VERDICT sent -> gone. One per session.
 *
 * A RETURNED with a reason blames the attempt: its tasks count as lost once more
 * (options.retries). One with an empty reason says that no slot had begun it.
 */
#ifndef COORDINATOR_CORE_COORD_H
#define COORDINATOR_CORE_COORD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "../../dsm/base/status.h"
#include "../../dsm/transport/conn.h"
#include "../../dsm/transport/token.h"
#include "../../dsm/wire/wire.h"

struct coord;
struct coord_peer;

/* How the core talks back. Owned by the connection's owner. */
struct coord_link {
	/* Send a frame. Errors are noticed by the owner, who then calls
	 * coord_peer_gone. Never calls back into the core. */
	void (*send)(struct coord_link *l, unsigned type,
	             const struct iovec *iov, int n_iov);
	/* The core has no more use for the peer (protocol error, refused,
	 * silent): close soon. The owner then calls coord_peer_gone, but not
	 * from in here. The core sends nothing more. */
	void (*close)(struct coord_link *l, const char *reason);
	/* 0: the peer's machine has not acknowledged for limit_ms what was sent
	 * to it. NULL: not known; it is gone when it is silent. */
	int (*reachable)(struct coord_link *l, uint64_t limit_ms);
	/* Bytes that the peer has not taken yet. NULL: never any to speak of. */
	size_t (*backlog)(struct coord_link *l);
};

struct coord_params {
	uint64_t no_worker_ms; /* a run waits this long for a first worker */
	uint32_t heartbeat_ms; /* 0: none (embedded) */
	uint64_t stopped_ms;   /* a client that is silent, though its machine
	                        * answers, is kept as long */
	uint32_t welcome_flags;
	int no_copies;     /* of tasks that are late (copies.c) */
	const char *where; /* own address, for texts; NULL: none; borrowed */
};

int coord_create(const struct coord_params *p, struct coord **k_p);
void coord_destroy(struct coord *k);

/*
 * HELLO of a client or worker was read. Answers WELCOME or REFUSE over the link.
 * *peer_p is NULL when refused (another version, magic, page size,
 * architecture, a token without that role). peer_name: for logs and reports,
 * copied. who: whose token the peer has shown, copied; NULL: there are no tokens
 * here, and everybody may do and see everything.
 */
int coord_join(struct coord *k, const struct dsm_msg_hello *hello,
               const struct dsm_identity *who, const char *peer_name,
               struct coord_link *link, struct coord_peer **peer_p);
/* A frame of that peer. DSM_EPROTO: malformed or out of place; the core has
 * called link->close. */
int coord_frame(struct coord *k, struct coord_peer *peer,
                const struct dsm_frame *f, uint64_t now);
/* The connection is gone; the peer is freed. A client's session ends with it,
 * a worker's tasks go elsewhere. */
void coord_peer_gone(struct coord *k, struct coord_peer *peer, uint64_t now);
/* Time-outs, heartbeats, progress. Returns when (dsm__now time) it wants to be
 * called again; DSM_FOREVER: not before the next join. A join may bring that
 * forward: call once after it. Every `now` is dsm__now time. */
uint64_t coord_tick(struct coord *k, uint64_t now);

/* For the relay: key and link of a session's client, NULL when there is none or
 * the key is wrong. */
struct coord_link *coord_session_client(struct coord *k, uint64_t session,
                                        const uint8_t *key, size_t key_len);

/* The same for a peer that has shown the key already: NULL: no such session. */
struct coord_link *coord_session_link(struct coord *k, uint64_t session);
/* The key of a session: 1, or 0: there is none. */
int coord_session_key(struct coord *k, uint64_t session,
                      uint8_t key_p[DSM_KEY_LEN]);

/*
 * One JSON object for `taskrt stat`: workers, sessions, runs. malloc'ed. For whom:
 * a token's name that is no admin's gets its own sessions only, and of workers
 * what they do for those. NULL: everything.
 */
char *coord_stat_json(struct coord *k, const struct dsm_identity *viewer,
                      uint64_t now);

#endif
