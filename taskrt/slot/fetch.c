#include "fetch.h"

#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/clock.h"
#include "vdso.h"

#define AHEAD_MIN 8u
#define BLOCK_PAGES 16u
/* The client's server thread may be stopped in a debugger for a while; the
 * coordinator's heartbeats find a dead one much sooner. */
#define REPLY_MS 30000u

struct window {
	uint64_t addr, off;
	uint32_t n; /* 0: none */
};

static struct {
	struct fetch_params p;
	uint64_t run;
	struct window ahead;
	struct dsm_wbuf w, table;
} ft;

int
fetch_init(const struct fetch_params *p)
{
	ft.p = *p;
	return DSM_OK;
}

void
fetch_set_run(uint64_t run)
{
	ft.run = run;
}

static void
show_claim(unsigned which, uint64_t off, uint32_t n)
{
	atomic_store_explicit(&ft.p.ctl->claim_off[which], off,
	                      memory_order_relaxed);
	atomic_store_explicit(&ft.p.ctl->claim_n[which], n,
	                      memory_order_release);
}

static int
send_read(uint64_t addr, uint32_t n)
{
	struct dsm_msg_read m = {.run = ft.run, .addr = addr, .n_pages = n};
	struct iovec iov;
	int err;

	dsm__wbuf_reset(&ft.w);
	err = dsm__encode_read(&ft.w, &m);
	if (err != DSM_OK)
		return err;
	iov = (struct iovec){ft.w.ptr, ft.w.len};
	ft.p.counters->fetches++;
	return dsm__conn_send(ft.p.data, DSM_MSG_READ, 0, 0, &iov, 1);
}

/* Next frame of the data link, counting whether spinning was enough. */
static int
next_frame(struct dsm_frame *f)
{
	int spun = 0;
	int err = dsm__conn_drain(ft.p.data, dsm__deadline_ms(REPLY_MS));

	if (err != DSM_OK)
		return err;
	err = dsm__conn_recv_wait(ft.p.data, dsm__deadline_ms(REPLY_MS),
	                          ft.p.spin_ns, f, &spun);
	if (err != DSM_OK)
		return err;
	if (spun)
		ft.p.counters->spins_hit++;
	else
		ft.p.counters->spins_missed++;
	return DSM_OK;
}

/* The reply to the window w: publish its pages. *got_p: how many came. */
static int
take_pages(const struct window *w, struct space_range *r, uint32_t *got_p)
{
	struct dsm_frame f;
	struct dsm_msg_pages m;
	const uint8_t *bytes;
	int err = next_frame(&f);

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
		err = dsm__image_publish(ft.p.image, w->off, m.n_pages, bytes);
	if (m.n_pages < w->n)
		dsm__image_abandon(ft.p.image, w->off + m.n_pages * DSM_PAGE,
		                   w->n - m.n_pages);
	ft.p.counters->pages_fetched += m.n_pages;
	ft.p.counters->bytes_fetched += m.n_pages * DSM_PAGE;
	*got_p = m.n_pages;
	return err;
}

/* Claim and request the window after [off, +n) of r, if there is room. */
static int
request_ahead(struct space_range *r, uint64_t addr, uint32_t n)
{
	uint64_t left = (r->r.end - addr) / DSM_PAGE;
	uint32_t state, got;

	if (left == 0)
		return DSM_OK;
	if (n > DSM_READ_MAX)
		n = DSM_READ_MAX;
	if (n > left)
		n = (uint32_t)left;
	/* Shown first: this process may be killed right after the claim. */
	show_claim(1, r->r.image_off + (addr - r->r.start), n);
	got = dsm__image_claim(ft.p.image, r->r.image_off + (addr - r->r.start),
	                       n, ft.p.slot, &state);
	if (got == 0) {
		show_claim(1, 0, 0);
		return DSM_OK;
	}
	ft.ahead =
	    (struct window){addr, r->r.image_off + (addr - r->r.start), got};
	show_claim(1, ft.ahead.off, got);
	return send_read(addr, got);
}

static int
take_ahead(struct space_range *r)
{
	struct window w = ft.ahead;
	uint32_t got;
	int err;

	ft.ahead.n = 0;
	/* The next window first: the client reads it while we publish this. */
	if (r != NULL && w.n >= AHEAD_MIN) {
		struct window mine = w;

		show_claim(0, mine.off, mine.n);
		err = request_ahead(r, w.addr + w.n * DSM_PAGE, w.n * 2);
		if (err != DSM_OK)
			return err;
		if (ft.ahead.n == 0)
			show_claim(1, 0, 0);
	} else {
		show_claim(0, w.off, w.n);
		show_claim(1, 0, 0);
	}
	err = take_pages(&w, r, &got);
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

/* The vDSO is small, and patched as a whole. */
static enum fetch_result
demand(struct space_range *r, uint64_t addr, uint64_t off, uint32_t n,
       int sequential)
{
	struct window w = {addr, off, n};
	uint32_t got;
	int err;

	show_claim(0, off, n);
	err = send_read(addr, n);
	/* Ahead only behind a demand request: replies keep that order. */
	if (err == DSM_OK && sequential && n >= AHEAD_MIN && ft.ahead.n == 0)
		err = request_ahead(r, addr + n * DSM_PAGE, n * 2);
	if (err == DSM_OK)
		err = take_pages(&w, r, &got);
	if (err != DSM_OK)
		return FETCH_LOST;
	show_claim(0, 0, 0);
	if (got == 0)
		return FETCH_UNMAPPED;
	ft.p.counters->pages_prefetched += got - 1;
	return FETCH_GOT;
}

enum fetch_result
fetch_page(struct space_range *r, uint64_t addr, uint32_t more)
{
	uint64_t off, start = dsm__now();
	uint64_t deadline = dsm__deadline_ms(REPLY_MS);
	enum fetch_result result = FETCH_PRESENT;
	int waited = 0;

	addr = dsm__page_down(addr);
	if (r->r.kind == DSM_RANGE_VDSO)
		addr = r->r.start;
	off = r->r.image_off + (addr - r->r.start);
	for (;;) {
		uint32_t before, want, n, state = DSM_PG_ABSENT;

		if (in_window(&ft.ahead, off)) {
			if (take_ahead(r) != DSM_OK)
				return FETCH_LOST;
			result = FETCH_GOT;
			break;
		}
		/* A window ahead that this reader did not come to: take it
		 * before asking for more, replies come in order. */
		if (ft.ahead.n > 0 && fetch_settle() != DSM_OK)
			return FETCH_LOST;
		want = window_size(r, addr, off, more, &before);
		if (r->r.kind == DSM_RANGE_VDSO)
			want = (uint32_t)((r->r.end - r->r.start) / DSM_PAGE);
		show_claim(0, off, want);
		n = dsm__image_claim(ft.p.image, off, want, ft.p.slot, &state);
		if (n == 0)
			show_claim(0, 0, 0);
		if (n > 0) {
			result = demand(r, addr, off, n, before >= AHEAD_MIN);
			break;
		}
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
fetch_ask(uint64_t addr, struct dsm_array *ranges_p)
{
	struct dsm_msg_ask ask = {.addr = addr};
	struct dsm_msg_ranges m;
	struct dsm_frame f;
	struct iovec iov;
	int err = fetch_settle();

	if (err != DSM_OK)
		return err;
	dsm__wbuf_reset(&ft.w);
	err = dsm__encode_ask(&ft.w, &ask);
	if (err != DSM_OK)
		return err;
	iov = (struct iovec){ft.w.ptr, ft.w.len};
	err = dsm__conn_send(ft.p.data, DSM_MSG_ASK, 0, 0, &iov, 1);
	if (err != DSM_OK)
		return err;
	err = next_frame(&f);
	if (err != DSM_OK)
		return err;
	if (f.type != DSM_MSG_RANGES ||
	    dsm__decode_ranges(f.body, f.len, &m) != DSM_OK)
		return DSM_EPROTO;
	/* Out of the frame: the caller goes on to use the link. */
	dsm__wbuf_reset(&ft.table);
	err = dsm__wbuf_put(&ft.table, m.ranges.ptr,
	                    m.ranges.n * dsm__sizeof_range());
	if (err != DSM_OK)
		return err;
	ranges_p->ptr = ft.table.ptr;
	ranges_p->n = m.ranges.n;
	return DSM_OK;
}
