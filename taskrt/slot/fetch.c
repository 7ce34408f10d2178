#include "fetch_priv.h"

#include <stdlib.h>

#define AHEAD_MIN 8u
#define BLOCK_PAGES 16u

static struct fetch ft;

int
fetch_init(const struct fetch_params *p)
{
	if (p->direct != NULL && p->direct->ring_len < FETCH_RING)
		return DSM_EINVAL;
	keys_fini(&ft.keys);
	dsm__wbuf_fini(&ft.w);
	dsm__wbuf_fini(&ft.table);
	ft = (struct fetch){.p = *p};
	return DSM_OK;
}

void
fetch_set_run(uint64_t run)
{
	ft.run = run;
	keys_new_run(&ft.keys);
}

static void
show_claim(unsigned which, uint64_t off, uint32_t n)
{
	atomic_store_explicit(&ft.p.ctl->claim_off[which], off,
	                      memory_order_relaxed);
	atomic_store_explicit(&ft.p.ctl->claim_n[which], n,
	                      memory_order_release);
}

/* --- a window, whichever way it comes --- */

/*
 * By which way the window comes; perhaps less of it. before: a window that is
 * under way. 0 pages: the client would have to be asked, and PAGES are due first.
 */
static int
plan(const struct space_range *r, struct window *w, const struct window *before)
{
	w->rkey = 0;
	if (ft.p.direct == NULL || r->r.kind != DSM_RANGE_HEAP)
		return DSM_OK;
	return direct_plan(&ft, w, before == NULL || before->rkey != 0);
}

static int
request(struct window *w, const struct window *before)
{
	return w->rkey != 0 ? direct_request(&ft, w, before)
	                    : message_request(&ft, w);
}

/* Publish the oldest window's pages. *got_p: how many came. */
static int
take(struct window *w, const struct space_range *r, uint32_t *got_p)
{
	struct window *next =
	    ft.ahead.n > 0 && ft.ahead.rkey != 0 ? &ft.ahead : NULL;
	uint32_t got = w->n;
	int err = w->rkey != 0 ? direct_take(&ft, w, next)
	                       : message_take(&ft, w, r, &got);

	if (err != DSM_OK)
		return err;
	ft.p.counters->pages_fetched += got;
	ft.p.counters->bytes_fetched += got * DSM_PAGE;
	*got_p = got;
	return DSM_OK;
}

/* Claim and request the window of n pages from addr on, if there is room.
 * before: the one under way. */
static int
request_ahead(struct space_range *r, uint64_t addr, uint32_t n,
              const struct window *before)
{
	struct window w = {.addr = addr,
	                   .off = r->r.image_off + (addr - r->r.start)};
	uint64_t left = (r->r.end - addr) / DSM_PAGE;
	uint32_t state;
	int err;

	if (n > DSM_READ_MAX)
		n = DSM_READ_MAX;
	w.n = n < left ? n : (uint32_t)left;
	if (w.n == 0)
		return DSM_OK;
	err = plan(r, &w, before);
	if (err != DSM_OK || w.n == 0)
		return err;
	/* Shown first: this process may be killed right after the claim. */
	show_claim(1, w.off, w.n);
	w.n = dsm__image_claim(ft.p.image, w.off, w.n, ft.p.slot, &state);
	show_claim(1, w.off, w.n);
	if (w.n == 0)
		return DSM_OK;
	ft.ahead = w;
	return request(&ft.ahead, before);
}

static int
take_ahead(struct space_range *r)
{
	struct window w = ft.ahead;
	uint32_t got;
	int err;

	ft.ahead.n = 0;
	show_claim(0, w.off, w.n);
	/* The next window first: it is on its way while we publish this. */
	if (r != NULL && w.n >= AHEAD_MIN) {
		err = request_ahead(r, w.addr + w.n * DSM_PAGE, w.n * 2, &w);
		if (err != DSM_OK)
			return err;
	}
	if (ft.ahead.n == 0)
		show_claim(1, 0, 0);
	err = take(&w, r, &got);
	if (err == DSM_OK) {
		ft.p.counters->pages_prefetched += got;
		show_claim(0, 0, 0);
	}
	return err;
}

int
fetch_settle(void)
{
	return ft.ahead.n > 0 ? take_ahead(NULL) : DSM_OK;
}

static int
in_window(const struct window *w, uint64_t off)
{
	return w->n > 0 && off >= w->off && off < w->off + w->n * DSM_PAGE;
}

/*
 * Pages that are there in the aligned block of BLOCK_PAGES around off: what a
 * pointer chaser has touched of it. Unlike a sequential reader it leaves no run
 * behind, but it will want the rest too.
 */
static uint32_t
present_around(struct space_range *r, uint64_t off)
{
	uint64_t lo = off & ~(BLOCK_PAGES * DSM_PAGE - 1);
	uint64_t hi = lo + BLOCK_PAGES * DSM_PAGE;
	uint32_t n = 0;

	if (lo < r->r.image_off)
		lo = r->r.image_off;
	if (hi > r->r.image_off + (r->r.end - r->r.start))
		hi = r->r.image_off + (r->r.end - r->r.start);
	for (uint64_t at = lo; at < hi; at += DSM_PAGE) {
		uint32_t s = atomic_load_explicit(
		    dsm__image_state(ft.p.image, at), memory_order_relaxed);

		n += (s & DSM_PG_STATE) == DSM_PG_PRESENT;
	}
	return n;
}

/* How many pages to ask for at a fault on off. */
static uint32_t
window_size(struct space_range *r, uint64_t addr, uint64_t off, uint32_t more,
            uint32_t *before_p)
{
	uint64_t room = (addr - r->r.start) / DSM_PAGE;
	uint64_t left = (r->r.end - addr) / DSM_PAGE;
	uint32_t before = dsm__image_run_before(
	    ft.p.image, off,
	    room < DSM_READ_MAX ? (uint32_t)room : DSM_READ_MAX);
	uint32_t n = 1 + 2 * present_around(r, off);

	if (n > BLOCK_PAGES)
		n = BLOCK_PAGES;
	if (n < 1 + more)
		n = 1 + more;
	if (n < before * 2)
		n = before * 2;
	if (n > DSM_READ_MAX)
		n = DSM_READ_MAX;
	*before_p = before;
	return n > left ? (uint32_t)left : n;
}

/* Request the claimed window and wait for it. */
static enum fetch_result
demand(struct space_range *r, struct window *w, int sequential)
{
	uint32_t got;
	int err = request(w, NULL);

	/* Ahead only behind a demand request: replies keep that order. */
	if (err == DSM_OK && sequential && w->n >= AHEAD_MIN)
		err = request_ahead(r, w->addr + w->n * DSM_PAGE, w->n * 2, w);
	if (err == DSM_OK)
		err = take(w, r, &got);
	if (err != DSM_OK)
		return FETCH_LOST;
	show_claim(0, 0, 0);
	if (got == 0)
		return FETCH_UNMAPPED;
	ft.p.counters->pages_prefetched += got - 1;
	return FETCH_GOT;
}

/*
 * One attempt at the page of w; nothing is under way. FETCH_PRESENT: it is
 * another slot's, *state_p says how far that is.
 */
static enum fetch_result
fetch_window(struct space_range *r, struct window *w, uint32_t more,
             uint32_t *state_p)
{
	uint32_t before;

	*state_p = atomic_load_explicit(dsm__image_state(ft.p.image, w->off),
	                                memory_order_acquire);
	if ((*state_p & DSM_PG_STATE) != DSM_PG_ABSENT)
		return FETCH_PRESENT;
	w->n = window_size(r, w->addr, w->off, more, &before);
	/* The vDSO is small, and patched as a whole. */
	if (r->r.kind == DSM_RANGE_VDSO)
		w->n = (uint32_t)((r->r.end - r->r.start) / DSM_PAGE);
	if (plan(r, w, NULL) != DSM_OK)
		return FETCH_LOST;
	show_claim(0, w->off, w->n);
	w->n = dsm__image_claim(ft.p.image, w->off, w->n, ft.p.slot, state_p);
	if (w->n == 0) {
		show_claim(0, 0, 0);
		return FETCH_PRESENT;
	}
	return demand(r, w, before >= AHEAD_MIN);
}

enum fetch_result
fetch_page(struct space_range *r, uint64_t addr, uint32_t more)
{
	uint64_t off, start = dsm__now();
	uint64_t deadline = dsm__deadline_ms(REPLY_MS);
	enum fetch_result result;
	int waited = 0;

	addr = dsm__page_down(addr);
	if (r->r.kind == DSM_RANGE_VDSO)
		addr = r->r.start;
	off = r->r.image_off + (addr - r->r.start);
	for (;;) {
		struct window w = {.addr = addr, .off = off};
		uint32_t state;

		if (in_window(&ft.ahead, off)) {
			result =
			    take_ahead(r) == DSM_OK ? FETCH_GOT : FETCH_LOST;
			break;
		}
		/* A window ahead that this reader did not come to: take it
		 * before asking for more, replies come in order. */
		if (fetch_settle() != DSM_OK)
			return FETCH_LOST;
		result = fetch_window(r, &w, more, &state);
		if (result != FETCH_PRESENT)
			break;
		if ((state & DSM_PG_STATE) == DSM_PG_PRESENT) {
			result = waited ? FETCH_GOT : FETCH_PRESENT;
			break;
		}
		waited = 1;
		if (dsm__image_wait(ft.p.image, off, ft.p.spin_ns, deadline) !=
		    DSM_OK)
			return FETCH_LOST;
	}
	ft.p.counters->fetch_ns += dsm__now() - start;
	return result;
}

int
fetch_borrow(uint64_t least, uint64_t want, struct dsm_msg_loan *loan_p)
{
	const struct dsm_msg_borrow m = {.least = least, .want = want};
	struct dsm_frame f;
	int err = fetch_settle();

	dsm__wbuf_reset(&ft.w);
	if (err == DSM_OK)
		err = dsm__encode_borrow(&ft.w, &m);
	if (err == DSM_OK)
		err = message_ask(&ft, DSM_MSG_BORROW, DSM_MSG_LOAN, &f);
	return err == DSM_OK ? dsm__decode_loan(f.body, f.len, loan_p) : err;
}

int
fetch_ask(uint64_t addr, struct dsm_array *ranges_p)
{
	struct dsm_msg_ask ask = {.addr = addr};
	struct dsm_msg_ranges m;
	struct dsm_frame f;
	int err = fetch_settle();

	dsm__wbuf_reset(&ft.w);
	if (err == DSM_OK)
		err = dsm__encode_ask(&ft.w, &ask);
	if (err == DSM_OK)
		err = message_ask(&ft, DSM_MSG_ASK, DSM_MSG_RANGES, &f);
	if (err == DSM_OK)
		err = dsm__decode_ranges(f.body, f.len, &m);
	/* Out of the frame: the caller goes on to use the link. */
	dsm__wbuf_reset(&ft.table);
	if (err == DSM_OK)
		err = dsm__wbuf_put(&ft.table, m.ranges.ptr,
		                    m.ranges.n * dsm__sizeof_range());
	if (err != DSM_OK)
		return err;
	ranges_p->ptr = ft.table.ptr;
	ranges_p->n = m.ranges.n;
	return DSM_OK;
}
