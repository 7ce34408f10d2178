/* The verdict on a run, and its commit: all write sets, or none. */
#include "run_priv.h"

#include <stdio.h>
#include <stdlib.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/log.h"
#include "../../dsm/heap/heap.h"
#include "costs.h"

_Static_assert(DSM_NO_TASK == TASKRT_CLIENT, "a task that is not known");

/* Of all that were accepted: the stage knows those that wrote, and minds one that
 * is not whole. */
static int
accepted_ids(const struct dsm_array *accepted, uint64_t **ids_p, size_t *n_p)
{
	uint64_t *ids = malloc(((size_t)accepted->n + 1) * sizeof(*ids));

	if (ids == NULL)
		return DSM_ENOMEM;
	for (uint32_t i = 0; i < accepted->n; i++) {
		struct dsm_rec_attempt rec;
		int err = dsm__unpack_attempt(accepted, i, &rec);

		if (err != DSM_OK) {
			free(ids);
			return err;
		}
		ids[i] = rec.id;
	}
	*ids_p = ids;
	*n_p = accepted->n;
	return DSM_OK;
}

static void
note_client_races(struct outcome *o, const struct dsm_client_race *races,
                  size_t n)
{
	if (n > CLIENT_RACES_MAX)
		n = CLIENT_RACES_MAX;
	for (size_t i = 0; i < n; i++)
		o->client_races[i] = (struct taskrt_race){
		    .task_a = races[i].task,
		    .task_b = TASKRT_CLIENT,
		    .addr = (void *)(uintptr_t)races[i].addr,
		    .len = races[i].len,
		};
	o->n_client_races = n;
	o->error.code = DSM_ERACE;
	o->error.text[0] = '\0'; /* the report makes one of the races */
}

int
taskrt__run_went_on(const struct taskrt_run *run)
{
	return run->job.async || !run->exclusive;
}

static const uint8_t *
served_page(void *server, uint64_t addr)
{
	return dsm__server_copy(server, addr);
}

void
taskrt__run_look_outside(struct taskrt_run *run, struct outcome *o)
{
	struct taskrt__session *s = run->session;
	const struct dsm_served served = {served_page, s->server};
	struct dsm_client_race races[CLIENT_RACES_MAX];
	size_t n, n_races;
	uint64_t *ids;

	if (accepted_ids(&o->verdict.accepted, &ids, &n) != DSM_OK)
		return; /* commit meets it again */
	dsm__stage_outside(run->stage, s->heap->map, s->heap->views, ids, n,
	                   &served, races, CLIENT_RACES_MAX, &n_races);
	free(ids);
	if (n_races > 0)
		note_client_races(o, races, n_races);
}

/* Heap lock held. */
static int
apply(struct taskrt_run *run, struct outcome *o, const uint64_t *ids, size_t n,
      struct dsm_error *e)
{
	struct taskrt__session *s = run->session;
	struct dsm_client_race races[CLIENT_RACES_MAX];
	size_t n_races = 0;
	struct dsm_extents changed = {0};
	struct dsm_commit_stats stats = {0};
	int look = taskrt__run_went_on(run);

	int err =
	    dsm__stage_commit(run->stage, s->heap->map, s->heap->views, ids, n,
	                      look ? races : NULL, look ? CLIENT_RACES_MAX : 0,
	                      &n_races, &changed, &stats, e);
	if (err == DSM_ERACE)
		note_client_races(o, races, n_races);
	else if (err == DSM_OK && dsm__heap_adopt(s->heap, &changed) != DSM_OK)
		log_warn("out of memory: blocks that tasks allocated cannot be "
		         "freed");
	/* Also after a failure: too many dropped pages do no harm. */
	for (size_t i = 0; i < changed.n; i++)
		if (dsm__extents_push(&s->changed, changed.v[i].start,
		                      changed.v[i].n_pages) != DSM_OK)
			taskrt__session_lose(s, DSM_ENOMEM, "out of memory");
	dsm__extents_normalise(&s->changed);
	dsm__extents_fini(&changed);
	return err;
}

void
taskrt__run_commit(struct taskrt_run *run, struct outcome *o)
{
	uint64_t started = dsm__now();
	struct dsm_error e = {0};
	uint64_t *ids;
	size_t n;

	int err = accepted_ids(&o->verdict.accepted, &ids, &n);
	if (err == DSM_OK) {
		if (n > 0)
			err = apply(run, o, ids, n, &e);
		run->counters.commit_ns = dsm__now() - started;
		if (err == DSM_OK && run->costs != NULL)
			dsm__stage_each(run->stage, ids, n,
			                taskrt__costs_written, run->costs);
		free(ids);
	}
	if (err != DSM_OK && err != DSM_ERACE)
		dsm__fail(&o->error, err, "nothing was committed: %s",
		          e.text[0] != '\0' ? e.text : dsm__strerror(err));
}

/* The verdict's text; when workers are missing, with the place they are missing
 * at. */
static void
name_coordinator(struct outcome *o, const struct taskrt__config *config,
                 struct dsm_str text)
{
	size_t used = 0;

	if (o->error.code == DSM_ECONN && text.len > 0 &&
	    config->coordinator[0] != '\0')
		used = (size_t)snprintf(
		    o->error.text, sizeof(o->error.text),
		    "coordinator %.200s: ", config->coordinator);
	dsm__str_copy(o->error.text + used, sizeof(o->error.text) - used, text);
}

void
taskrt__run_read_verdict(struct taskrt_run *run, struct outcome *o)
{
	struct dsm_msg_verdict *v = &o->verdict;
	struct dsm_counters counters = {0};

	if (run->verdict.len == 0) {
		o->error = run->lost;
		return;
	}
	/* It was decoded once when it came. */
	dsm__decode_verdict(run->verdict.ptr, run->verdict.len, v);
	dsm__counters_unpack(v->counters, &counters);
	dsm__counters_add(&run->counters, &counters);
	if (v->code != 0) {
		o->error.code = v->code < 1000 ? -(int)v->code : DSM_EPROTO;
		name_coordinator(o, run->session->config, v->text);
	}
}
