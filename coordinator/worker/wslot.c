/*
 * The life of one slot process, from its descriptors to its exit status. States
 * are in worker_priv.h; slot_clear and set-by-name assignments below are the only
 * places that change them.
 *
 * A process has ended when its pidfd says so, not when its control stream closes:
 * only then is what it wrote there complete. So at its end the stream is first
 * read to the last frame, then the exit status is asked for, then its EXECs are
 * judged (fate.h).
 */
#include "fate.h"
#include "worker_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of an EXEC whose slot has ended and says that it had not begun it. */
#define REQUEUES_MAX 4

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void
slot_init(struct wslot *s, struct wsession *ss, uint32_t number)
{
	*s = (struct wslot){.ss = ss,
	                    .number = number,
	                    .data_fd = -1,
	                    .ctl_fd = -1,
	                    .stage_fd = -1,
	                    .control_fd = -1,
	                    .control_peer_fd = -1,
	                    .pidfd = -1};
}

int
slot_is_up(const struct wslot *s)
{
	return s->state == WSLOT_UP && s->control != NULL &&
	       s->kill_why == KILL_NOT;
}

/* Once the process has its copies. */
static void
close_passed_fds(struct wslot *s)
{
	close_fd(&s->data_fd);
	close_fd(&s->stage_fd);
	close_fd(&s->control_peer_fd);
}

void
slot_clear(struct wslot *s)
{
	dial_cancel(s->dial);
	s->dial = NULL;
	wtimer_close(s->retry);
	s->retry = NULL;
	wpoll_close(s->exit_poll);
	s->exit_poll = NULL;
	if (s->control != NULL)
		dsm__handle_close(s->control);
	s->control = NULL;
	close_passed_fds(s);
	close_fd(&s->control_fd);
	close_fd(&s->pidfd);
	s->pid = 0;
	s->kill_why = KILL_NOT;
	s->n_out = 0;
	s->told_run = s->told_table = 0;
	s->recalled = 0;
	s->seen = 0;
	s->stopped = 0;
	s->idled = 0;
	s->verbs = s->connected = 0;
	dsm__wbuf_reset(&s->wrote);
	s->state = WSLOT_NONE;
}

/* --- start --- */

/* Sealed: who maps it is not to find it shorter one day (SIGBUS). */
static int
memory_file(const char *name, uint64_t size, int *fd_p)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)size) != 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) !=
	        0) {
		close_fd(&fd);
		return DSM_ESYS;
	}
	*fd_p = fd;
	return DSM_OK;
}

/*
 * The control page is made once and handed on to the slot's later processes.
 */
static int
open_ctl(struct wslot *s)
{
	void *p;
	int err;

	if (s->ctl == NULL) {
		err = memory_file("taskrt-slotctl", DSM_PAGE, &s->ctl_fd);
		if (err != DSM_OK)
			return err;
		p = mmap(NULL, DSM_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		         s->ctl_fd, 0);
		if (p == MAP_FAILED) {
			close_fd(&s->ctl_fd);
			return DSM_ENOMEM;
		}
		s->ctl = p;
	}
	atomic_store(&s->ctl->state, SLOT_IDLE);
	atomic_store(&s->ctl->fetching, 0);
	atomic_store(&s->ctl->attempt, UINT64_MAX); /* none begun */
	for (int i = 0; i < 2; i++)
		atomic_store(&s->ctl->claim_n[i], 0);
	s->ctl->message[0] = '\0';
	s->ctl->fabric_failed = 0;
	s->ctl->tls = (struct dsm_tls_state){0};
	s->ctl->force_segv = (uint32_t)s->ss->w->p.force_segv;
	s->ctl->must_keep = (uint32_t)s->ss->keeps;
	atomic_store(&s->ctl->can_keep, 0);
	atomic_store(&s->ctl->can_evict, 0);
	atomic_store(&s->ctl->holds, 0);
	atomic_store(&s->ctl->evicting, 0);
	atomic_store(&s->ctl->all_stale, 0);
	atomic_store(&s->ctl->n_let_go, atomic_load(&s->ctl->n_stale));
	s->ctl->no_sandbox = (uint32_t)s->ss->w->p.sandbox.off;
	return DSM_OK;
}

void
slot_add_stale(struct wslot *s, uint64_t start, uint64_t n_pages)
{
	uint64_t n, room;
	struct slot_extent *x;

	if (s->state == WSLOT_NONE || s->ctl == NULL)
		return;
	n = atomic_load(&s->ctl->n_stale);
	/* The slot counts: whatever it says, nothing of ours depends on it. */
	room = SLOT_STALE - (n - atomic_load_explicit(&s->ctl->n_let_go,
	                                              memory_order_acquire));
	if (room == 0 || room > SLOT_STALE) {
		atomic_store(&s->ctl->all_stale, 1);
		return;
	}
	x = &s->ctl->stale[n % SLOT_STALE];
	atomic_store(&x->start, start);
	atomic_store(&x->n_pages, n_pages);
	atomic_store_explicit(&s->ctl->n_stale, n + 1, memory_order_release);
}

int
slot_can_keep(const struct wslot *s)
{
	return s->state == WSLOT_NONE ||
	       (s->ctl != NULL && atomic_load(&s->ctl->can_keep) != 0);
}

void
slot_fini(struct wslot *s)
{
	slot_clear(s);
	if (s->ctl != NULL)
		munmap(s->ctl, DSM_PAGE);
	s->ctl = NULL;
	close_fd(&s->ctl_fd);
	dsm__wbuf_fini(&s->wrote);
}

static int
open_files(struct wslot *s)
{
	int pair[2];
	int err = open_ctl(s);

	if (err != DSM_OK)
		return err;
	if (s->ss->w->p.local_data != NULL) {
		err = memory_file("taskrt-stage", STAGE_SIZE, &s->stage_fd);
		if (err != DSM_OK)
			return err;
	}
	err = dsm__shm_pair(pair);
	if (err == DSM_OK) {
		s->control_fd = pair[0];
		s->control_peer_fd = pair[1];
	}
	return err;
}

static void
on_retry(void *arg)
{
	struct wslot *s = arg;

	wtimer_close(s->retry);
	s->retry = NULL;
	slot_start(s);
}

static void
retry_later(struct wslot *s)
{
	if (wtimer_open(s->ss->w->loop, on_retry, s, &s->retry) == DSM_OK)
		wtimer_start(s->retry, SLOT_RETRY_MS, 0);
	else
		session_unfit(s->ss, "out of memory");
}

/* Before there was a process. */
static void
start_failed(struct wslot *s, const char *why)
{
	slot_clear(s);
	if (++s->n_failed_starts >= SLOT_START_TRIES) {
		session_unfit(s->ss, why);
		return;
	}
	log_warn("slot %u of session %llu did not start: %s", s->number,
	         ULL(s->ss->id), why);
	retry_later(s);
}

static void
on_dialled(void *arg, const struct dialled *d)
{
	struct wslot *s = arg;
	char text[700];

	s->dial = NULL;
	if (d->fd >= 0) {
		s->n_failed_dials = 0;
		s->data_fd = d->fd;
		s->verbs = d->verbs;
		s->ctl->tls = d->tls;
		s->state = WSLOT_READY;
		slot_spawn(s);
		return;
	}
	slot_clear(s);
	if (d->hopeless) {
		session_unfit(s->ss, d->why);
		return;
	}
	/* A client that is stopped (Ctrl-Z, a debugger) may go on some time;
	 * when it has been long enough, the coordinator ends the session. */
	if (d->silent || ++s->n_failed_dials < SLOT_DIAL_TRIES) {
		log_debug("slot %u of session %llu cannot reach its client: %s",
		          s->number, ULL(s->ss->id), d->why);
		retry_later(s);
		return;
	}
	snprintf(text, sizeof(text), "cannot reach the client: %s", d->why);
	session_unfit(s->ss, text);
}

void
slot_start(struct wslot *s)
{
	struct worker *w = s->ss->w;
	int err;

	err = open_files(s);
	if (err == DSM_OK && w->p.local_data == NULL) {
		err = dial_start(s->ss, on_dialled, s, &s->dial);
		if (err == DSM_OK)
			s->state = WSLOT_DIALLING;
	} else if (err == DSM_OK) {
		err = w->p.local_data(w->p.local_ctx, s->number, s->stage_fd,
		                      &s->data_fd);
		if (err == DSM_OK)
			s->state = WSLOT_READY;
	}
	if (err != DSM_OK)
		start_failed(s, err == DSM_ESYS ? strerror(errno)
		                                : dsm__strerror(err));
	else if (s->state == WSLOT_READY)
		slot_spawn(s);
}

static const char *
transport_arg(const struct wslot *s)
{
	if (s->ss->w->p.local_data != NULL)
		return "shm";
	if (!s->verbs)
		return "tcp";
	return link_insists(s->ss) ? "verbs-only" : "verbs";
}

void
slot_spawn(struct wslot *s)
{
	struct wsession *ss = s->ss;
	struct worker *w = ss->w;
	char number[16], session[24];
	struct dsm_error e = {0};
	struct spawn_request r = {.tag = (uintptr_t)s,
	                          .args = {"taskrt-slot", number, session,
	                                   transport_arg(s),
	                                   s->verbs ? w->p.verbs.choice : NULL},
	                          .rights = {.none = !w->p.sandbox.off,
	                                     .uid = w->p.sandbox.uid,
	                                     .gid = w->p.sandbox.gid,
	                                     .locks_memory = s->verbs}};
	int err;

	snprintf(number, sizeof(number), "%u", s->number);
	snprintf(session, sizeof(session), "%llu", ULL(ss->id));
	err = worker_image(w, ss->variant, &r.image_fd, &e);
	if (err != DSM_OK) {
		start_failed(s, e.text);
		return;
	}
	r.fds[SLOT_FD_CONTROL - SPAWN_FIRST_FD] = s->control_peer_fd;
	r.fds[SLOT_FD_DATA - SPAWN_FIRST_FD] = s->data_fd;
	r.fds[SLOT_FD_PAGES - SPAWN_FIRST_FD] = ss->image.pages_fd;
	r.fds[SLOT_FD_STATES - SPAWN_FIRST_FD] = ss->image.states_fd;
	r.fds[SLOT_FD_CTL - SPAWN_FIRST_FD] = s->ctl_fd;
	r.fds[SLOT_FD_HEAP - SPAWN_FIRST_FD] =
	    w->p.local_data != NULL ? w->heap_fd : -1;
	r.fds[SLOT_FD_STAGE - SPAWN_FIRST_FD] = s->stage_fd;
	err = spawner_start(w->spawner, &r);
	if (err == DSM_EAGAIN)
		return; /* stays READY: asked again after the next reply */
	if (err != DSM_OK) {
		start_failed(s, dsm__strerror(err));
		return;
	}
	s->variant = ss->variant;
	s->state = WSLOT_SPAWNING;
	close_passed_fds(s);
}

/* --- while it lives --- */

static void
nonsense(struct wslot *s, const struct dsm_frame *f)
{
	log_warn("slot %u of session %llu sent nonsense (%s)", s->number,
	         ULL(s->ss->id), dsm__msg_name(f->type));
	slot_kill(s, KILL_NONSENSE);
}

static void
slot_masks(struct wslot *s, const struct dsm_frame *f)
{
	struct dsm_msg_masks m;

	if (dsm__decode_masks(f->body, f->len, &m) != DSM_OK || s->n_out == 0 ||
	    m.session != s->ss->id || m.run != s->out[0].run ||
	    m.attempt != s->out[0].attempt)
		nonsense(s, f);
	else if (s->ss->state != WSESSION_CLOSING)
		worker_pass_on(s->ss->w, f);
}

static void
slot_fetched(struct wslot *s, const struct dsm_frame *f)
{
	struct dsm_msg_fetched m;

	if (dsm__decode_fetched(f->body, f->len, &m) != DSM_OK ||
	    dsm__places_check(&m.places) != DSM_OK || s->n_out == 0 ||
	    m.session != s->ss->id || m.run != s->out[0].run ||
	    m.attempt != s->out[0].attempt)
		nonsense(s, f);
	else if (s->ss->state != WSESSION_CLOSING)
		worker_pass_on(s->ss->w, f);
}

static void
slot_link(struct wslot *s, const struct dsm_frame *f)
{
	char transport[sizeof(s->ss->way.transport)];
	char text[sizeof(s->ss->way.text)];
	struct dsm_msg_link m;

	if (dsm__decode_link(f->body, f->len, &m) != DSM_OK || !s->verbs ||
	    s->connected) {
		nonsense(s, f);
		return;
	}
	s->connected = 1;
	dsm__str_copy(transport, sizeof(transport), m.transport);
	dsm__str_copy(text, sizeof(text), m.text);
	/* It was to use verbs, and there it is, or why it is not. */
	link_is(s->ss, transport, text, strcmp(transport, "verbs") != 0);
}

/* What a slot has begun it can only be made to leave by its end; the other EXEC it
 * has goes to another slot. One that it will begin later is ended then. */
static void
end_recalled(struct wslot *s)
{
	if (s->n_out > 0 && s->recalled != 0 &&
	    s->out[0].attempt == s->recalled)
		slot_kill(s, KILL_RECALL);
}

static void
slot_done(struct wslot *s, const struct dsm_frame *f)
{
	struct dsm_msg_done m;

	if (f->type != DSM_MSG_DONE ||
	    dsm__decode_done(f->body, f->len, &m) != DSM_OK || s->n_out == 0 ||
	    m.session != s->ss->id || m.run != s->out[0].run ||
	    m.attempt != s->out[0].attempt) {
		nonsense(s, f);
		return;
	}
	if (s->ss->state != WSESSION_CLOSING)
		worker_pass_on(s->ss->w, f);
	if (m.n_bytes > 0)
		dsm__wbuf_put(&s->wrote, &m.attempt, sizeof(m.attempt));
	s->out[0] = s->out[1];
	s->n_out--;
	s->n_failed_starts = 0;
	s->seen = 0;
	s->idled = 0;
	s->stamp = ++s->ss->w->clock;
	end_recalled(s);
}

static void
slot_frame(struct wslot *s, const struct dsm_frame *f)
{
	if (f->type == DSM_MSG_LINK)
		slot_link(s, f);
	else if (f->type == DSM_MSG_MASKS)
		slot_masks(s, f);
	else if (f->type == DSM_MSG_FETCHED)
		slot_fetched(s, f);
	else
		slot_done(s, f);
}

static void
on_frame(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct wslot *s = owner;

	(void)h;
	if (s->kill_why == KILL_NONSENSE)
		return;
	slot_frame(s, f);
	session_settle(s->ss);
}

/* It ends, or has lost its mind: no sane slot closes this stream while alive. */
static void
on_control_lost(void *owner, struct dsm_handle *h, int err)
{
	struct wslot *s = owner;

	s->control = NULL;
	dsm__handle_close(h);
	slot_kill(s, err == DSM_EPROTO ? KILL_NONSENSE : KILL_CLOSED);
}

static const struct dsm_handle_ops control_ops = {
    .frame = on_frame,
    .lost = on_control_lost,
};

static void
send_frame(struct wslot *s, unsigned type, const struct dsm_wbuf *body)
{
	struct iovec iov = {body->ptr, body->len};

	/* A failure shows in on_control_lost or at the process's end. */
	dsm__handle_send(s->control, type, 0, &iov, 1);
}

void
slot_send_run(struct wslot *s)
{
	struct wsession *ss = s->ss;

	if (s->told_run == ss->run)
		return;
	send_frame(s, DSM_MSG_RUN,
	           s->told_table == ss->table ? &ss->run_short : &ss->run_full);
	s->told_run = ss->run;
	s->told_table = ss->table;
}

void
slot_exec(struct wslot *s, const struct wexec *x)
{
	const struct dsm_msg_exec m = {.session = s->ss->id,
	                               .run = x->run,
	                               .attempt = x->attempt,
	                               .lo = x->lo,
	                               .hi = x->hi};
	struct dsm_wbuf body = {0};

	slot_send_run(s);
	s->out[s->n_out++] = *x;
	s->stamp = ++s->ss->w->clock;
	if (dsm__encode_exec(&body, &m) == DSM_OK)
		send_frame(s, DSM_MSG_EXEC, &body);
	else
		slot_kill(s, KILL_NONSENSE); /* no memory: its EXECs go back */
	dsm__wbuf_fini(&body);
	watch_wake(s->ss);
}

void
slot_kill(struct wslot *s, enum kill_why why)
{
	switch (s->state) {
	case WSLOT_NONE:
	case WSLOT_DIALLING:
	case WSLOT_READY:
		slot_clear(s);
		break;
	case WSLOT_SPAWNING:
	case WSLOT_UP:
	case WSLOT_REAPING:
		if (s->kill_why == KILL_NOT)
			s->kill_why = why;
		/* One that is exiting keeps its own status. */
		if (s->pidfd >= 0)
			spawn_kill(s->pidfd, SIGKILL);
		break;
	}
}

void
slot_recall(struct wslot *s, uint64_t attempt)
{
	for (unsigned i = 0; i < s->n_out; i++)
		if (s->out[i].attempt == attempt)
			s->recalled = attempt;
	end_recalled(s);
}

/* --- end --- */

/* Answer for its EXECs. */
static void
settle_execs(struct wslot *s, const struct fate *f)
{
	struct wsession *ss = s->ss;
	int drop = s->kill_why == KILL_CANCEL || s->kill_why == KILL_CLOSING;
	unsigned begun = f->begun ? 1 : 0;

	if (begun && f->fails != 0) {
		const struct dsm_rec_failure failure = {
		    .task = slot_task_at(s),
		    .kind = (uint32_t)f->fails,
		    .signal = (uint32_t)f->signal};

		worker_send_failed(ss, &s->out[0], &failure, f->text);
	} else if (begun) {
		worker_send_returned(ss->w, ss->id, &s->out[0],
		                     f->runs ? slot_task_at(s) : NO_TASK,
		                     f->text);
	}
	/* To the head of the queue, so last first. That the first one was not
	 * begun says the slot alone: it is believed a few times. */
	if (begun == 0)
		s->out[0].n_requeued++;
	for (unsigned i = s->n_out; i-- > begun;)
		if (s->recalled != 0 && s->out[i].attempt == s->recalled)
			; /* nobody waits for it */
		else if (drop || s->out[i].n_requeued > REQUEUES_MAX)
			worker_send_returned(ss->w, ss->id, &s->out[i],
			                     drop ? NO_TASK : slot_task_at(s),
			                     f->text);
		else
			session_requeue(ss, &s->out[i]);
	s->n_out = 0;
}

/* Write sets that may not have reached the client; for those that have arrived the
 * coordinator ignores this. Of one that has ended orderly they are sent, but that is
 * all that is known: nobody is there any more to see that the link broke. */
static void
return_written(struct wslot *s, int status, const char *reason)
{
	struct wsession *ss = s->ss;
	struct wexec x = {.run = ss->run};

	if (s->kill_why == KILL_CANCEL || s->kill_why == KILL_CLOSING)
		return;
	if (WIFEXITED(status) && (WEXITSTATUS(status) == SLOT_EXIT_CRASHED ||
	                          WEXITSTATUS(status) == SLOT_EXIT_OK))
		reason = ""; /* no task is to blame */
	for (size_t at = 0; at < s->wrote.len; at += sizeof(x.attempt)) {
		memcpy(&x.attempt, s->wrote.ptr + at, sizeof(x.attempt));
		worker_send_returned(ss->w, ss->id, &x, NO_TASK, reason);
	}
}

static void
reclaim(struct wslot *s)
{
	for (int i = 0; i < 2; i++) {
		uint64_t off = atomic_load(&s->ctl->claim_off[i]);
		uint64_t n = atomic_load(&s->ctl->claim_n[i]);

		if (n > DSM_READ_MAX)
			n = DSM_READ_MAX;
		if (n > 0 && (off & DSM_PAGE_MASK) == 0 &&
		    off <= DSM_IMAGE_SIZE - n * DSM_PAGE)
			dsm__image_reclaim(&s->ss->image, off, n, s->number);
	}
}

static void
collided(struct wslot *s, const char *why)
{
	struct wsession *ss = s->ss;

	ss->collided |= 1u << s->variant;
	if (ss->collided == (1u << SLOT_VARIANTS) - 1) {
		session_unfit(ss, why);
		return;
	}
	while (ss->collided & (1u << ss->variant))
		ss->variant = (ss->variant + 1) % SLOT_VARIANTS;
}

static void
slot_ended(struct wslot *s, int status)
{
	struct wsession *ss = s->ss;
	struct fate f;

	slot_judge(s, status, &f);
	log_debug("slot %u of session %llu ended, status %#x: %s", s->number,
	          ULL(ss->id), status, f.text);
	if (ss->state != WSESSION_CLOSING) {
		return_written(s, status, f.text);
		settle_execs(s, &f);
	}
	reclaim(s);
	slot_clear(s);
	if (f.fabric && ss->state == WSESSION_OPEN)
		link_failed(ss, f.text);
	if (f.bad_start && ++s->n_failed_starts >= SLOT_START_TRIES)
		session_unfit(ss, f.text);
	else if (WIFEXITED(status) && WEXITSTATUS(status) == SLOT_EXIT_COLLIDES)
		collided(s, f.text);
	/* Without its client an idle slot ends. That may be the program's end, of
	 * which the coordinator will tell us soon. */
	if (ss->state == WSESSION_OPEN && !f.begun && WIFEXITED(status) &&
	    WEXITSTATUS(status) == SLOT_EXIT_DATA)
		retry_later(s);
	else if (ss->state == WSESSION_OPEN)
		slot_start(s);
	session_settle(ss);
}

/* The process has ended: read what it still said, ask for its status. */
static void
on_exit_ready(void *arg)
{
	struct wslot *s = arg;
	struct dsm_frame f;

	wpoll_close(s->exit_poll);
	s->exit_poll = NULL;
	if (s->control != NULL) {
		struct dsm_conn *conn = dsm__handle_detach(s->control);

		s->control = NULL;
		while (s->kill_why != KILL_NONSENSE &&
		       dsm__conn_recv(conn, &f) == DSM_OK)
			slot_frame(s, &f);
		dsm__conn_close(conn);
	}
	s->state = WSLOT_REAPING;
	/* A failure means the keeper is gone; worker.c sees that. */
	spawner_reap(s->ss->w->spawner, s->pid, (uintptr_t)s);
}

/* --- replies of the spawner --- */

static int
attach(struct wslot *s)
{
	struct dsm_loop *l = s->ss->w->loop;
	struct dsm_conn *conn;
	int fd = s->control_fd;
	int err;

	s->control_fd = -1;
	err = dsm__conn_create(&dsm__shm_ops, fd, DSM_FRAME_MAX, &conn);
	if (err != DSM_OK)
		return err;
	err = dsm__loop_attach(l, conn, &control_ops, s, &s->control);
	if (err != DSM_OK)
		dsm__conn_close(conn);
	return err;
}

static void
slot_started(struct wslot *s, const struct spawn_reply *r)
{
	char why[sizeof(s->ss->way.text)];
	int err;

	s->pid = r->pid;
	s->pidfd = r->pidfd;
	s->state = WSLOT_UP;
	err = wpoll_open(s->ss->w->loop, s->pidfd, UV_READABLE, on_exit_ready,
	                 s, &s->exit_poll);
	if (err != DSM_OK) {
		/* Nothing will tell us when it ends: wait for that here. */
		spawn_kill(s->pidfd, SIGKILL);
		s->state = WSLOT_REAPING;
		spawner_reap(s->ss->w->spawner, s->pid, (uintptr_t)s);
		return;
	}
	if (s->kill_why != KILL_NOT || attach(s) != DSM_OK) {
		slot_kill(s, KILL_NONSENSE);
		return;
	}
	log_debug("slot %u of session %llu is process %d", s->number,
	          ULL(s->ss->id), (int)s->pid);
	if (!s->verbs && s->ss->w->p.local_data == NULL)
		link_is(s->ss, s->ss->w->p.tls ? "tls" : "tcp",
		        link_why_tcp(s->ss, why, sizeof(why)), 0);
	/* The first table takes the slot long: before there is work. */
	if (s->ss->run != 0)
		slot_send_run(s);
	session_settle(s->ss);
}

void
slot_reply(struct wslot *s, const struct spawn_reply *r)
{
	char text[200];

	switch (r->kind) {
	case SPAWN_STARTED:
		slot_started(s, r);
		break;
	case SPAWN_FAILED:
		snprintf(text, sizeof(text),
		         "cannot start a slot process: "
		         "%s: %s",
		         r->step, strerror(r->error));
		if (s->kill_why != KILL_NOT) {
			slot_clear(s);
			session_settle(s->ss);
		} else {
			start_failed(s, text);
		}
		break;
	case SPAWN_REAPED:
		slot_ended(s, r->status);
		break;
	}
}
