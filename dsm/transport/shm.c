/* Two ends on one machine: a unix socket pair. */
#include "conn_priv.h"

#include <sys/socket.h>
#include <unistd.h>

const struct dsm_conn_ops dsm__shm_ops = {
    .name = "shm",
    .readv = dsm__sock_readv,
    .writev = dsm__sock_writev,
    .close = dsm__sock_close,
    .forget = dsm__sock_close,
};

int
dsm__shm_pair(int fds_p[2])
{
	/* A frame of 256 pages in as few calls as the kernel's limit allows. */
	const int want = 1 << 20;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
	               fds) != 0)
		return DSM_ESYS;
	for (int i = 0; i < 2; i++) {
		setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &want, sizeof(want));
		fds_p[i] = fds[i];
	}
	return DSM_OK;
}
