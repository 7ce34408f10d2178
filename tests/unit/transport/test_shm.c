/* The unix socket pair. */
#include "../../conformance/conformance.h"

CONFORMANCE(dsm_transport_shm, "dsm.transport.shm", &dsm__shm_ops,
            dsm__shm_pair);
