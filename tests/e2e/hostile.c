/*
 * A peer that means harm, over real TCP connections: hostile ADDR WHAT
 *
 *   strangers:N   N connections that say nothing, held until the end
 *   garbage:N     N connections that say no HELLO: random bytes, oversized, cut off
 *   clients:N     N clients with a HELLO that is right and then anything, contradictory
 *                 RUNs first of all
 *   workers:N     the same as a worker; one that does not want the sessions
 *   deaf:N        N tools that ask for the state a thousand times and do not read it
 *   pages:N       joins as a worker that does not want its session, but connects to the
 *                 program's data listener with its key: READs and WRITES that no slot
 *                 would send. Then as strangers and garbage there
 *
 * Says "WHAT: N connections, M closed by the other side" and ends with 0; with 1 when
 * ADDR accepts nobody. Numbers that come from chance are the same each time.
 */
#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/page.h"
#include "../../dsm/transport/conn.h"
#include "../../dsm/wire/packdiff.h"
#include "../../dsm/wire/wire.h"

#define MANY 4096
#define CONNECT_MS 10000
#define ANSWER_MS 10000
#define LINGER_MS 100

static uint64_t state = 1;
static unsigned n_made, n_closed;
static int held[MANY];
static unsigned n_held;

/* splitmix64 */
static uint64_t
next_random(void)
{
	uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static int
connect_to(const char *addr)
{
	struct dsm_error e;
	int fd;

	if (dsm__tcp_connect(addr, dsm__deadline_ms(CONNECT_MS), &fd, &e) !=
	    DSM_OK) {
		printf("%s\n", e.text);
		exit(1);
	}
	n_made++;
	return fd;
}

static struct dsm_conn *
open_conn(const char *addr)
{
	struct dsm_conn *c;

	if (dsm__conn_create(&dsm__tcp_ops, connect_to(addr), DSM_FRAME_MAX,
	                     &c) != DSM_OK)
		exit(1);
	return c;
}

/* Say it and wait a little whether it is the end. */
static void
leave(struct dsm_conn *c)
{
	struct dsm_frame f;
	int err;

	dsm__conn_drain(c, dsm__deadline_ms(LINGER_MS));
	while ((err = dsm__conn_recv_wait(c, dsm__deadline_ms(LINGER_MS), 0, &f,
	                                  NULL)) == DSM_OK)
		;
	n_closed += err != DSM_ETIMEDOUT;
	dsm__conn_close(c);
}

static void
send_body(struct dsm_conn *c, unsigned type, int err, struct dsm_wbuf *w)
{
	const struct iovec iov = {w->ptr, w->len};

	if (err == DSM_OK)
		dsm__conn_send(c, type, 0, next_random(), &iov, 1);
	dsm__wbuf_fini(w);
}

#define SAY(c, TYPE, name, ...)                                    \
	do {                                                       \
		const struct dsm_msg_##name say_m_ = __VA_ARGS__;  \
		struct dsm_wbuf say_w_ = {0};                      \
		int say_e_ = dsm__encode_##name(&say_w_, &say_m_); \
		send_body(c, DSM_MSG_##TYPE, say_e_, &say_w_);     \
	} while (0)

static void
say_hello(struct dsm_conn *c, enum dsm_role role, const char *addr,
          uint64_t session, struct dsm_blob key)
{
	SAY(c, HELLO, hello,
	    {.magic = DSM_MAGIC,
	     .version = DSM_VERSION,
	     .role = (uint16_t)role,
	     .page_size = DSM_PAGE,
	     .arch = EM_X86_64,
	     .pid = (uint32_t)next_random(), /* not one that joins again */
	     .n_slots = 1,
	     .session = session,
	     .key = key,
	     .name = dsm__str("hostile \33[2J\n"),
	     .addr = dsm__str(addr)});
}

static int
expect(struct dsm_conn *c, unsigned type, struct dsm_frame *f)
{
	while (dsm__conn_recv_wait(c, dsm__deadline_ms(ANSWER_MS), 0, f,
	                           NULL) == DSM_OK)
		if (f->type == type)
			return 1;
	return 0;
}

static void
random_bytes(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)next_random();
}

/* A frame of any type with anything in it. */
static void
say_anything(struct dsm_conn *c)
{
	uint8_t body[300];
	const struct iovec iov = {body, next_random() % sizeof(body)};

	random_bytes(body, sizeof(body));
	dsm__conn_send(c, next_random() % 40, next_random() & 1, 0, &iov, 1);
}

/* --- before HELLO --- */

static void
hold(int fd)
{
	if (n_held < MANY)
		held[n_held++] = fd;
	else
		close(fd);
}

static void
garbage(const char *addr, unsigned i)
{
	static const uint32_t lengths[] = {0, 3, 65536, 1u << 26, UINT32_MAX};
	uint8_t b[400];
	size_t n = sizeof(b);
	struct pollfd p;

	random_bytes(b, sizeof(b));
	if (i % 2 == 0) {
		memcpy(b, &lengths[i / 2 % 5], 4);
		b[4] = DSM_MSG_HELLO;
		b[5] = 0;
		b[6] = DSM_VERSION;
		b[7] = 0;
		n = i % 4 == 0 ? sizeof(b) : 20;
	}
	p = (struct pollfd){.fd = connect_to(addr), .events = POLLIN};
	if (send(p.fd, b, n, MSG_NOSIGNAL) < 0 ||
	    (i % 8 != 7 && poll(&p, 1, LINGER_MS) == 1))
		n_closed++;
	close(p.fd);
}

/* --- with a HELLO --- */

static void
odd_run(struct dsm_conn *c, uint64_t session, unsigned i)
{
	const uint64_t top = UINT64_C(1) << 47;
	struct dsm_rec_range r = {.start = UINT64_C(1) << 44,
	                          .end = (UINT64_C(1) << 44) + (1u << 20),
	                          .kind = DSM_RANGE_HEAP,
	                          .prot = 3};
	struct dsm_rec_extent x = {0, UINT64_C(1) << 35};
	struct dsm_wbuf ranges = {0}, drops = {0};
	struct dsm_msg_run m = {.session = session,
	                        .run = 1,
	                        .mode = DSM_MODE_FOR,
	                        .flags = DSM_RUN_RANGES,
	                        .end = 0};

	if (i % 8 == 0)
		r.image_off = UINT64_C(1) << 60;
	if (i % 8 == 1)
		r.end = top + DSM_PAGE;
	if (i % 8 == 2)
		x.n_pages = UINT64_MAX;
	if (i % 8 == 3)
		m.run = 7;
	if (i % 8 == 4)
		m.end = UINT64_MAX;
	if (i % 8 == 5)
		m.session++;
	/* 6: all is right, and drops everything; 7: twice. */
	for (int k = 0; k < 1 + (i % 8 == 7); k++) {
		dsm__pack_range(&ranges, &r);
		dsm__pack_extent(&drops, &x);
	}
	m.ranges = (struct dsm_array){ranges.ptr, 1 + (i % 8 == 7)};
	m.drops = (struct dsm_array){drops.ptr, 1 + (i % 8 == 7)};
	SAY(c, RUN, run, m);
	dsm__wbuf_fini(&ranges);
	dsm__wbuf_fini(&drops);
}

static void
client(const char *addr, unsigned i)
{
	char longer[120];
	const char *const addrs[] = {"", "127.0.0.1:1",
	                             "no.such.host.invalid:80", longer};
	struct dsm_conn *c = open_conn(addr);
	struct dsm_msg_welcome m;
	struct dsm_frame f;

	memset(longer, '1', sizeof(longer));
	memcpy(longer + sizeof(longer) - 3, ":1", 3);
	say_hello(c, DSM_ROLE_CLIENT, addrs[i % 4], 0, (struct dsm_blob){0});
	if (expect(c, DSM_MSG_WELCOME, &f) &&
	    dsm__decode_welcome(f.body, f.len, &m) == DSM_OK) {
		if (i % 5 == 4)
			say_hello(c, DSM_ROLE_CLIENT, "", 0,
			          (struct dsm_blob){0});
		else
			odd_run(c, m.session, i);
		for (unsigned k = 0; k < 4; k++)
			say_anything(c);
	}
	leave(c);
}

/* A worker that is of no use to anybody: *session_p is the first it hears of. */
static struct dsm_conn *
join_worker(const char *addr, struct dsm_msg_session *session_p,
            struct dsm_wbuf *keep)
{
	struct dsm_conn *c = open_conn(addr);
	struct dsm_frame f;

	say_hello(c, DSM_ROLE_WORKER, "", 0, (struct dsm_blob){0});
	if (!expect(c, DSM_MSG_SESSION, &f) ||
	    dsm__wbuf_put(keep, f.body, f.len) != DSM_OK ||
	    dsm__decode_session(keep->ptr, keep->len, session_p) != DSM_OK) {
		dsm__conn_close(c);
		return NULL;
	}
	SAY(c, UNFIT, unfit, {session_p->session, dsm__str("hostile")});
	return c;
}

static void
worker(const char *addr, unsigned i)
{
	struct dsm_msg_session m;
	struct dsm_wbuf keep = {0};
	struct dsm_conn *c = join_worker(addr, &m, &keep);

	if (c != NULL) {
		/* In the name of others, whom the EXECs were given to. */
		for (uint64_t a = 1; a < 40; a++)
			SAY(c, RETURNED, returned,
			    {m.session + 9, 1, a, a, dsm__str("no")});
		if (i % 3 == 1)
			say_hello(c, DSM_ROLE_CLIENT, "", 0,
			          (struct dsm_blob){0});
		for (unsigned k = 0; k < 4; k++)
			say_anything(c);
		leave(c);
	}
	dsm__wbuf_fini(&keep);
}

static void
deaf(const char *addr)
{
	struct dsm_conn *c = open_conn(addr);

	say_hello(c, DSM_ROLE_TOOL, "", 0, (struct dsm_blob){0});
	for (int i = 0; i < 1000; i++)
		SAY(c, STAT, stat, {0});
	dsm__conn_drain(c, dsm__deadline_ms(LINGER_MS));
	hold(dup(dsm__conn_fd(c)));
	dsm__conn_close(c);
}

/* --- at the program's listener --- */

static void
odd_page(struct dsm_conn *c, unsigned i)
{
	static const struct dsm_msg_read reads[] = {
	    {1, 0, 1, 0},
	    {1, UINT64_MAX - 4095, 256, 0},
	    {1, UINT64_C(0xffffffffff600000), 1, 0},
	    {1, UINT64_C(1) << 46, 256, 7},
	    {1, 1, 1, 0},
	    {1, 4096, 0, 0},
	    {1, 4096, 257, 0},
	};
	uint8_t packed[64];

	random_bytes(packed, sizeof(packed));
	switch (i % 10) {
	case 7: /* of an attempt that nobody has */
		SAY(c, WRITES, writes,
		    {1,
		     UINT64_MAX,
		     DSM_WRITES_LAST,
		     0,
		     0,
		     0,
		     {0},
		     {packed, sizeof(packed)}});
		break;
	case 8: /* not the first part */
		SAY(c, WRITES, writes,
		    {1, 77, 0, 9, 0, 0, {0}, {packed, sizeof(packed)}});
		break;
	case 9:
		SAY(c, BORROW, borrow, {UINT64_MAX, UINT64_MAX});
		break;
	default:
		SAY(c, READ, read, reads[i % 10]);
	}
}

static void
data_link(const struct dsm_msg_session *m, const char *addr, unsigned i)
{
	static const uint8_t wrong[DSM_KEY_LEN] = {1};
	struct dsm_conn *c = open_conn(addr);
	struct dsm_blob key = m->key;

	if (i % 12 == 11)
		key = (struct dsm_blob){wrong, sizeof(wrong)};
	say_hello(c, DSM_ROLE_DATA, "", m->session, key);
	odd_page(c, i);
	if (i % 3 == 0)
		say_anything(c);
	leave(c);
}

static void
pages(const char *coordinator, unsigned n)
{
	char addr[DSM_ADDR_MAX];
	struct dsm_wbuf keep = {0};
	struct dsm_msg_session m;
	struct dsm_conn *c = join_worker(coordinator, &m, &keep);

	if (c == NULL || m.addr.len == 0) {
		printf("no session to be had\n");
		exit(1);
	}
	dsm__str_copy(addr, sizeof(addr), m.addr);
	for (unsigned i = 0; i < n; i++)
		data_link(&m, addr, i);
	for (unsigned i = 0; i < n; i++)
		garbage(addr, i);
	for (unsigned i = 0; i < 200; i++)
		hold(connect_to(addr));
	dsm__conn_close(c);
	dsm__wbuf_fini(&keep);
}

int
main(int argc, char **argv)
{
	char what[16];
	unsigned n;

	if (argc != 3 || sscanf(argv[2], "%15[a-z]:%u", what, &n) != 2)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (strcmp(what, "pages") == 0)
		pages(argv[1], n);
	for (unsigned i = 0; i < n; i++)
		if (strcmp(what, "strangers") == 0)
			hold(connect_to(argv[1]));
		else if (strcmp(what, "garbage") == 0)
			garbage(argv[1], i);
		else if (strcmp(what, "clients") == 0)
			client(argv[1], i);
		else if (strcmp(what, "workers") == 0)
			worker(argv[1], i);
		else if (strcmp(what, "deaf") == 0)
			deaf(argv[1]);
	printf("%s: %u connections, %u closed by the other side\n", argv[2],
	       n_made, n_closed);
	/* Held ones are, until we are ended. */
	if (n_held > 0)
		pause();
	return 0;
}
