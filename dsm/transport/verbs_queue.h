/*
 * A queue pair as the files of a verbs connection see it:
 *
 *   verbs_queue.c  its life: made, offered, connected, gone over to, destroyed
 *   verbs_conn.c   frames and credits: what goes through it, and its end
 *   verbs_read.c   one-sided READs
 *   verbs_watch.c  failures that no completion tells of
 *
 * Life (one-way; every state ends with dsm__queue_destroy):
 *
 *   made       buffers registered, receives posted; also only to see that it can
 *              be (dsm__verbs_probe)
 *   offered    belongs to a conn that is TCP still; may be withdrawn
 *   connected  the peer's SENDs arrive, and are kept; may be withdrawn
 *   in use     dsm__conn_verbs_go: all bytes of the conn go through it
 *   FAILED     err is set. What had arrived can be read yet, nothing is posted any
 *              more.
 *
 * Its owner is the conn's: no locks, but for what the device says of all its queue
 * pairs at a time (verbs_watch.c).
 */
#ifndef DSM_TRANSPORT_VERBS_QUEUE_H
#define DSM_TRANSPORT_VERBS_QUEUE_H

#include "verbs_priv.h"

#include "conn_priv.h"

#include <stdatomic.h>

/* What a work request was. */
enum verbs_kind {
	VERBS_RECV,
	VERBS_SEND,
	VERBS_READ,
};

/* SENDs with data that were received and not read yet, oldest first. */
struct verbs_arrived {
	uint32_t buf, len;
};

struct verbs_queue {
	TAILQ_ENTRY(verbs_queue) link; /* the device's mutex */
	struct dsm_verbs_domain *domain;
	struct dsm_conn *conn; /* NULL while probing */
	const struct verbs_lib *lib;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	uint8_t *mem; /* receive buffers, then send buffers */
	struct ibv_mr *mr, *ring_mr;
	uint8_t *ring;
	size_t ring_len;
	int epoll_fd;
	int armed;      /* an event was asked for, and has not come */
	uint32_t psn;   /* ours, at first */
	uint32_t depth; /* credits we give */

	/* Receiving. */
	struct verbs_arrived *arrived; /* depth of them */
	uint64_t n_arrived, n_read;
	uint32_t read_off; /* bytes of the oldest that were read */
	uint32_t owed;

	/* Sending. */
	uint32_t their_depth, credits;
	uint32_t send_len; /* bytes of a SEND at most */
	uint32_t max_inline;
	uint64_t posted, retired; /* work requests in the send queue */
	uint64_t bufs_used, bufs_back;
	uint64_t bufs_at[VERBS_SQ]; /* bufs_used as of a work request */
	uint64_t signalled;         /* up to here completions were asked for */
	unsigned unsignalled;
	unsigned blocked; /* writes that moved nothing */

	/* READs. */
	uint64_t reads_started, reads_done, reads_taken;
	uint32_t max_reads; /* 0: the peer answers none */

	/* What the device said, 1 + enum ibv_event_type; any thread. */
	_Atomic int cut;
	/* verbs_watch.c: so many were retired, and no more, since then. */
	uint64_t watched, watched_since; /* ns; 0: nothing was outstanding */

	int err;       /* why it FAILED, or DSM_OK */
	int flushed;   /* a receive came back unused: nothing follows */
	int has_cause; /* conn->why is the cause, not a consequence */
};

static inline struct verbs_queue *
dsm__queue_of(const struct dsm_conn *c)
{
	return c->back;
}

static inline uint8_t *
dsm__queue_buffer(const struct verbs_queue *q, uint32_t i)
{
	return q->mem + (size_t)i * VERBS_BUF_LEN;
}

/* --- verbs_queue.c --- */

/* Whatever of it there is. */
void dsm__queue_destroy(struct verbs_queue *q);

/* --- verbs_conn.c --- */

/* It has FAILED, and the words say why; the first cause stays. Returns the code
 * it FAILED with. */
int dsm__queue_fail(struct verbs_queue *q, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Errors as errno. */
int dsm__queue_post_recv(struct verbs_queue *q, uint32_t buf);
/* Into the send queue, where there must be room. */
int dsm__queue_post(struct verbs_queue *q, struct ibv_send_wr *wr,
                    enum verbs_kind kind);
/* Take what has completed, a bounded part of it. Returns how much. */
int dsm__queue_progress(struct verbs_queue *q);

/* --- verbs_watch.c --- */

/* Right after progress: fails q when nothing that is outstanding has come back for
 * long. */
void dsm__queue_watch(struct verbs_queue *q);
/* What the device has to say, of any of its queue pairs. Any thread; never blocks. */
void dsm__verbs_hear(struct dsm_verbs *v);
/* 1: the device has said that q is of no use any more; q has FAILED for that. */
int dsm__queue_is_cut(struct verbs_queue *q);
/* From here on it hears of q; until leave, which comes before anything of q ends. */
void dsm__verbs_join(struct verbs_queue *q);
void dsm__verbs_leave(struct verbs_queue *q);

#endif
