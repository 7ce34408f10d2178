/* What a process takes away from itself: each test in a child. */
#include "../../../dsm/base/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../test.h"

/* Exit status of fn in a child that has denied itself everything. */
static int
in_denied_child(int (*fn)(int fd), int fd)
{
	pid_t pid = fork();
	int status = 0;

	if (pid == 0) {
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
		    dsm__landlock_deny_all() != 0)
			_exit(99);
		_exit(fn(fd));
	}
	MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int
open_a_file(int fd)
{
	(void)fd;
	return open("/etc/passwd", O_RDONLY) < 0 ? errno : 0;
}

static int
write_to(int fd)
{
	return write(fd, "x", 1) == 1 ? 0 : errno;
}

static int
connect_somewhere(int fd)
{
	struct sockaddr_in in = {.sin_family = AF_INET,
	                         .sin_port = htons(9),
	                         .sin_addr = {htonl(INADDR_LOOPBACK)}};

	return connect(fd, (struct sockaddr *)&in, sizeof(in)) != 0 ? errno : 0;
}

static int
signal_the_parent(int fd)
{
	(void)fd;
	return kill(getppid(), 0) != 0 ? errno : 0;
}

static void
test_files_are_not_opened_any_more(void)
{
	if (dsm__landlock_abi() >= 1)
		MUST_BE(in_denied_child(open_a_file, -1), EACCES);
}

static void
test_open_descriptors_stay_usable(void)
{
	int pipe_fds[2];

	MUST(pipe(pipe_fds) == 0);
	MUST_BE(in_denied_child(write_to, pipe_fds[1]), 0);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

static void
test_no_port_is_connected(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	MUST(fd >= 0);
	if (dsm__landlock_abi() >= 4)
		MUST_BE(in_denied_child(connect_somewhere, fd), EACCES);
	close(fd);
}

static void
test_nobody_outside_is_signalled(void)
{
	if (dsm__landlock_abi() >= 6)
		MUST_BE(in_denied_child(signal_the_parent, -1), EPERM);
}

SUITE(dsm_base_landlock, "dsm.base.landlock",
      T(test_files_are_not_opened_any_more),
      T(test_open_descriptors_stay_usable), T(test_no_port_is_connected),
      T(test_nobody_outside_is_signalled));
