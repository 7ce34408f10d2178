/* What a stage says of its bytes for reports and costs: all runs, and values by
 * task and address. See stage.h. */
#include "stage_priv.h"

#include <stdlib.h>

void
dsm__stage_each(struct dsm_stage *s, const uint64_t *attempts, size_t n,
                void (*fn)(void *ctx, uint64_t addr, uint64_t len), void *ctx)
{
	struct dsm_reader r = {0};
	struct dsm_write w;

	for (size_t i = 0; i < n; i++) {
		const struct attempt *a =
		    dsm__idtab_get(&s->attempts, attempts[i]);

		for (const struct part *p = a != NULL ? a->first : NULL;
		     p != NULL; p = p->next) {
			dsm__reader_open(&r, p);
			while (dsm__reader_pair(&r) == 1)
				while (dsm__reader_next(&r, &w) == 1)
					fn(ctx, w.addr, w.len);
		}
	}
	dsm__reader_fini(&r);
}

/* A value that is looked for. */
struct want {
	struct dsm_value *value;
	uint64_t attempt; /* that `have` is of */
	unsigned have;    /* bit: byte is known */
};

/* Those of an attempt, by task, then address. */
struct wants {
	struct want *v;
	size_t n;
	const struct attempt *attempt;
};

static int
compare_wants(const void *a, const void *b)
{
	const struct dsm_value *x = ((const struct want *)a)->value;
	const struct dsm_value *y = ((const struct want *)b)->value;

	if (x->task != y->task)
		return x->task < y->task ? -1 : 1;
	return (x->addr > y->addr) - (x->addr < y->addr);
}

/* The first that may reach to addr in a task or comes after all that do. */
static size_t
first_want(const struct wants *x, uint64_t task, uint64_t addr)
{
	size_t lo = 0, hi = x->n; /* those before lo come before */

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		const struct dsm_value *v = x->v[mid].value;

		if (v->task < task ||
		    (v->task == task && v->addr + DSM_VALUE_MAX <= addr))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int
is_wanted(const struct wants *x, uint64_t task)
{
	size_t i = first_want(x, task, 0);

	return i < x->n && x->v[i].value->task == task;
}

static void
fill_want(const struct wants *x, struct want *want, const struct dsm_write *w)
{
	struct dsm_value *v = want->value;

	if (want->have != 0 && want->attempt > x->attempt->id)
		return;
	for (unsigned i = 0; i < v->len; i++) {
		uint64_t off = v->addr + i - w->addr;

		if (off >= w->len)
			continue;
		if (want->attempt != x->attempt->id)
			want->have = 0;
		want->attempt = x->attempt->id;
		want->have |= 1u << i;
		v->bytes[i] = w->bytes[off];
	}
}

/* Borrowed bytes may have become nonsense: then there is less to say. */
static void
fill_part(const struct wants *x, struct dsm_reader *r, const struct part *p)
{
	struct dsm_write w;
	int wanted = 0;

	for (size_t i = 0; i < p->n_marks && !wanted; i++)
		wanted = is_wanted(x, p->marks[i].task);
	if (!wanted)
		return;
	dsm__reader_open(r, p);
	while (dsm__reader_pair(r) == 1) {
		uint64_t task = dsm__reader_task(r);

		if (!is_wanted(x, task))
			continue;
		while (dsm__reader_next(r, &w) == 1)
			for (size_t i = first_want(x, task, w.addr);
			     i < x->n && x->v[i].value->task == task &&
			     (x->v[i].value->addr < w.addr ||
			      x->v[i].value->addr - w.addr < w.len);
			     i++)
				fill_want(x, &x->v[i], &w);
	}
}

void
dsm__stage_values(struct dsm_stage *s, struct dsm_value *values, size_t n)
{
	struct wants x = {.v = dsm__stage_alloc(s, (n + 1) * sizeof(*x.v)),
	                  .n = n};
	struct dsm_reader r = {0};

	for (size_t i = 0; i < n; i++)
		values[i].n = 0;
	if (x.v == NULL)
		return;
	for (size_t i = 0; i < n; i++)
		x.v[i] = (struct want){.value = &values[i]};
	qsort(x.v, n, sizeof(*x.v), compare_wants);
	for (size_t i = 0; i < s->attempts.cap; i++) {
		const struct attempt *a = s->attempts.v[i].p;

		if (a == NULL || !a->whole)
			continue;
		x.attempt = a;
		for (const struct part *p = a->first; p != NULL; p = p->next)
			fill_part(&x, &r, p);
	}
	dsm__reader_fini(&r);
	for (size_t i = 0; i < n; i++)
		if (x.v[i].have == (1u << x.v[i].value->len) - 1)
			x.v[i].value->n = x.v[i].value->len;
}
