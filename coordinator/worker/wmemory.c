/*
 * The worker's memory: what images and slots use, and what is done when it is more
 * than it may be.
 *
 *   images   pages and states of each session's two files (they are shared memory)
 *   slots    what each slot process has that nobody shares: copies of the pages that its
 *            task has written, its own stacks and buffers
 *
 * Sampled by a timer, before a limit can be reached from where we are. Over a limit, in this order:
 *
 * 1. `full` is set: slots wait, for half a second at most, before they fetch more.
 * 2. Image pages are evicted, down to LOW of the limit (dsm/image/image.h has why that
 *    is safe at any time; hold.h has who must be waited for). The hand goes round the
 *    file by offset, so a task that reads upward loses first what it has left behind.
 * 3. When that does not help for PATIENCE samples, because it is slots that use so much,
 *    the slot that has most is ended, its task with it: a failure that names use and
 *    limit. The worker and the other tasks go on.
 *
 * Limits: the worker's (--memory), one for each session (its user's quota), one for each
 * slot (--task-memory), which is not waited for. 0: none.
 *
 * Sessions whose slots use the segv fault back-end are never evicted from: there a
 * page that is gone would read as zeros.
 */
#include "worker_priv.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NEAR_MS 5
#define FAR_MS 100
#define FASTEST (UINT64_C(2) << 20) /* bytes a ms that come at most */
#define PATIENCE 5u
#define BATCH_PAGES 2048u /* that are evicted while slots may not hold */
/* Of a limit: evicted down to. */
#define LOW(limit) ((limit) - (limit) / 4)
#define MIB(bytes) ((bytes) >> 20)

/* --- how much --- */

/* Resident pages of the process that are no file's; 0: it is gone. */
static uint64_t
private_bytes(pid_t pid)
{
	unsigned long long size, resident, shared;
	char path[40], text[128];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	if (sscanf(text, "%llu %llu %llu", &size, &resident, &shared) != 3 ||
	    resident < shared)
		return 0;
	return (resident - shared) * DSM_PAGE;
}

static uint64_t
slots_bytes(struct wsession *ss)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < ss->n_slots; i++) {
		struct wslot *s = &ss->slots[i];

		s->used = s->state == WSLOT_UP ? private_bytes(s->pid) : 0;
		sum += s->used;
	}
	return sum;
}

static void
measure(struct worker *w, struct wmemory_use *all)
{
	struct wsession *ss;

	*all = (struct wmemory_use){0};
	LIST_FOREACH(ss, &w->sessions, link)
	{
		ss->use.slots = slots_bytes(ss);
		ss->use.image =
		    ss->image.states != NULL ? dsm__image_bytes(&ss->image) : 0;
		all->slots += ss->use.slots;
		all->image += ss->use.image;
	}
}

static int
is_over(const struct wmemory_use *u, uint64_t limit)
{
	return limit != 0 && u->image + u->slots > limit;
}

/* --- eviction --- */

static void
set_evicting(struct wsession *ss, uint32_t on)
{
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (ss->slots[i].ctl != NULL)
			atomic_store(&ss->slots[i].ctl->evicting, on);
}

/* May pages be taken, now? Then no slot begins to hold before set_evicting(0). */
static int
begin_evicting(struct wsession *ss)
{
	for (unsigned i = 0; i < ss->n_slots; i++) {
		const struct wslot *s = &ss->slots[i];

		if (s->state == WSLOT_SPAWNING ||
		    (s->state == WSLOT_UP && !atomic_load(&s->ctl->can_evict)))
			return 0;
	}
	/* Paired with hold_begin: each side writes, then looks. */
	set_evicting(ss, 1);
	for (unsigned i = 0; i < ss->n_slots; i++) {
		const struct wslot *s = &ss->slots[i];

		if (s->state == WSLOT_UP && atomic_load(&s->ctl->holds)) {
			set_evicting(ss, 0);
			return 0;
		}
	}
	return 1;
}

/* The vDSO is fetched, and patched, as a whole. *n_p: pages before it. */
static int
is_vdso(const struct wsession *ss, uint64_t off, uint64_t *n_p)
{
	for (uint32_t i = 0; i < ss->n_ranges; i++) {
		const struct dsm_rec_range *r = &ss->ranges[i];
		uint64_t end = r->image_off + (r->end - r->start);

		if (r->kind != DSM_RANGE_VDSO)
			continue;
		if (off >= r->image_off && off < end)
			return 1;
		if (off<r->image_off && * n_p>(r->image_off - off) / DSM_PAGE)
			*n_p = (r->image_off - off) / DSM_PAGE;
	}
	return 0;
}

/* One piece behind the hand. Returns the pages that are gone, and moves it. */
static uint64_t
evict_piece(struct wsession *ss, int *wrapped_p)
{
	uint64_t off = 0, n = dsm__image_next(&ss->image, ss->hand, &off);

	if (n == 0) {
		ss->hand = 0;
		++*wrapped_p;
		return 0;
	}
	n = n < BATCH_PAGES ? n : BATCH_PAGES;
	if (is_vdso(ss, off, &n)) {
		ss->hand = off + DSM_PAGE;
		return 0;
	}
	ss->hand = off + n * DSM_PAGE;
	return dsm__image_evict(&ss->image, off, n);
}

/* Up to `want` bytes of the session's image. Returns how many. */
static uint64_t
evict(struct wsession *ss, uint64_t want)
{
	uint64_t gone = 0;
	int wrapped = 0;

	if (ss->image.states == NULL || !begin_evicting(ss))
		return 0;
	while (gone < want && wrapped < 2)
		gone += evict_piece(ss, &wrapped) * DSM_PAGE;
	set_evicting(ss, 0);
	ss->use.image -= gone < ss->use.image ? gone : ss->use.image;
	return gone;
}

/* From the largest images first. */
static void
evict_from_all(struct worker *w, struct wmemory_use *all, uint64_t want)
{
	struct wsession *ss, *most;

	LIST_FOREACH(ss, &w->sessions, link)
	ss->tried = 0;
	while (want > 0) {
		uint64_t gone;

		most = NULL;
		LIST_FOREACH(ss, &w->sessions, link)
		if (!ss->tried &&
		    (most == NULL || ss->use.image > most->use.image))
			most = ss;
		if (most == NULL)
			return;
		most->tried = 1;
		gone = evict(most, want);
		all->image -= gone < all->image ? gone : all->image;
		want -= gone < want ? gone : want;
	}
}

/* --- the end of a task --- */

static void
end_slot(struct wslot *s, uint64_t limit, const char *whose)
{
	snprintf(s->over, sizeof(s->over),
	         "needed %llu MiB of memory for itself, more than the limit of "
	         "%llu MiB %s",
	         ULL(MIB(s->used)), ULL(MIB(limit)), whose);
	log_warn("slot %u of session %llu is ended: its task %s", s->number,
	         ULL(s->ss->id), s->over);
	slot_kill(s, KILL_MEMORY);
}

static struct wslot *
largest(struct wsession *ss, struct wslot *best)
{
	for (unsigned i = 0; i < ss->n_slots; i++) {
		struct wslot *s = &ss->slots[i];

		if (slot_is_up(s) && s->n_out > 0 &&
		    (best == NULL || s->used > best->used))
			best = s;
	}
	return best;
}

static void
end_those_over_their_own(struct worker *w)
{
	uint64_t limit = w->p.task_memory;
	struct wsession *ss;

	if (limit == 0)
		return;
	LIST_FOREACH(ss, &w->sessions, link)
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (slot_is_up(&ss->slots[i]) && ss->slots[i].n_out > 0 &&
		    ss->slots[i].used > limit)
			end_slot(&ss->slots[i], limit,
			         "of a task (taskrt-worker --task-memory)");
}

/* --- sampling --- */

static void
set_full(struct wsession *ss, uint32_t full)
{
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (ss->slots[i].ctl != NULL)
			atomic_store(&ss->slots[i].ctl->full, full);
}

static void
look_at_session(struct wsession *ss)
{
	uint64_t limit = ss->memory;
	struct wslot *s;

	if (!is_over(&ss->use, limit)) {
		ss->n_over = 0;
		return;
	}
	evict(ss, ss->use.image + ss->use.slots - LOW(limit));
	if (!is_over(&ss->use, limit) || ++ss->n_over < PATIENCE)
		return;
	ss->n_over = 0;
	s = largest(ss, NULL);
	if (s != NULL)
		end_slot(s, limit, "of its user (memory= in the token file)");
}

static void
look_at_all(struct worker *w, struct wmemory_use *all)
{
	uint64_t limit = w->p.memory;
	struct wslot *s = NULL;
	struct wsession *ss;
	char whose[200];

	if (!is_over(all, limit)) {
		w->n_over = 0;
		return;
	}
	evict_from_all(w, all, all->image + all->slots - LOW(limit));
	if (!is_over(all, limit) || ++w->n_over < PATIENCE)
		return;
	w->n_over = 0;
	LIST_FOREACH(ss, &w->sessions, link)
	s = largest(ss, s);
	snprintf(whose, sizeof(whose), "of worker %s (%s)", w->host,
	         w->p.memory_from != NULL ? w->p.memory_from
	                                  : "taskrt-worker --memory");
	if (s != NULL)
		end_slot(s, limit, whose);
}

/* Until the limit may be reached, in ms. */
static uint64_t
time_left(const struct wmemory_use *u, uint64_t limit)
{
	uint64_t used = u->image + u->slots;
	uint64_t ms = used < limit ? (limit - used) / FASTEST : 0;

	if (limit == 0 || ms > FAR_MS)
		return FAR_MS;
	return ms < NEAR_MS ? NEAR_MS : ms;
}

static void
on_sample(void *arg)
{
	struct worker *w = arg;
	struct wmemory_use all;
	struct wsession *ss;
	uint64_t ms;

	measure(w, &all);
	LIST_FOREACH(ss, &w->sessions, link)
	look_at_session(ss);
	look_at_all(w, &all);
	end_those_over_their_own(w);
	ms = time_left(&all, w->p.memory);
	LIST_FOREACH(ss, &w->sessions, link)
	{
		uint64_t own = time_left(&ss->use, ss->memory);

		ms = own < ms ? own : ms;
		set_full(ss, is_over(&all, w->p.memory) ||
		                 is_over(&ss->use, ss->memory));
	}
	if (w->p.task_memory != 0 && ms > 2 * NEAR_MS)
		ms = 2 * NEAR_MS;
	wtimer_start(w->memory_timer, ms, 0);
}

void
memory_watch(struct worker *w)
{
	struct wsession *ss;
	int limited = w->p.memory != 0 || w->p.task_memory != 0;

	LIST_FOREACH(ss, &w->sessions, link)
	limited |= ss->memory != 0;
	if (!limited || w->memory_timer != NULL)
		return;
	if (wtimer_open(w->loop, on_sample, w, &w->memory_timer) == DSM_OK)
		wtimer_start(w->memory_timer, NEAR_MS, 0);
	else
		log_error("out of memory: memory limits are not watched");
}
