/*
 * The relay: a slot whose worker cannot reach the client says HELLO here. The
 * client is asked to connect here as well; then frames are passed between the two
 * connections, the slot's HELLO first, so that the client sees what it would see
 * on its own listener.
 *
 * Frames are not read from an end while the other one has PIPE_MAX bytes waiting
 * to be sent: the sender's socket fills, and it slows down.
 */
#include "server.h"

#include <string.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/log.h"

#define PIPE_MAX (4u << 20)

/* Of the session whose key v has shown: by its handshake, or without tokens in its
 * HELLO. NULL: it has not. */
static struct coord_link *
session_client(const struct visit *v, const struct dsm_msg_hello *m)
{
	struct coord *core = v->server->core;
	uint64_t session;

	if (v->server->guard == NULL)
		return coord_session_client(core, m->session, m->key.ptr,
		                            m->key.len);
	if (!dsm__tls_is_session(
	        dsm__conn_identity(dsm__handle_conn(v->handle)), &session) ||
	    session != m->session)
		return NULL;
	return coord_session_link(core, session);
}

void
relay_wait(struct visit *v, const struct dsm_frame *f,
           const struct dsm_msg_hello *m)
{
	struct server *s = v->server;
	struct dsm_msg_relay ask = {.id = s->last_relay + 1};
	struct coord_link *client = session_client(v, m);
	struct dsm_wbuf w = {0};

	if (client == NULL) {
		log_warn("%s: data link for a session that has ended, or with "
		         "a wrong key",
		         visit_name(v));
		visit_refuse(v, DSM_EAUTH, "no such session, or a wrong key");
		return;
	}
	if (dsm__wbuf_put(&v->hello, f->body, f->len) != DSM_OK ||
	    dsm__encode_relay(&w, &ask) != DSM_OK) {
		dsm__wbuf_fini(&w);
		visit_refuse(v, DSM_ENOMEM, "out of memory");
		return;
	}
	s->last_relay = ask.id;
	visit_set_state(v, VISIT_WAITING);
	v->deadline = dsm__deadline_ms(RELAY_MS);
	v->hello_tag = f->tag;
	v->relay = ask.id;
	v->session = m->session;
	server_wake_sweep(s);
	log_debug("%s: waits for relay %llu", visit_name(v),
	          (unsigned long long)v->relay);
	client->send(client, DSM_MSG_RELAY, &(struct iovec){w.ptr, w.len}, 1);
	dsm__wbuf_fini(&w);
}

static struct visit *
find_waiting(struct server *s, uint64_t relay, uint64_t session)
{
	struct visit *v;

	TAILQ_FOREACH(v, &s->visits, entry)
	if (v->state == VISIT_WAITING && v->relay == relay &&
	    v->session == session)
		return v;
	return NULL;
}

void
relay_join(struct visit *v, const struct dsm_frame *f,
           const struct dsm_msg_hello *m)
{
	struct server *s = v->server;
	struct visit *slot;

	if (session_client(v, m) == NULL) {
		log_warn("%s: relay for a session that has ended, or with a "
		         "wrong key",
		         visit_name(v));
		visit_refuse(v, DSM_EAUTH, "no such session, or a wrong key");
		return;
	}
	slot = find_waiting(s, f->tag, m->session);
	if (slot == NULL) {
		visit_refuse(v, DSM_ECONN, "the slot does not wait any more");
		return;
	}
	visit_set_state(v, VISIT_JOINED);
	visit_set_state(slot, VISIT_JOINED);
	v->other = slot;
	slot->other = v;
	dsm__handle_throttle(v->handle, slot->handle, PIPE_MAX);
	dsm__handle_throttle(slot->handle, v->handle, PIPE_MAX);
	log_debug("relay %llu: %s joined", (unsigned long long)f->tag,
	          visit_name(v));
	dsm__handle_send(v->handle, DSM_MSG_HELLO, slot->hello_tag,
	                 &(struct iovec){slot->hello.ptr, slot->hello.len}, 1);
	dsm__wbuf_fini(&slot->hello);
}

void
relay_frame(struct visit *v, const struct dsm_frame *f)
{
	const struct iovec iov = {(void *)(uintptr_t)f->body, f->len};

	/* Of a failed connection its `lost` tells; this is ours alone. */
	if (dsm__handle_send(v->other->handle, f->type, f->tag, &iov, 1) ==
	    DSM_ENOMEM) {
		log_error("relay: out of memory");
		visit_doom(v);
	}
}

void
relay_part(struct visit *v)
{
	struct visit *other = v->other;

	if (other == NULL)
		return;
	v->other = other->other = NULL;
	if (other->state != VISIT_JOINED)
		return;
	visit_set_state(other, VISIT_DRAINING);
	other->deadline = dsm__deadline_ms(RELAY_MS);
	server_wake_sweep(other->server);
}
