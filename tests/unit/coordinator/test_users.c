/* Quotas, and sharing between users (coordinator/core/users.c). */
#include <stdlib.h>

#include "rig.h"

static void
join_as(struct coord *k, struct fake *f, unsigned role, unsigned n_slots,
        const struct dsm_identity *who)
{
	struct dsm_msg_hello h = hello_of(role, who->name, n_slots);

	MUST_OK(join_hello_as(k, f, &h, who));
}

static struct dsm_identity
user(const char *name, uint64_t slots, uint64_t runs)
{
	struct dsm_identity who = {.roles = DSM_TOKEN_CLIENT | DSM_TOKEN_WORKER,
	                           .slots = slots,
	                           .runs = runs};

	snprintf(who.name, sizeof(who.name), "%s", name);
	return who;
}

enum { MAX_CLIENTS = 4 };

struct town {
	struct coord *k;
	struct fake w, c[MAX_CLIENTS];
};

static void
town_init(struct town *t, unsigned n_slots)
{
	const struct coord_params p = {.no_worker_ms = 10000};
	struct dsm_identity who = user("machines", 0, 0);

	memset(t, 0, sizeof(*t));
	MUST_OK(coord_create(&p, &t->k));
	join_as(t->k, &t->w, DSM_ROLE_WORKER, n_slots, &who);
}

static void
town_fini(struct town *t)
{
	coord_destroy(t->k);
	fake_fini(&t->w);
	for (unsigned i = 0; i < MAX_CLIENTS; i++)
		fake_fini(&t->c[i]);
}

static void
launch_n(struct town *t, unsigned i, uint64_t n)
{
	MUST_OK(launch_from(&t->c[i], &(struct launch){.end = n, .chunk = 1}));
}

/* Take what the worker was given: how many are of that client. */
static unsigned
given_to(struct town *t, unsigned i, struct dsm_msg_exec *last)
{
	struct dsm_msg_exec x;
	unsigned n = 0;

	while (next_exec(&t->w, &x))
		if (x.session == t->c[i].session) {
			*last = x;
			n++;
		}
	return n;
}

static void
test_a_million_tasks_of_one_user_do_not_hold_up_another_s_ten(void)
{
	struct dsm_identity big = user("big", 0, 0),
	                    small = user("small", 0, 0);
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;
	unsigned n_answers = 0;
	struct town t;

	town_init(&t, 4);
	join_as(t.k, &t.c[0], DSM_ROLE_CLIENT, 0, &big);
	join_as(t.k, &t.c[1], DSM_ROLE_CLIENT, 0, &small);
	launch_n(&t, 0, 1000000);
	launch_n(&t, 1, 10);
	while (!next_verdict(&t.c[1], &v)) {
		MUST(next_exec(&t.w, &x));
		MUST_OK(answer(&t.w, &x, 0));
		n_answers++;
	}
	/* The 8 that were out before, then by turns. */
	MUST(n_answers <= 8 + 2 * 10 + 8);
	town_fini(&t);
}

static void
test_many_programs_of_one_user_weigh_as_much_as_one_of_another(void)
{
	struct dsm_identity many = user("many", 0, 0), one = user("one", 0, 0);
	unsigned n[2] = {0};
	struct dsm_msg_exec x;
	struct town t;

	town_init(&t, 4);
	for (unsigned i = 0; i < 3; i++)
		join_as(t.k, &t.c[i], DSM_ROLE_CLIENT, 0, &many);
	join_as(t.k, &t.c[3], DSM_ROLE_CLIENT, 0, &one);
	for (unsigned i = 0; i < 4; i++)
		launch_n(&t, i, 10000);
	for (unsigned i = 0; i < 400; i++) {
		MUST(next_exec(&t.w, &x));
		MUST_OK(answer(&t.w, &x, 0));
		n[x.session == t.c[3].session]++;
	}
	MUST(n[1] > 180 && n[1] < 220);
	town_fini(&t);
}

static void
test_a_user_has_no_more_slots_than_its_quota(void)
{
	struct dsm_identity who = user("small", 2, 0);
	struct dsm_msg_exec x, y;
	struct town t;

	town_init(&t, 4);
	join_as(t.k, &t.c[0], DSM_ROLE_CLIENT, 0, &who);
	join_as(t.k, &t.c[1], DSM_ROLE_CLIENT, 0, &who);
	launch_n(&t, 0, 100);
	MUST_BE(given_to(&t, 0, &x), 2);
	/* Together, not each. */
	launch_n(&t, 1, 100);
	MUST(!next_exec(&t.w, &y));
	MUST_OK(answer(&t.w, &x, 0));
	MUST_BE(given_to(&t, 1, &y), 1);
	town_fini(&t);
}

static void
test_a_run_beyond_the_quota_waits_for_the_end_of_another(void)
{
	struct dsm_identity who = user("busy", 0, 1),
	                    other = user("other", 0, 1);
	struct dsm_msg_exec x, y;
	struct dsm_msg_verdict v;
	struct town t;
	char *json;

	town_init(&t, 8);
	for (unsigned i = 0; i < 3; i++)
		join_as(t.k, &t.c[i], DSM_ROLE_CLIENT, 0, &who);
	join_as(t.k, &t.c[3], DSM_ROLE_CLIENT, 0, &other);
	launch_n(&t, 0, 1);
	launch_n(&t, 2, 1);
	launch_n(&t, 1, 1);
	MUST_BE(given_to(&t, 0, &x), 1);
	json = coord_stat_json(t.k, NULL, DSM_SEC);
	MUST(strstr(json, "\"waits\":true") != NULL);
	free(json);
	/* Others do not wait for it. */
	launch_n(&t, 3, 1);
	MUST_BE(given_to(&t, 3, &y), 1);
	MUST_OK(answer(&t.w, &x, .addr = HEAP));
	MUST_OK(stored(&t.c[0], &x));
	expect_verdict(&t.c[0], DSM_OK, &v);
	/* The one that was launched first. */
	MUST_BE(given_to(&t, 2, &y), 1);
	MUST_OK(answer(&t.w, &y, 0));
	MUST_BE(given_to(&t, 1, &y), 1);
	town_fini(&t);
}

static void
test_a_run_that_waits_may_be_cancelled_and_its_program_may_end(void)
{
	struct dsm_identity who = user("busy", 0, 1);
	const struct dsm_msg_cancel cancel = {0, 1};
	struct dsm_msg_cancel m = cancel;
	struct dsm_msg_verdict v;
	struct dsm_msg_exec x;
	struct town t;

	town_init(&t, 8);
	for (unsigned i = 0; i < 4; i++) {
		join_as(t.k, &t.c[i], DSM_ROLE_CLIENT, 0, &who);
		launch_n(&t, i, 1);
	}
	MUST_BE(given_to(&t, 0, &x), 1);
	m.session = t.c[1].session;
	MUST_OK(
	    say(&t.c[1], DSM_MSG_CANCEL, dsm__encode_cancel(&t.c[1].buf, &m)));
	expect_verdict(&t.c[1], DSM_ECANCELED, &v);
	leave(&t.c[2]);
	/* The end of the one at work is the beginning of the last one. */
	leave(&t.c[0]);
	MUST_BE(given_to(&t, 3, &x), 1);
	town_fini(&t);
}

SUITE(coordinator_users, "coordinator.users",
      T(test_a_million_tasks_of_one_user_do_not_hold_up_another_s_ten),
      T(test_many_programs_of_one_user_weigh_as_much_as_one_of_another),
      T(test_a_user_has_no_more_slots_than_its_quota),
      T(test_a_run_beyond_the_quota_waits_for_the_end_of_another),
      T(test_a_run_that_waits_may_be_cancelled_and_its_program_may_end));
