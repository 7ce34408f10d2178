/*
 * Is this the only thread of the program that runs?
 *
 * Sleeping threads are looked at twice. A thread that was asleep both times and
 * did not go to sleep in between (its count of voluntary context switches stands
 * still) slept all the time from the first look to the second. So at the moment
 * between the two passes all of them slept, and those who could have woken one
 * slept too. One pass would not do: A is seen asleep, B wakes A and goes to
 * sleep, B is seen asleep.
 *
 * Nothing here calls malloc: it would dirty the heap that is about to be folded.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "views.h"

#ifndef FUTEX_LOCK_PI2
#define FUTEX_LOCK_PI2 13
#endif

#define MAX_SLEEPERS 64 /* more: in doubt */

struct sleeper {
	int tid;
	uint64_t n_sleeps; /* voluntary context switches */
};

struct sleepers {
	int task_fd; /* /proc/self/task */
	int self;
	const int *own;
	size_t n_own;
	size_t n_threads; /* all that were listed */
	size_t n;
	struct sleeper v[MAX_SLEEPERS];
};

/* Threads of the process now; 0 when unknown. */
static size_t
count_threads(void)
{
	struct stat st;

	/* a directory has 2 links besides its folders, one folder a thread */
	if (stat("/proc/self/task", &st) != 0 || st.st_nlink < 3)
		return 0;
	return st.st_nlink - 2;
}

/* Text of /proc/self/task/TID/NAME; 0 or -1. */
static int
read_text(int task_fd, int tid, const char *name, char *buf, size_t cap)
{
	char path[48];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%d/%s", tid, name);
	fd = openat(task_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, buf, cap - 1);
	close(fd);
	if (n <= 0)
		return -1;
	buf[n] = '\0';
	return 0;
}

static int
field(const char *text, const char *name, int base, uint64_t *value_p)
{
	const char *at = strstr(text, name);

	if (at == NULL)
		return -1;
	*value_p = strtoull(at + strlen(name), NULL, base);
	return 0;
}

static uint64_t
bit_of(int sig)
{
	return UINT64_C(1) << (sig - 1);
}

/*
 * A signal from outside would run a handler, that is code of the program, in a
 * sleeping thread. Left out: those that a thread raises itself, and libc's own
 * two, sent by threads of this process only.
 */
static int
may_handle_signals(uint64_t caught, uint64_t blocked)
{
	uint64_t ignore = bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGILL) |
	                  bit_of(SIGFPE) | bit_of(SIGTRAP) | bit_of(SIGSYS) |
	                  bit_of(32) | bit_of(33);

	return (caught & ~blocked & ~ignore) != 0;
}

/* No other process can wake who waits at addr: its page is anonymous, not of a
 * shared mapping. */
static int
is_anonymous(uint64_t addr)
{
	uint64_t entry = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return 0;
	n = pread(fd, &entry, sizeof(entry),
	          (off_t)((addr >> DSM_PAGE_SHIFT) * sizeof(entry)));
	close(fd);
	return n == sizeof(entry) && (entry >> 63) != 0 &&
	       ((entry >> 61) & 1) == 0;
}

/* The thread is blocked in a futex call without timeout. */
static int
is_asleep(int task_fd, int tid)
{
	unsigned long long uaddr, op, val, timeout;
	char text[256];
	long nr;

	if (read_text(task_fd, tid, "syscall", text, sizeof(text)) != 0)
		return 0;
	/* "running" does not match */
	if (sscanf(text, "%ld %llx %llx %llx %llx", &nr, &uaddr, &op, &val,
	           &timeout) != 5 ||
	    nr != SYS_futex || timeout != 0)
		return 0;
	switch (op & (unsigned long long)FUTEX_CMD_MASK) {
	case FUTEX_WAIT:
	case FUTEX_WAIT_BITSET:
	case FUTEX_LOCK_PI:
	case FUTEX_LOCK_PI2:
	case FUTEX_WAIT_REQUEUE_PI:
		/* pthread_join waits at a thread's id without this flag */
		return (op & FUTEX_PRIVATE_FLAG) != 0 || is_anonymous(uaddr);
	default:
		return 0;
	}
}

static int
count_sleeps(int task_fd, int tid, uint64_t *n_sleeps_p)
{
	uint64_t caught, blocked;
	char text[4096];

	if (read_text(task_fd, tid, "status", text, sizeof(text)) != 0 ||
	    field(text, "\nSigCgt:", 16, &caught) != 0 ||
	    field(text, "\nSigBlk:", 16, &blocked) != 0 ||
	    field(text, "\nvoluntary_ctxt_switches:", 10, n_sleeps_p) != 0)
		return -1;
	return may_handle_signals(caught, blocked) ? -1 : 0;
}

static int
is_ours(const struct sleepers *s, int tid)
{
	size_t i;

	for (i = 0; i < s->n_own && s->own[i] != tid; i++)
		;
	return tid == s->self || i < s->n_own;
}

/* First look. 0 when the thread sleeps. */
static int
look(struct sleepers *s, int tid)
{
	struct sleeper *t = &s->v[s->n];

	s->n_threads++;
	if (is_ours(s, tid))
		return 0;
	if (s->n == MAX_SLEEPERS)
		return -1;
	t->tid = tid;
	if (count_sleeps(s->task_fd, tid, &t->n_sleeps) != 0 ||
	    !is_asleep(s->task_fd, tid))
		return -1;
	s->n++;
	return 0;
}

struct dirent64_head {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

static int
look_at_all(struct sleepers *s)
{
	char buf[2048] __attribute__((aligned(8)));
	const struct dirent64_head *d;
	long n, i;

	while ((n = syscall(SYS_getdents64, s->task_fd, buf, sizeof(buf))) >
	       0) {
		for (i = 0; i < n; i += d->reclen) {
			d = (const struct dirent64_head *)(buf + i);
			if (d->name[0] != '.' && look(s, atoi(d->name)) != 0)
				return -1;
		}
	}
	return n == 0 ? 0 : -1;
}

static int
slept_on(const struct sleepers *s)
{
	uint64_t n_sleeps;
	size_t i;

	for (i = 0; i < s->n; i++)
		if (!is_asleep(s->task_fd, s->v[i].tid) ||
		    count_sleeps(s->task_fd, s->v[i].tid, &n_sleeps) != 0 ||
		    n_sleeps != s->v[i].n_sleeps)
			return 0;
	return 1;
}

int
dsm__threads_quiet(const int *own_tids, size_t n_own)
{
	struct sleepers s = {.own = own_tids, .n_own = n_own};
	int quiet;

	if (count_threads() == 1)
		return 1;
	s.self = (int)syscall(SYS_gettid);
	s.task_fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s.task_fd < 0)
		return 0;
	/* The count is taken between the passes: then no thread that came
	 * during the first one was missed. */
	quiet = look_at_all(&s) == 0 && count_threads() == s.n_threads &&
	        slept_on(&s);
	close(s.task_fd);
	return quiet;
}
