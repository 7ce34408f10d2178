/*
 * A slot that fetches from a client that says anything. The input is a script: what
 * the slot asks for, and what the client has answered by then: mostly what was asked
 * for, now and then any frame, or bytes that are none. In the end the client is gone,
 * so that the slot never waits.
 */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../dsm/base/page.h"
#include "../../taskrt/slot/fetch.h"
#include "../../taskrt/slot/keys.h"

#define HEAP UINT64_C(0x10000000000)
#define HEAP_PAGES 4096u
#define SLOT 7
#define RUN 3

static struct dsm_image image;
static struct slot_ctl ctl;
static struct dsm_counters counters;
static struct places places;
static struct space_range range;
static struct dsm_conn *slot_end, *client_end;
static struct fuzz_pool pool;
/* What was answered before it was asked for: the slot asks in this order. */
static struct {
	uint64_t addr;
	uint32_t n;
} answered[8];
static unsigned n_answered, n_asked;

static void
setup_once(void)
{
	struct dsm_error e;

	fuzz_quiet();
	FUZZ_MUST(dsm__image_create(&image, &e) == DSM_OK);
	range.r = (struct dsm_rec_range){.start = HEAP,
	                                 .end = HEAP + HEAP_PAGES * DSM_PAGE,
	                                 .prot = 3,
	                                 .kind = DSM_RANGE_HEAP};
}

static void
client_says(unsigned type, struct dsm_wbuf *w)
{
	const struct iovec iov = {w->ptr, w->len};

	/* What the socket does not take is lost: the client is slow. */
	dsm__conn_send(client_end, type, 0, 0, &iov, 1);
	dsm__wbuf_fini(w);
}

/* As it should be, or a page too few or too many, or of another address. */
static void
client_sends_pages(struct fuzz_in *in, uint64_t addr, uint32_t n)
{
	uint8_t how = fuzz_u8(in);
	struct dsm_msg_pages m = {.run = RUN, .addr = addr, .n_pages = n};
	struct dsm_wbuf w = {0};
	static const uint8_t page[DSM_PAGE] = {1, 2, 3};
	uint32_t n_bytes = n;

	if (how > 200)
		m.n_pages = n_bytes = fuzz_below(in, n + 1);
	if (how > 240)
		n_bytes = fuzz_below(in, n + 3);
	if (how > 250)
		m.addr = fuzz_value(in, &pool);
	FUZZ_MUST(dsm__encode_pages(&w, &m) == DSM_OK);
	for (uint32_t i = 0; i < n_bytes; i++)
		FUZZ_MUST(dsm__wbuf_put(&w, page, sizeof(page)) == DSM_OK);
	client_says(DSM_MSG_PAGES, &w);
}

static void
client_says_anything(struct fuzz_in *in)
{
	unsigned type = fuzz_type(in);
	struct dsm_wbuf w = {0};

	fuzz_message(in, &pool, type, &w);
	client_says(type, &w);
}

static void
client_writes_bytes(struct fuzz_in *in)
{
	struct dsm_blob b = fuzz_bytes(in, 100);

	if (b.len > 0 && send(dsm__conn_fd(client_end), b.ptr, b.len,
	                      MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

/* What is known of regions, told in any order and overlapping. */
static void
try_keys(struct fuzz_in *in)
{
	struct keys keys = {0};
	struct dsm_msg_regions m;
	struct dsm_wbuf w = {0};

	for (int i = 0; i < 4; i++) {
		dsm__wbuf_reset(&w);
		fuzz_message(in, &pool, DSM_MSG_REGIONS, &w);
		if (dsm__decode_regions(w.ptr, w.len, &m) != DSM_OK)
			continue;
		(void)keys_add(&keys, &m.regions);
		for (size_t k = 0; k < keys.n; k++) {
			FUZZ_MUST(keys.v[k].start < keys.v[k].end);
			FUZZ_MUST(k == 0 ||
			          keys.v[k - 1].end <= keys.v[k].start);
			FUZZ_MUST(keys_find(&keys, keys.v[k].start) ==
			          &keys.v[k]);
		}
		keys_new_run(&keys);
	}
	keys_fini(&keys);
	dsm__wbuf_fini(&w);
}

/* 0: the slot has ended. */
static int
slot_asks(struct fuzz_in *in)
{
	uint64_t addr = HEAP + fuzz_below(in, HEAP_PAGES) * DSM_PAGE;
	uint32_t more = fuzz_below(in, 4);
	struct dsm_msg_loan loan;
	struct dsm_array ranges;
	struct dsm_rec_range r;

	if (n_asked < n_answered) {
		addr = answered[n_asked].addr;
		more = answered[n_asked++].n - 1;
	}
	switch (fuzz_below(in, 6)) {
	case 5:
		if (fetch_ask(HEAP, &ranges) != DSM_OK)
			return 0;
		for (uint32_t i = 0; i < ranges.n; i++)
			FUZZ_MUST(dsm__unpack_range(&ranges, i, &r) == DSM_OK);
		return 1;
	case 4:
		return fetch_borrow(4096, 8192, &loan) == DSM_OK;
	case 3:
		return fetch_settle() == DSM_OK;
	default:
		return fetch_page(&range, addr, more) != FETCH_LOST;
	}
}

static void
set_advice(struct fuzz_in *in)
{
	struct dsm_rec_advice a = {HEAP, HEAP + 64 * DSM_PAGE,
	                           fuzz_below(in, 5)};
	struct dsm_wbuf w = {0};

	if (fuzz_u8(in) > 200)
		a.end = fuzz_value(in, &pool);
	FUZZ_MUST(dsm__pack_advice(&w, &a) == DSM_OK);
	(void)fetch_set_advice(&(struct dsm_array){w.ptr, 1});
	dsm__wbuf_fini(&w);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = fuzz_in(data, size);
	const struct fetch_params params = {.image = &image,
	                                    .ctl = &ctl,
	                                    .slot = SLOT,
	                                    .counters = &counters,
	                                    .places = &places,
	                                    .spin_ns = 1000};
	struct fetch_params p = params;
	int pair[2];

	if (image.states == NULL)
		setup_once();
	memset(&pool, 0, sizeof(pool));
	fuzz_pool_put(&pool, HEAP);
	fuzz_pool_put(&pool, RUN);
	try_keys(&in);
	FUZZ_MUST(dsm__shm_pair(pair) == DSM_OK);
	FUZZ_MUST(dsm__conn_create(&dsm__shm_ops, pair[0], DSM_FRAME_MAX,
	                           &slot_end) == DSM_OK);
	FUZZ_MUST(dsm__conn_create(&dsm__shm_ops, pair[1], DSM_FRAME_MAX,
	                           &client_end) == DSM_OK);
	p.data = slot_end;
	FUZZ_MUST(fetch_init(&p) == DSM_OK);
	fetch_set_run(RUN);
	set_advice(&in);
	n_answered = n_asked = 0;
	/* The answers first: nobody else will give them. */
	for (unsigned n = fuzz_below(&in, 8); n > 0; n--)
		switch (fuzz_below(&in, 8)) {
		case 6:
			client_says_anything(&in);
			break;
		case 7:
			client_writes_bytes(&in);
			break;
		default:
			answered[n_answered].addr =
			    HEAP + fuzz_below(&in, HEAP_PAGES) * DSM_PAGE;
			answered[n_answered].n = 1 + fuzz_below(&in, 32);
			client_sends_pages(&in, answered[n_answered].addr,
			                   answered[n_answered].n);
			n_answered++;
		}
	shutdown(dsm__conn_fd(client_end), SHUT_WR);
	for (unsigned n = 0; n < 20; n++)
		if (!slot_asks(&in))
			break;
	dsm__conn_close(slot_end);
	dsm__conn_close(client_end);
	/* Nothing of this slot is left for the next. */
	FUZZ_MUST(dsm__image_drop(&image, 0, HEAP_PAGES) == DSM_OK);
	return 0;
}
