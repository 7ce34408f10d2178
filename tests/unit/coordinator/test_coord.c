/* The coordinator with fake links: see rig.h. */
#include <stdlib.h>

#include "../../../dsm/base/counters.h"
#include "../../../dsm/wire/packdiff.h"
#include "rig.h"

/* --- joining --- */

static void
test_a_client_that_joins_gets_a_session_and_a_key(void)
{
	struct rig g;
	uint8_t wrong[DSM_KEY_LEN] = {0};

	rig_init(&g, 0, 0);
	MUST(g.c.session != 0);
	MUST(coord_session_client(g.k, g.c.session, g.c.key, DSM_KEY_LEN) ==
	     &g.c.link);
	MUST(coord_session_client(g.k, g.c.session, wrong, DSM_KEY_LEN) ==
	     NULL);
	MUST(coord_session_client(g.k, g.c.session, g.c.key, 3) == NULL);
	MUST(coord_session_client(g.k, 99, g.c.key, DSM_KEY_LEN) == NULL);
	rig_fini(&g);
}

/* A client or worker that says whose place it takes. */
static void
join_after(struct rig *g, struct fake *f, unsigned role,
           const struct fake *before, const uint8_t *key)
{
	struct dsm_msg_hello h = hello_of(role, "again", 1);

	h.session = before->session;
	h.key = (struct dsm_blob){key, DSM_KEY_LEN};
	MUST_OK(join_hello(g->k, f, &h));
}

static void
test_a_client_that_joins_again_ends_its_old_session(void)
{
	struct dsm_msg_exec x;
	struct fake again;
	struct rig g;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 4));
	MUST(next_exec(&g.w[0], &x));
	join_after(&g, &again, DSM_ROLE_CLIENT, &g.c, g.c.key);
	MUST(g.c.closed[0] != '\0');
	MUST(again.closed[0] == '\0');
	MUST(again.session != g.c.session);
	MUST(memcmp(again.key, g.c.key, DSM_KEY_LEN) != 0);
	leave(&g.c);
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION_END), 1);
	MUST_OK(launch_from(&again, &(const struct launch){.end = 1}));
	while (next_exec(&g.w[0], &x))
		;
	MUST_BE(x.session, again.session);
	leave(&again);
	rig_fini(&g);
}

static void
test_a_worker_that_joins_again_gives_its_tasks_back(void)
{
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;
	struct rig g;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1));
	MUST(next_exec(&g.w[0], &x));
	join_after(&g, &g.w[1], DSM_ROLE_WORKER, &g.w[0], g.w[0].key);
	MUST(g.w[0].closed[0] != '\0');
	leave(&g.w[0]);
	g.n_workers = 2;
	MUST_BE(work_off(&g), 1);
	expect_verdict(&g.c, DSM_OK, &v);
	rig_fini(&g);
}

static void
test_nobody_takes_a_place_without_its_key(void)
{
	uint8_t wrong[DSM_KEY_LEN];
	struct fake other;
	struct rig g;

	rig_init(&g, 1, 1);
	memcpy(wrong, g.c.key, sizeof(wrong));
	wrong[DSM_KEY_LEN - 1] ^= 1;
	join_after(&g, &other, DSM_ROLE_CLIENT, &g.c, wrong);
	leave(&other);
	/* A worker's number is no session's. */
	join_after(&g, &other, DSM_ROLE_WORKER, &g.c, g.c.key);
	leave(&other);
	join_after(&g, &other, DSM_ROLE_WORKER, &g.w[0], wrong);
	leave(&other);
	MUST(g.c.closed[0] == '\0');
	MUST(g.w[0].closed[0] == '\0');
	rig_fini(&g);
}

static void
test_a_peer_of_another_version_is_refused(void)
{
	struct dsm_msg_hello h = hello_of(DSM_ROLE_WORKER, "old", 1);
	struct rig g;
	struct dsm_msg_refuse m;
	struct sent *s;

	rig_init(&g, 0, 0);
	h.version = 99;
	MUST_BE(join_hello(g.k, &g.w[0], &h), DSM_EVERSION);
	MUST(g.w[0].peer == NULL);
	MUST(g.w[0].closed[0] != '\0');
	s = next_of(&g.w[0], DSM_MSG_REFUSE);
	MUST(s != NULL);
	MUST_OK(dsm__decode_refuse(s->body, s->len, &m));
	MUST_BE(m.code, -DSM_EVERSION);
	rig_fini(&g);
}

/* Workers would have to make something of it. */
static void
test_a_client_whose_address_is_too_long_is_refused(void)
{
	struct dsm_msg_hello h = hello_of(DSM_ROLE_CLIENT, "prog", 0);
	char addr[DSM_ADDR_MAX + 1];
	struct rig g;
	struct fake f;

	rig_init(&g, 1, 1);
	memset(addr, '1', sizeof(addr));
	h.addr = (struct dsm_str){addr, DSM_ADDR_MAX};
	MUST_BE(join_hello(g.k, &f, &h), DSM_EPROTO);
	MUST_BE(count_of(&f, DSM_MSG_REFUSE), 1);
	fake_fini(&f);
	rig_fini(&g);
}

static void
test_workers_are_told_of_sessions(void)
{
	struct rig g;
	struct dsm_msg_session m[2];

	rig_init(&g, 2, 1);
	for (unsigned i = 0; i < 2; i++) {
		struct sent *s = next_of(&g.w[i], DSM_MSG_SESSION);

		MUST(s != NULL);
		MUST_OK(dsm__decode_session(s->body, s->len, &m[i]));
		MUST_BE(m[i].session, g.c.session);
		MUST(memcmp(m[i].key.ptr, g.c.key, DSM_KEY_LEN) == 0);
		MUST(str_has(m[i].addr, "10.0.0.1:7000"));
	}
	rig_fini(&g);
}

static void
test_workers_hear_when_a_session_ends(void)
{
	struct rig g;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 4));
	leave(&g.c);
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION_END), 1);
	rig_fini(&g);
}

/* --- launching --- */

static void
expect_refused_run(const struct launch *l)
{
	struct rig g;

	rig_init(&g, 1, 1);
	MUST_BE(launch_from(&g.c, l), DSM_EPROTO);
	MUST_BE(count_of(&g.c, DSM_MSG_REFUSE), 1);
	MUST(g.c.closed[0] != '\0');
	MUST_BE(count_of(&g.w[0], DSM_MSG_RUN), 0);
	rig_fini(&g);
}

static void
test_runs_that_make_no_sense_are_refused(void)
{
	expect_refused_run(&(struct launch){.end = 1, .no_table = 1});
	expect_refused_run(&(struct launch){.run = 2, .end = 1});
	expect_refused_run(&(struct launch){.mode = 77, .end = 1});
	expect_refused_run(&(struct launch){.flags = 1u << 30, .end = 1});
	expect_refused_run(&(struct launch){.begin = 1, .end = 2});
	expect_refused_run(
	    &(struct launch){.mode = DSM_MODE_FOR, .begin = 3, .end = 2});
	expect_refused_run(&(struct launch){.end = (UINT64_C(1) << 40) + 1});
}

static void
test_a_second_run_in_flight_is_refused(void)
{
	struct rig g;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 100));
	MUST_BE(launch(&g, .run = 2, .end = 1), DSM_EPROTO);
	rig_fini(&g);
}

static void
test_a_run_goes_to_all_workers_and_its_tasks_are_accepted(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_counters c;
	unsigned n;

	rig_init(&g, 3, 2);
	MUST_OK(launch(&g, .end = 100));
	for (unsigned i = 0; i < 3; i++)
		MUST_BE(count_of(&g.w[i], DSM_MSG_RUN), 1);
	n = work_off(&g);
	expect_verdict(&g.c, DSM_OK, &v);
	MUST_BE(v.accepted.n, n);
	dsm__counters_unpack(v.counters, &c);
	MUST_BE(c.tasks, 100);
	MUST_BE(c.chunks, n);
	rig_fini(&g);
}

static void
test_an_empty_run_succeeds_at_once(void)
{
	struct rig g;
	struct dsm_msg_verdict v;

	rig_init(&g, 0, 0);
	MUST_OK(launch(&g, .end = 0));
	expect_verdict(&g.c, DSM_OK, &v);
	MUST_BE(v.accepted.n, 0);
	rig_fini(&g);
}

static void
test_a_late_worker_gets_the_run_in_flight_with_the_table(void)
{
	struct rig g;
	struct dsm_msg_run m;
	struct sent *s;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 100));
	join(g.k, &g.w[1], DSM_ROLE_WORKER, "late", 1);
	g.n_workers = 2;
	s = next_of(&g.w[1], DSM_MSG_RUN);
	MUST(s != NULL);
	MUST_OK(dsm__decode_run(s->body, s->len, &m));
	MUST_BE(m.ranges.n, 1);
	MUST(m.flags & DSM_RUN_RANGES);
	MUST(next_of(&g.w[1], DSM_MSG_EXEC) != NULL);
	rig_fini(&g);
}

static void
test_a_worker_of_the_pause_gets_the_table_with_the_next_run(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_run m;
	struct sent *s;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1));
	work_off(&g);
	expect_verdict(&g.c, DSM_OK, &v);
	join(g.k, &g.w[1], DSM_ROLE_WORKER, "late", 1);
	g.n_workers = 2;
	MUST_OK(launch(&g, .run = 2, .end = 4, .no_table = 1));
	s = next_of(&g.w[0], DSM_MSG_RUN);
	MUST_OK(dsm__decode_run(s->body, s->len, &m));
	MUST_BE(m.ranges.n, 0);
	s = next_of(&g.w[1], DSM_MSG_RUN);
	MUST_OK(dsm__decode_run(s->body, s->len, &m));
	MUST_BE(m.ranges.n, 1);
	work_off(&g);
	expect_verdict(&g.c, DSM_OK, &v);
	rig_fini(&g);
}

static uint32_t
advice_of(struct fake *w)
{
	struct sent *s = next_of(w, DSM_MSG_RUN);
	struct dsm_msg_run m;

	MUST(s != NULL);
	MUST_OK(dsm__decode_run(s->body, s->len, &m));
	return m.advice.n;
}

static void
test_late_workers_get_the_advice_too(void)
{
	struct rig g;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 100, .advised = 1));
	MUST_BE(advice_of(&g.w[0]), 1);
	join(g.k, &g.w[1], DSM_ROLE_WORKER, "late", 1);
	MUST_BE(advice_of(&g.w[1]), 1);
	g.n_workers = 2;
	work_off(&g);
	/* What is not said any more is not passed on. */
	MUST_OK(launch(&g, .run = 2, .end = 100, .no_table = 1));
	join(g.k, &g.w[2], DSM_ROLE_WORKER, "later", 1);
	MUST_BE(advice_of(&g.w[2]), 0);
	g.n_workers = 3;
	work_off(&g);
	/* One of the pause. */
	join(g.k, &g.w[3], DSM_ROLE_WORKER, "last", 1);
	MUST_OK(launch(&g, .run = 3, .end = 1, .no_table = 1, .advised = 1));
	MUST_BE(advice_of(&g.w[3]), 1);
	rig_fini(&g);
}

/* --- attempts --- */

static void
test_an_attempt_that_wrote_counts_when_it_is_stored(void)
{
	for (int stored_first = 0; stored_first < 2; stored_first++) {
		struct rig g;
		struct dsm_msg_verdict v;
		struct dsm_msg_exec x;

		rig_init(&g, 1, 1);
		MUST_OK(launch(&g, .end = 1));
		MUST(next_exec(&g.w[0], &x));
		if (stored_first)
			MUST_OK(stored(&g.c, &x));
		MUST_OK(answer(&g.w[0], &x, .addr = HEAP));
		if (!stored_first) {
			MUST(!next_verdict(&g.c, &v));
			MUST_OK(stored(&g.c, &x));
		}
		expect_verdict(&g.c, DSM_OK, &v);
		MUST_BE(v.accepted.n, 1);
		rig_fini(&g);
	}
}

static void
test_a_lost_worker_s_tasks_go_to_another(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;
	struct dsm_counters c;

	rig_init(&g, 2, 2);
	MUST_OK(launch(&g, .end = 40));
	/* One DONE but not STORED, the others OUT. */
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, .addr = HEAP));
	leave(&g.w[0]);
	MUST_OK(stored(&g.c, &x)); /* too late */
	work_off(&g);
	expect_verdict(&g.c, DSM_OK, &v);
	dsm__counters_unpack(v.counters, &c);
	MUST(c.tasks_retried > 0);
	rig_fini(&g);
}

static void
test_a_task_lost_too_often_is_a_failure(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;
	struct dsm_rec_failure f;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1, .retries = 2));
	for (unsigned i = 0; i < 3; i++) {
		MUST(next_exec(&g.w[0], &x));
		MUST_OK(returned(&g.w[0], &x, "the slot was killed"));
	}
	expect_verdict(&g.c, DSM_ECONN, &v);
	MUST_BE(v.failures.n, 1);
	MUST_OK(dsm__unpack_failure(&v.failures, 0, &f));
	MUST_BE(f.kind, DSM_FAIL_LOST);
	MUST(str_has((struct dsm_str){(const char *)v.texts.ptr, v.texts.len},
	             "lost 3 times, the last time on worker node0: the slot "
	             "was killed"));
	rig_fini(&g);
}

static void
test_a_run_whose_other_tasks_succeeded_is_not_lost(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 3, .chunk = 1, .retries = 1,
	               .flags = DSM_RUN_KEEP_PARTIAL));
	while (next_exec(&g.w[0], &x))
		if (x.lo == 1)
			MUST_OK(returned(&g.w[0], &x, "the slot was killed"));
		else
			MUST_OK(answer(&g.w[0], &x, 0));
	expect_verdict(&g.c, DSM_ETASK, &v);
	MUST_BE(v.failures.n, 1);
	MUST_BE(v.accepted.n, 2);
	rig_fini(&g);
}

/* It is tried again alone, until it has used up its retries; the others are done. */
static void
test_a_task_at_which_slots_are_lost_is_alone_to_blame(void)
{
	struct rig g;
	struct dsm_msg_exec x;
	struct dsm_msg_verdict v;
	struct dsm_rec_failure f;
	unsigned n_lost = 0;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 64, .chunk = 64, .retries = 2));
	while (next_exec(&g.w[0], &x)) {
		if (x.lo > 37 || x.hi <= 37) {
			MUST_OK(answer(&g.w[0], &x, 0));
			continue;
		}
		MUST(n_lost == 0 || x.hi == x.lo + 1);
		n_lost++;
		MUST_OK(returned_at(&g.w[0], &x, 37, "killed"));
	}
	MUST_BE(n_lost, 3);
	expect_verdict(&g.c, DSM_ETASK, &v);
	MUST_BE(v.failures.n, 1);
	MUST_OK(dsm__unpack_failure(&v.failures, 0, &f));
	MUST_BE(f.task, 37);
	MUST_BE(f.kind, DSM_FAIL_LOST);
	MUST(str_has(v.text, "lost 3 times, the last time on worker node0"));
	rig_fini(&g);
}

static void
test_what_all_lost_workers_had_is_named(void)
{
	struct rig g;
	struct dsm_msg_exec x;
	struct dsm_msg_verdict v;

	rig_init(&g, 2, 1);
	MUST_OK(launch(&g, .end = 1));
	MUST(next_exec(&g.w[0], &x));
	leave(&g.w[0]);
	MUST(next_exec(&g.w[1], &x));
	leave(&g.w[1]);
	coord_tick(g.k, g.now);
	coord_tick(g.k, g.now + 12 * DSM_SEC);
	expect_verdict(&g.c, DSM_ECONN, &v);
	MUST(str_has(v.text, "tasks 0 to 0 were lost 2 times with theirs"));
	rig_fini(&g);
}

static void
test_a_return_without_a_reason_blames_nobody(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1, .retries = 1));
	for (unsigned i = 0; i < 20; i++) {
		MUST(next_exec(&g.w[0], &x));
		MUST_OK(returned(&g.w[0], &x, ""));
	}
	work_off(&g);
	expect_verdict(&g.c, DSM_OK, &v);
	rig_fini(&g);
}

static void
test_late_answers_are_dropped(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x, gone;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(returned(&g.w[0], &x, "stopping"));
	MUST_OK(answer(&g.w[0], &x, .addr = HEAP));
	MUST_OK(stored(&g.c, &x));
	MUST_OK(returned(&g.w[0], &x, "stopping"));
	gone = x;
	gone.attempt = 12345;
	MUST_OK(answer(&g.w[0], &gone, 0));
	gone = x;
	gone.session = 777;
	MUST_OK(answer(&g.w[0], &gone, 0));
	MUST(!next_verdict(&g.c, &v));
	work_off(&g);
	expect_verdict(&g.c, DSM_OK, &v);
	MUST_OK(answer(&g.w[0], &x, 0));
	rig_fini(&g);
}

static void
test_answering_for_another_worker_is_a_protocol_error(void)
{
	struct rig g;
	struct dsm_msg_exec x;

	rig_init(&g, 2, 1);
	MUST_OK(launch(&g, .end = 10));
	MUST(next_exec(&g.w[0], &x));
	MUST_BE(answer(&g.w[1], &x, 0), DSM_EPROTO);
	MUST(g.w[1].closed[0] != '\0');
	rig_fini(&g);
}

/* It counts as lost, and its worker, which others use too, stays. */
static void
expect_lost(struct rig *g, const struct dsm_msg_exec *x)
{
	struct dsm_msg_exec again;

	MUST(g->w[0].closed[0] == '\0');
	MUST(next_exec(&g->w[0], &again));
	MUST_BE(again.lo, x->lo);
	MUST(again.attempt != x->attempt);
	MUST_OK(answer(&g->w[0], x, 0)); /* late */
}

static void
test_a_slot_that_lies_loses_its_attempt_and_not_its_worker(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x, lie;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1, .retries = 1));
	MUST(next_exec(&g.w[0], &x));
	lie = x;
	lie.lo = x.hi; /* a task that is not its own */
	MUST_OK(answer(&g.w[0], &lie, .addr = HEAP));
	expect_lost(&g, &x);
	x.attempt++;
	MUST_OK(answer(&g.w[0], &x, .failed = 1, .task = x.hi));
	expect_verdict(&g.c, DSM_ECONN, &v);
	MUST(str_has(v.text, "sent a DONE that makes no sense"));
	rig_fini(&g);
}

static void
test_garbage_closes_the_connection(void)
{
	struct rig g;
	const struct dsm_frame f = {
	    .type = DSM_MSG_DONE, .body = (const uint8_t *)"xyz", .len = 3};

	rig_init(&g, 1, 1);
	MUST_BE(coord_frame(g.k, g.w[0].peer, &f, g.now), DSM_EPROTO);
	MUST_BE(count_of(&g.w[0], DSM_MSG_REFUSE), 1);
	MUST(g.w[0].closed[0] != '\0');
	/* Out of place from a client. */
	MUST_BE(coord_frame(g.k, g.c.peer, &f, g.now), DSM_EPROTO);
	rig_fini(&g);
}

/* --- failures and races --- */

static void
test_tasks_behind_a_failed_one_run_again(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x, again;
	struct dsm_rec_failure f;

	rig_init(&g, 1, 1);
	MUST_OK(
	    launch(&g, .end = 10, .chunk = 10, .flags = DSM_RUN_KEEP_PARTIAL));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, .failed = 1, .task = 4, .addr = HEAP));
	MUST(next_exec(&g.w[0], &again));
	MUST_BE(again.lo, 5);
	MUST_BE(again.hi, 10);
	MUST_OK(answer(&g.w[0], &again, 0));
	MUST(!next_verdict(&g.c, &v));
	MUST_OK(stored(&g.c, &x));
	expect_verdict(&g.c, DSM_ETASK, &v);
	MUST_BE(v.accepted.n, 2);
	MUST_BE(v.failures.n, 1);
	MUST_OK(dsm__unpack_failure(&v.failures, 0, &f));
	MUST_BE(f.task, 4);
	MUST_BE(f.signal, 11);
	MUST(str_has(v.text, "1 of 10 tasks failed; the first: task 4: boom"));
	rig_fini(&g);
}

static void
test_a_killed_slot_s_earlier_tasks_run_again(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;
	unsigned seen[10] = {0};

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 10, .chunk = 10));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, .failed = 1, .task = 4, .no_counters = 1));
	while (next_exec(&g.w[0], &x)) {
		for (uint64_t i = x.lo; i < x.hi; i++)
			seen[i]++;
		MUST_OK(answer(&g.w[0], &x, 0));
	}
	for (unsigned i = 0; i < 10; i++)
		MUST_BE(seen[i], i != 4);
	expect_verdict(&g.c, DSM_ETASK, &v);
	MUST_BE(v.accepted.n, 0);
	rig_fini(&g);
}

static void
test_a_failed_loop_chunk_is_void(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .mode = DSM_MODE_FOR, .begin = 100, .end = 120,
	               .chunk = 20, .flags = DSM_RUN_KEEP_PARTIAL));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, .failed = 1, .task = 110));
	work_off(&g);
	expect_verdict(&g.c, DSM_ETASK, &v);
	/* [100, 110) and [111, 120) in attempts of their own. */
	MUST_BE(v.accepted.n, 2);
	MUST_BE(v.failures.n, 1);
	rig_fini(&g);
}

static void
test_fail_fast_ends_the_run_with_the_first_failure(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;

	rig_init(&g, 2, 2);
	MUST_OK(launch(&g, .end = 100, .flags = DSM_RUN_FAIL_FAST));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, .failed = 1, .task = x.lo));
	expect_verdict(&g.c, DSM_ETASK, &v);
	MUST_BE(count_of(&g.w[1], DSM_MSG_CANCEL), 1);
	/* Their late answers do no harm, the next run has all slots. */
	MUST(next_exec(&g.w[1], &x));
	MUST_OK(answer(&g.w[1], &x, 0));
	MUST_OK(launch(&g, .run = 2, .end = 50));
	while (next_exec(&g.w[1], &x) && x.run != 2)
		;
	MUST_BE(x.run, 2);
	rig_fini(&g);
}

static void
test_who_keeps_partial_results_is_told_what_is_missing(void)
{
	static const enum dsm_run_mode modes[] = {DSM_MODE_TASKS, DSM_MODE_FOR};

	for (unsigned i = 0; i < 2; i++) {
		struct rig g;
		struct dsm_msg_verdict v;
		struct dsm_msg_exec x;
		struct dsm_rec_failure f;

		rig_init(&g, 1, 2);
		MUST_OK(
		    launch(&g, .mode = modes[i], .end = 30, .chunk = 10,
		           .flags = DSM_RUN_KEEP_PARTIAL | DSM_RUN_FAIL_FAST));
		MUST(next_exec(&g.w[0], &x));
		MUST_OK(answer(&g.w[0], &x, 0));
		MUST(next_exec(&g.w[0], &x));
		MUST_BE(x.lo, 10);
		MUST_OK(answer(&g.w[0], &x, .failed = 1, .task = 10));
		expect_verdict(&g.c, DSM_ETASK, &v);
		MUST_BE(v.accepted.n, 1);
		/* 10 failed; 11 to 29 have no result: one by one, or as the
		 * intervals [11, 20) and [20, 30). */
		MUST_BE(v.failures.n, i == 0 ? 20 : 3);
		MUST_OK(dsm__unpack_failure(&v.failures, 0, &f));
		MUST(f.task == 10 && f.kind == DSM_FAIL_CRASH);
		MUST_OK(dsm__unpack_failure(&v.failures, 1, &f));
		MUST(f.task == 11 && f.kind == DSM_FAIL_CANCELLED);
		MUST_BE(str_has((struct dsm_str){(const char *)v.texts.ptr,
		                                 v.texts.len},
		                "not finished when the run ended (iterations "
		                "11 to 19)"),
		        i == 1);
		rig_fini(&g);
	}
}

static void
test_a_failed_range_says_what_it_was(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .mode = DSM_MODE_FOR_RANGE, .end = 20, .chunk = 10));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, .failed = 1, .task = 0));
	work_off(&g);
	expect_verdict(&g.c, DSM_ETASK, &v);
	MUST(str_has(v.text, "iteration 0: boom (iterations 0 to 9)"));
	rig_fini(&g);
}

static void
test_two_writers_of_a_byte_are_a_race(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x, y;
	struct dsm_rec_race race;

	rig_init(&g, 2, 1);
	MUST_OK(launch(&g, .end = 2, .flags = DSM_RUN_KEEP_PARTIAL));
	MUST(next_exec(&g.w[0], &x));
	MUST(next_exec(&g.w[1], &y));
	MUST_OK(answer(&g.w[1], &y, .addr = HEAP + 16));
	MUST_OK(answer(&g.w[0], &x, .addr = HEAP + 20));
	MUST_OK(stored(&g.c, &x));
	MUST_OK(stored(&g.c, &y));
	expect_verdict(&g.c, DSM_ERACE, &v);
	MUST_BE(v.accepted.n, 0);
	MUST_BE(v.n_races, 1);
	MUST_OK(dsm__unpack_race(&v.races, 0, &race));
	MUST_BE(race.addr, HEAP + 20);
	MUST_BE(race.len, 4);
	MUST_BE(race.task_a, 0);
	MUST_BE(race.task_b, 1);
	MUST(str_has(v.text, "tasks 0 and 1 both wrote 4 bytes"));
	rig_fini(&g);
}

static void
test_masks_sent_ahead_are_checked_for_races(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x, y;
	struct dsm_rec_race race;

	rig_init(&g, 2, 1);
	MUST_OK(launch(&g, .end = 2));
	MUST(next_exec(&g.w[0], &x));
	MUST(next_exec(&g.w[1], &y));
	MUST_OK(masks_ahead(&g.w[0], &x, x.lo, HEAP + 16));
	MUST_OK(masks_ahead(&g.w[0], &x, x.lo, HEAP + 8192));
	MUST_OK(answer(&g.w[0], &x, .addr = HEAP + 12288));
	MUST_OK(masks_ahead(&g.w[1], &y, y.lo, HEAP + 4096));
	MUST_OK(answer(&g.w[1], &y, .addr = HEAP + 8196));
	MUST_OK(stored(&g.c, &x));
	MUST_OK(stored(&g.c, &y));
	expect_verdict(&g.c, DSM_ERACE, &v);
	MUST_BE(v.n_races, 1);
	MUST_OK(dsm__unpack_race(&v.races, 0, &race));
	MUST_BE(race.addr, HEAP + 8196);
	MUST_BE(race.len, 4);
	rig_fini(&g);
}

static void
test_masks_of_an_attempt_that_is_lost_count_for_nothing(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x, y;

	rig_init(&g, 1, 2);
	MUST_OK(launch(&g, .end = 2, .retries = 1));
	MUST(next_exec(&g.w[0], &x));
	MUST(next_exec(&g.w[0], &y));
	MUST_OK(masks_ahead(&g.w[0], &x, x.lo, HEAP + 16));
	MUST_OK(returned(&g.w[0], &x, "slot was killed"));
	MUST_OK(masks_ahead(&g.w[0], &x, x.lo, HEAP + 16)); /* late */
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, .addr = HEAP + 4096));
	MUST_OK(answer(&g.w[0], &y, .addr = HEAP + 16));
	MUST_OK(stored(&g.c, &x));
	MUST_OK(stored(&g.c, &y));
	expect_verdict(&g.c, DSM_OK, &v);
	MUST_BE(v.accepted.n, 2);
	rig_fini(&g);
}

static void
test_masks_must_be_of_the_attempts_tasks_and_be_stored(void)
{
	struct rig g;
	struct dsm_msg_exec x;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(masks_ahead(&g.w[0], &x, x.hi, HEAP + 16));
	expect_lost(&g, &x);
	rig_fini(&g);

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(masks_ahead(&g.w[0], &x, x.lo, HEAP + 16));
	/* DONE says that nothing was sent to the client. */
	MUST_OK(answer(&g.w[0], &x, 0));
	expect_lost(&g, &x);
	rig_fini(&g);
}

/* FETCHED: n places of one page each. */
static int
fetched(struct fake *w, const struct dsm_msg_exec *x, uint64_t start,
        uint32_t n)
{
	const struct dsm_rec_place place = {start, 1, 1, 1000};
	struct dsm_msg_fetched m = {
	    .session = x->session, .run = x->run, .attempt = x->attempt};
	struct dsm_wbuf places = {0};
	int err;

	for (uint32_t i = 0; i < n; i++)
		MUST_OK(dsm__pack_place(&places, &place));
	m.places = (struct dsm_array){places.ptr, n};
	err = say(w, DSM_MSG_FETCHED, dsm__encode_fetched(&w->buf, &m));
	dsm__wbuf_fini(&places);
	return err;
}

static void
test_what_was_fetched_is_passed_on_to_the_client_that_asked(void)
{
	struct rig g;
	struct dsm_msg_exec x;
	struct dsm_msg_fetched m;
	struct dsm_rec_place place;
	struct dsm_msg_verdict v;
	struct sent *s;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1, .flags = DSM_RUN_FETCHED));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(fetched(&g.w[0], &x, HEAP, DSM_FETCHED_MAX));
	s = next_of(&g.c, DSM_MSG_FETCHED);
	MUST(s != NULL);
	MUST_OK(dsm__decode_fetched(s->body, s->len, &m));
	MUST_BE(m.run, x.run);
	MUST_BE(m.places.n, DSM_FETCHED_MAX);
	MUST_OK(dsm__unpack_place(&m.places, 1, &place));
	MUST(place.start == HEAP && place.n_pages == 1 && place.faults == 1 &&
	     place.wait_ns == 1000);
	MUST_OK(answer(&g.w[0], &x, 0));
	expect_verdict(&g.c, DSM_OK, &v);
	MUST_OK(fetched(&g.w[0], &x, HEAP, 1)); /* late */
	MUST_BE(count_of(&g.c, DSM_MSG_FETCHED), 1);
	rig_fini(&g);
}

static void
test_what_was_fetched_must_be_asked_for_and_make_sense(void)
{
	const struct {
		uint64_t start;
		uint32_t flags, n;
	} bad[] = {
	    {HEAP, 0, 1},
	    {HEAP + 1, DSM_RUN_FETCHED, 1},
	    {UINT64_MAX - 4095, DSM_RUN_FETCHED, 1},
	    {HEAP, DSM_RUN_FETCHED, DSM_FETCHED_MAX + 1},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct rig g;
		struct dsm_msg_exec x;

		rig_init(&g, 1, 1);
		MUST_OK(launch(&g, .end = 1, .flags = bad[i].flags));
		MUST(next_exec(&g.w[0], &x));
		MUST_OK(fetched(&g.w[0], &x, bad[i].start, bad[i].n));
		MUST_BE(count_of(&g.c, DSM_MSG_FETCHED), 0);
		expect_lost(&g, &x);
		rig_fini(&g);
	}
}

static void
test_cancel_is_answered_at_once(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	const struct dsm_msg_cancel m = {1, 1};

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 100));
	MUST_OK(say(&g.c, DSM_MSG_CANCEL, dsm__encode_cancel(&g.c.buf, &m)));
	expect_verdict(&g.c, DSM_ECANCELED, &v);
	MUST_BE(count_of(&g.w[0], DSM_MSG_CANCEL), 1);
	rig_fini(&g);
}

/* --- workers that cannot, or are not there --- */

static void
test_a_run_without_workers_ends_after_a_while(void)
{
	struct rig g;
	struct dsm_msg_verdict v;

	rig_init(&g, 0, 0);
	MUST_OK(launch(&g, .end = 1));
	for (unsigned ms = 0; ms <= 10500; ms += 100) {
		coord_tick(g.k, g.now + ms * DSM_MS);
		if (ms < 10000)
			MUST(!next_verdict(&g.c, &v));
		g.c.now = g.now + ms * DSM_MS; /* it is alive */
		if (g.c.closed[0] == '\0')
			MUST_OK(say(&g.c, DSM_MSG_PONG,
			            dsm__encode_pong(
			                &g.c.buf, &(struct dsm_msg_pong){1})));
	}
	g.c.next = 0;
	expect_verdict(&g.c, DSM_ECONN, &v);
	MUST(str_has(v.text, "no worker has joined the coordinator at "
	                     "10.0.0.9:7070 within 10 s"));
	rig_fini(&g);
}

static void
test_a_worker_whose_cpu_lacks_something_is_not_asked(void)
{
	static const uint8_t all[48] = {[0 ... 47] = 0xff}, none[48];
	struct dsm_msg_hello h = hello_of(DSM_ROLE_CLIENT, "prog", 0);
	struct dsm_msg_hello hw = hello_of(DSM_ROLE_WORKER, "node7", 2);
	struct rig g;
	struct dsm_msg_verdict v;
	struct fake c;

	rig_init(&g, 0, 0);
	h.cpu = (struct dsm_blob){all, sizeof(all)};
	hw.cpu = (struct dsm_blob){none, sizeof(none)};
	MUST_OK(join_hello(g.k, &c, &h));
	MUST_OK(join_hello(g.k, &g.w[0], &hw));
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION), 1); /* of the other one */
	MUST_OK(launch_from(&c, &(struct launch){.end = 1}));
	coord_tick(g.k, g.now);
	coord_tick(g.k, g.now + 2 * DSM_SEC);
	coord_tick(g.k, g.now + 12 * DSM_SEC);
	expect_verdict(&c, DSM_ECONN, &v);
	MUST(str_has(v.text,
	             "worker node7 cannot run this program: its CPU lacks "));
	leave(&c);
	rig_fini(&g);
}

static void
say_link(struct fake *w, uint64_t session, const char *transport,
         const char *text)
{
	const struct dsm_msg_link m = {session, dsm__str(transport),
	                               dsm__str(text)};

	MUST_OK(say(w, DSM_MSG_LINK, dsm__encode_link(&w->buf, &m)));
}

static void
test_stat_says_how_slots_reach_their_program(void)
{
	struct rig g;
	char *json;

	rig_init(&g, 3, 1);
	say_link(&g.w[0], g.c.session, "tcp", "no route");
	say_link(&g.w[0], g.c.session, "verbs", "mlx5_0 port 1");
	say_link(&g.w[2], g.c.session, "tcp", "");
	say_link(&g.w[2], 999, "tcp", "of nobody");
	json = coord_stat_json(g.k, NULL, g.now);
	MUST(json != NULL);
	MUST(strstr(json,
	            "\"links\":[{\"worker\":\"node0\",\"transport\":\"verbs\","
	            "\"text\":\"mlx5_0 port 1\"},{\"worker\":\"node2\","
	            "\"transport\":\"tcp\",\"text\":\"\"}]") != NULL);
	free(json);
	rig_fini(&g);
}

/* --- tokens --- */

static const struct dsm_identity alice = {"alice", DSM_TOKEN_CLIENT, 0, 0, 0},
                                 bob = {"bob", DSM_TOKEN_CLIENT, 0, 0, 0},
                                 crew = {"crew", DSM_TOKEN_WORKER, 0, 0, 0},
                                 chief = {"chief",
                                          DSM_TOKEN_CLIENT | DSM_TOKEN_ADMIN, 0,
                                          0, 0};

static void
must_join_as(struct coord *k, struct fake *f, unsigned role, const char *name,
             const struct dsm_identity *who)
{
	struct dsm_msg_hello h = hello_of(role, name, 1);

	MUST_OK(join_hello_as(k, f, &h, who));
}

static void
must_not_join_as(struct coord *k, unsigned role, const char *name,
                 const struct dsm_identity *who)
{
	struct dsm_msg_hello h = hello_of(role, name, 1);
	struct dsm_msg_refuse m;
	struct fake f;
	struct sent *s;

	MUST_BE(join_hello_as(k, &f, &h, who), DSM_EAUTH);
	MUST(f.peer == NULL);
	s = next_of(&f, DSM_MSG_REFUSE);
	MUST(s != NULL);
	MUST_OK(dsm__decode_refuse(s->body, s->len, &m));
	MUST_BE(m.code, -DSM_EAUTH);
	fake_fini(&f);
}

static void
test_a_token_joins_in_its_role_only(void)
{
	const struct coord_params p = {.no_worker_ms = 1000};
	struct coord *k;
	struct fake c, w;

	MUST_OK(coord_create(&p, &k));
	must_not_join_as(k, DSM_ROLE_WORKER, "node", &alice);
	must_not_join_as(k, DSM_ROLE_CLIENT, "prog", &crew);
	must_join_as(k, &c, DSM_ROLE_CLIENT, "prog", &alice);
	must_join_as(k, &w, DSM_ROLE_WORKER, "node", &crew);
	MUST_BE(count_of(&w, DSM_MSG_SESSION), 1);
	leave(&c);
	leave(&w);
	coord_destroy(k);
}

static int
json_has(struct coord *k, const struct dsm_identity *viewer, const char *text)
{
	char *json = coord_stat_json(k, viewer, 0);
	int has;

	MUST(json != NULL);
	has = strstr(json, text) != NULL;
	free(json);
	return has;
}

static void
test_a_token_sees_its_own_sessions_and_an_admin_all(void)
{
	const struct coord_params p = {.no_worker_ms = 1000};
	struct coord *k;
	struct fake a, b, w;

	MUST_OK(coord_create(&p, &k));
	must_join_as(k, &w, DSM_ROLE_WORKER, "node", &crew);
	must_join_as(k, &a, DSM_ROLE_CLIENT, "prog-a", &alice);
	must_join_as(k, &b, DSM_ROLE_CLIENT, "prog-b", &bob);
	MUST(json_has(k, &alice, "prog-a"));
	MUST(!json_has(k, &alice, "prog-b"));
	MUST(!json_has(k, &alice, "bob"));
	MUST(json_has(k, &bob, "prog-b"));
	MUST(!json_has(k, &bob, "prog-a"));
	MUST(!json_has(k, &crew, "prog-"));
	MUST(json_has(k, &chief, "prog-a"));
	MUST(json_has(k, &chief, "prog-b"));
	MUST(json_has(k, NULL, "prog-a"));
	MUST(json_has(k, &alice, "\"name\":\"node\""));
	leave(&a);
	leave(&b);
	leave(&w);
	coord_destroy(k);
}

static void
test_a_session_s_key_and_link_end_with_it(void)
{
	uint8_t key[DSM_KEY_LEN];
	struct coord *k;
	uint64_t session;
	struct rig g;

	rig_init(&g, 0, 0);
	k = g.k;
	session = g.c.session;
	MUST(coord_session_key(k, session, key));
	MUST(memcmp(key, g.c.key, DSM_KEY_LEN) == 0);
	MUST(coord_session_link(k, session) == &g.c.link);
	MUST(!coord_session_key(k, session + 1, key));
	MUST(coord_session_link(k, session + 1) == NULL);
	rig_fini(&g);
}

static void
test_an_unfit_worker_s_tasks_go_elsewhere(void)
{
	const struct dsm_msg_unfit m = {1, dsm__str("addresses collide")};
	struct rig g;
	struct dsm_msg_verdict v;
	unsigned n;

	rig_init(&g, 2, 1);
	MUST_OK(launch(&g, .end = 20));
	MUST_OK(
	    say(&g.w[0], DSM_MSG_UNFIT, dsm__encode_unfit(&g.w[0].buf, &m)));
	n = count_of(&g.w[0], DSM_MSG_EXEC);
	g.w[0].next = g.w[0].n;
	work_off(&g);
	MUST_BE(count_of(&g.w[0], DSM_MSG_EXEC), n);
	expect_verdict(&g.c, DSM_OK, &v);
	rig_fini(&g);
}

static void
say_unfit(struct rig *g, uint64_t now)
{
	const struct dsm_msg_unfit m = {1, dsm__str("cannot reach the client")};

	g->w[0].now = now;
	MUST_OK(
	    say(&g->w[0], DSM_MSG_UNFIT, dsm__encode_unfit(&g->w[0].buf, &m)));
}

static void
test_an_unfit_worker_is_asked_again_after_pauses_that_double(void)
{
	struct dsm_msg_verdict v;
	struct rig g;
	uint64_t t;

	rig_init(&g, 1, 1);
	t = g.now;
	MUST_OK(launch(&g, .end = 20));
	say_unfit(&g, t);
	coord_tick(g.k, t + 900 * DSM_MS);
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION), 1);
	t += 1100 * DSM_MS;
	coord_tick(g.k, t);
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION_END), 1);
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION), 2);
	MUST_BE(count_of(&g.w[0], DSM_MSG_RUN), 2);
	say_unfit(&g, t);
	coord_tick(g.k, t + 1900 * DSM_MS);
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION), 2);
	g.w[0].next = g.w[0].n;
	coord_tick(g.k, t + 2100 * DSM_MS);
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION), 3);
	work_off(&g);
	expect_verdict(&g.c, DSM_OK, &v);
	rig_fini(&g);
}

static void
test_a_run_does_not_wait_longer_for_a_worker_that_stays_unfit(void)
{
	struct dsm_msg_verdict v;
	struct rig g;
	uint64_t t, begin;

	rig_init(&g, 1, 1);
	begin = g.now;
	MUST_OK(launch(&g, .end = 20));
	say_unfit(&g, begin);
	for (t = begin; t < begin + 11 * DSM_SEC; t += DSM_SEC / 4) {
		unsigned n = count_of(&g.w[0], DSM_MSG_SESSION);

		g.c.now = t;
		MUST_OK(
		    say(&g.c, DSM_MSG_PONG,
		        dsm__encode_pong(&g.c.buf, &(struct dsm_msg_pong){1})));
		coord_tick(g.k, t);
		if (count_of(&g.w[0], DSM_MSG_SESSION) > n)
			say_unfit(&g, t);
	}
	expect_verdict(&g.c, DSM_ECONN, &v);
	MUST(str_has(v.text, "cannot reach the client"));
	rig_fini(&g);
}

static void
test_a_silent_peer_is_closed_and_a_lively_one_pinged(void)
{
	struct rig g;
	uint64_t t;

	rig_init(&g, 2, 1);
	for (t = g.now; t < g.now + 8 * DSM_SEC; t += DSM_SEC / 2) {
		g.w[0].now = g.c.now = t;
		MUST_OK(say(
		    &g.w[0], DSM_MSG_PING,
		    dsm__encode_ping(&g.w[0].buf, &(struct dsm_msg_ping){7})));
		MUST_OK(
		    say(&g.c, DSM_MSG_PONG,
		        dsm__encode_pong(&g.c.buf, &(struct dsm_msg_pong){1})));
		MUST(coord_tick(g.k, t) > t);
	}
	MUST(g.w[0].closed[0] == '\0' && g.c.closed[0] == '\0');
	MUST(strstr(g.w[1].closed, "silent for") != NULL);
	MUST_BE(count_of(&g.w[0], DSM_MSG_PING), 8);
	MUST(count_of(&g.w[0], DSM_MSG_PONG) > 0);
	rig_fini(&g);
}

static void
tick_until(struct rig *g, uint64_t *now, uint64_t seconds)
{
	uint64_t end = g->now + seconds * DSM_SEC;

	for (; *now < end; *now += DSM_SEC / 2)
		coord_tick(g->k, *now);
}

static void
test_a_client_that_is_stopped_is_waited_for(void)
{
	struct rig g;
	uint64_t t;

	rig_init(&g, 0, 0);
	t = g.now;
	tick_until(&g, &t, 59);
	MUST(g.c.closed[0] == '\0');
	MUST(count_of(&g.c, DSM_MSG_PING) <= 6);
	tick_until(&g, &t, 62);
	MUST(strstr(g.c.closed, "silent for") != NULL);
	rig_fini(&g);
}

static void
test_a_stopped_client_whose_machine_goes_away_is_gone(void)
{
	struct rig g;
	uint64_t t;

	rig_init(&g, 0, 0);
	t = g.now;
	tick_until(&g, &t, 20);
	MUST(g.c.closed[0] == '\0');
	g.c.unreachable = 1;
	tick_until(&g, &t, 21);
	MUST(strstr(g.c.closed, "silent for") != NULL);
	rig_fini(&g);
}

static void
test_a_client_that_goes_on_is_pinged_again(void)
{
	struct rig g;
	uint64_t t;
	unsigned n;

	rig_init(&g, 0, 0);
	t = g.now;
	tick_until(&g, &t, 30);
	n = count_of(&g.c, DSM_MSG_PING);
	g.c.now = t;
	MUST_OK(say(&g.c, DSM_MSG_PONG,
	            dsm__encode_pong(&g.c.buf, &(struct dsm_msg_pong){1})));
	tick_until(&g, &t, 33);
	MUST(count_of(&g.c, DSM_MSG_PING) >= n + 2);
	MUST(g.c.closed[0] == '\0');
	rig_fini(&g);
}

static void
test_progress_comes_four_times_a_second_in_long_runs(void)
{
	struct rig g;
	struct dsm_msg_progress m;
	struct dsm_msg_exec x;
	struct sent *s;

	rig_init(&g, 1, 2);
	MUST_OK(launch(&g, .end = 100, .chunk = 1));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, 0));
	for (unsigned ms = 0; ms <= 1500; ms += 50)
		coord_tick(g.k, g.now + ms * DSM_MS);
	MUST_BE(count_of(&g.c, DSM_MSG_PROGRESS), 5);
	s = next_of(&g.c, DSM_MSG_PROGRESS);
	MUST_OK(dsm__decode_progress(s->body, s->len, &m));
	MUST_BE(m.done, 1);
	MUST_BE(m.total, 100);
	MUST_BE(m.slots, 2);
	rig_fini(&g);
}

/* --- sharing --- */

static void
test_max_slots_bounds_what_is_out(void)
{
	struct rig g;

	rig_init(&g, 2, 4);
	MUST_OK(launch(&g, .end = 100, .max_slots = 3));
	MUST_BE(count_of(&g.w[0], DSM_MSG_EXEC) +
	            count_of(&g.w[1], DSM_MSG_EXEC),
	        3);
	work_off(&g);
	rig_fini(&g);
}

static void
test_few_tasks_spread_over_all_workers(void)
{
	struct rig g;

	rig_init(&g, 4, 4);
	MUST_OK(launch(&g, .end = 8));
	for (unsigned i = 0; i < 4; i++)
		MUST_BE(count_of(&g.w[i], DSM_MSG_EXEC), 2);
	rig_fini(&g);
}

static void
test_two_sessions_share_the_slots(void)
{
	struct rig g;
	struct fake other;
	struct dsm_msg_exec x;
	unsigned n[2] = {0};

	rig_init(&g, 1, 4);
	join(g.k, &other, DSM_ROLE_CLIENT, "other", 0);
	MUST_OK(launch(&g, .end = 1000, .chunk = 1));
	MUST_OK(launch_from(&other, &(struct launch){.end = 1000, .chunk = 1}));
	/* The first had all places; as they come free the other catches up. */
	for (unsigned i = 0; i < 200; i++) {
		MUST(next_exec(&g.w[0], &x));
		if (i >= 20)
			n[x.session == other.session]++;
		MUST_OK(answer(&g.w[0], &x, 0));
	}
	CU_ASSERT(n[0] > 80 && n[1] > 80);
	leave(&other);
	rig_fini(&g);
}

/* --- sizes --- */

static void
test_a_hundred_thousand_single_tasks_take_no_time(void)
{
	struct rig g;
	struct dsm_msg_verdict v;
	uint64_t start = dsm__now();

	rig_init(&g, 2, 8);
	MUST_OK(launch(&g, .end = 100000, .chunk = 1));
	MUST_BE(work_off(&g), 100000);
	expect_verdict(&g.c, DSM_OK, &v);
	MUST_BE(v.accepted.n, 100000);
	CU_ASSERT(dsm__now() - start < 5 * DSM_SEC);
	rig_fini(&g);
}

static void
test_stat_tells_of_workers_sessions_and_runs(void)
{
	struct dsm_msg_hello h = hello_of(DSM_ROLE_WORKER, "a\"b\n\xff", 3);
	struct rig g;
	char *json;

	rig_init(&g, 0, 0);
	MUST_OK(join_hello(g.k, &g.w[0], &h));
	MUST_OK(launch(&g, .end = 100));
	json = coord_stat_json(g.k, NULL, g.now);
	MUST(json != NULL);
	MUST(strstr(json, "\"name\":\"a\\\"b\\u000a?\"") != NULL);
	MUST(strstr(json, "\"slots\":3") != NULL);
	MUST(strstr(json, "\"name\":\"prog\"") != NULL);
	MUST(strstr(json, "\"run\":{\"run\":1,\"name\":\"the run\","
	                  "\"mode\":\"tasks\",\"total\":100,") != NULL);
	free(json);
	rig_fini(&g);
}

static void
test_a_tool_gets_the_state(void)
{
	struct rig g;
	struct fake tool;
	struct sent *s;

	rig_init(&g, 1, 1);
	join(g.k, &tool, DSM_ROLE_TOOL, "stat", 0);
	MUST_OK(say(&tool, DSM_MSG_STAT,
	            dsm__encode_stat(&tool.buf, &(struct dsm_msg_stat){0})));
	s = next_of(&tool, DSM_MSG_STAT_REPLY);
	MUST(s != NULL);
	leave(&tool);
	rig_fini(&g);
}

/* --- random schedules against a model --- */

enum { N_TASKS = 300, MAX_HELD = 4096 };

struct held {
	struct dsm_msg_exec x;
	int worker;    /* -1: answered, kept for late repeats */
	int wrote;     /* its STORED is still to come */
	uint64_t done; /* tasks [lo, done) would be accepted */
};

struct chaos {
	struct rig g;
	struct held held[MAX_HELD];
	unsigned n;
	uint64_t seed;
	uint8_t failed[N_TASKS]; /* said so in a DONE */
};

static uint64_t
dice(struct chaos *h, uint64_t n)
{
	return test_rand(&h->seed) % n;
}

static void
chaos_collect(struct chaos *h)
{
	for (unsigned i = 0; i < MAX_WORKERS; i++) {
		struct dsm_msg_exec x;

		while (h->g.w[i].peer != NULL && next_exec(&h->g.w[i], &x)) {
			MUST(h->n < MAX_HELD);
			MUST(x.lo < x.hi && x.hi <= N_TASKS);
			h->held[h->n++] = (struct held){x, (int)i, 0, x.hi};
		}
	}
}

static void
chaos_answer(struct chaos *h, struct held *a)
{
	struct fake *w = &h->g.w[a->worker];
	struct answer r = {0};

	if (dice(h, 8) == 0) {
		MUST_OK(returned_at(
		    w, &a->x, dice(h, 2) ? a->x.lo + dice(h, 4) : UINT64_MAX,
		    dice(h, 2) ? "lost" : ""));
		a->worker = -1;
		return;
	}
	if (dice(h, 12) == 0) {
		r.failed = 1;
		r.task = a->x.lo + dice(h, a->x.hi - a->x.lo);
		r.no_counters = dice(h, 2) == 0;
		a->done = r.task;
		h->failed[r.task] = 1;
	}
	if (dice(h, 2) && (!r.failed || (!r.no_counters && r.task > a->x.lo))) {
		r.addr = HEAP + a->x.lo * 8;
		a->wrote = 1;
		if (dice(h, 2)) {
			MUST_OK(stored(&h->g.c, &a->x));
			a->wrote = 0;
		}
	}
	MUST_OK(answer_done(w, &a->x, &r));
	a->worker = -1;
}

static void
chaos_lose_worker(struct chaos *h)
{
	unsigned i = (unsigned)dice(h, MAX_WORKERS);

	if (h->g.w[i].peer == NULL) {
		join(h->g.k, &h->g.w[i], DSM_ROLE_WORKER, "node", 1 + i);
		return;
	}
	leave(&h->g.w[i]);
	for (unsigned j = 0; j < h->n; j++)
		if (h->held[j].worker == (int)i)
			h->held[j].worker = -1;
}

static void
chaos_step(struct chaos *h)
{
	struct held *a;

	chaos_collect(h);
	if (dice(h, 40) == 0)
		chaos_lose_worker(h);
	/* So far apart that silence means nothing, and all is late. */
	if (dice(h, 10) == 0) {
		h->g.now += 4 * DSM_SEC;
		coord_tick(h->g.k, h->g.now);
	}
	if (h->n == 0)
		return;
	/* Mostly a young one, or all ends up waiting. */
	a = &h->held[dice(h, 3) && h->n > 20 ? h->n - 1 - dice(h, 20)
	                                     : dice(h, h->n)];
	if (a->worker >= 0)
		chaos_answer(h, a);
	else if (a->wrote || dice(h, 4) == 0) /* or a late one */
		MUST_OK(stored(&h->g.c, &a->x));
	if (a->worker < 0)
		a->wrote = 0;
}

/* The last attempt that was given out with that id. */
static const struct held *
chaos_find(const struct chaos *h, uint64_t id)
{
	for (unsigned i = 0; i < h->n; i++)
		if (h->held[i].x.attempt == id)
			return &h->held[i];
	return NULL;
}

static void
chaos_judge(const struct chaos *h, const struct dsm_msg_verdict *v)
{
	uint8_t seen[N_TASKS] = {0};
	uint64_t last = 0;

	for (uint32_t i = 0; i < v->accepted.n; i++) {
		struct dsm_rec_attempt rec;
		const struct held *a;

		MUST_OK(dsm__unpack_attempt(&v->accepted, i, &rec));
		a = chaos_find(h, rec.id);
		MUST(a != NULL);
		MUST(a->x.lo >= last);
		last = a->done;
		for (uint64_t t = a->x.lo; t < a->done; t++)
			seen[t]++;
	}
	for (uint32_t i = 0; i < v->failures.n; i++) {
		struct dsm_rec_failure f;

		MUST_OK(dsm__unpack_failure(&v->failures, i, &f));
		/* CANCELLED: there was no worker for too long. */
		MUST(f.kind == DSM_FAIL_LOST || f.kind == DSM_FAIL_CANCELLED ||
		     h->failed[f.task]);
		seen[f.task]++;
	}
	for (unsigned t = 0; t < N_TASKS; t++)
		MUST_BE(seen[t], 1);
	MUST_BE(v->n_races, 0);
}

static void
test_random_schedules_account_for_each_task_once(void)
{
	static struct chaos h;
	uint64_t seed = test_seed();

	for (unsigned round = 0; round < 60; round++) {
		struct dsm_msg_verdict v;
		unsigned steps = 0;

		memset(&h, 0, sizeof(h));
		h.seed = test_rand(&seed);
		rig_init(&h.g, 3, 2);
		MUST_OK(launch(
		    &h.g, .end = N_TASKS, .retries = dice(&h, 2) ? 1 : 1000000,
		    .chunk = dice(&h, 2) * 3, .flags = DSM_RUN_KEEP_PARTIAL,
		    .max_slots = (uint32_t)dice(&h, 2) * 5));
		while (!next_verdict(&h.g.c, &v)) {
			MUST(steps++ < 1000000);
			chaos_step(&h);
		}
		chaos_judge(&h, &v);
		rig_fini(&h.g);
	}
}

SUITE(coordinator_coord, "coordinator.coord",
      T(test_a_client_that_joins_gets_a_session_and_a_key),
      T(test_a_client_that_joins_again_ends_its_old_session),
      T(test_a_worker_that_joins_again_gives_its_tasks_back),
      T(test_nobody_takes_a_place_without_its_key),
      T(test_a_peer_of_another_version_is_refused),
      T(test_workers_are_told_of_sessions),
      T(test_workers_hear_when_a_session_ends),
      T(test_runs_that_make_no_sense_are_refused),
      T(test_a_second_run_in_flight_is_refused),
      T(test_a_run_goes_to_all_workers_and_its_tasks_are_accepted),
      T(test_an_empty_run_succeeds_at_once),
      T(test_a_late_worker_gets_the_run_in_flight_with_the_table),
      T(test_a_worker_of_the_pause_gets_the_table_with_the_next_run),
      T(test_late_workers_get_the_advice_too),
      T(test_an_attempt_that_wrote_counts_when_it_is_stored),
      T(test_a_lost_worker_s_tasks_go_to_another),
      T(test_a_task_lost_too_often_is_a_failure),
      T(test_a_run_whose_other_tasks_succeeded_is_not_lost),
      T(test_a_task_at_which_slots_are_lost_is_alone_to_blame),
      T(test_what_all_lost_workers_had_is_named),
      T(test_a_return_without_a_reason_blames_nobody),
      T(test_late_answers_are_dropped),
      T(test_answering_for_another_worker_is_a_protocol_error),
      T(test_a_slot_that_lies_loses_its_attempt_and_not_its_worker),
      T(test_a_client_whose_address_is_too_long_is_refused),
      T(test_garbage_closes_the_connection),
      T(test_tasks_behind_a_failed_one_run_again),
      T(test_a_killed_slot_s_earlier_tasks_run_again),
      T(test_a_failed_loop_chunk_is_void),
      T(test_fail_fast_ends_the_run_with_the_first_failure),
      T(test_who_keeps_partial_results_is_told_what_is_missing),
      T(test_a_failed_range_says_what_it_was),
      T(test_two_writers_of_a_byte_are_a_race),
      T(test_masks_sent_ahead_are_checked_for_races),
      T(test_masks_of_an_attempt_that_is_lost_count_for_nothing),
      T(test_masks_must_be_of_the_attempts_tasks_and_be_stored),
      T(test_what_was_fetched_is_passed_on_to_the_client_that_asked),
      T(test_what_was_fetched_must_be_asked_for_and_make_sense),
      T(test_cancel_is_answered_at_once),
      T(test_a_run_without_workers_ends_after_a_while),
      T(test_a_worker_whose_cpu_lacks_something_is_not_asked),
      T(test_stat_says_how_slots_reach_their_program),
      T(test_a_token_joins_in_its_role_only),
      T(test_a_token_sees_its_own_sessions_and_an_admin_all),
      T(test_a_session_s_key_and_link_end_with_it),
      T(test_an_unfit_worker_s_tasks_go_elsewhere),
      T(test_an_unfit_worker_is_asked_again_after_pauses_that_double),
      T(test_a_run_does_not_wait_longer_for_a_worker_that_stays_unfit),
      T(test_a_silent_peer_is_closed_and_a_lively_one_pinged),
      T(test_a_client_that_is_stopped_is_waited_for),
      T(test_a_stopped_client_whose_machine_goes_away_is_gone),
      T(test_a_client_that_goes_on_is_pinged_again),
      T(test_progress_comes_four_times_a_second_in_long_runs),
      T(test_max_slots_bounds_what_is_out),
      T(test_few_tasks_spread_over_all_workers),
      T(test_two_sessions_share_the_slots),
      T(test_a_hundred_thousand_single_tasks_take_no_time),
      T(test_stat_tells_of_workers_sessions_and_runs),
      T(test_a_tool_gets_the_state),
      T(test_random_schedules_account_for_each_task_once));
