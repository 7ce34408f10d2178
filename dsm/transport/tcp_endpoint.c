/*
 * Address texts, listening and connecting.
 *
 * Of several addresses of a name IPv4 ones come first: our own listeners are
 * IPv4 unless told otherwise, and "localhost" often names ::1 as well.
 * The resolver keeps its own time: no deadline reaches into getaddrinfo.
 */
#include "conn_priv.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../base/clock.h"

#define BACKLOG 128

struct endpoint {
	char host[256]; /* "" loopback, "*" any */
	char port[6];
};

static int
parse(const char *addr, struct endpoint *ep, struct dsm_error *e)
{
	const char *host = addr;
	const char *colon = strrchr(addr, ':');
	size_t host_len, port_len;

	if (colon == NULL)
		goto bad;
	host_len = (size_t)(colon - addr);
	port_len = strlen(colon + 1);
	if (port_len < 1 || port_len >= sizeof(ep->port) ||
	    strspn(colon + 1, "0123456789") != port_len ||
	    atoi(colon + 1) > 65535)
		goto bad;
	if (host_len > 0 && host[0] == '[') {
		if (host_len < 3 || host[host_len - 1] != ']')
			goto bad;
		host++;
		host_len -= 2;
	} else if (memchr(host, ':', host_len) != NULL) {
		goto bad;
	}
	if (host_len >= sizeof(ep->host))
		goto bad;
	memcpy(ep->host, host, host_len);
	ep->host[host_len] = '\0';
	memcpy(ep->port, colon + 1, port_len + 1);
	return DSM_OK;
bad:
	return dsm__fail(e, DSM_EINVAL,
	                 "bad address \"%s\": expected HOST:PORT, [IPV6]:PORT, "
	                 ":PORT or *:PORT",
	                 addr);
}

/* What cannot be resolved is DSM_ECONN: it may work later. */
static int
resolve(const char *addr, int listening, struct addrinfo **list_p,
        struct dsm_error *e)
{
	struct addrinfo hints = {0};
	struct endpoint ep = {{0}, {0}};
	const char *node;
	int rc;

	rc = parse(addr, &ep, e);
	if (rc != DSM_OK)
		return rc;
	node = ep.host;
	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = SOCK_STREAM;
	hints.ai_flags = AI_NUMERICSERV;
	if (strcmp(ep.host, "*") == 0) {
		if (!listening)
			return dsm__fail(
			    e, DSM_EINVAL,
			    "bad address \"%s\": * is for listening only",
			    addr);
		node = "0.0.0.0";
	} else if (ep.host[0] == '\0') {
		node = "127.0.0.1";
	}
	rc = getaddrinfo(node, ep.port, &hints, list_p);
	if (rc == EAI_MEMORY)
		return dsm__fail(e, DSM_ENOMEM, "cannot resolve %s: %s", addr,
		                 gai_strerror(rc));
	if (rc != 0)
		return dsm__fail(e, DSM_ECONN, "cannot resolve %s: %s", addr,
		                 rc == EAI_SYSTEM ? strerror(errno)
		                                  : gai_strerror(rc));
	return DSM_OK;
}

int
dsm__tcp_is_numeric(const char *addr)
{
	const struct addrinfo hints = {
	    .ai_socktype = SOCK_STREAM,
	    .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
	};
	struct endpoint ep = {{0}, {0}};
	struct addrinfo *list;

	/* To getaddrinfo "*" is loopback. */
	if (parse(addr, &ep, NULL) != DSM_OK || ep.host[0] == '\0' ||
	    ep.host[0] == '*' ||
	    getaddrinfo(ep.host, ep.port, &hints, &list) != 0)
		return 0;
	freeaddrinfo(list);
	return 1;
}

/* The i-th address, IPv4 first; NULL after the last. */
static const struct addrinfo *
nth_addr(const struct addrinfo *list, int i)
{
	for (int pass = 0; pass < 2; pass++) {
		for (const struct addrinfo *a = list; a; a = a->ai_next) {
			if ((a->ai_family == AF_INET) == (pass == 0) &&
			    i-- == 0)
				return a;
		}
	}
	return NULL;
}

static int
is_loopback(const struct addrinfo *a)
{
	if (a->ai_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)a->ai_addr;

		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	}
	if (a->ai_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)a->ai_addr;
		const struct in6_addr *ip = &in6->sin6_addr;

		return IN6_IS_ADDR_LOOPBACK(ip) ||
		       (IN6_IS_ADDR_V4MAPPED(ip) && ip->s6_addr[12] == 127);
	}
	return 0;
}

int
dsm__tcp_is_loopback(const char *addr, struct dsm_error *e)
{
	struct addrinfo *list = NULL;
	int rc, all = 1;

	rc = resolve(addr, 1, &list, e);
	if (rc != DSM_OK)
		return rc;
	for (const struct addrinfo *a = list; a != NULL; a = a->ai_next)
		all = all && is_loopback(a);
	freeaddrinfo(list);
	return all;
}

int
dsm__tcp_numeric(const char *addr, char addr_p[DSM_ADDR_MAX],
                 struct dsm_error *e)
{
	char host[64] = "", port[8] = "";
	struct addrinfo *list = NULL;
	const struct addrinfo *a;
	int rc = resolve(addr, 0, &list, e);

	if (rc != DSM_OK)
		return rc;
	a = nth_addr(list, 0);
	if (getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof(host), port,
	                sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		rc = dsm__fail(e, DSM_ECONN, "cannot resolve %s", addr);
	else
		snprintf(addr_p, DSM_ADDR_MAX,
		         a->ai_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host,
		         port);
	freeaddrinfo(list);
	return rc;
}

static int
open_socket(const struct addrinfo *a)
{
	return socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
	              IPPROTO_TCP);
}

/* The descriptor, or -1 with errno. */
static int
listen_one(const struct addrinfo *a)
{
	const int on = 1;
	int fd = open_socket(a);
	int saved;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 &&
	    listen(fd, BACKLOG) == 0)
		return fd;
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

int
dsm__tcp_listen(const char *addr, char addr_p[DSM_ADDR_MAX], int *fd_p,
                struct dsm_error *e)
{
	struct addrinfo *list = NULL;
	const struct addrinfo *a;
	int rc, fd = -1;

	rc = resolve(addr, 1, &list, e);
	if (rc != DSM_OK)
		return rc;
	for (int i = 0; fd < 0 && (a = nth_addr(list, i)) != NULL; i++)
		fd = listen_one(a);
	rc = errno;
	freeaddrinfo(list);
	if (fd < 0)
		return dsm__fail(e, DSM_ESYS, "cannot listen on %s%s: %s",
		                 addr[0] == ':' ? "127.0.0.1" : "", addr,
		                 strerror(rc));
	if (addr_p != NULL) {
		rc = dsm__tcp_local(fd, addr_p);
		if (rc != DSM_OK) {
			close(fd);
			return dsm__fail(e, rc, "cannot listen on %s: %s", addr,
			                 dsm__strerror(rc));
		}
	}
	*fd_p = fd;
	return DSM_OK;
}

/* Starts a connect: the descriptor, or -1 with errno. */
static int
connect_one(const struct addrinfo *a)
{
	int fd = open_socket(a);
	int saved;

	if (fd < 0)
		return -1;
	dsm__tcp_settings(fd);
	/* EINTR: the connect goes on, as with EINPROGRESS. */
	if (connect(fd, a->ai_addr, a->ai_addrlen) == 0 ||
	    errno == EINPROGRESS || errno == EINTR)
		return fd;
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

/* 0, or the errno the connect ended with. */
static int
connect_outcome(int fd)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		return errno;
	return error;
}

/* 0, or an errno. */
static int
await_connect(int fd, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	int rc;

	do
		rc = poll(&p, 1, dsm__ms_left(deadline));
	while ((rc < 0 && errno == EINTR) ||
	       (rc == 0 && dsm__now() < deadline));
	if (rc == 0)
		return ETIMEDOUT;
	return rc < 0 ? errno : connect_outcome(fd);
}

static int
connect_failed(const char *addr, int error, struct dsm_error *e)
{
	return dsm__fail(e, error == ETIMEDOUT ? DSM_ETIMEDOUT : DSM_ECONN,
	                 "cannot connect to %s%s: %s",
	                 addr[0] == ':' ? "127.0.0.1" : "", addr,
	                 strerror(error));
}

int
dsm__tcp_connect(const char *addr, uint64_t deadline, int *fd_p,
                 struct dsm_error *e)
{
	struct addrinfo *list = NULL;
	int rc, error = 0, n = 0;

	rc = resolve(addr, 0, &list, e);
	if (rc != DSM_OK)
		return rc;
	while (nth_addr(list, n) != NULL)
		n++;
	for (int i = 0; i < n; i++) {
		uint64_t now = dsm__now();
		/* An address that does not answer leaves time for the next. */
		uint64_t until =
		    deadline <= now ? now : now + (deadline - now) / (n - i);
		int fd = connect_one(nth_addr(list, i));

		error = fd < 0 ? errno : await_connect(fd, until);
		if (error == 0) {
			freeaddrinfo(list);
			*fd_p = fd;
			return DSM_OK;
		}
		if (fd >= 0)
			close(fd);
	}
	freeaddrinfo(list);
	return connect_failed(addr, error, e);
}

int
dsm__tcp_connect_start(const char *addr, int *fd_p, struct dsm_error *e)
{
	struct addrinfo *list = NULL;
	const struct addrinfo *a;
	int rc, fd = -1;

	rc = resolve(addr, 0, &list, e);
	if (rc != DSM_OK)
		return rc;
	for (int i = 0; fd < 0 && (a = nth_addr(list, i)) != NULL; i++)
		fd = connect_one(a);
	rc = errno;
	freeaddrinfo(list);
	if (fd < 0)
		return connect_failed(addr, rc, e);
	*fd_p = fd;
	return DSM_OK;
}

int
dsm__tcp_connect_result(int fd, const char *addr, struct dsm_error *e)
{
	int error = connect_outcome(fd);

	return error == 0 ? DSM_OK : connect_failed(addr, error, e);
}
