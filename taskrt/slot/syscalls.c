#include "syscalls.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "../../dsm/base/page.h"
#include "arena.h"
#include "callnames.h"
#include "hold.h"
#include "output.h"
#include "taskpage.h"

#define MAX_TEXT (64u << 10) /* of one write */
#define OWN_CLOCKS 16        /* as in taskrt/filter */
#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1 /* siginfo's si_code */
#endif

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1
#endif

extern char __executable_start[], etext[];

/* Stays 1 (catch): the slot's own calls come from the exempted range. */
static char selector = 1;

int
syscalls_init(void)
{
	return prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON,
	             __executable_start, etext - __executable_start, &selector);
}

/* How a call is treated. */
enum rule {
	FORBIDDEN, /* ends the task: what is not in the table */
	PASS,      /* no pointers: as it is */
	PASS_OUT,  /* writes `size` bytes through argument `arg` */
	PASS_IN,   /* reads `size` bytes through argument `arg` */
	PRETEND,   /* answers 0, does nothing */
	NO_MEMORY, /* answers ENOMEM */
};

struct entry {
	int nr;
	enum rule rule;
	unsigned arg, size;
};

#define CALL(label, ...)                       \
	{                                      \
		.nr = SYS_##label, __VA_ARGS__ \
	}

static const struct entry table[] = {
    CALL(clock_gettime, PASS_OUT, 1, sizeof(struct timespec)),
    CALL(clock_getres, PASS_OUT, 1, sizeof(struct timespec)),
    CALL(gettimeofday, PASS_OUT, 0, 16),
    CALL(time, PASS_OUT, 0, 8),
    CALL(getcpu, PASS_OUT, 0, 4),
    CALL(nanosleep, PASS_IN, 0, sizeof(struct timespec)),
    CALL(clock_nanosleep, PASS_IN, 2, sizeof(struct timespec)),
    CALL(getpid, PASS, 0, 0),
    CALL(gettid, PASS, 0, 0),
    CALL(sched_yield, PASS, 0, 0),
    /* qsort asks how much memory there is. */
    CALL(sysinfo, PASS_OUT, 0, sizeof(struct sysinfo)),
    CALL(getrusage, PASS_OUT, 1, sizeof(struct rusage)),
    CALL(times, PASS_OUT, 0, 4 * sizeof(long)),
    CALL(uname, PASS_OUT, 0, sizeof(struct utsname)),
    CALL(sched_getaffinity, PASS_OUT, 2, sizeof(cpu_set_t)),
    /* libc does these around abort, exceptions, locale. */
    CALL(rt_sigprocmask, PRETEND, 0, 0),
    CALL(rt_sigaction, PRETEND, 0, 0),
    CALL(sigaltstack, PRETEND, 0, 0),
    CALL(madvise, PRETEND, 0, 0),
    CALL(brk, NO_MEMORY, 0, 0),
    CALL(mmap, NO_MEMORY, 0, 0),
    CALL(mremap, NO_MEMORY, 0, 0),
    CALL(munmap, PRETEND, 0, 0),
};

static const struct entry *
look_up(int nr)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].nr == nr)
			return &table[i];
	return NULL;
}

static int
forbidden(struct fault_failure *f, uint32_t kind, uint32_t signal,
          const char *text)
{
	f->kind = kind;
	f->signal = signal;
	f->addr = 0;
	snprintf(f->text, sizeof(f->text), "%s", text);
	return FAULT_FAILED;
}

/* Clocks of other processes are negative: the sandbox has no way to them. */
static int
is_strange_clock(const ucontext_t *uc, int nr)
{
	return (nr == SYS_clock_gettime || nr == SYS_clock_getres ||
	        nr == SYS_clock_nanosleep) &&
	       arch_syscall_arg(uc, 0) >= OWN_CLOCKS;
}

static int64_t
carry_out(const ucontext_t *uc, int nr)
{
	uint64_t first = arch_syscall_arg(uc, 0);
	long ret;

	/* Asked of a thread of the program: here there is one process. */
	if (nr == SYS_sched_getaffinity)
		first = 0;
	ret = syscall(nr, first, arch_syscall_arg(uc, 1),
	              arch_syscall_arg(uc, 2), arch_syscall_arg(uc, 3),
	              arch_syscall_arg(uc, 4), arch_syscall_arg(uc, 5));
	return ret == -1 ? -errno : ret;
}

/* nanosleep, clock_nanosleep: nobody waits for the task's sleep. Its time is copied,
 * it may be evicted meanwhile; how much of it was left nobody is told, as no signal
 * of the program's ends it. */
static int64_t
sleep_for(const ucontext_t *uc, int nr, const struct entry *e)
{
	struct timespec ts;
	long ret;

	memcpy(&ts, (const void *)arch_syscall_arg(uc, e->arg), sizeof(ts));
	hold_end();
	ret = nr == SYS_nanosleep ? syscall(nr, &ts, NULL)
	                          : syscall(nr, arch_syscall_arg(uc, 0),
	                                    arch_syscall_arg(uc, 1), &ts, NULL);
	hold_begin();
	return ret == -1 ? -errno : ret;
}

static int64_t
put_text(unsigned fd, uint64_t task, uint64_t buf, uint64_t len)
{
	int err;

	if (len > MAX_TEXT)
		len = MAX_TEXT; /* the caller tries again with the rest */
	if (fault_touch(buf, len, 0) != 0)
		return -EFAULT;
	err = output_write(task, fd, (const void *)buf, len);
	return err != DSM_OK ? -EIO : (int64_t)len;
}

static int64_t
task_write(const ucontext_t *uc, uint64_t task)
{
	return put_text((unsigned)arch_syscall_arg(uc, 0), task,
	                arch_syscall_arg(uc, 1), arch_syscall_arg(uc, 2));
}

static int64_t
task_writev(const ucontext_t *uc, uint64_t task)
{
	uint64_t v = arch_syscall_arg(uc, 1), n = arch_syscall_arg(uc, 2);
	int64_t total = 0;

	if (n > 1024 || fault_touch(v, n * sizeof(struct iovec), 0) != 0)
		return n > 1024 ? -EINVAL : -EFAULT;
	for (uint64_t i = 0; i < n; i++) {
		struct iovec one = ((const struct iovec *)v)[i];
		int64_t put = put_text((unsigned)arch_syscall_arg(uc, 0), task,
		                       (uint64_t)one.iov_base, one.iov_len);

		if (put < 0)
			return total > 0 ? total : put;
		total += put;
		if ((uint64_t)put < one.iov_len)
			break;
	}
	return total;
}

/* stdio looks at a stream before it first writes to it: a pipe. */
static int64_t
task_stat(const ucontext_t *uc, unsigned arg)
{
	struct stat st = {.st_mode = S_IFIFO | 0600, .st_blksize = 4096};
	uint64_t to = arch_syscall_arg(uc, arg);

	if (fault_touch(to, sizeof(st), 1) != 0)
		return -EFAULT;
	memcpy((void *)to, &st, sizeof(st));
	return 0;
}

static int
is_text_stream(const ucontext_t *uc)
{
	return arch_syscall_arg(uc, 0) == 1 || arch_syscall_arg(uc, 0) == 2;
}

/* What stdio does with stdout and stderr. 1: handled. */
static int
stdio_call(ucontext_t *uc, int nr, uint64_t task)
{
	int64_t ret;

	if (!is_text_stream(uc))
		return 0;
	switch (nr) {
	case SYS_write:
		ret = task_write(uc, task);
		break;
	case SYS_writev:
		ret = task_writev(uc, task);
		break;
	case SYS_fstat:
		ret = task_stat(uc, 1);
		break;
	case SYS_newfstatat:
		ret = task_stat(uc, 2);
		break;
	case SYS_ioctl:
		ret = -ENOTTY;
		break;
	default:
		return 0;
	}
	arch_syscall_return(uc, ret);
	return 1;
}

/* A lock that is held in the image was held at the launch by a thread that does
 * not exist here: nobody can release it. */
static int
task_futex(ucontext_t *uc, struct fault_failure *f)
{
	int op = (int)arch_syscall_arg(uc, 1) & FUTEX_CMD_MASK;

	if (op == FUTEX_WAKE || op == FUTEX_REQUEUE ||
	    op == FUTEX_WAKE_BITSET || op == FUTEX_WAKE_OP) {
		arch_syscall_return(uc, 0);
		return FAULT_NONE;
	}
	if ((op == FUTEX_WAIT || op == FUTEX_WAIT_BITSET) &&
	    arch_syscall_arg(uc, 3) != 0) {
		arch_syscall_return(uc, -ETIMEDOUT);
		return FAULT_NONE;
	}
	return forbidden(
	    f, DSM_FAIL_FORBIDDEN, 0,
	    "waits for a lock or condition that no one in the task can "
	    "release");
}

/* The buffer is as long as the caller says. */
static int
task_random(ucontext_t *uc)
{
	uint64_t buf = arch_syscall_arg(uc, 0), len = arch_syscall_arg(uc, 1);
	long ret = -1;

	errno = EFAULT;
	if (len > MAX_TEXT)
		len = MAX_TEXT; /* it may give fewer bytes than asked for */
	if (fault_touch(buf, len, 1) == 0)
		ret = syscall(SYS_getrandom, buf, len, arch_syscall_arg(uc, 2));
	arch_syscall_return(uc, ret == -1 ? -errno : ret);
	return FAULT_NONE;
}

/* Refused as such, or the C library would only say that memory is short. */
static int
is_thread_stack(const ucontext_t *uc, int nr)
{
	return nr == SYS_mmap && (arch_syscall_arg(uc, 3) & MAP_STACK) != 0;
}

static int
task_borrow(ucontext_t *uc)
{
	int got = arena_borrow(arch_syscall_arg(uc, 0));

	arch_syscall_return(uc, got == 1 ? 0 : -ENOMEM);
	return got < 0 ? FAULT_LOST : FAULT_NONE;
}

static int
is_abort(const ucontext_t *uc, int nr)
{
	if (nr == SYS_tgkill)
		return (int)arch_syscall_arg(uc, 2) == SIGABRT;
	if (nr == SYS_tkill || nr == SYS_kill)
		return (int)arch_syscall_arg(uc, 1) == SIGABRT;
	return 0;
}

/* Why, as far as the task has said so. */
static int
aborted(uint64_t task, struct fault_failure *f)
{
	char words[400], text[sizeof(f->text)];

	output_last_words(task, words, sizeof(words));
	snprintf(text, sizeof(text), "abort() was called%s%s",
	         words[0] != '\0' ? "; last on stderr: " : "", words);
	return forbidden(f, DSM_FAIL_CRASH, SIGABRT, text);
}

static int
not_allowed(const ucontext_t *uc, int nr, const char *how,
            struct fault_failure *failure)
{
	const char *name = call_name(nr);
	char text[160];

	if (nr == SYS_exit_group || nr == SYS_exit)
		snprintf(text, sizeof(text),
		         "exit is not allowed in a task (status %d)",
		         (int)arch_syscall_arg(uc, 0));
	else if (name != NULL)
		snprintf(text, sizeof(text), "%s() is not allowed in a task%s",
		         name, how);
	else
		snprintf(text, sizeof(text),
		         "system call %d is not allowed in a task%s", nr, how);
	return forbidden(failure, DSM_FAIL_FORBIDDEN, 0, text);
}

int
syscalls_handle(ucontext_t *uc, const siginfo_t *si, uint64_t task,
                struct fault_failure *failure)
{
	int nr = si->si_syscall;
	const struct entry *e = look_up(nr);
	char text[80];
	uint64_t p;

	if (!arch_syscall_is_ours(si)) {
		snprintf(text, sizeof(text),
		         "32-bit system call %d is not allowed in a task", nr);
		return forbidden(failure, DSM_FAIL_FORBIDDEN, 0, text);
	}
	/* Made with the slot's own code: no library does that. */
	if (si->si_code == SYS_SECCOMP)
		return not_allowed(uc, nr, ", nor by way of the slot's code",
		                   failure);
	if (is_abort(uc, nr))
		return aborted(task, failure);
	if (nr == TASKRT_CALL_BORROW)
		return task_borrow(uc);
	if (nr == SYS_futex)
		return task_futex(uc, failure);
	if (nr == SYS_getrandom)
		return task_random(uc);
	if (is_thread_stack(uc, nr))
		return forbidden(failure, DSM_FAIL_FORBIDDEN, 0,
		                 "starting a thread or a process is not "
		                 "allowed in a task");
	if (stdio_call(uc, nr, task))
		return FAULT_NONE;
	if (is_strange_clock(uc, nr)) {
		arch_syscall_return(uc, -EINVAL);
		return FAULT_NONE;
	}
	switch (e != NULL ? e->rule : FORBIDDEN) {
	case PASS_OUT:
	case PASS_IN:
		p = arch_syscall_arg(uc, e->arg);
		if (p != 0 &&
		    fault_touch(p, e->size, e->rule == PASS_OUT) != 0) {
			arch_syscall_return(uc, -EFAULT);
			return FAULT_NONE;
		}
		if (e->rule == PASS_IN && p != 0) {
			arch_syscall_return(uc, sleep_for(uc, nr, e));
			return FAULT_NONE;
		}
		/* fall through */
	case PASS:
		arch_syscall_return(uc, carry_out(uc, nr));
		return FAULT_NONE;
	case PRETEND:
		arch_syscall_return(uc, 0);
		return FAULT_NONE;
	case NO_MEMORY:
		arch_syscall_return(uc, -ENOMEM);
		return FAULT_NONE;
	default:
		break;
	}
	return not_allowed(uc, nr, "", failure);
}
