/*
 * RDMA for the data links of one session: the device, the protection domain that
 * its queue pairs share, and the regions of the heap that slots read by themselves.
 *
 * Opened with the session when there is a coordinator and the transport is auto or
 * verbs. Without a usable device, auto means TCP: said at level info when the
 * machine has none, with a warning when there is one that cannot be used.
 *
 * Ends in the order queue pairs (their data links), regions, domain, device.
 *
 * Locks: the drive lock, but for open and close, when nobody else has the session.
 */
#ifndef TASKRT_CLIENT_RDMA_H
#define TASKRT_CLIENT_RDMA_H

#include "../../dsm/heap/heap.h"
#include "../../dsm/heap/regions.h"
#include "../../dsm/transport/verbs.h"
#include "config.h"

struct taskrt__rdma;

/* dsm/transport/verbs.h, or what a test has in its place. */
struct taskrt__rdma_ops {
	int (*open)(const struct dsm_verbs_choice *c, struct dsm_verbs **v_p,
	            struct dsm_error *e);
	void (*close)(struct dsm_verbs *v);
	void (*forget)(struct dsm_verbs *v);
	const char *(*text)(const struct dsm_verbs *v);
	int (*domain_create)(struct dsm_verbs *v, struct dsm_verbs_domain **d_p,
	                     struct dsm_error *e);
	void (*domain_destroy)(struct dsm_verbs_domain *d);
	int (*offer)(struct dsm_conn *c, struct dsm_verbs_domain *d,
	             struct dsm_msg_qp *mine, struct dsm_error *e);
	int (*connect)(struct dsm_conn *c, const struct dsm_msg_qp *theirs,
	               struct dsm_error *e);
	int (*go)(struct dsm_conn *c, struct dsm_error *e);
	struct dsm_regions_ops regions;
};
extern const struct taskrt__rdma_ops taskrt__rdma_verbs;

/*
 * DSM_OK: *r_p is open, or NULL: no RDMA, and *why says so ("" when the
 * configuration wants none). Failure only with transport verbs; e says what is
 * missing.
 */
int taskrt__rdma_open(const struct taskrt__config *config,
                      struct dsm_heap *heap, const struct taskrt__rdma_ops *ops,
                      struct taskrt__rdma **r_p, char *why, size_t why_size,
                      struct dsm_error *e);
/* Its data links are closed. Takes the heap lock. NULL is fine. */
void taskrt__rdma_close(struct taskrt__rdma *r);
/* In a forked child: its descriptors only. NULL is fine. */
void taskrt__rdma_forget(struct taskrt__rdma *r);
/* The device and port in use. */
const char *taskrt__rdma_text(const struct taskrt__rdma *r);

/* A queue pair for conn, connected to `theirs`; `mine` describes it to the peer.
 * Failure: conn stays with TCP, e says why. */
int taskrt__rdma_connect(struct taskrt__rdma *r, struct dsm_conn *conn,
                         const struct dsm_msg_qp *theirs,
                         struct dsm_msg_qp *mine, struct dsm_error *e);
/* The reply is out: go over. */
int taskrt__rdma_go(struct taskrt__rdma *r, struct dsm_conn *conn,
                    struct dsm_error *e);

/*
 * Answer ASK_KEY: the records of REGIONS, packed, appended to w; *n_p of them. The
 * first is about addr; the others are those that the asker has not heard of (it
 * knows the first *told_p), as many as fit. DSM_EPROTO, DSM_ENOMEM.
 */
int taskrt__rdma_regions(struct taskrt__rdma *r,
                         const struct dsm_msg_ask_key *ask, size_t *told_p,
                         struct dsm_wbuf *w, uint32_t *n_p);

#endif
