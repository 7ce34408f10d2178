/*
 * A session with a coordinator over TCP: the control link, its heartbeat, and the
 * relays it asks for when a worker cannot reach us.
 *
 * Data links are served on the address that the control link goes out from, unless
 * the program was told another one: with a coordinator on this machine that is
 * loopback, and so it stays. Beyond
 * loopback only when the coordinator's WELCOME says that plain TCP is wanted;
 * otherwise the listener is closed unused, and slots come through the relay.
 */
#include "session.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/log.h"
#include "serveconn.h"

#define RETRY_MS 100   /* between two attempts to connect */
#define SILENT_BEATS 5 /* heartbeats without a word: the link is dead */

struct remote {
	struct dsm_handle *handle; /* NULL once lost */
	uint64_t heard;            /* when the last frame came */
	uint64_t looked;           /* when on_heartbeat was called last */
	uint64_t ping_seq;
	int loopback; /* the data listener's address is */
	uv_timer_t heartbeat;
	LIST_HEAD(, dial) dials;
};

/* A relay connection that is being made. */
struct dial {
	LIST_ENTRY(dial) link;
	struct taskrt__session *session;
	uv_poll_t poll;
	int fd; /* -1: given on */
	uint64_t relay;
};

/* --- control link --- */

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
	r->heard = dsm__now();
	taskrt__session_frame(s, f->type, f->body, f->len);
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct taskrt__session *s = owner;
	struct remote *r = s->link_state;

	r->handle = NULL;
	taskrt__session_lose(
	    s, DSM_ECONN,
	    "the coordinator at %s is gone (%s); start it again, then launch "
	    "again",
	    s->config->coordinator, dsm__strerror(err));
	dsm__handle_close(h);
}

static const struct dsm_handle_ops handle_ops = {on_frame, on_lost};

static void
on_heartbeat(uv_timer_t *timer)
{
	struct taskrt__session *s = timer->data;
	struct remote *r = s->link_state;
	uint64_t now = dsm__now(), silent_ms;

	if (s->state != TASKRT__READY || s->heartbeat_ms == 0)
		return;
	/* When we ourselves were stopped, silence says nothing: what has come
	 * meanwhile is read after this. */
	if (now - r->looked > 2 * s->heartbeat_ms * DSM_MS)
		r->heard = now;
	r->looked = now;
	silent_ms = (now - r->heard) / DSM_MS;
	if (silent_ms >= (uint64_t)s->heartbeat_ms * SILENT_BEATS) {
		taskrt__session_lose(
		    s, DSM_ECONN,
		    "the coordinator at %s has not answered for %llu ms",
		    s->config->coordinator, (unsigned long long)silent_ms);
		return;
	}
	if (silent_ms >= s->heartbeat_ms) {
		struct dsm_msg_ping m = {.seq = ++r->ping_seq};
		struct dsm_wbuf w = {0};
		int err = dsm__encode_ping(&w, &m);

		taskrt__session_send(s, DSM_MSG_PING, &w, err);
	}
}

/* --- relays --- */

static void
on_dial_closed(uv_handle_t *h)
{
	struct dial *d = h->data;

	d->session->n_uv_closing--;
	free(d);
}

static void
end_dial(struct dial *d)
{
	LIST_REMOVE(d, link);
	d->session->n_uv_closing++;
	dsm__loop_uv(d->session->loop);
	uv_close((uv_handle_t *)&d->poll, on_dial_closed);
	if (d->fd >= 0)
		close(d->fd);
}

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
	if (err == DSM_OK)
		err = taskrt__serveconn_start(s, conn, NULL,
		                              TASKRT__LINK_RELAYED, &c);
	if (err != DSM_OK)
		return err;
	taskrt__session_hello(&m, DSM_ROLE_RELAY, "");
	m.session = s->id;
	m.key = (struct dsm_blob){s->key, s->key_len};
	err = dsm__encode_hello(&w, &m);
	if (err == DSM_OK)
		err = taskrt__serveconn_send(c, DSM_MSG_HELLO, relay, &w);
	dsm__wbuf_fini(&w);
	return err;
}

static void
on_dialled(uv_poll_t *poll, int status, int events)
{
	struct dial *d = poll->data;
	struct taskrt__session *s = d->session;
	struct dsm_error e = {0};

	(void)status;
	(void)events;
	int err = dsm__tcp_connect_result(d->fd, s->config->coordinator, &e);
	/* libuv must let go of the descriptor before the conn has it. */
	int fd = d->fd;
	dsm__loop_uv(s->loop);
	uv_poll_stop(&d->poll);
	if (err == DSM_OK) {
		d->fd = -1;
		err = serve_relay(s, fd, d->relay);
	}
	if (err != DSM_OK)
		log_warn("relay %llu: %s", (unsigned long long)d->relay,
		         e.text[0] != '\0' ? e.text : dsm__strerror(err));
	end_dial(d);
}

static void
remote_relay(struct taskrt__session *s, uint64_t id)
{
	struct remote *r = s->link_state;
	struct dial *d = calloc(1, sizeof(*d));
	struct dsm_error e = {0};

	if (d == NULL)
		return;
	int err = dsm__tcp_connect_start(s->config->coordinator, &d->fd, &e);
	if (err != DSM_OK) {
		log_warn("relay %llu: %s", (unsigned long long)id, e.text);
		free(d);
		return;
	}
	d->session = s;
	d->relay = id;
	uv_loop_t *uv = dsm__loop_uv(s->loop);
	if (uv_poll_init(uv, &d->poll, d->fd) != 0) {
		close(d->fd);
		free(d);
		return;
	}
	d->poll.data = d;
	LIST_INSERT_HEAD(&r->dials, d, link);
	uv_poll_start(&d->poll, UV_WRITABLE, on_dialled);
}

/* --- life --- */

static void
remote_stop(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	while (!LIST_EMPTY(&r->dials))
		end_dial(LIST_FIRST(&r->dials));
	if (r->handle != NULL)
		dsm__handle_close(r->handle);
	r->handle = NULL;
	taskrt__session_uv_close(s, (uv_handle_t *)&r->heartbeat);
}

static void
remote_free(struct taskrt__session *s)
{
	free(s->link_state);
}

static void
remote_forget(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	if (r->handle != NULL)
		dsm__conn_forget(dsm__handle_conn(r->handle));
}

static void
remote_welcomed(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	if (s->listener != NULL &&
	    (r->loopback || (s->welcome_flags & DSM_WELCOME_INSECURE) != 0))
		taskrt__listener_accept(s);
	else
		taskrt__listener_stop(s);
	if (s->heartbeat_ms == 0)
		return;
	r->looked = dsm__now();
	dsm__loop_uv(s->loop);
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

	if (c->advertise[0] != '\0')
		snprintf(addr, DSM_ADDR_MAX, "%s", c->advertise);
	else if (c->listen[0] == '*' && port != NULL && host_end != NULL)
		snprintf(addr, DSM_ADDR_MAX, "%.*s%s", (int)(host_end - beside),
		         beside, port);
	else
		snprintf(addr, DSM_ADDR_MAX, "%s", listened);
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

static int
start_link(struct taskrt__session *s, int fd, struct dsm_error *e)
{
	struct remote *r = calloc(1, sizeof(*r));
	char addr[DSM_ADDR_MAX];
	struct dsm_msg_hello m;
	struct dsm_wbuf w = {0};
	struct dsm_conn *conn;

	if (r == NULL) {
		close(fd);
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	}
	LIST_INIT(&r->dials);
	r->heard = dsm__now();
	listen_for_slots(s, fd, addr, &r->loopback);
	int err = dsm__conn_create(&dsm__tcp_ops, fd, DSM_FRAME_MAX, &conn);
	if (err != DSM_OK)
		goto free_remote;
	err = dsm__loop_attach(s->loop, conn, &handle_ops, s, &r->handle);
	if (err != DSM_OK) {
		dsm__conn_close(conn);
		goto free_remote;
	}
	uv_timer_init(dsm__loop_uv(s->loop), &r->heartbeat);
	r->heartbeat.data = s;
	s->link_state = r;
	s->link = &remote_ops;
	taskrt__session_hello(&m, DSM_ROLE_CLIENT, addr);
	taskrt__session_send(s, DSM_MSG_HELLO, &w, dsm__encode_hello(&w, &m));
	return DSM_OK;
free_remote:
	free(r);
	return dsm__fail(e, err, "cannot use the connection to %s: %s",
	                 s->config->coordinator, dsm__strerror(err));
}

int
taskrt__remote_start(struct taskrt__session *s, uint64_t deadline,
                     struct dsm_error *e)
{
	int fd;
	int err = connect_until(s->config->coordinator, deadline, &fd, e);

	if (err != DSM_OK) {
		char why[200];

		snprintf(why, sizeof(why), "%.199s", e->text);
		return dsm__fail(
		    e, err,
		    "no coordinator within %.1f s: %s; start "
		    "taskrt-coordinator there, or unset TASKRT_COORDINATOR to "
		    "use this machine alone",
		    (double)s->config->wait_ms / 1000, why);
	}
	return start_link(s, fd, e);
}
