/* Ranges of advice: cut, joined, against an array of one kind a page. */
#include "../../test.h"

#include <stdlib.h>

#include "../../../dsm/base/page.h"
#include "../../../dsm/heap/advice.h"

#define BASE UINT64_C(0x100000000)
#define N_PAGES 64u

static struct dsm_advices *
advices_create(void)
{
	struct dsm_advices *x = calloc(1, sizeof(*x));

	MUST(x != NULL);
	return x;
}

static int
set(struct dsm_advices *x, uint64_t from, uint64_t to, uint32_t kind)
{
	return dsm__advices_set(x, BASE + from * DSM_PAGE, BASE + to * DSM_PAGE,
	                        kind);
}

/* The table says of every page what `want` does, and is in order. */
static int
agrees(const struct dsm_advices *x, const uint32_t *want)
{
	uint32_t have[N_PAGES] = {0};

	for (size_t i = 0; i < x->n; i++) {
		const struct dsm_advice *a = &x->v[i];

		if (a->start >= a->end || a->kind == 0)
			return 0;
		if (i > 0 && (a->start < a[-1].end ||
		              (a->start == a[-1].end && a->kind == a[-1].kind)))
			return 0;
		for (uint64_t at = a->start; at < a->end; at += DSM_PAGE)
			have[(at - BASE) / DSM_PAGE] = a->kind;
	}
	return memcmp(have, want, sizeof(have)) == 0;
}

static void
test_new_advice_cuts_what_was_there(void)
{
	struct dsm_advices *x = advices_create();

	MUST_OK(set(x, 10, 20, 1));
	MUST_OK(set(x, 13, 15, 2));
	MUST_BE(x->n, 3);
	MUST_BE(x->v[2].start, BASE + 15 * DSM_PAGE);
	MUST_BE(x->v[2].kind, 1);
	MUST_OK(set(x, 13, 15, 1));
	MUST_BE(x->n, 1);
	MUST_OK(set(x, 0, 64, 0));
	MUST_BE(x->n, 0);
	free(x);
}

static void
test_any_sequence_leaves_what_was_said_last_of_each_page(void)
{
	struct dsm_advices *x = advices_create();
	uint32_t want[N_PAGES] = {0};

	srand(7);
	for (int i = 0; i < 20000; i++) {
		unsigned from = (unsigned)rand() % N_PAGES;
		unsigned to = from + (unsigned)rand() % (N_PAGES - from + 1);
		uint32_t kind = (uint32_t)rand() % 4;

		MUST_OK(set(x, from, to, kind));
		for (unsigned k = from; k < to; k++)
			want[k] = kind;
		MUST(agrees(x, want));
	}
	free(x);
}

static void
test_too_many_ranges_are_refused_and_change_nothing(void)
{
	struct dsm_advices *x = advices_create();

	for (uint64_t i = 0; i < DSM_ADVICE_MAX; i++)
		MUST_OK(set(x, 2 * i, 2 * i + 1, 3));
	MUST_BE(set(x, 2 * DSM_ADVICE_MAX, 2 * DSM_ADVICE_MAX + 1, 3),
	        DSM_ENOSPC);
	MUST_BE(x->n, DSM_ADVICE_MAX);
	MUST_BE(x->v[DSM_ADVICE_MAX - 1].start,
	        BASE + 2 * (DSM_ADVICE_MAX - 1) * DSM_PAGE);
	MUST_OK(set(x, 0, 2, 3)); /* joins: still as many */
	MUST_OK(set(x, 1, 3, 3));
	MUST_BE(x->n, DSM_ADVICE_MAX - 1);
	free(x);
}

SUITE(dsm_heap_advice, "dsm.heap.advice",
      T(test_new_advice_cuts_what_was_there),
      T(test_any_sequence_leaves_what_was_said_last_of_each_page),
      T(test_too_many_ranges_are_refused_and_change_nothing));
