/* Processes out of memory, out of the program's sight. */
#include "../../../coordinator/worker/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../dsm/transport/conn.h"
#include "../../test.h"
#include "fakeelf.h"

/* A spawner, the fake slot's program, and the stream to one process of it. */
struct rig {
	struct spawner *sp;
	int image_fd;
	int pair[2];
	struct spawn_reply reply;
};

static void
rig_init(struct rig *r)
{
	struct dsm_error e;
	const void *elf;
	size_t len;

	MUST_OK(spawner_create(&r->sp, &e));
	MUST_OK(fake_elf(0, &elf, &len));
	MUST_OK(spawn_image(elf, len, &r->image_fd, &e));
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, r->pair) == 0);
}

static void
rig_fini(struct rig *r)
{
	spawner_destroy(r->sp);
	close(r->image_fd);
	close(r->pair[0]);
	if (r->pair[1] >= 0)
		close(r->pair[1]);
	if (r->reply.pidfd > 0)
		close(r->reply.pidfd);
}

static int
readable_within(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) == 1;
}

static void
get_reply(struct rig *r, struct spawn_reply *reply)
{
	MUST(readable_within(spawner_fd(r->sp), 10000));
	MUST_OK(spawner_reply(r->sp, reply));
}

static void
ask(struct rig *r, const char *status)
{
	struct spawn_request q = {
	    .tag = 5,
	    .image_fd = r->image_fd,
	    .args = {"fakeslot", "report", status, NULL},
	    .fds = {r->pair[1], -1, r->pair[1], -1, -1, -1, -1}};

	MUST_OK(spawner_start(r->sp, &q));
}

static void
start(struct rig *r, const char *status)
{
	ask(r, status);
	get_reply(r, &r->reply);
	MUST_BE(r->reply.kind, SPAWN_STARTED);
	MUST_BE(r->reply.tag, 5);
	close(r->pair[1]);
	r->pair[1] = -1;
}

/* End the process's input: it exits. */
static int
end_and_reap(struct rig *r)
{
	struct spawn_reply reply;

	shutdown(r->pair[0], SHUT_WR);
	MUST(readable_within(r->reply.pidfd, 10000));
	MUST_OK(spawner_reap(r->sp, r->reply.pid, 6));
	get_reply(r, &reply);
	MUST_BE(reply.kind, SPAWN_REAPED);
	MUST_BE(reply.tag, 6);
	MUST_BE(reply.error, 0);
	return reply.status;
}

static void
test_a_process_has_its_descriptors_and_nothing_else_of_ours(void)
{
	const char *want = "args 3 fds 0x28 env 0 blocked 0 handled 0 "
	                   "implies 0\n";
	char line[200] = "";
	struct rig r = {0};
	sigset_t usr2, old;
	int leak;

	leak = open("/dev/null", O_RDONLY); /* not CLOEXEC */
	MUST(leak >= 0 && dup2(leak, 60) == 60);
	signal(SIGUSR1, SIG_IGN);
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	sigprocmask(SIG_BLOCK, &usr2, &old);
	rig_init(&r);
	start(&r, "0");
	MUST(read(r.pair[0], line, sizeof(line) - 1) > 0);
	if (strcmp(line, want) != 0)
		printf("    %s", line);
	MUST(strcmp(line, want) == 0);
	rig_fini(&r);
	sigprocmask(SIG_SETMASK, &old, NULL);
	signal(SIGUSR1, SIG_DFL);
	close(leak);
	close(60);
}

static void
test_the_exit_status_is_reported(void)
{
	struct rig r = {0};
	int status;

	rig_init(&r);
	start(&r, "83");
	status = end_and_reap(&r);
	MUST(WIFEXITED(status));
	MUST_BE(WEXITSTATUS(status), 83);
	rig_fini(&r);
}

static void
test_a_killed_process_reports_its_signal(void)
{
	struct rig r = {0};
	int status;

	rig_init(&r);
	start(&r, "0");
	spawn_kill(r.reply.pidfd, SIGKILL);
	status = end_and_reap(&r);
	MUST(WIFSIGNALED(status));
	MUST_BE(WTERMSIG(status), SIGKILL);
	rig_fini(&r);
}

static volatile sig_atomic_t n_sigchld;

static void
count_sigchld(int sig)
{
	(void)sig;
	n_sigchld++;
}

static void
test_the_programs_wait_and_sigchld_notice_nothing(void)
{
	struct rig r = {0};

	n_sigchld = 0;
	signal(SIGCHLD, count_sigchld);
	rig_init(&r);
	start(&r, "0");
	MUST_BE(waitpid(-1, NULL, WNOHANG), -1);
	MUST_BE(errno, ECHILD);
	end_and_reap(&r);
	MUST_BE(waitpid(-1, NULL, WNOHANG), -1);
	rig_fini(&r);
	MUST_BE(waitpid(-1, NULL, WNOHANG), -1);
	MUST_BE(n_sigchld, 0);
	signal(SIGCHLD, SIG_DFL);
}

static void
test_a_program_that_ignores_sigchld_changes_nothing(void)
{
	struct rig r = {0};

	signal(SIGCHLD, SIG_IGN);
	rig_init(&r);
	start(&r, "9");
	MUST_BE(WEXITSTATUS(end_and_reap(&r)), 9);
	rig_fini(&r);
	signal(SIGCHLD, SIG_DFL);
}

static void
test_a_file_that_is_no_program_is_an_error_of_exec(void)
{
	struct dsm_error e;
	struct rig r = {0};

	rig_init(&r);
	close(r.image_fd);
	MUST_OK(spawn_image("nonsense", 8, &r.image_fd, &e));
	ask(&r, "0");
	get_reply(&r, &r.reply);
	MUST_BE(r.reply.kind, SPAWN_FAILED);
	MUST_BE(r.reply.error, ENOEXEC);
	MUST(strcmp(r.reply.step, "exec") == 0);
	rig_fini(&r);
}

static void
test_destroy_ends_what_is_left(void)
{
	struct rig r = {0};

	rig_init(&r);
	start(&r, "0");
	spawner_destroy(r.sp);
	r.sp = NULL;
	MUST(readable_within(r.reply.pidfd, 0));
	rig_fini(&r);
}

static void *
create_and_start(void *arg)
{
	struct rig *r = arg;

	rig_init(r);
	start(r, "4");
	return NULL;
}

/* The fake slot asks for SIGKILL at its parent thread's death. */
static void
test_a_process_outlives_the_thread_that_asked_for_it(void)
{
	struct rig r = {0};
	pthread_t t;
	char c;

	MUST(pthread_create(&t, NULL, create_and_start, &r) == 0);
	pthread_join(t, NULL);
	MUST(read(r.pair[0], &c, 1) == 1);
	MUST_BE(WEXITSTATUS(end_and_reap(&r)), 4);
	rig_fini(&r);
}

static void
test_the_programs_death_ends_all(void)
{
	int out[2], alive[2];
	char c;
	pid_t pid;

	/* Both ends of `alive` but our read end are in child, keeper and slot:
	 * it ends when they have. */
	MUST(pipe2(out, O_CLOEXEC) == 0);
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, alive) == 0);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		struct rig r = {0};

		rig_init(&r);
		close(r.pair[0]);
		close(r.pair[1]);
		close(alive[0]);
		r.pair[1] = alive[1];
		start(&r, "0");
		kill(getpid(), SIGKILL);
	}
	close(alive[1]);
	MUST(waitpid(pid, NULL, 0) == pid);
	while (readable_within(alive[0], 10000) && read(alive[0], &c, 1) == 1)
		;
	MUST_BE(recv(alive[0], &c, 1, MSG_DONTWAIT), 0);
	close(alive[0]);
	close(out[0]);
	close(out[1]);
}

static void
test_only_so_many_starts_are_unanswered(void)
{
	struct rig r = {0};
	struct spawn_request q = {.args = {"fakeslot", NULL},
	                          .fds = {-1, -1, -1, -1, -1, -1, -1}};
	struct spawn_reply reply;

	rig_init(&r);
	q.image_fd = r.image_fd;
	for (int i = 0; i < SPAWN_IN_FLIGHT; i++)
		MUST_OK(spawner_start(r.sp, &q));
	MUST_BE(spawner_start(r.sp, &q), DSM_EAGAIN);
	for (int i = 0; i < SPAWN_IN_FLIGHT; i++) {
		get_reply(&r, &reply);
		MUST_BE(reply.kind, SPAWN_STARTED);
		close(reply.pidfd);
	}
	MUST_BE(spawner_reply(r.sp, &reply), DSM_EAGAIN);
	MUST_OK(spawner_start(r.sp, &q));
	rig_fini(&r);
}

static void
test_arguments_that_are_too_long_are_refused(void)
{
	char text[SPAWN_ARGS_LEN + 1];
	struct rig r = {0};
	struct spawn_request q = {.args = {text, NULL}};

	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = '\0';
	rig_init(&r);
	MUST_BE(spawner_start(r.sp, &q), DSM_EINVAL);
	rig_fini(&r);
}

SUITE(coordinator_worker_spawn, "coordinator.worker.spawn",
      T(test_a_process_has_its_descriptors_and_nothing_else_of_ours),
      T(test_the_exit_status_is_reported),
      T(test_a_killed_process_reports_its_signal),
      T(test_the_programs_wait_and_sigchld_notice_nothing),
      T(test_a_program_that_ignores_sigchld_changes_nothing),
      T(test_a_file_that_is_no_program_is_an_error_of_exec),
      T(test_destroy_ends_what_is_left),
      T(test_a_process_outlives_the_thread_that_asked_for_it),
      T(test_the_programs_death_ends_all),
      T(test_only_so_many_starts_are_unanswered),
      T(test_arguments_that_are_too_long_are_refused));
