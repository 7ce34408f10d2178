/* The race check against a naive one: an owner list per byte. */
#include <stdlib.h>

#include "../../../coordinator/core/races.h"
#include "../../../dsm/base/page.h"
#include "../../../dsm/wire/packdiff.h"
#include "../../test.h"

#define BASE UINT64_C(0x7f1000000000)

/* --- masks --- */

static void
put_head(struct dsm_wbuf *w, uint64_t addr, unsigned kind)
{
	uint64_t head = (addr >> DSM_PAGE_SHIFT) << 4 | kind;

	MUST_OK(dsm__wbuf_put(w, &head, sizeof(head)));
}

static void
put_whole(struct dsm_wbuf *w, uint64_t addr, uint32_t n)
{
	put_head(w, addr, 0);
	MUST_OK(dsm__wbuf_put(w, &n, sizeof(n)));
}

/* One run of bytes within a page. */
static void
put_run(struct dsm_wbuf *w, uint64_t addr, uint16_t len)
{
	uint16_t v[3] = {1, addr & DSM_PAGE_MASK, len};

	put_head(w, addr, 2);
	MUST_OK(dsm__wbuf_put(w, v, sizeof(v)));
}

/* Task `task` wrote len bytes at addr, over any number of pages. */
static void
add_bytes(struct races *r, uint64_t task, uint64_t addr, uint64_t len)
{
	struct dsm_wbuf w = {0};

	while (len > 0) {
		uint64_t n = DSM_PAGE - (addr & DSM_PAGE_MASK);

		n = n < len ? n : len;
		if (n == DSM_PAGE)
			put_whole(&w, addr, 1);
		else
			put_run(&w, addr, (uint16_t)n);
		addr += n;
		len -= n;
	}
	MUST_OK(races_add(r, task, w.ptr, w.len));
	dsm__wbuf_fini(&w);
}

static struct races *
fresh(void)
{
	struct races *r;

	MUST_OK(races_create(&r));
	return r;
}

static void
expect(const struct dsm_rec_race *race, uint64_t a, uint64_t b, uint64_t addr,
       uint64_t len)
{
	MUST_BE(race->task_a, a);
	MUST_BE(race->task_b, b);
	MUST_BE(race->addr, addr);
	MUST_BE(race->len, len);
}

/* --- single cases --- */

static void
test_neighbouring_bytes_are_no_race(void)
{
	struct races *r = fresh();
	struct dsm_rec_race out[4];

	add_bytes(r, 1, BASE, 8);
	add_bytes(r, 2, BASE + 8, 8);
	add_bytes(r, 3, BASE + 16, 8);
	MUST_BE(races_list(r, out, 4), 0);
	MUST_BE(races_pages(r), 1);
	races_destroy(r);
}

static void
test_a_shared_byte_is_a_race_of_its_pair(void)
{
	struct races *r = fresh();
	struct dsm_rec_race out[4];

	add_bytes(r, 9, BASE + 7, 8);
	add_bytes(r, 2, BASE, 8);
	MUST_BE(races_list(r, out, 4), 1);
	expect(&out[0], 2, 9, BASE + 7, 1);
	races_destroy(r);
}

static void
test_a_range_over_pages_is_one_race(void)
{
	struct races *r = fresh();
	struct dsm_rec_race out[4];

	add_bytes(r, 1, BASE + 100, 5 * DSM_PAGE);
	add_bytes(r, 2, BASE + 200, 3 * DSM_PAGE);
	MUST_BE(races_list(r, out, 4), 1);
	expect(&out[0], 1, 2, BASE + 200, 3 * DSM_PAGE);
	races_destroy(r);
}

static void
test_three_writers_are_three_pairs(void)
{
	struct races *r = fresh();
	struct dsm_rec_race out[4];

	add_bytes(r, 3, BASE, 8);
	add_bytes(r, 1, BASE, 8);
	add_bytes(r, 2, BASE, 8);
	MUST_BE(races_list(r, out, 4), 3);
	expect(&out[0], 1, 2, BASE, 8);
	expect(&out[1], 1, 3, BASE, 8);
	expect(&out[2], 2, 3, BASE, 8);
	races_destroy(r);
}

static void
test_all_pairs_count_when_few_are_listed(void)
{
	enum { N = 20000 };
	struct races *r = fresh();
	struct dsm_rec_race out[3];

	for (uint64_t i = 0; i < N; i++)
		add_bytes(r, i, BASE + 40, 8);
	MUST_BE(races_list(r, out, 3), (uint64_t)N * (N - 1) / 2);
	expect(&out[2], 0, 3, BASE + 40, 8);
	MUST_BE(races_list(r, NULL, 0), (uint64_t)N * (N - 1) / 2);
	races_destroy(r);
}

static void
test_whole_extents_meet_single_pages_in_either_order(void)
{
	for (int order = 0; order < 2; order++) {
		struct races *r = fresh();
		struct dsm_rec_race out[4];
		struct dsm_wbuf w = {0};

		put_whole(&w, BASE, 100000);
		if (order == 0)
			MUST_OK(races_add(r, 1, w.ptr, w.len));
		add_bytes(r, 2, BASE + 77777 * DSM_PAGE + 5, 3);
		if (order == 1)
			MUST_OK(races_add(r, 1, w.ptr, w.len));
		MUST_BE(races_pages(r), 100000);
		MUST_BE(races_list(r, out, 4), 1);
		expect(&out[0], 1, 2, BASE + 77777 * DSM_PAGE + 5, 3);
		dsm__wbuf_fini(&w);
		races_destroy(r);
	}
}

static void
test_huge_extents_cost_nothing(void)
{
	struct races *r = fresh();
	struct dsm_rec_race out[4];
	struct dsm_wbuf w = {0};

	put_whole(&w, DSM_PAGE, UINT32_C(1) << 31);
	MUST_OK(races_add(r, 1, w.ptr, w.len));
	MUST_OK(races_add(r, 2, w.ptr, w.len));
	MUST_BE(races_pages(r), UINT64_C(1) << 31);
	MUST_BE(races_list(r, out, 4), 1);
	expect(&out[0], 1, 2, DSM_PAGE, UINT64_C(1) << 43);
	dsm__wbuf_fini(&w);
	races_destroy(r);
}

static void
test_a_task_does_not_race_with_itself(void)
{
	struct races *r = fresh();

	add_bytes(r, 1, BASE, 100);
	add_bytes(r, 1, BASE + 50, 100);
	MUST_BE(races_list(r, NULL, 0), 0);
	races_destroy(r);
}

static void
test_a_malformed_mask_is_refused(void)
{
	struct races *r = fresh();

	MUST_BE(races_add(r, 1, "abc", 3), DSM_EPROTO);
	MUST_BE(races_list(r, NULL, 0), 0);
	races_destroy(r);
}

/* --- random write sets against a model --- */

enum { M_PAGES = 6, M_TASKS = 7, M_BYTES = M_PAGES * 4096, M_RACES = 1 << 18 };

struct model {
	uint8_t wrote[M_TASKS][M_BYTES];
	struct dsm_wbuf mask[M_TASKS];
	struct dsm_rec_race races[M_RACES];
	size_t n;
};

static void
model_write(struct model *m, uint64_t *seed)
{
	memset(m->wrote, 0, sizeof(m->wrote));
	for (unsigned t = 0; t < M_TASKS; t++)
		for (unsigned n = test_rand(seed) % 6; n > 0; n--) {
			unsigned off = test_rand(seed) % M_BYTES, len;

			len = 1 + test_rand(seed) %
			              (test_rand(seed) % 4 ? 40 : 9000);
			if (test_rand(seed) % 5 == 0) {
				off &= ~4095u;
				len = 4096 * (1 + test_rand(seed) % 3);
			}
			if (len > M_BYTES - off)
				len = M_BYTES - off;
			if (test_rand(seed) % 4 == 0)
				for (unsigned i = 0; i < len; i += 2)
					m->wrote[t][off + i] = 1;
			else
				memset(m->wrote[t] + off, 1, len);
		}
}

/* As a slot does it. */
static void
model_masks(struct model *m)
{
	static const uint8_t twin[4096];
	struct dsm_wbuf data = {0};
	uint32_t n;

	for (unsigned t = 0; t < M_TASKS; t++) {
		dsm__wbuf_reset(&m->mask[t]);
		for (unsigned p = 0; p < M_PAGES; p++)
			MUST_OK(dsm__packdiff_page(
			    &m->mask[t], &data, BASE + p * DSM_PAGE,
			    m->wrote[t] + p * DSM_PAGE, twin, 0, 0, &n));
	}
	dsm__wbuf_fini(&data);
}

static int
race_order(const void *a, const void *b)
{
	const struct dsm_rec_race *x = a, *y = b;

	if (x->addr != y->addr)
		return x->addr < y->addr ? -1 : 1;
	if (x->task_a != y->task_a)
		return x->task_a < y->task_a ? -1 : 1;
	return x->task_b < y->task_b ? -1 : x->task_b > y->task_b;
}

static void
model_races(struct model *m)
{
	m->n = 0;
	for (unsigned a = 0; a < M_TASKS; a++)
		for (unsigned b = a + 1; b < M_TASKS; b++)
			for (unsigned i = 0; i < M_BYTES; i++) {
				unsigned from = i;

				while (i < M_BYTES && m->wrote[a][i] &&
				       m->wrote[b][i])
					i++;
				if (i == from)
					continue;
				MUST(m->n < M_RACES);
				m->races[m->n++] = (struct dsm_rec_race){
				    a, b, BASE + from, i - from};
			}
	qsort(m->races, m->n, sizeof(m->races[0]), race_order);
}

static void
test_random_write_sets_give_the_races_of_a_naive_check(void)
{
	static struct model m;
	static struct dsm_rec_race out[M_RACES];
	uint64_t seed = test_seed();

	for (unsigned round = 0; round < 60; round++) {
		model_write(&m, &seed);
		model_masks(&m);
		model_races(&m);
		/* Any order of adding, any number listed. */
		for (unsigned turn = 0; turn < 4; turn++) {
			struct races *r = fresh();
			unsigned t = test_rand(&seed) % M_TASKS;
			unsigned step = 1 + test_rand(&seed) % (M_TASKS - 1);
			size_t max = turn % 2 ? M_RACES : test_rand(&seed) % 20;

			for (unsigned i = 0; i < M_TASKS; i++) {
				MUST_OK(races_add(r, t, m.mask[t].ptr,
				                  m.mask[t].len));
				t = (t + step) % M_TASKS;
			}
			MUST_BE(races_list(r, out, max), m.n);
			for (size_t i = 0; i < m.n && i < max; i++)
				expect(&out[i], m.races[i].task_a,
				       m.races[i].task_b, m.races[i].addr,
				       m.races[i].len);
			races_destroy(r);
		}
	}
	for (unsigned t = 0; t < M_TASKS; t++)
		dsm__wbuf_fini(&m.mask[t]);
}

SUITE(coordinator_races, "coordinator.races",
      T(test_neighbouring_bytes_are_no_race),
      T(test_a_shared_byte_is_a_race_of_its_pair),
      T(test_a_range_over_pages_is_one_race),
      T(test_three_writers_are_three_pairs),
      T(test_all_pairs_count_when_few_are_listed),
      T(test_whole_extents_meet_single_pages_in_either_order),
      T(test_huge_extents_cost_nothing),
      T(test_a_task_does_not_race_with_itself),
      T(test_a_malformed_mask_is_refused),
      T(test_random_write_sets_give_the_races_of_a_naive_check));
