/*
 * The keeper process: parent of all slots (spawn.h says why there is one).
 *
 * It shares the program's memory but has descriptors, signal handlers and a
 * process group of its own. It runs on the thread pointer of the thread that
 * created it, which may be gone: so no libc, no errno, no thread-local storage,
 * no stack protector, no sanitizer in this file. All signals stay blocked.
 *
 * Life: set up -> {wait for a request, answer it} -> end: when the spawner shuts
 * the socket down or the program is gone, kill and reap every slot, exit.
 */
#include "keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/personality.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "rawsys.h"

/* The keeper's own descriptors; everything else is closed. */
#define SOCK_FD 20
#define CLIENT_FD 21
/* Above all others in use: where descriptors wait to be put in place. */
#define PARK_FD 40
#define N_SIGNALS 64
#define SIGSET_BYTES 8

/* As the kernel has it. */
struct kernel_sigaction {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

union fd_message {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * (SPAWN_MAX_FDS + 1))];
};

/* --- the child, between clone and exec: parent suspended, memory shared --- */

RAWSYS_PLAIN static long
place_fds(const struct keeper *k)
{
	unsigned next = 1;
	long parked[SPAWN_MAX_FDS + 1];
	long rc;

	for (unsigned i = 0; i < k->n_fds; i++) {
		parked[i] = RAWSYS(SYS_fcntl, k->fds[i], F_DUPFD_CLOEXEC,
		                   PARK_FD, 0, 0);
		if (parked[i] < 0)
			return parked[i];
	}
	for (unsigned i = 0; i < SPAWN_MAX_FDS; i++) {
		if (!(k->request.fd_mask & (1u << i)))
			continue;
		/* The kernel drops descriptors that do not fit our table. */
		if (next >= k->n_fds)
			return -EMFILE;
		rc = RAWSYS(SYS_dup3, parked[next++], SPAWN_FIRST_FD + i, 0, 0,
		            0);
		if (rc < 0)
			return rc;
	}
	/* The image: CLOEXEC, as all that is not placed. */
	return parked[0];
}

/*
 * Credentials are this process's alone although memory is shared, but for one thing:
 * another user id makes the memory, so the program too, one that only root may look
 * into. Only root comes here with one.
 */
RAWSYS_PLAIN static long
take_user(const struct spawn_rights *r)
{
	long rc = RAWSYS(SYS_setgroups, 0, NULL, 0, 0, 0);

	if (rc == 0)
		rc = RAWSYS(SYS_setresgid, r->gid, r->gid, r->gid, 0, 0);
	if (rc == 0)
		rc = RAWSYS(SYS_setresuid, r->uid, r->uid, r->uid, 0, 0);
	return rc;
}

/* Gone for good: with no_new_privs, exec gives root none back. */
RAWSYS_PLAIN static long
drop_capabilities(void)
{
	struct __user_cap_header_struct h = {.version =
	                                         _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}}, has[2] = {{0}};
	long rc = RAWSYS(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);

	if (rc != 0)
		return rc;
	rc = RAWSYS(SYS_capset, &h, none, 0, 0, 0);
	if (rc == 0)
		return 0;
	/* A filter around us may forbid the call; who has none is fine. */
	h.version = _LINUX_CAPABILITY_VERSION_3;
	if (RAWSYS(SYS_capget, &h, has, 0, 0, 0) == 0 &&
	    (has[0].permitted | has[1].permitted) == 0)
		return 0;
	return rc;
}

RAWSYS_PLAIN static long
give_up_rights(struct keeper *k)
{
	const struct spawn_rights *r = &k->request.rights;
	const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	long rc;

	/* Refused to who may not lock it anyway. */
	if (r->locks_memory)
		RAWSYS(SYS_prlimit64, 0, RLIMIT_MEMLOCK, &all, NULL, 0);
	if (r->uid != 0) {
		k->child_step = KEEPER_STEP_USER;
		rc = take_user(r);
		if (rc != 0)
			return rc;
	}
	k->child_step = KEEPER_STEP_RIGHTS;
	return r->none ? drop_capabilities() : 0;
}

RAWSYS_PLAIN static __attribute__((noinline, noreturn)) void
child(struct keeper *k)
{
	char *argv[SPAWN_MAX_ARGS + 1];
	char *envp[1] = {NULL};
	char *p = k->request.args;
	uint64_t none = 0;
	long fd, persona, rights;
	unsigned i;

	for (i = 0; i < k->request.n_args; i++) {
		argv[i] = p;
		while (*p++ != '\0')
			;
	}
	argv[i] = NULL;
	k->child_step = KEEPER_STEP_FDS;
	fd = place_fds(k);
	rights = fd >= 0 ? give_up_rights(k) : 0;
	if (rights != 0)
		fd = rights;
	if (fd >= 0) {
		k->child_step = KEEPER_STEP_EXEC;
		persona = RAWSYS(SYS_personality, 0xffffffff, 0, 0, 0, 0);
		if (persona >= 0 && (persona & READ_IMPLIES_EXEC))
			RAWSYS(SYS_personality, persona & ~READ_IMPLIES_EXEC, 0,
			       0, 0, 0);
		RAWSYS(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL,
		       SIGSET_BYTES, 0);
		fd = RAWSYS(SYS_execveat, fd, "", argv, envp, AT_EMPTY_PATH);
	}
	k->child_error = (int)-fd;
	for (;;)
		RAWSYS(SYS_exit_group, 127, 0, 0, 0, 0);
}

/* --- requests --- */

RAWSYS_PLAIN static void
forget(struct keeper *k, pid_t pid)
{
	for (unsigned i = 0; i < k->n_pids; i++)
		if (k->pids[i] == pid) {
			k->pids[i] = k->pids[--k->n_pids];
			return;
		}
}

RAWSYS_PLAIN static void
failed(struct keeper *k, enum keeper_step step, long rc)
{
	k->reply.step = step;
	k->reply.error = (int)-rc;
}

/* Returns a pidfd, or negative. */
RAWSYS_PLAIN static int
start(struct keeper *k)
{
	int pidfd = -1;
	long pid;

	if (k->n_pids == SPAWN_MAX_PROCS || k->n_fds == 0) {
		failed(k, KEEPER_STEP_CLONE, -EAGAIN);
		return -1;
	}
	k->child_error = 0;
	/* As vfork: the child borrows this stack frame and never returns from
	 * child(), so nothing that we need afterwards is overwritten. */
	pid = rawsys_clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD,
	                   &pidfd);
	if (pid == 0)
		child(k);
	if (pid < 0) {
		failed(k, KEEPER_STEP_CLONE, pid);
		return -1;
	}
	if (k->child_error != 0) {
		RAWSYS(SYS_wait4, pid, NULL, __WALL, NULL, 0);
		RAWSYS(SYS_close, pidfd, 0, 0, 0, 0);
		failed(k, k->child_step, -k->child_error);
		return -1;
	}
	k->reply.pid = (int32_t)pid;
	k->pids[k->n_pids++] = (pid_t)pid;
	return pidfd;
}

RAWSYS_PLAIN static void
reap(struct keeper *k, pid_t pid)
{
	int status = 0;
	long rc = RAWSYS(SYS_wait4, pid, &status, __WALL, NULL, 0);

	if (rc != pid) {
		failed(k, KEEPER_STEP_WAIT, rc < 0 ? rc : -ECHILD);
		return;
	}
	forget(k, pid);
	k->reply.status = status;
}

/* 0 when there is no more. */
RAWSYS_PLAIN static int
receive(struct keeper *k)
{
	union fd_message control = {.align = {0}};
	struct iovec iov = {&k->request, sizeof(k->request)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;
	long n;

	m.msg_control = &control;
	m.msg_controllen = sizeof(control);
	n = RAWSYS(SYS_recvmsg, SOCK_FD, &m, MSG_CMSG_CLOEXEC, 0, 0);
	if (n != (long)sizeof(k->request))
		return n == -EINTR || n == -EAGAIN ? 1 : 0;
	k->n_fds = 0;
	c = CMSG_FIRSTHDR(&m);
	if (c != NULL && c->cmsg_type == SCM_RIGHTS) {
		k->n_fds =
		    (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		for (unsigned i = 0; i < k->n_fds; i++)
			k->fds[i] = ((int *)CMSG_DATA(c))[i];
	}
	return 1;
}

/* 0 when nobody listens any more. */
RAWSYS_PLAIN static int
answer(struct keeper *k, int pidfd)
{
	union fd_message control;
	struct iovec iov = {&k->reply, sizeof(k->reply)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;
	long n;

	if (pidfd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		*(int *)CMSG_DATA(c) = pidfd;
	}
	do {
		n = RAWSYS(SYS_sendmsg, SOCK_FD, &m, MSG_NOSIGNAL, 0, 0);
	} while (n == -EINTR);
	return n >= 0;
}

RAWSYS_PLAIN static int
serve_one(struct keeper *k)
{
	int pidfd = -1;
	int ok;

	k->request.op = 0;
	if (!receive(k))
		return 0;
	if (k->request.op == 0)
		return 1;
	k->reply = (struct keeper_reply){
	    .op = k->request.op, .tag = k->request.tag, .pid = k->request.pid};
	if (k->request.op == KEEPER_START)
		pidfd = start(k);
	else
		reap(k, k->request.pid);
	ok = answer(k, pidfd);
	if (pidfd >= 0)
		RAWSYS(SYS_close, pidfd, 0, 0, 0, 0);
	for (unsigned i = 0; i < k->n_fds; i++)
		RAWSYS(SYS_close, k->fds[i], 0, 0, 0, 0);
	return ok;
}

/* --- life --- */

/*
 * No terminal, for us and the slots. Not by setsid: the kernel shares out the
 * processor by session where it can (autogroup), and the worker's or the program's
 * nice value would not count for its slots.
 */
RAWSYS_PLAIN static void
leave_terminal(void)
{
	long tty = RAWSYS(SYS_openat, AT_FDCWD, "/dev/tty",
	                  O_RDONLY | O_NOCTTY | O_CLOEXEC, 0, 0);

	if (tty < 0)
		return;
	RAWSYS(SYS_ioctl, tty, TIOCNOTTY, 0, 0, 0);
	RAWSYS(SYS_close, tty, 0, 0, 0, 0);
}

RAWSYS_PLAIN static void
set_up(const struct keeper *k)
{
	struct kernel_sigaction dfl = {0};
	long sock, client, null;

	RAWSYS(SYS_prctl, PR_SET_NAME, "taskrt-keeper", 0, 0, 0);
	RAWSYS(SYS_setpgid, 0, 0, 0, 0, 0);
	leave_terminal();
	/* An ignored SIGCHLD would reap the slots behind our back, and what is
	 * ignored stays so over exec. */
	for (int sig = 1; sig <= N_SIGNALS; sig++)
		RAWSYS(SYS_rt_sigaction, sig, &dfl, NULL, SIGSET_BYTES, 0);

	/* First out of the way of the numbers they are to get. */
	sock = RAWSYS(SYS_fcntl, k->sock, F_DUPFD_CLOEXEC, PARK_FD, 0, 0);
	client = RAWSYS(SYS_fcntl, k->client, F_DUPFD_CLOEXEC, PARK_FD, 0, 0);
	RAWSYS(SYS_dup3, sock, SOCK_FD, O_CLOEXEC, 0, 0);
	RAWSYS(SYS_dup3, client, CLIENT_FD, O_CLOEXEC, 0, 0);
	RAWSYS(SYS_close_range, SPAWN_FIRST_FD, SOCK_FD - 1, 0, 0, 0);
	RAWSYS(SYS_close_range, CLIENT_FD + 1, ~0u, 0, 0, 0);
	null = RAWSYS(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR, 0, 0);
	RAWSYS(SYS_dup3, null, 0, 0, 0, 0);
	RAWSYS(SYS_dup3, null, 1, 0, 0, 0);
	if (RAWSYS(SYS_fcntl, 2, F_GETFD, 0, 0, 0) < 0)
		RAWSYS(SYS_dup3, null, 2, 0, 0, 0);
	if (null > 2)
		RAWSYS(SYS_close, null, 0, 0, 0, 0);
}

RAWSYS_PLAIN int
keeper_main(void *arg)
{
	struct keeper *k = arg;
	struct pollfd p[2] = {{.fd = SOCK_FD, .events = POLLIN},
	                      {.fd = CLIENT_FD, .events = POLLIN}};

	set_up(k);
	for (;;) {
		RAWSYS(SYS_ppoll, p, 2, NULL, NULL, SIGSET_BYTES);
		if (p[1].revents != 0)
			break; /* the program ended, maybe without our socket:
			        * a forked child of it holds a copy */
		if (p[0].revents != 0 && !serve_one(k))
			break;
	}
	for (unsigned i = 0; i < k->n_pids; i++)
		RAWSYS(SYS_kill, k->pids[i], SIGKILL, 0, 0, 0);
	for (unsigned i = 0; i < k->n_pids; i++)
		RAWSYS(SYS_wait4, k->pids[i], NULL, __WALL, NULL, 0);
	for (;;)
		RAWSYS(SYS_exit_group, 0, 0, 0, 0, 0);
}
