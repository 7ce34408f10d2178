/*
 * Connecting a slot to its client: the worker does it, so that a slot begins its
 * life with a connection that works and needs no network code for making one.
 *
 * DIRECT: connect to the client's listener -> HELLO -> WELCOME -> done
 * RELAY:  the same at the coordinator, which passes the HELLO on to the client;
 *         tried when DIRECT fails, or at once when the session says so; not when
 *         verbs is a must: it needs a path of its own to the client
 */
#include "worker_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/secret.h"
#include "../../dsm/transport/access.h"

#define FRAME_MAX (64u << 10)
#define CONNECT_MS 3000

enum dial_stage {
	DIAL_DIRECT,
	DIAL_RELAY,
	DIAL_STAGES,
};

struct dial {
	struct wsession *ss;
	void (*done)(void *arg, const struct dialled *d);
	void *arg;
	enum dial_stage stage;
	int offered; /* our HELLO of this stage offered verbs */
	const char *addr;
	int fd; /* connecting, else -1 */
	struct wpoll *poll;
	struct wtimer *timer;      /* this stage's end; 0 ms: begin it */
	struct dsm_handle *handle; /* waiting for WELCOME */
	struct dialled result;
};

static void try_stage(struct dial *d);

static void
free_dial(struct dial *d)
{
	wpoll_close(d->poll);
	wtimer_close(d->timer);
	if (d->handle != NULL)
		dsm__handle_close(d->handle);
	if (d->fd >= 0)
		close(d->fd);
	free(d);
}

static void
finish(struct dial *d)
{
	void (*done)(void *arg, const struct dialled *r) = d->done;
	struct dialled result = d->result;
	void *arg = d->arg;

	free_dial(d);
	done(arg, &result);
	dsm__wipe(&result.tls, sizeof(result.tls));
}

static void
begin_stage(void *arg)
{
	try_stage(arg);
}

/* This stage is over: note why, go on with the next. */
__attribute__((format(printf, 2, 3))) static void
fail_stage(struct dial *d, const char *fmt, ...)
{
	const size_t size = sizeof(d->result.why);
	char *why = d->result.why;
	size_t used = strlen(why);
	va_list ap;

	if (used > 0 && used < size)
		used += (size_t)snprintf(why + used, size - used, "; ");
	if (d->stage == DIAL_RELAY && used < size)
		used += (size_t)snprintf(why + used, size - used, "relay: ");
	if (used < size) {
		va_start(ap, fmt);
		vsnprintf(why + used, size - used, fmt, ap);
		va_end(ap);
	}
	wpoll_close(d->poll);
	d->poll = NULL;
	if (d->handle != NULL)
		dsm__handle_close(d->handle);
	d->handle = NULL;
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
	d->stage++;
	try_stage(d);
}

/* --- HELLO, WELCOME --- */

/* Verbs is a must and cannot be: no other stage helps. */
static void
fail_for_good(struct dial *d, const char *why)
{
	d->result.hopeless = 1;
	snprintf(d->result.why, sizeof(d->result.why), "%s", why);
	finish(d);
}

/* 0: it cannot be by this connection, and d is gone. */
static int
agree_on_verbs(struct dial *d, const struct dsm_msg_welcome *m)
{
	struct wsession *ss = d->ss;
	const struct worker_verbs *v = &ss->w->p.verbs;
	char why[sizeof(d->result.why)];

	d->result.verbs = d->offered && (m->features & DSM_FEATURE_VERBS) != 0;
	ss->way.client_insists = (m->flags & DSM_WELCOME_VERBS_ONLY) != 0;
	if (d->result.verbs || !link_insists(ss))
		return 1;
	if (!ss->way.client_insists)
		snprintf(why, sizeof(why),
		         "this worker is to use verbs only, and the program "
		         "does not offer it");
	else if (d->stage == DIAL_RELAY)
		snprintf(why, sizeof(why),
		         "the program wants verbs only, and this worker "
		         "reaches it through the coordinator's relay only: "
		         "%.400s",
		         d->result.why);
	else
		snprintf(why, sizeof(why),
		         "the program wants verbs only, and this worker has "
		         "none%s%s",
		         v->why_not[0] != '\0' ? ": " : " (--transport tcp)",
		         v->why_not);
	fail_for_good(d, why);
	return 0;
}

static void
on_welcome(struct dial *d, const struct dsm_msg_welcome *m)
{
	struct dsm_conn *conn;
	int fd;

	if (!agree_on_verbs(d, m))
		return;
	conn = dsm__handle_detach(d->handle);
	d->handle = NULL;
	/* The conn keeps its descriptor. Nothing is buffered in it: the client
	 * speaks next when it is asked. */
	fd = fcntl(dsm__conn_fd(conn), F_DUPFD_CLOEXEC, 3);
	if (fd >= 0 && dsm__conn_is_tls(conn) &&
	    dsm__conn_tls_export(conn, &d->result.tls) != DSM_OK) {
		close(fd);
		dsm__conn_close(conn);
		fail_stage(d, "%s says more than WELCOME", d->addr);
		return;
	}
	dsm__conn_close(conn);
	if (fd < 0) {
		fail_stage(d, "dup: %s", strerror(errno));
		return;
	}
	if (d->stage == DIAL_RELAY)
		d->ss->use_relay = 1;
	d->result.fd = fd;
	finish(d);
}

static void
on_refuse(struct dial *d, const char *text, int code)
{
	const struct worker_verbs *v = &d->ss->w->p.verbs;

	/* What a program that wants verbs only says to a HELLO without. */
	if (code == DSM_EINCOMPAT && !d->offered && v->why_not[0] != '\0')
		fail_stage(d, "%s refuses: %s; this worker: %s", d->addr, text,
		           v->why_not);
	else
		fail_stage(d, "%s refuses: %s", d->addr, text);
}

static void
on_frame(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct dial *d = owner;
	struct dsm_msg_welcome welcome;
	struct dsm_msg_refuse refuse;
	char text[200];

	(void)h;
	if (f->type == DSM_MSG_WELCOME &&
	    dsm__decode_welcome(f->body, f->len, &welcome) == DSM_OK) {
		on_welcome(d, &welcome);
	} else if (f->type == DSM_MSG_REFUSE &&
	           dsm__decode_refuse(f->body, f->len, &refuse) == DSM_OK) {
		on_refuse(d, dsm__str_copy(text, sizeof(text), refuse.text),
		          -(int)refuse.code);
	} else {
		fail_stage(d, "%s: unexpected message %s", d->addr,
		           dsm__msg_name(f->type));
	}
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct dial *d = owner;
	const char *why = dsm__conn_why(dsm__handle_conn(h));

	fail_stage(d, "%s: closed before it answered (%s)", d->addr,
	           why[0] != '\0' ? why : dsm__strerror(err));
}

static const struct dsm_handle_ops handle_ops = {
    .frame = on_frame,
    .lost = on_lost,
};

static int
send_hello(struct dial *d)
{
	struct dsm_msg_hello h = {.role = DSM_ROLE_DATA, .session = d->ss->id};
	struct dsm_wbuf w = {0};
	struct iovec iov;
	int err;

	worker_fill_hello(d->ss->w, &h);
	/* With TLS it has been shown already, and does not travel. */
	if (!d->ss->w->p.tls)
		h.key =
		    (struct dsm_blob){d->ss->key.ptr, (uint32_t)d->ss->key.len};
	d->offered = d->stage == DIAL_DIRECT && link_offers_verbs(d->ss);
	if (d->offered)
		h.features |= DSM_FEATURE_VERBS;
	err = dsm__encode_hello(&w, &h);
	iov = (struct iovec){w.ptr, w.len};
	if (err == DSM_OK)
		err = dsm__handle_send(d->handle, DSM_MSG_HELLO, 0, &iov, 1);
	dsm__wbuf_fini(&w);
	return err;
}

static void
on_connected(void *arg)
{
	struct dial *d = arg;
	struct dsm_error e = {0};
	struct dsm_conn *conn;
	int fd = d->fd;
	int err;

	wpoll_close(d->poll);
	d->poll = NULL;
	err = dsm__tcp_connect_result(fd, d->addr, &e);
	if (err != DSM_OK) {
		fail_stage(d, "%s", e.text);
		return;
	}
	d->fd = -1;
	if (!d->ss->w->p.tls && !d->ss->w->p.insecure &&
	    dsm__tcp_peer_is_loopback(fd) == 0) {
		close(fd);
		fail_stage(d,
		           "%s: the connection would not be encrypted "
		           "(--token-file, or --insecure)",
		           d->addr);
		return;
	}
	err = dsm__conn_create(&dsm__tcp_ops, fd, FRAME_MAX, &conn);
	if (err == DSM_OK && d->ss->w->p.tls) {
		err = dsm__access_session(conn, d->ss->id, d->ss->key.ptr,
		                          d->ss->key.len);
		if (err != DSM_OK)
			dsm__conn_close(conn);
	}
	if (err == DSM_OK) {
		err = dsm__loop_attach(d->ss->w->loop, conn, &handle_ops, d,
		                       &d->handle);
		if (err != DSM_OK)
			dsm__conn_close(conn);
	}
	if (err == DSM_OK)
		err = send_hello(d);
	if (err != DSM_OK)
		fail_stage(d, "%s: %s", d->addr, dsm__strerror(err));
}

/* --- stages --- */

static void
on_timeout(void *arg)
{
	struct dial *d = arg;

	d->result.silent |= d->handle != NULL;
	fail_stage(d, "%s: %s", d->addr,
	           d->handle != NULL ? "does not answer HELLO"
	                             : "connect timed out");
}

static const char *
stage_addr(const struct dial *d)
{
	const struct wsession *ss = d->ss;

	if (d->stage == DIAL_DIRECT)
		return ss->use_relay ? "" : ss->addr;
	return ss->w->p.verbs.only ? "" : ss->w->relay;
}

static void
try_stage(struct dial *d)
{
	uint64_t ms = d->ss->w->p.connect_ms;
	struct dsm_error e = {0};

	while (d->stage < DIAL_STAGES && *stage_addr(d) == '\0')
		d->stage++;
	if (d->stage == DIAL_STAGES) {
		if (d->result.why[0] == '\0')
			snprintf(d->result.why, sizeof(d->result.why),
			         "the client gave no address and there is no "
			         "relay%s",
			         d->ss->w->p.verbs.only ? " for verbs" : "");
		finish(d);
		return;
	}
	d->addr = stage_addr(d);
	wtimer_close(d->timer);
	d->timer = NULL;
	if (wtimer_open(d->ss->w->loop, on_timeout, d, &d->timer) != DSM_OK) {
		fail_stage(d, "%s: out of memory", d->addr);
		return;
	}
	wtimer_start(d->timer, ms != 0 ? ms : CONNECT_MS, 0);
	if (dsm__tcp_connect_start(d->addr, &d->fd, &e) != DSM_OK) {
		d->fd = -1;
		fail_stage(d, "%s", e.text);
	} else if (wpoll_open(d->ss->w->loop, d->fd, UV_WRITABLE, on_connected,
	                      d, &d->poll) != DSM_OK) {
		fail_stage(d, "%s: cannot watch the socket", d->addr);
	}
}

int
dial_start(struct wsession *ss,
           void (*done)(void *arg, const struct dialled *r), void *arg,
           struct dial **d_p)
{
	struct dial *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return DSM_ENOMEM;
	d->ss = ss;
	d->done = done;
	d->arg = arg;
	d->fd = d->result.fd = -1;
	/* From the loop, so that done is never called from here. */
	if (wtimer_open(ss->w->loop, begin_stage, d, &d->timer) != DSM_OK) {
		free(d);
		return DSM_ENOMEM;
	}
	wtimer_start(d->timer, 0, 0);
	*d_p = d;
	return DSM_OK;
}

void
dial_cancel(struct dial *d)
{
	if (d != NULL)
		free_dial(d);
}
