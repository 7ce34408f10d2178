/* What back-ends over stream sockets share; defined in conn.c. */
#ifndef DSM_TRANSPORT_SOCK_H
#define DSM_TRANSPORT_SOCK_H

#include "conn.h"

/* As the members of struct dsm_conn_ops: the socket is dsm__conn_fd(c). */
ssize_t dsm__sock_readv(struct dsm_conn *c, const struct iovec *iov, int n);
ssize_t dsm__sock_writev(struct dsm_conn *c, const struct iovec *iov, int n);
void dsm__sock_close(struct dsm_conn *c);

#endif
