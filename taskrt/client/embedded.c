/*
 * A session without a coordinator of its own: coordinator and worker are code in
 * this process, on the session's loop. Same code, same messages as with daemons;
 * what would be connections are queues.
 *
 *   session  --TO_COORD_CLIENT-->  coord  --TO_WORKER-->  worker -- slots
 *            <----TO_CLIENT------         <-TO_COORD_WORKER-
 *
 * One queue for all four directions, emptied from dsm__loop_defer: neither core
 * is ever entered from within itself or from within the other.
 */
#include "session.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../coordinator/core/coord.h"
#include "../../coordinator/worker/worker.h"
#include "../../dsm/base/clock.h"
#include "../../dsm/base/log.h"
#include "serveconn.h"

enum target {
	TO_CLIENT,
	TO_WORKER,
	TO_COORD_CLIENT, /* the coordinator, from the client */
	TO_COORD_WORKER, /* the same, from the worker */
};

struct message {
	STAILQ_ENTRY(message) link;
	enum target target;
	uint16_t type;
	uint32_t len;
	uint8_t body[];
};

/* A link that puts what is sent into the queue. */
struct queue_link {
	struct coord_link link;
	struct embedded *owner;
	enum target target;
};

struct embedded {
	struct taskrt__session *session;
	struct coord *coord;
	struct worker *worker;
	struct coord_peer *client_peer, *worker_peer;
	struct queue_link to_client, to_worker, worker_up;
	STAILQ_HEAD(, message) queue;
	int deferred; /* drain is going to be called */
	int stopped;  /* drain does nothing any more */
	uv_timer_t tick;
	uint64_t tick_at; /* when it goes off, 0: not set */
};

/* --- queue --- */

static void drain(void *arg);

static void
put(struct embedded *x, enum target target, unsigned type,
    const struct iovec *iov, int n_iov)
{
	size_t len = 0;

	if (x->stopped)
		return;
	for (int i = 0; i < n_iov; i++)
		len += iov[i].iov_len;
	struct message *m = malloc(sizeof(*m) + len);
	if (m == NULL ||
	    (!x->deferred &&
	     dsm__loop_defer(x->session->loop, drain, x) != DSM_OK)) {
		free(m);
		taskrt__session_lose(x->session, DSM_ENOMEM, "out of memory");
		return;
	}
	x->deferred = 1;
	*m = (struct message){
	    .target = target,
	    .type = (uint16_t)type,
	    .len = (uint32_t)len,
	};
	uint8_t *p = m->body;
	for (int i = 0; i < n_iov; i++) {
		if (iov[i].iov_len > 0)
			memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	STAILQ_INSERT_TAIL(&x->queue, m, link);
}

static void
on_tick(uv_timer_t *timer)
{
	struct embedded *x = timer->data;

	x->tick_at = 0;
	drain(x);
}

/* Look after the coordinator's time-outs, and come back when it says. */
static void
tick(struct embedded *x)
{
	uint64_t now = dsm__now();
	uint64_t next = coord_tick(x->coord, now);

	if (next == x->tick_at || next == DSM_FOREVER)
		return;
	uv_loop_t *uv = dsm__loop_uv(x->session->loop);
	uv_update_time(uv);
	uv_timer_start(&x->tick, on_tick,
	               next > now ? (next - now + DSM_MS - 1) / DSM_MS : 0, 0);
	x->tick_at = next;
}

static int
pass(struct embedded *x, const struct message *m)
{
	const struct dsm_frame f = {
	    .type = m->type,
	    .body = m->body,
	    .len = m->len,
	};

	switch (m->target) {
	case TO_CLIENT:
		taskrt__session_frame(x->session, m->type, m->body, m->len);
		return DSM_OK;
	case TO_WORKER:
		/* What a daemon's connection takes care of. */
		if (m->type == DSM_MSG_WELCOME || m->type == DSM_MSG_PING)
			return DSM_OK;
		return worker_frame(x->worker, &f);
	case TO_COORD_CLIENT:
		if (x->client_peer == NULL)
			return DSM_ECONN;
		return coord_frame(x->coord, x->client_peer, &f, dsm__now());
	case TO_COORD_WORKER:
		if (x->worker_peer == NULL)
			return DSM_ECONN;
		return coord_frame(x->coord, x->worker_peer, &f, dsm__now());
	}
	return DSM_OK;
}

static void
drain(void *arg)
{
	struct embedded *x = arg;
	struct message *m;

	while (!x->stopped && (m = STAILQ_FIRST(&x->queue)) != NULL) {
		STAILQ_REMOVE_HEAD(&x->queue, link);
		int err = pass(x, m);
		if (err != DSM_OK)
			taskrt__session_lose(
			    x->session, err,
			    "embedded coordinator and worker disagree about "
			    "%s: %s",
			    dsm__msg_name(m->type), dsm__strerror(err));
		free(m);
	}
	x->deferred = 0;
	if (!x->stopped)
		tick(x);
}

static void
queue_send(struct coord_link *l, unsigned type, const struct iovec *iov,
           int n_iov)
{
	struct queue_link *q =
	    (struct queue_link *)((char *)l -
	                          offsetof(struct queue_link, link));

	put(q->owner, q->target, type, iov, n_iov);
}

/* The worker gives up when it cannot start slots any more. Of the others none has a
 * reason to: something is wrong. */
static void
queue_close(struct coord_link *l, const char *reason)
{
	struct queue_link *q =
	    (struct queue_link *)((char *)l -
	                          offsetof(struct queue_link, link));

	if (reason == NULL)
		reason = "no reason given";
	if (q->target == TO_COORD_WORKER)
		taskrt__session_lose(q->owner->session, DSM_ECONN,
		                     "tasks cannot go on here: %s", reason);
	else
		taskrt__session_lose(q->owner->session, DSM_EPROTO,
		                     "the embedded coordinator gave up: %s",
		                     reason);
}

static void
init_link(struct embedded *x, struct queue_link *q, enum target target)
{
	*q = (struct queue_link){
	    .link = {.send = queue_send, .close = queue_close},
	    .owner = x,
	    .target = target,
	};
}

/* --- data links over socket pairs --- */

static int
local_data(void *ctx, unsigned slot, int stage_fd, int *fd_p)
{
	struct taskrt__session *s = ctx;
	struct taskrt__stagemap *stage = NULL;
	struct dsm_conn *conn;
	int fds[2];

	int err = dsm__shm_pair(fds);
	if (err != DSM_OK)
		return err;
	if (stage_fd >= 0)
		err = taskrt__stagemap_create(s, stage_fd, &stage);
	if (err != DSM_OK) {
		close(fds[0]);
		goto close_theirs;
	}
	err = dsm__conn_create(&dsm__shm_ops, fds[0], DSM_FRAME_MAX, &conn);
	if (err != DSM_OK) {
		if (stage != NULL)
			stage->in_use = 0;
		goto close_theirs;
	}
	err = taskrt__serveconn_start(s, conn, stage, TASKRT__LINK_OWN, NULL);
	if (err != DSM_OK)
		goto close_theirs;
	*fd_p = fds[1];
	return DSM_OK;
close_theirs:
	close(fds[1]);
	log_warn("no data link for slot %u: %s", slot, dsm__strerror(err));
	return err;
}

/* --- the session's link --- */

static void
embedded_send(struct taskrt__session *s, unsigned type, const struct iovec *iov,
              int n_iov)
{
	put(s->link_state, TO_COORD_CLIENT, type, iov, n_iov);
}

static void
embedded_welcomed(struct taskrt__session *s)
{
	if (s->listener != NULL)
		taskrt__listener_accept(s);
}

static void
embedded_stop(struct taskrt__session *s)
{
	struct embedded *x = s->link_state;
	struct message *m;

	x->stopped = 1;
	if (x->worker != NULL)
		worker_destroy(x->worker);
	if (x->coord != NULL)
		coord_destroy(x->coord);
	while ((m = STAILQ_FIRST(&x->queue)) != NULL) {
		STAILQ_REMOVE_HEAD(&x->queue, link);
		free(m);
	}
	x->tick.data = s;
	taskrt__session_uv_close(s, (uv_handle_t *)&x->tick);
}

static void
embedded_free(struct taskrt__session *s)
{
	free(s->link_state);
}

static const struct taskrt__link_ops embedded_ops = {
    .send = embedded_send,
    .welcomed = embedded_welcomed,
    .stop = embedded_stop,
    .free = embedded_free,
};

/* --- start --- */

static int
make_worker(struct embedded *x, struct dsm_error *e)
{
	struct taskrt__session *s = x->session;
	int shm = s->config->transport != TASKRT__TRANSPORT_TCP;
	const struct worker_params params = {
	    .n_slots = s->config->slots,
	    .up = &x->worker_up.link,
	    .local_data = shm ? local_data : NULL,
	    .local_ctx = s,
	    .heap_fd = shm ? dsm__views_fd(s->heap->views) : -1,
	    .heap_base = (uintptr_t)dsm__views_base(s->heap->views),
	    .heap_size = dsm__views_size(s->heap->views),
	    .connect_ms = s->config->wait_ms,
	    .force_segv = s->config->force_segv,
	    .sandbox = {.off = s->config->no_sandbox},
	};

	if (s->config->no_sandbox)
		log_warn("TASKRT_SANDBOX=off: tasks can do all that this "
		         "program may");
	return worker_create(s->loop, &params, &x->worker, e);
}

static int
join(struct embedded *x, const struct dsm_msg_hello *hello, const char *name,
     struct queue_link *link, struct coord_peer **peer_p, struct dsm_error *e)
{
	int err = coord_join(x->coord, hello, NULL, name, &link->link, peer_p);

	if (err == DSM_OK && *peer_p == NULL)
		err = DSM_EINCOMPAT;
	if (err != DSM_OK)
		return dsm__fail(e, err,
		                 "embedded coordinator: %s does not "
		                 "join: %s",
		                 name, dsm__strerror(err));
	return DSM_OK;
}

static int
join_both(struct embedded *x, const char *addr, struct dsm_error *e)
{
	struct dsm_msg_hello hello;

	taskrt__session_hello(&hello, DSM_ROLE_CLIENT, addr);
	int err =
	    join(x, &hello, "this program", &x->to_client, &x->client_peer, e);
	if (err != DSM_OK)
		return err;
	worker_hello(x->worker, &hello);
	return join(x, &hello, "this machine", &x->to_worker, &x->worker_peer,
	            e);
}

int
taskrt__embedded_start(struct taskrt__session *s, struct dsm_error *e)
{
	const struct coord_params params = {.no_worker_ms = s->config->wait_ms};
	struct embedded *x = calloc(1, sizeof(*x));
	char addr[DSM_ADDR_MAX] = "";

	if (x == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	x->session = s;
	STAILQ_INIT(&x->queue);
	init_link(x, &x->to_client, TO_CLIENT);
	init_link(x, &x->to_worker, TO_WORKER);
	init_link(x, &x->worker_up, TO_COORD_WORKER);
	uv_timer_init(dsm__loop_uv(s->loop), &x->tick);
	x->tick.data = x;
	/* From here on the session's destroy takes everything down. */
	s->link_state = x;
	s->link = &embedded_ops;
	if (s->config->transport == TASKRT__TRANSPORT_TCP) {
		int err = taskrt__listener_start(s, "127.0.0.1:0", addr, e);
		if (err != DSM_OK)
			return err;
	}
	int err = coord_create(&params, &x->coord);
	if (err != DSM_OK)
		return dsm__fail(e, err,
		                 "cannot start the embedded "
		                 "coordinator: %s",
		                 dsm__strerror(err));
	err = make_worker(x, e);
	if (err != DSM_OK)
		return err;
	return join_both(x, addr, e);
}
