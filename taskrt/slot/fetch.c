#include "fetch_priv.h"
#include "hold.h"

#include <stdlib.h>

#define AHEAD_MIN 8u
#define BLOCK_PAGES 16u
/* For another slot's fetch of a page: much longer than any takes. */
#define PATIENCE_MS 5u
#define SEQUENTIAL_FIRST 64u /* pages, where the program has said so */

static struct fetch ft;

int
fetch_init(const struct fetch_params *p)
{
	if (p->direct != NULL && p->direct->ring_len < FETCH_RING)
		return DSM_EINVAL;
	keys_fini(&ft.keys);
	dsm__wbuf_fini(&ft.w);
	dsm__wbuf_fini(&ft.table);
	dsm__stream_fini(&ft.stream);
	free(ft.advice);
	ft = (struct fetch){.p = *p, .stream.view.base = p->view};
	/* In the sandbox there are no new descriptors. Without it: copied. */
	if (dsm__conn_can_pipe(p->data))
		dsm__stream_prepare(&ft.stream);
	return DSM_OK;
}

void
fetch_set_run(uint64_t run)
{
	ft.run = run;
	keys_new_run(&ft.keys);
}

static uint32_t
state_of(uint64_t off)
{
	return atomic_load_explicit(dsm__image_state(ft.p.image, off),
	                            memory_order_acquire) &
	       DSM_PG_STATE;
}

/* --- advice --- */

int
fetch_set_advice(const struct dsm_array *advice)
{
	uint64_t last = 0;

	ft.n_advice = 0;
	if (advice->n == 0)
		return DSM_OK;
	if (advice->n > DSM_ADVICE_MAX)
		return DSM_EPROTO;
	if (ft.advice == NULL)
		ft.advice = calloc(DSM_ADVICE_MAX, sizeof(*ft.advice));
	if (ft.advice == NULL)
		return DSM_ENOMEM;
	for (uint32_t i = 0; i < advice->n; i++) {
		struct dsm_rec_advice *a = &ft.advice[i];

		if (dsm__unpack_advice(advice, i, a) != DSM_OK ||
		    a->start < last || a->start >= a->end ||
		    ((a->start | a->end) & DSM_PAGE_MASK) != 0)
			return DSM_EPROTO;
		last = a->end;
	}
	ft.n_advice = advice->n;
	return DSM_OK;
}

/* NULL: none. */
static const struct dsm_rec_advice *
advice_at(const struct space_range *r, uint64_t addr)
{
	uint32_t lo = 0, hi = ft.n_advice; /* those before lo end at or below */

	if (r->r.kind != DSM_RANGE_HEAP)
		return NULL;
	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (ft.advice[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < ft.n_advice && ft.advice[lo].start <= addr ? &ft.advice[lo]
	                                                       : NULL;
}

/* Pages from addr on that one window may have. */
static uint64_t
window_room(const struct space_range *r, uint64_t addr)
{
	const struct dsm_rec_advice *a = advice_at(r, addr);
	uint64_t end = a != NULL && a->end < r->r.end ? a->end : r->r.end;

	return (end - addr) / DSM_PAGE;
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

/* Publish pages of the window that is being taken until `upto` of them are done. */
static int
take(const struct space_range *r, uint32_t upto)
{
	struct window *w = &ft.now;
	struct window *next =
	    ft.ahead.n > 0 && ft.ahead.rkey != 0 ? &ft.ahead : NULL;
	uint32_t before = w->done;
	int err = w->rkey != 0 ? direct_take(&ft, w, next, upto)
	                       : message_take(&ft, w, r, upto);

	if (err != DSM_OK)
		return err;
	ft.p.counters->pages_fetched += w->done - before;
	ft.p.counters->pages_prefetched += w->done - before;
	ft.p.counters->bytes_fetched += (w->done - before) * DSM_PAGE;
	places_pages(ft.p.places, w->addr + before * DSM_PAGE,
	             w->done - before);
	if (w->done == w->n) {
		show_claim(0, 0, 0);
		w->n = 0;
	}
	return DSM_OK;
}

/* As many as make page `index` one of them, and those after it that a step has. */
static uint32_t
step_with(uint64_t index)
{
	return (uint32_t)(index / STEP_PAGES + 1) * STEP_PAGES;
}

/* Claim and request the window of n pages from addr on, if there is room.
 * before: the one under way. */
static int
request_ahead(struct space_range *r, uint64_t addr, uint32_t n,
              const struct window *before)
{
	struct window w = {.addr = addr,
	                   .off = r->r.image_off + (addr - r->r.start)};
	uint64_t left = window_room(r, addr);
	uint32_t state;
	int err;

	if (n > DSM_READ_MAX)
		n = DSM_READ_MAX;
	w.n = n < left ? n : (uint32_t)left;
	/* What is advised about one part says nothing of the next. */
	if (w.n == 0 || advice_at(r, addr) != advice_at(r, addr - DSM_PAGE))
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
	err = request(&ft.ahead, before);
	if (err == DSM_OK && w.rkey != 0 && before->rkey != 0)
		err = direct_look_ahead(&ft, &w, r->r.end);
	return err;
}

static uint64_t
page_in(const struct window *w, uint64_t off)
{
	return (off - w->off) / DSM_PAGE;
}

/* The window ahead is the one that is taken now, as far as the page at off. */
static int
take_ahead(struct space_range *r, uint64_t off)
{
	uint32_t n = ft.ahead.n;
	int err;

	ft.now = ft.ahead;
	ft.ahead.n = 0;
	show_claim(0, ft.now.off, n);
	/* The next window first: it is on its way while we publish this. */
	if (n >= AHEAD_MIN) {
		err = request_ahead(r, ft.now.addr + n * DSM_PAGE, n * 2,
		                    &ft.now);
		if (err != DSM_OK)
			return err;
	}
	if (ft.ahead.n == 0)
		show_claim(1, 0, 0);
	return take(r, step_with(page_in(&ft.now, off)));
}

static int
settle_now(void)
{
	return ft.now.n > 0 ? take(NULL, ft.now.n) : DSM_OK;
}

int
fetch_settle(void)
{
	int err = settle_now();

	if (err != DSM_OK || ft.ahead.n == 0)
		return err;
	ft.now = ft.ahead;
	ft.ahead.n = 0;
	show_claim(0, ft.now.off, ft.now.n);
	show_claim(1, 0, 0);
	return settle_now();
}

static int
in_window(const struct window *w, uint64_t off)
{
	return w->n > 0 && off >= w->off + w->done * DSM_PAGE &&
	       off < w->off + w->n * DSM_PAGE;
}

/* The page is under way: take it. */
static int
take_page(struct space_range *r, uint64_t off)
{
	int err;

	if (in_window(&ft.now, off))
		return take(r, step_with(page_in(&ft.now, off)));
	err = settle_now();
	return err == DSM_OK ? take_ahead(r, off) : err;
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

/* What the program has said beats what the task has shown so far. *before_p: as if
 * so many pages had been read up to here. */
static uint32_t
advised_size(const struct dsm_rec_advice *a, uint32_t n, uint32_t *before_p)
{
	uint32_t first =
	    a->kind == DSM_ADVICE_WILLNEED ? DSM_READ_MAX : SEQUENTIAL_FIRST;

	if (a->kind == DSM_ADVICE_RANDOM) {
		*before_p = 0;
		return 1;
	}
	if (*before_p < AHEAD_MIN)
		*before_p = AHEAD_MIN;
	return n < first ? first : n;
}

/* How many pages to ask for at a fault on off. */
static uint32_t
window_size(struct space_range *r, uint64_t addr, uint64_t off, uint32_t more,
            uint32_t *before_p)
{
	uint64_t room = (addr - r->r.start) / DSM_PAGE;
	uint64_t left = window_room(r, addr);
	const struct dsm_rec_advice *a = advice_at(r, addr);
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
	if (a != NULL)
		n = advised_size(a, n, before_p);
	return n > left ? (uint32_t)left : n;
}

/* Request the claimed window and wait for its first page. */
static enum fetch_result
demand(struct space_range *r, const struct window *w, int sequential)
{
	uint32_t n = w->n;
	int err;

	ft.now = *w;
	err = request(&ft.now, NULL);
	/* Ahead only behind a demand request: replies keep that order. */
	if (err == DSM_OK && sequential && n >= AHEAD_MIN)
		err = request_ahead(r, w->addr + n * DSM_PAGE, n * 2, &ft.now);
	if (err == DSM_OK)
		err = take(r, STEP_PAGES);
	if (err != DSM_OK)
		return FETCH_LOST;
	if (state_of(w->off) != DSM_PG_PRESENT)
		return FETCH_UNMAPPED;
	ft.p.counters->pages_prefetched--; /* one was wanted */
	return FETCH_GOT;
}

/* As much as makes sense from the page of w on, now that it is ABSENT; nothing is
 * under way. FETCH_PRESENT: another slot was faster. */
static enum fetch_result
fetch_window(struct space_range *r, struct window *w, uint32_t more)
{
	uint32_t before, state;

	hold_wait_for_room();
	w->n = window_size(r, w->addr, w->off, more, &before);
	/* The vDSO is small, and patched as a whole. */
	if (r->r.kind == DSM_RANGE_VDSO)
		w->n = (uint32_t)((r->r.end - r->r.start) / DSM_PAGE);
	if (plan(r, w, NULL) != DSM_OK)
		return FETCH_LOST;
	show_claim(0, w->off, w->n);
	w->n = dsm__image_claim(ft.p.image, w->off, w->n, ft.p.slot, &state);
	if (w->n == 0) {
		show_claim(0, 0, 0);
		return FETCH_PRESENT;
	}
	return demand(r, w, before >= AHEAD_MIN);
}

/*
 * The page is claimed by a slot that does not come to it: its task computes, or
 * it is stopped. Both of us may write it: it is the same page of the same run.
 */
static enum fetch_result
fetch_anyway(struct space_range *r, struct window *w)
{
	w->n = r->r.kind == DSM_RANGE_VDSO
	           ? (uint32_t)((r->r.end - r->r.start) / DSM_PAGE)
	           : 1;
	if (plan(r, w, NULL) != DSM_OK)
		return FETCH_LOST;
	return demand(r, w, 0);
}

enum fetch_result
fetch_page(struct space_range *r, uint64_t addr, uint32_t more)
{
	uint64_t start = dsm__ticks();
	struct window w = {0};
	enum fetch_result result = FETCH_PRESENT;
	uint64_t waited, wanted;

	addr = dsm__page_down(addr);
	wanted = r->r.image_off + (addr - r->r.start);
	if (r->r.kind == DSM_RANGE_VDSO)
		addr = r->r.start;
	w.addr = addr;
	w.off = r->r.image_off + (addr - r->r.start);
	if (in_window(&ft.now, w.off) || in_window(&ft.ahead, w.off)) {
		result = take_page(r, w.off) == DSM_OK ? FETCH_GOT : FETCH_LOST;
		goto out;
	}
	/* What this reader did not come to: take it before asking for more,
	 * replies come in order. */
	if (fetch_settle() != DSM_OK)
		return FETCH_LOST;
	for (uint32_t state; (state = state_of(w.off)) != DSM_PG_PRESENT;) {
		if (state == DSM_PG_ABSENT) {
			struct window mine = w;

			result = fetch_window(r, &mine, more);
			if (result != FETCH_PRESENT)
				break;
		} else if (dsm__image_wait(ft.p.image, w.off, ft.p.spin_ns,
		                           dsm__deadline_ms(PATIENCE_MS)) ==
		           DSM_OK) {
			result = FETCH_GOT;
		} else {
			result = fetch_anyway(r, &w);
			break;
		}
	}
out:
	waited = dsm__ticks_ns(dsm__ticks() - start);
	ft.p.counters->fetch_ns += waited;
	/* Of a vDSO its first page alone may have come. */
	if (wanted != w.off && result < FETCH_UNMAPPED &&
	    state_of(wanted) != DSM_PG_PRESENT)
		result = FETCH_UNMAPPED;
	if (result == FETCH_GOT)
		places_fault(ft.p.places, addr, waited);
	return result;
}

int
fetch_twins(struct space_range *r, uint64_t addr, uint32_t n)
{
	uint64_t off = r->r.image_off + (addr - r->r.start);
	int missing = 0;

	if (r->present)
		return DSM_OK;
	for (uint32_t i = 0; i < n; i++) {
		if (state_of(off + i * DSM_PAGE) == DSM_PG_PRESENT)
			continue;
		missing = 1;
		if (fetch_page(r, addr + i * DSM_PAGE, n - i - 1) >=
		    FETCH_UNMAPPED)
			return DSM_ECONN;
	}
	return missing ? fetch_settle() : DSM_OK;
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
