/*
 * TCP streams that exist already: the operations, accept, numeric names. What
 * needs a resolver is in tcp_endpoint.c, because this file is part of the
 * static slot.
 */
#include "conn_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

const struct dsm_conn_ops dsm__tcp_ops = {
    .name = "tcp",
    .readv = dsm__sock_readv,
    .writev = dsm__sock_writev,
    .splice = dsm__sock_splice,
    .close = dsm__sock_close,
    .forget = dsm__sock_close,
};

int
dsm__tcp_accept(int listen_fd, int *fd_p)
{
	const int on = 1;
	int fd;

	fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		switch (errno) {
		case EAGAIN:
		case EINTR:
		case ECONNABORTED: /* gone before we came */
		case EPROTO:
			return DSM_EAGAIN;
		default:
			return DSM_ESYS;
		}
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	*fd_p = fd;
	return DSM_OK;
}

static int
name_of(const struct sockaddr_storage *ss, char addr_p[DSM_ADDR_MAX])
{
	char host[INET6_ADDRSTRLEN];

	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)ss;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(addr_p, DSM_ADDR_MAX, "%s:%u", host,
		         ntohs(in->sin_port));
		return DSM_OK;
	}
	if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)ss;
		const uint8_t *b = in6->sin6_addr.s6_addr;
		unsigned port = ntohs(in6->sin6_port);

		/* An IPv4 peer of a socket that listens on both. */
		if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
			snprintf(addr_p, DSM_ADDR_MAX, "%u.%u.%u.%u:%u", b[12],
			         b[13], b[14], b[15], port);
			return DSM_OK;
		}
		inet_ntop(AF_INET6, b, host, sizeof(host));
		snprintf(addr_p, DSM_ADDR_MAX, "[%s]:%u", host, port);
		return DSM_OK;
	}
	return DSM_EINVAL;
}

int
dsm__tcp_local(int fd, char addr_p[DSM_ADDR_MAX])
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
		return DSM_ESYS;
	return name_of(&ss, addr_p);
}

int
dsm__tcp_peer(int fd, char addr_p[DSM_ADDR_MAX])
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof(ss);

	if (getpeername(fd, (struct sockaddr *)&ss, &len) != 0)
		return DSM_ESYS;
	return name_of(&ss, addr_p);
}
