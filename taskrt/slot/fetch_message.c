/* Fetching by READ and PAGES messages. */
#include "fetch_priv.h"
#include "vdso.h"

static int
send_scratch(struct fetch *ft, unsigned type)
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

	dsm__wbuf_reset(&ft->w);
	err = dsm__encode_read(&ft->w, &m);
	if (err != DSM_OK)
		return err;
	ft->p.counters->fetches++;
	return send_scratch(ft, DSM_MSG_READ);
}

/* Next frame of the data link, counting whether spinning was enough. */
static int
next_frame(struct fetch *ft, struct dsm_frame *f)
{
	int spun = 0;
	int err = dsm__conn_drain(ft->p.data, dsm__deadline_ms(REPLY_MS));

	if (err != DSM_OK)
		return err;
	err = dsm__conn_recv_wait(ft->p.data, dsm__deadline_ms(REPLY_MS),
	                          ft->p.spin_ns, f, &spun);
	if (err != DSM_OK)
		return err;
	if (spun)
		ft->p.counters->spins_hit++;
	else
		ft->p.counters->spins_missed++;
	return DSM_OK;
}

int
message_take(struct fetch *ft, const struct window *w,
             const struct space_range *r, uint32_t *got_p)
{
	struct dsm_frame f;
	struct dsm_msg_pages m;
	const uint8_t *bytes;
	int err = next_frame(ft, &f);

	if (err != DSM_OK)
		return err;
	if (f.type != DSM_MSG_PAGES)
		return DSM_EPROTO;
	err = dsm__decode_pages(f.body, f.len, &m);
	if (err != DSM_OK || m.addr != w->addr || m.n_pages > w->n ||
	    f.len - DSM_PAGES_FIXED != m.n_pages * DSM_PAGE)
		return DSM_EPROTO;
	bytes = f.body + DSM_PAGES_FIXED;
	/* The frame buffer is ours to write until the next receive. */
	if (r != NULL && r->r.kind == DSM_RANGE_VDSO)
		vdso_patch((uint8_t *)(uintptr_t)bytes, m.n_pages * DSM_PAGE);
	if (m.n_pages > 0)
		err = dsm__image_publish(ft->p.image, w->off, m.n_pages, bytes);
	if (m.n_pages < w->n)
		dsm__image_abandon(ft->p.image, w->off + m.n_pages * DSM_PAGE,
		                   w->n - m.n_pages);
	*got_p = m.n_pages;
	return err;
}

int
message_ask(struct fetch *ft, unsigned type, unsigned reply,
            struct dsm_frame *f_p)
{
	int err = send_scratch(ft, type);

	if (err == DSM_OK)
		err = next_frame(ft, f_p);
	if (err == DSM_OK && f_p->type != reply)
		err = DSM_EPROTO;
	return err;
}
