/* The spawner's side of the keeper (spawn.h): its life, requests, replies. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "keeper.h"
#include "rawsys.h"

#define STACK_SIZE (64u << 10)
#define END_MS 2000
#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct spawner {
	int sock;
	int keeper_pidfd;
	unsigned in_flight;
	struct {
		struct keeper k;
		_Alignas(64) char stack[STACK_SIZE];
	} * shared; /* mapped: the keeper may outlive us when it is stuck */
};

static const char *const step_names[] = {
    [KEEPER_STEP_NONE] = "start",
    [KEEPER_STEP_CLONE] = "clone",
    [KEEPER_STEP_FDS] = "place descriptors",
    [KEEPER_STEP_USER] = "take the user's id",
    [KEEPER_STEP_RIGHTS] = "give up privileges",
    [KEEPER_STEP_EXEC] = "exec",
    [KEEPER_STEP_WAIT] = "wait",
};

/* --- the keeper's life --- */

static int
clone_keeper(struct spawner *sp, struct dsm_error *e)
{
	uint64_t all = ~UINT64_C(0), old;
	long pid;

	/* Every signal, libc's own too: a handler must not run in the keeper. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof(all));
	pid = rawsys_clone_onto(CLONE_VM | CLONE_PIDFD,
	                        sp->shared->stack + STACK_SIZE,
	                        &sp->keeper_pidfd, keeper_main, &sp->shared->k);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof(old));
	if (pid < 0)
		return dsm__fail(
		    e, DSM_ESYS,
		    "cannot start the process that starts slots: clone: %s",
		    strerror((int)-pid));
	return DSM_OK;
}

int
spawner_create(struct spawner **sp_p, struct dsm_error *e)
{
	struct spawner *sp = calloc(1, sizeof(*sp));
	int socks[2], self;
	int err;

	if (sp == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	sp->shared = mmap(NULL, sizeof(*sp->shared), PROT_READ | PROT_WRITE,
	                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (sp->shared == MAP_FAILED) {
		err = dsm__fail(e, DSM_ENOMEM, "out of memory");
		goto free_spawner;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) != 0) {
		err = dsm__fail(e, DSM_ESYS, "socketpair: %s", strerror(errno));
		goto unmap;
	}
	self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (self < 0) {
		err = dsm__fail(e, DSM_ESYS, "pidfd_open: %s", strerror(errno));
		goto close_socks;
	}
	sp->sock = socks[0];
	sp->shared->k.sock = socks[1];
	sp->shared->k.client = self;
	err = clone_keeper(sp, e);
	if (err != DSM_OK)
		goto close_self;
	/* The keeper has copies: its descriptor table is its own. */
	close(self);
	close(socks[1]);
	*sp_p = sp;
	return DSM_OK;
close_self:
	close(self);
close_socks:
	close(socks[0]);
	close(socks[1]);
unmap:
	munmap(sp->shared, sizeof(*sp->shared));
free_spawner:
	free(sp);
	return err;
}

static int
ended_within(int pidfd, int ms)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int rc;

	do {
		rc = poll(&p, 1, ms);
	} while (rc < 0 && errno == EINTR);
	return rc > 0;
}

void
spawner_destroy(struct spawner *sp)
{
	siginfo_t si;
	int ended;

	if (sp == NULL)
		return;
	/* Not only close: a forked child of the program may hold a copy. */
	shutdown(sp->sock, SHUT_RDWR);
	close(sp->sock);
	ended = ended_within(sp->keeper_pidfd, END_MS);
	if (!ended) {
		spawn_kill(sp->keeper_pidfd, SIGKILL);
		ended = ended_within(sp->keeper_pidfd, END_MS);
	}
	if (ended) {
		waitid(P_PIDFD, (id_t)sp->keeper_pidfd, &si, WEXITED | __WALL);
		munmap(sp->shared, sizeof(*sp->shared));
	}
	close(sp->keeper_pidfd);
	free(sp);
}

int
spawner_fd(const struct spawner *sp)
{
	return sp->sock;
}

/* --- requests --- */

union fd_message {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * (SPAWN_MAX_FDS + 1))];
};

static int
send_request(struct spawner *sp, const struct keeper_request *q, const int *fds,
             unsigned n_fds)
{
	union fd_message control;
	struct iovec iov = {(void *)(uintptr_t)q, sizeof(*q)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (n_fds > 0) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	do {
		n = sendmsg(sp->sock, &m, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n == (ssize_t)sizeof(*q))
		return DSM_OK;
	return errno == EPIPE || errno == ECONNRESET ? DSM_ECONN : DSM_ESYS;
}

static int
pack_args(struct keeper_request *q, const char *const *args)
{
	size_t used = 0;

	for (; args[q->n_args] != NULL; q->n_args++) {
		size_t len = strlen(args[q->n_args]) + 1;

		if (q->n_args == SPAWN_MAX_ARGS || len > sizeof(q->args) - used)
			return DSM_EINVAL;
		memcpy(q->args + used, args[q->n_args], len);
		used += len;
	}
	return DSM_OK;
}

int
spawner_start(struct spawner *sp, const struct spawn_request *r)
{
	struct keeper_request q = {
	    .op = KEEPER_START, .tag = r->tag, .rights = r->rights};
	int fds[SPAWN_MAX_FDS + 1];
	unsigned n = 0;
	int err;

	if (sp->in_flight >= SPAWN_IN_FLIGHT)
		return DSM_EAGAIN;
	err = pack_args(&q, r->args);
	if (err != DSM_OK)
		return err;
	fds[n++] = r->image_fd;
	for (unsigned i = 0; i < SPAWN_MAX_FDS; i++)
		if (r->fds[i] >= 0) {
			fds[n++] = r->fds[i];
			q.fd_mask |= 1u << i;
		}
	err = send_request(sp, &q, fds, n);
	if (err == DSM_OK)
		sp->in_flight++;
	return err;
}

int
spawner_reap(struct spawner *sp, pid_t pid, uint64_t tag)
{
	struct keeper_request q = {.op = KEEPER_REAP, .tag = tag, .pid = pid};

	return send_request(sp, &q, NULL, 0);
}

/* --- replies --- */

static int
receive_reply(struct spawner *sp, struct keeper_reply *a, int *fd_p)
{
	union fd_message control;
	struct iovec iov = {a, sizeof(*a)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;
	ssize_t n;

	m.msg_control = &control;
	m.msg_controllen = sizeof(control);
	do {
		n = recvmsg(sp->sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return DSM_EAGAIN;
	if (n != (ssize_t)sizeof(*a))
		return DSM_ECONN;
	*fd_p = -1;
	c = CMSG_FIRSTHDR(&m);
	if (c != NULL && c->cmsg_type == SCM_RIGHTS)
		memcpy(fd_p, CMSG_DATA(c), sizeof(*fd_p));
	return DSM_OK;
}

int
spawner_reply(struct spawner *sp, struct spawn_reply *r_p)
{
	struct keeper_reply a;
	int pidfd;
	int err = receive_reply(sp, &a, &pidfd);

	if (err != DSM_OK)
		return err;
	*r_p = (struct spawn_reply){.kind = SPAWN_REAPED,
	                            .tag = a.tag,
	                            .pid = a.pid,
	                            .pidfd = -1,
	                            .status = a.status,
	                            .error = a.error,
	                            .step = step_names[a.step]};
	if (a.op != KEEPER_START)
		return DSM_OK;
	sp->in_flight--;
	r_p->kind = a.error == 0 && pidfd >= 0 ? SPAWN_STARTED : SPAWN_FAILED;
	r_p->pidfd = pidfd;
	/* The process runs, but its descriptor did not fit into our table. */
	if (a.error == 0 && pidfd < 0)
		r_p->error = EMFILE;
	return DSM_OK;
}

/* --- images, signals --- */

int
spawn_image(const void *elf, size_t len, int *fd_p, struct dsm_error *e)
{
	const char *p = elf;
	int fd = memfd_create("taskrt-slot",
	                      MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);

	/* Before 6.3 there is no MFD_EXEC, and it is the default. */
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("taskrt-slot",
		                  MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return dsm__fail(e, DSM_ESYS, "memfd_create(taskrt-slot): %s",
		                 strerror(errno));
	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			int err = dsm__fail(e, DSM_ENOMEM,
			                    "cannot copy the slot program: %s",
			                    strerror(errno));

			close(fd);
			return err;
		}
		p += n;
		len -= (size_t)n;
	}
	fcntl(fd, F_ADD_SEALS,
	      F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
	*fd_p = fd;
	return DSM_OK;
}

void
spawn_kill(int pidfd, int sig)
{
	syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0);
}
