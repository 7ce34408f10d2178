/* See idtab.h. */
#include "idtab.h"

#include <stdlib.h>

#include "../base/status.h"

static size_t
home(const struct dsm_idtab *t, uint64_t id)
{
	/* Fibonacci hashing: page addresses have twelve zero bits. */
	return (size_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 32) &
	       (t->cap - 1);
}

static struct dsm_idslot *
find(const struct dsm_idtab *t, uint64_t id)
{
	size_t i = home(t, id);

	while (t->v[i].p != NULL && t->v[i].id != id)
		i = (i + 1) & (t->cap - 1);
	return &t->v[i];
}

void *
dsm__idtab_get(const struct dsm_idtab *t, uint64_t id)
{
	return t->n == 0 ? NULL : find(t, id)->p;
}

static int
grow(struct dsm_idtab *t)
{
	struct dsm_idtab bigger = {.n = t->n,
	                           .cap = t->cap == 0 ? 64 : t->cap * 2};

	bigger.v = calloc(bigger.cap, sizeof(*bigger.v));
	if (bigger.v == NULL)
		return DSM_ENOMEM;
	for (size_t i = 0; i < t->cap; i++)
		if (t->v[i].p != NULL)
			*find(&bigger, t->v[i].id) = t->v[i];
	free(t->v);
	*t = bigger;
	return DSM_OK;
}

int
dsm__idtab_put(struct dsm_idtab *t, uint64_t id, void *p)
{
	int err = DSM_OK;

	if ((t->n + 1) * 4 > t->cap * 3)
		err = grow(t);
	if (err != DSM_OK)
		return err;
	*find(t, id) = (struct dsm_idslot){id, p};
	t->n++;
	return DSM_OK;
}

void *
dsm__idtab_take(struct dsm_idtab *t, uint64_t id)
{
	struct dsm_idslot *hole = t->n == 0 ? NULL : find(t, id);
	void *p = hole == NULL ? NULL : hole->p;
	size_t mask = t->cap - 1;
	size_t i;

	if (p == NULL)
		return NULL;
	t->n--;
	hole->p = NULL;
	/* Those after the hole whose home is at or before it move back. */
	for (i = (size_t)(hole - t->v + 1) & mask; t->v[i].p != NULL;
	     i = (i + 1) & mask) {
		size_t at = (size_t)(hole - t->v);

		if (((i - home(t, t->v[i].id)) & mask) < ((i - at) & mask))
			continue;
		*hole = t->v[i];
		t->v[i].p = NULL;
		hole = &t->v[i];
	}
	return p;
}

void
dsm__idtab_fini(struct dsm_idtab *t)
{
	free(t->v);
	*t = (struct dsm_idtab){0};
}
