#include "server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/log.h"

#define FULL_PAUSE_MS 100 /* when no descriptor is left */
#define SWEEP_MS 100
/* Visits that are of no use are closed between rounds. */
#define ACCEPTS_PER_ROUND 64

/* --- time --- */

static void on_tick(uv_timer_t *t);

void
server_tick(struct server *s)
{
	uint64_t now = dsm__now();
	uint64_t next = coord_tick(s->core, now);
	uint64_t ms = next > now ? (next - now + DSM_MS - 1) / DSM_MS : 1;

	if (next == DSM_FOREVER) {
		uv_timer_stop(&s->tick);
		return;
	}
	uv_update_time(dsm__loop_uv(s->loop));
	uv_timer_start(&s->tick, on_tick, ms, 0);
}

static void
on_tick(uv_timer_t *t)
{
	server_tick(t->data);
}

static int
is_due(const struct visit *v, uint64_t now)
{
	switch (v->state) {
	case VISIT_NEW:
	case VISIT_WAITING:
	case VISIT_DENIED:
		return now >= v->deadline;
	case VISIT_DRAINING:
		return now >= v->deadline ||
		       dsm__conn_backlog(dsm__handle_conn(v->handle)) == 0;
	default:
		return 0;
	}
}

/* It ran out of time. */
static void
expire(struct visit *v)
{
	if (v->state == VISIT_WAITING) {
		log_warn("%s: the client did not connect to the relay",
		         visit_name(v));
		visit_refuse(v, DSM_ETIMEDOUT,
		             "the client did not connect to the relay");
	} else {
		if (v->state == VISIT_NEW)
			log_info(
			    "%s: no %s within %d s, closed", visit_name(v),
			    dsm__conn_is_shaking(dsm__handle_conn(v->handle))
			        ? "TLS handshake"
			        : "HELLO",
			    HELLO_MS / 1000);
		visit_doom(v);
	}
}

static void
on_sweep(uv_timer_t *t)
{
	struct server *s = t->data;
	uint64_t now = dsm__now();
	struct visit *v, *next;
	int timed = 0;

	TAILQ_FOREACH(v, &s->visits, entry)
	if (is_due(v, now))
		expire(v);
	/* Burying tells the core, which may doom others: from the start again
	 * until none is left. */
	for (v = TAILQ_FIRST(&s->visits); v != NULL; v = next) {
		next = TAILQ_NEXT(v, entry);
		if (v->state == VISIT_DOOMED) {
			visit_bury(v);
			next = TAILQ_FIRST(&s->visits);
		}
	}
	TAILQ_FOREACH(v, &s->visits, entry)
	timed |= v->state == VISIT_NEW || v->state == VISIT_WAITING ||
	         v->state == VISIT_DRAINING || v->state == VISIT_DENIED;
	if (timed)
		uv_timer_start(&s->sweep, on_sweep, SWEEP_MS, 0);
	else
		uv_timer_stop(&s->sweep);
}

void
server_wake_sweep(struct server *s)
{
	uv_update_time(dsm__loop_uv(s->loop));
	uv_timer_start(&s->sweep, on_sweep, 0, 0);
}

/* --- listening --- */

static void on_connection(uv_poll_t *poll, int status, int events);

static void
accept_on(struct server *s)
{
	dsm__loop_uv(s->loop);
	uv_poll_start(&s->poll, UV_READABLE, on_connection);
}

static void
on_again(uv_timer_t *t)
{
	accept_on(t->data);
}

static void
on_connection(uv_poll_t *poll, int status, int events)
{
	struct server *s = poll->data;
	int fd, err = DSM_EAGAIN;

	(void)status;
	(void)events;
	for (int i = 0; i < ACCEPTS_PER_ROUND &&
	                (err = dsm__tcp_accept(s->fd, &fd)) == DSM_OK;
	     i++)
		visit_begin(s, fd);
	if (err == DSM_OK || err == DSM_EAGAIN)
		return;
	if (dsm__log_due(&s->said_full))
		log_warn("cannot accept connections: %s", strerror(errno));
	dsm__loop_uv(s->loop);
	uv_poll_stop(&s->poll);
	uv_timer_start(&s->again, on_again, FULL_PAUSE_MS, 0);
}

/* --- life --- */

int
server_create(struct dsm_loop *loop, const struct server_params *p,
              char addr_p[DSM_ADDR_MAX], struct server **s_p,
              struct dsm_error *e)
{
	struct server *s = calloc(1, sizeof(*s));
	uv_loop_t *uv = dsm__loop_uv(loop);
	int err;

	if (s == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	TAILQ_INIT(&s->visits);
	s->loop = loop;
	s->token_file = p->token_file;
	if (p->token_file != NULL) {
		err = guard_create(p->token_file, &s->guard, e);
		if (err != DSM_OK)
			goto free_server;
	}
	err = dsm__tcp_listen(p->listen, addr_p, &s->fd, e);
	if (err != DSM_OK)
		goto destroy_guard;
	err = coord_create(&p->core, &s->core);
	if (err != DSM_OK) {
		dsm__fail(e, err, "%s", dsm__strerror(err));
		goto close_fd;
	}
	if (s->guard != NULL)
		guard_set_core(s->guard, s->core);
	if (uv_poll_init(uv, &s->poll, s->fd) != 0) {
		err = dsm__fail(e, DSM_ESYS, "cannot poll a listening socket");
		goto destroy_core;
	}
	uv_timer_init(uv, &s->again);
	uv_timer_init(uv, &s->tick);
	uv_timer_init(uv, &s->sweep);
	s->poll.data = s->again.data = s->tick.data = s->sweep.data = s;
	accept_on(s);
	*s_p = s;
	return DSM_OK;
destroy_core:
	coord_destroy(s->core);
close_fd:
	close(s->fd);
destroy_guard:
	guard_destroy(s->guard);
free_server:
	free(s);
	return err;
}

void
server_reload(struct server *s)
{
	struct dsm_error e = {0};
	struct guard *fresh;
	struct visit *v;

	if (guard_create(s->token_file, &fresh, &e) != DSM_OK) {
		log_error("%s; the tokens stay as they were", e.text);
		return;
	}
	TAILQ_FOREACH(v, &s->visits, entry)
	{
		const char *name =
		    dsm__conn_identity(dsm__handle_conn(v->handle));
		uint64_t session;

		/* Data links end with their session. */
		if (*name == '\0' || v->state == VISIT_DOOMED ||
		    dsm__tls_is_session(name, &session) ||
		    guard_agrees(s->guard, fresh, name))
			continue;
		log_warn("%s: token %s was taken back, closed", visit_name(v),
		         name);
		visit_refuse(v, DSM_EAUTH, "the token was taken back");
	}
	guard_replace(s->guard, fresh);
	log_info("%s: %zu token%s", s->token_file, guard_count(s->guard),
	         guard_count(s->guard) == 1 ? "" : "s");
}

void
server_destroy(struct server *s)
{
	struct visit *v;

	coord_destroy(s->core);
	TAILQ_FOREACH(v, &s->visits, entry)
	v->peer = NULL;
	while ((v = TAILQ_FIRST(&s->visits)) != NULL)
		visit_bury(v);
	uv_poll_stop(&s->poll);
	close(s->fd);
	dsm__loop_destroy(s->loop);
	guard_destroy(s->guard);
	free(s);
}
