/*
 * A connection over a queue pair (RC).
 *
 * The bytes of conn.c travel in SENDs of up to buf_len bytes, copied out of and
 * into registered buffers; where one SEND ends and the next begins means nothing.
 * Short ones go inline. The send queue, the receives and the READs share one
 * completion queue; every fourth SEND asks for a completion, which also tells of
 * those before it.
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
 * Sleeping. The descriptor is an epoll set of the completion channel and the
 * TCP socket. The channel tells of the first completion after it was asked to
 * (arm), so arm asks, then looks once more itself. The TCP socket is looked at by
 * arm too, never while spinning.
 *
 * The end. TCP's end is the peer's end. It may be seen before the last SENDs have
 * been looked at, so the queue pair is stopped then and emptied: what had
 * been acknowledged comes out before the receives that found nothing. A closing
 * end in turn waits a moment until what it sent has been acknowledged.
 */
#include "verbs_priv.h"

#include "conn_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../base/clock.h"

#define BATCH 16                    /* completions taken at a time */
#define SIGNAL_EVERY 4u             /* SENDs */
#define SENDS_MAX (2 * VERBS_SENDS) /* SENDs with data in the send queue */
#define INLINE_MAX 256u
#define BLOCKED_LOOKS 64u /* fruitless writes until TCP is looked at */
#define CLOSE_NS (100 * DSM_MS)
#define EMPTY_NS (10 * DSM_MS)
#define SPINS_PER_CLOCK 8
/* 4.096 us * 2^15 = 134 ms, seven times: 0.9 s. Adapters may take up to four times
 * that; a busy virtual machine needs half of it without anything being lost. Not 7
 * retries: Soft-RoCE never stops then. */
#define ACK_TIMEOUT 15
#define ACK_RETRIES 6
/* Never needed: the receives are there. Then it had better be seen. */
#define RNR_RETRIES 0
#define RNR_TIMER 12
#define HOP_LIMIT 64

/* wr_id: what it was; of a receive its buffer, else its place in the queue. */
enum kind {
	KIND_RECV,
	KIND_SEND,
	KIND_READ,
};
#define KIND_SHIFT 62

/* SENDs with data that were received and not read yet, oldest first. */
struct arrived {
	uint32_t buf, len;
};

struct queue {
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
	uint32_t psn;
	uint32_t depth; /* credits we give */

	/* Receiving. */
	struct arrived *arrived; /* depth of them */
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
	unsigned unsignalled;
	unsigned blocked; /* writes that moved nothing */

	/* READs. */
	uint64_t reads_started, reads_done, reads_taken;
	uint32_t max_reads; /* 0: the peer answers none */

	int err;       /* why it FAILED, or DSM_OK */
	int flushed;   /* a receive came back unused: nothing follows */
	int has_cause; /* conn->why is the cause, not a consequence */
};

static struct queue *
queue_of(const struct dsm_conn *c)
{
	return c->back;
}

size_t
dsm__verbs_pinned(uint32_t depth)
{
	return (size_t)(depth + VERBS_EMPTIES + VERBS_SENDS) * VERBS_BUF_LEN;
}

/* --- failing --- */

static int __attribute__((format(printf, 3, 4)))
fail(struct queue *q, int err, const char *fmt, ...)
{
	va_list ap;

	if (q->has_cause)
		return q->err;
	q->err = err;
	q->has_cause = 1;
	va_start(ap, fmt);
	vsnprintf(q->conn->why, sizeof(q->conn->why), fmt, ap);
	va_end(ap);
	return err;
}

static void
fail_completion(struct queue *q, enum kind kind, enum ibv_wc_status status)
{
	static const char *const what[] = {"receive", "SEND", "RDMA READ"};

	if (status != IBV_WC_WR_FLUSH_ERR) {
		fail(q, DSM_ECONN, "%s: %s", what[kind],
		     q->lib->wc_status_str(status));
		return;
	}
	/* Everything is flushed after an error; alone, the peer has ended. */
	if (q->err == DSM_OK)
		snprintf(q->conn->why, sizeof(q->conn->why),
		         "the queue pair was stopped");
	q->err = DSM_ECONN;
}

/* --- posting --- */

static uint8_t *
buffer(const struct queue *q, uint32_t i)
{
	return q->mem + (size_t)i * VERBS_BUF_LEN;
}

static int
post_recv(struct queue *q, uint32_t buf)
{
	struct ibv_sge sge = {(uintptr_t)buffer(q, buf), VERBS_BUF_LEN,
	                      q->mr->lkey};
	struct ibv_recv_wr wr = {.wr_id = buf, .sg_list = &sge, .num_sge = 1};
	struct ibv_recv_wr *bad;

	return ibv_post_recv(q->qp, &wr, &bad);
}

static uint64_t
reads_in_flight(const struct queue *q)
{
	return q->reads_started - q->reads_done;
}

static uint64_t
sends_in_flight(const struct queue *q)
{
	return q->posted - q->retired - reads_in_flight(q);
}

static int
can_send(const struct queue *q)
{
	return q->credits > 0 && sends_in_flight(q) < SENDS_MAX &&
	       q->bufs_used - q->bufs_back < VERBS_SENDS;
}

static int
post(struct queue *q, struct ibv_send_wr *wr, enum kind kind)
{
	struct ibv_send_wr *bad;
	int err;

	if (kind == KIND_READ || wr->num_sge == 0 ||
	    ++q->unsignalled >= SIGNAL_EVERY) {
		wr->send_flags |= IBV_SEND_SIGNALED;
		q->unsignalled = 0;
	}
	wr->wr_id = (uint64_t)kind << KIND_SHIFT | q->posted;
	err = ibv_post_send(q->qp, wr, &bad);
	if (err != 0)
		return fail(q, DSM_ECONN, "cannot post to the queue pair: %s",
		            strerror(err));
	q->bufs_at[q->posted++ % VERBS_SQ] = q->bufs_used;
	return DSM_OK;
}

/* A SEND; every one takes along what we owe. */
static int
post_send(struct queue *q, struct ibv_sge *sge, unsigned flags)
{
	struct ibv_send_wr wr = {.sg_list = sge,
	                         .num_sge = sge != NULL,
	                         .opcode = IBV_WR_SEND_WITH_IMM,
	                         .send_flags = flags,
	                         .imm_data = htonl(q->owed)};
	int err = post(q, &wr, KIND_SEND);

	if (err == DSM_OK)
		q->owed = 0;
	return err;
}

/* Give credits back when nothing else may do it. */
static void
pay(struct queue *q)
{
	if (q->owed >= (q->depth + 1) / 2 && q->err == DSM_OK &&
	    sends_in_flight(q) < SENDS_MAX + VERBS_EMPTIES)
		post_send(q, NULL, 0);
}

/* --- completions --- */

static void
received(struct queue *q, const struct ibv_wc *wc)
{
	uint32_t buf = (uint32_t)wc->wr_id;
	uint32_t credits = ntohl(wc->imm_data);

	if (wc->opcode != IBV_WC_RECV || !(wc->wc_flags & IBV_WC_WITH_IMM) ||
	    credits > q->their_depth - q->credits) {
		fail(q, DSM_EPROTO, "the peer's credits are wrong");
		return;
	}
	if (wc->byte_len > 0) {
		/* Unread ones keep to our credits, or the peer does not. */
		if (q->n_arrived - q->n_read == q->depth) {
			fail(q, DSM_EPROTO, "the peer sent without credits");
			return;
		}
		q->arrived[q->n_arrived++ % q->depth] =
		    (struct arrived){buf, wc->byte_len};
	} else if (post_recv(q, buf) != 0) {
		fail(q, DSM_ECONN, "cannot post a receive");
	}
	q->credits += credits;
}

static void
complete(struct queue *q, const struct ibv_wc *wc)
{
	enum kind kind = (enum kind)(wc->wr_id >> KIND_SHIFT);
	uint64_t place = wc->wr_id & ((UINT64_C(1) << KIND_SHIFT) - 1);

	if (wc->status != IBV_WC_SUCCESS) {
		q->flushed |= kind == KIND_RECV;
		fail_completion(q, kind, wc->status);
		return;
	}
	if (kind == KIND_RECV) {
		received(q, wc);
		return;
	}
	/* In order: those before it without a completion are done, too. */
	q->retired = place + 1;
	q->bufs_back = q->bufs_at[place % VERBS_SQ];
	q->reads_done += kind == KIND_READ;
}

/* Take what has completed, a bounded part of it. Returns how much. */
static int
progress(struct queue *q)
{
	struct ibv_wc wc[BATCH];
	int n = ibv_poll_cq(q->cq, BATCH, wc);

	for (int i = 0; i < n; i++)
		complete(q, &wc[i]);
	if (n < 0)
		fail(q, DSM_ECONN, "cannot poll the completion queue");
	if (n > 0)
		pay(q);
	return n;
}

/* --- the TCP socket --- */

/* Stop the queue pair and take what had arrived. */
static void
peer_closed(struct queue *q)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	uint64_t until = dsm__now() + EMPTY_NS;

	if (q->lib->modify_qp(q->qp, &attr, IBV_QP_STATE) == 0)
		while (!q->flushed && dsm__now() < until)
			if (progress(q) == 0)
				dsm__cpu_relax();
	if (!q->has_cause)
		q->conn->why[0] = '\0';
	q->err = q->err != DSM_OK ? q->err : DSM_ECONN;
}

/* Has the peer gone? Then the queue pair FAILED, but what came stays. */
static void
look_at_tcp(struct queue *q)
{
	uint8_t byte;
	ssize_t n;

	if (q->err != DSM_OK)
		return;
	do
		n = recv(q->conn->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		fail(q, DSM_EPROTO, "bytes over TCP beside the queue pair");
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
send_next(struct queue *q, struct source *s, size_t left)
{
	uint32_t max = left < q->send_len ? (uint32_t)left : q->send_len;
	uint8_t small[INLINE_MAX];
	struct ibv_sge sge = {.lkey = q->mr->lkey};
	unsigned flags = 0;
	uint8_t *to = small;
	int err;

	if (max <= q->max_inline) {
		flags = IBV_SEND_INLINE;
	} else {
		to = buffer(q, q->depth + VERBS_EMPTIES +
		                   (uint32_t)(q->bufs_used % VERBS_SENDS));
		q->bufs_used++;
	}
	sge.addr = (uintptr_t)to;
	sge.length = take(s, to, max);
	err = post_send(q, &sge, flags);
	if (err != DSM_OK)
		return err;
	q->credits--;
	return sge.length;
}

static ssize_t
verbs_writev(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct queue *q = queue_of(c);
	struct source s = {iov, n, 0};
	size_t left = 0, put = 0;
	ssize_t len;

	for (int i = 0; i < n; i++)
		left += iov[i].iov_len;
	while (q->err == DSM_OK && left > 0) {
		if (!can_send(q) && (progress(q) <= 0 || !can_send(q)))
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
release_oldest(struct queue *q)
{
	uint32_t buf = q->arrived[q->n_read % q->depth].buf;

	q->n_read++;
	q->read_off = 0;
	if (q->err != DSM_OK)
		return;
	if (post_recv(q, buf) != 0) {
		fail(q, DSM_ECONN, "cannot post a receive");
		return;
	}
	q->owed++;
	pay(q);
}

static size_t
read_some(struct queue *q, uint8_t *to, size_t max)
{
	size_t got = 0;

	while (got < max && q->n_read < q->n_arrived) {
		const struct arrived *a = &q->arrived[q->n_read % q->depth];
		size_t part = a->len - q->read_off;

		if (part > max - got)
			part = max - got;
		memcpy(to + got, buffer(q, a->buf) + q->read_off, part);
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
	struct queue *q = queue_of(c);
	size_t got = 0;

	if (q->n_read == q->n_arrived)
		progress(q);
	for (int i = 0; i < n && q->n_read < q->n_arrived; i++)
		got += read_some(q, iov[i].iov_base, iov[i].iov_len);
	if (got > 0)
		return (ssize_t)got;
	return q->err != DSM_OK ? q->err : DSM_EAGAIN;
}

/* --- sleeping --- */

static int
verbs_arm(struct dsm_conn *c, int events)
{
	struct queue *q = queue_of(c);
	struct ibv_cq *cq;
	unsigned n = 0;
	void *context;

	while (q->lib->get_cq_event(q->channel, &cq, &context) == 0)
		n++;
	if (n > 0)
		q->lib->ack_cq_events(q->cq, n);
	if (ibv_req_notify_cq(q->cq, 0) != 0)
		fail(q, DSM_ECONN, "cannot arm the completion queue");
	if (progress(q) > 0)
		return DSM_EAGAIN;
	look_at_tcp(q);
	if (q->err != DSM_OK)
		return DSM_EAGAIN;
	return events & POLLIN && q->n_read < q->n_arrived ? DSM_EAGAIN
	                                                   : DSM_OK;
}

/* --- one-sided reads --- */

int
dsm__conn_read_ring(struct dsm_conn *c, void *ring, size_t len,
                    struct dsm_error *e)
{
	struct queue *q = queue_of(c);

	if (q == NULL || q->ring_mr != NULL)
		return dsm__fail(e, DSM_EINVAL,
		                 "no verbs connection, or it "
		                 "has a ring already");
	q->ring_mr =
	    q->lib->reg_mr(q->domain->pd, ring, len, IBV_ACCESS_LOCAL_WRITE);
	if (q->ring_mr == NULL)
		return dsm__verbs_no_memory(q->domain->v, len, errno, e);
	q->ring = ring;
	q->ring_len = len;
	return DSM_OK;
}

static int
in_ring(const struct queue *q, const void *to, size_t len)
{
	uintptr_t off = (uintptr_t)to - (uintptr_t)q->ring;

	return len > 0 && off < q->ring_len && len <= q->ring_len - off &&
	       len <= UINT32_MAX / 4;
}

int
dsm__conn_read_start(struct dsm_conn *c, uint64_t remote, uint32_t rkey,
                     void *to, size_t len)
{
	struct queue *q = queue_of(c);
	struct ibv_sge sge = {(uintptr_t)to, (uint32_t)len, 0};
	struct ibv_send_wr wr = {.sg_list = &sge,
	                         .num_sge = 1,
	                         .opcode = IBV_WR_RDMA_READ,
	                         .wr.rdma = {remote, rkey}};
	int err;

	if (c->ops != &dsm__verbs_ops || q->ring_mr == NULL ||
	    q->max_reads == 0 || !in_ring(q, to, len))
		return DSM_EINVAL;
	if (q->err != DSM_OK)
		return q->err;
	if (q->reads_started - q->reads_taken == VERBS_READS)
		return DSM_EAGAIN;
	sge.lkey = q->ring_mr->lkey;
	err = post(q, &wr, KIND_READ);
	if (err == DSM_OK)
		q->reads_started++;
	return err;
}

/* DSM_OK: the oldest READ has ended. */
static int
look_for_read(struct queue *q)
{
	if (q->reads_taken == q->reads_done)
		progress(q);
	if (q->reads_taken == q->reads_done)
		return q->err != DSM_OK ? q->err : DSM_EAGAIN;
	q->reads_taken++;
	return DSM_OK;
}

int
dsm__conn_read_wait(struct dsm_conn *c, uint64_t deadline, uint64_t spin_ns,
                    int *spun_p)
{
	struct queue *q = queue_of(c);
	uint64_t spin_end = 0;
	int spinning = 1;
	int err;

	if (c->ops != &dsm__verbs_ops || q->reads_taken == q->reads_started)
		return DSM_EINVAL;
	for (unsigned tries = 0; (err = look_for_read(q)) == DSM_EAGAIN;
	     tries++) {
		if (spinning && tries % SPINS_PER_CLOCK == 0) {
			uint64_t now = dsm__now();

			if (tries == 0)
				spin_end = spin_ns < deadline - now
				               ? now + spin_ns
				               : deadline;
			spinning = now < spin_end && now < deadline;
		}
		if (spinning) {
			dsm__spin_pause(tries);
			continue;
		}
		err = dsm__conn_sleep(c, 0, deadline);
		if (err != DSM_OK)
			return err;
	}
	if (spun_p != NULL && err == DSM_OK)
		*spun_p = spinning;
	return err;
}

/* --- making and ending --- */

static void
queue_destroy(struct queue *q)
{
	const struct verbs_lib *lib = q->lib;

	if (q->qp != NULL)
		lib->destroy_qp(q->qp);
	if (q->cq != NULL)
		lib->destroy_cq(q->cq);
	if (q->channel != NULL)
		lib->destroy_comp_channel(q->channel);
	if (q->ring_mr != NULL)
		lib->dereg_mr(q->ring_mr);
	if (q->mr != NULL)
		lib->dereg_mr(q->mr);
	if (q->mem != NULL)
		munmap(q->mem, dsm__verbs_pinned(q->depth));
	if (q->epoll_fd >= 0)
		close(q->epoll_fd);
	free(q->arrived);
	free(q);
}

/*
 * Shared: a private page that is pinned would move away from under the device at
 * the next fork. A file, because its name tells a client's table of ranges
 * (dsm/heap/maptext.c) that this is no memory of the program.
 */
static void *
map_buffers(size_t len)
{
	int fd = memfd_create("dsm-verbs", MFD_CLOEXEC);
	void *p = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, (off_t)len) == 0)
		p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	return p;
}

static int
make_buffers(struct queue *q, struct dsm_error *e)
{
	size_t len = dsm__verbs_pinned(q->depth);
	void *p = map_buffers(len);

	q->arrived = calloc(q->depth, sizeof(*q->arrived));
	if (p == MAP_FAILED || q->arrived == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	q->mem = p;
	madvise(p, len, MADV_DONTFORK);
	q->mr = q->lib->reg_mr(q->domain->pd, p, len, IBV_ACCESS_LOCAL_WRITE);
	if (q->mr == NULL)
		return dsm__verbs_no_memory(q->domain->v, len, errno, e);
	return DSM_OK;
}

static int
make_completions(struct queue *q, struct dsm_error *e)
{
	struct ibv_context *ctx = q->domain->v->ctx;
	int flags;

	q->channel = q->lib->create_comp_channel(ctx);
	if (q->channel == NULL)
		goto failed;
	flags = fcntl(q->channel->fd, F_GETFL);
	if (flags < 0 ||
	    fcntl(q->channel->fd, F_SETFL, flags | O_NONBLOCK) != 0)
		goto failed;
	/* Not all on one processor: the vector is as good as random. */
	q->cq = q->lib->create_cq(
	    ctx, (int)(q->depth + VERBS_EMPTIES + VERBS_SQ), NULL, q->channel,
	    (int)(q->psn % (uint32_t)ctx->num_comp_vectors));
	if (q->cq != NULL)
		return DSM_OK;
failed:
	return dsm__fail(e, DSM_ESYS, "%s: cannot make a completion queue: %s",
	                 q->domain->v->name, strerror(errno));
}

static int
make_pair(struct queue *q, struct dsm_error *e)
{
	struct dsm_verbs *v = q->domain->v;
	struct ibv_qp_init_attr init = {
	    .send_cq = q->cq,
	    .recv_cq = q->cq,
	    .cap = {.max_send_wr = VERBS_SQ,
	            .max_recv_wr = q->depth + VERBS_EMPTIES,
	            .max_send_sge = 1,
	            .max_recv_sge = 1,
	            .max_inline_data = VERBS_INLINE},
	    .qp_type = IBV_QPT_RC,
	};
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_INIT,
	                           .port_num = (uint8_t)v->port,
	                           .qp_access_flags = IBV_ACCESS_REMOTE_READ};
	int err;

	q->qp = q->lib->create_qp(q->domain->pd, &init);
	if (q->qp == NULL) {
		/* Not every provider has that much of it. */
		init.cap.max_inline_data = 0;
		q->qp = q->lib->create_qp(q->domain->pd, &init);
	}
	if (q->qp == NULL)
		return dsm__fail(e, DSM_ESYS,
		                 "%s: cannot make a queue pair: %s", v->name,
		                 strerror(errno));
	q->max_inline = init.cap.max_inline_data < INLINE_MAX
	                    ? init.cap.max_inline_data
	                    : INLINE_MAX;
	err = q->lib->modify_qp(q->qp, &attr,
	                        IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
	                            IBV_QP_ACCESS_FLAGS);
	for (uint32_t i = 0; err == 0 && i < q->depth + VERBS_EMPTIES; i++)
		err = post_recv(q, i);
	if (err != 0)
		return dsm__fail(e, DSM_ESYS,
		                 "%s: cannot set up a queue pair: %s", v->name,
		                 strerror(err));
	return DSM_OK;
}

static int
queue_create(struct dsm_verbs_domain *d, struct queue **q_p,
             struct dsm_error *e)
{
	struct queue *q = calloc(1, sizeof(*q));
	int err;

	if (q == NULL) {
		dsm__fail(e, DSM_ENOMEM, "out of memory");
		return DSM_ENOMEM;
	}
	q->domain = d;
	q->lib = d->v->lib;
	q->depth = d->v->depth;
	q->epoll_fd = -1;
	if (getrandom(&q->psn, sizeof(q->psn), GRND_NONBLOCK) < 0)
		q->psn = (uint32_t)dsm__now();
	q->psn &= 0xffffff;
	err = make_completions(q, e);
	if (err == DSM_OK)
		err = make_buffers(q, e);
	if (err == DSM_OK)
		err = make_pair(q, e);
	if (err != DSM_OK) {
		queue_destroy(q);
		return err;
	}
	*q_p = q;
	return DSM_OK;
}

int
dsm__verbs_probe(struct dsm_verbs *v, struct dsm_error *e)
{
	struct dsm_verbs_domain *d;
	struct queue *q;
	int err = dsm__verbs_domain_create(v, &d, e);

	if (err != DSM_OK)
		return err;
	err = queue_create(d, &q, e);
	if (err == DSM_OK)
		queue_destroy(q);
	dsm__verbs_domain_destroy(d);
	return err;
}

/* Wait until the peer's adapter has what we sent, but not long. */
static void
linger(struct queue *q)
{
	uint64_t until = dsm__now() + CLOSE_NS;

	if (q->posted == q->retired || q->err != DSM_OK)
		return;
	/* Its completion tells of those before it. */
	post_send(q, NULL, 0);
	for (unsigned i = 1; q->err == DSM_OK && q->retired < q->posted; i++) {
		if (progress(q) > 0)
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
	struct queue *q = queue_of(c);

	if (c->ops == &dsm__verbs_ops)
		linger(q);
	queue_destroy(q);
	dsm__sock_close(c);
}

static void
verbs_forget(struct dsm_conn *c)
{
	struct queue *q = queue_of(c);

	close(q->epoll_fd);
	close(q->channel->fd);
	dsm__sock_close(c);
}

const struct dsm_conn_ops dsm__verbs_ops = {
    .name = "verbs",
    .readv = verbs_readv,
    .writev = verbs_writev,
    .arm = verbs_arm,
    .close = verbs_close,
    .forget = verbs_forget,
};

/* --- going over --- */

static int
make_epoll(struct queue *q, struct dsm_error *e)
{
	struct epoll_event in = {.events = EPOLLIN};
	struct epoll_event end = {.events = EPOLLIN | EPOLLRDHUP};

	q->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (q->epoll_fd < 0 ||
	    epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, q->channel->fd, &in) != 0 ||
	    epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, q->conn->fd, &end) != 0)
		return dsm__fail(e, DSM_ESYS, "epoll: %s", strerror(errno));
	return DSM_OK;
}

int
dsm__conn_verbs_offer(struct dsm_conn *c, struct dsm_verbs_domain *d,
                      struct dsm_msg_qp *mine, struct dsm_error *e)
{
	struct queue *q;
	int err;

	if (c->back != NULL)
		return dsm__fail(e, DSM_EINVAL, "it has been offered already");
	err = queue_create(d, &q, e);
	if (err != DSM_OK)
		return err;
	q->conn = c;
	err = make_epoll(q, e);
	if (err != DSM_OK) {
		queue_destroy(q);
		return err;
	}
	c->back = q;
	c->next_ops = &dsm__verbs_ops;
	*mine = (struct dsm_msg_qp){
	    .number = q->qp->qp_num,
	    .psn = q->psn,
	    .lid = d->v->lid,
	    .mtu = d->v->mtu,
	    .rd_atomic = d->v->rd_atomic,
	    .depth = q->depth,
	    .buf_len = VERBS_BUF_LEN,
	    .gid = {d->v->gid.raw, sizeof(d->v->gid.raw)},
	    .text = dsm__str(""),
	};
	return DSM_OK;
}

void
dsm__conn_verbs_withdraw(struct dsm_conn *c)
{
	if (c->next_ops != &dsm__verbs_ops)
		return;
	queue_destroy(queue_of(c));
	c->back = NULL;
	c->next_ops = NULL;
}

static int
is_possible(const struct queue *q, const struct dsm_msg_qp *m)
{
	return m->number > 0 && m->number <= 0xffffff && m->psn <= 0xffffff &&
	       m->mtu >= IBV_MTU_256 && m->mtu <= IBV_MTU_4096 &&
	       m->depth >= VERBS_DEPTH_MIN && m->depth <= VERBS_DEPTH_MAX &&
	       m->buf_len >= 256 && m->buf_len <= DSM_FRAME_MAX &&
	       m->rd_atomic <= 255 && m->gid.len == 16 &&
	       (q->domain->v->is_ethernet ? m->lid == 0
	                                  : m->lid > 0 && m->lid <= 0xffff);
}

static void
address(const struct dsm_verbs *v, const struct dsm_msg_qp *theirs,
        struct ibv_ah_attr *ah)
{
	ah->port_num = (uint8_t)v->port;
	ah->dlid = (uint16_t)theirs->lid;
	/* InfiniBand: within a subnet (the same first half) LIDs do. */
	ah->is_global =
	    v->is_ethernet || memcmp(theirs->gid.ptr, v->gid.raw, 8) != 0;
	if (ah->is_global) {
		memcpy(ah->grh.dgid.raw, theirs->gid.ptr, 16);
		ah->grh.sgid_index = (uint8_t)v->gid_index;
		ah->grh.hop_limit = HOP_LIMIT;
	}
}

static int
connect_pair(struct queue *q, const struct dsm_msg_qp *theirs)
{
	const struct dsm_verbs *v = q->domain->v;
	struct ibv_qp_attr rtr = {
	    .qp_state = IBV_QPS_RTR,
	    .path_mtu =
	        (enum ibv_mtu)(theirs->mtu < v->mtu ? theirs->mtu : v->mtu),
	    .dest_qp_num = theirs->number,
	    .rq_psn = theirs->psn,
	    .max_dest_rd_atomic = (uint8_t)v->rd_atomic,
	    .min_rnr_timer = RNR_TIMER,
	};
	struct ibv_qp_attr rts = {
	    .qp_state = IBV_QPS_RTS,
	    .timeout = ACK_TIMEOUT,
	    .retry_cnt = ACK_RETRIES,
	    .rnr_retry = RNR_RETRIES,
	    .sq_psn = q->psn,
	    .max_rd_atomic = (uint8_t)q->max_reads,
	};
	int err;

	address(v, theirs, &rtr.ah_attr);
	err = q->lib->modify_qp(q->qp, &rtr,
	                        IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
	                            IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
	                            IBV_QP_MAX_DEST_RD_ATOMIC |
	                            IBV_QP_MIN_RNR_TIMER);
	if (err != 0)
		return err;
	return q->lib->modify_qp(q->qp, &rts,
	                         IBV_QP_STATE | IBV_QP_TIMEOUT |
	                             IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
	                             IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

int
dsm__conn_verbs_connect(struct dsm_conn *c, const struct dsm_msg_qp *theirs,
                        struct dsm_error *e)
{
	struct queue *q = queue_of(c);
	const struct dsm_verbs *v;
	int err;

	if (c->next_ops != &dsm__verbs_ops)
		return dsm__fail(e, DSM_EINVAL, "nothing has been offered");
	v = q->domain->v;
	if (!is_possible(q, theirs)) {
		err = dsm__fail(e, DSM_EPROTO,
		                "%s: the peer's queue pair cannot be one "
		                "(number %u, LID %u, MTU %u, depth %u, "
		                "buffers of %u): is it %s as well?",
		                v->name, theirs->number, theirs->lid,
		                theirs->mtu, theirs->depth, theirs->buf_len,
		                v->is_ethernet ? "RoCE" : "InfiniBand");
		goto withdraw;
	}
	q->max_reads = v->init_rd_atomic < theirs->rd_atomic
	                   ? v->init_rd_atomic
	                   : theirs->rd_atomic;
	err = connect_pair(q, theirs);
	if (err != 0) {
		err = dsm__fail(e, DSM_ESYS,
		                "%s: cannot connect to %s's queue pair: %s",
		                v->name, c->peer, strerror(err));
		goto withdraw;
	}
	q->credits = q->their_depth = theirs->depth;
	q->send_len =
	    theirs->buf_len < VERBS_BUF_LEN ? theirs->buf_len : VERBS_BUF_LEN;
	return DSM_OK;
withdraw:
	dsm__conn_verbs_withdraw(c);
	return err;
}

int
dsm__conn_verbs_go(struct dsm_conn *c, struct dsm_error *e)
{
	struct queue *q = queue_of(c);

	if (c->next_ops != &dsm__verbs_ops || q->their_depth == 0)
		return dsm__fail(e, DSM_EINVAL, "no connected queue pair");
	if (dsm__conn_error(c) != DSM_OK)
		return dsm__fail(e, dsm__conn_error(c),
		                 "the connection failed");
	if (dsm__conn_backlog(c) > 0)
		return dsm__fail(e, DSM_EINVAL, "bytes are queued for TCP");
	if (c->in_off != c->in_len)
		return dsm__fail(e, DSM_EPROTO,
		                 "%s: bytes over TCP after its queue pair",
		                 c->peer);
	c->ops = &dsm__verbs_ops;
	c->next_ops = NULL;
	c->poll_fd = q->epoll_fd;
	return DSM_OK;
}
