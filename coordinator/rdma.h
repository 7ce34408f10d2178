/*
 * What a worker's user wants of RDMA, and whether this machine has it.
 */
#ifndef COORDINATOR_RDMA_H
#define COORDINATOR_RDMA_H

#include "worker/worker.h"

struct rdma_options {
	const char *transport; /* "auto", "tcp", "verbs"; NULL: environment */
	const char *device;    /* NULL: environment, else any */
	uint64_t port;         /* 0: environment, else any */
	uint64_t gid_index;    /* RDMA_ANY_GID: environment, else any */
};
#define RDMA_ANY_GID UINT64_MAX

/*
 * Looks for a device unless TCP is wanted, and logs in one line what slots will
 * use or why not. 0 and *v_p; 2: an option or a variable that cannot be, said on
 * stderr; 1: verbs is a must and does not work, logged.
 */
int rdma_probe(const struct rdma_options *o, struct worker_verbs *v_p);

#endif
