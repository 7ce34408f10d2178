/*
 * Fetching against a client made of a thread (READ, ASK_KEY over a socket pair)
 * and of reads that are carried out when they are waited for.
 */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../../taskrt/slot/fetch.h"
#include "../../test.h"

#define HEAP_AT UINT64_C(0x10000000000)
#define PAGES 2048u
#define PART_PAGES 300u /* the heap is registered in parts of this size */
#define IMAGE_OFF (UINT64_C(1) << 30)
#define SLOT 7
#define RUN 3
#define SPARSE(part) ((part) % 3 == 2)

struct pending {
	uint64_t remote;
	void *to;
	size_t len;
};

/* One slot and its client. */
static struct {
	uint8_t *heap;
	struct dsm_image image;
	struct slot_ctl ctl;
	struct dsm_counters counters;
	struct places places;
	struct space_range range;
	struct dsm_conn *slot_end, *client_end;
	pthread_t client;

	/* client thread only, until it has ended */
	unsigned n_reads, n_asked;
	uint32_t most_pages;
	int answer_elsewhere;
	unsigned n_told; /* parts in an answer */

	/* READs under way */
	struct pending queue[64];
	unsigned n_queue, most_queue;
	unsigned limit;
	int fail_after; /* that many more succeed; -1: all do */
	uint8_t *ring;
	struct fetch_direct direct;
} rg;

/* --- the client --- */

static void
reply(unsigned type, int err, struct dsm_wbuf *w, const void *more, size_t len)
{
	struct iovec iov[2] = {{w->ptr, w->len},
	                       {(void *)(uintptr_t)more, len}};

	if (err == DSM_OK)
		dsm__conn_send(rg.client_end, type, 0, 0, iov, 2);
	dsm__conn_drain(rg.client_end, dsm__deadline_ms(20000));
	dsm__wbuf_fini(w);
}

static void
serve_read(const struct dsm_frame *f)
{
	struct dsm_msg_read q;
	struct dsm_msg_pages a;
	struct dsm_wbuf w = {0};

	if (dsm__decode_read(f->body, f->len, &q) != DSM_OK || q.run != RUN)
		return;
	rg.n_reads++;
	if (q.n_pages > rg.most_pages)
		rg.most_pages = q.n_pages;
	a = (struct dsm_msg_pages){
	    .run = q.run, .addr = q.addr, .n_pages = q.n_pages};
	reply(DSM_MSG_PAGES, dsm__encode_pages(&w, &a), &w,
	      rg.heap + (q.addr - HEAP_AT), q.n_pages * DSM_PAGE);
}

/* The part that holds the page, and the one after it. */
static void
serve_ask_key(const struct dsm_frame *f)
{
	struct dsm_msg_ask_key q;
	struct dsm_wbuf w = {0}, regions = {0};
	struct dsm_msg_regions a = {0};
	uint64_t part;

	if (dsm__decode_ask_key(f->body, f->len, &q) != DSM_OK)
		return;
	rg.n_asked++;
	part = (q.addr - HEAP_AT) / DSM_PAGE / PART_PAGES + rg.answer_elsewhere;
	for (uint64_t i = part; i < part + rg.n_told; i++) {
		uint64_t lo = i * PART_PAGES * DSM_PAGE;
		struct dsm_rec_region r = {
		    .start = HEAP_AT + lo,
		    .end = HEAP_AT + lo + PART_PAGES * DSM_PAGE,
		    .remote = (uintptr_t)rg.heap + lo,
		    .rkey = SPARSE(i) ? 0 : 100 + (uint32_t)i};

		if (lo < PAGES * DSM_PAGE)
			dsm__pack_region(&regions, &r);
		a.regions.n += lo < PAGES * DSM_PAGE;
	}
	a.regions.ptr = regions.ptr;
	reply(DSM_MSG_REGIONS, dsm__encode_regions(&w, &a), &w, "", 0);
	dsm__wbuf_fini(&regions);
}

static void *
client_main(void *arg)
{
	struct dsm_frame f;

	while (dsm__conn_recv_wait(rg.client_end, DSM_FOREVER, 0, &f, NULL) ==
	       DSM_OK)
		if (f.type == DSM_MSG_READ)
			serve_read(&f);
		else if (f.type == DSM_MSG_ASK_KEY)
			serve_ask_key(&f);
	return arg;
}

/* --- one-sided --- */

static int
direct_start(struct dsm_conn *c, uint64_t remote, uint32_t rkey, void *to,
             size_t len)
{
	uint64_t off = remote - (uintptr_t)rg.heap;
	uint8_t *p = to;

	MUST(c == rg.slot_end);
	/* One registered part, and the key of that part. */
	MUST_BE(rkey, 100 + off / DSM_PAGE / PART_PAGES);
	MUST_BE((off + len - 1) / DSM_PAGE / PART_PAGES,
	        off / DSM_PAGE / PART_PAGES);
	MUST(p >= rg.ring && p + len <= rg.ring + FETCH_RING);
	if (rg.n_queue == rg.limit)
		return DSM_EAGAIN;
	for (unsigned i = 0; i < rg.n_queue; i++)
		MUST((uint8_t *)rg.queue[i].to + rg.queue[i].len <= p ||
		     p + len <= (uint8_t *)rg.queue[i].to);
	rg.queue[rg.n_queue++] = (struct pending){remote, to, len};
	if (rg.n_queue > rg.most_queue)
		rg.most_queue = rg.n_queue;
	memset(to, 0xee, len); /* not there yet */
	return DSM_OK;
}

static int
direct_wait(struct dsm_conn *c, uint64_t deadline, uint64_t spin_ns,
            int *spun_p)
{
	(void)deadline;
	(void)spin_ns;
	MUST(c == rg.slot_end && rg.n_queue > 0);
	if (rg.fail_after == 0)
		return DSM_ECONN;
	rg.fail_after -= rg.fail_after > 0;
	memcpy(rg.queue[0].to, (void *)(uintptr_t)rg.queue[0].remote,
	       rg.queue[0].len);
	memmove(&rg.queue[0], &rg.queue[1], --rg.n_queue * sizeof(rg.queue[0]));
	*spun_p = 1;
	return DSM_OK;
}

/* --- rig --- */

static void
begin(int with_direct)
{
	struct fetch_params p = {.image = &rg.image,
	                         .ctl = &rg.ctl,
	                         .slot = SLOT,
	                         .counters = &rg.counters,
	                         .places = &rg.places,
	                         .spin_ns = 1000};
	struct dsm_error e;
	int pair[2];

	memset(&rg, 0, sizeof(rg));
	rg.limit = 64;
	rg.n_told = 2;
	rg.fail_after = -1;
	rg.heap = malloc(PAGES * DSM_PAGE);
	rg.ring = malloc(FETCH_RING);
	MUST(rg.heap != NULL && rg.ring != NULL);
	for (uint64_t i = 0; i < PAGES * DSM_PAGE / 8; i++)
		((uint64_t *)rg.heap)[i] = i * UINT64_C(0x9e3779b97f4a7c15);
	MUST_OK(dsm__image_create(&rg.image, &e));
	MUST_OK(dsm__shm_pair(pair));
	MUST_OK(dsm__conn_create(&dsm__shm_ops, pair[0], DSM_FRAME_MAX,
	                         &rg.slot_end));
	MUST_OK(dsm__conn_create(&dsm__shm_ops, pair[1], DSM_FRAME_MAX,
	                         &rg.client_end));
	MUST_BE(pthread_create(&rg.client, NULL, client_main, NULL), 0);
	rg.range.r = (struct dsm_rec_range){.start = HEAP_AT,
	                                    .end = HEAP_AT + PAGES * DSM_PAGE,
	                                    .image_off = IMAGE_OFF,
	                                    .kind = DSM_RANGE_HEAP};
	rg.direct = (struct fetch_direct){direct_start, direct_wait, rg.ring,
	                                  FETCH_RING};
	p.data = rg.slot_end;
	p.direct = with_direct ? &rg.direct : NULL;
	MUST_OK(fetch_init(&p));
	fetch_set_run(RUN);
}

/* The slot's end is closed first: the thread sees that and ends. */
static void
end(void)
{
	dsm__conn_close(rg.slot_end);
	pthread_join(rg.client, NULL);
	dsm__conn_close(rg.client_end);
	dsm__wbuf_fini(&rg.places.records);
	dsm__wbuf_fini(&rg.places.frame);
	dsm__image_fini(&rg.image);
	free(rg.heap);
	free(rg.ring);
}

static enum fetch_result
get(uint64_t page)
{
	return fetch_page(&rg.range, HEAP_AT + page * DSM_PAGE + 9, 0);
}

static int
is_present(uint64_t page)
{
	return (atomic_load(
	            dsm__image_state(&rg.image, IMAGE_OFF + page * DSM_PAGE)) &
	        DSM_PG_STATE) == DSM_PG_PRESENT;
}

static void
must_have(uint64_t page)
{
	uint8_t got[DSM_PAGE];

	MUST(is_present(page));
	MUST_BE(pread(rg.image.pages_fd, got, DSM_PAGE,
	              (off_t)(IMAGE_OFF + page * DSM_PAGE)),
	        DSM_PAGE);
	MUST(memcmp(got, rg.heap + page * DSM_PAGE, DSM_PAGE) == 0);
}

/* Touch every page as a reader does: a fault where it is not there. */
static void
scan(void)
{
	for (uint64_t page = 0; page < PAGES; page++)
		if (!is_present(page))
			MUST_BE(get(page), FETCH_GOT);
	MUST_OK(fetch_settle());
	for (uint64_t page = 0; page < PAGES; page++)
		must_have(page);
}

static void
must_be_settled(void)
{
	MUST_BE(rg.n_queue, 0);
	MUST_BE(atomic_load(&rg.ctl.claim_n[0]), 0);
	MUST_BE(atomic_load(&rg.ctl.claim_n[1]), 0);
}

/* --- tests --- */

static void
test_a_registered_page_is_read_without_a_message(void)
{
	begin(1);
	MUST_BE(get(5), FETCH_GOT);
	must_have(5);
	must_be_settled();
	MUST_BE(rg.counters.pages_rdma, 1);
	MUST_BE(rg.counters.pages_fetched, 1);
	MUST_BE(rg.counters.bytes_fetched, DSM_PAGE);
	MUST_BE(rg.counters.rdma_reads, 1);
	MUST_BE(rg.counters.fetches, 0);
	end();
	MUST_BE(rg.n_reads, 0);
}

static void
test_a_key_is_asked_for_once(void)
{
	begin(1);
	for (uint64_t page = 0; page < 2 * PART_PAGES; page += 64)
		MUST_BE(get(page), FETCH_GOT);
	fetch_set_run(RUN);
	MUST_BE(get(40), FETCH_GOT);
	MUST_BE(rg.counters.keys_asked, 1);
	end();
	MUST_BE(rg.n_asked, 1);
}

static void
test_what_is_not_registered_comes_by_message_and_is_asked_once_a_run(void)
{
	uint64_t sparse = UINT64_C(2) * PART_PAGES;

	begin(1);
	MUST_BE(get(sparse), FETCH_GOT);
	MUST_BE(get(sparse + 100), FETCH_GOT);
	must_have(sparse + 100);
	MUST_BE(rg.counters.pages_rdma, 0);
	MUST_BE(rg.counters.fetches, 2);
	MUST_BE(rg.counters.keys_asked, 1);
	fetch_set_run(RUN);
	MUST_BE(get(sparse + 200), FETCH_GOT);
	MUST_BE(rg.counters.keys_asked, 2);
	end();
	MUST_BE(rg.n_reads, 3);
}

static void
test_memory_outside_the_heap_comes_by_message(void)
{
	begin(1);
	rg.range.r.kind = DSM_RANGE_ANON;
	MUST_BE(get(5), FETCH_GOT);
	must_have(5);
	MUST_BE(rg.counters.pages_rdma, 0);
	MUST_BE(rg.counters.keys_asked, 0);
	end();
	MUST_BE(rg.n_reads, 1);
}

static void
test_a_scan_brings_every_byte_by_whichever_way(void)
{
	uint64_t n_sparse = 0;

	begin(1);
	scan();
	must_be_settled();
	for (uint64_t page = 0; page < PAGES; page++)
		n_sparse += SPARSE(page / PART_PAGES);
	MUST_BE(rg.counters.pages_fetched, PAGES);
	MUST_BE(rg.counters.pages_rdma, PAGES - n_sparse);
	/* Ahead, and far: not a fault a page. */
	MUST(rg.counters.rdma_reads < PAGES / 8);
	MUST(rg.counters.fetches < 40);
	MUST(rg.most_queue > 16);
	end();
	MUST(rg.n_asked <= PAGES / PART_PAGES + 1);
	MUST(rg.most_pages > 100);
}

static void
test_a_scan_works_with_few_reads_at_a_time(void)
{
	for (unsigned limit = 1; limit <= 5; limit++) {
		begin(1);
		rg.limit = limit;
		scan();
		MUST(rg.most_queue <= limit);
		must_be_settled();
		end();
	}
}

static void
test_a_scan_by_message_alone_asks_for_windows_ahead(void)
{
	begin(0);
	scan();
	must_be_settled();
	MUST_BE(rg.counters.pages_fetched, PAGES);
	MUST_BE(rg.counters.pages_rdma, 0);
	MUST(rg.counters.pages_prefetched > PAGES * 9 / 10);
	end();
	MUST_BE(rg.n_asked, 0);
	MUST(rg.n_reads < 40);
	MUST_BE(rg.most_pages, DSM_READ_MAX);
}

/* Its slot computes, and does not come to take the window ahead. */
static void
test_a_page_that_another_slot_has_claimed_and_leaves_is_fetched(void)
{
	uint32_t state;

	for (int with_direct = 0; with_direct < 2; with_direct++) {
		begin(with_direct);
		MUST_BE(dsm__image_claim(&rg.image, IMAGE_OFF, 32, SLOT + 1,
		                         &state),
		        32);
		MUST_BE(get(5), FETCH_GOT);
		must_have(5);
		must_be_settled();
		/* The others are still that slot's. */
		MUST(!is_present(4) && !is_present(6));
		end();
	}
}

static void
test_a_large_window_is_taken_in_steps(void)
{
	uint64_t page = 0;

	begin(1);
	/* Of a window that is under way some pages are there. */
	while (atomic_load(&rg.ctl.claim_n[0]) == 0) {
		MUST(page < PART_PAGES);
		if (!is_present(page))
			MUST_BE(get(page), FETCH_GOT);
		page++;
	}
	MUST(is_present(page - 1));
	MUST(!is_present(PART_PAGES - 1));
	MUST_OK(fetch_settle());
	must_be_settled();
	end();
}

/* Advice of one kind for pages [from, to). */
static void
advise(uint64_t from, uint64_t to, uint32_t kind)
{
	const struct dsm_rec_advice a = {HEAP_AT + from * DSM_PAGE,
	                                 HEAP_AT + to * DSM_PAGE, kind};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__pack_advice(&w, &a));
	const struct dsm_array array = {w.ptr, 1};
	MUST_OK(fetch_set_advice(&array));
	dsm__wbuf_fini(&w);
}

static void
test_where_access_is_random_a_fault_brings_one_page(void)
{
	for (int direct = 0; direct < 2; direct++) {
		begin(direct);
		advise(0, PAGES, DSM_ADVICE_RANDOM);
		scan();
		must_be_settled();
		MUST_BE(rg.counters.pages_fetched, PAGES);
		MUST_BE(rg.counters.pages_prefetched, 0);
		end();
	}
}

static void
test_where_access_is_sequential_windows_are_big_from_the_first_page_on(void)
{
	for (int direct = 0; direct < 2; direct++) {
		begin(direct);
		advise(0, 250, DSM_ADVICE_SEQUENTIAL);
		MUST_BE(get(0), FETCH_GOT);
		MUST(rg.counters.pages_fetched >= 64);
		MUST(atomic_load(&rg.ctl.claim_n[1]) > 0); /* one ahead */
		MUST_OK(fetch_settle());
		must_be_settled();
		end();
	}
}

static void
test_a_window_ends_where_its_advice_does(void)
{
	for (uint32_t kind = DSM_ADVICE_WILLNEED; kind <= DSM_ADVICE_SEQUENTIAL;
	     kind++) {
		begin(0);
		advise(100, 110, kind);
		MUST_BE(get(103), FETCH_GOT);
		MUST_OK(fetch_settle());
		MUST_BE(rg.counters.pages_fetched, 7);
		MUST(is_present(109) && !is_present(110) && !is_present(102));
		/* Nor does the one ahead. */
		advise(1000, 1064, kind);
		MUST_BE(get(1000), FETCH_GOT);
		MUST_OK(fetch_settle());
		MUST(is_present(1063) && !is_present(1064));
		advise(100, 110, kind);
		/* Beyond, nothing is known. */
		MUST_BE(get(500), FETCH_GOT);
		MUST_BE(rg.counters.pages_fetched, 7 + 64 + 1);
		scan();
		end();
	}
}

static void
test_advice_that_makes_no_sense_is_refused(void)
{
	const struct dsm_rec_advice bad[] = {
	    {HEAP_AT + 1, HEAP_AT + DSM_PAGE, 1},
	    {HEAP_AT + DSM_PAGE, HEAP_AT + DSM_PAGE, 1},
	    {HEAP_AT + DSM_PAGE, HEAP_AT, 1},
	};

	begin(0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct dsm_wbuf w = {0};

		MUST_OK(dsm__pack_advice(&w, &bad[i]));
		const struct dsm_array array = {w.ptr, 1};
		MUST_BE(fetch_set_advice(&array), DSM_EPROTO);
		dsm__wbuf_fini(&w);
	}
	MUST_BE(get(0), FETCH_GOT);
	MUST_BE(rg.counters.pages_fetched, 1);
	end();
}

static void
test_settling_leaves_no_read_under_way(void)
{
	uint64_t page;

	begin(1);
	for (page = 0; rg.n_queue == 0; page++) {
		MUST(page < PART_PAGES);
		if (!is_present(page))
			MUST_BE(get(page), FETCH_GOT);
	}
	MUST(atomic_load(&rg.ctl.claim_n[1]) > 0);
	MUST_OK(fetch_settle());
	must_be_settled();
	MUST_OK(fetch_settle());
	end();
}

/* Fault by fault, until the client is asked for the second time. */
static uint64_t
read_until_asked_again(void)
{
	uint64_t page;

	rg.n_told = 1;
	for (page = 0; rg.counters.keys_asked < 2; page++) {
		MUST(page < PART_PAGES);
		if (!is_present(page))
			MUST_BE(get(page), FETCH_GOT);
	}
	return page;
}

static void
test_a_reader_asks_for_the_next_key_before_it_is_there(void)
{
	uint64_t page;

	begin(1);
	page = read_until_asked_again();
	/* With room to go, and nothing waits for the answer. */
	MUST(page < PART_PAGES - 32);
	MUST(rg.n_queue > 0);
	for (; page < PART_PAGES + 30; page++)
		if (!is_present(page))
			MUST_BE(get(page), FETCH_GOT);
	MUST_OK(fetch_settle());
	for (page = 0; page < PART_PAGES + 30; page++)
		must_have(page);
	MUST(rg.counters.keys_asked <= 3);
	MUST(rg.counters.pages_rdma >= PART_PAGES + 30);
	end();
}

static void
test_messages_work_while_a_key_is_asked_for(void)
{
	begin(1);
	read_until_asked_again();
	rg.range.r.kind = DSM_RANGE_ANON;
	MUST_BE(get(PAGES - 1), FETCH_GOT);
	must_have(PAGES - 1);
	rg.range.r.kind = DSM_RANGE_HEAP;
	MUST_BE(get(PART_PAGES + 100), FETCH_GOT);
	must_have(PART_PAGES + 100);
	MUST_BE(rg.counters.keys_asked, 2);
	MUST_BE(rg.counters.fetches, 1);
	MUST_OK(fetch_settle());
	end();
}

/* "No key in this run" that was said of another run. */
static void
test_a_late_answer_without_a_key_is_not_kept_for_the_next_run(void)
{
	uint64_t page;

	begin(1);
	fetch_set_run(RUN - 1);
	rg.n_told = 1;
	for (page = PART_PAGES; rg.counters.keys_asked < 2; page++) {
		MUST(page < UINT64_C(2) * PART_PAGES);
		if (!is_present(page))
			MUST_BE(get(page), FETCH_GOT);
	}
	MUST_OK(fetch_settle());
	fetch_set_run(RUN);
	MUST_BE(get(UINT64_C(2) * PART_PAGES), FETCH_GOT);
	MUST_BE(rg.counters.keys_asked, 3);
	end();
}

static void
test_a_read_that_fails_loses_the_slot_and_leaves_its_claim_to_be_seen(void)
{
	begin(1);
	MUST_BE(get(0), FETCH_GOT);
	rg.fail_after = 0;
	MUST_BE(get(50), FETCH_LOST);
	MUST(!is_present(50));
	MUST_BE(atomic_load(&rg.ctl.claim_off[0]), IMAGE_OFF + 50 * DSM_PAGE);
	MUST_BE(atomic_load(&rg.ctl.claim_n[0]), 1);
	end();
}

/* As the worker does it for a dead slot: every page can be had again. */
static void
test_what_a_failed_scan_had_claimed_can_be_reclaimed(void)
{
	uint64_t page = 0;

	begin(1);
	rg.fail_after = 12;
	for (;; page++) {
		MUST(page < PAGES);
		if (is_present(page))
			continue;
		if (get(page) == FETCH_LOST)
			break;
	}
	for (int i = 0; i < 2; i++)
		dsm__image_reclaim(&rg.image, atomic_load(&rg.ctl.claim_off[i]),
		                   atomic_load(&rg.ctl.claim_n[i]), SLOT);
	for (page = 0; page < PAGES; page++)
		if (is_present(page))
			must_have(page);
		else
			MUST_BE(atomic_load(dsm__image_state(
			            &rg.image, IMAGE_OFF + page * DSM_PAGE)),
			        DSM_PG_ABSENT);
	end();
}

static void
test_a_client_that_answers_about_other_addresses_is_lost(void)
{
	begin(1);
	rg.answer_elsewhere = 1;
	MUST_BE(get(5), FETCH_LOST);
	end();
}

static void
test_a_page_that_is_there_costs_no_question(void)
{
	begin(1);
	MUST_BE(get(5), FETCH_GOT);
	fetch_set_run(RUN);
	MUST_BE(get(5), FETCH_PRESENT);
	MUST_BE(rg.counters.keys_asked, 1);
	MUST_BE(rg.counters.rdma_reads, 1);
	end();
}

static void
test_where_pages_came_from_is_noted_when_asked_for(void)
{
	uint64_t n_pages = 0, n_faults = 0, wait_ns = 0;
	uint8_t seen[PAGES] = {0};

	begin(1);
	scan();
	MUST_BE(rg.places.n, 0);
	end();
	begin(1);
	rg.places.asked = 1;
	scan();
	MUST_BE(get(5), FETCH_PRESENT);
	for (uint32_t i = 0; i < rg.places.n; i++) {
		const struct dsm_rec_place *r = &rg.places.v[i];

		MUST(r->n_pages <= DSM_READ_MAX);
		n_pages += r->n_pages;
		n_faults += r->faults;
		wait_ns += r->wait_ns;
		for (uint32_t k = 0; k < r->n_pages; k++)
			seen[(r->start - HEAP_AT) / DSM_PAGE + k]++;
	}
	for (uint32_t page = 0; page < PAGES; page++)
		MUST_BE(seen[page], 1);
	MUST_BE(n_pages, rg.counters.pages_fetched);
	/* All that were not ahead of a fault. */
	MUST(n_faults >= PAGES - rg.counters.pages_prefetched);
	MUST(n_faults < PAGES / 8);
	MUST(wait_ns > 0 && wait_ns <= rg.counters.fetch_ns);
	end();
}

static void
test_a_ring_that_is_too_small_is_refused(void)
{
	struct fetch_direct direct = {NULL, NULL, NULL, FETCH_RING - 1};
	struct fetch_params p = {.direct = &direct};

	MUST_BE(fetch_init(&p), DSM_EINVAL);
}

SUITE(taskrt_slot_fetch, "taskrt.slot.fetch",
      T(test_a_registered_page_is_read_without_a_message),
      T(test_a_key_is_asked_for_once),
      T(test_what_is_not_registered_comes_by_message_and_is_asked_once_a_run),
      T(test_memory_outside_the_heap_comes_by_message),
      T(test_a_scan_brings_every_byte_by_whichever_way),
      T(test_a_scan_works_with_few_reads_at_a_time),
      T(test_a_scan_by_message_alone_asks_for_windows_ahead),
      T(test_a_page_that_another_slot_has_claimed_and_leaves_is_fetched),
      T(test_a_large_window_is_taken_in_steps),
      T(test_where_access_is_random_a_fault_brings_one_page),
      T(test_where_access_is_sequential_windows_are_big_from_the_first_page_on),
      T(test_a_window_ends_where_its_advice_does),
      T(test_advice_that_makes_no_sense_is_refused),
      T(test_settling_leaves_no_read_under_way),
      T(test_a_reader_asks_for_the_next_key_before_it_is_there),
      T(test_messages_work_while_a_key_is_asked_for),
      T(test_a_late_answer_without_a_key_is_not_kept_for_the_next_run),
      T(test_a_read_that_fails_loses_the_slot_and_leaves_its_claim_to_be_seen),
      T(test_what_a_failed_scan_had_claimed_can_be_reclaimed),
      T(test_a_client_that_answers_about_other_addresses_is_lost),
      T(test_a_page_that_is_there_costs_no_question),
      T(test_where_pages_came_from_is_noted_when_asked_for),
      T(test_a_ring_that_is_too_small_is_refused));
