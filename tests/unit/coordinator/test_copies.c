/* Second copies of tasks that are late (coordinator/core/copies.c). */
#include "../../../dsm/base/counters.h"
#include "rig.h"

/* Two workers of a slot each, two tasks of a millisecond: worker 0's is done, worker
 * 1's is not. *x: what it holds. */
static void
rig_with_straggler(struct rig *g, const struct launch *l,
                   struct dsm_msg_exec *x)
{
	struct dsm_msg_exec done;

	rig_init(g, 2, 1);
	MUST_OK(launch_from(&g->c, l));
	MUST(next_exec(&g->w[0], &done));
	MUST(next_exec(&g->w[1], x));
	MUST_OK(answer(&g->w[0], &done, 0));
}

static void
tick(struct rig *g, uint64_t ms)
{
	g->now += ms * DSM_MS;
	coord_tick(g->k, g->now);
}

static void
test_a_late_task_is_started_on_an_idle_slot_elsewhere(void)
{
	struct rig g;
	struct dsm_msg_exec x, copy;

	rig_with_straggler(&g, &(struct launch){.end = 2}, &x);
	tick(&g, 50);
	MUST(!next_exec(&g.w[0], &copy));
	tick(&g, 200);
	MUST(next_exec(&g.w[0], &copy));
	MUST(copy.attempt != x.attempt);
	MUST(copy.lo == x.lo && copy.hi == x.hi);
	/* One is enough. */
	tick(&g, 2000);
	MUST(!next_exec(&g.w[0], &copy));
	MUST(!next_exec(&g.w[1], &copy));
	rig_fini(&g);
}

static void
expect_forgotten(struct fake *c, uint64_t attempt)
{
	struct dsm_msg_forget m;
	struct sent *s = next_of(c, DSM_MSG_FORGET);

	MUST(s != NULL);
	MUST_OK(dsm__decode_forget(s->body, s->len, &m));
	MUST_BE(m.attempt, attempt);
}

static void
expect_accepted(const struct dsm_msg_verdict *v, uint64_t attempt)
{
	struct dsm_rec_attempt rec;

	MUST_BE(v->accepted.n, 2);
	MUST_OK(dsm__unpack_attempt(&v->accepted, 1, &rec));
	MUST_BE(rec.id, attempt);
}

static void
expect_counters(const struct dsm_msg_verdict *v, uint64_t started, uint64_t won)
{
	struct dsm_counters c;

	dsm__counters_unpack(v->counters, &c);
	MUST_BE(c.copies_started, started);
	MUST_BE(c.copies_won, won);
	MUST_BE(c.tasks, 2);
}

static void
test_the_copy_s_answer_counts_and_the_late_one_is_recalled(void)
{
	struct rig g;
	struct dsm_msg_exec x, copy;
	struct dsm_msg_recall m;
	struct dsm_msg_verdict v;
	struct sent *s;

	rig_with_straggler(&g, &(struct launch){.end = 2}, &x);
	tick(&g, 300);
	MUST(next_exec(&g.w[0], &copy));
	MUST_OK(answer(&g.w[0], &copy, .addr = HEAP + 8));
	MUST_BE(count_of(&g.c, DSM_MSG_VERDICT), 0);
	MUST_BE(count_of(&g.w[1], DSM_MSG_RECALL), 0);
	MUST_OK(stored(&g.c, &copy));
	s = next_of(&g.w[1], DSM_MSG_RECALL);
	MUST(s != NULL);
	MUST_OK(dsm__decode_recall(s->body, s->len, &m));
	MUST_BE(m.attempt, x.attempt);
	expect_forgotten(&g.c, x.attempt);
	expect_verdict(&g.c, DSM_OK, &v);
	expect_accepted(&v, copy.attempt);
	expect_counters(&v, 1, 1);
	/* What the other one still says means nothing. */
	MUST_OK(stored(&g.c, &x));
	MUST_OK(returned(&g.w[1], &x, "cancelled"));
	MUST_BE(count_of(&g.c, DSM_MSG_VERDICT), 1);
	rig_fini(&g);
}

static void
test_the_first_attempt_may_win_against_its_copy(void)
{
	struct rig g;
	struct dsm_msg_exec x, copy;
	struct dsm_msg_verdict v;

	rig_with_straggler(&g, &(struct launch){.end = 2}, &x);
	tick(&g, 300);
	MUST(next_exec(&g.w[0], &copy));
	/* Both have run: the one whose bytes are there first counts. */
	MUST_OK(answer(&g.w[0], &copy, .addr = HEAP + 8));
	MUST_OK(answer(&g.w[1], &x, .addr = HEAP + 8));
	MUST_OK(stored(&g.c, &x));
	MUST_BE(count_of(&g.w[0], DSM_MSG_RECALL), 0);
	expect_forgotten(&g.c, copy.attempt);
	expect_verdict(&g.c, DSM_OK, &v);
	MUST_BE(v.n_races, 0);
	expect_accepted(&v, x.attempt);
	expect_counters(&v, 1, 0);
	rig_fini(&g);
}

static void
test_a_copy_goes_on_when_the_first_attempt_is_lost(void)
{
	struct rig g;
	struct dsm_msg_exec x, copy;
	struct dsm_msg_verdict v;

	rig_with_straggler(&g, &(struct launch){.end = 2, .retries = 1}, &x);
	tick(&g, 300);
	MUST(next_exec(&g.w[0], &copy));
	leave(&g.w[1]);
	MUST(!next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &copy, 0));
	expect_verdict(&g.c, DSM_OK, &v);
	rig_fini(&g);
}

static void
test_losses_of_both_copies_count_against_the_retries(void)
{
	struct rig g;
	struct dsm_msg_exec x, copy, again;
	struct dsm_msg_verdict v;

	rig_with_straggler(&g, &(struct launch){.end = 2, .retries = 1}, &x);
	tick(&g, 300);
	MUST(next_exec(&g.w[0], &copy));
	MUST_OK(returned(&g.w[1], &x, "killed"));
	MUST(!next_exec(&g.w[1], &again));
	MUST_OK(returned(&g.w[0], &copy, "killed"));
	MUST(!next_exec(&g.w[0], &again));
	MUST(!next_exec(&g.w[1], &again));
	expect_verdict(&g.c, DSM_ETASK, &v);
	MUST_BE(v.failures.n, 1);
	rig_fini(&g);
}

static void
test_a_failure_of_one_copy_is_the_answer(void)
{
	struct rig g;
	struct dsm_msg_exec x, copy;
	struct dsm_msg_verdict v;

	rig_with_straggler(&g, &(struct launch){.end = 2}, &x);
	tick(&g, 300);
	MUST(next_exec(&g.w[0], &copy));
	MUST_OK(answer(&g.w[0], &copy, .failed = 1, .task = copy.lo));
	MUST_BE(count_of(&g.w[1], DSM_MSG_RECALL), 1);
	expect_verdict(&g.c, DSM_ETASK, &v);
	MUST_BE(v.failures.n, 1);
	rig_fini(&g);
}

static void
expect_no_copies(struct rig *g)
{
	struct dsm_msg_exec x;

	tick(g, 300);
	tick(g, 300);
	MUST(!next_exec(&g->w[0], &x));
	MUST(!next_exec(&g->w[1], &x));
	rig_fini(g);
}

static void
test_no_copies_are_made_where_the_run_does_not_want_them(void)
{
	struct rig g;
	struct dsm_msg_exec x;

	rig_with_straggler(
	    &g, &(struct launch){.end = 2, .flags = DSM_RUN_NO_COPIES}, &x);
	expect_no_copies(&g);
}

static void
test_copies_keep_to_the_slots_that_the_run_may_have(void)
{
	struct rig g;
	struct dsm_msg_exec x;

	rig_init(&g, 2, 1);
	MUST_OK(launch(&g, .end = 2, .max_slots = 1));
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, 0));
	MUST(next_exec(&g.w[0], &x) || next_exec(&g.w[1], &x));
	expect_no_copies(&g);
}

static void
test_other_programs_tasks_go_before_copies(void)
{
	struct rig g;
	struct dsm_msg_exec x, other;
	struct fake second;

	rig_with_straggler(&g, &(struct launch){.end = 2}, &x);
	join(g.k, &second, DSM_ROLE_CLIENT, "second", 0);
	MUST_OK(launch_from(&second, &(struct launch){.end = 8}));
	MUST(next_exec(&g.w[0], &other));
	MUST_BE(other.session, second.session);
	tick(&g, 300);
	while (next_exec(&g.w[0], &other))
		MUST_BE(other.session, second.session);
	coord_peer_gone(g.k, second.peer, g.now);
	fake_fini(&second);
	rig_fini(&g);
}

static void
test_a_chunk_s_copy_has_the_same_bounds(void)
{
	struct rig g;
	struct dsm_msg_exec x, copy;

	rig_with_straggler(&g,
	                   &(struct launch){.mode = DSM_MODE_FOR_RANGE,
	                                    .end = 20,
	                                    .chunk = 10},
	                   &x);
	tick(&g, 300);
	MUST(next_exec(&g.w[0], &copy));
	MUST_BE(copy.lo, 10);
	MUST_BE(copy.hi, 20);
	rig_fini(&g);
}

SUITE(coordinator_copies, "coordinator.copies",
      T(test_a_late_task_is_started_on_an_idle_slot_elsewhere),
      T(test_the_copy_s_answer_counts_and_the_late_one_is_recalled),
      T(test_the_first_attempt_may_win_against_its_copy),
      T(test_a_copy_goes_on_when_the_first_attempt_is_lost),
      T(test_losses_of_both_copies_count_against_the_retries),
      T(test_a_failure_of_one_copy_is_the_answer),
      T(test_no_copies_are_made_where_the_run_does_not_want_them),
      T(test_copies_keep_to_the_slots_that_the_run_may_have),
      T(test_other_programs_tasks_go_before_copies),
      T(test_a_chunk_s_copy_has_the_same_bounds));
