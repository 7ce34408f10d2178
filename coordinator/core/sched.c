/* See sched.h. Invariant: n_pending = end - next + the lengths of back[]. */
#include "sched.h"

#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/status.h"

#define PROBE_FACTOR 16
#define EVEN_FACTOR 2.0
#define UNEVEN_FACTOR 4.0
/* Handing out a chunk costs some 10 us of coordinator, worker and slot. So it
 * should have LEAST to do; less at the end, for a share to each slot; never
 * less than FLOOR. */
#define CHUNK_LEAST_NS (200 * DSM_US)
#define CHUNK_FLOOR_NS (20 * DSM_US)
#define CHUNK_MOST_NS (50 * DSM_MS)
/* Each chunk is remembered until the verdict, which lists it. */
#define MAX_CHUNKS (UINT64_C(1) << 22)

void
coord__sched_init(struct sched *s, uint64_t begin, uint64_t end, uint64_t fixed)
{
	memset(s, 0, sizeof(*s));
	s->next = begin;
	s->end = end;
	s->n_pending = end - begin;
	s->fixed = fixed;
	s->least = s->n_pending / MAX_CHUNKS + 1;
}

void
coord__sched_fini(struct sched *s)
{
	free(s->back);
	s->back = NULL;
	s->n_back = s->cap_back = 0;
}

static uint64_t
at_least(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t
at_most(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Tasks that take ns together; the caller's ns is far below 2^63. */
static uint64_t
tasks_in(const struct sched *s, double ns)
{
	return (uint64_t)(ns / (s->ns > 1e-3 ? s->ns : 1e-3));
}

static double
factor(const struct sched *s)
{
	double uneven = s->ns > 0 ? s->deviation / s->ns : 0;

	if (uneven > 1)
		uneven = 1;
	return EVEN_FACTOR + (UNEVEN_FACTOR - EVEN_FACTOR) * uneven;
}

static uint64_t
adaptive(const struct sched *s, uint64_t n_slots)
{
	uint64_t n = s->n_pending, chunk, share;

	if (s->n_samples == 0)
		return n / (PROBE_FACTOR * n_slots);
	chunk = (uint64_t)((double)n / (factor(s) * (double)n_slots));
	chunk = at_most(chunk, tasks_in(s, CHUNK_MOST_NS));
	share = (n + n_slots - 1) / n_slots;
	share = at_most(share, tasks_in(s, CHUNK_LEAST_NS));
	chunk = at_least(chunk, share);
	return at_least(chunk, tasks_in(s, CHUNK_FLOOR_NS));
}

uint64_t
coord__sched_chunk(const struct sched *s, uint64_t n_slots)
{
	uint64_t chunk = s->fixed;

	if (chunk == 0)
		chunk = adaptive(s, n_slots != 0 ? n_slots : 1);
	return at_most(at_least(chunk, s->least), s->n_pending);
}

int
coord__sched_take(struct sched *s, uint64_t n_slots, struct sched_iv *iv_p)
{
	uint64_t chunk = coord__sched_chunk(s, n_slots), len;
	struct sched_iv *top;

	if (chunk == 0)
		return 0;
	if (s->n_back == 0) {
		iv_p->lo = s->next;
		iv_p->hi = s->next += chunk;
		iv_p->n_lost = 0;
	} else {
		top = &s->back[s->n_back - 1];
		len = top->hi - top->lo;
		/* In smaller pieces, to part the tasks that get slots lost from
		 * those that were with them by chance. */
		if (top->n_lost > 0)
			chunk = at_most(chunk, at_least(len / 4, 1));
		chunk = at_most(chunk, len);
		*iv_p = *top;
		iv_p->hi = top->lo += chunk;
		if (top->lo == top->hi)
			s->n_back--;
	}
	s->n_pending -= chunk;
	return 1;
}

unsigned
coord__sched_credits(const struct sched *s, uint64_t n_slots)
{
	uint64_t chunk = coord__sched_chunk(s, n_slots);

	/* chunk * n_slots could overflow */
	return chunk != 0 && s->n_pending / chunk >= n_slots ? 2 : 1;
}

int
coord__sched_give_back(struct sched *s, uint64_t lo, uint64_t hi,
                       uint32_t n_lost)
{
	if (lo >= hi)
		return DSM_OK;
	if (s->n_back == s->cap_back) {
		size_t cap = s->cap_back != 0 ? s->cap_back * 2 : 16;
		void *p = realloc(s->back, cap * sizeof(*s->back));

		if (p == NULL)
			return DSM_ENOMEM;
		s->back = p;
		s->cap_back = cap;
	}
	s->back[s->n_back++] = (struct sched_iv){lo, hi, n_lost};
	s->n_pending += hi - lo;
	return DSM_OK;
}

void
coord__sched_measured(struct sched *s, uint64_t n_tasks, uint64_t exec_ns)
{
	double ns, off;

	if (n_tasks == 0)
		return;
	ns = (double)exec_ns / (double)n_tasks;
	s->recent[s->n_samples % SCHED_RECENT] = ns;
	if (s->n_samples++ == 0) {
		s->ns = ns;
		return;
	}
	off = ns > s->ns ? ns - s->ns : s->ns - ns;
	s->deviation += (off - s->deviation) / 4;
	s->ns += (ns - s->ns) / 4;
}

static int
by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

uint64_t
coord__sched_typical(const struct sched *s, uint64_t n_tasks)
{
	unsigned n = s->n_samples < SCHED_RECENT ? s->n_samples : SCHED_RECENT;
	double v[SCHED_RECENT], ns;

	if (n == 0)
		return 0;
	memcpy(v, s->recent, n * sizeof(v[0]));
	qsort(v, n, sizeof(v[0]), by_size);
	ns = v[n / 2] * (double)n_tasks;
	return ns < 1 ? 1 : ns < 1e18 ? (uint64_t)ns : UINT64_C(1) << 60;
}
