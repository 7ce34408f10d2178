#include "connect.h"

#include <stdlib.h>
#include <unistd.h>

struct dsm_connect {
	struct dsm_loop *loop;
	const char *addr;
	dsm_connected *done;
	void *arg;
	int fd; /* -1: handed on */
	uv_poll_t poll;
	uv_timer_t limit;
	unsigned n_open; /* of the two: freed when both have closed */
};

static void
on_closed(uv_handle_t *h)
{
	struct dsm_connect *c = h->data;

	if (--c->n_open == 0)
		free(c);
}

/* libuv must let go of the descriptor before it is another's. */
static void
end(struct dsm_connect *c)
{
	dsm__loop_uv(c->loop);
	uv_close((uv_handle_t *)&c->poll, on_closed);
	uv_close((uv_handle_t *)&c->limit, on_closed);
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static void
on_writable(uv_poll_t *poll, int status, int events)
{
	struct dsm_connect *c = poll->data;
	struct dsm_error e = {0};
	int fd = c->fd;

	(void)status;
	(void)events;
	if (dsm__tcp_connect_result(fd, c->addr, &e) == DSM_OK)
		c->fd = -1;
	else
		fd = -1;
	end(c);
	c->done(c->arg, fd, &e);
}

static void
on_limit(uv_timer_t *t)
{
	struct dsm_connect *c = t->data;
	struct dsm_error e = {0};

	dsm__fail(&e, DSM_ETIMEDOUT,
	          "cannot connect to %s: no answer within %g s", c->addr,
	          (double)uv_timer_get_repeat(t) / 1000);
	end(c);
	c->done(c->arg, -1, &e);
}

int
dsm__connect_start(struct dsm_loop *l, const char *addr, uint64_t limit_ms,
                   dsm_connected *done, void *arg, struct dsm_connect **c_p,
                   struct dsm_error *e)
{
	struct dsm_connect *c = calloc(1, sizeof(*c));
	uv_loop_t *uv = dsm__loop_uv(l);
	int err;

	if (c == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	err = dsm__tcp_connect_start(addr, &c->fd, e);
	if (err != DSM_OK) {
		free(c);
		return err;
	}
	if (uv_poll_init(uv, &c->poll, c->fd) != 0) {
		close(c->fd);
		free(c);
		return dsm__fail(e, DSM_ESYS, "cannot watch a socket");
	}
	uv_timer_init(uv, &c->limit);
	c->poll.data = c->limit.data = c;
	c->loop = l;
	c->addr = addr;
	c->done = done;
	c->arg = arg;
	c->n_open = 2;
	uv_poll_start(&c->poll, UV_WRITABLE, on_writable);
	uv_update_time(uv);
	/* It does not repeat: the first time is its end. */
	uv_timer_start(&c->limit, on_limit, limit_ms, limit_ms);
	*c_p = c;
	return DSM_OK;
}

void
dsm__connect_cancel(struct dsm_connect *c)
{
	if (c != NULL)
		end(c);
}

void
dsm__connect_forget(struct dsm_connect *c)
{
	if (c != NULL && c->fd >= 0)
		close(c->fd);
}
