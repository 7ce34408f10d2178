/* Workers that leave in peace (DRAIN). */
#include <stdlib.h>

#include "rig.h"

static void
drain(struct fake *w)
{
	const struct dsm_msg_drain m = {0};

	MUST_OK(say(w, DSM_MSG_DRAIN, dsm__encode_drain(&w->buf, &m)));
}

static void
test_a_worker_that_drains_gets_no_more_tasks(void)
{
	struct rig g;
	struct dsm_msg_exec x;

	rig_init(&g, 2, 1);
	drain(&g.w[0]);
	MUST_OK(launch(&g, .end = 4));
	MUST(!next_exec(&g.w[0], &x));
	MUST_BE(work_off(&g), 4);
	MUST(!next_exec(&g.w[0], &x));
	rig_fini(&g);
}

static void
test_a_worker_may_go_when_its_results_are_with_the_client(void)
{
	struct rig g;
	struct dsm_msg_exec x;
	struct dsm_msg_verdict v;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1));
	MUST(next_exec(&g.w[0], &x));
	drain(&g.w[0]);
	MUST_BE(count_of(&g.w[0], DSM_MSG_DRAIN), 0);
	MUST_OK(answer(&g.w[0], &x, .addr = HEAP));
	MUST_BE(count_of(&g.w[0], DSM_MSG_DRAIN), 0);
	MUST_OK(stored(&g.c, &x));
	MUST_BE(count_of(&g.w[0], DSM_MSG_DRAIN), 1);
	expect_verdict(&g.c, DSM_OK, &v);
	rig_fini(&g);
}

static void
test_an_idle_worker_may_go_at_once(void)
{
	struct rig g;

	rig_init(&g, 1, 1);
	drain(&g.w[0]);
	MUST_BE(count_of(&g.w[0], DSM_MSG_DRAIN), 1);
	drain(&g.w[0]);
	MUST_BE(count_of(&g.w[0], DSM_MSG_DRAIN), 1);
	rig_fini(&g);
}

static void
test_what_a_draining_worker_gives_back_is_not_lost(void)
{
	struct rig g;
	struct dsm_msg_exec x, again;
	struct dsm_msg_verdict v;

	rig_init(&g, 2, 1);
	MUST_OK(launch(&g, .end = 1, .retries = 1));
	MUST(next_exec(&g.w[0], &x));
	drain(&g.w[0]);
	MUST_OK(returned(&g.w[0], &x, ""));
	MUST(next_exec(&g.w[1], &again));
	MUST_BE(again.lo, x.lo);
	MUST_OK(answer(&g.w[1], &again, 0));
	expect_verdict(&g.c, DSM_OK, &v);
	MUST_BE(v.failures.n, 0);
	rig_fini(&g);
}

/* A run waits for another worker only when nobody works on it any more. */
static void
test_the_last_worker_may_finish_longer_than_a_run_waits_for_a_first(void)
{
	struct rig g;
	struct dsm_msg_exec x;
	struct dsm_msg_verdict v;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 1));
	MUST(next_exec(&g.w[0], &x));
	drain(&g.w[0]);
	coord_tick(g.k, g.now);
	coord_tick(g.k, g.now + 12 * DSM_SEC);
	coord_tick(g.k, g.now + 24 * DSM_SEC);
	MUST_BE(count_of(&g.c, DSM_MSG_VERDICT), 0);
	MUST_OK(answer(&g.w[0], &x, 0));
	expect_verdict(&g.c, DSM_OK, &v);
	rig_fini(&g);
}

static void
test_sessions_that_come_later_do_not_count_on_it(void)
{
	struct rig g;
	struct fake second;
	struct dsm_msg_verdict v;

	rig_init(&g, 1, 1);
	drain(&g.w[0]);
	join(g.k, &second, DSM_ROLE_CLIENT, "second", 0);
	MUST_BE(count_of(&g.w[0], DSM_MSG_SESSION), 1);
	MUST_OK(launch_from(&second, &(struct launch){.end = 1}));
	coord_tick(g.k, g.now);
	coord_tick(g.k, g.now + 12 * DSM_SEC);
	expect_verdict(&second, DSM_ECONN, &v);
	MUST(str_has(v.text, "node0 cannot run this program: it is leaving"));
	coord_peer_gone(g.k, second.peer, g.now);
	fake_fini(&second);
	rig_fini(&g);
}

static void
test_stat_says_who_drains(void)
{
	struct rig g;
	char *json;

	rig_init(&g, 1, 1);
	json = coord_stat_json(g.k, NULL, g.now);
	MUST(strstr(json, "\"draining\":false") != NULL);
	free(json);
	drain(&g.w[0]);
	json = coord_stat_json(g.k, NULL, g.now);
	MUST(strstr(json, "\"draining\":true") != NULL);
	free(json);
	rig_fini(&g);
}

SUITE(coordinator_drain, "coordinator.drain",
      T(test_a_worker_that_drains_gets_no_more_tasks),
      T(test_a_worker_may_go_when_its_results_are_with_the_client),
      T(test_an_idle_worker_may_go_at_once),
      T(test_what_a_draining_worker_gives_back_is_not_lost),
      T(test_the_last_worker_may_finish_longer_than_a_run_waits_for_a_first),
      T(test_sessions_that_come_later_do_not_count_on_it),
      T(test_stat_says_who_drains));
