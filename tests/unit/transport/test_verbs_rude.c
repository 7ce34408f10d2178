/* A peer with a queue pair of its own making that keeps to no rule. */
#include "../../../dsm/transport/verbs_priv.h"
#include "../../test.h"
#include "verbs_pair.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/mman.h>

#define LIMIT (1u << 20)
#define ROOM (1u << 20)
#define PATIENCE dsm__deadline_ms(20000)

struct rude {
	const struct verbs_lib *lib;
	struct ibv_pd *pd;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_mr *mr;
	uint8_t *mem;
	struct dsm_conn *socket; /* its end of the TCP connection */
	struct dsm_conn *c;      /* ours, over verbs */
	struct dsm_msg_qp ours;
};

static void
to_rts(struct rude *r, const struct dsm_verbs *v)
{
	struct ibv_qp_attr a = {.qp_state = IBV_QPS_INIT,
	                        .port_num = (uint8_t)v->port};
	struct ibv_recv_wr wr = {.wr_id = 0}, *bad;

	MUST_BE(r->lib->modify_qp(r->qp, &a,
	                          IBV_QP_STATE | IBV_QP_PKEY_INDEX |
	                              IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
	        0);
	for (int i = 0; i < 8; i++)
		MUST_BE(ibv_post_recv(r->qp, &wr, &bad), 0);
	a = (struct ibv_qp_attr){
	    .qp_state = IBV_QPS_RTR,
	    .path_mtu = IBV_MTU_256,
	    .dest_qp_num = r->ours.number,
	    .rq_psn = r->ours.psn,
	    .max_dest_rd_atomic = 1,
	    .ah_attr = {.is_global = 1,
	                .grh = {.sgid_index = (uint8_t)v->gid_index,
	                        .hop_limit = 1,
	                        .dgid = v->gid},
	                .dlid = (uint16_t)v->lid,
	                .port_num = (uint8_t)v->port},
	};
	MUST_BE(r->lib->modify_qp(r->qp, &a,
	                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
	                              IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
	                              IBV_QP_MAX_DEST_RD_ATOMIC |
	                              IBV_QP_MIN_RNR_TIMER),
	        0);
	a = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
	                         .timeout = 14,
	                         .retry_cnt = 3,
	                         .sq_psn = 7,
	                         .max_rd_atomic = 1};
	MUST_BE(r->lib->modify_qp(r->qp, &a,
	                          IBV_QP_STATE | IBV_QP_TIMEOUT |
	                              IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
	                              IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
	        0);
}

static void
start(struct rude *r)
{
	const struct dsm_verbs *v = verbs_device();
	struct ibv_qp_init_attr init = {.cap = {.max_send_wr = 64,
	                                        .max_recv_wr = 8,
	                                        .max_send_sge = 1,
	                                        .max_recv_sge = 1},
	                                .qp_type = IBV_QPT_RC};
	struct dsm_msg_qp theirs;
	struct dsm_conn *c[2];

	MUST_OK(verbs_tcp_pair(LIMIT, c));
	*r = (struct rude){.lib = v->lib, .socket = c[1], .c = c[0]};
	MUST_OK(dsm__conn_verbs_offer(r->c, verbs_domain(), &r->ours, NULL));
	r->mem = mmap(NULL, ROOM, PROT_READ | PROT_WRITE,
	              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(r->mem != MAP_FAILED);
	MUST((r->pd = r->lib->alloc_pd(v->ctx)) != NULL);
	MUST((r->cq = r->lib->create_cq(v->ctx, 128, NULL, NULL, 0)) != NULL);
	r->mr = r->lib->reg_mr(r->pd, r->mem, ROOM, IBV_ACCESS_LOCAL_WRITE);
	MUST(r->mr != NULL);
	init.send_cq = init.recv_cq = r->cq;
	MUST((r->qp = r->lib->create_qp(r->pd, &init)) != NULL);
	to_rts(r, v);
	theirs = r->ours;
	theirs.number = r->qp->qp_num;
	theirs.psn = 7;
	theirs.depth = 4;
	MUST_OK(dsm__conn_verbs_connect(r->c, &theirs, NULL));
	MUST_OK(dsm__conn_verbs_go(r->c, NULL));
}

static void
stop(struct rude *r)
{
	dsm__conn_close(r->c);
	dsm__conn_close(r->socket);
	r->lib->destroy_qp(r->qp);
	r->lib->destroy_cq(r->cq);
	r->lib->dereg_mr(r->mr);
	r->lib->dealloc_pd(r->pd);
	munmap(r->mem, ROOM);
}

static void
post(struct rude *r, enum ibv_wr_opcode opcode, uint32_t len, uint32_t credits,
     uint32_t rkey)
{
	struct ibv_sge sge = {(uintptr_t)r->mem, len, r->mr->lkey};
	struct ibv_send_wr wr = {.sg_list = &sge,
	                         .num_sge = len > 0,
	                         .opcode = opcode,
	                         .send_flags = IBV_SEND_SIGNALED,
	                         .imm_data = htonl(credits),
	                         .wr.rdma = {4096, rkey}};
	struct ibv_send_wr *bad;

	MUST_BE(ibv_post_send(r->qp, &wr, &bad), 0);
}

static int
wait_error(struct rude *r)
{
	struct dsm_frame f;
	int err;

	while ((err = dsm__conn_recv_wait(r->c, PATIENCE, 0, &f, NULL)) ==
	       DSM_OK)
		;
	return err;
}

static void
test_a_send_without_credits_in_it_is_an_error(void)
{
	struct rude r;

	start(&r);
	post(&r, IBV_WR_SEND, 16, 0, 0);
	MUST_BE(wait_error(&r), DSM_EPROTO);
	MUST(strstr(dsm__conn_why(r.c), "credits") != NULL);
	stop(&r);
}

static void
test_credits_that_were_never_taken_are_an_error(void)
{
	static const uint32_t wrong[] = {1, 5, 0x80000000, UINT32_MAX};

	for (int i = 0; i < 4; i++) {
		struct rude r;

		start(&r);
		post(&r, IBV_WR_SEND_WITH_IMM, 0, wrong[i], 0);
		MUST_BE(wait_error(&r), DSM_EPROTO);
		MUST_BE(dsm__conn_send(r.c, 7, 0, 0, NULL, 0), DSM_EPROTO);
		stop(&r);
	}
}

static void
test_a_send_longer_than_a_buffer_is_an_error(void)
{
	struct rude r;

	start(&r);
	post(&r, IBV_WR_SEND_WITH_IMM, r.ours.buf_len + 1, 0, 0);
	MUST_BE(wait_error(&r), DSM_ECONN);
	stop(&r);
}

static void
test_more_sends_than_credits_are_an_error(void)
{
	struct rude r;

	start(&r);
	for (uint32_t i = 0; i < r.ours.depth + VERBS_EMPTIES + 1; i++)
		post(&r, IBV_WR_SEND_WITH_IMM, 1, 0, 0);
	/* Unread, they fill the queue: the one too many is found. */
	MUST_WITHIN_MS(20000,
	               dsm__conn_send(r.c, 7, 0, 0, NULL, 0) == DSM_EPROTO);
	MUST(strstr(dsm__conn_why(r.c), "without credits") != NULL);
	stop(&r);
}

static void
test_writing_into_our_memory_is_refused(void)
{
	struct dsm_verbs_region *region;
	uint64_t *heap = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
	                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct rude r;

	MUST(heap != MAP_FAILED);
	heap[0] = 7;
	MUST_OK(dsm__verbs_register(verbs_domain(), heap, 4096, &region, NULL));
	start(&r);
	{
		struct ibv_sge sge = {(uintptr_t)r.mem, 8, r.mr->lkey};
		struct ibv_send_wr wr = {
		    .sg_list = &sge,
		    .num_sge = 1,
		    .opcode = IBV_WR_RDMA_WRITE,
		    .wr.rdma = {(uintptr_t)heap, dsm__verbs_rkey(region)}};
		struct ibv_send_wr *bad;

		MUST_BE(ibv_post_send(r.qp, &wr, &bad), 0);
	}
	MUST_BE(wait_error(&r), DSM_ECONN);
	MUST_BE(heap[0], 7);
	stop(&r);
	dsm__verbs_unregister(region);
	munmap(heap, 4096);
}

static void
test_garbage_in_sends_never_gets_through(void)
{
	uint64_t seed = test_seed();

	for (int round = 0; round < 10; round++) {
		struct rude r;

		start(&r);
		for (size_t i = 0; i < 4096; i++)
			r.mem[i] = (uint8_t)test_rand(&seed);
		r.mem[6] = 0; /* no version of ours */
		post(&r, IBV_WR_SEND_WITH_IMM,
		     16 + (uint32_t)(test_rand(&seed) % 4000), 0, 0);
		MUST_BE(wait_error(&r), DSM_EPROTO);
		stop(&r);
	}
}

SUITE_UNLESS(dsm_transport_verbs_rude, "dsm.transport.verbs_rude",
             verbs_missing, T(test_a_send_without_credits_in_it_is_an_error),
             T(test_credits_that_were_never_taken_are_an_error),
             T(test_a_send_longer_than_a_buffer_is_an_error),
             T(test_more_sends_than_credits_are_an_error),
             T(test_writing_into_our_memory_is_refused),
             T(test_garbage_in_sends_never_gets_through));
