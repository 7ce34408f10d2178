/* Connections: from accept to HELLO, and the peers of the core. */
#include "server.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/log.h"

const char *
visit_name(const struct visit *v)
{
	return dsm__conn_peer(dsm__handle_conn(v->handle));
}

static int
is_stranger(enum visit_state state)
{
	return state == VISIT_NEW || state == VISIT_DENIED;
}

void
visit_set_state(struct visit *v, enum visit_state state)
{
	if (v->state == state)
		return;
	if (is_stranger(v->state) && !is_stranger(state)) {
		v->server->n_new--;
		dsm__conn_set_max(dsm__handle_conn(v->handle), DSM_FRAME_MAX);
	}
	v->state = state;
}

void
visit_doom(struct visit *v)
{
	if (v->state == VISIT_DOOMED)
		return;
	visit_set_state(v, VISIT_DOOMED);
	server_wake_sweep(v->server);
}

void
visit_refuse(struct visit *v, int code, const char *text)
{
	const struct dsm_msg_refuse m = {(uint32_t)-code, dsm__str(text)};
	struct dsm_wbuf w = {0};

	if (dsm__encode_refuse(&w, &m) == DSM_OK) {
		struct iovec iov = {w.ptr, w.len};

		dsm__handle_send(v->handle, DSM_MSG_REFUSE, 0, &iov, 1);
	}
	dsm__wbuf_fini(&w);
	visit_doom(v);
}

void
visit_bury(struct visit *v)
{
	struct server *s = v->server;

	visit_set_state(v, VISIT_DOOMED);
	if (v->peer != NULL)
		coord_peer_gone(s->core, v->peer, dsm__now());
	relay_part(v);
	TAILQ_REMOVE(&s->visits, v, entry);
	dsm__handle_close(v->handle);
	dsm__wbuf_fini(&v->hello);
	free(v);
}

/* --- the core's way back --- */

static void
link_send(struct coord_link *l, unsigned type, const struct iovec *iov,
          int n_iov)
{
	struct visit *v = (struct visit *)l;
	int err;

	if (v->state == VISIT_DOOMED)
		return;
	err = dsm__handle_send(v->handle, type, 0, iov, n_iov);
	/* A failed connection is told of by `lost`; these are ours alone. */
	if (err == DSM_EINVAL || err == DSM_ENOMEM) {
		log_error("%s: cannot send %s: %s", visit_name(v),
		          dsm__msg_name(type), dsm__strerror(err));
		visit_doom(v);
	}
}

static size_t
link_backlog(struct coord_link *l)
{
	const struct visit *v = (const struct visit *)l;

	return dsm__conn_backlog(dsm__handle_conn(v->handle));
}

static void
link_close(struct coord_link *l, const char *reason)
{
	(void)reason; /* the core has logged it */
	visit_doom((struct visit *)l);
}

static int
link_reachable(struct coord_link *l, uint64_t limit_ms)
{
	const struct visit *v = (const struct visit *)l;

	return dsm__conn_reachable(dsm__handle_conn(v->handle), limit_ms);
}

/* --- HELLO --- */

static const char *
identity_of(const struct visit *v)
{
	return dsm__conn_identity(dsm__handle_conn(v->handle));
}

static void
join_core(struct visit *v, const struct dsm_msg_hello *m)
{
	struct server *s = v->server;
	const struct dsm_identity *who = NULL;
	int err;

	if (s->guard != NULL) {
		who = guard_who(s->guard, identity_of(v));
		if (who == NULL) {
			visit_refuse(v, DSM_EAUTH,
			             "a session's key is for data links");
			return;
		}
	}
	visit_set_state(v, VISIT_PEER);
	err = coord_join(s->core, m, who, visit_name(v), &v->link, &v->peer);
	if (err != DSM_OK)
		visit_doom(v);
	else
		dsm__handle_throttle(v->handle, v->handle,
		                     m->role == DSM_ROLE_TOOL
		                         ? TOOL_BACKLOG_MAX
		                         : PEER_BACKLOG_MAX);
	server_tick(s);
}

static void
on_hello(struct visit *v, const struct dsm_frame *f)
{
	struct dsm_msg_hello m;

	if (f->type != DSM_MSG_HELLO ||
	    dsm__decode_hello(f->body, f->len, &m) != DSM_OK) {
		log_warn("%s: does not begin with HELLO, closed",
		         visit_name(v));
		visit_refuse(v, DSM_EPROTO, "HELLO comes first");
	} else if (m.magic == DSM_MAGIC && m.version == DSM_VERSION &&
	           m.role == DSM_ROLE_DATA) {
		relay_wait(v, f, &m);
	} else if (m.magic == DSM_MAGIC && m.version == DSM_VERSION &&
	           m.role == DSM_ROLE_RELAY) {
		relay_join(v, f, &m);
	} else {
		join_core(v, &m); /* it also refuses what it does not know */
	}
}

static void
on_frame(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct visit *v = owner;

	(void)h;
	switch (v->state) {
	case VISIT_NEW:
		on_hello(v, f);
		break;
	case VISIT_PEER:
		coord_frame(v->server->core, v->peer, f, dsm__now());
		break;
	case VISIT_WAITING:
		log_warn("%s: %s before WELCOME, closed", visit_name(v),
		         dsm__msg_name(f->type));
		visit_refuse(v, DSM_EPROTO, "WELCOME has not come yet");
		break;
	case VISIT_JOINED:
		relay_frame(v, f);
		break;
	case VISIT_DRAINING:
	case VISIT_DENIED:
	case VISIT_DOOMED:
		break;
	}
}

/* Who speaks TLS, or another version, sees at least that we do not. */
static void
answer_gibberish(struct visit *v)
{
	const struct dsm_msg_refuse m = {
	    -DSM_EPROTO, dsm__str("not the HELLO of a taskrt peer")};
	struct dsm_wbuf w = {0};

	if (dsm__encode_refuse(&w, &m) == DSM_OK)
		dsm__conn_last_words(dsm__handle_conn(v->handle),
		                     DSM_MSG_REFUSE, w.ptr, w.len);
	dsm__wbuf_fini(&w);
}

/* The handshake failed. Peers choose names: no other bytes get into the log. */
static void
on_denied(struct visit *v, int err)
{
	const struct dsm_conn *conn = dsm__handle_conn(v->handle);
	const char *name = dsm__conn_tls_name(conn);

	if (v->state != VISIT_NEW) {
		visit_bury(v);
		return;
	}
	if (err == DSM_ECONN)
		log_debug("%s: %s", visit_name(v), dsm__conn_why(conn));
	else
		log_warn("%s: refused: %s%s%s%s", visit_name(v),
		         dsm__conn_why(conn),
		         dsm__token_name_ok(name) ? " (name " : "",
		         dsm__token_name_ok(name) ? name : "",
		         dsm__token_name_ok(name) ? ")" : "");
	if (err != DSM_EAUTH) {
		visit_bury(v);
		return;
	}
	visit_set_state(v, VISIT_DENIED);
	v->deadline = dsm__deadline_ms(DENIED_MS);
	server_wake_sweep(v->server);
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct visit *v = owner;

	if (dsm__conn_is_shaking(dsm__handle_conn(h))) {
		on_denied(v, err);
		return;
	}
	if (err == DSM_EPROTO && v->state == VISIT_NEW) {
		log_warn("%s: not a taskrt peer, or one of another version, or "
		         "one with a token file: there is none here",
		         visit_name(v));
		answer_gibberish(v);
	} else if (err != DSM_ECONN)
		log_warn("%s: %s", visit_name(v), dsm__strerror(err));
	visit_bury(v);
}

static const struct dsm_handle_ops handle_ops = {
    .frame = on_frame,
    .lost = on_lost,
};

/* Who connects to say nothing must not keep out those who have something to say:
 * these do it at once. */
static void
doom_oldest_stranger(struct server *s)
{
	struct visit *v;

	if (dsm__log_due(&s->said_strangers))
		log_warn("more than %d connections without HELLO: the oldest "
		         "are closed",
		         STRANGERS_MAX);
	TAILQ_FOREACH(v, &s->visits, entry)
	if (is_stranger(v->state))
		break;
	if (v != NULL)
		visit_doom(v);
}

void
visit_begin(struct server *s, int fd)
{
	struct dsm_conn *conn;
	struct visit *v;
	int err;

	if (s->n_new >= STRANGERS_MAX)
		doom_oldest_stranger(s);
	err = dsm__conn_create(&dsm__tcp_ops, fd, DSM_STRANGER_MAX, &conn);
	if (err != DSM_OK)
		goto fail;
	if (s->guard != NULL) {
		err = dsm__conn_tls_accept(conn, guard_finder(s->guard));
		if (err != DSM_OK)
			goto close_conn;
	}
	v = calloc(1, sizeof(*v));
	err = DSM_ENOMEM;
	if (v == NULL)
		goto close_conn;
	err = dsm__loop_attach(s->loop, conn, &handle_ops, v, &v->handle);
	if (err != DSM_OK)
		goto free_visit;
	v->link.send = link_send;
	v->link.close = link_close;
	v->link.reachable = link_reachable;
	v->link.backlog = link_backlog;
	v->server = s;
	v->state = VISIT_NEW;
	v->deadline = dsm__deadline_ms(HELLO_MS);
	TAILQ_INSERT_TAIL(&s->visits, v, entry);
	s->n_new++;
	server_wake_sweep(s);
	return;
free_visit:
	free(v);
close_conn:
	dsm__conn_close(conn);
fail:
	log_warn("a connection was not served: %s", dsm__strerror(err));
}
