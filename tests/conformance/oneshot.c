#include "oneshot.h"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "../../dsm/transport/conn_priv.h"
#include "conformance.h"

static int
arm(struct dsm_conn *c, int events)
{
	struct epoll_event e = {.events = EPOLLONESHOT};

	if (events & POLLIN)
		e.events |= EPOLLIN | EPOLLRDHUP;
	if (events & POLLOUT)
		e.events |= EPOLLOUT;
	epoll_ctl(c->poll_fd, EPOLL_CTL_MOD, c->fd, &e);
	return DSM_OK;
}

static void
close_both(struct dsm_conn *c)
{
	close(c->poll_fd);
	dsm__sock_close(c);
}

const struct dsm_conn_ops oneshot_ops = {
    .name = "oneshot",
    .readv = dsm__sock_readv,
    .writev = dsm__sock_writev,
    .arm = arm,
    .close = close_both,
    .forget = close_both,
};

int
oneshot_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	int err =
	    conformance_sockets(&oneshot_ops, dsm__shm_pair, max_body, c_p);

	for (int i = 0; err == DSM_OK && i < 2; i++) {
		struct epoll_event e = {.events = EPOLLONESHOT};

		c_p[i]->poll_fd = epoll_create1(EPOLL_CLOEXEC);
		MUST(c_p[i]->poll_fd >= 0);
		MUST_BE(
		    epoll_ctl(c_p[i]->poll_fd, EPOLL_CTL_ADD, c_p[i]->fd, &e),
		    0);
	}
	return err;
}
