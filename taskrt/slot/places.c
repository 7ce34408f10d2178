#include "places.h"

#include "../../dsm/base/clock.h"
#include "../../dsm/base/page.h"

#define SEND_MS 30000u
/* Faults belong to pages that came just now. */
#define LOOK_BACK 4u

void
places_begin(struct places *p, uint64_t run, uint64_t attempt)
{
	p->run = run;
	p->attempt = attempt;
	p->n = 0;
	p->err = DSM_OK;
}

static int
send_all(struct places *p)
{
	struct dsm_msg_fetched m = {
	    .session = p->session,
	    .run = p->run,
	    .attempt = p->attempt,
	};
	struct iovec iov;
	int err = DSM_OK;

	dsm__wbuf_reset(&p->records);
	dsm__wbuf_reset(&p->frame);
	for (uint32_t i = 0; i < p->n && err == DSM_OK; i++)
		err = dsm__pack_place(&p->records, &p->v[i]);
	m.places = (struct dsm_array){p->records.ptr, p->n};
	if (err == DSM_OK)
		err = dsm__encode_fetched(&p->frame, &m);
	if (err != DSM_OK)
		return err;
	iov = (struct iovec){p->frame.ptr, p->frame.len};
	err = dsm__conn_send(p->control, DSM_MSG_FETCHED, 0, 0, &iov, 1);
	if (err == DSM_OK)
		err = dsm__conn_drain(p->control, dsm__deadline_ms(SEND_MS));
	return err;
}

int
places_send(struct places *p)
{
	if (p->n > 0 && p->err == DSM_OK)
		p->err = send_all(p);
	p->n = 0;
	return p->err;
}

static struct dsm_rec_place *
add(struct places *p, uint64_t addr)
{
	if (p->n == DSM_FETCHED_MAX)
		places_send(p);
	p->v[p->n] = (struct dsm_rec_place){.start = addr};
	return &p->v[p->n++];
}

void
places_pages(struct places *p, uint64_t addr, uint32_t n)
{
	if (p->asked && n > 0)
		add(p, addr)->n_pages = n;
}

void
places_fault(struct places *p, uint64_t addr, uint64_t wait_ns)
{
	struct dsm_rec_place *r = NULL;

	if (!p->asked)
		return;
	addr = dsm__page_down(addr);
	for (uint32_t i = p->n; r == NULL && i > 0 && i + LOOK_BACK > p->n; i--)
		if (p->v[i - 1].start == addr)
			r = &p->v[i - 1];
	if (r == NULL)
		r = add(p, addr);
	r->faults++;
	r->wait_ns += wait_ns;
}
