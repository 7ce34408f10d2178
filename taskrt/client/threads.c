/* See threads.h. */
#include "threads.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../dsm/heap/views.h"

/* What the library calls its threads; see the note on program names below. */
static const char own_prefix[] = "taskrt-";

static int
has_own_name(int dir_fd, const char *tid)
{
	char path[64], name[32];

	snprintf(path, sizeof(path), "%.20s/comm", tid);
	int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, name, sizeof(name));
	close(fd);
	return n >= (ssize_t)sizeof(own_prefix) - 1 &&
	       memcmp(name, own_prefix, sizeof(own_prefix) - 1) == 0;
}

/* Look through all threads; returns how many there are, 0 on failure. */
static size_t
scan(struct taskrt__threads *t)
{
	int self = (int)syscall(SYS_gettid);
	int fd = openat(t->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	size_t n = 0;

	t->n_own = 0;
	if (dir == NULL) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	for (struct dirent *d; (d = readdir(dir)) != NULL;) {
		int tid = atoi(d->d_name);

		if (tid <= 0)
			continue;
		n++;
		if (tid != self && t->n_own < TASKRT__OWN_THREADS &&
		    has_own_name(t->dir_fd, d->d_name))
			t->own[t->n_own++] = tid;
	}
	closedir(dir);
	return n;
}

static size_t
count(const struct taskrt__threads *t)
{
	struct stat st;

	if (fstat(t->dir_fd, &st) != 0 || st.st_nlink < 3)
		return 0;
	return st.st_nlink - 2;
}

void
taskrt__threads_init(struct taskrt__threads *t)
{
	*t = (struct taskrt__threads){.pid = getpid()};
	t->dir_fd = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/*
	 * Threads inherit their creator's name, and a program's first thread has
	 * the program's. Of a program that is called like one of our threads
	 * none can be told from them.
	 */
	if (t->dir_fd < 0 || strncmp(program_invocation_short_name, own_prefix,
	                             sizeof(own_prefix) - 1) == 0)
		return;
	/* Twice: a thread may come or go between scan and count. */
	for (int i = 0; i < 2 && !t->trusted; i++) {
		size_t n = scan(t);

		t->trusted = n > 0 && count(t) == n;
	}
}

void
taskrt__threads_fini(struct taskrt__threads *t)
{
	if (t->dir_fd >= 0)
		close(t->dir_fd);
	t->dir_fd = -1;
}

static int
alone_with_own(const struct taskrt__threads *t)
{
	if (count(t) != t->n_own + 1)
		return 0;
	for (size_t i = 0; i < t->n_own; i++)
		if (syscall(SYS_tgkill, t->pid, t->own[i], 0) != 0)
			return 0;
	return 1;
}

int
taskrt__threads_exclusive(struct taskrt__threads *t)
{
	if (!t->trusted)
		return 0;
	if (alone_with_own(t))
		return 1;
	if (scan(t) == 0)
		return 0;
	return alone_with_own(t) || dsm__threads_quiet(t->own, t->n_own);
}
