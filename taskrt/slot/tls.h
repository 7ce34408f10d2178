/* The data link of a slot whose worker made it with TLS. */
#ifndef TASKRT_SLOT_TLS_H
#define TASKRT_SLOT_TLS_H

#include "../../dsm/transport/tls.h"

/* Go on with the connection as its worker left it; *st is wiped. DSM_ENOMEM;
 * DSM_EINVAL: this kind of slot has no TLS. */
int tls_take_over(struct dsm_conn *c, struct dsm_tls_state *st);

#endif
