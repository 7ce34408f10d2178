/*
 * A connection over a queue pair (RC).
 *
 * The bytes of conn.c travel in SENDs of up to buf_len bytes, copied out of and
 * into registered buffers; where one SEND ends and the next begins means nothing.
 * Short ones go inline. The send queue, the receives and the READs share one
 * completion queue. Every fourth SEND asks for a completion, which also tells of those
 * before it, and so does each that none may follow soon: what is under way will be
 * heard of, or the link is dead (verbs_watch.c).
 *
 * Flow control. Each end has depth + VERBS_EMPTIES receives posted and gives the
 * other `depth` credits. A SEND with data takes a credit. The receiver owes it
 * again when the bytes were read and the buffer is posted again; what is owed goes
 * back in the immediate data of every SEND, or in an empty SEND (which takes no
 * credit) once depth / 2 are owed.
 *
 * No receive queue is overrun. Credits are never made, only passed on: those that
 * the peer has, the SENDs it paid for with them (under way, or here and unread),
 * those that we owe, and those on their way back are `depth` together. So at most
 * `depth` receives are taken by SENDs with data. Of empty SENDs, each brings at
 * least depth / 2, so that no more than two are under way or waiting to be looked
 * at; looking at one posts its receive again first. The third is the one that a
 * closing end sends last (close).
 *
 * No end waits for ever. A sender without credits waits for the other end to read:
 * once that has read everything, all `depth` credits are back or owed, and those
 * owed are at least depth / 2 unless some are back already. An empty SEND needs no
 * credit, and room in the send queue that SENDs with data and READs never take.
 * Send buffers and room come back when the peer's adapter has acknowledged, which
 * its program has no part in: its receives are posted.
 *
 * Sleeping. The descriptor is an epoll set of the completion channel, the device's
 * events and the TCP socket. The channel tells once of the first completion after it
 * was asked to (arm), so arm asks, then looks once more itself. The others are looked
 * at by arm too, never while spinning.
 *
 * The end. TCP's end is the peer's end. It may be seen before the last SENDs have
 * been looked at, so the queue pair is stopped then and emptied: what had
 * been acknowledged comes out before the receives that found nothing. A closing
 * end in turn waits a moment until what it sent has been acknowledged.
 */
#include "verbs_queue.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../base/clock.h"

#define BATCH 16                    /* completions taken at a time */
#define SIGNAL_EVERY 4u             /* SENDs */
#define SENDS_MAX (2 * VERBS_SENDS) /* SENDs with data in the send queue */
#define BLOCKED_LOOKS 64u /* fruitless writes until TCP is looked at */
#define CLOSE_NS (100 * DSM_MS)
#define EMPTY_NS (10 * DSM_MS)

/* wr_id: what it was; of a receive its buffer, else its place in the queue. */
#define KIND_SHIFT 62

/* --- failing --- */

/* What had arrived can be read yet: for conn.c sending has failed. */
static void
set_error(struct verbs_queue *q, int err)
{
	q->err = err;
	if (q->conn->out_err == DSM_OK)
		q->conn->out_err = err;
}

int
dsm__queue_fail(struct verbs_queue *q, int err, const char *fmt, ...)
{
	va_list ap;

	if (q->has_cause)
		return q->err;
	set_error(q, err);
	q->has_cause = 1;
	va_start(ap, fmt);
	vsnprintf(q->conn->why, sizeof(q->conn->why), fmt, ap);
	va_end(ap);
	return err;
}

static void
fail_completion(struct verbs_queue *q, enum verbs_kind kind,
                enum ibv_wc_status status)
{
	static const char *const what[] = {"receive", "SEND", "RDMA READ"};

	if (status != IBV_WC_WR_FLUSH_ERR) {
		dsm__queue_fail(q, DSM_ECONN, "%s: %s", what[kind],
		                q->lib->wc_status_str(status));
		return;
	}
	/* Everything is flushed after an error; alone, the peer has ended. */
	if (dsm__queue_is_cut(q))
		return;
	if (q->err == DSM_OK)
		snprintf(q->conn->why, sizeof(q->conn->why),
		         "the queue pair was stopped");
	set_error(q, DSM_ECONN);
}

/* --- posting --- */

int
dsm__queue_post_recv(struct verbs_queue *q, uint32_t buf)
{
	struct ibv_sge sge = {(uintptr_t)dsm__queue_buffer(q, buf),
	                      VERBS_BUF_LEN, q->mr->lkey};
	struct ibv_recv_wr wr = {.wr_id = buf, .sg_list = &sge, .num_sge = 1};
	struct ibv_recv_wr *bad;

	return ibv_post_recv(q->qp, &wr, &bad);
}

static uint64_t
reads_in_flight(const struct verbs_queue *q)
{
	return q->reads_started - q->reads_done;
}

static uint64_t
sends_in_flight(const struct verbs_queue *q)
{
	return q->posted - q->retired - reads_in_flight(q);
}

static int
can_send(const struct verbs_queue *q)
{
	return q->credits > 0 && sends_in_flight(q) < SENDS_MAX &&
	       q->bufs_used - q->bufs_back < VERBS_SENDS;
}

int
dsm__queue_post(struct verbs_queue *q, struct ibv_send_wr *wr,
                enum verbs_kind kind)
{
	struct ibv_send_wr *bad;
	int err;

	if (kind == VERBS_READ || wr->num_sge == 0 ||
	    ++q->unsignalled >= SIGNAL_EVERY)
		wr->send_flags |= IBV_SEND_SIGNALED;
	wr->wr_id = (uint64_t)kind << KIND_SHIFT | q->posted;
	err = ibv_post_send(q->qp, wr, &bad);
	if (err != 0)
		return dsm__queue_fail(q, DSM_ECONN,
		                       "cannot post to the queue pair: %s",
		                       strerror(err));
	q->bufs_at[q->posted++ % VERBS_SQ] = q->bufs_used;
	if (wr->send_flags & IBV_SEND_SIGNALED) {
		q->signalled = q->posted;
		q->unsignalled = 0;
	}
	return DSM_OK;
}

/* A SEND; every one takes along what we owe. */
static int
post_send(struct verbs_queue *q, struct ibv_sge *sge, unsigned flags)
{
	struct ibv_send_wr wr = {.sg_list = sge,
	                         .num_sge = sge != NULL,
	                         .opcode = IBV_WR_SEND_WITH_IMM,
	                         .send_flags = flags,
	                         .imm_data = htonl(q->owed)};
	int err = dsm__queue_post(q, &wr, VERBS_SEND);

	if (err == DSM_OK)
		q->owed = 0;
	return err;
}

/* Give credits back when nothing else may do it. */
static void
pay(struct verbs_queue *q)
{
	if (q->owed >= (q->depth + 1) / 2 && q->err == DSM_OK &&
	    sends_in_flight(q) < SENDS_MAX + VERBS_EMPTIES)
		post_send(q, NULL, 0);
}

/* --- completions --- */

static void
received(struct verbs_queue *q, const struct ibv_wc *wc)
{
	uint32_t buf = (uint32_t)wc->wr_id;
	uint32_t credits = ntohl(wc->imm_data);

	if (wc->opcode != IBV_WC_RECV || !(wc->wc_flags & IBV_WC_WITH_IMM) ||
	    credits > q->their_depth - q->credits) {
		dsm__queue_fail(q, DSM_EPROTO, "the peer's credits are wrong");
		return;
	}
	if (wc->byte_len > 0) {
		/* Unread ones keep to our credits, or the peer does not. */
		if (q->n_arrived - q->n_read == q->depth) {
			dsm__queue_fail(q, DSM_EPROTO,
			                "the peer sent without credits");
			return;
		}
		q->arrived[q->n_arrived++ % q->depth] =
		    (struct verbs_arrived){buf, wc->byte_len};
	} else if (dsm__queue_post_recv(q, buf) != 0) {
		dsm__queue_fail(q, DSM_ECONN, "cannot post a receive");
	}
	q->credits += credits;
}

static void
complete(struct verbs_queue *q, const struct ibv_wc *wc)
{
	enum verbs_kind kind = (enum verbs_kind)(wc->wr_id >> KIND_SHIFT);
	uint64_t place = wc->wr_id & ((UINT64_C(1) << KIND_SHIFT) - 1);

	if (wc->status != IBV_WC_SUCCESS) {
		q->flushed |= kind == VERBS_RECV;
		fail_completion(q, kind, wc->status);
		return;
	}
	if (kind == VERBS_RECV) {
		received(q, wc);
		return;
	}
	/* In order: those before it without a completion are done, too. */
	q->retired = place + 1;
	q->bufs_back = q->bufs_at[place % VERBS_SQ];
	q->reads_done += kind == VERBS_READ;
}

/* Take what has completed, a bounded part of it. Returns how much. */
int
dsm__queue_progress(struct verbs_queue *q)
{
	struct ibv_wc wc[BATCH];
	int n = ibv_poll_cq(q->cq, BATCH, wc);

	for (int i = 0; i < n; i++)
		complete(q, &wc[i]);
	if (n < 0)
		dsm__queue_fail(q, DSM_ECONN,
		                "cannot poll the completion queue");
	if (n > 0)
		pay(q);
	return n;
}

/* --- the TCP socket --- */

/* Stop the queue pair and take what had arrived. */
static void
peer_closed(struct verbs_queue *q)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	uint64_t until = dsm__now() + EMPTY_NS;

	if (q->lib->modify_qp(q->qp, &attr, IBV_QP_STATE) == 0)
		while (!q->flushed && dsm__now() < until)
			if (dsm__queue_progress(q) == 0)
				dsm__cpu_relax();
	if (!q->has_cause)
		q->conn->why[0] = '\0';
	if (q->err == DSM_OK)
		set_error(q, DSM_ECONN);
}

/* Has the peer gone? Then the queue pair FAILED, but what came stays. */
static void
look_at_tcp(struct verbs_queue *q)
{
	uint8_t byte;
	ssize_t n;

	if (q->err != DSM_OK)
		return;
	do
		n = recv(q->conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		dsm__queue_fail(q, DSM_EPROTO,
		                "bytes over TCP beside the queue pair");
	else if (n == 0 || errno != EAGAIN)
		peer_closed(q);
}

/* --- bytes out --- */

struct source {
	const struct iovec *iov;
	int n;
	size_t off; /* in iov[0] */
};

/* The next bytes of s, at most max. */
static uint32_t
take(struct source *s, uint8_t *to, uint32_t max)
{
	uint32_t len = 0;

	while (s->n > 0 && len < max) {
		size_t part = s->iov->iov_len - s->off;

		if (part > max - len)
			part = max - len;
		if (part > 0)
			memcpy(to + len, (uint8_t *)s->iov->iov_base + s->off,
			       part);
		len += (uint32_t)part;
		s->off += part;
		if (s->off == s->iov->iov_len) {
			s->iov++;
			s->n--;
			s->off = 0;
		}
	}
	return len;
}

/* One SEND of the next bytes of s, `left` in all. Their number, or an error. */
static ssize_t
send_next(struct verbs_queue *q, struct source *s, size_t left)
{
	uint32_t max = left < q->send_len ? (uint32_t)left : q->send_len;
	uint8_t small[VERBS_INLINE_MAX];
	struct ibv_sge sge = {.lkey = q->mr->lkey};
	unsigned flags = 0;
	uint8_t *to = small;
	int err;

	if (max <= q->max_inline) {
		flags = IBV_SEND_INLINE;
	} else {
		to = dsm__queue_buffer(
		    q, q->depth + VERBS_EMPTIES +
		           (uint32_t)(q->bufs_used % VERBS_SENDS));
		q->bufs_used++;
	}
	sge.addr = (uintptr_t)to;
	sge.length = take(s, to, max);
	if (left == max || q->credits == 1)
		flags |= IBV_SEND_SIGNALED;
	err = post_send(q, &sge, flags);
	if (err != DSM_OK)
		return err;
	q->credits--;
	return sge.length;
}

/* The credits may lie behind many other completions. */
static int
make_room(struct verbs_queue *q)
{
	while (!can_send(q))
		if (dsm__queue_progress(q) <= 0)
			return 0;
	return 1;
}

static ssize_t
verbs_writev(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct verbs_queue *q = dsm__queue_of(c);
	struct source s = {iov, n, 0};
	size_t left = 0, put = 0;
	ssize_t len;

	for (int i = 0; i < n; i++)
		left += iov[i].iov_len;
	while (q->err == DSM_OK && left > 0) {
		if (!make_room(q))
			break;
		len = send_next(q, &s, left);
		if (len < 0)
			return len;
		left -= (size_t)len;
		put += (size_t)len;
	}
	if (put > 0 || left == 0)
		return (ssize_t)put;
	if (++q->blocked % BLOCKED_LOOKS == 0)
		look_at_tcp(q);
	return q->err != DSM_OK ? q->err : DSM_EAGAIN;
}

/* --- bytes in --- */

/* The oldest SEND has been read: its buffer is free again. */
static void
release_oldest(struct verbs_queue *q)
{
	uint32_t buf = q->arrived[q->n_read % q->depth].buf;

	q->n_read++;
	q->read_off = 0;
	if (q->err != DSM_OK)
		return;
	if (dsm__queue_post_recv(q, buf) != 0) {
		dsm__queue_fail(q, DSM_ECONN, "cannot post a receive");
		return;
	}
	q->owed++;
	pay(q);
}

static size_t
read_some(struct verbs_queue *q, uint8_t *to, size_t max)
{
	size_t got = 0;

	while (got < max && q->n_read < q->n_arrived) {
		const struct verbs_arrived *a =
		    &q->arrived[q->n_read % q->depth];
		size_t part = a->len - q->read_off;

		if (part > max - got)
			part = max - got;
		memcpy(to + got, dsm__queue_buffer(q, a->buf) + q->read_off,
		       part);
		got += part;
		q->read_off += (uint32_t)part;
		if (q->read_off == a->len)
			release_oldest(q);
	}
	return got;
}

static ssize_t
verbs_readv(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct verbs_queue *q = dsm__queue_of(c);
	size_t got = 0;

	if (q->n_read == q->n_arrived)
		dsm__queue_progress(q);
	for (int i = 0; i < n && q->n_read < q->n_arrived; i++)
		got += read_some(q, iov[i].iov_base, iov[i].iov_len);
	if (got > 0)
		return (ssize_t)got;
	return q->err != DSM_OK ? q->err : DSM_EAGAIN;
}

/* --- sleeping --- */

/* Ask for an event, unless one is still to come. */
static void
ask_for_event(struct verbs_queue *q)
{
	struct ibv_cq *cq;
	void *context;

	if (q->armed && q->lib->get_cq_event(q->channel, &cq, &context) == 0) {
		q->lib->ack_cq_events(q->cq, 1);
		q->armed = 0;
	}
	if (q->armed)
		return;
	if (ibv_req_notify_cq(q->cq, 0) != 0)
		dsm__queue_fail(q, DSM_ECONN,
		                "cannot arm the completion queue");
	q->armed = 1;
}

/* What comes by no completion. */
static void
look_around(struct verbs_queue *q)
{
	dsm__verbs_hear(q->domain->v);
	if (dsm__queue_is_cut(q))
		return;
	look_at_tcp(q);
	dsm__queue_watch(q);
}

static int
verbs_arm(struct dsm_conn *c, int events)
{
	struct verbs_queue *q = dsm__queue_of(c);

	ask_for_event(q);
	if (dsm__queue_progress(q) > 0)
		return DSM_EAGAIN;
	look_around(q);
	/* Whoever looked last may have taken what wakes the other: credits came
	 * while reading, bytes while writing. */
	if (q->err != DSM_OK || (events & POLLOUT && can_send(q)) ||
	    (events & POLLIN && q->n_read < q->n_arrived))
		return DSM_EAGAIN;
	return DSM_OK;
}

static int
verbs_check(struct dsm_conn *c)
{
	struct verbs_queue *q = dsm__queue_of(c);
	int n = dsm__queue_progress(q);

	look_around(q);
	return n != 0 || q->err != DSM_OK ? DSM_EAGAIN : DSM_OK;
}

/* --- ending --- */

/* Wait until the peer's adapter has what we sent, but not long. */
static void
linger(struct verbs_queue *q)
{
	uint64_t until = dsm__now() + CLOSE_NS;

	if (q->posted == q->retired || q->err != DSM_OK)
		return;
	/* Its completion tells of those before it. */
	post_send(q, NULL, 0);
	for (unsigned i = 1; q->err == DSM_OK && q->retired < q->posted; i++) {
		if (dsm__queue_progress(q) > 0)
			continue;
		if (i % BLOCKED_LOOKS == 0)
			look_at_tcp(q);
		if (dsm__now() >= until)
			break;
		dsm__spin_pause(i);
	}
}

static void
verbs_close(struct dsm_conn *c)
{
	struct verbs_queue *q = dsm__queue_of(c);

	if (c->ops == &dsm__verbs_ops)
		linger(q);
	dsm__queue_destroy(q);
	dsm__sock_close(c);
}

static void
verbs_forget(struct dsm_conn *c)
{
	struct verbs_queue *q = dsm__queue_of(c);

	close(q->epoll_fd);
	close(q->channel->fd);
	dsm__sock_close(c);
}

const struct dsm_conn_ops dsm__verbs_ops = {
    .name = "verbs",
    .readv = verbs_readv,
    .writev = verbs_writev,
    .arm = verbs_arm,
    .check = verbs_check,
    .close = verbs_close,
    .forget = verbs_forget,
};
