/*
 * A real slot process between a worker and a client that say anything: all that both
 * will ever say is written first, then their ends are closed. Whatever it was, the
 * slot must end by itself and soon: with a status of slotctl.h and a sentence in the
 * control page, or as a task that crashed does.
 *
 * Half of what is hostile to a slot is its client's right: to have any code run there.
 * So a signal is no find here (the worker reports it as the task's), a hang is.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/image/image.h"
#include "../../dsm/transport/conn.h"
#include "../../taskrt/slot/slotctl.h"

#define HEAP UINT64_C(0x10000000000)
#define HEAP_PAGES 64u
#define END_MS 25000 /* machines are shared */
#define RUNS_MS 3000 /* that client code runs */
#define STEP_MS 100
#define HIGH_FD 200 /* descriptors of ours that are not the slot's numbers */

static char path[PATH_MAX];
static struct dsm_image image;
static struct slot_ctl *ctl;
static int ctl_fd;
static struct fuzz_pool pool;

static int
high(int fd)
{
	int up = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

	FUZZ_MUST(up >= 0);
	close(fd);
	return up;
}

static void
setup_once(void)
{
	struct dsm_error e;
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 32);
	char *slash;

	fuzz_quiet();
	FUZZ_MUST(n > 0);
	slash = strrchr(path, '/'); /* BUILD/tests/fuzz_slot */
	snprintf(slash, 32, "/../slot/taskrt-slot-a");
	FUZZ_MUST(access(path, X_OK) == 0);
	FUZZ_MUST(dsm__image_create(&image, &e) == DSM_OK);
	image.pages_fd = high(image.pages_fd);
	image.states_fd = high(image.states_fd);
	ctl_fd = high(memfd_create("ctl", MFD_CLOEXEC));
	FUZZ_MUST(ftruncate(ctl_fd, DSM_PAGE) == 0);
	ctl =
	    mmap(NULL, DSM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ctl_fd, 0);
	FUZZ_MUST(ctl != MAP_FAILED);
}

/* --- what its peers say --- */

static void
say(struct dsm_conn *c, unsigned type, struct dsm_wbuf *w)
{
	const struct iovec iov = {w->ptr, w->len};

	/* What the socket does not take is lost. */
	dsm__conn_send(c, type, 0, 0, &iov, 1);
	dsm__wbuf_fini(w);
}

static void
say_run(struct fuzz_in *in, struct dsm_conn *c)
{
	struct dsm_wbuf w = {0}, ranges = {0};
	struct dsm_msg_run m = {
	    .session = 1,
	    .run = 1,
	    .mode = 1 + fuzz_below(in, 3),
	    .flags = DSM_RUN_RANGES | fuzz_below(in, 2) * DSM_RUN_FETCHED,
	    .fn = HEAP + 16,
	    .ctx = HEAP,
	    .end = 8,
	    .task_page = fuzz_below(in, 2) * (HEAP + DSM_PAGE),
	    .stack_size = 65536,
	};
	uint32_t n = 1 + fuzz_below(in, 4);

	for (uint32_t i = 0; i < n; i++) {
		struct dsm_rec_range r = {
		    .start = HEAP + i * UINT64_C(0x100000),
		    .end =
		        HEAP + i * UINT64_C(0x100000) + HEAP_PAGES * DSM_PAGE,
		    .image_off = i * HEAP_PAGES * DSM_PAGE,
		    .prot = PROT_READ | PROT_WRITE | PROT_EXEC,
		    .kind = 1 + fuzz_below(in, 8),
		};

		if (fuzz_u8(in) > 230)
			r.start = fuzz_value(in, &pool);
		if (fuzz_u8(in) > 230)
			r.end = fuzz_value(in, &pool);
		if (fuzz_u8(in) > 230)
			r.prot = (uint32_t)fuzz_value(in, &pool);
		if (fuzz_u8(in) > 230)
			r.image_off = fuzz_value(in, &pool);
		FUZZ_MUST(dsm__pack_range(&ranges, &r) == DSM_OK);
	}
	m.ranges = (struct dsm_array){ranges.ptr, n};
	FUZZ_MUST(dsm__encode_run(&w, &m) == DSM_OK);
	say(c, DSM_MSG_RUN, &w);
	dsm__wbuf_fini(&ranges);
}

static void
say_exec(struct fuzz_in *in, struct dsm_conn *c)
{
	const struct dsm_msg_exec m = {.session = 1,
	                               .run = 1,
	                               .attempt = 1,
	                               .lo = fuzz_below(in, 4),
	                               .hi = 1 + fuzz_below(in, 10)};
	struct dsm_wbuf w = {0};

	FUZZ_MUST(dsm__encode_exec(&w, &m) == DSM_OK);
	say(c, DSM_MSG_EXEC, &w);
}

static void
say_pages(struct fuzz_in *in, struct dsm_conn *c)
{
	static const uint8_t page[DSM_PAGE]; /* no code that does anything */
	const struct dsm_msg_pages m = {
	    .run = 1,
	    .addr = HEAP + fuzz_below(in, 4) * DSM_PAGE,
	    .n_pages = 1 + fuzz_below(in, 20),
	};
	struct dsm_wbuf w = {0};

	FUZZ_MUST(dsm__encode_pages(&w, &m) == DSM_OK);
	for (uint32_t i = 0; i < m.n_pages; i++)
		FUZZ_MUST(dsm__wbuf_put(&w, page, sizeof(page)) == DSM_OK);
	say(c, DSM_MSG_PAGES, &w);
}

static void
say_anything(struct fuzz_in *in, struct dsm_conn *c)
{
	unsigned type = fuzz_type(in);
	struct dsm_wbuf w = {0};

	fuzz_message(in, &pool, type, &w);
	say(c, type, &w);
}

static void
write_bytes(struct fuzz_in *in, struct dsm_conn *c)
{
	struct dsm_blob b = fuzz_bytes(in, 100);

	if (b.len > 0 && send(dsm__conn_fd(c), b.ptr, b.len,
	                      MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

static void
say_all(struct fuzz_in *in, struct dsm_conn *control, struct dsm_conn *data)
{
	for (unsigned n = 0; n < 12 && fuzz_more(in); n++) {
		uint8_t what = fuzz_u8(in);

		switch (what & 7) {
		case 0:
		case 1:
			say_run(in, control);
			break;
		case 2:
		case 3:
			say_exec(in, control);
			break;
		case 4:
		case 5:
			say_pages(in, data);
			break;
		case 6:
			say_anything(in, what & 8 ? control : data);
			break;
		default:
			write_bytes(in, what & 8 ? control : data);
		}
	}
}

/* --- the process --- */

static struct dsm_conn *
open_link(int *theirs_p)
{
	struct dsm_conn *c;
	int pair[2];

	FUZZ_MUST(dsm__shm_pair(pair) == DSM_OK);
	*theirs_p = high(pair[1]);
	FUZZ_MUST(dsm__conn_create(&dsm__shm_ops, pair[0], DSM_FRAME_MAX, &c) ==
	          DSM_OK);
	return c;
}

static pid_t
start(int control, int data)
{
	const int fds[] = {control, data, image.pages_fd, image.states_fd,
	                   ctl_fd};
	char *argv[] = {"taskrt-slot", "0", "1", "tcp", NULL};
	char *env[] = {NULL};
	posix_spawn_file_actions_t actions;
	pid_t pid;

	FUZZ_MUST(posix_spawn_file_actions_init(&actions) == 0);
	for (int i = 0; i < 5; i++)
		FUZZ_MUST(posix_spawn_file_actions_adddup2(
		              &actions, fds[i], SLOT_FD_CONTROL + i) == 0);
	FUZZ_MUST(posix_spawn(&pid, path, &actions, NULL, argv, env) == 0);
	posix_spawn_file_actions_destroy(&actions);
	return pid;
}

static void
await_end(pid_t pid)
{
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0),
	                   .events = POLLIN};
	int status, in_time = 0, runs = 0;

	FUZZ_MUST(p.fd >= 0);
	/* A task may run for ever: what fn names may be an endless loop. Then the
	 * worker's time-out ends the slot, and here we do. */
	for (int ms = 0; ms < END_MS && !in_time && runs < RUNS_MS / STEP_MS;
	     ms += STEP_MS) {
		in_time = poll(&p, 1, STEP_MS) == 1;
		runs = atomic_load(&ctl->state) == SLOT_RUNNING ? runs + 1 : 0;
	}
	close(p.fd);
	if (!in_time)
		kill(pid, SIGKILL);
	FUZZ_MUST(waitpid(pid, &status, 0) == pid);
	FUZZ_MUST(in_time || runs > 0);
	FUZZ_MUST(WIFSIGNALED(status) || WEXITSTATUS(status) == SLOT_EXIT_OK ||
	          (WEXITSTATUS(status) >= SLOT_EXIT_COLLIDES &&
	           WEXITSTATUS(status) <= SLOT_EXIT_MEMORY));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = fuzz_in(data, size);
	struct dsm_conn *control, *pages;
	int theirs[2];
	pid_t pid;

	if (ctl == NULL)
		setup_once();
	memset(&pool, 0, sizeof(pool));
	memset(ctl, 0, sizeof(*ctl));
	fuzz_pool_put(&pool, 1);
	fuzz_pool_put(&pool, HEAP);
	fuzz_pool_put(&pool, UINT64_C(0x1a0000000000)); /* the slot's own */
	fuzz_pool_put(&pool, UINT64_C(0x7fffffff0000));
	ctl->force_segv = fuzz_below(&in, 2);
	control = open_link(&theirs[0]);
	pages = open_link(&theirs[1]);
	say_all(&in, control, pages);
	shutdown(dsm__conn_fd(control), SHUT_WR);
	shutdown(dsm__conn_fd(pages), SHUT_WR);
	pid = start(theirs[0], theirs[1]);
	close(theirs[0]);
	close(theirs[1]);
	await_end(pid);
	dsm__conn_close(control);
	dsm__conn_close(pages);
	FUZZ_MUST(dsm__image_drop(&image, 0, DSM_IMAGE_SIZE / DSM_PAGE) ==
	          DSM_OK);
	return 0;
}
