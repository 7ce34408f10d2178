#include "facts.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#include "../../dsm/base/landlock.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_OFF 0
#endif

void
sandbox_facts(struct sandbox_facts *f_p)
{
	/* A filter at address 0: looked at only by a kernel that has them. */
	f_p->seccomp = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) != 0 &&
	               errno == EFAULT;
	f_p->dispatch = prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF,
	                      0, 0, 0) == 0;
	f_p->landlock = dsm__landlock_abi();
}
