/* Peers that do not take what is sent to them: nothing grows without end. */
#include "rig.h"

static void
test_a_client_that_reads_slowly_gets_nothing_new_to_do(void)
{
	struct rig g;
	struct dsm_msg_exec x;

	rig_init(&g, 1, 1);
	MUST_OK(launch(&g, .end = 100, .chunk = 1));
	MUST(next_exec(&g.w[0], &x));
	g.c.backlog = (size_t)17 << 20;
	MUST_OK(answer(&g.w[0], &x, 0));
	/* The second one that it had; no third. */
	MUST(next_exec(&g.w[0], &x));
	MUST_OK(answer(&g.w[0], &x, 0));
	MUST(!next_exec(&g.w[0], &x));
	coord_tick(g.k, g.now + 300 * DSM_MS);
	MUST(!next_exec(&g.w[0], &x));
	g.c.backlog = 0;
	coord_tick(g.k, g.now + 600 * DSM_MS);
	MUST_BE(work_off(&g), 98);
	rig_fini(&g);
}

static void
test_other_clients_do_not_wait_for_a_slow_one(void)
{
	struct rig g;
	struct fake other;
	struct dsm_msg_exec x;

	rig_init(&g, 1, 1);
	g.c.backlog = (size_t)17 << 20;
	MUST_OK(launch(&g, .end = 100, .chunk = 1));
	MUST(!next_exec(&g.w[0], &x));
	join(g.k, &other, DSM_ROLE_CLIENT, "other", 0);
	MUST_OK(launch_from(&other, &(struct launch){.end = 3, .chunk = 1}));
	MUST(next_exec(&g.w[0], &x));
	MUST_BE(x.session, other.session);
	coord_peer_gone(g.k, other.peer, g.now);
	fake_fini(&other);
	rig_fini(&g);
}

static void
test_a_peer_that_reads_nothing_is_closed_before_memory_is_short(void)
{
	struct rig g;
	struct dsm_msg_exec x;

	rig_init(&g, 2, 1);
	g.w[0].backlog = (size_t)600 << 20;
	MUST_OK(launch(&g, .end = 1));
	MUST(strstr(g.w[0].closed, "does not take what is sent") != NULL);
	leave(&g.w[0]);
	MUST(next_exec(&g.w[1], &x));
	rig_fini(&g);
}

SUITE(coordinator_slow, "coordinator.slow",
      T(test_a_client_that_reads_slowly_gets_nothing_new_to_do),
      T(test_other_clients_do_not_wait_for_a_slow_one),
      T(test_a_peer_that_reads_nothing_is_closed_before_memory_is_short));
