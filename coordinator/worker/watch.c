/*
 * Time-outs. A task's time is not announced by anyone: the slot just writes which
 * task it is running into its control page, which costs it nothing. A timer samples
 * the page four times per time-out; a task that stays for longer is killed with
 * its slot. A task that was begun just after a sample is caught late, by a
 * quarter of the time-out at most.
 */
#include "worker_priv.h"

#include <stdatomic.h>

#define MIN_PERIOD_MS 5

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
		s->seen_attempt = attempt;
		s->seen_current = current;
		s->seen_since = now;
	} else if (now - s->seen_since >= ss->timeout_ms * DSM_MS) {
		slot_kill(s, KILL_TIMEOUT);
	}
}

static void
on_tick(void *arg)
{
	struct wsession *ss = arg;
	uint64_t now = dsm__now();

	if (ss->timeout_ms == 0 || !session_busy(ss)) {
		ss->watching = 0;
		wtimer_stop(ss->watch);
		return;
	}
	for (unsigned i = 0; i < ss->n_slots; i++) {
		struct wslot *s = &ss->slots[i];

		if (s->n_out > 0 && slot_is_up(s))
			sample(s, now);
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
	uint64_t period = ss->timeout_ms / 4;

	if (ss->watching || ss->timeout_ms == 0)
		return;
	if (period < MIN_PERIOD_MS)
		period = MIN_PERIOD_MS;
	ss->watching = 1;
	wtimer_start(ss->watch, period, period);
}
