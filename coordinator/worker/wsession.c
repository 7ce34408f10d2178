/*
 * A session on this worker: its image, its run, and which slot gets which EXEC.
 *
 * A RUN may touch the image only while no slot runs a task, so one that comes
 * while slots are busy (with a run that was cancelled) ends these first and waits.
 *
 * EXECs go to idle slots first, to the one that became idle last: its caches
 * and page tables are warm. The second EXEC that a slot may hold is for the time
 * its first one ends, so it is given only when no slot is idle or about to be up.
 */
#include "worker_priv.h"

#include <stdlib.h>
#include <string.h>

#include "../core/runcheck.h"

/* --- queue --- */

static void
return_exec(struct wsession *ss, const struct wexec *x, const char *reason)
{
	worker_send_returned(ss->w, ss->id, x, NO_TASK, reason);
}

static void
return_queue(struct wsession *ss, const char *reason)
{
	struct wexec_item *it;

	while ((it = STAILQ_FIRST(&ss->queue)) != NULL) {
		STAILQ_REMOVE_HEAD(&ss->queue, link);
		return_exec(ss, &it->x, reason);
		free(it);
	}
	ss->n_queued = 0;
}

static int
enqueue(struct wsession *ss, const struct wexec *x, int at_head)
{
	struct wexec_item *it = malloc(sizeof(*it));

	if (it == NULL)
		return DSM_ENOMEM;
	it->x = *x;
	if (at_head)
		STAILQ_INSERT_HEAD(&ss->queue, it, link);
	else
		STAILQ_INSERT_TAIL(&ss->queue, it, link);
	ss->n_queued++;
	return DSM_OK;
}

void
session_requeue(struct wsession *ss, const struct wexec *x)
{
	uint64_t run = ss->waiting_run != 0 ? ss->waiting_run : ss->run;

	if (ss->state != WSESSION_OPEN || x->run != run)
		return_exec(ss, x, "session or run is over");
	else if (enqueue(ss, x, 1) != DSM_OK)
		return_exec(ss, x, "out of memory");
}

static int
is_coming(const struct wslot *s)
{
	return s->state != WSLOT_UP || s->kill_why != KILL_NOT;
}

/* The slot to get the next EXEC, NULL: it waits. */
static struct wslot *
choose(struct wsession *ss)
{
	struct wslot *idle = NULL, *busy = NULL;
	unsigned n_coming = 0;

	for (unsigned i = 0; i < ss->n_slots; i++) {
		struct wslot *s = &ss->slots[i];

		if (is_coming(s))
			n_coming++;
		if (!slot_is_up(s))
			continue;
		if (s->n_out == 0 && (idle == NULL || s->stamp > idle->stamp))
			idle = s;
		/* The one that has been busy for longest. */
		if (s->n_out > 0 && s->n_out < SLOT_OUT_MAX &&
		    (busy == NULL || s->stamp < busy->stamp))
			busy = s;
	}
	if (idle != NULL)
		return idle;
	return ss->n_queued > n_coming ? busy : NULL;
}

static void
dispatch(struct wsession *ss)
{
	struct wexec_item *it;
	struct wslot *s;

	if (ss->state != WSESSION_OPEN || ss->waiting_run != 0)
		return;
	while ((it = STAILQ_FIRST(&ss->queue)) != NULL &&
	       (s = choose(ss)) != NULL) {
		STAILQ_REMOVE_HEAD(&ss->queue, link);
		ss->n_queued--;
		slot_exec(s, &it->x);
		free(it);
	}
}

/* --- the table of ranges --- */

static int
take_ranges(struct wsession *ss, const struct dsm_array *a)
{
	struct dsm_rec_range *v = malloc((a->n + 1) * sizeof(*v));

	if (v == NULL)
		return DSM_ENOMEM;
	for (uint32_t i = 0; i < a->n; i++)
		if (dsm__unpack_range(a, i, &v[i]) != DSM_OK) {
			free(v);
			return DSM_EPROTO;
		}
	free(ss->ranges);
	ss->ranges = v;
	ss->n_ranges = a->n;
	ss->table++;
	return DSM_OK;
}

/* The range that holds addr, or NULL. */
static const struct dsm_rec_range *
find_range(const struct wsession *ss, uint64_t addr)
{
	uint32_t lo = 0, hi = ss->n_ranges;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (ss->ranges[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < ss->n_ranges && ss->ranges[lo].start <= addr
	           ? &ss->ranges[lo]
	           : NULL;
}

/* --- RUN --- */

/*
 * Much of the heap at once: likely to be wanted again, and listed in few words for
 * the slots. Each of them must be able to tell such pages.
 */
#define KEEP_MIN 64u /* pages */

static int
may_keep(const struct wsession *ss)
{
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (!slot_can_keep(&ss->slots[i]))
			return 0;
	return 1;
}

static int
drop_pages(struct wsession *ss, const struct dsm_rec_range *r, uint64_t addr,
           uint64_t n, int may)
{
	uint64_t off = r->image_off + (addr - r->start);

	if (!may || r->kind != DSM_RANGE_HEAP || n < KEEP_MIN)
		return dsm__image_drop(&ss->image, off, n);
	dsm__image_keep(&ss->image, off, n);
	ss->keeps = 1;
	for (unsigned i = 0; i < ss->n_slots; i++)
		slot_add_stale(&ss->slots[i], addr, n);
	return DSM_OK;
}

/* Drops and ranges both ascend. What is not mapped any more has a place in the image
 * that is never used again. */
static int
apply_drops(struct wsession *ss, const struct dsm_array *drops, int may)
{
	struct dsm_rec_extent x;
	uint32_t k = 0; /* ranges before it end before the drop */

	for (uint32_t i = 0; i < drops->n; i++) {
		dsm__unpack_extent(drops, i, &x);
		uint64_t end = x.start + (x.n_pages << DSM_PAGE_SHIFT);

		while (k < ss->n_ranges && ss->ranges[k].end <= x.start)
			k++;
		for (uint32_t j = k;
		     j < ss->n_ranges && ss->ranges[j].start < end; j++) {
			const struct dsm_rec_range *r = &ss->ranges[j];
			uint64_t lo = r->start > x.start ? r->start : x.start;
			uint64_t hi = r->end < end ? r->end : end;
			int err = drop_pages(ss, r, lo,
			                     (hi - lo) >> DSM_PAGE_SHIFT, may);

			if (err != DSM_OK)
				return err;
			k = j;
		}
	}
	return DSM_OK;
}

static int
apply_update(struct wsession *ss, const struct dsm_rec_extent *x,
             const uint8_t *pages)
{
	for (uint64_t i = 0; i < x->n_pages; i++) {
		uint64_t addr = x->start + (i << DSM_PAGE_SHIFT);
		const struct dsm_rec_range *r = find_range(ss, addr);
		int err = DSM_OK;

		if (r != NULL)
			err = dsm__image_update(
			    &ss->image, r->image_off + (addr - r->start),
			    pages + (i << DSM_PAGE_SHIFT));
		if (err != DSM_OK)
			return err;
	}
	return DSM_OK;
}

static int
apply_image(struct wsession *ss, const struct dsm_msg_run *m)
{
	const uint8_t *pages = m->pages.ptr;
	struct dsm_rec_extent x;
	int err = apply_drops(ss, &m->drops, may_keep(ss));

	for (uint32_t i = 0; i < m->updates.n && err == DSM_OK; i++) {
		dsm__unpack_extent(&m->updates, i, &x);
		err = apply_update(ss, &x, pages);
		pages += x.n_pages << DSM_PAGE_SHIFT;
	}
	return err;
}

/* What slots are told of the run: the image is done with. */
static int
encode_run(struct wsession *ss, const struct dsm_msg_run *m)
{
	struct dsm_msg_run out = *m;
	struct dsm_wbuf table = {0};
	int err = DSM_OK;

	out.drops = out.updates = (struct dsm_array){0};
	out.pages = (struct dsm_blob){0};
	out.ranges = (struct dsm_array){0};
	out.flags &= ~DSM_RUN_RANGES;
	dsm__wbuf_reset(&ss->run_short);
	dsm__wbuf_reset(&ss->run_full);
	err = dsm__encode_run(&ss->run_short, &out);
	for (uint32_t i = 0; i < ss->n_ranges && err == DSM_OK; i++)
		err = dsm__pack_range(&table, &ss->ranges[i]);
	out.ranges = (struct dsm_array){table.ptr, ss->n_ranges};
	out.flags |= DSM_RUN_RANGES;
	if (err == DSM_OK)
		err = dsm__encode_run(&ss->run_full, &out);
	dsm__wbuf_fini(&table);
	return err;
}

/* No slot is busy. */
static int
apply_run(struct wsession *ss, const struct dsm_msg_run *m)
{
	int err = DSM_OK;

	if (m->flags & DSM_RUN_RANGES)
		err = take_ranges(ss, &m->ranges);
	if (err == DSM_OK && ss->table == 0)
		err = DSM_EPROTO;
	if (err == DSM_OK)
		err = apply_image(ss, m);
	if (err == DSM_OK)
		err = encode_run(ss, m);
	if (err != DSM_OK)
		return err;
	ss->run = m->run;
	ss->timeout_ms = m->timeout_ms;
	ss->watching = 0; /* its period was for another time-out */
	wtimer_stop(ss->watch);
	for (unsigned i = 0; i < ss->n_slots; i++) {
		struct wslot *s = &ss->slots[i];

		dsm__wbuf_reset(&s->wrote);
		if (slot_is_up(s) && s->told_table == 0)
			slot_send_run(s);
	}
	return DSM_OK;
}

static int
begin_run(struct wsession *ss, const struct dsm_msg_run *m)
{
	int err = apply_run(ss, m);

	if (err == DSM_EPROTO || err == DSM_OK)
		return err;
	/* The image is in doubt: its pages may be older than the run. */
	session_unfit(ss, err == DSM_ENOMEM ? "worker is out of memory"
	                                    : dsm__strerror(err));
	return DSM_OK;
}

int
session_busy(const struct wsession *ss)
{
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (ss->slots[i].n_out > 0)
			return 1;
	return 0;
}

static void
kill_busy(struct wsession *ss)
{
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (ss->slots[i].n_out > 0)
			slot_kill(&ss->slots[i], KILL_CANCEL);
}

int
session_run(struct wsession *ss, const uint8_t *body, size_t len)
{
	uint64_t body_len = len;
	struct dsm_msg_run m;

	if (dsm__decode_run(body, len, &m) != DSM_OK || m.run == 0 ||
	    coord__run_wrong(&m) != NULL)
		return DSM_EPROTO;
	if (ss->state != WSESSION_OPEN)
		return DSM_OK;
	return_queue(ss, "a newer run has begun");
	if (!session_busy(ss) && ss->waiting_run == 0)
		return begin_run(ss, &m);
	if (dsm__wbuf_put(&ss->waiting, &body_len, sizeof(body_len)) !=
	        DSM_OK ||
	    dsm__wbuf_put(&ss->waiting, body, len) != DSM_OK) {
		session_unfit(ss, "worker is out of memory");
		return DSM_OK;
	}
	ss->waiting_run = m.run;
	kill_busy(ss);
	return DSM_OK;
}

static void
begin_waiting_runs(struct wsession *ss)
{
	struct dsm_wbuf waiting = ss->waiting;
	struct dsm_msg_run m;
	uint64_t len;

	ss->waiting = (struct dsm_wbuf){0};
	ss->waiting_run = 0;
	for (size_t at = 0; at < waiting.len && ss->state == WSESSION_OPEN;
	     at += len) {
		memcpy(&len, waiting.ptr + at, sizeof(len));
		at += sizeof(len);
		if (dsm__decode_run(waiting.ptr + at, len, &m) != DSM_OK ||
		    begin_run(ss, &m) != DSM_OK)
			session_unfit(ss, "malformed RUN");
	}
	dsm__wbuf_fini(&waiting);
}

void
session_exec(struct wsession *ss, const struct wexec *x)
{
	uint64_t run = ss->waiting_run != 0 ? ss->waiting_run : ss->run;

	if (ss->state != WSESSION_OPEN)
		return_exec(ss, x, "worker cannot serve this session");
	else if (x->run != run)
		return_exec(ss, x, "not the run this worker is at");
	else if (ss->w->draining)
		return_exec(ss, x, "");
	else if (enqueue(ss, x, 0) != DSM_OK)
		return_exec(ss, x, "out of memory");
	else
		dispatch(ss);
}

void
session_cancel(struct wsession *ss, uint64_t run)
{
	if (run != (ss->waiting_run != 0 ? ss->waiting_run : ss->run))
		return;
	return_queue(ss, "cancelled");
	kill_busy(ss);
}

void
session_recall(struct wsession *ss, uint64_t run, uint64_t attempt)
{
	struct wexec_item *it;

	if (run != (ss->waiting_run != 0 ? ss->waiting_run : ss->run))
		return;
	STAILQ_FOREACH(it, &ss->queue, link)
	if (it->x.attempt == attempt) {
		STAILQ_REMOVE(&ss->queue, it, wexec_item, link);
		free(it);
		ss->n_queued--;
		return;
	}
	for (unsigned i = 0; i < ss->n_slots; i++)
		slot_recall(&ss->slots[i], attempt);
	session_settle(ss);
}

/* An empty reason: no slot had begun it. */
void
session_drain(struct wsession *ss)
{
	return_queue(ss, "");
}

/* --- life --- */

static void
end_slots(struct wsession *ss)
{
	for (unsigned i = 0; i < ss->n_slots; i++)
		slot_kill(&ss->slots[i], KILL_CLOSING);
}

void
session_unfit(struct wsession *ss, const char *reason)
{
	if (ss->state != WSESSION_OPEN)
		return;
	ss->state = WSESSION_UNFIT;
	ss->waiting_run = 0;
	log_warn("cannot serve session %llu: %s", ULL(ss->id), reason);
	return_queue(ss, reason);
	worker_send_unfit(ss, reason);
	end_slots(ss);
}

static int
has_slots(const struct wsession *ss)
{
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (ss->slots[i].state != WSLOT_NONE)
			return 1;
	return 0;
}

void
session_settle(struct wsession *ss)
{
	if (ss->state == WSESSION_CLOSING && !has_slots(ss)) {
		session_free(ss);
		return;
	}
	if (ss->waiting_run != 0 && !session_busy(ss))
		begin_waiting_runs(ss);
	dispatch(ss);
}

void
session_close(struct wsession *ss)
{
	struct wexec_item *it;

	/* Nobody wants them back: no RETURNED. */
	while ((it = STAILQ_FIRST(&ss->queue)) != NULL) {
		STAILQ_REMOVE_HEAD(&ss->queue, link);
		free(it);
	}
	ss->n_queued = 0;
	ss->state = WSESSION_CLOSING;
	ss->waiting_run = 0;
	end_slots(ss);
	session_settle(ss);
}

void
session_free(struct wsession *ss)
{
	for (unsigned i = 0; i < ss->n_slots; i++)
		slot_fini(&ss->slots[i]);
	wtimer_close(ss->watch);
	LIST_REMOVE(ss, link);
	while (!STAILQ_EMPTY(&ss->queue)) {
		struct wexec_item *it = STAILQ_FIRST(&ss->queue);

		STAILQ_REMOVE_HEAD(&ss->queue, link);
		free(it);
	}
	if (ss->image.states != NULL)
		dsm__image_fini(&ss->image);
	dsm__wbuf_fini(&ss->key);
	dsm__wbuf_fini(&ss->run_full);
	dsm__wbuf_fini(&ss->run_short);
	dsm__wbuf_fini(&ss->waiting);
	free(ss->ranges);
	free(ss);
}

struct wsession *
session_find(struct worker *w, uint64_t id)
{
	struct wsession *ss;

	LIST_FOREACH(ss, &w->sessions, link)
	if (ss->id == id && ss->state != WSESSION_CLOSING)
		return ss;
	return NULL;
}

int
session_open(struct worker *w, const struct dsm_msg_session *m)
{
	unsigned n = w->p.n_slots;
	struct dsm_error e = {0};
	struct wsession *ss;

	if (session_find(w, m->session) != NULL)
		return DSM_OK; /* told again: nothing new in it */
	if (n == 0)
		return DSM_EPROTO;
	ss = calloc(1, sizeof(*ss) + n * sizeof(ss->slots[0]));
	if (ss == NULL)
		return DSM_ENOMEM;
	ss->w = w;
	ss->id = m->session;
	ss->n_slots = n;
	ss->memory = m->memory;
	dsm__str_copy(ss->addr, sizeof(ss->addr), m->addr);
	STAILQ_INIT(&ss->queue);
	for (unsigned i = 0; i < n; i++)
		slot_init(&ss->slots[i], ss, i);
	LIST_INSERT_HEAD(&w->sessions, ss, link);
	memory_watch(w);
	/* The client's own words: they must not cost other sessions anything. */
	if (m->addr.len >= sizeof(ss->addr) ||
	    (ss->addr[0] != '\0' && !dsm__tcp_is_numeric(ss->addr)))
		session_unfit(ss, "the address it gave is none");
	else if (dsm__image_create(&ss->image, &e) != DSM_OK)
		session_unfit(ss, e.text);
	else if (watch_init(ss) != DSM_OK ||
	         dsm__wbuf_put(&ss->key, m->key.ptr, m->key.len) != DSM_OK)
		session_unfit(ss, "worker is out of memory");
	for (unsigned i = 0; i < n && ss->state == WSESSION_OPEN; i++)
		slot_start(&ss->slots[i]);
	return DSM_OK;
}
