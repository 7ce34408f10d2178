/* Chunk sizes and the set of pending tasks, on a simulated clock. */
#include <stdlib.h>

#include "../../../coordinator/core/sched.h"
#include "../../test.h"

/* --- a simulated machine: slots that take the next chunk when free --- */

#define SIM_SLOTS 64

struct sim {
	struct sched s;
	uint64_t free_at[SIM_SLOTS];
	unsigned n_slots;
	uint64_t n_chunks, last_len, end_ns, work_ns;
};

/* Run all; cost(i) in ns for task i. Times are reported when a chunk ends, and
 * a slot asks for its next one then. */
static void
simulate(struct sim *m, uint64_t n, unsigned n_slots,
         uint64_t (*cost)(uint64_t))
{
	struct sched_iv iv[SIM_SLOTS] = {{0, 0, 0}};
	unsigned i, first;

	memset(m, 0, sizeof(*m));
	m->n_slots = n_slots;
	coord__sched_init(&m->s, 0, n, 0);
	for (;;) {
		uint64_t ns = 0;

		for (first = 0, i = 1; i < n_slots; i++)
			if (m->free_at[i] < m->free_at[first])
				first = i;
		i = first;
		if (iv[i].hi > iv[i].lo) {
			for (uint64_t t = iv[i].lo; t < iv[i].hi; t++)
				ns += cost(t);
			coord__sched_measured(&m->s, iv[i].hi - iv[i].lo, ns);
		}
		if (!coord__sched_take(&m->s, n_slots, &iv[i]))
			break;
		m->n_chunks++;
		m->last_len = iv[i].hi - iv[i].lo;
		ns = 0;
		for (uint64_t t = iv[i].lo; t < iv[i].hi; t++)
			ns += cost(t);
		m->work_ns += ns;
		m->free_at[i] += ns;
	}
	for (i = 0; i < n_slots; i++)
		if (m->free_at[i] > m->end_ns)
			m->end_ns = m->free_at[i];
	coord__sched_fini(&m->s);
}

static uint64_t
cost_empty(uint64_t i)
{
	(void)i;
	return 2;
}

static uint64_t
cost_uneven(uint64_t i)
{
	uint64_t state = i;

	return 5 * DSM_MS + test_rand(&state) % (10 * DSM_MS);
}

static uint64_t
cost_even(uint64_t i)
{
	(void)i;
	return 100 * DSM_US;
}

static void
test_a_million_empty_iterations_take_tens_of_chunks(void)
{
	struct sim m;

	simulate(&m, 1000000, 2, cost_empty);
	CU_ASSERT(m.n_chunks < 60);
	simulate(&m, 1000000, 16, cost_empty);
	CU_ASSERT(m.n_chunks < 120);
}

static void
test_uneven_tasks_end_with_single_ones_and_even_slots(void)
{
	struct sim m;

	for (unsigned slots = 2; slots <= 8; slots *= 2) {
		simulate(&m, 100, slots, cost_uneven);
		MUST_BE(m.last_len, 1);
		CU_ASSERT(m.end_ns <
		          m.work_ns / slots * 115 / 100 + 15 * DSM_MS);
	}
}

static void
test_even_iterations_fill_all_slots_to_the_end(void)
{
	struct sim m;

	simulate(&m, 100000, 4, cost_even);
	CU_ASSERT(m.end_ns < m.work_ns / 4 * 102 / 100);
	CU_ASSERT(m.n_chunks < 2000);
}

static void
test_first_chunk_of_an_unknown_loop_is_a_probe(void)
{
	struct sched s;

	coord__sched_init(&s, 0, 1600, 0);
	MUST_BE(coord__sched_chunk(&s, 4), 25);
	coord__sched_fini(&s);
}

static void
test_few_tasks_are_given_one_by_one(void)
{
	struct sched s;
	struct sched_iv iv;

	coord__sched_init(&s, 0, 3, 0);
	for (uint64_t i = 0; i < 3; i++) {
		MUST_BE(coord__sched_take(&s, 4, &iv), 1);
		MUST_BE(iv.lo, i);
		MUST_BE(iv.hi, i + 1);
	}
	MUST_BE(coord__sched_take(&s, 4, &iv), 0);
	coord__sched_fini(&s);
}

static void
test_fixed_chunks_have_the_size_asked_for(void)
{
	struct sched s;
	struct sched_iv iv;

	coord__sched_init(&s, 10, 45, 10);
	for (uint64_t lo = 10; lo < 45; lo += 10) {
		MUST_BE(coord__sched_take(&s, 4, &iv), 1);
		MUST_BE(iv.lo, lo);
		MUST_BE(iv.hi, lo + 10 < 45 ? lo + 10 : 45);
	}
	MUST_BE(coord__sched_take(&s, 4, &iv), 0);
	coord__sched_fini(&s);
}

static void
test_returned_tasks_are_given_out_first_and_in_smaller_pieces(void)
{
	struct sched s;
	struct sched_iv iv;

	coord__sched_init(&s, 0, 1000, 100);
	MUST_BE(coord__sched_take(&s, 4, &iv), 1);
	MUST_OK(coord__sched_give_back(&s, iv.lo, iv.hi, 1));
	MUST_BE(s.n_pending, 1000);
	MUST_BE(coord__sched_take(&s, 4, &iv), 1);
	MUST_BE(iv.lo, 0);
	MUST_BE(iv.hi, 25);
	MUST_BE(iv.n_lost, 1);
	coord__sched_fini(&s);
}

static void
test_a_tiny_fixed_chunk_of_a_huge_loop_is_enlarged(void)
{
	struct sched s;

	coord__sched_init(&s, 0, UINT64_C(1) << 40, 1);
	CU_ASSERT(coord__sched_chunk(&s, 4) >= UINT64_C(1) << 18);
	coord__sched_fini(&s);
}

static void
test_slots_get_one_chunk_when_little_is_pending(void)
{
	struct sched s;
	struct sched_iv iv;

	coord__sched_init(&s, 0, 100, 10);
	MUST_BE(coord__sched_credits(&s, 4), 2);
	while (s.n_pending > 30)
		MUST_BE(coord__sched_take(&s, 4, &iv), 1);
	MUST_BE(coord__sched_credits(&s, 4), 1);
	coord__sched_fini(&s);
}

/* Against a bit per task: taken once, unless it came back in between. */
static void
test_random_takes_and_returns_give_each_task_once(void)
{
	enum { N = 5000 };
	static uint8_t out[N];
	uint64_t seed = test_seed();

	for (unsigned round = 0; round < 50; round++) {
		struct sched s;
		struct sched_iv iv;
		uint64_t n_out = 0;

		memset(out, 0, sizeof(out));
		coord__sched_init(&s, 0, N, test_rand(&seed) % 3 * 7);
		while (coord__sched_take(&s, 1 + test_rand(&seed) % 9, &iv)) {
			MUST(iv.lo < iv.hi && iv.hi <= N);
			for (uint64_t i = iv.lo; i < iv.hi; i++)
				MUST(!out[i]++);
			n_out += iv.hi - iv.lo;
			if (test_rand(&seed) % 3 == 0) {
				uint64_t mid =
				    iv.lo + test_rand(&seed) % (iv.hi - iv.lo);

				for (uint64_t i = mid; i < iv.hi; i++)
					out[i] = 0;
				n_out -= iv.hi - mid;
				MUST_OK(coord__sched_give_back(
				    &s, mid, iv.hi, test_rand(&seed) % 2));
			} else {
				coord__sched_measured(&s, iv.hi - iv.lo,
				                      test_rand(&seed) %
				                          DSM_MS);
			}
			MUST_BE(n_out + s.n_pending, N);
		}
		MUST_BE(n_out, N);
		coord__sched_fini(&s);
	}
}

SUITE(coordinator_sched, "coordinator.sched",
      T(test_a_million_empty_iterations_take_tens_of_chunks),
      T(test_uneven_tasks_end_with_single_ones_and_even_slots),
      T(test_even_iterations_fill_all_slots_to_the_end),
      T(test_first_chunk_of_an_unknown_loop_is_a_probe),
      T(test_few_tasks_are_given_one_by_one),
      T(test_fixed_chunks_have_the_size_asked_for),
      T(test_returned_tasks_are_given_out_first_and_in_smaller_pieces),
      T(test_a_tiny_fixed_chunk_of_a_huge_loop_is_enlarged),
      T(test_slots_get_one_chunk_when_little_is_pending),
      T(test_random_takes_and_returns_give_each_task_once));
