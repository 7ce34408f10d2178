/*
 * Connecting a slot to its client: the worker does it, so that a slot begins its
 * life with a connection that works and needs no network code for making one.
 *
 * DIRECT: connect to the client's listener -> HELLO -> WELCOME -> done
 * RELAY:  the same at the coordinator, which passes the HELLO on to the client;
 *         tried when DIRECT fails, or at once when the session says so
 */
#include "worker_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FRAME_MAX (64u << 10)
#define CONNECT_MS 5000

enum dial_stage {
	DIAL_DIRECT,
	DIAL_RELAY,
	DIAL_STAGES,
};

struct dial {
	struct wsession *ss;
	void (*done)(void *arg, int fd, const char *why);
	void *arg;
	enum dial_stage stage;
	const char *addr;
	int fd; /* connecting, else -1 */
	struct wpoll *poll;
	struct wtimer *timer;      /* this stage's end; 0 ms: begin it */
	struct dsm_handle *handle; /* waiting for WELCOME */
	char why[600];
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
finish(struct dial *d, int fd)
{
	void (*done)(void *arg, int fd_, const char *why) = d->done;
	void *arg = d->arg;
	char why[sizeof(d->why)];

	memcpy(why, d->why, sizeof(why));
	free_dial(d);
	done(arg, fd, why);
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
	size_t used = strlen(d->why);
	va_list ap;

	if (used > 0 && used < sizeof(d->why))
		used += (size_t)snprintf(d->why + used, sizeof(d->why) - used,
		                         "; ");
	if (d->stage == DIAL_RELAY && used < sizeof(d->why))
		used += (size_t)snprintf(d->why + used, sizeof(d->why) - used,
		                         "relay: ");
	if (used < sizeof(d->why)) {
		va_start(ap, fmt);
		vsnprintf(d->why + used, sizeof(d->why) - used, fmt, ap);
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

static void
on_welcome(struct dial *d)
{
	struct dsm_conn *conn = dsm__handle_detach(d->handle);
	int fd;

	d->handle = NULL;
	/* The conn keeps its descriptor. Nothing is buffered in it: the client
	 * speaks next when it is asked. */
	fd = fcntl(dsm__conn_fd(conn), F_DUPFD_CLOEXEC, 3);
	dsm__conn_close(conn);
	if (fd < 0) {
		fail_stage(d, "dup: %s", strerror(errno));
		return;
	}
	if (d->stage == DIAL_RELAY)
		d->ss->use_relay = 1;
	finish(d, fd);
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
		on_welcome(d);
	} else if (f->type == DSM_MSG_REFUSE &&
	           dsm__decode_refuse(f->body, f->len, &refuse) == DSM_OK) {
		fail_stage(d, "%s refuses: %s", d->addr,
		           dsm__str_copy(text, sizeof(text), refuse.text));
	} else {
		fail_stage(d, "%s: unexpected message %s", d->addr,
		           dsm__msg_name(f->type));
	}
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct dial *d = owner;

	(void)h;
	fail_stage(d, "%s: closed before it answered (%s)", d->addr,
	           dsm__strerror(err));
}

static const struct dsm_handle_ops handle_ops = {
    .frame = on_frame,
    .lost = on_lost,
};

static int
send_hello(struct dial *d)
{
	struct dsm_msg_hello h = {
	    .role = DSM_ROLE_DATA,
	    .session = d->ss->id,
	    .key = {d->ss->key.ptr, (uint32_t)d->ss->key.len}};
	struct dsm_wbuf w = {0};
	struct iovec iov;
	int err;

	worker_fill_hello(d->ss->w, &h);
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
	err = dsm__conn_create(&dsm__tcp_ops, fd, FRAME_MAX, &conn);
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
	return ss->w->relay;
}

static void
try_stage(struct dial *d)
{
	uint64_t ms = d->ss->w->p.connect_ms;
	struct dsm_error e = {0};

	while (d->stage < DIAL_STAGES && *stage_addr(d) == '\0')
		d->stage++;
	if (d->stage == DIAL_STAGES) {
		if (d->why[0] == '\0')
			snprintf(
			    d->why, sizeof(d->why),
			    "the client gave no address and there is no relay");
		finish(d, -1);
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
           void (*done)(void *arg, int fd, const char *why), void *arg,
           struct dial **d_p)
{
	struct dial *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return DSM_ENOMEM;
	d->ss = ss;
	d->done = done;
	d->arg = arg;
	d->fd = -1;
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
