/*
 * A session with a coordinator over TCP: the control link, its heartbeat, and the
 * relays it asks for when a worker cannot reach us.
 *
 * Data links are served on the address that the control link goes out from, unless
 * the program was told another one: with a coordinator on this machine that is
 * loopback, and so it stays. Beyond loopback with TLS, or when the coordinator's
 * WELCOME and our own settings say that plain TCP is wanted; otherwise the listener
 * is closed unused, and slots come through the relay.
 *
 * TLS: the control link with the key of our token; data links and our ends of
 * relays with the session's key, which WELCOME brought.
 */
#include "remote_priv.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/log.h"
#include "serveconn.h"

#define RETRY_MS 100 /* between two attempts to connect, at the start */
#define RELAY_CONNECT_MS 10000 /* the coordinator does not wait longer */

/* A relay connection that is being made. */
struct dial {
	LIST_ENTRY(dial) link;
	struct taskrt__session *session;
	struct dsm_connect *connect;
	uint64_t relay;
};

/* --- control link --- */

/* It is of no use any more, for this reason. */
static void
lost(struct taskrt__session *s, const char *why)
{
	struct remote *r = s->link_state;

	if (r->rejoin.state == REJOIN_GREETING) {
		rejoin_failed(s, why);
		return;
	}
	remote_unlink(s);
	if (taskrt__session_suspend(s))
		rejoin_begin(s, why);
	else
		taskrt__session_lose(
		    s, DSM_ECONN,
		    "the coordinator at %s is gone (%s); start it again, then "
		    "launch again",
		    s->config->coordinator, why);
}

static void
remote_send(struct taskrt__session *s, unsigned type, const struct iovec *iov,
            int n_iov)
{
	struct remote *r = s->link_state;

	if (r->handle == NULL)
		return;
	int err = dsm__handle_send(r->handle, type, 0, iov, n_iov);
	/* A failed connection is told of by `lost`; this is ours alone. */
	if (err == DSM_EINVAL || err == DSM_ENOMEM)
		taskrt__session_lose(s, err, "cannot send %s: %s",
		                     dsm__msg_name(type), dsm__strerror(err));
}

static void
on_frame(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct taskrt__session *s = owner;
	struct remote *r = s->link_state;

	(void)h;
	dsm__beat_heard(&r->beat, dsm__now());
	taskrt__session_frame(s, f->type, f->body, f->len);
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct taskrt__session *s = owner;
	struct remote *r = s->link_state;
	const char *why = dsm__conn_why(dsm__handle_conn(h));
	struct dsm_error e;

	/* That will not get better by itself. */
	if (dsm__access_denied(&r->access, dsm__handle_conn(h),
	                       s->config->coordinator, &e)) {
		remote_unlink(s);
		taskrt__session_lose(s, e.code, "%s", e.text);
		return;
	}
	lost(s, why[0] != '\0'     ? why
	        : err == DSM_ECONN ? "it closed the connection"
	                           : dsm__strerror(err));
}

static const struct dsm_handle_ops handle_ops = {on_frame, on_lost};

static void
on_heartbeat(uv_timer_t *timer)
{
	struct taskrt__session *s = timer->data;
	struct remote *r = s->link_state;
	uint64_t now = dsm__now();
	char why[64];

	if (s->state != TASKRT__READY)
		return;
	switch (dsm__beat_look(&r->beat, now)) {
	case DSM_BEAT_FINE:
		break;
	case DSM_BEAT_ASK: {
		const struct dsm_msg_ping m = {.seq = r->beat.seq};
		struct dsm_wbuf w = {0};
		int err = dsm__encode_ping(&w, &m);

		taskrt__session_send(s, DSM_MSG_PING, &w, err);
		break;
	}
	case DSM_BEAT_LOST:
		snprintf(
		    why, sizeof(why), "it has not answered for %llu ms",
		    (unsigned long long)dsm__beat_silent_ms(&r->beat, now));
		lost(s, why);
		break;
	}
}

/* --- relays --- */

/* Our HELLO has the relay's number as its tag; the slot's HELLO comes through the
 * same connection after it. */
static int
serve_relay(struct taskrt__session *s, int fd, uint64_t relay)
{
	struct taskrt__serveconn *c;
	struct dsm_msg_hello m;
	struct dsm_wbuf w = {0};
	struct dsm_conn *conn;

	int err = dsm__conn_create(&dsm__tcp_ops, fd, DSM_FRAME_MAX, &conn);
	if (err == DSM_OK && s->tls) {
		err = dsm__access_session(conn, s->id, s->key, s->key_len);
		if (err != DSM_OK)
			dsm__conn_close(conn);
	}
	if (err == DSM_OK)
		err = taskrt__serveconn_start(s, conn, NULL,
		                              TASKRT__LINK_RELAYED, &c);
	if (err != DSM_OK)
		return err;
	taskrt__session_hello(&m, DSM_ROLE_RELAY, "");
	m.session = s->id;
	/* With TLS it has been shown already, and does not travel. */
	if (!s->tls)
		m.key = (struct dsm_blob){s->key, s->key_len};
	err = dsm__encode_hello(&w, &m);
	if (err == DSM_OK)
		err = taskrt__serveconn_send(c, DSM_MSG_HELLO, relay, &w);
	dsm__wbuf_fini(&w);
	return err;
}

static void
on_dialled(void *arg, int fd, const struct dsm_error *e)
{
	struct dial *d = arg;
	int err = fd >= 0 ? serve_relay(d->session, fd, d->relay) : e->code;

	if (err != DSM_OK)
		log_warn("relay %llu: %s", (unsigned long long)d->relay,
		         fd < 0 ? e->text : dsm__strerror(err));
	LIST_REMOVE(d, link);
	free(d);
}

static void
remote_relay(struct taskrt__session *s, uint64_t id)
{
	struct remote *r = s->link_state;
	struct dial *d = calloc(1, sizeof(*d));
	struct dsm_error e = {0};

	if (d == NULL)
		return;
	d->session = s;
	d->relay = id;
	if (dsm__connect_start(s->loop, r->addr, RELAY_CONNECT_MS, on_dialled,
	                       d, &d->connect, &e) != DSM_OK) {
		log_warn("relay %llu: %s", (unsigned long long)id, e.text);
		free(d);
		return;
	}
	LIST_INSERT_HEAD(&r->dials, d, link);
}

/* --- life --- */

void
remote_unlink(struct taskrt__session *s)
{
	struct remote *r = s->link_state;
	struct dial *d;

	/* The analyzer does not see that it is taken off the list. */
	while ((d = LIST_FIRST(&r->dials)) != NULL) {
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		dsm__connect_cancel(d->connect);
		LIST_REMOVE(d, link);
		free(d);
	}
	if (r->handle != NULL)
		dsm__handle_close(r->handle);
	r->handle = NULL;
	uv_timer_stop(&r->heartbeat);
}

static void
remote_stop(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	rejoin_stop(s);
	remote_unlink(s);
	taskrt__session_uv_close(s, (uv_handle_t *)&r->heartbeat);
}

static void
remote_free(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	dsm__access_fini(&r->access);
	free(r);
}

static void
remote_forget(struct taskrt__session *s)
{
	struct remote *r = s->link_state;
	struct dial *d;

	LIST_FOREACH(d, &r->dials, link)
	dsm__connect_forget(d->connect);
	rejoin_forget(s);
	if (r->handle != NULL)
		dsm__conn_forget(dsm__handle_conn(r->handle));
}

static void
remote_welcomed(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	if (r->rejoin.state == REJOIN_GREETING)
		rejoin_done(s);
	if (s->listener != NULL &&
	    (s->tls || r->loopback ||
	     (s->config->insecure &&
	      (s->welcome_flags & DSM_WELCOME_INSECURE) != 0)))
		taskrt__listener_accept(s);
	else
		taskrt__listener_stop(s);
	dsm__beat_start(&r->beat, s->heartbeat_ms, dsm__now());
	if (s->heartbeat_ms == 0)
		return;
	uv_update_time(dsm__loop_uv(s->loop));
	uv_timer_start(&r->heartbeat, on_heartbeat, s->heartbeat_ms,
	               s->heartbeat_ms);
}

static const struct taskrt__link_ops remote_ops = {
    .send = remote_send,
    .welcomed = remote_welcomed,
    .relay = remote_relay,
    .stop = remote_stop,
    .free = remote_free,
    .forget = remote_forget,
};

/* The coordinator may be starting just now: try until the deadline. */
static int
connect_until(const char *addr, uint64_t deadline, int *fd_p,
              struct dsm_error *e)
{
	for (;;) {
		int err = dsm__tcp_connect(addr, deadline, fd_p, e);

		if (err == DSM_OK || err == DSM_EINVAL)
			return err;
		if (dsm__now() + RETRY_MS * DSM_MS >= deadline)
			return err;
		log_debug("%s; trying again", e->text);
		poll(NULL, 0, RETRY_MS);
	}
}

/* Any port of the address that fd goes out from. */
static int
address_beside(int fd, char addr[DSM_ADDR_MAX])
{
	char *port = NULL;

	if (dsm__tcp_local(fd, addr) == DSM_OK)
		port = strrchr(addr, ':');
	if (port == NULL)
		return DSM_ESYS;
	memcpy(port, ":0", sizeof(":0"));
	return DSM_OK;
}

/* What workers are told of a listener at `listened`, whose socket is on `beside`. */
static void
announce(const struct taskrt__config *c, const char *beside,
         const char *listened, char addr[DSM_ADDR_MAX])
{
	const char *port = strrchr(listened, ':');
	const char *host_end = strrchr(beside, ':');
	struct dsm_error e = {0};

	if (c->advertise[0] != '\0') {
		/* Workers look no names up that a peer gave them. */
		if (dsm__tcp_numeric(c->advertise, addr, &e) != DSM_OK)
			log_warn("TASKRT_ADVERTISE: %s; slots will use the "
			         "relay",
			         e.text);
	} else if (c->listen[0] == '*' && port != NULL && host_end != NULL) {
		snprintf(addr, DSM_ADDR_MAX, "%.*s%s", (int)(host_end - beside),
		         beside, port);
	} else {
		snprintf(addr, DSM_ADDR_MAX, "%s", listened);
	}
}

/* Listen where we are told to, else beside the control link fd. addr: what workers
 * are told; "" when nobody listens: then slots come through the relay. */
static void
listen_for_slots(struct taskrt__session *s, int fd, char addr[DSM_ADDR_MAX],
                 int *loopback_p)
{
	const struct taskrt__config *c = s->config;
	char beside[DSM_ADDR_MAX], listened[DSM_ADDR_MAX];
	struct dsm_error e = {0};

	addr[0] = '\0';
	if (address_beside(fd, beside) != DSM_OK)
		return;
	const char *where = c->listen[0] != '\0' ? c->listen : beside;
	*loopback_p = dsm__tcp_is_loopback(where, NULL) == 1;
	if (taskrt__listener_start(s, where, listened, &e) != DSM_OK)
		log_warn("%s; slots will use the relay", e.text);
	else
		announce(c, beside, listened, addr);
}

int
remote_greet(struct taskrt__session *s, int fd, struct dsm_error *e)
{
	struct remote *r = s->link_state;
	char addr[DSM_ADDR_MAX];
	struct dsm_msg_hello m;
	struct dsm_wbuf w = {0};
	struct dsm_conn *conn;

	/* Where it is found again, without asking anybody for a name. */
	if (dsm__tcp_peer(fd, r->addr) != DSM_OK)
		snprintf(r->addr, sizeof(r->addr), "%.*s",
		         (int)sizeof(r->addr) - 1, s->config->coordinator);
	listen_for_slots(s, fd, addr, &r->loopback);
	int err = dsm__access_conn(&r->access, fd, s->config->coordinator,
	                           DSM_FRAME_MAX, &conn, e);
	if (err != DSM_OK)
		return err;
	err = dsm__loop_attach(s->loop, conn, &handle_ops, s, &r->handle);
	if (err != DSM_OK) {
		dsm__conn_close(conn);
		return dsm__fail(e, err, "cannot use the connection to %s: %s",
		                 s->config->coordinator, dsm__strerror(err));
	}
	taskrt__session_hello(&m, DSM_ROLE_CLIENT, addr);
	/* After a loss: whom we are the successor of. */
	m.session = s->id;
	m.key = (struct dsm_blob){s->key, s->key_len};
	taskrt__session_send(s, DSM_MSG_HELLO, &w, dsm__encode_hello(&w, &m));
	return DSM_OK;
}

int
taskrt__remote_start(struct taskrt__session *s, uint64_t deadline,
                     struct dsm_error *e)
{
	const struct taskrt__config *c = s->config;
	struct dsm_access access;
	struct remote *r;
	int fd, err;

	/* What is wrong with it does not take a coordinator to find out. */
	err = dsm__access_init(&access, c->token_file, c->insecure,
	                       DSM_TOKEN_CLIENT, e);
	if (err != DSM_OK)
		return err;
	err = connect_until(c->coordinator, deadline, &fd, e);
	if (err != DSM_OK) {
		dsm__access_fini(&access);
		char why[200];

		snprintf(why, sizeof(why), "%.199s", e->text);
		return dsm__fail(
		    e, err,
		    "no coordinator within %.1f s: %s; start "
		    "taskrt-coordinator there, or unset TASKRT_COORDINATOR to "
		    "use this machine alone",
		    (double)s->config->wait_ms / 1000, why);
	}
	r = calloc(1, sizeof(*r));
	if (r == NULL) {
		dsm__access_fini(&access);
		close(fd);
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	}
	LIST_INIT(&r->dials);
	r->access = access;
	s->tls = access.psk != NULL;
	uv_timer_init(dsm__loop_uv(s->loop), &r->heartbeat);
	r->heartbeat.data = s;
	s->link_state = r;
	s->link = &remote_ops;
	rejoin_init(s);
	/* What is there is taken down by the session's destroy. */
	return remote_greet(s, fd, e);
}
