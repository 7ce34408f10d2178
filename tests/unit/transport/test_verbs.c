/*
 * Queue pairs, both ends on one device of this machine: the conformance suite.
 * TASKRT_VERBS_DEVICE and the others choose the device.
 */
#include "../../../dsm/transport/verbs.h"
#include "../../conformance/conformance.h"

#include "verbs_pair.h"

static int
open_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	return verbs_pair(max_body, c_p);
}

CONFORMANCE(dsm_transport_verbs, "dsm.transport.verbs", &dsm__verbs_ops,
            open_pair, verbs_missing);
