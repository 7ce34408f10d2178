/*
 * RDMA over libibverbs: what a device is, what a session registers, and how a
 * connection goes over from TCP to a queue pair. The only home of libibverbs.
 *
 * struct dsm_verbs         one opened device with the port and GID in use; one a
 *                          process and choice
 * struct dsm_verbs_domain  a protection domain of it: the queue pairs and regions
 *                          of one session. A peer reaches nothing of another one.
 * conn                     begins as TCP, authenticated by HELLO and WELCOME. Both
 *                          ends offer a queue pair in QP messages, then go over:
 *                          from there all frames travel as SENDs of the queue
 *                          pair. The TCP socket stays open, silent: its end is the
 *                          peer's end, also when the fabric has nothing to say.
 *
 *   slot                                client
 *   offer, send QP  ------ TCP ------>  offer, connect; reply QP, flush; go
 *   connect; go     <----- TCP ------
 *   READ, WRITES …  ------ RC  ------>  (what comes is kept since connect)
 *
 * Either end may decline with number 0 and a reason: the connection stays TCP.
 * The client connects before it replies, so that it can still decline when that
 * fails, and so that nothing the slot sends finds a queue pair that is not ready. A
 * slot that cannot connect after a reply has to close: the client has gone over.
 *
 * Flow control: see the head of verbs_conn.c; doc/PROTOCOL.md has the rules.
 *
 * A queue pair in error state is a FAILED connection (DSM_ECONN), which
 * dsm__conn_why explains.
 *
 * Threads: a domain and its conns belong to one owner at a time, as conns do.
 *
 * The library is found at run time (dlopen of libibverbs.so.1) in programs and
 * daemons; the slot is static and has it linked in with all providers
 * (verbs_static.c). Without it dsm__verbs_open says what to install.
 */
#ifndef DSM_TRANSPORT_VERBS_H
#define DSM_TRANSPORT_VERBS_H

#include "../wire/wire.h"
#include "conn.h" /* also dsm__conn_why, dsm__conn_forget */

extern const struct dsm_conn_ops dsm__verbs_ops; /* dsm__conn_verbs_go only */

struct dsm_verbs;
struct dsm_verbs_domain;
struct dsm_verbs_region;

/* What the user chose; all zero: automatic. */
struct dsm_verbs_choice {
	char device[64];    /* "mlx5_0"; "": the first with an active port */
	uint32_t port;      /* 0: the first active one */
	uint32_t gid_index; /* 1 + index; 0: RoCE v2 of an IPv4 address first,
	                     * then other RoCE v2, on InfiniBand the first */
	uint32_t depth;     /* receive buffers of a queue pair; 0: default */
};
/* From TASKRT_VERBS_DEVICE, _PORT, _GID_INDEX, _DEPTH over what is in c.
 * DSM_EINVAL: e names the variable. */
int dsm__verbs_choice_env(struct dsm_verbs_choice *c, struct dsm_error *e);
/* "device=mlx5_0,port=1,gid=3,depth=64" and back, to hand it to a slot. */
int dsm__verbs_choice_text(const struct dsm_verbs_choice *c, char *buf,
                           size_t size);
int dsm__verbs_choice_parse(const char *text, struct dsm_verbs_choice *c_p);

/*
 * Opens a device and proves that it can be used: port active, GID there, a queue
 * pair and its buffers can be made, RLIMIT_MEMLOCK is not so small that a session
 * would hit it at once. e: one line with the cause and the cure ("rxe0 port 1 is
 * DOWN: …").
 *   DSM_ECONN   this machine has no RDMA device (or the library is missing and
 *               so is the device): nothing anybody need be warned of
 *   DSM_EINVAL  the choice names a device, port or GID that does not exist
 *   DSM_ESYS, DSM_ENOMEM
 *               there is one, but it cannot be used
 */
int dsm__verbs_open(const struct dsm_verbs_choice *c, struct dsm_verbs **v_p,
                    struct dsm_error *e);
void dsm__verbs_close(struct dsm_verbs *v); /* NULL is fine */
/*
 * In a forked child, instead of closing anything: lets go of the device's
 * descriptors, leaves the parent's queue pairs and regions alone and the memory of
 * v, its domains and regions as it is. Their conns: dsm__conn_forget.
 */
void dsm__verbs_forget(struct dsm_verbs *v);
/* "mlx5_0 port 1, InfiniBand, LID 4, MTU 4096" or
 * "rxe0 port 1, RoCE v2, GID 1 (10.1.0.1), MTU 1024" */
const char *dsm__verbs_text(const struct dsm_verbs *v);

int dsm__verbs_domain_create(struct dsm_verbs *v, struct dsm_verbs_domain **d_p,
                             struct dsm_error *e);
/* After its conns are closed and its regions are gone. NULL is fine. */
void dsm__verbs_domain_destroy(struct dsm_verbs_domain *d);

/*
 * Let peers of the domain read [base, base + len): page aligned, a writable
 * MAP_SHARED mapping (never a private one), which may be unmapped afterwards
 * but in which no hole may be punched. Populates and pins every page.
 * DSM_ENOMEM (RLIMIT_MEMLOCK; e says the limit and the cure), DSM_ESYS.
 */
int dsm__verbs_register(struct dsm_verbs_domain *d, void *base, size_t len,
                        struct dsm_verbs_region **r_p, struct dsm_error *e);
void dsm__verbs_unregister(struct dsm_verbs_region *r);
/* What a peer names in its READ: never 0. */
uint32_t dsm__verbs_rkey(const struct dsm_verbs_region *r);

/*
 * Make a queue pair for the (still TCP) conn c, with receives posted, and fill in
 * the message that describes it; mine->gid points into the conn.
 * DSM_ENOMEM, DSM_ESYS with e: c is as before.
 */
int dsm__conn_verbs_offer(struct dsm_conn *c, struct dsm_verbs_domain *d,
                          struct dsm_msg_qp *mine, struct dsm_error *e);
/*
 * Connect it to the peer's. c is still TCP and sends and receives as such; what
 * the peer sends over the queue pair is kept until go. DSM_EPROTO (a description
 * that cannot be), DSM_ESYS: the offer is withdrawn.
 */
int dsm__conn_verbs_connect(struct dsm_conn *c, const struct dsm_msg_qp *theirs,
                            struct dsm_error *e);
/*
 * Go over: dsm__conn_transport is "verbs" from here on, dsm__conn_fd another
 * descriptor (on a loop: dsm__handle_refresh right after it). DSM_EINVAL:
 * bytes are queued for TCP, flush first; DSM_EPROTO: the peer sent more after the
 * frame with its queue pair. c stays TCP then, still connected.
 */
int dsm__conn_verbs_go(struct dsm_conn *c, struct dsm_error *e);
/* Stay with TCP: the offer is forgotten. */
void dsm__conn_verbs_withdraw(struct dsm_conn *c);

/*
 * One-sided reads. `ring` is the only memory they land in: page aligned, MAP_SHARED,
 * registered once, after go; it must outlive the conn. Several may be in flight;
 * they end in the order of their starts. Frames that arrive meanwhile are kept
 * for dsm__conn_recv. A read that the peer refuses (wrong key, out of range) fails
 * the conn.
 *   start  DSM_OK, DSM_EAGAIN (too many not waited for: wait for one), DSM_EINVAL
 *          (not inside the ring), DSM_ECONN
 *   wait   for the oldest: spins for spin_ns, then sleeps until the deadline.
 *          DSM_OK, DSM_ETIMEDOUT (it stays in flight), DSM_ECONN, DSM_EINVAL (none
 *          is in flight). *spun_p as in recv_wait.
 */
int dsm__conn_read_ring(struct dsm_conn *c, void *ring, size_t len,
                        struct dsm_error *e);
int dsm__conn_read_start(struct dsm_conn *c, uint64_t remote, uint32_t rkey,
                         void *to, size_t len);
int dsm__conn_read_wait(struct dsm_conn *c, uint64_t deadline, uint64_t spin_ns,
                        int *spun_p);

#endif
