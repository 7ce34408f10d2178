#include "sandbox.h"

#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../dsm/base/log.h"
#include "worker/facts.h"

static int
wrong_user(const char *user, const char *why)
{
	fprintf(stderr, "taskrt-worker: --user %.100s: %s; see --help\n", user,
	        why);
	return 2;
}

/* 0, or the exit status. */
static int
find_user(const char *user, struct worker_sandbox *s)
{
	const struct passwd *pw;

	if (geteuid() != 0)
		return wrong_user(user, "only root can start slots as another "
		                        "user; without it they run as you");
	pw = getpwnam(user);
	if (pw == NULL)
		return wrong_user(user, "there is no such user here");
	if (pw->pw_uid == 0)
		return wrong_user(user, "that is root; name one who owns "
		                        "nothing, such as nobody");
	s->uid = pw->pw_uid;
	s->gid = pw->pw_gid;
	return 0;
}

static int
check_kernel(void)
{
	struct sandbox_facts f;

	sandbox_facts(&f);
	if (!f.seccomp || !f.dispatch) {
		log_error("sandbox: %s here, so tasks could do what this "
		          "worker may; --no-sandbox accepts that",
		          f.seccomp ? "no syscall user dispatch (Linux 5.11)"
		                    : "no seccomp filters (forbidden, or not "
		                      "in this kernel)");
		return 1;
	}
	if (f.landlock == 0)
		log_warn("sandbox: no Landlock here (Linux 5.13, in the list "
		         "lsm=): slots are kept by seccomp alone");
	else
		log_debug("sandbox: seccomp, Landlock ABI %d", f.landlock);
	return 0;
}

int
sandbox_probe(const struct sandbox_options *o, struct worker_sandbox *s_p)
{
	struct worker_sandbox s = {.off = o->off};
	int status = o->user != NULL ? find_user(o->user, &s) : 0;

	if (status == 0 && o->off)
		log_warn("--no-sandbox: tasks can do all that %s may do on "
		         "this machine",
		         o->user != NULL ? o->user : "this worker");
	else if (status == 0)
		status = check_kernel();
	if (status == 0)
		*s_p = s;
	return status;
}
