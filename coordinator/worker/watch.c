/*
 * Tasks that run too long, and slots that were stopped.
 *
 * A task's time is not announced by anyone: the slot just writes which task it is
 * running into its control page, which costs it nothing. A timer samples the page,
 * every 10 ms where there is a time-out. The slot of a task that stays for longer
 * is asked to fail it, so that the failure says where the task was; a slot that
 * does not is killed soon after: 50 ms when it says that the task waits for a page or
 * a system call, 100 ms when it says nothing. So on an idle machine a task ends
 * within 100 ms of its time.
 *
 * What counts as its time is time in which it could run. Two kinds of standing
 * still can be told, and do not count:
 *   - this process's own (stopped, a frozen container, a suspended machine): the
 *     timer comes much too late
 *   - the slot's alone (SIGSTOP, a debugger): its state, looked at ten times a
 *     second, once a second without a time-out. A slot that is stopped for longer
 *     than STOPPED_MS, and not by a debugger, is ended: its tasks go elsewhere, as
 *     those of a stopped worker do.
 * A slot that owes an answer and says all the while that it has nothing to do lies, or
 * has gone wrong: it is killed, too.
 *
 * CPU time would leave out the time that a task waits for pages or sleeps, and with
 * it tasks that do nothing else.
 */
#include "worker_priv.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MIN_PERIOD_MS 5u
#define PERIOD_MS 10u
#define ASKED_MS 100u /* for a slot to fail its task */
#define WAITS_MS 50u  /* the same, when it says that it cannot just now */
#define LOOK_MS 100u  /* between two looks at the state of processes */
#define CALM_PERIOD_MS 1000u /* without a time-out */
#define LATE_MS 100u         /* a timer that is so late: we stood still */
#define STOPPED_MS 5000u
#define IDLE_MS 1000u /* for a DONE to come after the task */
/* For the task to begin: the first table of ranges takes time. */
#define NOT_BEGUN_MS 30000u

static uint64_t
period(const struct wsession *ss)
{
	uint64_t ms = ss->timeout_ms / 4;

	if (ss->timeout_ms == 0)
		return CALM_PERIOD_MS;
	if (ms > PERIOD_MS)
		return PERIOD_MS;
	return ms > MIN_PERIOD_MS ? ms : MIN_PERIOD_MS;
}

/* The session's clock goes on by what has passed since the last tick. */
static void
pass_time(struct wsession *ss, uint64_t now)
{
	uint64_t due = period(ss) * DSM_MS, passed = now - ss->ticked;

	ss->ticked = now;
	ss->watched += passed > due + LATE_MS * DSM_MS ? due : passed;
}

/* The letter of /proc/PID/stat: T stopped, t by a debugger; 0: not known. */
static char
state_of(pid_t pid)
{
	char path[32], text[256];
	const char *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	/* The name before it may have parentheses, too. */
	end = strrchr(text, ')');
	return end != NULL && end[1] == ' ' ? end[2] : 0;
}

static int
is_stopped(char state)
{
	return state == 'T' || state == 't';
}

static void
ask(struct wslot *s)
{
	atomic_store(&s->ctl->late_attempt, s->seen_attempt);
	atomic_store(&s->ctl->late_current, s->seen_current);
	atomic_store(&s->ctl->late_ms, s->ss->timeout_ms);
	atomic_store(&s->ctl->late_waits, 0);
	s->asked = 1;
	s->asked_at = s->ss->watched;
	spawn_kill(s->pidfd, SLOT_SIGNAL_LATE);
}

static int
is_overdue(const struct wslot *s)
{
	uint64_t ms = atomic_load(&s->ctl->late_waits) ? WAITS_MS : ASKED_MS;

	return s->ss->watched - s->asked_at >= ms * DSM_MS;
}

static void
sample(struct wslot *s)
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
		s->seen_since = ss->watched;
	} else if (s->asked) {
		if (is_overdue(s) && !is_stopped(state_of(s->pid)))
			slot_kill(s, KILL_TIMEOUT);
	} else if (ss->watched - s->seen_since >= ss->timeout_ms * DSM_MS &&
	           !is_stopped(state_of(s->pid))) {
		ask(s);
	}
}

static void
look_idle(struct wslot *s, uint64_t passed)
{
	int begun = atomic_load(&s->ctl->attempt) == s->out[0].attempt;
	uint64_t most = begun ? IDLE_MS : NOT_BEGUN_MS;

	/* A queue pair takes its own time to be made. */
	if (atomic_load(&s->ctl->state) != SLOT_IDLE ||
	    (s->verbs && !s->connected))
		s->idled = 0;
	else
		s->idled += passed;
	if (s->idled >= most * DSM_MS)
		slot_kill(s, KILL_NONSENSE);
}

/* `since` without the last `passed` of the session's time. Not later than now: it may
 * have begun after that did. */
static uint64_t
without(const struct wsession *ss, uint64_t since, uint64_t passed)
{
	return ss->watched - since < passed ? ss->watched : since + passed;
}

/* Stopped slots: what has passed since the last look was not their time. */
static void
look(struct wslot *s, uint64_t passed)
{
	const struct worker_params *p = &s->ss->w->p;
	uint64_t most = p->stopped_ms != 0 ? p->stopped_ms : STOPPED_MS;
	char state = state_of(s->pid);

	if (!is_stopped(state)) {
		s->stopped = 0;
		look_idle(s, passed);
		return;
	}
	s->seen_since = without(s->ss, s->seen_since, passed);
	s->asked_at = without(s->ss, s->asked_at, passed);
	if (state == 't')
		return;
	s->stopped += passed;
	if (s->stopped >= most * DSM_MS)
		slot_kill(s, KILL_STOPPED);
}

static void
on_tick(void *arg)
{
	struct wsession *ss = arg;
	uint64_t passed;

	if (!session_busy(ss)) {
		ss->watching = 0;
		wtimer_stop(ss->watch);
		return;
	}
	pass_time(ss, dsm__now());
	passed = ss->watched - ss->looked;
	if (passed >= LOOK_MS * DSM_MS)
		ss->looked = ss->watched;
	for (unsigned i = 0; i < ss->n_slots; i++) {
		struct wslot *s = &ss->slots[i];

		if (s->n_out == 0 || !slot_is_up(s))
			continue;
		if (passed >= LOOK_MS * DSM_MS)
			look(s, passed);
		if (ss->timeout_ms != 0)
			sample(s);
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
	if (ss->watching)
		return;
	ss->watching = 1;
	ss->ticked = dsm__now();
	ss->looked = ss->watched;
	wtimer_start(ss->watch, period(ss), period(ss));
}
