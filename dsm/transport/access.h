/*
 * How a program, a worker or a tool gets into a coordinator: with a token, over
 * TLS; or without, over plain TCP, which other machines must not be on unless
 * somebody has said that they may (insecure).
 */
#ifndef DSM_TRANSPORT_ACCESS_H
#define DSM_TRANSPORT_ACCESS_H

#include "tls.h"

struct dsm_access {
	const char *file; /* borrowed; NULL: none */
	int insecure;
	char name[DSM_TLS_NAME_MAX]; /* of the token */
	uint8_t *psk; /* in memory for secrets; NULL: no token, plain TCP */
};

/* Read the token file (NULL or "": none): its first token with that role (enum
 * dsm_token_role), else its first. Failures are DSM_EAUTH or DSM_ENOMEM. */
int dsm__access_init(struct dsm_access *a, const char *file, int insecure,
                     unsigned role, struct dsm_error *e);
void dsm__access_fini(struct dsm_access *a);

/* A conn over fd, a socket that is connected to addr. Owns fd, also on failure.
 * DSM_EAUTH: plain TCP, and other machines are on it. */
int dsm__access_conn(const struct dsm_access *a, int fd, const char *addr,
                     uint32_t max_body, struct dsm_conn **conn_p,
                     struct dsm_error *e);
/*
 * Did conn, made by that, fail for want of the right token? 1, and e says what to
 * do about it; 0: for another reason, e is untouched.
 */
int dsm__access_denied(const struct dsm_access *a, const struct dsm_conn *conn,
                       const char *addr, struct dsm_error *e);

/* Is the other end of fd on this machine's loopback? DSM_ECONN: it is gone. */
int dsm__tcp_peer_is_loopback(int fd);

/* TLS for a data link of a session, as the end that connected. */
int dsm__access_session(struct dsm_conn *c, uint64_t session,
                        const uint8_t *key, size_t key_len);

#endif
