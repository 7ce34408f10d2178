#include "uplink.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../dsm/base/backoff.h"
#include "../dsm/base/clock.h"
#include "../dsm/base/log.h"
#include "../dsm/transport/beat.h"
#include "../dsm/transport/connect.h"

#define RETRY_MS 100 /* first pause between attempts */
#define RETRY_MAX_MS 2000
#define CONNECT_MS 5000
#define WELCOME_MS 5000

enum uplink_state {
	UP_WAITING,
	UP_CONNECTING,
	UP_GREETING,
	UP_JOINED,
	UP_OVER,
};

struct uplink {
	struct coord_link link; /* first: the worker core hands it back */
	struct uplink_params p;
	struct dsm_loop *loop;
	struct worker *worker;
	unsigned n_slots;
	enum uplink_state state;
	int status;       /* OVER */
	int was_joined;   /* ever */
	int draining;     /* uplink_drain */
	uint64_t give_up; /* when, before the first WELCOME */
	struct dsm_backoff backoff;
	struct dsm_connect *connect; /* CONNECTING */
	struct dsm_handle *handle;   /* GREETING, JOINED */
	char why[400];               /* close was called: lost from the loop */
	struct dsm_beat beat;
	/* Whom the coordinator knew us as, if it is still the same one. */
	uint64_t id;
	struct dsm_wbuf key;
	/* The one timer: next attempt, time-outs, heartbeat, or to be lost. */
	uv_timer_t timer;
};

static void on_timer(uv_timer_t *t);

static void
set_timer(struct uplink *u, uint64_t ms)
{
	uv_update_time(dsm__loop_uv(u->loop));
	uv_timer_start(&u->timer, on_timer, ms, 0);
}

/* Whatever of a connection there is. */
static void
disconnect(struct uplink *u)
{
	dsm__connect_cancel(u->connect);
	u->connect = NULL;
	if (u->handle != NULL)
		dsm__handle_close(u->handle);
	u->handle = NULL;
	u->why[0] = '\0';
}

static void
give_up(struct uplink *u, int status)
{
	disconnect(u);
	u->state = UP_OVER;
	u->status = status;
	uv_timer_stop(&u->timer);
	dsm__loop_stop(u->loop);
}

/* The connection failed or could not be made. */
static void
fail(struct uplink *u, const char *why)
{
	int joined = u->state == UP_JOINED;
	uint64_t now = dsm__now();
	uint64_t ms;
	char text[400];

	snprintf(text, sizeof(text), "%s", why); /* disconnect clears u->why */
	disconnect(u);
	u->state = UP_WAITING;
	if (joined) {
		int ends = u->p.once || u->draining;

		log_warn("coordinator %s lost: %s%s", u->p.addr, text,
		         ends ? "" : "; connecting again");
		worker_up_lost(u->worker);
		if (ends) {
			give_up(u, 0);
			return;
		}
	}
	ms = dsm__backoff_next(&u->backoff);
	if (!u->was_joined && now + ms * DSM_MS >= u->give_up) {
		log_error("no coordinator at %s within %g s: %s", u->p.addr,
		          (double)u->p.wait_ms / 1000, text);
		give_up(u, 1);
		return;
	}
	log_debug("%s; trying again in %llu ms", text, (unsigned long long)ms);
	set_timer(u, ms);
}

/* --- the worker core's way --- */

static int
send_body(struct uplink *u, unsigned type, int err, struct dsm_wbuf *w)
{
	struct iovec iov = {w->ptr, w->len};

	if (err == DSM_OK)
		err = dsm__handle_send(u->handle, type, 0, &iov, 1);
	dsm__wbuf_fini(w);
	return err;
}

static void
link_close(struct coord_link *l, const char *reason)
{
	struct uplink *u = (struct uplink *)l;

	if (u->state != UP_JOINED || u->why[0] != '\0')
		return;
	snprintf(u->why, sizeof(u->why), "%s",
	         *reason != '\0' ? reason : "closed");
	set_timer(u, 0);
}

static void
link_send(struct coord_link *l, unsigned type, const struct iovec *iov,
          int n_iov)
{
	struct uplink *u = (struct uplink *)l;
	int err;

	/* Late words of slots that are being ended. */
	if (u->state != UP_JOINED)
		return;
	err = dsm__handle_send(u->handle, type, 0, iov, n_iov);
	/* A failed connection is told of by `lost`; these are ours alone. */
	if (err == DSM_EINVAL || err == DSM_ENOMEM)
		link_close(l, dsm__strerror(err));
}

/* --- frames --- */

static void
on_welcome(struct uplink *u, const struct dsm_frame *f)
{
	struct dsm_msg_welcome m;

	if (dsm__decode_welcome(f->body, f->len, &m) != DSM_OK) {
		fail(u, "malformed WELCOME");
		return;
	}
	if (m.version != DSM_VERSION) {
		log_error("coordinator %s speaks version %u of the protocol, "
		          "this worker %u: install the same release",
		          u->p.addr, m.version, DSM_VERSION);
		give_up(u, 1);
		return;
	}
	dsm__wbuf_reset(&u->key);
	if (dsm__wbuf_put(&u->key, m.key.ptr, m.key.len) != DSM_OK) {
		fail(u, "out of memory");
		return;
	}
	u->id = m.session;
	u->state = UP_JOINED;
	dsm__beat_start(&u->beat, m.heartbeat_ms, dsm__now());
	dsm__backoff_reset(&u->backoff);
	fprintf(stderr, "taskrt-worker: %s %s with %u slot%s\n",
	        u->was_joined ? "joined again" : "joined", u->p.addr,
	        u->n_slots, u->n_slots == 1 ? "" : "s");
	u->was_joined = 1;
	if (u->beat.ms > 0)
		set_timer(u, u->beat.ms);
	else
		uv_timer_stop(&u->timer);
}

/* It will not get better by itself. */
static void
on_refuse(struct uplink *u, const struct dsm_frame *f)
{
	struct dsm_msg_refuse m;
	char text[300];

	if (dsm__decode_refuse(f->body, f->len, &m) != DSM_OK) {
		fail(u, "malformed REFUSE");
		return;
	}
	log_error("coordinator %s refuses this worker: %s", u->p.addr,
	          dsm__str_copy(text, sizeof(text), m.text));
	if (u->state == UP_JOINED)
		worker_up_lost(u->worker);
	give_up(u, 1);
}

static void
on_frame(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct uplink *u = owner;

	(void)h;
	dsm__beat_heard(&u->beat, dsm__now());
	if (u->why[0] != '\0')
		return;
	if (f->type == DSM_MSG_REFUSE)
		on_refuse(u, f);
	else if (u->state == UP_JOINED)
		worker_frame(u->worker, f);
	else if (f->type == DSM_MSG_WELCOME)
		on_welcome(u, f);
	else
		fail(u, "its first message is not WELCOME");
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct uplink *u = owner;
	struct dsm_error e;

	if (dsm__access_denied(&u->p.access, dsm__handle_conn(h), u->p.addr,
	                       &e)) {
		log_error("%s", e.text);
		give_up(u, 1);
		return;
	}
	if (err == DSM_EPROTO && u->state == UP_GREETING) {
		log_error("%s: no taskrt-coordinator, or one of another "
		          "version: this worker speaks version %u of the "
		          "protocol",
		          u->p.addr, DSM_VERSION);
		give_up(u, 1);
		return;
	}
	fail(u, err == DSM_ECONN ? "it closed the connection"
	                         : dsm__strerror(err));
}

static const struct dsm_handle_ops handle_ops = {
    .frame = on_frame,
    .lost = on_lost,
};

/* --- connecting --- */

static void
greet(struct uplink *u, int fd)
{
	struct dsm_msg_hello m;
	struct dsm_wbuf w = {0};
	struct dsm_conn *conn;
	struct dsm_error e = {0};
	int err;

	err = dsm__access_conn(&u->p.access, fd, u->p.addr, DSM_FRAME_MAX,
	                       &conn, &e);
	if (err == DSM_EAUTH) {
		log_error("%s", e.text);
		give_up(u, 1);
		return;
	}
	if (err != DSM_OK) {
		fail(u, e.text);
		return;
	}
	err = dsm__loop_attach(u->loop, conn, &handle_ops, u, &u->handle);
	if (err != DSM_OK) {
		u->handle = NULL;
		dsm__conn_close(conn);
		fail(u, dsm__strerror(err));
		return;
	}
	u->state = UP_GREETING;
	worker_hello(u->worker, &m);
	if (u->p.name != NULL)
		m.name = dsm__str(u->p.name);
	m.session = u->id;
	m.key = (struct dsm_blob){u->key.ptr, (uint32_t)u->key.len};
	err = send_body(u, DSM_MSG_HELLO, dsm__encode_hello(&w, &m), &w);
	/* What the connection has is told by `lost`. */
	if (err == DSM_ENOMEM || err == DSM_EINVAL)
		fail(u, dsm__strerror(err));
	else
		set_timer(u, WELCOME_MS);
}

static void
on_connected(void *arg, int fd, const struct dsm_error *e)
{
	struct uplink *u = arg;

	u->connect = NULL;
	if (fd >= 0)
		greet(u, fd);
	else
		fail(u, e->text);
}

static void
try_now(struct uplink *u)
{
	struct dsm_error e = {0};

	u->state = UP_CONNECTING;
	if (dsm__connect_start(u->loop, u->p.addr, CONNECT_MS, on_connected, u,
	                       &u->connect, &e) != DSM_OK)
		fail(u, e.text);
}

/* --- time --- */

static void
on_heartbeat(struct uplink *u)
{
	uint64_t now = dsm__now();
	enum dsm_beat_says says = dsm__beat_look(&u->beat, now);
	struct dsm_msg_ping m = {.seq = u->beat.seq};
	struct dsm_wbuf w = {0};
	char text[64];

	if (says == DSM_BEAT_LOST) {
		snprintf(
		    text, sizeof(text), "silent for %llu ms",
		    (unsigned long long)dsm__beat_silent_ms(&u->beat, now));
		fail(u, text);
		return;
	}
	if (says == DSM_BEAT_ASK)
		send_body(u, DSM_MSG_PING, dsm__encode_ping(&w, &m), &w);
	set_timer(u, u->beat.ms);
}

static void
on_timer(uv_timer_t *t)
{
	struct uplink *u = t->data;

	switch (u->state) {
	case UP_WAITING:
		try_now(u);
		break;
	case UP_CONNECTING: /* ends by itself */
		break;
	case UP_GREETING:
		fail(u, "it does not answer HELLO");
		break;
	case UP_JOINED:
		if (u->why[0] != '\0')
			fail(u, u->why);
		else
			on_heartbeat(u);
		break;
	case UP_OVER:
		break;
	}
}

/* --- life --- */

int
uplink_create(struct dsm_loop *loop, const struct uplink_params *p,
              struct uplink **u_p)
{
	struct uplink *u = calloc(1, sizeof(*u));

	if (u == NULL)
		return DSM_ENOMEM;
	u->p = *p;
	u->loop = loop;
	u->link.send = link_send;
	u->link.close = link_close;
	dsm__backoff_init(&u->backoff, RETRY_MS, RETRY_MAX_MS);
	uv_timer_init(dsm__loop_uv(loop), &u->timer);
	u->timer.data = u;
	*u_p = u;
	return DSM_OK;
}

struct coord_link *
uplink_link(struct uplink *u)
{
	return &u->link;
}

void
uplink_start(struct uplink *u, struct worker *w, unsigned n_slots)
{
	u->worker = w;
	u->n_slots = n_slots;
	u->give_up = dsm__deadline_ms(u->p.wait_ms);
	u->state = UP_WAITING;
	set_timer(u, 0);
}

unsigned
uplink_drain(struct uplink *u)
{
	unsigned n = worker_busy(u->worker);

	u->draining = 1;
	if (u->state == UP_JOINED)
		worker_drain(u->worker);
	else
		give_up(u, 0);
	return n;
}

void
uplink_drained(void *arg)
{
	struct uplink *u = arg;

	log_info("drained: all that it had is done");
	u->status = 0;
	dsm__loop_stop(u->loop);
}

void
uplink_stop(struct uplink *u)
{
	int status = u->status;

	give_up(u, status);
}

int
uplink_status(const struct uplink *u)
{
	return u->status;
}

void
uplink_free(struct uplink *u)
{
	dsm__wbuf_fini(&u->key);
	free(u);
}
