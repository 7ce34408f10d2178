/* See advice.h. */
#include "advice.h"

#include <string.h>

/* Append, joined to the last one where it goes on. */
static void
append(struct dsm_advices *x, uint64_t start, uint64_t end, uint32_t kind)
{
	struct dsm_advice *last = x->n > 0 ? &x->v[x->n - 1] : NULL;

	if (start >= end || kind == 0)
		return;
	if (last != NULL && last->end == start && last->kind == kind)
		last->end = end;
	else if (x->n++ < DSM_ADVICE_MAX)
		x->v[x->n - 1] = (struct dsm_advice){start, end, kind};
}

static uint64_t
least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t
most(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

int
dsm__advices_set(struct dsm_advices *x, uint64_t start, uint64_t end,
                 uint32_t kind)
{
	struct dsm_advices now;
	size_t i;

	now.n = 0;
	for (i = 0; i < x->n && x->v[i].start < start; i++)
		append(&now, x->v[i].start, least(x->v[i].end, start),
		       x->v[i].kind);
	append(&now, start, end, kind);
	/* The one that started before may also end behind. */
	for (i -= i > 0; i < x->n; i++)
		append(&now, most(x->v[i].start, end), x->v[i].end,
		       x->v[i].kind);
	if (now.n > DSM_ADVICE_MAX)
		return DSM_ENOSPC;
	memcpy(x->v, now.v, now.n * sizeof(now.v[0]));
	x->n = now.n;
	return DSM_OK;
}
