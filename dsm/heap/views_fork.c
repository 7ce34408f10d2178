/*
 * fork: the child gets a file of its own with what the heap had. See views.h.
 *
 * It copies while the parent goes on; until it has done so the parent changes
 * nothing in the file that they share (freeze and apply wait, release is put off).
 */
#include "views_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../base/clock.h"

/* A forked child copies one chunk (0.03 s) between two signs of life. */
#define CHILD_SILENT_MS 10000

/* --- children that still copy --- */

int
dsm__views_children(struct dsm_views *v, unsigned silent_ms)
{
	uint64_t deadline = dsm__deadline_ms(silent_ms);
	struct pollfd p = {.fd = v->children_fd, .events = POLLIN};
	char buf[256];
	ssize_t n;

	if (v->children_fd < 0)
		return DSM_OK;
	for (;;) {
		if (poll(&p, 1, dsm__ms_left(deadline)) == 0)
			return DSM_ETIMEDOUT;
		n = read(v->children_fd, buf, sizeof(buf));
		if (n == 0)
			break;
		if (n > 0)
			deadline = dsm__deadline_ms(silent_ms);
	}
	close(v->children_fd);
	v->children_fd = -1;
	return DSM_OK;
}

int
dsm__views_settle(struct dsm_views *v, struct dsm_error *e)
{
	int rc = dsm__views_children(v, CHILD_SILENT_MS);

	if (rc != DSM_OK)
		dsm__fail(
		    e, rc,
		    "heap: a forked child has not copied its memory for %d s "
		    "(is it stopped?)",
		    CHILD_SILENT_MS / 1000);
	return rc;
}

/* --- fork --- */

/* Another write end of the pipe, made again when no child copies. */
static int
open_pipe(struct dsm_views *v)
{
	char path[40];
	int fds[2];

	if (v->children_fd < 0) {
		if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0)
			return DSM_ESYS;
		v->children_fd = fds[0];
		v->child_fd = fds[1];
		return DSM_OK;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", v->children_fd);
	v->child_fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	return v->child_fd < 0 ? DSM_ESYS : DSM_OK;
}

void
dsm__views_fork_prepare(struct dsm_views *v, uint64_t used)
{
	dsm__views_children(v, 0); /* closes the pipe when all are done */
	v->fork_used = dsm__page_up(min_of(used, v->size));
	v->fork_err = dsm__views_flip(v, v->fork_used);
	if (v->fork_err == DSM_OK)
		v->fork_err = open_pipe(v);
}

void
dsm__views_fork_parent(struct dsm_views *v)
{
	/* the child has its own; end of file comes when it closes that */
	if (v->child_fd >= 0)
		close(v->child_fd);
	v->child_fd = -1;
}

static int
write_out(const struct dsm_views *v, int to, uint64_t off, uint64_t end)
{
	ssize_t n;

	while (off < end) {
		n = pwrite(to, v->base + off, end - off, (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return DSM_ENOMEM;
		off += (uint64_t)n;
	}
	return DSM_OK;
}

/*
 * Pages of [off, end) that the old file has, as the program view shows them. The
 * parent may add pages of zeros to the file meanwhile (it reads holes), no more.
 */
static int
copy_data(const struct dsm_views *v, int to, uint64_t off, uint64_t end)
{
	off_t data, hole;
	int rc = DSM_OK;

	while (rc == DSM_OK && off < end) {
		data = lseek(v->fd, (off_t)off, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? DSM_OK : DSM_ESYS;
		hole = lseek(v->fd, data, SEEK_HOLE);
		if (hole < 0)
			return DSM_ESYS;
		off = min_of((uint64_t)hole, end);
		rc = write_out(v, to, (uint64_t)data, off);
	}
	return rc;
}

struct fork_copy {
	const struct dsm_views *v;
	int to;
};

/* A private page over a hole of the file: rare, but copy_data missed it. */
static int
copy_private(void *arg, uint64_t start, uint64_t n_pages)
{
	struct fork_copy *c = arg;
	uint64_t off = offset_of(c->v, start);
	uint64_t end = off + (n_pages << DSM_PAGE_SHIFT);
	int rc = DSM_OK;

	for (; rc == DSM_OK && off < end; off += DSM_PAGE)
		if (lseek(c->v->fd, (off_t)off, SEEK_DATA) != (off_t)off)
			rc = write_out(c->v, c->to, off, off + DSM_PAGE);
	return rc;
}

static int
copy_heap(struct dsm_views *v, int to)
{
	struct fork_copy c = {.v = v, .to = to};
	uint64_t off, end;
	int rc = DSM_OK;

	for (off = 0; rc == DSM_OK && off < v->fork_used; off = end) {
		end = min_of(off + DSM_HEAP_CHUNK, v->fork_used);
		rc = copy_data(v, to, off, end);
		if (rc == DSM_OK && write(v->child_fd, "", 1) < 0)
			rc = errno == EAGAIN ? DSM_OK : DSM_ESYS;
	}
	if (rc == DSM_OK)
		rc = dsm__pagemap_private(&v->pm, (uintptr_t)v->base,
		                          v->fork_used >> DSM_PAGE_SHIFT,
		                          copy_private, &c);
	return rc;
}

static int
adopt(struct dsm_views *v, int fd)
{
	if (dsm__views_map(v->base, 0, v->size, fd, MAP_SHARED) != DSM_OK ||
	    dsm__views_map(v->serving, 0, v->size, fd, MAP_SHARED) != DSM_OK)
		return DSM_ENOMEM;
	madvise(v->serving, v->size, MADV_DONTDUMP);
	if (dup3(fd, v->fd, O_CLOEXEC) < 0)
		return DSM_ESYS;
	v->private_end = 0;
	v->seen_end = 0;
	v->released.n = 0;
	v->pinned.n = 0; /* another file's pages */
	return DSM_OK;
}

/* A thread whose stack lies in the heap (a coroutine's) would lose what it
 * pushes between copy and change of mapping. */
static int
become_own(struct dsm_views *v)
{
	int fd = -1, rc;

	if (v->fork_err != DSM_OK)
		return v->fork_err;
	if (inside(v, (uintptr_t)__builtin_frame_address(0), 1))
		return DSM_EINVAL;
	/* the old descriptor still shows the parent's pages */
	dsm__pagemap_fini(&v->pm);
	rc = dsm__pagemap_init(&v->pm, 1);
	if (rc != DSM_OK)
		return rc;
	rc = dsm__views_file(v->size, &fd, NULL);
	if (rc != DSM_OK)
		return rc;
	rc = copy_heap(v, fd);
	if (rc == DSM_OK)
		rc = adopt(v, fd);
	close(fd);
	return rc;
}

int
dsm__views_fork_child(struct dsm_views *v)
{
	sigset_t all, mask;
	int rc;

	/* a handler's stores would be lost likewise */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &mask);
	rc = become_own(v);
	/* Both ends only now: while we hold the read end too, a parent that dies
	 * costs us no SIGPIPE. */
	if (v->child_fd >= 0)
		close(v->child_fd);
	if (v->children_fd >= 0)
		close(v->children_fd);
	v->child_fd = v->children_fd = -1;
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	return rc;
}
