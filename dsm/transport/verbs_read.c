/*
 * One-sided READs: out of memory that the peer has registered, into a ring that is
 * registered here. They share the send queue with SENDs (VERBS_SQ has room for both)
 * and end in the order of their starts, so three counts say it all:
 *
 *   taken <= done <= started    waited for; completed; posted
 *
 * At most VERBS_READS are not waited for: their room in the ring is taken until
 * then. How many the fabric works on at a time is the adapters' business
 * (max_reads).
 */
#include "verbs_queue.h"

#include <errno.h>

#include "../base/clock.h"

#define SPINS_PER_CLOCK 8
/* A READ that takes some microseconds costs no look at the clock. */
#define SPINS_AT_FIRST 64u

int
dsm__conn_read_ring(struct dsm_conn *c, void *ring, size_t len,
                    struct dsm_error *e)
{
	struct verbs_queue *q = dsm__queue_of(c);

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
in_ring(const struct verbs_queue *q, const void *to, size_t len)
{
	uintptr_t off = (uintptr_t)to - (uintptr_t)q->ring;

	return len > 0 && off < q->ring_len && len <= q->ring_len - off &&
	       len <= UINT32_MAX / 4;
}

int
dsm__conn_read_start(struct dsm_conn *c, uint64_t remote, uint32_t rkey,
                     void *to, size_t len)
{
	struct verbs_queue *q = dsm__queue_of(c);
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
	err = dsm__queue_post(q, &wr, VERBS_READ);
	if (err == DSM_OK)
		q->reads_started++;
	return err;
}

/* DSM_OK: the oldest READ has ended. */
static int
look_for_read(struct verbs_queue *q)
{
	if (q->reads_taken == q->reads_done)
		dsm__queue_progress(q);
	if (q->reads_taken == q->reads_done)
		return q->err != DSM_OK ? q->err : DSM_EAGAIN;
	q->reads_taken++;
	return DSM_OK;
}

int
dsm__conn_read_wait(struct dsm_conn *c, uint64_t deadline, uint64_t spin_ns,
                    int *spun_p)
{
	struct verbs_queue *q = dsm__queue_of(c);
	uint64_t spin_end = 0;
	int spinning = 1;
	int err;

	if (c->ops != &dsm__verbs_ops || q->reads_taken == q->reads_started)
		return DSM_EINVAL;
	for (unsigned tries = 0; (err = look_for_read(q)) == DSM_EAGAIN;
	     tries++) {
		if (spinning && tries >= SPINS_AT_FIRST &&
		    tries % SPINS_PER_CLOCK == 0) {
			uint64_t now = dsm__now();

			if (spin_end == 0)
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
