/*
 * State as one JSON object, for `taskrt stat`.
 *
 * STAT_REPLY carries at most 64 KiB: entries of a list that would go beyond the
 * limit are left out, and "left_out" counts them.
 */
#include "core.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_LIMIT 60000

struct json {
	struct dsm_wbuf w;
	int err;
};

static void
put(struct json *j, const char *text, size_t len)
{
	if (j->err == DSM_OK)
		j->err = dsm__wbuf_put(&j->w, text, len);
}

static void __attribute__((format(printf, 2, 3)))
putf(struct json *j, const char *fmt, ...)
{
	char text[512]; /* numbers and short words only */
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (len < 0 || (size_t)len >= sizeof(text))
		j->err = DSM_ENOSPC;
	else
		put(j, text, (size_t)len);
}

/* Length of the UTF-8 character at s, 0: not one. */
static size_t
utf8_len(const char *s)
{
	const unsigned char *u = (const unsigned char *)s;
	size_t n = u[0] >= 0xc2 && u[0] < 0xe0   ? 2
	           : (u[0] & 0xf0) == 0xe0       ? 3
	           : u[0] >= 0xf0 && u[0] < 0xf5 ? 4
	                                         : 0;

	for (size_t i = 1; i < n; i++)
		if ((u[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

/* A string, quoted. Peers choose names: any byte may be in them. */
static void
put_string(struct json *j, const char *s)
{
	size_t n;

	put(j, "\"", 1);
	for (; *s != '\0'; s += n) {
		unsigned char c = (unsigned char)*s;

		n = 1;
		if (c == '"' || c == '\\')
			putf(j, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			putf(j, "\\u%04x", c);
		else if (c < 0x80)
			put(j, s, 1);
		else if ((n = utf8_len(s)) != 0)
			put(j, s, n);
		else {
			put(j, "?", 1);
			n = 1;
		}
	}
	put(j, "\"", 1);
}

static uint64_t
ms_since(uint64_t then, uint64_t now)
{
	return then != 0 && now > then ? (now - then) / DSM_MS : 0;
}

/* Sessions of another token are nobody's business but an admin's. */
static int
may_see(const struct dsm_identity *viewer, const struct session *s)
{
	return viewer == NULL || (viewer->roles & DSM_TOKEN_ADMIN) != 0 ||
	       strcmp(viewer->name, s->client->who.name) == 0;
}

/* What a worker does for the sessions that the viewer sees. */
static void
work_seen(const struct worker_peer *w, const struct dsm_identity *viewer,
          unsigned *n_out_p, uint64_t *n_tasks_p)
{
	const struct sworker *sw;

	*n_out_p = w->n_out;
	*n_tasks_p = w->n_tasks;
	if (viewer == NULL || (viewer->roles & DSM_TOKEN_ADMIN) != 0)
		return;
	*n_out_p = 0;
	*n_tasks_p = 0;
	TAILQ_FOREACH(sw, &w->sessions, of_worker)
	if (may_see(viewer, sw->session)) {
		*n_out_p += sw->n_out;
		*n_tasks_p += sw->n_tasks;
	}
}

static void
put_worker(struct json *j, const struct worker_peer *w,
           const struct dsm_identity *viewer, uint64_t now)
{
	uint64_t n_tasks;
	unsigned n_out;

	work_seen(w, viewer, &n_out, &n_tasks);
	putf(j, "{\"id\":%" PRIu64 ",\"name\":", w->id);
	put_string(j, w->name);
	putf(j, ",\"peer\":");
	put_string(j, w->peer->name);
	putf(j,
	     ",\"slots\":%u,\"busy\":%u,\"tasks\":%" PRIu64
	     ",\"silent_ms\":%" PRIu64 ",\"draining\":%s}",
	     w->n_slots, n_out < w->n_slots ? n_out : w->n_slots, n_tasks,
	     ms_since(w->peer->last_heard, now),
	     w->draining ? "true" : "false");
}

static const char *
mode_name(uint32_t mode)
{
	switch (mode) {
	case DSM_MODE_TASKS:
		return "tasks";
	case DSM_MODE_FOR:
		return "for";
	default:
		return "for_range";
	}
}

static void
put_run(struct json *j, const struct run *r, uint64_t now)
{
	putf(j, "{\"run\":%" PRIu64 ",\"name\":", r->m.run);
	put_string(j, r->name);
	putf(j,
	     ",\"mode\":\"%s\",\"total\":%" PRIu64 ",\"done\":%" PRIu64
	     ",\"failed\":%" PRIu64 ",\"pending\":%" PRIu64
	     ",\"waits\":%s,\"chunks_out\":%" PRIu64 ",\"chunks\":%zu"
	     ",\"retried\":%" PRIu64 ",\"copies\":%" PRIu64
	     ",\"copies_won\":%" PRIu64 ",\"pages_written\":%" PRIu64
	     ",\"elapsed_ms\":%" PRIu64 "}",
	     mode_name(r->m.mode), r->total, r->n_done, r->n_failed,
	     r->sched.n_pending, r->waits ? "true" : "false", r->n_out,
	     r->n_attempts, r->counters.tasks_retried,
	     r->counters.copies_started, r->counters.copies_won,
	     races_pages(r->races), ms_since(r->started, now));
}

/* Before an entry: 0 when there is no room for one more. */
static int
next_entry(struct json *j, unsigned *n, unsigned *left_out)
{
	if (j->w.len > JSON_LIMIT) {
		++*left_out;
		return 0;
	}
	if ((*n)++ > 0)
		put(j, ",", 1);
	return 1;
}

/* How each worker's slots reach the program. */
static void
put_links(struct json *j, const struct session *s, unsigned *left_out)
{
	const struct sworker *sw;
	unsigned n = 0;

	putf(j, ",\"links\":[");
	TAILQ_FOREACH(sw, &s->workers, of_session)
	{
		if (sw->state != SWORKER_TOLD || sw->transport[0] == '\0' ||
		    !next_entry(j, &n, left_out))
			continue;
		putf(j, "{\"worker\":");
		put_string(j, sw->worker->name);
		putf(j, ",\"transport\":");
		put_string(j, sw->transport);
		putf(j, ",\"text\":");
		put_string(j, sw->link_text);
		putf(j, "}");
	}
	putf(j, "]");
}

/* What its arrays cost, where it counts that (TASKRT_STAT). */
static void
put_costs(struct json *j, const struct session *s, unsigned *left_out)
{
	struct dsm_rec_cost r;
	char what[300];
	unsigned n = 0;

	putf(j, ",\"costs\":[");
	for (size_t i = 0;
	     coord__session_cost(s, i, &r, what, sizeof(what)) > 0; i++) {
		if (!next_entry(j, &n, left_out))
			continue;
		putf(j, "{\"what\":");
		put_string(j, what);
		putf(j,
		     ",\"size\":%" PRIu64 ",\"faults\":%" PRIu64
		     ",\"wait_us\":%" PRIu64 ",\"pages_fetched\":%" PRIu64
		     ",\"pages_written\":%" PRIu64 ",\"bytes_written\":%" PRIu64
		     "}",
		     r.size, r.faults, r.wait_ns / 1000, r.fetched, r.written,
		     r.bytes);
	}
	putf(j, "]");
}

static void
put_session(struct json *j, const struct session *s, uint64_t now,
            unsigned *left_out)
{
	const struct sworker *sw;
	unsigned n_fit = 0, n_unfit = 0;

	TAILQ_FOREACH(sw, &s->workers, of_session)
	{
		n_fit += sw->state == SWORKER_TOLD;
		n_unfit += sw->state == SWORKER_UNFIT;
	}
	putf(j, "{\"id\":%" PRIu64 ",\"name\":", s->id);
	put_string(j, s->name);
	if (s->client->who.name[0] != '\0') {
		putf(j, ",\"token\":");
		put_string(j, s->client->who.name);
	}
	putf(j, ",\"peer\":");
	put_string(j, s->client->name);
	putf(j,
	     ",\"pid\":%" PRIu32 ",\"workers\":%u,\"unfit\":%u"
	     ",\"slots\":%" PRIu64 ",\"silent_ms\":%" PRIu64
	     ",\"runs\":%" PRIu64 ",\"run\":",
	     s->pid, n_fit, n_unfit, s->n_slots,
	     ms_since(s->client->last_heard, now), s->last_run);
	if (s->run != NULL)
		put_run(j, s->run, now);
	else
		putf(j, "null");
	put_links(j, s, left_out);
	put_costs(j, s, left_out);
	putf(j, "}");
}

char *
coord_stat_json(struct coord *k, const struct dsm_identity *viewer,
                uint64_t now)
{
	struct json j = {.err = DSM_OK};
	unsigned n = 0, left_out = 0;
	const struct worker_peer *w;
	const struct session *s;

	putf(&j, "{\"workers\":[");
	TAILQ_FOREACH(w, &k->workers, link)
	if (next_entry(&j, &n, &left_out))
		put_worker(&j, w, viewer, now);
	putf(&j, "],\"sessions\":[");
	n = 0;
	TAILQ_FOREACH(s, &k->sessions, link)
	if (may_see(viewer, s) && next_entry(&j, &n, &left_out))
		put_session(&j, s, now, &left_out);
	putf(&j, "],\"left_out\":%u}", left_out);
	put(&j, "", 1);
	if (j.err != DSM_OK) {
		dsm__wbuf_fini(&j.w);
		return NULL;
	}
	return (char *)j.w.ptr;
}
