/*
 * What a worker's user wants of the sandbox of slots, and whether this machine has it.
 */
#ifndef COORDINATOR_SANDBOX_H
#define COORDINATOR_SANDBOX_H

#include "worker/worker.h"

struct sandbox_options {
	const char *user; /* whom slots run as; NULL: as we do */
	int off;          /* the user takes the risk */
};

/*
 * Logs in one line what is missing. 0 and *s_p; 2: an option that cannot be, said on
 * stderr; 1: this kernel cannot keep slots in, logged.
 */
int sandbox_probe(const struct sandbox_options *o, struct worker_sandbox *s_p);

#endif
