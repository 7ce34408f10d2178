/*
 * The life of a queue pair: made with its buffers and completion queue, offered to a
 * peer, connected to the peer's, gone over to, destroyed. verbs_queue.h has the
 * states; what travels through it is verbs_conn.c's.
 */
#include "verbs_queue.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "../base/clock.h"

/* 4.096 us * 2^15 = 134 ms, seven times: 0.9 s. Adapters may take up to four times
 * that; a busy virtual machine needs half of it without anything being lost. Not 7
 * retries: Soft-RoCE never stops then. */
#define ACK_TIMEOUT 15
#define ACK_RETRIES 6
/* Never needed: the receives are there. Then it had better be seen. */
#define RNR_RETRIES 0
#define RNR_TIMER 12
#define HOP_LIMIT 64

size_t
dsm__verbs_pinned(uint32_t depth)
{
	return (size_t)(depth + VERBS_EMPTIES + VERBS_SENDS) * VERBS_BUF_LEN;
}

/* --- making and ending --- */

void
dsm__queue_destroy(struct verbs_queue *q)
{
	const struct verbs_lib *lib = q->lib;

	if (q->conn != NULL)
		dsm__verbs_leave(q);
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
make_buffers(struct verbs_queue *q, struct dsm_error *e)
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
make_completions(struct verbs_queue *q, struct dsm_error *e)
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
make_pair(struct verbs_queue *q, struct dsm_error *e)
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
	q->max_inline = init.cap.max_inline_data < VERBS_INLINE_MAX
	                    ? init.cap.max_inline_data
	                    : VERBS_INLINE_MAX;
	err = q->lib->modify_qp(q->qp, &attr,
	                        IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
	                            IBV_QP_ACCESS_FLAGS);
	for (uint32_t i = 0; err == 0 && i < q->depth + VERBS_EMPTIES; i++)
		err = dsm__queue_post_recv(q, i);
	if (err != 0)
		return dsm__fail(e, DSM_ESYS,
		                 "%s: cannot set up a queue pair: %s", v->name,
		                 strerror(err));
	return DSM_OK;
}

static int
queue_create(struct dsm_verbs_domain *d, struct verbs_queue **q_p,
             struct dsm_error *e)
{
	struct verbs_queue *q = calloc(1, sizeof(*q));
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
		dsm__queue_destroy(q);
		return err;
	}
	*q_p = q;
	return DSM_OK;
}

int
dsm__verbs_probe(struct dsm_verbs *v, struct dsm_error *e)
{
	struct dsm_verbs_domain *d;
	struct verbs_queue *q;
	int err = dsm__verbs_domain_create(v, &d, e);

	if (err != DSM_OK)
		return err;
	err = queue_create(d, &q, e);
	if (err == DSM_OK)
		dsm__queue_destroy(q);
	dsm__verbs_domain_destroy(d);
	return err;
}

/* --- going over --- */

static int
make_epoll(struct verbs_queue *q, struct dsm_error *e)
{
	struct epoll_event in = {.events = EPOLLIN};
	struct epoll_event end = {.events = EPOLLIN | EPOLLRDHUP};

	q->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (q->epoll_fd < 0 ||
	    epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, q->channel->fd, &in) != 0 ||
	    epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, q->domain->v->ctx->async_fd,
	              &in) != 0 ||
	    epoll_ctl(q->epoll_fd, EPOLL_CTL_ADD, q->conn->fd, &end) != 0)
		return dsm__fail(e, DSM_ESYS, "epoll: %s", strerror(errno));
	return DSM_OK;
}

int
dsm__conn_verbs_offer(struct dsm_conn *c, struct dsm_verbs_domain *d,
                      struct dsm_msg_qp *mine, struct dsm_error *e)
{
	struct verbs_queue *q;
	int err;

	if (c->back != NULL)
		return dsm__fail(e, DSM_EINVAL, "it has been offered already");
	dsm__verbs_hear(d->v); /* old news is nothing to a new queue pair */
	err = dsm__verbs_port_check(d->v, e);
	if (err == DSM_OK)
		err = queue_create(d, &q, e);
	if (err != DSM_OK)
		return err;
	q->conn = c;
	dsm__verbs_join(q);
	err = make_epoll(q, e);
	if (err != DSM_OK) {
		dsm__queue_destroy(q);
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
	dsm__queue_destroy(dsm__queue_of(c));
	c->back = NULL;
	c->next_ops = NULL;
}

static int
is_possible(const struct verbs_queue *q, const struct dsm_msg_qp *m)
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
connect_pair(struct verbs_queue *q, const struct dsm_msg_qp *theirs)
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
	struct verbs_queue *q = dsm__queue_of(c);
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
	struct verbs_queue *q = dsm__queue_of(c);

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
