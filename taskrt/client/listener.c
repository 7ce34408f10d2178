/*
 * The data listener: slots of other machines (or of this one, when data links go
 * over TCP) connect here. It listens before HELLO, because HELLO has its address,
 * and accepts only after WELCOME, which says whether it may.
 */
#include "serveconn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/log.h"
#include "../../dsm/transport/tls.h"

#define FULL_PAUSE_MS 100 /* when no descriptor is left */
#define SWEEP_MS 500
#define ACCEPTS_PER_ROUND 64 /* others have something to say, too */

struct taskrt__listener {
	struct taskrt__session *session;
	uv_poll_t poll;
	uv_timer_t again; /* polls again after a pause */
	uv_timer_t sweep; /* while there are strangers: closes silent ones */
	int fd;
	unsigned n_open;    /* of the three handles */
	uint64_t said_full; /* dsm__log_due */
};

static void on_connection(uv_poll_t *poll, int status, int events);

static void
start_polling(struct taskrt__listener *l)
{
	dsm__loop_uv(l->session->loop);
	uv_poll_start(&l->poll, UV_READABLE, on_connection);
}

static void
on_again(uv_timer_t *timer)
{
	start_polling(timer->data);
}

static void
pause_polling(struct taskrt__listener *l)
{
	dsm__loop_uv(l->session->loop);
	uv_poll_stop(&l->poll);
	uv_timer_start(&l->again, on_again, FULL_PAUSE_MS, 0);
}

/* Those who know the session's key are its slots. On the stack for secrets. */
static int
find_key(void *ctx, const char *name, uint8_t psk_p[DSM_PSK_LEN])
{
	const struct taskrt__session *s = ctx;
	char ours[DSM_TLS_NAME_MAX];

	dsm__tls_session_name(s->id, ours);
	return strcmp(name, ours) == 0 &&
	       dsm__tls_psk_of_session(s->id, s->key, s->key_len, psk_p) ==
	           DSM_OK;
}

static int
want_key(struct taskrt__session *s, struct dsm_conn *conn)
{
	const struct dsm_tls_finder finder = {
	    find_key, s, "data links of this session are encrypted"};

	return s->tls ? dsm__conn_tls_accept(conn, &finder) : DSM_OK;
}

static void
on_sweep(uv_timer_t *timer)
{
	struct taskrt__listener *l = timer->data;

	if (taskrt__serveconn_sweep(l->session) == 0)
		uv_timer_stop(timer);
}

static void
serve(struct taskrt__session *s, int fd)
{
	struct dsm_conn *conn;
	int err;

	err = dsm__conn_create(&dsm__tcp_ops, fd, DSM_STRANGER_MAX, &conn);
	if (err == DSM_OK) {
		err = want_key(s, conn);
		if (err != DSM_OK)
			dsm__conn_close(conn);
	}
	if (err == DSM_OK)
		err = taskrt__serveconn_start(s, conn, NULL,
		                              TASKRT__LINK_DIRECT, NULL);
	if (err != DSM_OK)
		log_warn("data link not served: %s", dsm__strerror(err));
}

static void
on_connection(uv_poll_t *poll, int status, int events)
{
	struct taskrt__listener *l = poll->data;
	int fd, err = DSM_EAGAIN;

	(void)status;
	(void)events;
	for (int i = 0; i < ACCEPTS_PER_ROUND &&
	                (err = dsm__tcp_accept(l->fd, &fd)) == DSM_OK;
	     i++)
		serve(l->session, fd);
	if (!uv_is_active((uv_handle_t *)&l->sweep)) {
		uv_update_time(dsm__loop_uv(l->session->loop));
		uv_timer_start(&l->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
	}
	if (err == DSM_OK || err == DSM_EAGAIN)
		return;
	if (dsm__log_due(&l->said_full))
		log_warn("cannot accept data links: %s", strerror(errno));
	pause_polling(l);
}

int
taskrt__listener_start(struct taskrt__session *s, const char *addr,
                       char addr_p[DSM_ADDR_MAX], struct dsm_error *e)
{
	struct taskrt__listener *l = calloc(1, sizeof(*l));
	int err;

	if (l == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	err = dsm__tcp_listen(addr, addr_p, &l->fd, e);
	if (err != DSM_OK) {
		free(l);
		return err;
	}
	uv_loop_t *uv = dsm__loop_uv(s->loop);
	if (uv_poll_init(uv, &l->poll, l->fd) != 0) {
		close(l->fd);
		free(l);
		return dsm__fail(e, DSM_ESYS, "cannot poll a listening socket");
	}
	uv_timer_init(uv, &l->again);
	uv_timer_init(uv, &l->sweep);
	l->session = s;
	l->poll.data = l->again.data = l->sweep.data = l;
	l->n_open = 3;
	s->listener = l;
	return DSM_OK;
}

void
taskrt__listener_accept(struct taskrt__session *s)
{
	start_polling(s->listener);
}

static void
on_closed(uv_handle_t *h)
{
	struct taskrt__listener *l = h->data;

	l->session->n_uv_closing--;
	if (--l->n_open == 0)
		free(l);
}

void
taskrt__listener_stop(struct taskrt__session *s)
{
	struct taskrt__listener *l = s->listener;

	if (l == NULL)
		return;
	s->listener = NULL;
	s->n_uv_closing += 3;
	dsm__loop_uv(s->loop);
	uv_close((uv_handle_t *)&l->poll, on_closed);
	uv_close((uv_handle_t *)&l->again, on_closed);
	uv_close((uv_handle_t *)&l->sweep, on_closed);
	close(l->fd);
}

int
taskrt__listener_fd(const struct taskrt__session *s)
{
	return s->listener != NULL ? s->listener->fd : -1;
}
