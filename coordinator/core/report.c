/*
 * A DONE message, checked before anything is believed: tasks and failures lie in
 * the attempt, masks in the message, pages ascend.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

#include "../../dsm/wire/packdiff.h"

#define MAX_MASKS (UINT32_C(1) << 28) /* raw bytes in one message */

void
coord__done_free(struct done *d)
{
	struct done *next;

	for (; d != NULL; d = next) {
		next = d->next;
		free(d->masks);
		free(d);
	}
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
		    f.text_len > rep->m.texts.len - f.text_off ||
		    f.context_len > rep->m.texts.len - f.text_off - f.text_len)
			return DSM_EPROTO;
		if (!rep->failed || f.task < rep->failure.task)
			rep->failure = f;
		rep->failed = 1;
	}
	return DSM_OK;
}

/* Each set lies in the masks behind the one before it, tasks ascend below end. */
static int
read_sets(const struct dsm_array *sets, struct done *d, const uint8_t *masks,
          size_t len, uint64_t lo, uint64_t end, uint64_t *n_bytes_p)
{
	uint64_t n_bytes;
	struct dsm_rec_taskset *set = d->sets;
	size_t off = 0;

	*n_bytes_p = 0;
	for (uint32_t i = 0; i < sets->n; i++, set++) {
		int err = dsm__unpack_taskset(sets, i, set);

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
		*n_bytes_p += n_bytes;
	}
	return DSM_OK;
}

/* Masks of tasks [lo, end). *d_p is the caller's also after an error. */
static int
read_masks(struct coord *k, const struct dsm_blob *in,
           const struct dsm_array *sets, uint64_t lo, uint64_t end,
           uint64_t *n_bytes_p, struct done **d_p)
{
	const uint8_t *masks = NULL;
	struct done *d;
	size_t len = 0, used;
	int err;

	if (in->len > 0) {
		err = dsm__unsqueeze(in->ptr, in->len, MAX_MASKS, &k->raw,
		                     &masks, &len, &used);
		if (err != DSM_OK)
			return err;
		if (used != in->len)
			return DSM_EPROTO;
	}
	*d_p = d = calloc(1, sizeof(*d) + sets->n * sizeof(d->sets[0]));
	if (d == NULL)
		return DSM_ENOMEM;
	err = read_sets(sets, d, masks, len, lo, end, n_bytes_p);
	if (err != DSM_OK || len == 0)
		return err;
	d->n_sets = sets->n;
	d->masks = malloc(len);
	if (d->masks == NULL)
		return DSM_ENOMEM;
	memcpy(d->masks, masks, len);
	return DSM_OK;
}

int
coord__masks_read(struct coord *k, struct attempt *a,
                  const struct dsm_msg_masks *m)
{
	struct done *d = NULL;
	uint64_t n_bytes;
	int err =
	    read_masks(k, &m->masks, &m->sets, a->lo, a->hi, &n_bytes, &d);

	if (err != DSM_OK) {
		coord__done_free(d);
		return err;
	}
	d->next = a->done;
	a->done = d;
	return DSM_OK;
}

/* Were masks sent ahead of tasks from `end` on? Those before it are complete. */
static int
any_beyond(const struct done *d, uint64_t end)
{
	for (; d != NULL; d = d->next)
		if (d->n_sets > 0 && d->sets[d->n_sets - 1].task >= end)
			return 1;
	return 0;
}

int
coord__report_read(struct coord *k, struct run *r, const struct attempt *a,
                   struct report *rep)
{
	int err = read_failures(rep, a);
	uint64_t end, n_bytes;

	dsm__counters_unpack(rep->m.counters, &rep->counters);
	/* Writes of a loop's chunk in which an iteration failed are void. */
	if (err != DSM_OK || (rep->failed && !coord__run_isolated(r)))
		return err;
	end = rep->failed ? rep->failure.task : a->hi;
	err = read_masks(k, &rep->m.masks, &rep->m.sets, a->lo, end, &n_bytes,
	                 &rep->done);
	/* Without WRITES the client would never get those bytes. A failed task
	 * may have been killed in the midst of its masks: the attempt is void
	 * then. */
	if (err == DSM_OK && rep->m.n_bytes == 0 &&
	    (n_bytes > 0 || (a->done != NULL && !rep->failed)))
		err = DSM_EPROTO;
	if (err == DSM_OK && rep->failed &&
	    rep->counters.tasks >= end - a->lo && any_beyond(a->done, end))
		err = DSM_EPROTO;
	return err;
}
