/* What a connection is: for conn.c and the back-ends. */
#ifndef DSM_TRANSPORT_CONN_PRIV_H
#define DSM_TRANSPORT_CONN_PRIV_H

#include "conn.h"

struct dsm_conn {
	const struct dsm_conn_ops *ops; /* changes when verbs goes over */
	/* Of the back-end that is offered but not in use; it closes then. */
	const struct dsm_conn_ops *next_ops;
	void *back; /* of the back-end; NULL for sockets */
	/* NULL: none; stays when verbs goes over. A pointer to its end, so that
	 * what has no TLS in it needs no OpenSSL. */
	struct dsm_tls *tls;
	void (*tls_free)(struct dsm_conn *c);
	int fd;      /* the socket; const after create */
	int poll_fd; /* dsm__conn_fd: fd, or the back-end's */
	uint32_t max_body;
	int in_err;  /* why recv FAILED, or DSM_OK */
	int out_err; /* why send FAILED, or DSM_OK */
	uint8_t *in;
	size_t in_cap, in_off, in_len;
	size_t rest;   /* of the last frame's body, not taken yet */
	int no_splice; /* the socket turned out not to do it */
	uint8_t *out;
	size_t out_cap, out_off, out_len;
	char peer[DSM_ADDR_MAX];
	char why[160]; /* dsm__conn_why */
};

/* As the members of struct dsm_conn_ops, on the socket c->fd. */
ssize_t dsm__sock_readv(struct dsm_conn *c, const struct iovec *iov, int n);
ssize_t dsm__sock_writev(struct dsm_conn *c, const struct iovec *iov, int n);
ssize_t dsm__sock_splice(struct dsm_conn *c, int pipe_fd, size_t len);
void dsm__sock_close(struct dsm_conn *c);

/* Of every TCP socket: no delay, and a peer whose machine is gone fails it. */
void dsm__tcp_settings(int fd);

/* Sleep until trying again for events makes sense, or until the deadline
 * (DSM_ETIMEDOUT). DSM_ECONN: the peer cannot be reached. DSM_ESYS. */
int dsm__conn_sleep(struct dsm_conn *c, int events, uint64_t deadline);

#endif
