/* Fetching by READ and PAGES messages. */
#include "fetch_priv.h"
#include "vdso.h"

int
message_send(struct fetch *ft, unsigned type)
{
	struct iovec iov = {ft->w.ptr, ft->w.len};

	return dsm__conn_send(ft->p.data, type, 0, 0, &iov, 1);
}

int
message_request(struct fetch *ft, const struct window *w)
{
	struct dsm_msg_read m = {
	    .run = ft->run, .addr = w->addr, .n_pages = w->n};
	int err;

	/* Frames come in the order in which they were asked for. */
	err = direct_hear(ft);
	if (err != DSM_OK)
		return err;
	dsm__wbuf_reset(&ft->w);
	err = dsm__encode_read(&ft->w, &m);
	if (err != DSM_OK)
		return err;
	ft->p.counters->fetches++;
	return message_send(ft, DSM_MSG_READ);
}

/* Windows from this on are not received in one piece. */
#define STREAM_MIN 16u

/* Next frame of the data link, or its first `head` bytes, counting whether
 * spinning was enough. */
static int
next_frame(struct fetch *ft, uint32_t head, struct dsm_frame *f)
{
	int spun = 0;
	int err = dsm__conn_drain(ft->p.data, dsm__deadline_ms(CLIENT_MS));

	if (err != DSM_OK)
		return err;
	if (head > 0)
		err = dsm__conn_recv_head(ft->p.data, head,
		                          dsm__deadline_ms(CLIENT_MS),
		                          ft->p.spin_ns, f, &spun);
	else
		err =
		    dsm__conn_recv_wait(ft->p.data, dsm__deadline_ms(CLIENT_MS),
		                        ft->p.spin_ns, f, &spun);
	if (err != DSM_OK)
		return err;
	if (spun)
		ft->p.counters->spins_hit++;
	else
		ft->p.counters->spins_missed++;
	return DSM_OK;
}

/* The reply to w, or its head: how many pages it has. */
static int
open_reply(struct fetch *ft, struct window *w, int in_parts,
           struct dsm_frame *f)
{
	struct dsm_msg_pages m;
	uint32_t asked = w->n;
	int err = next_frame(ft, in_parts ? DSM_PAGES_FIXED : 0, f);

	if (err != DSM_OK)
		return err;
	if (f->type != DSM_MSG_PAGES || f->len < DSM_PAGES_FIXED ||
	    dsm__decode_pages(f->body, DSM_PAGES_FIXED, &m) != DSM_OK ||
	    m.addr != w->addr || m.n_pages > asked ||
	    f->len - DSM_PAGES_FIXED != m.n_pages * DSM_PAGE)
		return DSM_EPROTO;
	w->open = 1;
	w->n = m.n_pages;
	if (w->n < asked)
		dsm__image_abandon(ft->p.image, w->off + w->n * DSM_PAGE,
		                   asked - w->n);
	return DSM_OK;
}

static int
publish_reply(struct fetch *ft, struct window *w, const struct space_range *r,
              const uint8_t *bytes)
{
	/* The frame buffer is ours to write until the next receive. */
	if (r != NULL && r->r.kind == DSM_RANGE_VDSO)
		vdso_patch((uint8_t *)(uintptr_t)bytes, w->n * DSM_PAGE);
	w->done = w->n;
	return w->n > 0 ? dsm__image_publish(ft->p.image, w->off, w->n, bytes)
	                : DSM_OK;
}

int
message_take(struct fetch *ft, struct window *w, const struct space_range *r,
             uint32_t upto)
{
	int in_parts = w->n >= STREAM_MIN &&
	               dsm__conn_likes_parts(ft->p.data) &&
	               (r == NULL || r->r.kind != DSM_RANGE_VDSO);
	struct dsm_frame f;
	int err;

	if (!w->open) {
		err = open_reply(ft, w, in_parts, &f);
		if (err != DSM_OK)
			return err;
		if (!in_parts)
			return publish_reply(ft, w, r,
			                     f.body + DSM_PAGES_FIXED);
	}
	if (upto > w->n)
		upto = w->n;
	err = dsm__image_stream(ft->p.image, w->off + w->done * DSM_PAGE,
	                        upto - w->done, ft->p.data, &ft->stream,
	                        dsm__deadline_ms(CLIENT_MS), ft->p.spin_ns);
	w->done = upto;
	return err;
}

int
message_answer(struct fetch *ft, unsigned reply, struct dsm_frame *f_p)
{
	int err = next_frame(ft, 0, f_p);

	return err == DSM_OK && f_p->type != reply ? DSM_EPROTO : err;
}

int
message_ask(struct fetch *ft, unsigned type, unsigned reply,
            struct dsm_frame *f_p)
{
	int err = direct_hear(ft);

	if (err == DSM_OK)
		err = message_send(ft, type);
	return err == DSM_OK ? message_answer(ft, reply, f_p) : err;
}
