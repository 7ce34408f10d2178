/* The worker's ends: frames from the coordinator, messages to it, the spawner. */
#include "oom.h"
#include "worker_priv.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/cpuid.h"

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#endif

/* --- to the coordinator --- */

static void
send_body(struct worker *w, unsigned type, int err, struct dsm_wbuf *body)
{
	struct iovec iov = {body->ptr, body->len};

	if (err == DSM_OK)
		w->p.up->send(w->p.up, type, &iov, 1);
	else
		log_error("cannot send %s: %s", dsm__msg_name(type),
		          dsm__strerror(err));
	dsm__wbuf_fini(body);
}

void
worker_pass_on(struct worker *w, const struct dsm_frame *f)
{
	const struct iovec iov = {(void *)(uintptr_t)f->body, f->len};

	w->p.up->send(w->p.up, f->type, &iov, 1);
}

void
worker_send_failed(struct wsession *ss, const struct wexec *x,
                   const struct dsm_rec_failure *failure, const char *text)
{
	struct dsm_rec_failure rec = *failure;
	struct dsm_msg_done m = {
	    .session = ss->id, .run = x->run, .attempt = x->attempt};
	struct dsm_wbuf packed = {0}, body = {0};
	int err;

	rec.text_off = 0;
	rec.text_len = (uint32_t)strlen(text);
	err = dsm__pack_failure(&packed, &rec);
	m.failures = (struct dsm_array){packed.ptr, 1};
	m.texts = (struct dsm_blob){(const uint8_t *)text, rec.text_len};
	if (err == DSM_OK)
		err = dsm__encode_done(&body, &m);
	send_body(ss->w, DSM_MSG_DONE, err, &body);
	dsm__wbuf_fini(&packed);
}

void
worker_send_returned(struct worker *w, uint64_t session, const struct wexec *x,
                     uint64_t task, const char *reason)
{
	const struct dsm_msg_returned m = {.session = session,
	                                   .run = x->run,
	                                   .attempt = x->attempt,
	                                   .task = task,
	                                   .reason = dsm__str(reason)};
	struct dsm_wbuf body = {0};

	send_body(w, DSM_MSG_RETURNED, dsm__encode_returned(&body, &m), &body);
}

void
worker_send_unfit(struct wsession *ss, const char *reason)
{
	const struct dsm_msg_unfit m = {.session = ss->id,
	                                .reason = dsm__str(reason)};
	struct dsm_wbuf body = {0};

	send_body(ss->w, DSM_MSG_UNFIT, dsm__encode_unfit(&body, &m), &body);
}

void
worker_send_link(struct wsession *ss, const char *transport, const char *text)
{
	const struct dsm_msg_link m = {.session = ss->id,
	                               .transport = dsm__str(transport),
	                               .text = dsm__str(text)};
	struct dsm_wbuf body = {0};

	send_body(ss->w, DSM_MSG_LINK, dsm__encode_link(&body, &m), &body);
}

static void
send_pong(struct worker *w, uint64_t seq)
{
	const struct dsm_msg_pong m = {.seq = seq};
	struct dsm_wbuf body = {0};

	send_body(w, DSM_MSG_PONG, dsm__encode_pong(&body, &m), &body);
}

void
worker_fill_hello(const struct worker *w, struct dsm_msg_hello *h)
{
	size_t len;

	h->magic = DSM_MAGIC;
	h->version = DSM_VERSION;
	h->page_size = DSM_PAGE;
	h->arch = OUR_MACHINE;
	h->pid = (uint32_t)getpid();
	h->cpu.ptr = dsm__cpu_words(&len);
	h->cpu.len = (uint32_t)len;
	h->name = dsm__str(w->host);
}

void
worker_hello(const struct worker *w, struct dsm_msg_hello *h)
{
	*h = (struct dsm_msg_hello){.role = DSM_ROLE_WORKER,
	                            .n_slots = w->p.n_slots};
	worker_fill_hello(w, h);
}

unsigned
worker_busy(const struct worker *w)
{
	const struct wsession *ss;
	unsigned n = 0;

	LIST_FOREACH(ss, &w->sessions, link)
	for (unsigned i = 0; i < ss->n_slots; i++)
		n += ss->slots[i].n_out > 0;
	return n;
}

/* --- slot programs, spawner --- */

int
worker_image(struct worker *w, unsigned variant, int *fd_p, struct dsm_error *e)
{
	const void *elf;
	size_t len;
	int err;

	if (w->image_fd[variant] < 0) {
		err = w->p.slot_elf(variant, &elf, &len);
		if (err != DSM_OK)
			return dsm__fail(e, err,
			                 "this build has no slot program %c",
			                 'a' + (int)variant);
		err = spawn_image(elf, len, &w->image_fd[variant], e);
		if (err != DSM_OK)
			return err;
	}
	*fd_p = w->image_fd[variant];
	return DSM_OK;
}

/* There is room for more starts after each reply. */
static void
start_ready(struct worker *w)
{
	struct wsession *ss;

	LIST_FOREACH(ss, &w->sessions, link)
	for (unsigned i = 0; i < ss->n_slots; i++)
		if (ss->slots[i].state == WSLOT_READY)
			slot_spawn(&ss->slots[i]);
}

static void on_replies(void *arg);

static int
start_spawner(struct worker *w, struct dsm_error *e)
{
	struct spawner *sp;
	struct wpoll *poll;
	int err = spawner_create(&sp, e);

	if (err != DSM_OK)
		return err;
	err = wpoll_open(w->loop, spawner_fd(sp), UV_READABLE, on_replies, w,
	                 &poll);
	if (err != DSM_OK) {
		spawner_destroy(sp);
		return dsm__fail(e, err,
		                 "cannot watch the process that starts slots");
	}
	w->spawner = sp;
	w->spawner_poll = poll;
	return DSM_OK;
}

/*
 * Nobody is left to reap the slots, and one that was just being started is known to
 * nobody: it may still write into its session's image. So no session goes on with
 * the image that it has: the link to the coordinator is given up, whose tasks go
 * elsewhere, and a new one begins with a new keeper.
 */
static void
keeper_lost(struct worker *w)
{
	static const char why[] = "the process that starts slots was lost";
	struct spawner *old = w->spawner;
	struct dsm_error e = {0};
	struct wsession *ss;

	wpoll_close(w->spawner_poll);
	w->spawner_poll = NULL;
	LIST_FOREACH(ss, &w->sessions, link)
	for (unsigned i = 0; i < ss->n_slots; i++) {
		if (ss->slots[i].pidfd >= 0)
			spawn_kill(ss->slots[i].pidfd, SIGKILL);
		slot_clear(&ss->slots[i]);
	}
	/* With the old one every start fails, and says so. */
	if (start_spawner(w, &e) == DSM_OK)
		spawner_destroy(old);
	else
		log_error("%s", e.text);
	w->p.up->close(w->p.up, why);
}

static void
on_replies(void *arg)
{
	struct worker *w = arg;
	struct spawn_reply r;
	int err;

	while ((err = spawner_reply(w->spawner, &r)) == DSM_OK)
		slot_reply((struct wslot *)(uintptr_t)r.tag, &r);
	if (err == DSM_EAGAIN)
		start_ready(w);
	else
		keeper_lost(w);
}

/* --- frames from the coordinator --- */

static int
on_session(struct worker *w, const struct dsm_frame *f)
{
	struct dsm_msg_session m;
	int err = dsm__decode_session(f->body, f->len, &m);

	return err == DSM_OK ? session_open(w, &m) : err;
}

static int
on_session_end(struct worker *w, const struct dsm_frame *f)
{
	struct dsm_msg_session_end m;
	struct wsession *ss;

	if (dsm__decode_session_end(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	ss = session_find(w, m.session);
	if (ss != NULL)
		session_close(ss);
	return DSM_OK;
}

static int
on_run(struct worker *w, const struct dsm_frame *f)
{
	struct dsm_msg_run m;
	struct wsession *ss;

	if (dsm__decode_run(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	ss = session_find(w, m.session);
	return ss != NULL ? session_run(ss, f->body, f->len) : DSM_OK;
}

static int
on_exec(struct worker *w, const struct dsm_frame *f)
{
	struct dsm_msg_exec m;
	struct wsession *ss;

	if (dsm__decode_exec(f->body, f->len, &m) != DSM_OK || m.lo >= m.hi)
		return DSM_EPROTO;
	ss = session_find(w, m.session);
	if (ss != NULL)
		session_exec(ss, &(struct wexec){.run = m.run,
		                                 .attempt = m.attempt,
		                                 .lo = m.lo,
		                                 .hi = m.hi});
	else
		worker_send_returned(
		    w, m.session,
		    &(struct wexec){.run = m.run, .attempt = m.attempt},
		    NO_TASK, "no such session here");
	return DSM_OK;
}

static int
on_cancel(struct worker *w, const struct dsm_frame *f)
{
	struct dsm_msg_cancel m;
	struct wsession *ss;

	if (dsm__decode_cancel(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	ss = session_find(w, m.session);
	if (ss != NULL)
		session_cancel(ss, m.run);
	return DSM_OK;
}

static int
on_recall(struct worker *w, const struct dsm_frame *f)
{
	struct dsm_msg_recall m;
	struct wsession *ss;

	if (dsm__decode_recall(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	ss = session_find(w, m.session);
	if (ss != NULL)
		session_recall(ss, m.run, m.attempt);
	return DSM_OK;
}

static int
on_drain(struct worker *w, const struct dsm_frame *f)
{
	struct dsm_msg_drain m;

	if (dsm__decode_drain(f->body, f->len, &m) != DSM_OK || !w->draining)
		return DSM_EPROTO;
	if (w->p.drained != NULL)
		w->p.drained(w->p.drained_ctx);
	return DSM_OK;
}

void
worker_drain(struct worker *w)
{
	const struct dsm_msg_drain m = {.n_out = worker_busy(w)};
	struct dsm_wbuf body = {0};
	struct wsession *ss;

	if (w->draining)
		return;
	w->draining = 1;
	send_body(w, DSM_MSG_DRAIN, dsm__encode_drain(&body, &m), &body);
	LIST_FOREACH(ss, &w->sessions, link)
	session_drain(ss);
}

static int
on_ping(struct worker *w, const struct dsm_frame *f)
{
	struct dsm_msg_ping m;

	if (dsm__decode_ping(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	send_pong(w, m.seq);
	return DSM_OK;
}

static int
take_frame(struct worker *w, const struct dsm_frame *f)
{
	switch (f->type) {
	case DSM_MSG_SESSION:
		return on_session(w, f);
	case DSM_MSG_SESSION_END:
		return on_session_end(w, f);
	case DSM_MSG_RUN:
		return on_run(w, f);
	case DSM_MSG_EXEC:
		return on_exec(w, f);
	case DSM_MSG_CANCEL:
		return on_cancel(w, f);
	case DSM_MSG_RECALL:
		return on_recall(w, f);
	case DSM_MSG_DRAIN:
		return on_drain(w, f);
	case DSM_MSG_PING:
		return on_ping(w, f);
	case DSM_MSG_WELCOME:
	case DSM_MSG_PONG:
		return DSM_OK;
	default:
		return DSM_EPROTO;
	}
}

int
worker_frame(struct worker *w, const struct dsm_frame *f)
{
	char text[120];
	int err = take_frame(w, f);

	if (err == DSM_OK)
		return DSM_OK;
	snprintf(text, sizeof(text), "%s: %s", dsm__msg_name(f->type),
	         dsm__strerror(err));
	w->p.up->close(w->p.up, text);
	return err;
}

void
worker_up_lost(struct worker *w)
{
	struct wsession *ss, *next;

	for (ss = LIST_FIRST(&w->sessions); ss != NULL; ss = next) {
		next = LIST_NEXT(ss, link);
		if (ss->state != WSESSION_CLOSING)
			session_close(ss);
	}
}

/* --- life --- */

/* What a slot maps is private to it. With a descriptor of its own for reading it can
 * not be anything else. */
static int
open_heap(struct worker *w, struct dsm_error *e)
{
	char path[40];

	if (w->p.heap_fd < 0)
		return DSM_OK;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", w->p.heap_fd);
	w->heap_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (w->heap_fd < 0)
		return dsm__fail(e, DSM_ESYS,
		                 "cannot open the heap for slots: %s: %s", path,
		                 strerror(errno));
	return DSM_OK;
}

int
worker_create(struct dsm_loop *loop, const struct worker_params *p,
              struct worker **w_p, struct dsm_error *e)
{
	struct worker *w = calloc(1, sizeof(*w));
	int err;

	if (w == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	w->loop = loop;
	w->p = *p;
	w->p.relay = NULL;
	if (w->p.slot_elf == NULL)
		w->p.slot_elf = slot_elf;
	if (p->relay != NULL)
		snprintf(w->relay, sizeof(w->relay), "%s", p->relay);
	for (unsigned i = 0; i < SLOT_VARIANTS; i++)
		w->image_fd[i] = -1;
	LIST_INIT(&w->sessions);
	w->n_oom_kills = oom_kills("");
	if (gethostname(w->host, sizeof(w->host) - 1) != 0)
		snprintf(w->host, sizeof(w->host), "?");
	w->heap_fd = -1;
	err = open_heap(w, e);
	if (err == DSM_OK)
		err = start_spawner(w, e);
	if (err != DSM_OK && w->heap_fd >= 0)
		close(w->heap_fd);
	if (err != DSM_OK) {
		free(w);
		return err;
	}
	*w_p = w;
	return DSM_OK;
}

void
worker_destroy(struct worker *w)
{
	if (w == NULL)
		return;
	wtimer_close(w->memory_timer);
	wpoll_close(w->spawner_poll);
	spawner_destroy(w->spawner);
	/* The processes are gone, whatever their slots think. */
	while (!LIST_EMPTY(&w->sessions))
		session_free(LIST_FIRST(&w->sessions));
	for (unsigned i = 0; i < SLOT_VARIANTS; i++)
		if (w->image_fd[i] >= 0)
			close(w->image_fd[i]);
	if (w->heap_fd >= 0)
		close(w->heap_fd);
	free(w);
}
