/*
 * Poll and timer handles. libuv gives a handle's memory back only later, in its
 * close callback: so each is a block of its own, and closing one just cuts its
 * callback off.
 */
#include "worker_priv.h"

#include <stdlib.h>

struct wpoll {
	uv_poll_t uv;
	void (*fn)(void *arg);
	void *arg;
};

struct wtimer {
	uv_timer_t uv;
	struct dsm_loop *loop;
	void (*fn)(void *arg);
	void *arg;
};

static void
free_handle(uv_handle_t *h)
{
	free(h->data);
}

/* Errors of the descriptor too: fn reads it and finds out. */
static void
on_poll(uv_poll_t *uv, int status, int events)
{
	struct wpoll *p = uv->data;

	(void)status;
	(void)events;
	p->fn(p->arg);
}

int
wpoll_open(struct dsm_loop *l, int fd, int events, void (*fn)(void *arg),
           void *arg, struct wpoll **p_p)
{
	struct wpoll *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return DSM_ENOMEM;
	if (uv_poll_init(dsm__loop_uv(l), &p->uv, fd) != 0) {
		free(p);
		return DSM_ESYS;
	}
	p->uv.data = p;
	p->fn = fn;
	p->arg = arg;
	uv_poll_start(&p->uv, events, on_poll);
	*p_p = p;
	return DSM_OK;
}

void
wpoll_close(struct wpoll *p)
{
	if (p != NULL)
		uv_close((uv_handle_t *)&p->uv, free_handle);
}

static void
on_timer(uv_timer_t *uv)
{
	struct wtimer *t = uv->data;

	t->fn(t->arg);
}

int
wtimer_open(struct dsm_loop *l, void (*fn)(void *arg), void *arg,
            struct wtimer **t_p)
{
	struct wtimer *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return DSM_ENOMEM;
	uv_timer_init(dsm__loop_uv(l), &t->uv);
	t->uv.data = t;
	t->loop = l;
	t->fn = fn;
	t->arg = arg;
	*t_p = t;
	return DSM_OK;
}

void
wtimer_start(struct wtimer *t, uint64_t ms, uint64_t repeat_ms)
{
	/* libuv's clock stands still while nobody drives the loop. */
	uv_update_time(dsm__loop_uv(t->loop));
	uv_timer_start(&t->uv, on_timer, ms, repeat_ms);
}

void
wtimer_stop(struct wtimer *t)
{
	uv_timer_stop(&t->uv);
}

void
wtimer_close(struct wtimer *t)
{
	if (t != NULL)
		uv_close((uv_handle_t *)&t->uv, free_handle);
}
