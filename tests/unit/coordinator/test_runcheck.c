/* Which RUNs make sense. */
#include "../../../coordinator/core/runcheck.h"
#include "../../../dsm/base/page.h"
#include "../../test.h"

#define AT UINT64_C(0x10000000000)
#define END (UINT64_C(1) << 47)

/* A RUN with up to two records of each kind, all of them sane until changed. */
struct rig {
	struct dsm_rec_range range[2];
	struct dsm_rec_extent drop[2], update[2];
	struct dsm_rec_advice advice[2];
	struct dsm_msg_run m;
};

static void
rig_init(struct rig *g)
{
	static const uint8_t pages[3 * DSM_PAGE];

	*g = (struct rig){
	    .range = {{.start = AT,
	               .end = AT + 4 * DSM_PAGE,
	               .kind = DSM_RANGE_HEAP},
	              {.start = AT + 4 * DSM_PAGE,
	               .end = END,
	               .kind = DSM_RANGE_DATA}},
	    .drop = {{AT, 2}, {AT + 2 * DSM_PAGE, 1}},
	    .update = {{AT + DSM_PAGE, 2}, {AT, 1}},
	    .advice = {{AT, AT + DSM_PAGE, 1}, {AT + DSM_PAGE, END, 2}},
	    .m = {.mode = DSM_MODE_FOR,
	          .flags = DSM_RUN_RANGES,
	          .end = 1,
	          .pages = {pages, sizeof(pages)}},
	};
	g->range[1].end = g->range[1].start + DSM_PAGE;
}

static int
is_wrong(const struct rig *g)
{
	struct dsm_msg_run m = g->m;
	struct dsm_wbuf r = {0}, d = {0}, u = {0}, a = {0};
	const char *why;

	for (int i = 0; i < 2; i++) {
		MUST_OK(dsm__pack_range(&r, &g->range[i]));
		MUST_OK(dsm__pack_extent(&d, &g->drop[i]));
		MUST_OK(dsm__pack_extent(&u, &g->update[i]));
		MUST_OK(dsm__pack_advice(&a, &g->advice[i]));
	}
	m.ranges = (struct dsm_array){r.ptr, 2};
	m.drops = (struct dsm_array){d.ptr, 2};
	m.updates = (struct dsm_array){u.ptr, 2};
	m.advice = (struct dsm_array){a.ptr, 2};
	why = coord__run_wrong(&m);
	dsm__wbuf_fini(&r);
	dsm__wbuf_fini(&d);
	dsm__wbuf_fini(&u);
	dsm__wbuf_fini(&a);
	return why != NULL;
}

/* One member of a sane RUN is changed; then it makes no sense. */
#define WRONG(change)               \
	do {                        \
		struct rig g;       \
		rig_init(&g);       \
		change;             \
		MUST(is_wrong(&g)); \
	} while (0)

static void
test_a_run_of_our_own_kind_makes_sense(void)
{
	struct rig g;

	rig_init(&g);
	MUST(!is_wrong(&g));
}

static void
test_ranges_ascend_and_lie_where_programs_and_images_do(void)
{
	WRONG(g.range[1].start = AT);
	WRONG(g.range[0].end = AT);
	WRONG(g.range[0].start = AT + 1);
	WRONG(g.range[1].end = END + DSM_PAGE);
	WRONG(g.range[0].image_off = 1);
	WRONG(g.range[0].image_off = UINT64_C(1) << 46);
	WRONG(g.range[0].image_off = UINT64_MAX - 4095);
	WRONG(g.range[0].kind = 0);
	WRONG(g.range[0].kind = DSM_RANGE_KEPT + 1);
	WRONG(g.m.flags = 0);
}

static void
test_drops_ascend_and_do_not_overlap(void)
{
	WRONG(g.drop[0].n_pages = 3);
	WRONG(g.drop[0].n_pages = 0);
	WRONG(g.drop[0].start = AT + 8);
	WRONG(g.drop[1].start = END);
	WRONG(g.drop[1].n_pages = UINT64_C(1) << 35);
	WRONG(g.drop[1].n_pages = UINT64_MAX);
	WRONG(g.drop[1].start = 0);
}

static void
test_updates_are_as_many_pages_as_were_sent(void)
{
	WRONG(g.update[0].n_pages = 1);
	WRONG(g.update[0].n_pages = 3);
	WRONG(g.update[1].n_pages = 0);
	WRONG(g.m.pages.len--);
	/* Whose sum is right when it overflows. */
	WRONG(g.update[0].n_pages = UINT64_MAX; g.update[1].n_pages = 4);
}

static void
test_advice_ascends(void)
{
	WRONG(g.advice[1].start = AT);
	WRONG(g.advice[0].end = AT);
	WRONG(g.advice[0].end = AT + 1);
}

SUITE(coordinator_runcheck, "coordinator.runcheck",
      T(test_a_run_of_our_own_kind_makes_sense),
      T(test_ranges_ascend_and_lie_where_programs_and_images_do),
      T(test_drops_ascend_and_do_not_overlap),
      T(test_updates_are_as_many_pages_as_were_sent), T(test_advice_ascends));
