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

void
dsm__tcp_settings(int fd)
{
	const struct {
		int level, name, value;
	} options[] = {
	    {IPPROTO_TCP, TCP_NODELAY, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, 2}, /* seconds */
	    {IPPROTO_TCP, TCP_KEEPINTVL, 1},
	    {IPPROTO_TCP, TCP_KEEPCNT, DSM_REACH_MS / 1000 - 2},
	    {SOL_SOCKET, SO_KEEPALIVE, 1},
	};

	for (unsigned i = 0; i < sizeof(options) / sizeof(*options); i++)
		setsockopt(fd, options[i].level, options[i].name,
		           &options[i].value, sizeof(options[i].value));
}

/*
 * The kernel gives up only after a quarter of an hour on data that is not
 * acknowledged. TCP_USER_TIMEOUT would shorten that, but also end connections
 * whose peer has closed its window, being stopped or busy: such a peer's kernel
 * goes on acknowledging.
 */
int
dsm__conn_reachable(const struct dsm_conn *c, uint64_t limit_ms)
{
	struct tcp_info i = {0};
	socklen_t len = sizeof(i);

	if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &i, &len) != 0)
		return 1;
	/* Probes of a closed window come ever more rarely: one that is not
	 * answered yet says nothing. */
	return (i.tcpi_unacked == 0 && i.tcpi_probes <= 2) ||
	       i.tcpi_last_ack_recv < limit_ms ||
	       i.tcpi_last_data_recv < limit_ms;
}

int
dsm__tcp_accept(int listen_fd, int *fd_p)
{
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
	dsm__tcp_settings(fd);
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
