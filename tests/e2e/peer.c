/*
 * peer - plays the other side for daemons.sh.
 *
 *   peer hello ADDR VERSION ROLE   say HELLO, print the answer; over TLS when
 *                                  TASKRT_TOKEN_FILE is set
 *   peer coordinator VERSION       print the port, answer one HELLO with WELCOME
 *   peer dropper                   print the port, take one connection and drop it
 *   peer client ADDR               a program with a data listener, which closes the
 *                                  link of a slot that has nothing to do; the slot
 *                                  must come again
 *   peer relay ADDR PID            client and slot at once, over the relay of the
 *                                  coordinator ADDR, whose process is PID and
 *                                  which has no workers (they would use it too)
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/page.h"
#include "../../dsm/transport/access.h"
#include "../../dsm/wire/wire.h"
#include "../helpers/must.h"

#define FRAME (256u << 10)
#define N_FRAMES 400 /* 100 MiB: what nobody could buffer unnoticed */
#define RSS_MAX (48u << 20)
#define WAIT_MS 20000

static uint8_t body[FRAME];
static const char *own_addr = ""; /* for HELLO */

static struct dsm_conn *
dial(const char *addr)
{
	struct dsm_error e = {0};
	struct dsm_conn *conn;
	int fd;

	if (dsm__tcp_connect(addr, dsm__deadline_ms(WAIT_MS), &fd, &e) !=
	    DSM_OK) {
		printf("%s\n", e.text);
		exit(1);
	}
	struct dsm_access access;
	MUST(dsm__access_init(&access, getenv("TASKRT_TOKEN_FILE"), 1,
	                      DSM_TOKEN_CLIENT, &e) == DSM_OK);
	MUST(dsm__access_conn(&access, fd, addr, DSM_FRAME_MAX, &conn, &e) ==
	     DSM_OK);
	dsm__access_fini(&access);
	return conn;
}

static void
send_hello(struct dsm_conn *conn, unsigned version, unsigned role,
           uint64_t session, const uint8_t *key, uint64_t tag)
{
	const struct dsm_msg_hello m = {
	    .magic = DSM_MAGIC,
	    .version = (uint16_t)version,
	    .role = (uint16_t)role,
	    .page_size = DSM_PAGE,
	    .arch = EM_X86_64,
	    .n_slots = 1,
	    .session = session,
	    .key = {key, key != NULL ? DSM_KEY_LEN : 0},
	    .name = dsm__str("peer"),
	    .addr = dsm__str(own_addr),
	};
	struct dsm_wbuf w = {0};

	MUST(dsm__encode_hello(&w, &m) == DSM_OK);
	const struct iovec iov = {w.ptr, w.len};
	MUST(dsm__conn_send(conn, DSM_MSG_HELLO, 0, tag, &iov, 1) == DSM_OK);
	dsm__wbuf_fini(&w);
}

static void
send_welcome(struct dsm_conn *conn, unsigned version)
{
	const struct dsm_msg_welcome m = {.version = (uint16_t)version};
	struct dsm_wbuf w = {0};

	MUST(dsm__encode_welcome(&w, &m) == DSM_OK);
	const struct iovec iov = {w.ptr, w.len};
	MUST(dsm__conn_send(conn, DSM_MSG_WELCOME, 0, 0, &iov, 1) == DSM_OK);
	MUST(dsm__conn_drain(conn, dsm__deadline_ms(WAIT_MS)) == DSM_OK);
	dsm__wbuf_fini(&w);
}

static struct dsm_frame
next_frame(struct dsm_conn *conn)
{
	struct dsm_frame f = {0};
	int err;

	do
		err = dsm__conn_recv_wait(conn, dsm__deadline_ms(WAIT_MS), 0,
		                          &f, NULL);
	while (err == DSM_OK && f.type == DSM_MSG_PING);
	if (err != DSM_OK)
		printf("no frame: %s\n", dsm__strerror(err));
	MUST(err == DSM_OK);
	return f;
}

static int
hello(const char *addr, unsigned version, unsigned role)
{
	struct dsm_conn *conn = dial(addr);
	struct dsm_msg_refuse m;
	struct dsm_frame f;

	send_hello(conn, version, role, 1, NULL, 0);
	f = next_frame(conn);
	if (f.type == DSM_MSG_REFUSE &&
	    dsm__decode_refuse(f.body, f.len, &m) == DSM_OK)
		printf("REFUSE %u %.*s\n", m.code, (int)m.text.len, m.text.ptr);
	else
		printf("%s\n", dsm__msg_name(f.type));
	dsm__conn_close(conn);
	return 0;
}

/* The next one to connect. */
static struct dsm_conn *
await(int listener)
{
	uint64_t deadline = dsm__deadline_ms(WAIT_MS);
	struct dsm_conn *conn;
	int fd;

	while (dsm__tcp_accept(listener, &fd) == DSM_EAGAIN) {
		MUST(dsm__now() < deadline);
		usleep(1000);
	}
	MUST(dsm__conn_create(&dsm__tcp_ops, fd, DSM_FRAME_MAX, &conn) ==
	     DSM_OK);
	return conn;
}

static int
dropper(void)
{
	char addr[DSM_ADDR_MAX];
	int listener;

	MUST(dsm__tcp_listen(":0", addr, &listener, NULL) == DSM_OK);
	printf("%s\n", strrchr(addr, ':') + 1);
	fflush(stdout);
	dsm__conn_close(await(listener));
	close(listener);
	return 0;
}

static int
client(const char *addr)
{
	char own[DSM_ADDR_MAX];
	struct dsm_conn *conn, *slot;
	int listener;

	MUST(dsm__tcp_listen(":0", own, &listener, NULL) == DSM_OK);
	own_addr = own;
	conn = dial(addr);
	send_hello(conn, DSM_VERSION, DSM_ROLE_CLIENT, 0, NULL, 0);
	MUST(next_frame(conn).type == DSM_MSG_WELCOME);
	for (int i = 0; i < 3; i++) {
		slot = await(listener);
		MUST(next_frame(slot).type == DSM_MSG_HELLO);
		send_welcome(slot, DSM_VERSION);
		dsm__conn_close(slot);
	}
	dsm__conn_close(conn);
	close(listener);
	return 0;
}

static int
coordinator(unsigned version)
{
	char addr[DSM_ADDR_MAX];
	struct dsm_conn *conn;
	struct dsm_frame f;
	int listener;

	MUST(dsm__tcp_listen(":0", addr, &listener, NULL) == DSM_OK);
	printf("%s\n", strrchr(addr, ':') + 1);
	fflush(stdout);
	conn = await(listener);
	MUST(next_frame(conn).type == DSM_MSG_HELLO);
	send_welcome(conn, version);
	/* Until it has understood and left. */
	dsm__conn_recv_wait(conn, dsm__deadline_ms(WAIT_MS), 0, &f, NULL);
	dsm__conn_close(conn);
	close(listener);
	return 0;
}

/* --- relay --- */

static size_t
rss_of(const char *pid)
{
	unsigned long total = 0, resident = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%s/statm", pid);
	f = fopen(path, "r");
	MUST(f != NULL);
	MUST(fscanf(f, "%lu %lu", &total, &resident) == 2);
	fclose(f);
	return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* Queue everything at `from`, read nothing at `to` for a while, then all of it. */
static void
flood(struct dsm_conn *from, struct dsm_conn *to, const char *pid)
{
	struct dsm_frame f;
	int err;

	for (uint64_t i = 0; i < N_FRAMES; i++) {
		const struct iovec iov = {body, sizeof(body)};

		memset(body, (int)i, sizeof(body));
		MUST(dsm__conn_send(from, DSM_MSG_WRITES, 0, i, &iov, 1) ==
		     DSM_OK);
	}
	for (int i = 0; i < 100; i++) {
		MUST(dsm__conn_flush(from) == DSM_EAGAIN);
		usleep(2000);
	}
	MUST(rss_of(pid) < RSS_MAX);
	for (uint64_t i = 0; i < N_FRAMES; i++) {
		while ((err = dsm__conn_recv(to, &f)) == DSM_EAGAIN) {
			dsm__conn_flush(from);
			usleep(100);
		}
		MUST(err == DSM_OK);
		MUST(f.type == DSM_MSG_WRITES && f.tag == i && f.len == FRAME);
		MUST(f.body[0] == (uint8_t)i &&
		     f.body[FRAME - 1] == (uint8_t)i);
	}
}

static int
relay(const char *addr, const char *pid)
{
	struct dsm_conn *client = dial(addr), *slot = dial(addr), *back;
	uint8_t key[DSM_KEY_LEN], wrong[DSM_KEY_LEN];
	struct dsm_msg_welcome welcome;
	struct dsm_msg_relay ask;
	struct dsm_msg_hello m;
	struct dsm_frame f;
	uint64_t session;

	send_hello(client, DSM_VERSION, DSM_ROLE_CLIENT, 0, NULL, 0);
	f = next_frame(client);
	MUST(f.type == DSM_MSG_WELCOME &&
	     dsm__decode_welcome(f.body, f.len, &welcome) == DSM_OK &&
	     welcome.key.len == DSM_KEY_LEN);
	session = welcome.session;
	memcpy(key, welcome.key.ptr, sizeof(key));
	memcpy(wrong, key, sizeof(key));
	wrong[DSM_KEY_LEN - 1] ^= 1;

	/* The slot asks, the client is told. */
	send_hello(slot, DSM_VERSION, DSM_ROLE_DATA, session, key, 77);
	f = next_frame(client);
	MUST(f.type == DSM_MSG_RELAY &&
	     dsm__decode_relay(f.body, f.len, &ask) == DSM_OK);

	/* Who has not got the key cannot take its place. */
	back = dial(addr);
	send_hello(back, DSM_VERSION, DSM_ROLE_RELAY, session, wrong, ask.id);
	MUST(next_frame(back).type == DSM_MSG_REFUSE);
	dsm__conn_close(back);
	back = dial(addr);
	send_hello(back, DSM_VERSION, DSM_ROLE_RELAY, session, key, ask.id + 1);
	MUST(next_frame(back).type == DSM_MSG_REFUSE);
	dsm__conn_close(back);

	/* The first thing the client hears is the slot's HELLO. */
	back = dial(addr);
	send_hello(back, DSM_VERSION, DSM_ROLE_RELAY, session, key, ask.id);
	f = next_frame(back);
	MUST(f.type == DSM_MSG_HELLO && f.tag == 77 &&
	     dsm__decode_hello(f.body, f.len, &m) == DSM_OK);
	MUST(m.role == DSM_ROLE_DATA && m.session == session &&
	     m.key.len == DSM_KEY_LEN &&
	     memcmp(m.key.ptr, key, m.key.len) == 0);
	send_welcome(back, DSM_VERSION);
	MUST(next_frame(slot).type == DSM_MSG_WELCOME);

	flood(slot, back, pid);
	flood(back, slot, pid);

	/* What was on its way arrives although its sender is gone. */
	for (uint64_t i = 0; i < 20; i++) {
		const struct iovec iov = {body, sizeof(body)};

		MUST(dsm__conn_send(slot, DSM_MSG_WRITES, 0, i, &iov, 1) ==
		     DSM_OK);
	}
	MUST(dsm__conn_drain(slot, dsm__deadline_ms(WAIT_MS)) == DSM_OK);
	dsm__conn_close(slot);
	for (uint64_t i = 0; i < 20; i++)
		MUST(next_frame(back).tag == i);
	MUST(dsm__conn_recv_wait(back, dsm__deadline_ms(WAIT_MS), 0, &f,
	                         NULL) == DSM_ECONN);
	dsm__conn_close(back);
	dsm__conn_close(client);
	return 0;
}

int
main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "hello") == 0)
		return hello(argv[2], (unsigned)atoi(argv[3]),
		             (unsigned)atoi(argv[4]));
	if (argc == 3 && strcmp(argv[1], "coordinator") == 0)
		return coordinator((unsigned)atoi(argv[2]));
	if (argc == 2 && strcmp(argv[1], "dropper") == 0)
		return dropper();
	if (argc == 3 && strcmp(argv[1], "client") == 0)
		return client(argv[2]);
	if (argc == 4 && strcmp(argv[1], "relay") == 0)
		return relay(argv[2], argv[3]);
	fprintf(stderr,
	        "usage: peer hello|coordinator|dropper|client|relay …\n");
	return 2;
}
