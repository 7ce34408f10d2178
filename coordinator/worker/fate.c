#include "fate.h"

#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "oom.h"

/* The slot may have been killed in the middle of writing it, or be a task's that has
 * made it its own: it goes into logs and onto terminals. */
static const char *
slot_message(const struct wslot *s)
{
	char *text = s->ctl->message;

	text[sizeof(s->ctl->message) - 1] = '\0';
	for (; *text != '\0'; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
	return s->ctl->message;
}

__attribute__((format(printf, 2, 3))) static void
say(struct fate *f, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, ap);
	va_end(ap);
}

static void
judge_our_kill(const struct wslot *s, struct fate *f, int runs)
{
	switch (s->kill_why) {
	case KILL_TIMEOUT:
		if (runs)
			f->fails = DSM_FAIL_TIMEOUT;
		say(f, "ran longer than %u ms", s->ss->timeout_ms);
		break;
	case KILL_STOPPED:
		say(f, "its slot was stopped (SIGSTOP) for %llu s",
		    ULL(s->stopped / DSM_SEC));
		break;
	case KILL_MEMORY:
		/* Also when it is packing what its task has written. */
		if (f->begun) {
			f->fails = DSM_FAIL_CRASH;
			f->signal = SIGKILL;
		}
		say(f, "%s", s->over);
		break;
	case KILL_CANCEL:
	case KILL_RECALL:
	case KILL_CLOSING:
		say(f, "cancelled");
		break;
	case KILL_NONSENSE:
	case KILL_CLOSED:
	case KILL_NOT:
		f->bad_start = !f->begun;
		say(f, "slot broke its protocol");
		break;
	}
}

/* Has the kernel killed for memory since the last slot that ended so? */
static int
oom_since(struct worker *w)
{
	uint64_t n = oom_kills(""), was = w->n_oom_kills;

	w->n_oom_kills = n;
	return n > was;
}

static void
judge_signal(const struct wslot *s, struct fate *f, int sig, int runs)
{
	/* The sandbox's doing (taskrt/filter). What the control page says of a
	 * slot that does such things counts for nothing. */
	if (sig == SIGSYS && f->begun) {
		f->fails = DSM_FAIL_FORBIDDEN;
		say(f,
		    "made a system call that is never allowed, by way of the "
		    "slot's code: the sandbox has killed it");
		log_info("slot %u of session %llu was killed by its sandbox",
		         s->number, ULL(s->ss->id));
		return;
	}
	if (!runs || sig == SIGKILL) {
		/* Not the task's doing: the system's memory was short, say. */
		f->bad_start = !runs;
		if (sig == SIGKILL && oom_since(s->ss->w))
			say(f,
			    "the kernel killed its slot, for memory was short "
			    "(OOM); the slot had %llu MiB for itself. See "
			    "taskrt-worker --memory, --task-memory",
			    ULL(s->used >> 20));
		else
			say(f, "slot was killed by signal %d (%s)%s%s", sig,
			    strsignal(sig),
			    *slot_message(s) != '\0' ? ": " : "",
			    slot_message(s));
		return;
	}
	f->fails = DSM_FAIL_CRASH;
	f->signal = sig;
	say(f, "signal %d (%s)", sig, strsignal(sig));
}

static void
judge_exit(const struct wslot *s, struct fate *f, int code, int runs)
{
	switch (code) {
	case SLOT_EXIT_COLLIDES:
		say(f, "%s",
		    *slot_message(s) != '\0'
		        ? slot_message(s)
		        : "the program's memory overlaps the slot's");
		break;
	case SLOT_EXIT_MEMORY:
	case SLOT_EXIT_SETUP:
		/* In mid-task it is a task that did not run here: it may run
		 * elsewhere, and others may run here. */
		f->bad_start = !f->begun;
		say(f, "%s",
		    *slot_message(s) != '\0' ? slot_message(s)
		                             : "slot cannot start");
		break;
	case SLOT_EXIT_DATA:
		f->fabric = s->verbs && s->ctl->fabric_failed != 0;
		say(f, "%s%s%s",
		    f->fabric ? "RDMA to the client failed"
		              : "slot lost its connection to the client",
		    *slot_message(s) != '\0' ? ": " : "", slot_message(s));
		break;
	case SLOT_EXIT_CRASHED:
		/* Without a DONE it has left a sentence instead. */
		if (f->begun && *slot_message(s) != '\0')
			f->fails = DSM_FAIL_CRASH;
		say(f, "%s",
		    f->fails ? slot_message(s) : "slot ended after a crash");
		break;
	case SLOT_EXIT_PROTO:
		f->bad_start = 1;
		say(f, "slot got a message it did not expect: %s",
		    slot_message(s));
		break;
	default:
		f->bad_start = !runs;
		if (runs)
			f->fails = DSM_FAIL_FORBIDDEN;
		say(f,
		    runs ? "ended its process (exit status %d)"
		         : "slot ended by itself (status %d)",
		    code);
		break;
	}
}

uint64_t
slot_task_at(const struct wslot *s)
{
	uint64_t task = atomic_load(&s->ctl->current);

	if (task < s->out[0].lo || task >= s->out[0].hi)
		task = s->out[0].lo; /* the page is the slot's: no trust */
	return task;
}

void
slot_judge(const struct wslot *s, int status, struct fate *f)
{
	int runs;

	*f = (struct fate){0};
	f->begun =
	    s->n_out > 0 && atomic_load(&s->ctl->attempt) == s->out[0].attempt;
	runs = f->begun && atomic_load(&s->ctl->state) == SLOT_RUNNING;
	f->runs = runs;
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL &&
	    s->kill_why != KILL_NOT && s->kill_why != KILL_CLOSED)
		judge_our_kill(s, f, runs);
	else if (WIFSIGNALED(status))
		judge_signal(s, f, WTERMSIG(status), runs);
	else
		judge_exit(s, f, WEXITSTATUS(status), runs);
	/* A driver that crashes or hangs must not cost us the session. */
	if (f->bad_start && s->verbs && !s->connected)
		f->fabric = 1;
	if (f->fabric)
		f->bad_start = link_insists(s->ss);
}
