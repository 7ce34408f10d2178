/*
 * A TCP connection in the making, on a loop: one attempt, with an end.
 */
#ifndef DSM_TRANSPORT_CONNECT_H
#define DSM_TRANSPORT_CONNECT_H

#include "loop.h"

struct dsm_connect;

/* fd: connected, the callee's; -1: e says why. The attempt is over and gone. */
typedef void dsm_connected(void *arg, int fd, const struct dsm_error *e);

/*
 * Lock held. done is called once, from the loop, within limit_ms. addr is borrowed
 * until then. DSM_EINVAL, DSM_ECONN (no such address), DSM_ENOMEM, DSM_ESYS: e says
 * why, done is not called. (Names are looked up here and now, as by
 * dsm__tcp_connect_start.)
 */
int dsm__connect_start(struct dsm_loop *l, const char *addr, uint64_t limit_ms,
                       dsm_connected *done, void *arg, struct dsm_connect **c_p,
                       struct dsm_error *e);
/* Lock held; not after done. NULL is fine. */
void dsm__connect_cancel(struct dsm_connect *c);
/* In a forked child, instead of cancel. NULL is fine. */
void dsm__connect_forget(struct dsm_connect *c);

#endif
