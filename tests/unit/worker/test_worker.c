/*
 * The worker core between a recording coordinator link and fake slots
 * (tests/helpers/fakeslot.c): everything real but what slots run.
 */
#include "../../../coordinator/worker/worker_priv.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../helpers/fakeslot.h"
#include "../../test.h"
#include "fakeelf.h"

#define SESSION 11
#define HEAP_AT UINT64_C(0x10000000000)
#define N_SLOTS 2
#define MAX_EVENTS 256

/* A message that went up. */
struct event {
	unsigned type;
	uint64_t attempt, run;
	unsigned n_failures;
	struct dsm_rec_failure failure;
	struct fake_facts facts;
	char text[400];
};

struct rig {
	struct coord_link up; /* first: links are cast back */
	struct dsm_loop *loop;
	struct worker *w;
	struct event events[MAX_EVENTS]; /* all but LINK */
	unsigned n_events;
	unsigned n_links;
	char transport[16], link_text[400]; /* the newest LINK */
	int closed;
	int n_local;  /* data links made */
	int data[64]; /* the client's end of a slot's newest one */
	int stage_seen;
	int heap_fd;
};

/* --- the link --- */

static void
record_done(struct event *ev, const struct dsm_msg_done *m)
{
	ev->attempt = m->attempt;
	ev->run = m->run;
	ev->n_failures = m->failures.n;
	if (m->failures.n > 0) {
		MUST_OK(dsm__unpack_failure(&m->failures, 0, &ev->failure));
		if (ev->failure.text_len < sizeof(ev->text))
			memcpy(ev->text, m->texts.ptr + ev->failure.text_off,
			       ev->failure.text_len);
	}
	if (m->counters.len == sizeof(ev->facts))
		memcpy(&ev->facts, m->counters.ptr, sizeof(ev->facts));
}

static void
record_link(struct rig *r, const struct iovec *iov)
{
	struct dsm_msg_link m;

	MUST_OK(dsm__decode_link(iov->iov_base, iov->iov_len, &m));
	MUST_BE(m.session, SESSION);
	dsm__str_copy(r->transport, sizeof(r->transport), m.transport);
	dsm__str_copy(r->link_text, sizeof(r->link_text), m.text);
	r->n_links++;
}

static void
up_send(struct coord_link *l, unsigned type, const struct iovec *iov, int n)
{
	struct rig *r = (struct rig *)l;
	struct event *ev;
	struct dsm_msg_done done;
	struct dsm_msg_returned returned;
	struct dsm_msg_unfit unfit;

	MUST(n == 1);
	if (type == DSM_MSG_LINK) {
		record_link(r, iov);
		return;
	}
	ev = &r->events[r->n_events++];
	MUST(r->n_events < MAX_EVENTS);
	*ev = (struct event){.type = type};
	if (type == DSM_MSG_DONE) {
		MUST_OK(dsm__decode_done(iov->iov_base, iov->iov_len, &done));
		record_done(ev, &done);
	} else if (type == DSM_MSG_RETURNED) {
		MUST_OK(dsm__decode_returned(iov->iov_base, iov->iov_len,
		                             &returned));
		ev->attempt = returned.attempt;
		ev->run = returned.run;
		dsm__str_copy(ev->text, sizeof(ev->text), returned.reason);
	} else if (type == DSM_MSG_UNFIT) {
		MUST_OK(dsm__decode_unfit(iov->iov_base, iov->iov_len, &unfit));
		dsm__str_copy(ev->text, sizeof(ev->text), unfit.reason);
	}
}

static void
up_close(struct coord_link *l, const char *reason)
{
	struct rig *r = (struct rig *)l;

	(void)reason;
	r->closed = 1;
}

static int
local_data(void *ctx, unsigned slot, int stage_fd, int *fd_p)
{
	struct rig *r = ctx;
	int pair[2];

	MUST_OK(dsm__shm_pair(pair));
	if (r->data[slot] > 0)
		close(r->data[slot]);
	r->data[slot] = pair[0];
	*fd_p = pair[1];
	r->stage_seen = stage_fd >= 0;
	r->n_local++;
	return DSM_OK;
}

/* --- rig --- */

static void
rig_init_with(struct rig *r, const struct worker_params *extra)
{
	const struct dsm_loop_params lp = {0};
	struct worker_params p = *extra;
	struct dsm_error e;

	memset(r, 0, sizeof(*r));
	r->up.send = up_send;
	r->up.close = up_close;
	r->heap_fd = memfd_create("heap", MFD_CLOEXEC);
	p.n_slots = p.n_slots != 0 ? p.n_slots : N_SLOTS;
	p.up = &r->up;
	p.local_ctx = r;
	p.heap_fd = r->heap_fd;
	p.slot_elf = p.slot_elf != NULL ? p.slot_elf : fake_elf;
	MUST_OK(dsm__loop_create(&lp, &r->loop));
	dsm__loop_lock(r->loop);
	MUST_OK(worker_create(r->loop, &p, &r->w, &e));
}

static void
rig_init(struct rig *r)
{
	const struct worker_params p = {.local_data = local_data};

	rig_init_with(r, &p);
}

static void
rig_fini(struct rig *r)
{
	worker_destroy(r->w);
	dsm__loop_unlock(r->loop);
	dsm__loop_destroy(r->loop);
	for (unsigned i = 0; i < sizeof(r->data) / sizeof(r->data[0]); i++)
		if (r->data[i] > 0)
			close(r->data[i]);
	close(r->heap_fd);
}

static int
frame(struct rig *r, unsigned type, int err, struct dsm_wbuf *body)
{
	struct dsm_frame f = {.type = (uint16_t)type,
	                      .body = body->ptr,
	                      .len = (uint32_t)body->len};

	MUST_OK(err);
	err = worker_frame(r->w, &f);
	dsm__wbuf_fini(body);
	return err;
}

#define SEND(r, TYPE, name, m)                                 \
	__extension__({                                        \
		struct dsm_wbuf send_b_ = {0};                 \
		int send_e_ = dsm__encode_##name(&send_b_, m); \
		frame(r, DSM_MSG_##TYPE, send_e_, &send_b_);   \
	})

static void
open_session(struct rig *r, const char *addr)
{
	const struct dsm_msg_session m = {
	    .session = SESSION,
	    .key = {(const uint8_t *)"0123456789abcdef", 16},
	    .addr = dsm__str(addr)};

	MUST_OK(SEND(r, SESSION, session, &m));
}

/* A RUN with a table of one range: 16 pages at HEAP_AT, image offset 0. */
static int
run(struct rig *r, struct dsm_msg_run *m)
{
	const struct dsm_rec_range range = {.start = HEAP_AT,
	                                    .end = HEAP_AT + 16 * DSM_PAGE,
	                                    .prot = PROT_READ | PROT_WRITE,
	                                    .kind = DSM_RANGE_HEAP};
	struct dsm_wbuf table = {0};
	int err;

	m->session = SESSION;
	m->mode = DSM_MODE_TASKS;
	m->end = 10000;
	if (m->flags & DSM_RUN_RANGES) {
		MUST_OK(dsm__pack_range(&table, &range));
		m->ranges = (struct dsm_array){table.ptr, 1};
	}
	err = SEND(r, RUN, run, m);
	dsm__wbuf_fini(&table);
	return err;
}

static void
run_full(struct rig *r, uint64_t number, enum fake_start how)
{
	struct dsm_msg_run m = {
	    .run = number, .fn = how, .flags = DSM_RUN_RANGES};

	MUST_OK(run(r, &m));
}

static void
run_short(struct rig *r, uint64_t number)
{
	struct dsm_msg_run m = {.run = number};

	MUST_OK(run(r, &m));
}

static void
run_with_timeout(struct rig *r, uint64_t number, uint32_t ms)
{
	struct dsm_msg_run m = {
	    .run = number, .timeout_ms = ms, .flags = DSM_RUN_RANGES};

	MUST_OK(run(r, &m));
}

static void
exec_n(struct rig *r, uint64_t number, uint64_t attempt, uint64_t lo,
       uint64_t n)
{
	const struct dsm_msg_exec m = {.session = SESSION,
	                               .run = number,
	                               .attempt = attempt,
	                               .lo = lo,
	                               .hi = lo + n};

	MUST_OK(SEND(r, EXEC, exec, &m));
}

static void
exec(struct rig *r, uint64_t attempt, uint64_t lo)
{
	exec_n(r, 1, attempt, lo, 1);
}

struct wanted {
	struct rig *r;
	unsigned n_events;
};

static int
has_events(void *arg)
{
	struct wanted *w = arg;

	return w->r->n_events >= w->n_events;
}

/* Drive until n messages have gone up; the last of them. */
static struct event *
nth(struct rig *r, unsigned n)
{
	struct wanted w = {r, n};

	MUST_OK(
	    dsm__loop_drive(r->loop, has_events, &w, dsm__deadline_ms(20000)));
	return &r->events[n - 1];
}

/* Message about that attempt; NULL: none yet. */
static struct event *
about(struct rig *r, uint64_t attempt)
{
	for (unsigned i = 0; i < r->n_events; i++)
		if (r->events[i].attempt == attempt)
			return &r->events[i];
	return NULL;
}

/* The same, when it has come. */
static struct event *
when_about(struct rig *r, uint64_t attempt)
{
	while (about(r, attempt) == NULL)
		nth(r, r->n_events + 1);
	return about(r, attempt);
}

static int
never(void *arg)
{
	(void)arg;
	return 0;
}

static void
drive_ms(struct rig *r, uint64_t ms)
{
	dsm__loop_drive(r->loop, never, NULL, dsm__deadline_ms(ms));
}

static int
all_are_up(void *arg)
{
	struct rig *r = arg;
	struct wsession *ss = session_find(r->w, SESSION);

	for (unsigned i = 0; i < ss->n_slots; i++)
		if (!slot_is_up(&ss->slots[i]))
			return 0;
	return 1;
}

static void
wait_until_up(struct rig *r)
{
	MUST_OK(
	    dsm__loop_drive(r->loop, all_are_up, r, dsm__deadline_ms(20000)));
}

/* All slots have begun what they were given. */
static void
wait_until_running(struct rig *r)
{
	struct wsession *ss = session_find(r->w, SESSION);

	for (unsigned i = 0; i < ss->n_slots; i++)
		MUST_WITHIN_MS(20000, atomic_load(&ss->slots[i].ctl->state) ==
		                          SLOT_RUNNING);
}

/* Session open, run 1 begun, slots up. */
static void
rig_ready(struct rig *r)
{
	rig_init(r);
	open_session(r, "");
	run_full(r, 1, FAKE_FINE);
	wait_until_up(r);
}

/* Let a slot that is at FAKE_WAIT go on. */
static void
go(struct rig *r, uint64_t number)
{
	MUST(send(r->data[number], "x", 1, MSG_NOSIGNAL) == 1);
}

/* --- work --- */

static void
test_slots_start_with_the_session(void)
{
	struct rig r;

	rig_init(&r);
	open_session(&r, "");
	wait_until_up(&r);
	MUST_BE(r.n_local, N_SLOTS);
	MUST_BE(r.stage_seen, 1);
	MUST_BE(r.n_events, 0);
	rig_fini(&r);
}

static void
test_an_exec_is_done_and_its_done_goes_up_unchanged(void)
{
	struct rig r;
	struct event *ev;

	rig_init(&r);
	open_session(&r, "");
	run_full(&r, 1, FAKE_FINE);
	exec(&r, 77, 0);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->attempt, 77);
	MUST_BE(ev->n_failures, 0);
	MUST(ev->facts.number < N_SLOTS);
	MUST_BE(ev->facts.has_heap, 1);
	MUST_BE(ev->facts.has_stage, 1);
	MUST_BE(ev->facts.n_ranges, 1);
	MUST_BE(worker_busy(r.w), 0);
	rig_fini(&r);
}

static void
test_one_exec_after_the_other_goes_to_the_same_warm_slot(void)
{
	struct rig r;
	uint64_t pid = 0;

	rig_ready(&r);
	for (unsigned i = 1; i <= 6; i++) {
		struct event *ev;

		exec(&r, i, 0);
		ev = nth(&r, i);
		MUST(pid == 0 || ev->facts.pid == pid);
		pid = ev->facts.pid;
	}
	rig_fini(&r);
}

static void
test_execs_spread_over_idle_slots_before_any_has_two(void)
{
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, FAKE_WAIT);
	exec(&r, 2, FAKE_WAIT);
	MUST_BE(worker_busy(r.w), 2);
	exec(&r, 3, 0);
	exec(&r, 4, 0);
	go(&r, 0);
	go(&r, 1);
	nth(&r, 4);
	MUST(about(&r, 1)->facts.pid != about(&r, 2)->facts.pid);
	MUST(about(&r, 3)->facts.pid != about(&r, 4)->facts.pid);
	rig_fini(&r);
}

static void
test_a_slot_hears_of_a_run_once_and_of_the_ranges_when_they_changed(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, 0);
	nth(&r, 1);
	exec(&r, 2, 0);
	ev = nth(&r, 2);
	MUST_BE(ev->facts.n_runs, 1);
	MUST_BE(ev->facts.n_tables, 1);
	run_short(&r, 2);
	exec_n(&r, 2, 3, 0, 1);
	ev = nth(&r, 3);
	MUST_BE(ev->facts.n_runs, 2);
	MUST_BE(ev->facts.n_tables, 1);
	run_full(&r, 3, FAKE_FINE);
	exec_n(&r, 3, 4, 0, 1);
	ev = nth(&r, 4);
	MUST_BE(ev->facts.n_runs, 3);
	MUST_BE(ev->facts.n_tables, 2);
	rig_fini(&r);
}

/* --- slots that die --- */

static void
test_a_reported_crash_replaces_the_slot_and_costs_no_other_exec(void)
{
	struct rig r;

	rig_ready(&r);
	for (unsigned i = 1; i <= 4; i++)
		exec(&r, i, FAKE_CRASH);
	nth(&r, 4);
	for (unsigned i = 1; i <= 4; i++) {
		MUST_BE(about(&r, i)->type, DSM_MSG_DONE);
		MUST_BE(about(&r, i)->failure.kind, DSM_FAIL_CRASH);
	}
	exec(&r, 5, 0);
	MUST_BE(nth(&r, 5)->type, DSM_MSG_DONE);
	MUST(about(&r, 5)->facts.pid != about(&r, 1)->facts.pid);
	rig_fini(&r);
}

static void
test_a_task_that_exits_is_forbidden(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, FAKE_EXIT + 4);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->failure.kind, DSM_FAIL_FORBIDDEN);
	MUST_BE(ev->failure.task, FAKE_EXIT + 4);
	MUST(strstr(ev->text, "exit status 7") != NULL);
	rig_fini(&r);
}

static void
test_a_crash_without_done_is_told_by_the_control_page(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, FAKE_DAMAGE);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->failure.kind, DSM_FAIL_CRASH);
	MUST(strcmp(ev->text, "damaged") == 0);
	rig_fini(&r);
}

/* A successor must not use again what its predecessor's tasks have in use. */
static void
test_the_control_page_outlives_the_slots_process(void)
{
	uint8_t *page;
	struct rig r;

	rig_ready(&r);
	page = (uint8_t *)session_find(r.w, SESSION)->slots[0].ctl;
	page[DSM_PAGE - 1] = 42;
	exec(&r, 1, FAKE_EXIT);
	nth(&r, 1);
	wait_until_up(&r);
	page = (uint8_t *)session_find(r.w, SESSION)->slots[0].ctl;
	MUST_BE(page[DSM_PAGE - 1], 42);
	rig_fini(&r);
}

static void
test_a_signal_in_a_task_is_a_crash(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, FAKE_ABORT);
	ev = nth(&r, 1);
	MUST_BE(ev->failure.kind, DSM_FAIL_CRASH);
	MUST_BE(ev->failure.signal, SIGABRT);
	rig_fini(&r);
}

/* Whatever the control page says. */
static void
test_a_slot_that_its_sandbox_ends_has_done_what_is_forbidden(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, FAKE_SIGSYS);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->failure.kind, DSM_FAIL_FORBIDDEN);
	MUST(strstr(ev->text, "sandbox") != NULL);
	rig_fini(&r);
}

static void
test_a_slot_is_not_believed_for_ever_that_it_has_not_begun(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, FAKE_DENIES);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_RETURNED);
	MUST(ev->text[0] != '\0'); /* so it counts as lost */
	rig_fini(&r);
}

static void
test_a_slot_that_has_work_and_says_it_is_idle_is_killed(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, FAKE_IDLES);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_RETURNED);
	MUST(strstr(ev->text, "protocol") != NULL);
	rig_fini(&r);
}

static void
test_a_slots_message_has_no_control_characters(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, FAKE_SPOILS);
	ev = nth(&r, 1);
	MUST(ev->text[0] == '?' && strchr(ev->text, 0x1b) == NULL);
	rig_fini(&r);
}

static void
test_a_sigkill_from_elsewhere_returns_the_task(void)
{
	struct rig r;
	struct event *ev;

	rig_ready(&r);
	exec(&r, 1, FAKE_KILLED);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_RETURNED);
	MUST(strstr(ev->text, "signal 9") != NULL);
	rig_fini(&r);
}

static void
test_a_second_exec_survives_the_slot_that_died_of_the_first(void)
{
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, FAKE_WAIT);
	exec(&r, 2, FAKE_WAIT);
	exec(&r, 3, 0);
	exec(&r, 4, 2);
	wait_until_running(&r);
	for (unsigned i = 0; i < N_SLOTS; i++)
		spawn_kill(session_find(r.w, SESSION)->slots[i].pidfd, SIGKILL);
	nth(&r, 4);
	MUST_BE(about(&r, 1)->type, DSM_MSG_RETURNED);
	MUST_BE(about(&r, 2)->type, DSM_MSG_RETURNED);
	MUST_BE(about(&r, 3)->type, DSM_MSG_DONE);
	MUST_BE(about(&r, 4)->type, DSM_MSG_DONE);
	rig_fini(&r);
}

static void
test_a_lost_data_link_returns_what_may_not_have_arrived(void)
{
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, 1); /* odd: wrote something */
	nth(&r, 1);
	exec(&r, 2, 2); /* did not */
	nth(&r, 2);
	exec(&r, 3, FAKE_DATA_LOST);
	nth(&r, 4);
	MUST_BE(r.events[2].type, DSM_MSG_RETURNED);
	MUST_BE(r.events[2].attempt, 1);
	MUST_BE(r.events[3].type, DSM_MSG_RETURNED);
	MUST_BE(r.events[3].attempt, 3);
	wait_until_up(&r);
	MUST_BE(r.n_local, N_SLOTS + 1);
	MUST_BE(r.n_events, 4);
	rig_fini(&r);
}

/* The link may break when nobody is there any more to see it. */
static void
test_a_crash_returns_what_may_not_have_arrived_and_blames_no_task(void)
{
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, 1); /* odd: wrote something */
	nth(&r, 1);
	exec(&r, 2, FAKE_CRASH);
	nth(&r, 3);
	MUST_BE(r.events[1].type, DSM_MSG_DONE);
	MUST_BE(r.events[2].type, DSM_MSG_RETURNED);
	MUST_BE(r.events[2].attempt, 1);
	MUST(r.events[2].text[0] == '\0');
	rig_fini(&r);
}

/* Again and again: the machine's memory may be short for one task only. */
static void
test_a_task_that_finds_no_room_is_returned_and_the_worker_stays(void)
{
	struct rig r;

	rig_ready(&r);
	for (unsigned i = 0; i < 2 * SLOT_START_TRIES; i++) {
		wait_until_up(&r);
		exec(&r, i + 1, FAKE_NO_ROOM);
		nth(&r, i + 1);
		MUST_BE(r.events[i].type, DSM_MSG_RETURNED);
		MUST(strstr(r.events[i].text, "no room, said the slot") !=
		     NULL);
	}
	rig_fini(&r);
}

static void
test_pages_that_a_dead_slot_had_claimed_are_free_again(void)
{
	struct rig r;
	struct wsession *ss;
	uint32_t state;

	rig_ready(&r);
	ss = session_find(r.w, SESSION);
	/* Which of the two idle slots gets it is known: the first. */
	MUST_BE(dsm__image_claim(&ss->image, 0, 2, 0, &state), 2);
	exec(&r, 1, FAKE_CLAIM);
	nth(&r, 1);
	wait_until_up(&r);
	MUST_BE(*dsm__image_state(&ss->image, 0), DSM_PG_ABSENT);
	MUST_BE(*dsm__image_state(&ss->image, DSM_PAGE), DSM_PG_ABSENT);
	rig_fini(&r);
}

/* --- time-outs --- */

static void
test_a_task_that_runs_too_long_is_killed_and_named(void)
{
	struct rig r;
	struct event *ev;

	rig_init(&r);
	open_session(&r, "");
	run_with_timeout(&r, 1, 100);
	wait_until_up(&r);
	exec_n(&r, 1, 1, FAKE_HANG, 3);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->failure.kind, DSM_FAIL_TIMEOUT);
	MUST_BE(ev->failure.task, FAKE_HANG + 2);
	MUST(strcmp(ev->text, "ran longer than 100 ms") == 0);
	exec(&r, 2, 0);
	MUST_BE(nth(&r, 2)->type, DSM_MSG_DONE);
	rig_fini(&r);
}

static void
test_a_timeout_is_for_each_task_not_for_their_sum(void)
{
	struct rig r;
	struct event *ev;

	rig_init(&r);
	open_session(&r, "");
	run_with_timeout(&r, 1, 250);
	exec_n(&r, 1, 1, FAKE_SLOW, 25); /* 480 ms */
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->n_failures, 0);
	rig_fini(&r);
}

/* The one that has something to do. */
static struct wslot *
busy_slot(struct rig *r)
{
	struct wsession *ss = session_find(r->w, SESSION);

	for (unsigned i = 0; i < ss->n_slots; i++)
		if (ss->slots[i].n_out > 0)
			return &ss->slots[i];
	return NULL;
}

static void
test_a_timeout_is_noticed_within_100_ms(void)
{
	struct rig r;
	uint64_t begin;

	rig_init(&r);
	open_session(&r, "");
	run_with_timeout(&r, 1, 2000);
	wait_until_up(&r);
	begin = dsm__now();
	exec(&r, 1, FAKE_HANG);
	MUST_BE(nth(&r, 1)->failure.kind, DSM_FAIL_TIMEOUT);
	begin = (dsm__now() - begin) / DSM_MS;
	if (begin > 2100)
		printf("    after %llu ms\n", (unsigned long long)begin);
	MUST(begin >= 2000);
	/* Others may have the machine: by much less than a quarter of it. */
	MUST(begin < 2400);
	rig_fini(&r);
}

static void
test_time_that_the_worker_was_stopped_does_not_count(void)
{
	struct rig r;
	uint64_t begin;

	rig_init(&r);
	open_session(&r, "");
	run_with_timeout(&r, 1, 600);
	wait_until_up(&r);
	exec(&r, 1, FAKE_HANG);
	drive_ms(&r, 100);
	poll(NULL, 0, 1000); /* nobody drives: as if stopped */
	begin = dsm__now();
	MUST_BE(nth(&r, 1)->failure.kind, DSM_FAIL_TIMEOUT);
	MUST(dsm__now() - begin > 300 * DSM_MS);
	rig_fini(&r);
}

static void
test_time_that_a_slot_was_stopped_does_not_count(void)
{
	struct rig r;
	uint64_t begin, stopped;

	rig_init(&r);
	open_session(&r, "");
	run_with_timeout(&r, 1, 600);
	wait_until_up(&r);
	begin = dsm__now();
	exec(&r, 1, FAKE_HANG);
	drive_ms(&r, 50);
	stopped = dsm__now();
	spawn_kill(busy_slot(&r)->pidfd, SIGSTOP);
	drive_ms(&r, 900);
	MUST_BE(r.n_events, 0);
	spawn_kill(busy_slot(&r)->pidfd, SIGCONT);
	stopped = dsm__now() - stopped;
	MUST_BE(nth(&r, 1)->failure.kind, DSM_FAIL_TIMEOUT);
	/* Of 600, but for two looks; however long the parts took on a busy
	 * machine. */
	MUST(dsm__now() - begin - stopped > 300 * DSM_MS);
	rig_fini(&r);
}

static void
next_look(struct rig *r)
{
	const struct wsession *ss = session_find(r->w, SESSION);

	for (uint64_t looked = ss->looked; ss->looked == looked;)
		drive_ms(r, 1);
}

/* Begun between two looks, it is given back more at the second than it has had. */
static void
test_a_task_whose_slot_is_stopped_at_its_beginning_has_its_time(void)
{
	struct wslot *s = NULL;
	struct wsession *ss;
	struct rig r;

	rig_init(&r);
	open_session(&r, "");
	run_with_timeout(&r, 1, 2000);
	wait_until_up(&r);
	exec(&r, 1, FAKE_HANG);
	next_look(&r);
	drive_ms(&r, 50);
	exec(&r, 2, FAKE_HANG);
	ss = session_find(r.w, SESSION);
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (ss->slots[i].n_out > 0 && ss->slots[i].out[0].attempt == 2)
			s = &ss->slots[i];
	MUST(s != NULL);
	while (!s->seen)
		drive_ms(&r, 1);
	spawn_kill(s->pidfd, SIGSTOP);
	next_look(&r);
	spawn_kill(s->pidfd, SIGCONT);
	drive_ms(&r, 400); /* to be asked to end, and be killed */
	MUST_BE(r.n_events, 0);
	nth(&r, 2);
	MUST_BE(about(&r, 2)->failure.kind, DSM_FAIL_TIMEOUT);
	rig_fini(&r);
}

static void
test_a_slot_that_stays_stopped_gives_its_task_back(void)
{
	const struct worker_params p = {.local_data = local_data,
	                                .stopped_ms = 300};

	for (uint32_t timeout_ms = 0; timeout_ms <= 100; timeout_ms += 100) {
		struct rig r;
		struct event *ev;

		rig_init_with(&r, &p);
		open_session(&r, "");
		run_with_timeout(&r, 1, timeout_ms);
		wait_until_up(&r);
		exec(&r, 1, FAKE_HANG);
		drive_ms(&r, 20);
		spawn_kill(busy_slot(&r)->pidfd, SIGSTOP);
		ev = nth(&r, 1);
		MUST_BE(ev->type, DSM_MSG_RETURNED);
		MUST(strstr(ev->text, "was stopped (SIGSTOP)") != NULL);
		exec(&r, 2, 0);
		MUST_BE(nth(&r, 2)->type, DSM_MSG_DONE);
		rig_fini(&r);
	}
}

/* --- slots that do not start --- */

static void
test_a_program_over_the_first_slots_address_gets_the_second(void)
{
	struct rig r;
	struct event *ev;

	rig_init(&r);
	open_session(&r, "");
	run_full(&r, 1, FAKE_COLLIDES_IN_A);
	exec(&r, 1, 0);
	exec(&r, 2, 0);
	ev = nth(&r, 2);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->facts.variant, 'b');
	rig_fini(&r);
}

static void
test_a_program_over_both_addresses_makes_the_worker_unfit(void)
{
	struct rig r;
	struct event *ev;

	rig_init(&r);
	open_session(&r, "");
	run_full(&r, 1, FAKE_COLLIDES);
	exec(&r, 1, 0);
	nth(&r, 2);
	MUST_BE(about(&r, 1)->type, DSM_MSG_RETURNED);
	ev = r.events[0].type == DSM_MSG_UNFIT ? &r.events[0] : &r.events[1];
	MUST_BE(ev->type, DSM_MSG_UNFIT);
	MUST(strstr(ev->text, "overlaps") != NULL);
	/* And it stays so. */
	exec(&r, 2, 0);
	MUST_BE(nth(&r, 3)->type, DSM_MSG_RETURNED);
	rig_fini(&r);
}

static void
test_a_slot_that_never_starts_makes_the_worker_unfit(void)
{
	struct rig r;
	struct event *ev;

	rig_init(&r);
	open_session(&r, "");
	run_full(&r, 1, FAKE_SETUP_FAILS);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_UNFIT);
	MUST(strcmp(ev->text, "no userfaultfd here") == 0);
	drive_ms(&r, 30);
	MUST_BE(r.n_events, 1);
	rig_fini(&r);
}

static int
no_elf(unsigned variant, const void **p, size_t *len)
{
	(void)variant;
	(void)p;
	(void)len;
	return DSM_EINVAL;
}

static void
test_a_build_without_slots_says_so(void)
{
	const struct worker_params p = {.local_data = local_data,
	                                .slot_elf = no_elf};
	struct rig r;

	rig_init_with(&r, &p);
	open_session(&r, "");
	MUST_BE(nth(&r, 1)->type, DSM_MSG_UNFIT);
	MUST(strstr(r.events[0].text, "no slot program a") != NULL);
	rig_fini(&r);
}

/* --- runs --- */

static void
test_cancel_kills_the_busy_and_the_next_run_finds_new_slots(void)
{
	const struct dsm_msg_cancel cancel = {.session = SESSION, .run = 1};
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, FAKE_HANG);
	exec(&r, 2, FAKE_HANG);
	exec(&r, 3, FAKE_HANG);
	MUST_OK(SEND(&r, CANCEL, cancel, &cancel));
	run_short(&r, 2);
	exec_n(&r, 2, 4, 0, 1);
	nth(&r, 4);
	for (unsigned i = 1; i <= 3; i++)
		MUST_BE(about(&r, i)->type, DSM_MSG_RETURNED);
	MUST_BE(about(&r, 4)->type, DSM_MSG_DONE);
	MUST_BE(about(&r, 4)->run, 2);
	rig_fini(&r);
}

static void
recall(struct rig *r, uint64_t attempt)
{
	const struct dsm_msg_recall m = {
	    .session = SESSION, .run = 1, .attempt = attempt};

	MUST_OK(SEND(r, RECALL, recall, &m));
}

static void
test_a_recalled_attempt_ends_and_the_one_behind_it_runs_elsewhere(void)
{
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, FAKE_HANG);
	exec(&r, 2, FAKE_HANG);
	wait_until_running(&r);
	exec(&r, 3, 0);
	exec(&r, 4, 0);
	recall(&r, 1);
	nth(&r, 2);
	MUST_BE(about(&r, 1)->type, DSM_MSG_RETURNED);
	MUST_BE((about(&r, 3) != NULL ? about(&r, 3) : about(&r, 4))->type,
	        DSM_MSG_DONE);
	MUST_BE(worker_busy(r.w), 1);
	rig_fini(&r);
}

static void
test_an_attempt_may_be_recalled_before_it_has_begun(void)
{
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, FAKE_WAIT);
	exec(&r, 2, FAKE_WAIT);
	wait_until_running(&r);
	exec(&r, 3, FAKE_HANG);
	exec(&r, 4, FAKE_HANG);
	exec(&r, 5, FAKE_HANG); /* no slot has it */
	recall(&r, 5);
	recall(&r, 4);
	recall(&r, 3);
	recall(&r, 6); /* never heard of */
	go(&r, 0);
	go(&r, 1);
	/* What slots had taken of 3 and 4 comes back in between. */
	MUST_BE(when_about(&r, 1)->type, DSM_MSG_DONE);
	MUST_BE(when_about(&r, 2)->type, DSM_MSG_DONE);
	exec(&r, 7, 0);
	MUST_BE(when_about(&r, 7)->type, DSM_MSG_DONE);
	MUST(about(&r, 5) == NULL);
	rig_fini(&r);
}

static void
note_drained(void *ctx)
{
	++*(int *)ctx;
}

static void
test_a_draining_worker_finishes_what_its_slots_have(void)
{
	const struct dsm_msg_drain go_now = {0};
	int drained = 0;
	const struct worker_params p = {.local_data = local_data,
	                                .drained = note_drained,
	                                .drained_ctx = &drained};
	struct rig r;

	rig_init_with(&r, &p);
	open_session(&r, "");
	run_full(&r, 1, FAKE_FINE);
	wait_until_up(&r);
	for (unsigned i = 1; i <= 2; i++)
		exec(&r, i, FAKE_WAIT);
	for (unsigned i = 3; i <= 5; i++)
		exec(&r, i, 0);
	worker_drain(r.w);
	exec(&r, 6, 0);
	MUST_BE(r.n_events, 3);
	MUST_BE(r.events[0].type, DSM_MSG_DRAIN);
	for (unsigned i = 5; i <= 6; i++) {
		MUST_BE(about(&r, i)->type, DSM_MSG_RETURNED);
		MUST_BE(about(&r, i)->text[0], '\0');
	}
	go(&r, 0);
	go(&r, 1);
	nth(&r, 7);
	for (unsigned i = 1; i <= 4; i++)
		MUST_BE(about(&r, i)->type, DSM_MSG_DONE);
	MUST_BE(drained, 0);
	MUST_OK(SEND(&r, DRAIN, drain, &go_now));
	MUST_BE(drained, 1);
	rig_fini(&r);
}

static void
test_runs_that_wait_for_busy_slots_are_all_applied(void)
{
	const struct dsm_rec_extent drop = {HEAP_AT + DSM_PAGE, 1};
	static const uint8_t page[DSM_PAGE] = {1, 2, 3};
	struct dsm_msg_run second = {.run = 2};
	struct dsm_wbuf packed = {0};
	struct wsession *ss;
	struct rig r;
	uint32_t state;

	rig_ready(&r);
	ss = session_find(r.w, SESSION);
	MUST_BE(dsm__image_claim(&ss->image, DSM_PAGE, 1, 1, &state), 1);
	MUST_OK(dsm__image_publish(&ss->image, DSM_PAGE, 1, page));
	exec(&r, 1, FAKE_HANG);
	MUST_OK(dsm__pack_extent(&packed, &drop));
	second.drops = (struct dsm_array){packed.ptr, 1};
	MUST_OK(run(&r, &second));
	run_short(&r, 3);
	MUST_BE(*dsm__image_state(&ss->image, DSM_PAGE), DSM_PG_PRESENT);
	exec_n(&r, 2, 2, 0, 1); /* run 2 is over already */
	exec_n(&r, 3, 3, 0, 1);
	nth(&r, 3);
	MUST_BE(about(&r, 1)->type, DSM_MSG_RETURNED);
	MUST_BE(about(&r, 2)->type, DSM_MSG_RETURNED);
	MUST_BE(about(&r, 3)->type, DSM_MSG_DONE);
	MUST_BE(*dsm__image_state(&ss->image, DSM_PAGE), DSM_PG_ABSENT);
	dsm__wbuf_fini(&packed);
	rig_fini(&r);
}

/* What a client says must not cost other clients this worker. */
static void
test_a_client_s_odd_address_makes_it_unfit_and_no_more(void)
{
	char longer[DSM_ADDR_MAX + 8];
	const char *const odd[] = {"node7:80", "10.0.0.1", "*:80", longer};

	memset(longer, '1', sizeof(longer));
	memcpy(longer + sizeof(longer) - 4, ":80", 4);
	for (unsigned i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
		struct rig r;

		rig_init(&r);
		open_session(&r, odd[i]);
		MUST_BE(nth(&r, 1)->type, DSM_MSG_UNFIT);
		MUST(!r.closed);
		rig_fini(&r);
	}
}

/* A drop of everything, mapped or not, takes no time. */
static void
test_a_run_may_drop_a_whole_address_space(void)
{
	const struct dsm_rec_extent drop = {0, UINT64_C(1) << 35};
	static const uint8_t page[DSM_PAGE] = {1, 2, 3};
	struct dsm_msg_run m = {.run = 2};
	struct dsm_wbuf packed = {0};
	struct wsession *ss;
	uint64_t start = dsm__now();
	struct rig r;

	rig_ready(&r);
	ss = session_find(r.w, SESSION);
	MUST_OK(dsm__image_update(&ss->image, 3 * DSM_PAGE, page));
	MUST_OK(dsm__pack_extent(&packed, &drop));
	m.drops = (struct dsm_array){packed.ptr, 1};
	MUST_OK(run(&r, &m));
	MUST_BE(*dsm__image_state(&ss->image, 3 * DSM_PAGE), DSM_PG_ABSENT);
	MUST(dsm__now() - start < 10 * DSM_SEC);
	dsm__wbuf_fini(&packed);
	rig_fini(&r);
}

static void
test_a_run_updates_pages_of_the_image(void)
{
	const struct dsm_rec_extent update = {HEAP_AT + 2 * DSM_PAGE, 1};
	static uint8_t page[DSM_PAGE], got[DSM_PAGE];
	struct dsm_msg_run m = {.run = 2};
	struct dsm_wbuf packed = {0};
	struct wsession *ss;
	struct rig r;
	uint32_t state;

	rig_ready(&r);
	ss = session_find(r.w, SESSION);
	MUST_BE(dsm__image_claim(&ss->image, 2 * DSM_PAGE, 1, 1, &state), 1);
	MUST_OK(dsm__image_publish(&ss->image, 2 * DSM_PAGE, 1, page));
	memset(page, 0x5a, sizeof(page));
	MUST_OK(dsm__pack_extent(&packed, &update));
	m.updates = (struct dsm_array){packed.ptr, 1};
	m.pages = (struct dsm_blob){page, sizeof(page)};
	MUST_OK(run(&r, &m));
	MUST(pread(ss->image.pages_fd, got, DSM_PAGE, 2 * DSM_PAGE) ==
	     (ssize_t)DSM_PAGE);
	MUST(memcmp(got, page, DSM_PAGE) == 0);
	dsm__wbuf_fini(&packed);
	rig_fini(&r);
}

static void
test_updates_without_their_pages_are_refused(void)
{
	const struct dsm_rec_extent update = {HEAP_AT, 2};
	static const uint8_t page[DSM_PAGE];
	struct dsm_msg_run m = {.run = 2};
	struct dsm_wbuf packed = {0};
	struct rig r;

	rig_ready(&r);
	MUST_OK(dsm__pack_extent(&packed, &update));
	m.updates = (struct dsm_array){packed.ptr, 1};
	m.pages = (struct dsm_blob){page, sizeof(page)};
	MUST_BE(run(&r, &m), DSM_EPROTO);
	MUST_BE(r.closed, 1);
	dsm__wbuf_fini(&packed);
	rig_fini(&r);
}

/* --- sessions --- */

static void
test_an_exec_for_an_unknown_session_is_returned(void)
{
	struct rig r;

	rig_init(&r);
	exec(&r, 9, 0);
	MUST_BE(nth(&r, 1)->type, DSM_MSG_RETURNED);
	MUST_BE(r.events[0].attempt, 9);
	rig_fini(&r);
}

static int
session_is_gone(void *arg)
{
	struct rig *r = arg;

	return LIST_EMPTY(&r->w->sessions);
}

static void
test_the_end_of_a_session_ends_its_slots(void)
{
	const struct dsm_msg_session_end end = {.session = SESSION};
	struct rig r;
	char c;

	rig_ready(&r);
	exec(&r, 1, FAKE_HANG);
	MUST_OK(SEND(&r, SESSION_END, session_end, &end));
	MUST_OK(dsm__loop_drive(r.loop, session_is_gone, &r,
	                        dsm__deadline_ms(20000)));
	for (unsigned i = 0; i < N_SLOTS; i++)
		MUST_BE(recv(r.data[i], &c, 1, 0), 0);
	MUST_BE(r.n_events, 0);
	rig_fini(&r);
}

static void
test_a_lost_coordinator_ends_all_sessions(void)
{
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, FAKE_HANG);
	worker_up_lost(r.w);
	MUST_OK(dsm__loop_drive(r.loop, session_is_gone, &r,
	                        dsm__deadline_ms(20000)));
	rig_fini(&r);
}

/* Of this thread's children the one that starts slots. */
static pid_t
find_keeper(void)
{
	char path[64], name[32];
	int pid, found = 0;
	FILE *f, *comm;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", gettid());
	f = fopen(path, "re");
	MUST(f != NULL);
	while (fscanf(f, "%d", &pid) == 1) {
		snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		comm = fopen(path, "re");
		MUST(comm != NULL);
		if (fscanf(comm, "%31s", name) == 1 &&
		    strcmp(name, "taskrt-keeper") == 0)
			found = pid;
		fclose(comm);
	}
	fclose(f);
	return found;
}

static int
is_closed(void *arg)
{
	const struct rig *r = arg;

	return r->closed;
}

static void
test_a_lost_keeper_ends_the_link_and_is_replaced(void)
{
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, FAKE_HANG);
	MUST(find_keeper() > 0);
	kill(find_keeper(), SIGKILL);
	MUST_OK(
	    dsm__loop_drive(r.loop, is_closed, &r, dsm__deadline_ms(20000)));
	/* What the link's owner does, who then joins again. */
	worker_up_lost(r.w);
	MUST_OK(dsm__loop_drive(r.loop, session_is_gone, &r,
	                        dsm__deadline_ms(20000)));
	open_session(&r, "");
	wait_until_up(&r);
	rig_fini(&r);
}

static void
test_a_session_may_end_while_its_slots_start(void)
{
	const struct dsm_msg_session_end end = {.session = SESSION};
	struct rig r;

	rig_init(&r);
	for (unsigned i = 0; i < 3; i++) {
		open_session(&r, "");
		MUST_OK(SEND(&r, SESSION_END, session_end, &end));
	}
	MUST_OK(dsm__loop_drive(r.loop, session_is_gone, &r,
	                        dsm__deadline_ms(20000)));
	rig_fini(&r);
}

static void
test_destroy_ends_busy_slots_soon(void)
{
	uint64_t start;
	struct rig r;

	rig_ready(&r);
	exec(&r, 1, FAKE_HANG);
	drive_ms(&r, 20);
	start = dsm__now();
	rig_fini(&r);
	MUST(dsm__now() - start < 1500 * DSM_MS);
}

static void
test_more_slots_than_starts_in_flight_all_start(void)
{
	const struct worker_params p = {.local_data = local_data,
	                                .n_slots = SPAWN_IN_FLIGHT + 8};
	struct rig r;

	rig_init_with(&r, &p);
	open_session(&r, "");
	wait_until_up(&r);
	MUST_BE(session_find(r.w, SESSION)->n_slots, SPAWN_IN_FLIGHT + 8);
	rig_fini(&r);
}

static void
test_a_ping_is_answered_and_garbage_closes_the_link(void)
{
	const struct dsm_msg_ping ping = {.seq = 4};
	struct dsm_frame f = {
	    .type = DSM_MSG_RUN, .body = (const uint8_t *)"x", .len = 1};
	struct rig r;

	rig_init(&r);
	MUST_OK(SEND(&r, PING, ping, &ping));
	MUST_BE(nth(&r, 1)->type, DSM_MSG_PONG);
	MUST_BE(worker_frame(r.w, &f), DSM_EPROTO);
	MUST_BE(r.closed, 1);
	f.type = DSM_MSG_VERDICT;
	MUST_BE(worker_frame(r.w, &f), DSM_EPROTO);
	rig_fini(&r);
}

static void
test_hello_tells_what_this_machine_is(void)
{
	struct dsm_msg_hello h;
	struct rig r;

	rig_init(&r);
	worker_hello(r.w, &h);
	MUST_BE(h.magic, DSM_MAGIC);
	MUST_BE(h.role, DSM_ROLE_WORKER);
	MUST_BE(h.n_slots, N_SLOTS);
	MUST_BE(h.page_size, DSM_PAGE);
	MUST(h.name.len > 0);
	rig_fini(&r);
}

/* --- over TCP --- */

/* The client's listener, or the coordinator's: waits for a HELLO. */
struct listener {
	int fd;
	char addr[DSM_ADDR_MAX];
	int accepted;
};

static void
listener_init(struct listener *l)
{
	struct dsm_error e;

	MUST_OK(dsm__tcp_listen(":0", l->addr, &l->fd, &e));
	l->accepted = -1;
}

static int
has_caller(void *arg)
{
	struct listener *l = arg;

	return dsm__tcp_accept(l->fd, &l->accepted) == DSM_OK;
}

/*
 * Take a slot's connection, check its HELLO, answer WELCOME: with what it offers
 * of `features`. *offered_p (may be NULL): what it offers.
 */
static struct dsm_conn *
welcome_with(struct rig *r, struct listener *l, uint64_t features,
             uint16_t flags, uint64_t *offered_p)
{
	struct dsm_msg_welcome m = {.version = DSM_VERSION, .flags = flags};
	struct dsm_wbuf body = {0};
	struct dsm_msg_hello h;
	struct dsm_conn *conn;
	struct dsm_frame f;
	struct iovec iov;
	uint64_t deadline = dsm__deadline_ms(20000);
	int err = DSM_EAGAIN;

	/* Short drives: nothing wakes the loop for this listener. */
	while (!has_caller(l) && dsm__now() < deadline)
		drive_ms(r, 2);
	MUST_OK(dsm__conn_create(&dsm__tcp_ops, l->accepted, 4096, &conn));
	while (err == DSM_EAGAIN && dsm__now() < deadline) {
		drive_ms(r, 2);
		err = dsm__conn_recv(conn, &f);
	}
	MUST_OK(err);
	MUST_BE(f.type, DSM_MSG_HELLO);
	MUST_OK(dsm__decode_hello(f.body, f.len, &h));
	MUST_BE(h.role, DSM_ROLE_DATA);
	MUST_BE(h.session, SESSION);
	MUST(h.key.len == 16 && memcmp(h.key.ptr, "0123456789abcdef", 16) == 0);
	m.features = h.features & features;
	if (offered_p != NULL)
		*offered_p = h.features;
	MUST_OK(dsm__encode_welcome(&body, &m));
	iov = (struct iovec){body.ptr, body.len};
	MUST_OK(dsm__conn_send(conn, DSM_MSG_WELCOME, 0, 0, &iov, 1));
	MUST_OK(dsm__conn_drain(conn, deadline));
	dsm__wbuf_fini(&body);
	return conn;
}

static struct dsm_conn *
welcome(struct rig *r, struct listener *l)
{
	uint64_t offered;
	struct dsm_conn *conn = welcome_with(r, l, 0, 0, &offered);

	MUST_BE(offered, 0);
	return conn;
}

static void
test_over_tcp_the_client_is_dialled_for_each_slot(void)
{
	const struct worker_params p = {0};
	struct listener l;
	struct dsm_conn *conns[N_SLOTS];
	struct event *ev;
	struct rig r;

	listener_init(&l);
	rig_init_with(&r, &p);
	open_session(&r, l.addr);
	for (unsigned i = 0; i < N_SLOTS; i++)
		conns[i] = welcome(&r, &l);
	run_full(&r, 1, FAKE_FINE);
	exec(&r, 1, 0);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->facts.has_heap, 0);
	MUST_BE(ev->facts.has_stage, 0);
	MUST_BE(ev->facts.transport, 't');
	MUST_BE(r.n_links, 1);
	MUST(strcmp(r.transport, "tcp") == 0 && r.link_text[0] == '\0');
	for (unsigned i = 0; i < N_SLOTS; i++)
		dsm__conn_close(conns[i]);
	close(l.fd);
	rig_fini(&r);
}

static void
test_a_client_that_cannot_be_reached_is_dialled_through_the_relay(void)
{
	struct listener dead, relay;
	struct worker_params p = {.n_slots = 1};
	struct dsm_conn *conn;
	struct rig r;

	listener_init(&dead);
	close(dead.fd);
	listener_init(&relay);
	p.relay = relay.addr;
	rig_init_with(&r, &p);
	open_session(&r, dead.addr);
	conn = welcome(&r, &relay);
	wait_until_up(&r);
	MUST_BE(session_find(r.w, SESSION)->use_relay, 1);
	dsm__conn_close(conn);
	close(relay.fd);
	rig_fini(&r);
}

static void
test_a_client_out_of_reach_makes_the_worker_unfit_and_is_named(void)
{
	struct worker_params p = {.n_slots = 1};
	struct listener dead;
	struct event *ev;
	struct rig r;

	listener_init(&dead);
	close(dead.fd);
	p.relay = dead.addr;
	rig_init_with(&r, &p);
	open_session(&r, dead.addr);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_UNFIT);
	MUST(strstr(ev->text, dead.addr) != NULL);
	MUST(strstr(ev->text, strerror(ECONNREFUSED)) != NULL);
	MUST(strstr(ev->text, "relay") != NULL);
	rig_fini(&r);
}

/* Short drives: nothing wakes the loop for these. */
static void
wait_for(struct rig *r, int (*is)(void *arg), void *arg)
{
	uint64_t deadline = dsm__deadline_ms(20000);

	while (!is(arg)) {
		MUST(dsm__now() < deadline);
		drive_ms(r, 2);
	}
}

static int
slot_waits(void *arg)
{
	struct rig *r = arg;

	return session_find(r->w, SESSION)->slots[0].retry != NULL;
}

/* It may be stopped, in a debugger say. */
static void
test_a_client_that_does_not_answer_is_waited_for(void)
{
	struct worker_params p = {.n_slots = 1, .connect_ms = 50};
	struct listener silent;
	struct dsm_conn *conn;
	struct rig r;

	listener_init(&silent);
	rig_init_with(&r, &p);
	open_session(&r, silent.addr);
	for (int i = 0; i < 2 * SLOT_DIAL_TRIES; i++) {
		wait_for(&r, has_caller, &silent);
		wait_for(&r, slot_waits, &r);
		close(silent.accepted);
	}
	MUST_BE(r.n_events, 0); /* not a word of UNFIT */
	conn = welcome(&r, &silent);
	wait_until_up(&r);
	dsm__conn_close(conn);
	close(silent.fd);
	rig_fini(&r);
}

/* --- verbs --- */

/* A worker with one slot whose machine has RDMA, and a client that offers it. */
struct vrig {
	struct rig r;
	struct listener l;
	uint64_t features; /* that the client takes */
	uint16_t flags;    /* of its WELCOME */
	struct dsm_conn *conns[8];
	unsigned n_conns;
	uint64_t offered; /* by the last HELLO */
};

static void
vrig_init(struct vrig *v, const char *behaviour, int only)
{
	struct worker_params p = {.n_slots = 1,
	                          .verbs = {.usable = 1, .only = only}};

	memset(v, 0, sizeof(*v));
	v->features = DSM_FEATURE_VERBS;
	snprintf(p.verbs.choice, sizeof(p.verbs.choice), "%s", behaviour);
	listener_init(&v->l);
	p.relay = "127.0.0.1:1";
	rig_init_with(&v->r, &p);
	open_session(&v->r, v->l.addr);
}

static void
vrig_fini(struct vrig *v)
{
	for (unsigned i = 0; i < v->n_conns; i++)
		dsm__conn_close(v->conns[i]);
	close(v->l.fd);
	rig_fini(&v->r);
}

/* The next slot's connection. */
static void
take_slot(struct vrig *v)
{
	MUST(v->n_conns < 8);
	v->conns[v->n_conns++] =
	    welcome_with(&v->r, &v->l, v->features, v->flags, &v->offered);
}

struct expected_links {
	struct rig *r;
	unsigned n;
};

static int
has_links(void *arg)
{
	struct expected_links *x = arg;

	return x->r->n_links >= x->n;
}

static void
must_be_link(struct vrig *v, unsigned n, const char *transport,
             const char *text)
{
	struct expected_links x = {&v->r, n};

	MUST_OK(
	    dsm__loop_drive(v->r.loop, has_links, &x, dsm__deadline_ms(20000)));
	if (strcmp(v->r.transport, transport) != 0 ||
	    strstr(v->r.link_text, text) == NULL)
		printf("    %s: %s\n", v->r.transport, v->r.link_text);
	MUST(strcmp(v->r.transport, transport) == 0);
	MUST(strstr(v->r.link_text, text) != NULL);
}

static void
test_a_slot_goes_over_to_verbs_when_both_ends_offer_it(void)
{
	struct event *ev;
	struct vrig v;

	vrig_init(&v, FAKE_GOES_OVER, 0);
	take_slot(&v);
	MUST_BE(v.offered, DSM_FEATURE_VERBS);
	must_be_link(&v, 1, "verbs", FAKE_DEVICE_TEXT);
	run_full(&v.r, 1, FAKE_FINE);
	exec(&v.r, 1, 0);
	ev = nth(&v.r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->facts.transport, 'v');
	vrig_fini(&v);
}

static void
test_a_program_without_verbs_is_served_over_tcp(void)
{
	struct event *ev;
	struct vrig v;

	vrig_init(&v, FAKE_GOES_OVER, 0);
	v.features = 0;
	take_slot(&v);
	must_be_link(&v, 1, "tcp", "does not offer verbs");
	run_full(&v.r, 1, FAKE_FINE);
	exec(&v.r, 1, 0);
	ev = nth(&v.r, 1);
	MUST_BE(ev->facts.transport, 't');
	vrig_fini(&v);
}

static void
test_a_slot_that_stays_on_tcp_works_and_its_reason_is_told(void)
{
	struct event *ev;
	struct vrig v;

	vrig_init(&v, FAKE_STAYS, 0);
	take_slot(&v);
	must_be_link(&v, 1, "tcp", FAKE_STAYS_TEXT);
	run_full(&v.r, 1, FAKE_FINE);
	exec(&v.r, 1, 0);
	ev = nth(&v.r, 1);
	MUST_BE(ev->type, DSM_MSG_DONE);
	vrig_fini(&v);
}

static void
test_after_a_failed_queue_pair_the_next_slot_uses_tcp(void)
{
	struct event *ev;
	struct vrig v;

	vrig_init(&v, FAKE_GOES_OVER, 0);
	take_slot(&v);
	run_full(&v.r, 1, FAKE_FINE);
	exec(&v.r, 1, FAKE_FABRIC);
	ev = nth(&v.r, 1);
	MUST_BE(ev->type, DSM_MSG_RETURNED);
	MUST(strstr(ev->text, FAKE_FABRIC_TEXT) != NULL);
	take_slot(&v);
	MUST_BE(v.offered, 0);
	must_be_link(&v, 2, "tcp", FAKE_FABRIC_TEXT);
	exec(&v.r, 2, 0);
	ev = nth(&v.r, 2);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->facts.transport, 't');
	vrig_fini(&v);
}

static void
test_verbs_is_tried_again_when_the_pause_is_over(void)
{
	struct vrig v;

	vrig_init(&v, FAKE_GOES_OVER, 0);
	take_slot(&v);
	run_full(&v.r, 1, FAKE_FINE);
	exec(&v.r, 1, FAKE_FABRIC);
	nth(&v.r, 1);
	take_slot(&v);
	MUST_BE(v.offered, 0);
	wait_until_up(&v.r);
	session_find(v.r.w, SESSION)->way.off_until = 1; /* long ago */
	exec(&v.r, 2, FAKE_CRASH);
	nth(&v.r, 2);
	take_slot(&v);
	MUST_BE(v.offered, DSM_FEATURE_VERBS);
	must_be_link(&v, 3, "verbs", FAKE_DEVICE_TEXT);
	vrig_fini(&v);
}

/* Neither the fabric nor a driver may cost a session that can do without. */
static void
test_going_over_may_fail_in_any_way(void)
{
	const char *const ways[] = {FAKE_LOSES_LINK, FAKE_DRIVER_CRASHES};
	const char *const reasons[] = {FAKE_FABRIC_TEXT, "Segmentation fault"};

	for (unsigned i = 0; i < 2; i++) {
		struct event *ev;
		struct vrig v;

		vrig_init(&v, ways[i], 0);
		take_slot(&v);
		MUST_BE(v.offered, DSM_FEATURE_VERBS);
		take_slot(&v);
		MUST_BE(v.offered, 0);
		must_be_link(&v, 1, "tcp", reasons[i]);
		run_full(&v.r, 1, FAKE_FINE);
		exec(&v.r, 1, 0);
		ev = nth(&v.r, 1);
		MUST_BE(ev->type, DSM_MSG_DONE);
		vrig_fini(&v);
	}
}

static void
test_who_insists_on_verbs_gets_a_few_tries_and_then_the_reason(void)
{
	/* The worker does, the client does. */
	for (int client = 0; client < 2; client++) {
		struct event *ev;
		struct vrig v;

		vrig_init(&v, FAKE_STAYS, !client);
		v.flags = client ? DSM_WELCOME_VERBS_ONLY : 0;
		for (unsigned i = 0; i < SLOT_START_TRIES; i++) {
			take_slot(&v);
			MUST_BE(v.offered, DSM_FEATURE_VERBS);
		}
		ev = nth(&v.r, 1);
		MUST_BE(ev->type, DSM_MSG_UNFIT);
		MUST(strstr(ev->text, FAKE_STAYS_TEXT) != NULL);
		vrig_fini(&v);
	}
}

static void
test_a_program_that_insists_gets_a_new_queue_pair_for_a_failed_one(void)
{
	struct event *ev;
	struct vrig v;

	vrig_init(&v, FAKE_GOES_OVER, 0);
	v.flags = DSM_WELCOME_VERBS_ONLY;
	take_slot(&v);
	run_full(&v.r, 1, FAKE_FINE);
	exec(&v.r, 1, FAKE_FABRIC);
	ev = nth(&v.r, 1);
	MUST_BE(ev->type, DSM_MSG_RETURNED);
	take_slot(&v);
	MUST_BE(v.offered, DSM_FEATURE_VERBS);
	exec(&v.r, 2, 0);
	ev = nth(&v.r, 2);
	MUST_BE(ev->type, DSM_MSG_DONE);
	MUST_BE(ev->facts.transport, 'V');
	vrig_fini(&v);
}

static void
test_a_worker_without_rdma_is_unfit_for_a_program_that_insists(void)
{
	struct worker_params p = {.n_slots = 1,
	                          .verbs = {.why_not = "no RDMA device"}};
	struct dsm_conn *conn;
	struct listener l;
	struct event *ev;
	struct rig r;

	listener_init(&l);
	rig_init_with(&r, &p);
	open_session(&r, l.addr);
	conn = welcome_with(&r, &l, DSM_FEATURE_VERBS, DSM_WELCOME_VERBS_ONLY,
	                    NULL);
	ev = nth(&r, 1);
	MUST_BE(ev->type, DSM_MSG_UNFIT);
	MUST(strstr(ev->text, "verbs only") != NULL);
	MUST(strstr(ev->text, "no RDMA device") != NULL);
	dsm__conn_close(conn);
	close(l.fd);
	rig_fini(&r);
}

static void
test_verbs_alone_never_goes_through_the_relay(void)
{
	/* The worker does not even ask there; the client's WELCOME says so. */
	for (int client = 0; client < 2; client++) {
		struct worker_params p = {
		    .n_slots = 1, .verbs = {.usable = 1, .only = !client}};
		struct listener dead, relay;
		struct dsm_conn *conn = NULL;
		struct event *ev;
		struct rig r;

		listener_init(&dead);
		close(dead.fd);
		listener_init(&relay);
		p.relay = relay.addr;
		rig_init_with(&r, &p);
		open_session(&r, dead.addr);
		if (client) {
			uint64_t offered;

			conn = welcome_with(&r, &relay, DSM_FEATURE_VERBS,
			                    DSM_WELCOME_VERBS_ONLY, &offered);
			MUST_BE(offered, 0);
		}
		ev = nth(&r, 1);
		MUST_BE(ev->type, DSM_MSG_UNFIT);
		MUST(strstr(ev->text, strerror(ECONNREFUSED)) != NULL);
		MUST_BE(strstr(ev->text, "relay") != NULL, client);
		dsm__conn_close(conn);
		close(relay.fd);
		rig_fini(&r);
	}
}

SUITE(coordinator_worker_worker, "coordinator.worker.worker",
      T(test_slots_start_with_the_session),
      T(test_an_exec_is_done_and_its_done_goes_up_unchanged),
      T(test_one_exec_after_the_other_goes_to_the_same_warm_slot),
      T(test_execs_spread_over_idle_slots_before_any_has_two),
      T(test_a_slot_hears_of_a_run_once_and_of_the_ranges_when_they_changed),
      T(test_a_reported_crash_replaces_the_slot_and_costs_no_other_exec),
      T(test_a_task_that_exits_is_forbidden),
      T(test_a_crash_without_done_is_told_by_the_control_page),
      T(test_the_control_page_outlives_the_slots_process),
      T(test_a_signal_in_a_task_is_a_crash),
      T(test_a_slot_that_its_sandbox_ends_has_done_what_is_forbidden),
      T(test_a_slot_is_not_believed_for_ever_that_it_has_not_begun),
      T(test_a_slot_that_has_work_and_says_it_is_idle_is_killed),
      T(test_a_slots_message_has_no_control_characters),
      T(test_a_sigkill_from_elsewhere_returns_the_task),
      T(test_a_second_exec_survives_the_slot_that_died_of_the_first),
      T(test_a_lost_data_link_returns_what_may_not_have_arrived),
      T(test_a_crash_returns_what_may_not_have_arrived_and_blames_no_task),
      T(test_a_task_that_finds_no_room_is_returned_and_the_worker_stays),
      T(test_pages_that_a_dead_slot_had_claimed_are_free_again),
      T(test_a_task_that_runs_too_long_is_killed_and_named),
      T(test_a_timeout_is_for_each_task_not_for_their_sum),
      T(test_a_timeout_is_noticed_within_100_ms),
      T(test_time_that_the_worker_was_stopped_does_not_count),
      T(test_time_that_a_slot_was_stopped_does_not_count),
      T(test_a_task_whose_slot_is_stopped_at_its_beginning_has_its_time),
      T(test_a_slot_that_stays_stopped_gives_its_task_back),
      T(test_a_program_over_the_first_slots_address_gets_the_second),
      T(test_a_program_over_both_addresses_makes_the_worker_unfit),
      T(test_a_slot_that_never_starts_makes_the_worker_unfit),
      T(test_a_build_without_slots_says_so),
      T(test_cancel_kills_the_busy_and_the_next_run_finds_new_slots),
      T(test_a_recalled_attempt_ends_and_the_one_behind_it_runs_elsewhere),
      T(test_an_attempt_may_be_recalled_before_it_has_begun),
      T(test_a_draining_worker_finishes_what_its_slots_have),
      T(test_runs_that_wait_for_busy_slots_are_all_applied),
      T(test_a_client_s_odd_address_makes_it_unfit_and_no_more),
      T(test_a_run_may_drop_a_whole_address_space),
      T(test_a_run_updates_pages_of_the_image),
      T(test_updates_without_their_pages_are_refused),
      T(test_an_exec_for_an_unknown_session_is_returned),
      T(test_the_end_of_a_session_ends_its_slots),
      T(test_a_lost_coordinator_ends_all_sessions),
      T(test_a_lost_keeper_ends_the_link_and_is_replaced),
      T(test_a_session_may_end_while_its_slots_start),
      T(test_destroy_ends_busy_slots_soon),
      T(test_more_slots_than_starts_in_flight_all_start),
      T(test_a_ping_is_answered_and_garbage_closes_the_link),
      T(test_hello_tells_what_this_machine_is),
      T(test_over_tcp_the_client_is_dialled_for_each_slot),
      T(test_a_client_that_cannot_be_reached_is_dialled_through_the_relay),
      T(test_a_client_out_of_reach_makes_the_worker_unfit_and_is_named),
      T(test_a_client_that_does_not_answer_is_waited_for),
      T(test_a_slot_goes_over_to_verbs_when_both_ends_offer_it),
      T(test_a_program_without_verbs_is_served_over_tcp),
      T(test_a_slot_that_stays_on_tcp_works_and_its_reason_is_told),
      T(test_after_a_failed_queue_pair_the_next_slot_uses_tcp),
      T(test_verbs_is_tried_again_when_the_pause_is_over),
      T(test_going_over_may_fail_in_any_way),
      T(test_who_insists_on_verbs_gets_a_few_tries_and_then_the_reason),
      T(test_a_program_that_insists_gets_a_new_queue_pair_for_a_failed_one),
      T(test_a_worker_without_rdma_is_unfit_for_a_program_that_insists),
      T(test_verbs_alone_never_goes_through_the_relay));
