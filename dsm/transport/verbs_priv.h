/* What verbs.c (devices, domains, regions) and the queue pairs (verbs_queue.h)
 * share. */
#ifndef DSM_TRANSPORT_VERBS_PRIV_H
#define DSM_TRANSPORT_VERBS_PRIV_H

#include "verbs.h"
#include "verbs_lib.h"

#include <pthread.h>
#include <sys/queue.h>

/*
 * Sizes of a queue pair. A link on a fabric of 100 Gbit/s and 5 us holds 64 KiB:
 * the receive buffers are several of it, and little locked memory all the same.
 */
#define VERBS_DEPTH 32u /* default; receive buffers that credits pay for */
#define VERBS_DEPTH_MIN 4u
#define VERBS_DEPTH_MAX 1024u
#define VERBS_EMPTIES 3u      /* more receives: for SENDs without data */
#define VERBS_BUF_LEN 16384u  /* of a receive buffer, and of a send buffer */
#define VERBS_SENDS 16u       /* send buffers */
#define VERBS_READS 32u       /* READs in flight */
#define VERBS_INLINE 188u     /* bytes we would like to send without a buffer */
#define VERBS_INLINE_MAX 256u /* of what we are given */
#define VERBS_RD_ATOMIC 16u   /* READs a port works on at a time, at most */
/* Without a completion; adapters retry for 4 s at most (verbs_queue.c). */
#define VERBS_STALL_MS 10000u
/* Work requests that may be in the send queue at a time. */
#define VERBS_SQ (2 * VERBS_SENDS + VERBS_READS + VERBS_EMPTIES)

struct verbs_queue;

struct dsm_verbs {
	const struct verbs_lib *lib;
	struct ibv_context *ctx;
	uint32_t port;
	uint32_t gid_index;
	union ibv_gid gid;
	int is_ethernet;
	uint32_t lid;            /* 0 on Ethernet */
	uint32_t mtu;            /* enum ibv_mtu */
	uint32_t rd_atomic;      /* READs it answers at a time */
	uint32_t init_rd_atomic; /* READs it has under way at a time */
	uint32_t depth;
	uint32_t stall_ms; /* VERBS_STALL_MS; tests have less patience */
	pthread_mutex_t mutex;
	TAILQ_HEAD(, verbs_queue) queues; /* mutex: all that are offered */
	char name[64];                    /* "rxe0 port 1" */
	char text[200];                   /* dsm__verbs_text */
};

struct dsm_verbs_domain {
	struct dsm_verbs *v;
	struct ibv_pd *pd;
};

/* Is its port active, now? e says what to do about it. DSM_ESYS. */
int dsm__verbs_port_check(const struct dsm_verbs *v, struct dsm_error *e);
/* Make a queue pair with its buffers, and throw it away. */
int dsm__verbs_probe(struct dsm_verbs *v, struct dsm_error *e);
/* Bytes that the buffers of one queue pair pin. */
size_t dsm__verbs_pinned(uint32_t depth);
/*
 * A registration that failed with err (errno): e says what, how much and what to
 * do. DSM_ENOMEM or DSM_ESYS.
 */
int dsm__verbs_no_memory(const struct dsm_verbs *v, size_t len, int err,
                         struct dsm_error *e);

#endif
