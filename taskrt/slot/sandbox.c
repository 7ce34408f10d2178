#include "sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../dsm/base/landlock.h"

extern const char filter_early[], filter_early_end[];
extern const char filter_tcp[], filter_tcp_end[];
extern const char filter_verbs[], filter_verbs_end[];

static int
failed(struct dsm_error *e, const char *step)
{
	return dsm__fail(e, DSM_ESYS, "cannot enter the sandbox: %s: %s", step,
	                 strerror(errno));
}

static int
install(const char *filter, const char *end, struct dsm_error *e)
{
	const struct sock_fprog prog = {
	    .len = (unsigned short)((size_t)(end - filter) /
	                            sizeof(struct sock_filter)),
	    .filter = (struct sock_filter *)(uintptr_t)filter,
	};

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0)
		return failed(e, "seccomp");
	return DSM_OK;
}

int
sandbox_early(struct dsm_error *e)
{
	/* The keeper has done it: once more costs nothing. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return failed(e, "no_new_privs");
	return install(filter_early, filter_early_end, e);
}

/* The number after the highest descriptor in use. */
static int
descriptors_end(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *entry;
	int end = -1;

	if (d == NULL)
		return -1;
	while ((entry = readdir(d)) != NULL) {
		int fd = atoi(entry->d_name);

		if (fd != dirfd(d) && fd >= end)
			end = fd + 1;
	}
	closedir(d);
	return end;
}

static int
limit(int what, rlim_t value)
{
	const struct rlimit r = {value, value};
	struct rlimit now;

	/* It may be lower already, for good. */
	if (getrlimit((__rlimit_resource_t)what, &now) == 0 &&
	    now.rlim_max < value)
		return 0;
	return setrlimit((__rlimit_resource_t)what, &r);
}

/* Of address space and data there is no limit: a program's ranges are reserved as
 * they are. Locked memory is left as it is for queue pairs. */
static int
set_limits(int fds, int verbs)
{
	if (limit(RLIMIT_NOFILE, (rlim_t)fds) != 0 ||
	    limit(RLIMIT_CORE, 0) != 0 || limit(RLIMIT_NPROC, 0) != 0 ||
	    limit(RLIMIT_MSGQUEUE, 0) != 0 || limit(RLIMIT_NICE, 0) != 0 ||
	    limit(RLIMIT_RTPRIO, 0) != 0)
		return -1;
	return verbs ? 0 : limit(RLIMIT_MEMLOCK, 0);
}

int
sandbox_enter(int verbs, struct dsm_error *e)
{
	int fds;

	/* The worker's log is not the task's to write into. */
	if (dup2(STDIN_FILENO, STDERR_FILENO) < 0)
		return failed(e, "stderr");
	fds = descriptors_end();
	if (fds < 0)
		return failed(e, "/proc/self/fd");
	/* Slots of one user cannot look into each other. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
		return failed(e, "dumpable");
	/* It makes new credentials, and a device of RDMA takes commands only
	 * from those with which it was opened. */
	if (!verbs && dsm__landlock_deny_all() != 0)
		return failed(e, "Landlock");
	if (set_limits(fds, verbs) != 0)
		return failed(e, "limits");
	return verbs ? install(filter_verbs, filter_verbs_end, e)
	             : install(filter_tcp, filter_tcp_end, e);
}
