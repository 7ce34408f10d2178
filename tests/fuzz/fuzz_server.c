/*
 * The coordinator daemon behind its sockets: several connections that send frames of
 * any kind, or bytes that are no frames, in turns: strangers, peers of the core, the
 * two ends of relays. The daemon lives on from input to input; what a script has
 * opened is closed at its end, and must leave nothing behind.
 */
#include "fuzz.h"

#include <elf.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "../../coordinator/server.h"
#include "../../dsm/base/clock.h"
#include "../../dsm/base/page.h"
#include "../../dsm/transport/conn_priv.h"

#define N_PEERS 4

struct peer {
	struct dsm_conn *conn; /* its end; NULL: not connected */
	uint64_t session;      /* WELCOME's */
	uint8_t key[DSM_KEY_LEN];
};

static struct dsm_loop *loop;
static struct server *server;
static struct peer peers[N_PEERS];
static struct fuzz_pool pool;
static uint64_t relay; /* asked for last */

static void
setup_once(void)
{
	const struct dsm_loop_params lp = {0};
	const struct server_params p = {
	    .listen = "127.0.0.1:0",
	    .core = {.no_worker_ms = 1000, .stopped_ms = 1000},
	};
	char addr[DSM_ADDR_MAX];
	struct dsm_error e;

	fuzz_quiet();
	FUZZ_MUST(dsm__loop_create(&lp, &loop) == DSM_OK);
	dsm__loop_lock(loop);
	FUZZ_MUST(server_create(loop, &p, addr, &server, &e) == DSM_OK);
}

/* --- driving --- */

static int
all_taken(void *arg)
{
	unsigned *rounds = arg;

	for (unsigned i = 0; i < N_PEERS; i++) {
		int n = 0;

		if (peers[i].conn == NULL)
			continue;
		dsm__conn_flush(peers[i].conn);
		if (dsm__conn_error(peers[i].conn) == DSM_OK &&
		    ioctl(dsm__conn_fd(peers[i].conn), SIOCOUTQ, &n) == 0 &&
		    n > 0)
			*rounds = 0;
	}
	dsm__loop_uv(loop); /* look again, do not sleep */
	return ++*rounds > 3;
}

static void
take(struct peer *p, const struct dsm_frame *f)
{
	struct dsm_msg_welcome welcome;
	struct dsm_msg_relay r;
	struct dsm_msg_exec x;

	if (f->type == DSM_MSG_WELCOME &&
	    dsm__decode_welcome(f->body, f->len, &welcome) == DSM_OK) {
		p->session = welcome.session;
		if (welcome.key.len == sizeof(p->key))
			memcpy(p->key, welcome.key.ptr, sizeof(p->key));
		fuzz_pool_put(&pool, p->session);
	} else if (f->type == DSM_MSG_RELAY &&
	           dsm__decode_relay(f->body, f->len, &r) == DSM_OK) {
		relay = r.id;
	} else if (f->type == DSM_MSG_EXEC &&
	           dsm__decode_exec(f->body, f->len, &x) == DSM_OK) {
		fuzz_pool_put(&pool, x.attempt);
	}
}

static void
pump(void)
{
	unsigned rounds = 0;

	dsm__loop_drive(loop, all_taken, &rounds, dsm__deadline_ms(10));
	for (unsigned i = 0; i < N_PEERS; i++) {
		struct dsm_frame f;
		int err;

		if (peers[i].conn == NULL)
			continue;
		while ((err = dsm__conn_recv(peers[i].conn, &f)) == DSM_OK)
			take(&peers[i], &f);
		if (err == DSM_EAGAIN)
			continue;
		dsm__conn_close(peers[i].conn);
		peers[i].conn = NULL;
	}
}

static void
leave(struct peer *p)
{
	dsm__conn_close(p->conn);
	*p = (struct peer){.conn = NULL};
}

static void
connect_peer(struct peer *p)
{
	int pair[2];

	leave(p);
	FUZZ_MUST(dsm__shm_pair(pair) == DSM_OK);
	FUZZ_MUST(dsm__conn_create(&dsm__shm_ops, pair[0], DSM_FRAME_MAX,
	                           &p->conn) == DSM_OK);
	visit_begin(server, pair[1]);
}

/* --- what peers say --- */

static void
say(struct peer *p, unsigned type, uint64_t tag, struct dsm_wbuf *w)
{
	const struct iovec iov = {w->ptr, w->len};

	if (p->conn != NULL)
		dsm__conn_send(p->conn, type, 0, tag, &iov, 1);
	dsm__wbuf_fini(w);
}

static void
say_hello(struct fuzz_in *in, struct peer *p)
{
	/* Of whose session, for data and relay links. */
	const struct peer *of = &peers[fuzz_below(in, N_PEERS)];
	const struct dsm_msg_hello h = {
		.magic = DSM_MAGIC,
		.version = DSM_VERSION,
		.role = (uint16_t)(1 + fuzz_below(in, 6)),
		.page_size = DSM_PAGE,
#if defined(__x86_64__)
		.arch = EM_X86_64,
#else
		.arch = EM_AARCH64,
#endif
		.n_slots = 1,
		.pid = fuzz_u8(in),
		.session = of->session,
		.key = {of->key, sizeof(of->key)},
		.name = dsm__str("fuzz"),
	};
	struct dsm_wbuf w = {0};

	FUZZ_MUST(dsm__encode_hello(&w, &h) == DSM_OK);
	say(p, DSM_MSG_HELLO,
	    h.role == DSM_ROLE_RELAY && fuzz_u8(in) < 240 ? relay : 0, &w);
}

static void
say_run(struct fuzz_in *in, struct peer *p)
{
	const struct dsm_rec_range range = {
	    .start = 1 << 20, .end = 1 << 21, .kind = DSM_RANGE_HEAP};
	struct dsm_wbuf ranges = {0}, w = {0};
	struct dsm_msg_run m = {.session = p->session,
	                        .run = 1 + fuzz_below(in, 3),
	                        .mode = DSM_MODE_FOR,
	                        .flags = DSM_RUN_RANGES,
	                        .end = fuzz_u8(in)};

	FUZZ_MUST(dsm__pack_range(&ranges, &range) == DSM_OK);
	m.ranges = (struct dsm_array){ranges.ptr, 1};
	FUZZ_MUST(dsm__encode_run(&w, &m) == DSM_OK);
	say(p, DSM_MSG_RUN, 0, &w);
	dsm__wbuf_fini(&ranges);
}

static void
say_anything(struct fuzz_in *in, struct peer *p)
{
	unsigned type = fuzz_type(in);
	struct dsm_wbuf w = {0};

	fuzz_message(in, &pool, type, &w);
	say(p, type, fuzz_u8(in), &w);
}

static void
write_bytes(struct fuzz_in *in, struct peer *p)
{
	struct dsm_blob b = fuzz_bytes(in, 200);

	if (p->conn != NULL && b.len > 0 &&
	    send(dsm__conn_fd(p->conn), b.ptr, b.len,
	         MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

static void
step(struct fuzz_in *in)
{
	uint8_t what = fuzz_u8(in);
	struct peer *p = &peers[(what >> 4) % N_PEERS];

	switch (what & 15) {
	case 0:
	case 1:
		connect_peer(p);
		break;
	case 2:
	case 3:
	case 4:
	case 5:
		say_hello(in, p);
		break;
	case 6:
		say_run(in, p);
		break;
	case 7:
	case 8:
		write_bytes(in, p);
		break;
	case 9:
		leave(p);
		break;
	default:
		say_anything(in, p);
	}
	pump();
}

static int
nobody_left(void *arg)
{
	(void)arg;
	return TAILQ_EMPTY(&server->visits);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = fuzz_in(data, size);

	if (server == NULL)
		setup_once();
	memset(&pool, 0, sizeof(pool));
	fuzz_pool_put(&pool, 1);
	fuzz_pool_put(&pool, 1 << 20);
	relay = 0;
	for (unsigned n = 0; n < 100 && fuzz_more(&in); n++)
		step(&in);
	for (unsigned i = 0; i < N_PEERS; i++)
		leave(&peers[i]);
	FUZZ_MUST(dsm__loop_drive(loop, nobody_left, NULL,
	                          dsm__deadline_ms(20000)) == DSM_OK);
	FUZZ_MUST(server->n_new == 0);
	return 0;
}
