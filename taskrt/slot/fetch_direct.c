/*
 * Fetching heap pages one-sidedly: RDMA READs of the client's serving view into a
 * ring, and from there into the image.
 *
 * Not straight into the image: a page is there, for every slot, as soon as the
 * file has it, so only whole pages may be written; and the image would have to be
 * registered, which pins it.
 *
 * The ring has two halves, each as large as the largest window; windows under way
 * take turns. A window is read in pieces, so that the first is published while the
 * others are on their way. Pieces are started in the order in which they will be
 * waited for: those of the window ahead only when all of the one before are.
 */
#include "fetch_priv.h"

#define PIECE_PAGES 16u
#define LOOK_AHEAD 8u /* windows */

static int
ask_key(struct fetch *ft, uint64_t addr, uint64_t len)
{
	struct dsm_msg_ask_key ask = {.addr = addr, .len = len};
	int err;

	dsm__wbuf_reset(&ft->w);
	err = dsm__encode_ask_key(&ft->w, &ask);
	if (err == DSM_OK)
		err = message_send(ft, DSM_MSG_ASK_KEY);
	ft->p.counters->keys_asked++;
	ft->asking = err == DSM_OK;
	ft->asking_run = ft->run;
	return err;
}

int
direct_hear(struct fetch *ft)
{
	struct dsm_msg_regions m;
	struct dsm_frame f;
	int err;

	if (!ft->asking)
		return DSM_OK;
	ft->asking = 0;
	err = message_answer(ft, DSM_MSG_REGIONS, &f);
	if (err == DSM_OK)
		err = dsm__decode_regions(f.body, f.len, &m);
	if (err == DSM_OK)
		err = keys_add(&ft->keys, &m.regions);
	/* Without a key then: perhaps with one by now. */
	if (err == DSM_OK && ft->asking_run != ft->run)
		keys_new_run(&ft->keys);
	return err;
}

/* NULL with DSM_OK: the client would have to be asked, and must not. */
static int
find_region(struct fetch *ft, uint64_t addr, uint64_t len, int may_ask,
            const struct dsm_rec_region **r_p)
{
	int err = DSM_OK;

	*r_p = keys_find(&ft->keys, addr);
	if (*r_p == NULL && ft->asking) {
		err = direct_hear(ft);
		*r_p = keys_find(&ft->keys, addr);
	}
	if (*r_p != NULL || !may_ask || err != DSM_OK)
		return err;
	err = ask_key(ft, addr, len);
	if (err == DSM_OK)
		err = direct_hear(ft);
	*r_p = keys_find(&ft->keys, addr);
	/* Else it has answered something else. */
	return err == DSM_OK && *r_p == NULL ? DSM_EPROTO : err;
}

int
direct_plan(struct fetch *ft, struct window *w, int may_ask)
{
	const struct dsm_rec_region *r;
	int err = find_region(ft, w->addr, w->n * DSM_PAGE, may_ask, &r);

	if (err != DSM_OK)
		return err;
	if (r == NULL) {
		w->n = 0;
		return DSM_OK;
	}
	if (w->n > (r->end - w->addr) / DSM_PAGE)
		w->n = (uint32_t)((r->end - w->addr) / DSM_PAGE);
	w->rkey = r->rkey;
	w->remote = r->remote + (w->addr - r->start);
	return DSM_OK;
}

int
direct_look_ahead(struct fetch *ft, const struct window *w, uint64_t end)
{
	const struct dsm_rec_region *r = keys_find(&ft->keys, w->addr);
	uint64_t window = w->n * DSM_PAGE;

	if (ft->asking || r == NULL || r->end >= end ||
	    r->end - w->addr > (1 + LOOK_AHEAD) * window ||
	    keys_find(&ft->keys, r->end) != NULL)
		return DSM_OK;
	return ask_key(ft, r->end, window);
}

/* Start what can be under way besides the rest. 1: all of it is. */
static int
start_pieces(struct fetch *ft, struct window *w, int *all_p)
{
	while (w->n_started < w->n) {
		uint32_t n = w->n - w->n_started;
		uint64_t at = w->n_started * DSM_PAGE;
		int err;

		n = n < PIECE_PAGES ? n : PIECE_PAGES;
		err = ft->p.direct->start(ft->p.data, w->remote + at, w->rkey,
		                          w->room + at, n * DSM_PAGE);
		if (err == DSM_EAGAIN)
			break;
		if (err != DSM_OK)
			return err;
		w->n_started += n;
		ft->p.counters->rdma_reads++;
	}
	*all_p = w->n_started == w->n;
	return DSM_OK;
}

int
direct_request(struct fetch *ft, struct window *w, const struct window *before)
{
	int all;

	w->room = ft->p.direct->ring +
	          (size_t)ft->half * (ft->p.direct->ring_len / 2);
	ft->half ^= 1;
	w->n_started = 0;
	/* Else direct_take starts it, behind that one. */
	if (before != NULL && before->rkey != 0 &&
	    before->n_started < before->n)
		return DSM_OK;
	return start_pieces(ft, w, &all);
}

static int
wait_piece(struct fetch *ft)
{
	int spun = 0;
	/* A READ ends by itself, well or with the link: no look at the clock. */
	int err =
	    ft->p.direct->wait(ft->p.data, DSM_FOREVER, ft->p.spin_ns, &spun);

	if (err != DSM_OK)
		return err;
	if (spun)
		ft->p.counters->spins_hit++;
	else
		ft->p.counters->spins_missed++;
	return DSM_OK;
}

int
direct_take(struct fetch *ft, struct window *w, struct window *next,
            uint32_t upto)
{
	while (w->done < w->n && w->done < upto) {
		uint32_t n = w->n - w->done;
		uint64_t at = w->done * DSM_PAGE;
		int all, err = start_pieces(ft, w, &all);

		if (err == DSM_OK && all && next != NULL)
			err = start_pieces(ft, next, &all);
		/* Nothing is under way, and yet there is no room. */
		if (err == DSM_OK && w->n_started == w->done)
			err = DSM_EPROTO;
		if (err == DSM_OK)
			err = wait_piece(ft);
		if (err != DSM_OK)
			return err;
		n = n < PIECE_PAGES ? n : PIECE_PAGES;
		err = dsm__image_publish(ft->p.image, w->off + at, n,
		                         w->room + at);
		if (err != DSM_OK)
			return err;
		ft->p.counters->pages_rdma += n;
		w->done += n;
	}
	return DSM_OK;
}
