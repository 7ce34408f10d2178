/* Other processes of a benchmark: the far end of a floor, and rivals. */
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include "../dsm/transport/conn.h"

static void
tcp_pair(int fds_p[2])
{
	char addr[DSM_ADDR_MAX];
	struct dsm_error e = {0};
	struct pollfd p = {.events = POLLIN};

	if (dsm__tcp_listen("127.0.0.1:0", addr, &p.fd, &e) != DSM_OK ||
	    dsm__tcp_connect(addr, dsm__deadline_ms(5000), &fds_p[0], &e) !=
	        DSM_OK)
		bench_die("%s", e.text);
	poll(&p, 1, 5000);
	if (dsm__tcp_accept(p.fd, &fds_p[1]) != DSM_OK)
		bench_die("cannot accept on %s", addr);
	close(p.fd);
}

static int
start(int fds[2], void (*serve)(int fd, void *ctx), void *ctx)
{
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[0]);
		if (getppid() == parent)
			serve(fds[1], ctx);
		_exit(0);
	}
	close(fds[1]);
	return fds[0];
}

int
bench_peer_tcp(void (*serve)(int fd, void *ctx), void *ctx)
{
	int fds[2];

	tcp_pair(fds);
	return start(fds, serve, ctx);
}

int
bench_peer_unix(void (*serve)(int fd, void *ctx), void *ctx)
{
	int fds[2];

	if (dsm__shm_pair(fds) != DSM_OK)
		bench_die("socketpair: %s", strerror(errno));
	return start(fds, serve, ctx);
}

/* --- rivals --- */

struct answer {
	uint64_t ns, result;
};

static void
serve_rival(int fd, void *ctx)
{
	uint64_t (*fn)(uint64_t arg) = *(uint64_t(**)(uint64_t))ctx;
	struct pollfd p = {fd, POLLIN, 0};
	uint64_t arg;

	while (poll(&p, 1, -1) == 1 &&
	       read(fd, &arg, sizeof(arg)) == (ssize_t)sizeof(arg)) {
		struct answer a;
		uint64_t start_ns = dsm__now();

		a.result = fn(arg);
		a.ns = dsm__now() - start_ns;
		if (write(fd, &a, sizeof(a)) != (ssize_t)sizeof(a))
			break;
	}
}

void
bench_rival_start(struct bench_rival *p, uint64_t (*fn)(uint64_t arg))
{
	p->fd = bench_peer_unix(serve_rival, &fn);
}

double
bench_rival_run(struct bench_rival *p, uint64_t arg, uint64_t *result_p)
{
	struct pollfd poll_fd = {p->fd, POLLIN, 0};
	struct answer a;

	if (write(p->fd, &arg, sizeof(arg)) != (ssize_t)sizeof(arg) ||
	    poll(&poll_fd, 1, -1) != 1 ||
	    read(p->fd, &a, sizeof(a)) != (ssize_t)sizeof(a))
		bench_die("the process to compare with is gone");
	if (result_p != NULL)
		*result_p = a.result;
	return (double)a.ns;
}
