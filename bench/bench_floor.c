/*
 * Floors: the same work with nothing of ours in it. Each is written as well as
 * we know how, spinning where taskrt may spin: a floor that is too slow would
 * flatter the ratio.
 */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/page.h"

#define CALL_BYTES (UINT64_C(1) << 20)
#define ASK_BYTES 16

/* A request to the far end: n exchanges, or stream n bytes. */
enum { OP_PAGES = 1, OP_STREAM };
struct request {
	uint64_t op, n;
};
_Static_assert(sizeof(struct request) == ASK_BYTES, "asks are of one size");

static void *
map_filled(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	memset(p, 0x5a, len);
	return p;
}

/* --- TCP --- */

/* 0, or -1 when the other end is gone. */
static int
receive_spinning(int fd, void *buf, size_t len)
{
	size_t got = 0;

	while (got < len) {
		ssize_t n =
		    recv(fd, (char *)buf + got, len - got, MSG_DONTWAIT);

		if (n > 0)
			got += (size_t)n;
		else if (n == 0 || errno != EAGAIN)
			return -1;
		else
			dsm__cpu_relax();
	}
	return 0;
}

static int
send_all(int fd, const void *buf, size_t len)
{
	size_t sent = 0;

	while (sent < len) {
		ssize_t n = send(fd, (const char *)buf + sent, len - sent,
		                 MSG_NOSIGNAL);

		if (n <= 0)
			return -1;
		sent += (size_t)n;
	}
	return 0;
}

static int
send_stream(int fd, const void *buf, uint64_t len)
{
	while (len > 0) {
		size_t n = len < CALL_BYTES ? len : CALL_BYTES;

		if (send_all(fd, buf, n) != 0)
			return -1;
		len -= n;
	}
	return 0;
}

/* Sending blocks, which streams fastest; receiving spins. */
static void
prepare_end(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
}

/*
 * To the nth core that this process may use: two spinning ends on one core would
 * take turns of milliseconds. *old_p (may be NULL): where it ran before.
 */
static void
pin_to(unsigned n, cpu_set_t *old_p)
{
	cpu_set_t all, one;

	CPU_ZERO(&one);
	if (sched_getaffinity(0, sizeof(all), &all) != 0)
		bench_die("sched_getaffinity: %s", strerror(errno));
	if (old_p != NULL)
		*old_p = all;
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &all) && n-- == 0)
			CPU_SET(cpu, &one);
	}
	sched_setaffinity(0, sizeof(one), &one);
}

static void
serve_tcp(int fd, void *ctx)
{
	struct pollfd p = {fd, POLLIN, 0};
	struct request ask;
	char *buf = map_filled(CALL_BYTES);

	(void)ctx;
	prepare_end(fd);
	pin_to(bench_cores() - 1, NULL);
	/* Asleep between requests, spinning within one. */
	while (poll(&p, 1, -1) == 1 &&
	       receive_spinning(fd, &ask, sizeof(ask)) == 0) {
		uint64_t op = ask.op, n = op == OP_PAGES ? ask.n : 1;

		for (uint64_t i = 0; i < n; i++) {
			if (i > 0 && receive_spinning(fd, &ask, sizeof(ask)))
				return;
			if (op == OP_PAGES && send_all(fd, buf, DSM_PAGE))
				return;
		}
		if (op != OP_STREAM)
			continue;
		if (send_all(fd, buf, 1) != 0 ||
		    receive_spinning(fd, buf, 1) != 0 ||
		    send_stream(fd, buf, ask.n) != 0)
			return;
	}
}

void
floor_tcp_start(struct floor_tcp *f)
{
	f->fd = bench_peer_tcp(serve_tcp, NULL);
	prepare_end(f->fd);
}

static void
must_io(int err)
{
	if (err != 0)
		bench_die("TCP floor: %s", strerror(errno));
}

double
floor_tcp_page(struct floor_tcp *f, size_t n)
{
	struct request ask = {OP_PAGES, n};
	double *ns = calloc(n, sizeof(*ns));
	char page[DSM_PAGE];
	cpu_set_t cores;

	if (ns == NULL)
		bench_die("out of memory");
	pin_to(0, &cores);
	for (size_t i = 0; i < n; i++) {
		uint64_t start = bench_ticks();

		must_io(send_all(f->fd, &ask, sizeof(ask)));
		must_io(receive_spinning(f->fd, page, sizeof(page)));
		ns[i] = (double)(bench_ticks() - start) * bench_ns_per_tick();
	}
	sched_setaffinity(0, sizeof(cores), &cores);
	double median = bench_median(ns, n);
	free(ns);
	return median;
}

static int
receive_stream(int fd, void *buf, size_t len)
{
	while (len > 0) {
		size_t n = len < CALL_BYTES ? len : CALL_BYTES;

		if (receive_spinning(fd, buf, n) != 0)
			return -1;
		len -= n;
	}
	return 0;
}

double
floor_tcp_stream(struct floor_tcp *f, size_t len)
{
	struct request ask = {OP_STREAM, len};
	char *buf = map_filled(CALL_BYTES);
	cpu_set_t cores;

	pin_to(0, &cores);
	must_io(send_all(f->fd, &ask, sizeof(ask)));
	must_io(receive_spinning(f->fd, buf, 1)); /* it is awake */
	uint64_t start = dsm__now();
	must_io(send_all(f->fd, buf, 1));
	must_io(receive_stream(f->fd, buf, len));
	double ns = (double)(dsm__now() - start);
	sched_setaffinity(0, sizeof(cores), &cores);
	munmap(buf, CALL_BYTES);
	return ns;
}

static struct floor_tcp wire;

static void
wire_start(void)
{
	floor_tcp_start(&wire);
}

static double
wire_page(size_t n)
{
	return floor_tcp_page(&wire, n);
}

static double
wire_stream(size_t len)
{
	return floor_tcp_stream(&wire, len);
}

const struct bench_wire bench_tcp = {wire_start, wire_page, wire_stream,
                                     bench_session_tcp, 0};
const struct bench_wire bench_tls = {wire_start, wire_page, wire_stream,
                                     bench_session_tcp, 1};

/* --- memory --- */

static char *trap_page; /* NULL: no trap is set */

static void
open_page(int sig, siginfo_t *info, void *uc)
{
	(void)sig, (void)uc;
	if ((char *)info->si_addr != trap_page)
		_exit(1);
	mprotect(trap_page, DSM_PAGE, PROT_READ);
}

double
floor_trap(void)
{
	struct sigaction sa = {.sa_sigaction = open_page,
	                       .sa_flags = SA_SIGINFO};
	struct sigaction old;
	uint64_t ticks;

	if (trap_page == NULL)
		trap_page = map_filled(DSM_PAGE);
	if (sigaction(SIGSEGV, &sa, &old) != 0 ||
	    mprotect(trap_page, DSM_PAGE, PROT_NONE) != 0)
		bench_die("SIGSEGV floor: %s", strerror(errno));
	ticks = bench_ticks();
	(void)*(volatile char *)trap_page;
	ticks = bench_ticks() - ticks;
	sigaction(SIGSEGV, &old, NULL);
	return (double)ticks * bench_ns_per_tick();
}

double
floor_segv_pair(size_t n)
{
	double *ns = calloc(n, sizeof(*ns));

	if (ns == NULL)
		bench_die("out of memory");
	for (size_t i = 0; i < n; i++)
		ns[i] = floor_trap();
	double median = bench_median(ns, n);
	free(ns);
	return median;
}

static void
read_pages(const void *base, size_t len)
{
	for (size_t off = 0; off < len; off += DSM_PAGE)
		(void)*((const volatile char *)base + off);
}

double
floor_stores(size_t len, void (*store)(uint64_t *base, uint64_t round),
             uint64_t round)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)len) != 0)
		bench_die("memfd: %s", strerror(errno));
	char *shared =
	    mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	uint64_t *view =
	    mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (shared == MAP_FAILED || view == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	close(fd);
	memset(shared, 0x5a, len);
	read_pages(view, len);
	uint64_t start = dsm__now();
	store(view, round);
	double ns = (double)(dsm__now() - start);
	munmap(view, len);
	munmap(shared, len);
	return ns;
}

double
floor_memcpy(size_t len)
{
	char *from = map_filled(len), *to = map_filled(len);
	uint64_t start = dsm__now();

	memcpy(to, from, len);
	/* The copy must be seen to be needed. */
	__asm__ volatile("" : : "r"(to) : "memory");
	double ns = (double)(dsm__now() - start);
	munmap(from, len);
	munmap(to, len);
	return ns;
}
