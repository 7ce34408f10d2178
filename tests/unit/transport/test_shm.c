/* The unix socket pair. */
#include "../../conformance/conformance.h"

static int
open_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	return conformance_sockets(&dsm__shm_ops, dsm__shm_pair, max_body, c_p);
}

CONFORMANCE(dsm_transport_shm, "dsm.transport.shm", &dsm__shm_ops, open_pair,
            NULL);
