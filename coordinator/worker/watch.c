/*
 * Time-outs. A task's time is not announced by anyone: the slot just writes which
 * task it is running into its control page, which costs it nothing. A timer samples
 * the page four times per time-out. The slot of a task that stays for longer is
 * asked to fail it, so that the failure says where the task was; a slot that does
 * not (it is stopped, or in a system call) is killed 100 ms later. A task that was
 * begun just after a sample is caught late, by a quarter of the time-out at most.
 */
#include "worker_priv.h"

#include <stdatomic.h>

#define MIN_PERIOD_MS 5
#define ASKED_MS 100
#define ASKED_PERIOD_MS 25

static uint64_t
period(const struct wsession *ss)
{
	uint64_t ms = ss->timeout_ms / 4;

	if (ss->watching == WATCH_ASKED && ms > ASKED_PERIOD_MS)
		ms = ASKED_PERIOD_MS;
	return ms > MIN_PERIOD_MS ? ms : MIN_PERIOD_MS;
}

static void
ask(struct wslot *s, uint64_t now)
{
	atomic_store(&s->ctl->late_attempt, s->seen_attempt);
	atomic_store(&s->ctl->late_current, s->seen_current);
	atomic_store(&s->ctl->late_ms, s->ss->timeout_ms);
	s->asked = 1;
	s->asked_at = now;
	spawn_kill(s->pidfd, SLOT_SIGNAL_LATE);
}

static void
sample(struct wslot *s, uint64_t now)
{
	struct wsession *ss = s->ss;
	uint64_t attempt = atomic_load(&s->ctl->attempt);
	uint64_t current = atomic_load(&s->ctl->current);

	if (atomic_load(&s->ctl->state) != SLOT_RUNNING ||
	    attempt != s->out[0].attempt) {
		s->seen = 0;
	} else if (!s->seen || attempt != s->seen_attempt ||
	           current != s->seen_current) {
		s->seen = 1;
		s->asked = 0;
		s->seen_attempt = attempt;
		s->seen_current = current;
		s->seen_since = now;
	} else if (s->asked) {
		if (now - s->asked_at >= ASKED_MS * DSM_MS)
			slot_kill(s, KILL_TIMEOUT);
	} else if (now - s->seen_since >= ss->timeout_ms * DSM_MS) {
		ask(s, now);
	}
}

static void
on_tick(void *arg)
{
	struct wsession *ss = arg;
	uint64_t now = dsm__now();
	enum wwatch watching = WATCH_ON;

	if (ss->timeout_ms == 0 || !session_busy(ss)) {
		ss->watching = WATCH_OFF;
		wtimer_stop(ss->watch);
		return;
	}
	for (unsigned i = 0; i < ss->n_slots; i++) {
		struct wslot *s = &ss->slots[i];

		if (s->n_out > 0 && slot_is_up(s))
			sample(s, now);
		if (s->seen && s->asked)
			watching = WATCH_ASKED;
	}
	if (ss->watching != watching) {
		ss->watching = watching;
		wtimer_start(ss->watch, period(ss), period(ss));
	}
}

int
watch_init(struct wsession *ss)
{
	return wtimer_open(ss->w->loop, on_tick, ss, &ss->watch);
}

void
watch_wake(struct wsession *ss)
{
	if (ss->watching != WATCH_OFF || ss->timeout_ms == 0)
		return;
	ss->watching = WATCH_ON;
	wtimer_start(ss->watch, period(ss), period(ss));
}
