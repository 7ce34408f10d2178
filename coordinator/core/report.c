/*
 * A DONE message, checked before anything is believed: tasks and failures lie in
 * the attempt, masks in the message, pages ascend.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

#include "../../dsm/wire/packdiff.h"

#define MAX_MASKS (UINT32_C(1) << 28) /* raw bytes in one DONE */

void
coord__done_free(struct done *d)
{
	if (d != NULL)
		free(d->masks);
	free(d);
}

int
coord__run_isolated(const struct run *r)
{
	return r->m.mode == DSM_MODE_TASKS ||
	       (r->m.flags & DSM_RUN_ISOLATE) != 0;
}

/* The failure of the first task that failed: it ended the attempt. */
static int
read_failures(struct report *rep, const struct attempt *a)
{
	struct dsm_rec_failure f;

	for (uint32_t i = 0; i < rep->m.failures.n; i++) {
		int err = dsm__unpack_failure(&rep->m.failures, i, &f);

		if (err != DSM_OK)
			return err;
		if (f.task < a->lo || f.task >= a->hi ||
		    f.kind < DSM_FAIL_CRASH || f.kind > DSM_FAIL_CANCELLED ||
		    f.text_off > rep->m.texts.len ||
		    f.text_len > rep->m.texts.len - f.text_off)
			return DSM_EPROTO;
		if (!rep->failed || f.task < rep->failure.task)
			rep->failure = f;
		rep->failed = 1;
	}
	return DSM_OK;
}

/* Each set lies in the masks behind the one before it, tasks ascend below end. */
static int
read_sets(struct report *rep, const uint8_t *masks, size_t len, uint64_t lo,
          uint64_t end)
{
	uint64_t total = 0, n_bytes;
	struct dsm_rec_taskset *set = rep->done->sets;
	size_t off = 0;

	for (uint32_t i = 0; i < rep->m.sets.n; i++, set++) {
		int err = dsm__unpack_taskset(&rep->m.sets, i, set);

		if (err != DSM_OK)
			return err;
		if (set->task < lo || set->task >= end || set->mask_off < off ||
		    set->mask_off > len || set->mask_len > len - set->mask_off)
			return DSM_EPROTO;
		err = dsm__mask_check(masks + set->mask_off, set->mask_len,
		                      &n_bytes);
		if (err != DSM_OK)
			return err;
		lo = set->task + 1;
		off = set->mask_off + set->mask_len;
		total += n_bytes;
	}
	/* Else the client would never get those bytes. */
	return total > 0 && rep->m.n_bytes == 0 ? DSM_EPROTO : DSM_OK;
}

static int
read_masks(struct coord *k, struct report *rep, const struct attempt *a)
{
	const struct dsm_blob *in = &rep->m.masks;
	const uint8_t *masks = NULL;
	size_t len = 0, used;
	uint64_t end = rep->failed ? rep->failure.task : a->hi;
	int err;

	if (in->len > 0) {
		err = dsm__unsqueeze(in->ptr, in->len, MAX_MASKS, &k->raw,
		                     &masks, &len, &used);
		if (err != DSM_OK)
			return err;
		if (used != in->len)
			return DSM_EPROTO;
	}
	rep->done = calloc(1, sizeof(*rep->done) +
	                          rep->m.sets.n * sizeof(rep->done->sets[0]));
	if (rep->done == NULL)
		return DSM_ENOMEM;
	err = read_sets(rep, masks, len, a->lo, end);
	if (err != DSM_OK || len == 0)
		return err;
	rep->done->n_sets = rep->m.sets.n;
	rep->done->masks = malloc(len);
	if (rep->done->masks == NULL)
		return DSM_ENOMEM;
	memcpy(rep->done->masks, masks, len);
	return DSM_OK;
}

int
coord__report_read(struct coord *k, struct run *r, const struct attempt *a,
                   struct report *rep)
{
	int err = read_failures(rep, a);

	dsm__counters_unpack(rep->m.counters, &rep->counters);
	/* Writes of a loop's chunk in which an iteration failed are void. */
	if (err == DSM_OK && !(rep->failed && !coord__run_isolated(r)))
		err = read_masks(k, rep, a);
	return err;
}
