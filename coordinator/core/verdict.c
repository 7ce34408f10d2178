/*
 * Failures of a run, and the VERDICT that ends it.
 *
 * Everything in a verdict is sorted (attempts and failures by task, races by
 * address): the same run gives the same report on any number of workers. Failures
 * that say what went wrong come before those of tasks that were merely lost.
 */
#include "core.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXTS (16u << 20) /* later failures have no text */
#define MAX_CONTEXTS 32u /* later ones have no backtrace: nobody reads it */

/* --- failures --- */

int
coord__failure_add(struct failures *fs, const struct dsm_rec_failure *f,
                   struct dsm_blob text, struct dsm_blob context)
{
	struct dsm_rec_failure *to;

	if (fs->n == fs->cap) {
		size_t cap = fs->cap != 0 ? fs->cap * 2 : 16;
		void *p = realloc(fs->v, cap * sizeof(*fs->v));

		if (p == NULL)
			return DSM_ENOMEM;
		fs->v = p;
		fs->cap = cap;
	}
	if (fs->n_contexts >= MAX_CONTEXTS)
		context.len = 0;
	if (fs->texts.len + text.len + context.len > MAX_TEXTS)
		text.len = context.len = 0;
	to = &fs->v[fs->n];
	*to = *f;
	to->text_off = (uint32_t)fs->texts.len;
	to->text_len = text.len;
	to->context_len = context.len;
	if (dsm__wbuf_put(&fs->texts, text.ptr, text.len) != DSM_OK ||
	    dsm__wbuf_put(&fs->texts, context.ptr, context.len) != DSM_OK)
		return DSM_ENOMEM;
	fs->n_contexts += context.len > 0;
	fs->n++;
	fs->n_lost += f->kind == DSM_FAIL_LOST;
	return DSM_OK;
}

void
coord__failures_fini(struct failures *fs)
{
	free(fs->v);
	dsm__wbuf_fini(&fs->texts);
}

static int
is_consequence(const struct dsm_rec_failure *f)
{
	return f->kind == DSM_FAIL_LOST || f->kind == DSM_FAIL_CANCELLED;
}

static int
failure_order(const void *a, const void *b)
{
	const struct dsm_rec_failure *x = a, *y = b;

	if (is_consequence(x) != is_consequence(y))
		return is_consequence(x) - is_consequence(y);
	return x->task < y->task ? -1 : x->task > y->task;
}

/* --- the verdict --- */

struct verdict {
	struct dsm_msg_verdict m;
	struct dsm_wbuf accepted, failures, races, counters;
	struct dsm_rec_race list[DSM_MAX_RACES];
	size_t n_list;
	char text[1200];
};

/* The name of one of r's tasks, for people. */
static const char *
noun(const struct run *r)
{
	return r->m.mode == DSM_MODE_TASKS ? "task" : "iteration";
}

static void
race_text(const struct run *r, struct verdict *v)
{
	const struct dsm_rec_race *race = &v->list[0];
	int len = 0;

	if (v->m.n_races > 1)
		len = snprintf(v->text, sizeof(v->text),
		               "%" PRIu64 " races; the first: ", v->m.n_races);
	snprintf(v->text + len, sizeof(v->text) - (size_t)len,
	         "%ss %" PRIu64 " and %" PRIu64 " both wrote %" PRIu64
	         " byte%s at %#" PRIx64,
	         noun(r), race->task_a, race->task_b, race->len,
	         race->len == 1 ? "" : "s", race->addr);
}

static void
failure_text(const struct run *r, struct verdict *v)
{
	const struct failures *fs = &r->failures;
	const struct dsm_rec_failure *f = &fs->v[0];
	const char *first =
	    f->text_len > 0 ? (const char *)fs->texts.ptr + f->text_off : "";
	/* After a newline comes the backtrace. */
	const char *newline = memchr(first, '\n', f->text_len);
	int len = newline != NULL ? (int)(newline - first) : (int)f->text_len;

	snprintf(v->text, sizeof(v->text),
	         "%zu of %" PRIu64 " %ss failed; the first: %s %" PRIu64
	         ": %.*s",
	         fs->n, r->total, noun(r), noun(r), f->task, len, first);
}

/* What became of the run by itself. */
static int
judge(const struct run *r, struct verdict *v)
{
	const struct failures *fs = &r->failures;

	if (v->m.n_races > 0) {
		race_text(r, v);
		return DSM_ERACE;
	}
	if (fs->n == 0)
		return DSM_OK;
	failure_text(r, v);
	/* Nothing got through, and not for what the tasks did. */
	return fs->n == fs->n_lost && r->n_failed == r->total ? DSM_ECONN
	                                                      : DSM_ETASK;
}

struct span {
	uint64_t lo, id;
};

static int
span_order(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static int
add_accepted(const struct run *r, struct verdict *v)
{
	struct span *spans = malloc((r->n_attempts + 1) * sizeof(*spans));
	struct dsm_rec_attempt rec;
	uint32_t n = 0;
	int err = DSM_OK;

	if (spans == NULL)
		return DSM_ENOMEM;
	for (size_t i = 0; i < r->n_attempts; i++) {
		const struct attempt *a = coord__run_attempt(r, i);

		if (a->state == ATTEMPT_COMPLETE)
			spans[n++] = (struct span){a->lo, a->id};
	}
	qsort(spans, n, sizeof(*spans), span_order);
	for (uint32_t i = 0; i < n && err == DSM_OK; i++) {
		rec.id = spans[i].id;
		err = dsm__pack_attempt(&v->accepted, &rec);
	}
	free(spans);
	v->m.accepted = (struct dsm_array){v->accepted.ptr, n};
	return err;
}

static int
add_lists(const struct run *r, struct verdict *v)
{
	int err = DSM_OK;

	for (size_t i = 0; i < r->failures.n && err == DSM_OK; i++)
		err = dsm__pack_failure(&v->failures, &r->failures.v[i]);
	for (size_t i = 0; i < v->n_list && err == DSM_OK; i++)
		err = dsm__pack_race(&v->races, &v->list[i]);
	v->m.failures =
	    (struct dsm_array){v->failures.ptr, (uint32_t)r->failures.n};
	v->m.races = (struct dsm_array){v->races.ptr, (uint32_t)v->n_list};
	v->m.texts = (struct dsm_blob){r->failures.texts.ptr,
	                               (uint32_t)r->failures.texts.len};
	return err;
}

static int
add_counters(const struct run *r, struct verdict *v)
{
	struct dsm_counters c = r->counters;
	int err;

	c.chunks = r->n_attempts; /* slots count only those they ended */
	err = dsm__counters_pack(&v->counters, &c);
	v->m.counters =
	    (struct dsm_blob){v->counters.ptr, (uint32_t)v->counters.len};
	return err;
}

static void
verdict_fini(struct verdict *v)
{
	dsm__wbuf_fini(&v->accepted);
	dsm__wbuf_fini(&v->failures);
	dsm__wbuf_fini(&v->races);
	dsm__wbuf_fini(&v->counters);
}

void
coord__verdict_send(struct run *r, int code, const char *text)
{
	struct session *s = r->session;
	struct verdict v = {.m = {.run = r->m.run}};
	uint64_t start = dsm__now();
	int err = DSM_OK;

	if (r->failures.n > 0)
		qsort(r->failures.v, r->failures.n, sizeof(*r->failures.v),
		      failure_order);
	v.m.n_races = races_list(r->races, v.list, DSM_MAX_RACES);
	v.n_list = v.m.n_races < DSM_MAX_RACES ? v.m.n_races : DSM_MAX_RACES;
	r->counters.check_ns += dsm__now() - start;
	if (code != DSM_OK)
		snprintf(v.text, sizeof(v.text), "%s", text);
	else
		code = judge(r, &v);
	/* Partial results only of what cannot hide a race. */
	if (code == DSM_OK || ((r->m.flags & DSM_RUN_KEEP_PARTIAL) != 0 &&
	                       v.m.n_races == 0 && code != DSM_ECANCELED))
		err = add_accepted(r, &v);
	if (err == DSM_OK)
		err = add_lists(r, &v);
	if (err == DSM_OK)
		err = add_counters(r, &v);
	v.m.code = (uint32_t)-code;
	v.m.text = dsm__str(v.text);
	if (err == DSM_OK)
		err = dsm__encode_verdict(&s->k->buf, &v.m);
	coord__peer_send_buf(s->k, s->client, DSM_MSG_VERDICT, err);
	verdict_fini(&v);
	log_debug("session %llu: run %llu: %s", (unsigned long long)s->id,
	          (unsigned long long)r->m.run, dsm__errname(code));
}
