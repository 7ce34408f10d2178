/* What a slot says of the pages that it has fetched, over a socket pair. */
#include <string.h>

#include "../../../dsm/base/clock.h"
#include "../../../dsm/base/page.h"
#include "../../../taskrt/slot/places.h"
#include "../../test.h"

#define BASE UINT64_C(0x10000000000)
#define AT(page) (BASE + (page)*DSM_PAGE)

static struct places pl;
static struct dsm_conn *worker;

static void
begin(void)
{
	int fds[2];

	memset(&pl, 0, sizeof(pl));
	MUST_OK(dsm__shm_pair(fds));
	MUST_OK(dsm__conn_create(&dsm__shm_ops, fds[0], DSM_FRAME_MAX,
	                         &pl.control));
	MUST_OK(
	    dsm__conn_create(&dsm__shm_ops, fds[1], DSM_FRAME_MAX, &worker));
	pl.session = 7;
	pl.asked = 1;
	places_begin(&pl, 3, 40);
}

static void
end(void)
{
	if (pl.control != NULL)
		dsm__conn_close(pl.control);
	dsm__conn_close(worker);
	dsm__wbuf_fini(&pl.records);
	dsm__wbuf_fini(&pl.frame);
}

static void
must_hear(struct dsm_msg_fetched *m)
{
	struct dsm_frame f;

	MUST_OK(
	    dsm__conn_recv_wait(worker, dsm__deadline_ms(5000), 0, &f, NULL));
	MUST_BE(f.type, DSM_MSG_FETCHED);
	MUST_OK(dsm__decode_fetched(f.body, f.len, m));
	MUST_OK(dsm__places_check(&m->places));
	MUST_BE(m->session, 7);
	MUST_BE(m->run, 3);
	MUST_BE(m->attempt, 40);
}

static void
test_a_fault_counts_where_its_page_came(void)
{
	struct dsm_msg_fetched m;
	struct dsm_rec_place r;

	begin();
	places_pages(&pl, AT(8), 16);
	places_fault(&pl, AT(8) + 5, 100);
	places_fault(&pl, AT(30), 20); /* it was on its way already */
	MUST_OK(places_send(&pl));
	must_hear(&m);
	MUST_BE(m.places.n, 2);
	MUST_OK(dsm__unpack_place(&m.places, 0, &r));
	MUST(r.start == AT(8) && r.n_pages == 16 && r.faults == 1 &&
	     r.wait_ns == 100);
	MUST_OK(dsm__unpack_place(&m.places, 1, &r));
	MUST(r.start == AT(30) && r.n_pages == 0 && r.faults == 1 &&
	     r.wait_ns == 20);
	end();
}

static void
test_a_full_table_is_sent_and_begun_again(void)
{
	struct dsm_msg_fetched m;
	struct dsm_rec_place r;

	begin();
	for (uint32_t i = 0; i < DSM_FETCHED_MAX + 1; i++)
		places_pages(&pl, AT(2 * i), 1);
	MUST_BE(pl.n, 1);
	MUST_OK(places_send(&pl));
	must_hear(&m);
	MUST_BE(m.places.n, DSM_FETCHED_MAX);
	must_hear(&m);
	MUST_BE(m.places.n, 1);
	MUST_OK(dsm__unpack_place(&m.places, 0, &r));
	MUST_BE(r.start, AT(2 * DSM_FETCHED_MAX));
	end();
}

static void
test_without_a_question_nothing_is_noted(void)
{
	begin();
	pl.asked = 0;
	places_pages(&pl, AT(1), 4);
	places_fault(&pl, AT(1), 9);
	MUST_BE(pl.n, 0);
	MUST_OK(places_send(&pl));
	MUST_BE(pl.frame.len, 0);
	end();
}

static void
test_a_worker_that_is_gone_is_told_of_at_the_end(void)
{
	begin();
	dsm__conn_close(worker);
	for (uint32_t i = 0; i < 2 * DSM_FETCHED_MAX; i++)
		places_pages(&pl, AT(2 * i), 1);
	MUST(places_send(&pl) != DSM_OK);
	places_begin(&pl, 3, 41);
	MUST_OK(places_send(&pl));
	dsm__conn_close(pl.control);
	dsm__wbuf_fini(&pl.records);
	dsm__wbuf_fini(&pl.frame);
}

SUITE(taskrt_slot_places, "taskrt.slot.places",
      T(test_a_fault_counts_where_its_page_came),
      T(test_a_full_table_is_sent_and_begun_again),
      T(test_without_a_question_nothing_is_noted),
      T(test_a_worker_that_is_gone_is_told_of_at_the_end));
