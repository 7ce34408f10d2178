/* A descriptor that has to be armed. */
#include "../../conformance/conformance.h"
#include "../../conformance/oneshot.h"

CONFORMANCE(dsm_transport_oneshot, "dsm.transport.oneshot", &oneshot_ops,
            oneshot_pair, NULL);
