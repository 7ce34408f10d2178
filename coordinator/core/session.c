/*
 * Sessions: a client, its workers, its table of ranges.
 *
 * Invariants: n_slots is the sum over the sworkers in state TOLD whose worker does
 * not drain. A sworker that
 * is TOLD while a run is in flight has been sent that RUN. Arenas are given out
 * once: what tasks allocated there is the program's when it is committed.
 */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "../../dsm/base/cpuid.h"

/* Until a worker that was unfit is asked again; each time twice as long. */
#define UNFIT_PAUSE DSM_SEC
#define UNFIT_PAUSE_MAX (60 * DSM_SEC)

int
coord__session_create(struct coord *k, struct coord_peer *client,
                      const struct dsm_msg_hello *hello, struct session **s_p)
{
	struct session *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return DSM_ENOMEM;
	if (getrandom(s->key, sizeof(s->key), 0) != sizeof(s->key)) {
		free(s);
		return DSM_ESYS;
	}
	s->user = coord__user_get(k, &client->who);
	if (s->user == NULL) {
		free(s);
		return DSM_ENOMEM;
	}
	s->k = k;
	s->client = client;
	s->id = k->next_session++;
	s->next_attempt = 1;
	s->pid = hello->pid;
	dsm__str_copy(s->name, sizeof(s->name), hello->name);
	dsm__str_copy(s->addr, sizeof(s->addr), hello->addr);
	if (hello->cpu.len > 0)
		memcpy(s->cpu, hello->cpu.ptr, hello->cpu.len);
	s->cpu_len = hello->cpu.len;
	TAILQ_INIT(&s->workers);
	TAILQ_INSERT_TAIL(&k->sessions, s, link);
	*s_p = s;
	return DSM_OK;
}

void
coord__session_destroy(struct session *s)
{
	const struct dsm_msg_session_end m = {s->id};
	struct coord *k = s->k;
	struct sworker *sw, *next;

	if (s->run != NULL)
		coord__run_destroy(s->run);
	for (sw = TAILQ_FIRST(&s->workers); sw != NULL; sw = next) {
		next = TAILQ_NEXT(sw, of_session);
		if (sw->told)
			coord__peer_send_buf(
			    k, sw->worker->peer, DSM_MSG_SESSION_END,
			    dsm__encode_session_end(&k->buf, &m));
		coord__sworker_destroy(sw);
	}
	TAILQ_REMOVE(&k->sessions, s, link);
	coord__user_put(k, s->user);
	free(s->table);
	dsm__wbuf_fini(&s->advice);
	dsm__wbuf_fini(&s->costs);
	free(s);
}

struct session *
coord__session_find(struct coord *k, uint64_t id)
{
	struct session *s;

	TAILQ_FOREACH(s, &k->sessions, link)
	if (s->id == id)
		return s;
	return NULL;
}

struct coord_link *
coord_session_link(struct coord *k, uint64_t session)
{
	struct session *s = coord__session_find(k, session);

	return s != NULL && !s->client->closing ? s->client->out : NULL;
}

int
coord_session_key(struct coord *k, uint64_t session, uint8_t key_p[DSM_KEY_LEN])
{
	struct session *s = coord__session_find(k, session);

	if (s == NULL || s->client->closing)
		return 0;
	memcpy(key_p, s->key, DSM_KEY_LEN);
	return 1;
}

struct coord_link *
coord_session_client(struct coord *k, uint64_t session, const uint8_t *key,
                     size_t key_len)
{
	struct session *s = coord__session_find(k, session);
	uint8_t differ = 0;

	if (s == NULL || s->client->closing || key_len != DSM_KEY_LEN)
		return NULL;
	/* All bytes, so that the time taken says nothing about the key. */
	for (size_t i = 0; i < DSM_KEY_LEN; i++)
		differ |= key[i] ^ s->key[i];
	return differ == 0 ? s->client->out : NULL;
}

/* --- a session's workers --- */

static void
send_session(struct sworker *sw)
{
	struct session *s = sw->session;
	struct dsm_msg_session m = {
	    .session = s->id,
	    .key = {s->key, DSM_KEY_LEN},
	    .addr = dsm__str(s->addr),
	    .name = dsm__str(s->name),
	    .memory = s->user->who.memory,
	};

	coord__peer_send_buf(s->k, sw->worker->peer, DSM_MSG_SESSION,
	                     dsm__encode_session(&s->k->buf, &m));
}

int
coord__session_meet(struct session *s, struct worker_peer *w)
{
	struct sworker *sw = calloc(1, sizeof(*sw));
	char missing[32];

	if (sw == NULL)
		return DSM_ENOMEM;
	sw->session = s;
	sw->worker = w;
	TAILQ_INIT(&sw->held);
	TAILQ_INSERT_TAIL(&s->workers, sw, of_session);
	TAILQ_INSERT_TAIL(&w->sessions, sw, of_worker);
	if (w->draining) {
		snprintf(sw->reason, sizeof(sw->reason), "it is leaving");
		return DSM_OK; /* UNTOLD for what is left of its life */
	}
	/* An end that does not say what its CPU has is taken at its word. */
	if (s->cpu_len > 0 && w->cpu_len > 0 &&
	    !dsm__cpu_suits(s->cpu, s->cpu_len, w->cpu, w->cpu_len, missing)) {
		char reason[64];

		snprintf(reason, sizeof(reason), "its CPU lacks %s", missing);
		coord__sworker_unfit(sw, reason);
		return DSM_OK;
	}
	sw->state = SWORKER_TOLD;
	sw->told = 1;
	s->n_slots += w->n_slots;
	send_session(sw);
	if (s->run != NULL)
		coord__run_tell(s->run, sw);
	return DSM_OK;
}

int
coord__takes_work(const struct worker_peer *w)
{
	return !w->draining && !w->peer->closing;
}

/* Its slots are none of the session's any more. */
static void
not_counted(struct sworker *sw)
{
	if (sw->state == SWORKER_TOLD && !sw->worker->draining)
		sw->session->n_slots -= sw->worker->n_slots;
}

void
coord__worker_drain(struct worker_peer *w)
{
	struct sworker *sw;

	if (w->draining)
		return;
	TAILQ_FOREACH(sw, &w->sessions, of_worker)
	{
		not_counted(sw);
		snprintf(sw->reason, sizeof(sw->reason), "it is leaving");
	}
	w->draining = 1;
	log_info("worker %s drains, %u chunk%s to finish", w->name, w->n_out,
	         w->n_out == 1 ? "" : "s");
}

void
coord__worker_release(struct worker_peer *w)
{
	const struct dsm_msg_drain m = {0};
	const struct sworker *sw;

	if (!w->draining || w->released)
		return;
	TAILQ_FOREACH(sw, &w->sessions, of_worker)
	if (!TAILQ_EMPTY(&sw->held))
		return;
	w->released = 1;
	coord__peer_send_buf(w->k, w->peer, DSM_MSG_DRAIN,
	                     dsm__encode_drain(&w->k->buf, &m));
}

void
coord__sworker_unfit(struct sworker *sw, const char *reason)
{
	uint64_t now = sw->session->k->now;

	not_counted(sw);
	sw->state = SWORKER_UNFIT;
	sw->pause = sw->pause != 0 ? 2 * sw->pause : UNFIT_PAUSE;
	if (sw->pause > UNFIT_PAUSE_MAX)
		sw->pause = UNFIT_PAUSE_MAX;
	sw->retry_at = now + sw->pause;
	if (strcmp(sw->reason, reason) == 0)
		return;
	snprintf(sw->reason, sizeof(sw->reason), "%s", reason);
	log_warn("worker %s cannot run %s: %s", sw->worker->name,
	         sw->session->name, reason);
}

void
coord__session_ask_again(struct session *s)
{
	const struct dsm_msg_session_end end = {s->id};
	struct coord *k = s->k;
	struct sworker *sw;

	TAILQ_FOREACH(sw, &s->workers, of_session)
	{
		if (sw->state != SWORKER_UNFIT || !sw->told ||
		    sw->worker->draining || k->now < sw->retry_at)
			continue;
		/* It still knows the session as one that it cannot serve. */
		coord__peer_send_buf(k, sw->worker->peer, DSM_MSG_SESSION_END,
		                     dsm__encode_session_end(&k->buf, &end));
		sw->state = SWORKER_TOLD;
		sw->doubtful = 1;
		sw->has_table = 0;
		s->n_slots += sw->worker->n_slots;
		send_session(sw);
		if (s->run != NULL)
			coord__run_tell(s->run, sw);
	}
}

void
coord__sworker_destroy(struct sworker *sw)
{
	struct session *s = sw->session;

	not_counted(sw);
	TAILQ_REMOVE(&s->workers, sw, of_session);
	TAILQ_REMOVE(&sw->worker->sessions, sw, of_worker);
	free(sw);
}

static int
keep_table(struct session *s, const struct dsm_msg_run *m)
{
	size_t len = m->ranges.n * dsm__sizeof_range();
	uint8_t *table = malloc(len != 0 ? len : 1);

	if (table == NULL)
		return DSM_ENOMEM;
	if (len > 0)
		memcpy(table, m->ranges.ptr, len);
	free(s->table);
	s->table = table;
	s->n_ranges = m->ranges.n;
	return DSM_OK;
}

int
coord__session_keep(struct session *s, const struct dsm_msg_run *m)
{
	int err;

	dsm__wbuf_reset(&s->advice);
	s->n_advice = 0;
	err = dsm__wbuf_put(&s->advice, m->advice.ptr,
	                    m->advice.n * dsm__sizeof_advice());
	if (err != DSM_OK)
		return err;
	s->n_advice = m->advice.n;
	return (m->flags & DSM_RUN_RANGES) != 0 ? keep_table(s, m) : DSM_OK;
}
