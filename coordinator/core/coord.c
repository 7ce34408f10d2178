/*
 * Peers: joining, frames, signs of life, leaving.
 *
 * States of a peer: HEARD (from HELLO on) -> CLOSING (link->close was called:
 * refused, malformed frame, silent too long; nothing is sent to it or taken from
 * it any more) -> gone (coord_peer_gone, from either state). What it held is
 * cleaned up when it is gone, not before: the owner of the connection decides
 * when that is, and calls exactly once.
 */
#include "core.h"

#include <elf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "../../dsm/base/page.h"

#define SILENT_BEATS 5 /* heartbeats without a sign of life */
#define MAX_WORKER_SLOTS 65536
#define TICK_RUN (250 * DSM_MS)

#if defined(__x86_64__)
#define OUR_ARCH EM_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH EM_AARCH64
#endif

int
coord_create(const struct coord_params *p, struct coord **k_p)
{
	struct coord *k = calloc(1, sizeof(*k));

	if (k == NULL)
		return DSM_ENOMEM;
	k->params = *p;
	k->next_session = k->next_worker = 1;
	TAILQ_INIT(&k->peers);
	TAILQ_INIT(&k->workers);
	TAILQ_INIT(&k->sessions);
	TAILQ_INIT(&k->users);
	*k_p = k;
	return DSM_OK;
}

/* --- sending --- */

static void
peer_close(struct coord_peer *p, const char *reason)
{
	if (p->closing)
		return;
	p->closing = 1;
	snprintf(p->reason, sizeof(p->reason), "%s", reason);
	log_debug("closing %s: %s", p->name, reason);
	p->out->close(p->out, p->reason);
}

size_t
coord__peer_backlog(const struct coord_peer *p)
{
	return p->out->backlog != NULL ? p->out->backlog(p->out) : 0;
}

void
coord__peer_send(struct coord_peer *p, unsigned type, const void *body,
                 size_t len)
{
	const struct iovec iov = {(void *)(uintptr_t)body, len};

	char reason[100];

	if (p->closing)
		return;
	p->out->send(p->out, type, &iov, 1);
	if (coord__peer_backlog(p) <= COORD_DEAF)
		return;
	snprintf(reason, sizeof(reason),
	         "it does not take what is sent to it: %zu MiB wait",
	         coord__peer_backlog(p) >> 20);
	log_warn("%s: %s", p->name, reason);
	peer_close(p, reason);
}

void
coord__peer_send_buf(struct coord *k, struct coord_peer *p, unsigned type,
                     int err)
{
	if (err == DSM_OK)
		coord__peer_send(p, type, k->buf.ptr, k->buf.len);
	else
		peer_close(p, dsm__strerror(err));
	dsm__wbuf_reset(&k->buf);
}

/* Without k: also for a peer that never was one. */
static void
send_refuse(struct coord_link *out, int code, const char *text)
{
	const struct dsm_msg_refuse m = {(uint32_t)-code, dsm__str(text)};
	struct dsm_wbuf w = {0};
	struct iovec iov;

	if (dsm__encode_refuse(&w, &m) == DSM_OK) {
		iov = (struct iovec){w.ptr, w.len};
		out->send(out, DSM_MSG_REFUSE, &iov, 1);
	}
	dsm__wbuf_fini(&w);
}

int
coord__peer_refuse(struct coord_peer *p, int code, const char *fmt, ...)
{
	char text[COORD_REASON_MAX];
	va_list ap;

	if (p->closing)
		return code;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_warn("%s: %s", p->name, text);
	send_refuse(p->out, code, text);
	peer_close(p, text);
	return code;
}

/* --- joining --- */

static int
hello_check(const struct dsm_msg_hello *h, struct dsm_error *e)
{
	if (h->magic != DSM_MAGIC)
		return dsm__fail(e, DSM_EPROTO, "not a taskrt peer");
	if (h->version != DSM_VERSION)
		return dsm__fail(
		    e, DSM_EVERSION,
		    "protocol version %u, the coordinator speaks %u",
		    h->version, DSM_VERSION);
	if (h->page_size != DSM_PAGE)
		return dsm__fail(e, DSM_EINCOMPAT,
		                 "pages of %u bytes, %u are needed",
		                 h->page_size, (unsigned)DSM_PAGE);
	if (h->arch != OUR_ARCH)
		return dsm__fail(e, DSM_EINCOMPAT,
		                 "ELF machine %u, the coordinator's is %u",
		                 h->arch, OUR_ARCH);
	if (h->cpu.len > COORD_CPU_MAX)
		return dsm__fail(e, DSM_EPROTO, "too many CPU words");
	if (h->addr.len >= DSM_ADDR_MAX)
		return dsm__fail(e, DSM_EPROTO, "an address of %u bytes",
		                 h->addr.len);
	if (h->role == DSM_ROLE_WORKER &&
	    (h->n_slots == 0 || h->n_slots > MAX_WORKER_SLOTS))
		return dsm__fail(e, DSM_EPROTO, "a worker with %u slots",
		                 h->n_slots);
	if (h->role != DSM_ROLE_CLIENT && h->role != DSM_ROLE_WORKER &&
	    h->role != DSM_ROLE_TOOL)
		return dsm__fail(e, DSM_EPROTO, "role %u cannot join here",
		                 h->role);
	return DSM_OK;
}

static int
worker_create(struct coord *k, struct coord_peer *p,
              const struct dsm_msg_hello *h)
{
	struct worker_peer *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return DSM_ENOMEM;
	if (getrandom(w->key, sizeof(w->key), 0) != sizeof(w->key)) {
		free(w);
		return DSM_ESYS;
	}
	w->k = k;
	w->peer = p;
	w->id = k->next_worker++;
	dsm__str_copy(w->name, sizeof(w->name), h->name);
	w->n_slots = h->n_slots;
	memcpy(w->cpu, h->cpu.ptr != NULL ? h->cpu.ptr : w->cpu, h->cpu.len);
	w->cpu_len = h->cpu.len;
	TAILQ_INIT(&w->sessions);
	TAILQ_INSERT_TAIL(&k->workers, w, link);
	p->worker = w;
	return DSM_OK;
}

static void
send_welcome(struct coord *k, struct coord_peer *p)
{
	struct dsm_msg_welcome m = {
	    .version = DSM_VERSION,
	    .flags = (uint16_t)k->params.welcome_flags,
	    .heartbeat_ms = k->params.heartbeat_ms,
	};

	if (p->session != NULL) {
		m.session = p->session->id;
		m.key = (struct dsm_blob){p->session->key, DSM_KEY_LEN};
	} else if (p->worker != NULL) {
		m.session = p->worker->id;
		m.key = (struct dsm_blob){p->worker->key, DSM_KEY_LEN};
	}
	coord__peer_send_buf(k, p, DSM_MSG_WELCOME,
	                     dsm__encode_welcome(&k->buf, &m));
}

/* Tell the sessions of a new worker, or the workers of a new session. */
static int
meet_all(struct coord *k, struct coord_peer *p)
{
	struct session *s;
	struct worker_peer *w;
	int err = DSM_OK;

	if (p->worker != NULL)
		TAILQ_FOREACH(s, &k->sessions, link)
	if (err == DSM_OK)
		err = coord__session_meet(s, p->worker);
	if (p->session != NULL)
		TAILQ_FOREACH(w, &k->workers, link)
	if (err == DSM_OK)
		err = coord__session_meet(p->session, w);
	return err;
}

static int
is_key(const uint8_t key[DSM_KEY_LEN], struct dsm_blob shown)
{
	uint8_t differ = 0;

	/* All bytes, so that the time taken says nothing about the key. */
	for (size_t i = 0; i < DSM_KEY_LEN; i++)
		differ |= key[i] ^ shown.ptr[i];
	return differ == 0;
}

/*
 * A peer that joins again has given up the connection it had, perhaps before we
 * hear of that: what was given to it there goes elsewhere now, and not when its
 * silence has been long enough. It must show that connection's key.
 */
static void
end_predecessor(struct coord *k, const struct dsm_msg_hello *h)
{
	struct coord_peer *p;

	if (h->session == 0 || h->key.len != DSM_KEY_LEN)
		return;
	TAILQ_FOREACH(p, &k->peers, link)
	{
		if (p->role != h->role ||
		    !((p->session != NULL && p->session->id == h->session &&
		       is_key(p->session->key, h->key)) ||
		      (p->worker != NULL && p->worker->id == h->session &&
		       is_key(p->worker->key, h->key))))
			continue;
		log_info("%s has joined again, by another connection", p->name);
		peer_close(p, "it has joined again");
		return;
	}
}

/* Is that role the token's? */
static int
role_check(const struct dsm_msg_hello *h, const struct dsm_identity *who,
           struct dsm_error *e)
{
	if (who == NULL)
		return DSM_OK;
	if (h->role == DSM_ROLE_WORKER && !(who->roles & DSM_TOKEN_WORKER))
		return dsm__fail(e, DSM_EAUTH,
		                 "token %s is not for workers: that takes the "
		                 "word \"worker\" on its line of the "
		                 "coordinator's token file",
		                 who->name);
	if (h->role == DSM_ROLE_CLIENT && !(who->roles & DSM_TOKEN_CLIENT))
		return dsm__fail(e, DSM_EAUTH,
		                 "token %s is not for programs: that takes the "
		                 "word \"client\" on its line of the "
		                 "coordinator's token file",
		                 who->name);
	return DSM_OK;
}

int
coord_join(struct coord *k, const struct dsm_msg_hello *hello,
           const struct dsm_identity *who, const char *peer_name,
           struct coord_link *link, struct coord_peer **peer_p)
{
	struct coord_peer *p;
	struct dsm_error e;
	int err = hello_check(hello, &e);

	if (err == DSM_OK)
		err = role_check(hello, who, &e);
	*peer_p = NULL;
	if (err != DSM_OK) {
		log_warn("%s: refused: %s", peer_name, e.text);
		send_refuse(link, err, e.text);
		link->close(link, e.text);
		return err;
	}
	end_predecessor(k, hello);
	p = calloc(1, sizeof(*p));
	if (p == NULL)
		return DSM_ENOMEM;
	p->out = link;
	p->role = hello->role;
	if (who != NULL)
		p->who = *who;
	snprintf(p->name, sizeof(p->name), "%s", peer_name);
	TAILQ_INSERT_TAIL(&k->peers, p, link);
	if (p->role == DSM_ROLE_CLIENT)
		err = coord__session_create(k, p, hello, &p->session);
	else if (p->role == DSM_ROLE_WORKER)
		err = worker_create(k, p, hello);
	if (err == DSM_OK) {
		send_welcome(k, p);
		err = meet_all(k, p);
	}
	if (err != DSM_OK) {
		coord__peer_refuse(p, err, "%s", dsm__strerror(err));
		coord_peer_gone(k, p, k->now);
		return err;
	}
	log_info("%s %s%s%s joined",
	         p->worker != NULL    ? "worker"
	         : p->session != NULL ? "client"
	                              : "tool",
	         p->name, who != NULL ? " of " : "",
	         who != NULL ? who->name : "");
	coord__dispatch(k);
	*peer_p = p;
	return DSM_OK;
}

/* --- leaving --- */

static void
worker_gone(struct coord *k, struct coord_peer *p)
{
	struct worker_peer *w = p->worker;
	const char *reason =
	    p->reason[0] != '\0' ? p->reason : "its connection was lost";
	struct sworker *sw;

	while ((sw = TAILQ_FIRST(&w->sessions)) != NULL) {
		struct run *r = sw->session->run;

		if (r != NULL)
			coord__run_take_back(r, sw, 1, reason);
		coord__sworker_destroy(sw);
		if (r != NULL)
			coord__run_settle(r);
	}
	TAILQ_REMOVE(&k->workers, w, link);
	free(w);
}

void
coord_peer_gone(struct coord *k, struct coord_peer *peer, uint64_t now)
{
	k->now = now;
	log_debug("%s is gone", peer->name);
	peer->closing = 1; /* nothing may be sent to it below */
	if (peer->session != NULL)
		coord__session_destroy(peer->session);
	if (peer->worker != NULL)
		worker_gone(k, peer);
	TAILQ_REMOVE(&k->peers, peer, link);
	free(peer);
	coord__dispatch(k);
}

void
coord_destroy(struct coord *k)
{
	struct coord_peer *p;

	if (k == NULL)
		return;
	/* Links are the owners': they hear nothing of this. */
	TAILQ_FOREACH(p, &k->peers, link)
	p->closing = 1;
	while ((p = TAILQ_FIRST(&k->peers)) != NULL)
		coord_peer_gone(k, p, k->now);
	dsm__wbuf_fini(&k->buf);
	dsm__wbuf_fini(&k->raw);
	free(k);
}

/* --- frames --- */

static struct sworker *
find_sworker(const struct worker_peer *w, uint64_t session)
{
	struct sworker *sw;

	TAILQ_FOREACH(sw, &w->sessions, of_worker)
	if (sw->session->id == session)
		return sw;
	return NULL;
}

static int
on_link(struct worker_peer *w, const struct dsm_frame *f)
{
	struct dsm_msg_link m;
	struct sworker *sw;

	if (dsm__decode_link(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	sw = find_sworker(w, m.session);
	if (sw == NULL)
		return DSM_OK;
	sw->doubtful = 0; /* it has reached the client */
	dsm__str_copy(sw->transport, sizeof(sw->transport), m.transport);
	dsm__str_copy(sw->link_text, sizeof(sw->link_text), m.text);
	return DSM_OK;
}

static int
on_unfit(struct coord *k, struct worker_peer *w, const struct dsm_frame *f)
{
	char reason[COORD_REASON_MAX];
	struct dsm_msg_unfit m;
	struct sworker *sw;
	struct run *r;

	if (dsm__decode_unfit(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	sw = find_sworker(w, m.session);
	if (sw == NULL || sw->state != SWORKER_TOLD)
		return DSM_OK;
	r = sw->session->run;
	dsm__str_copy(reason, sizeof(reason), m.reason);
	coord__sworker_unfit(sw, reason);
	if (r != NULL) {
		coord__run_take_back(r, sw, 0, reason);
		coord__run_settle(r);
	}
	coord__dispatch(k);
	return DSM_OK;
}

static int
on_drain(struct coord *k, struct worker_peer *w, const struct dsm_frame *f)
{
	struct dsm_msg_drain m;

	if (dsm__decode_drain(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	coord__worker_drain(w);
	coord__worker_release(w);
	coord__dispatch(k);
	return DSM_OK;
}

static int
on_ping(struct coord *k, struct coord_peer *p, const struct dsm_frame *f)
{
	struct dsm_msg_ping ping;
	struct dsm_msg_pong pong;

	if (dsm__decode_ping(f->body, f->len, &ping) != DSM_OK)
		return DSM_EPROTO;
	pong.seq = ping.seq;
	coord__peer_send_buf(k, p, DSM_MSG_PONG,
	                     dsm__encode_pong(&k->buf, &pong));
	return DSM_OK;
}

static int
on_stat(struct coord *k, struct coord_peer *p, const struct dsm_frame *f)
{
	struct dsm_msg_stat_reply reply;
	struct dsm_msg_stat m;
	char *text;

	if (dsm__decode_stat(f->body, f->len, &m) != DSM_OK)
		return DSM_EPROTO;
	text =
	    coord_stat_json(k, p->who.name[0] != '\0' ? &p->who : NULL, k->now);
	if (text == NULL)
		return DSM_ENOMEM;
	reply.text = dsm__str(text);
	coord__peer_send_buf(k, p, DSM_MSG_STAT_REPLY,
	                     dsm__encode_stat_reply(&k->buf, &reply));
	free(text);
	return DSM_OK;
}

static int
on_frame(struct coord *k, struct coord_peer *p, const struct dsm_frame *f)
{
	struct dsm_msg_pong pong;

	switch (f->type) {
	case DSM_MSG_PING:
		return on_ping(k, p, f);
	case DSM_MSG_PONG:
		return dsm__decode_pong(f->body, f->len, &pong);
	case DSM_MSG_STAT:
		return on_stat(k, p, f);
	default:
		break;
	}
	if (p->session != NULL)
		switch (f->type) {
		case DSM_MSG_RUN:
			return coord__run_start(p->session, f);
		case DSM_MSG_STORED:
			return coord__run_stored(p->session, f);
		case DSM_MSG_CANCEL:
			return coord__run_cancel(p->session, f);
		case DSM_MSG_COSTS:
			return coord__session_costs(p->session, f);
		default:
			break;
		}
	if (p->worker != NULL)
		switch (f->type) {
		case DSM_MSG_DONE:
			return coord__run_done(k, p->worker, f);
		case DSM_MSG_MASKS:
			return coord__run_masks(k, p->worker, f);
		case DSM_MSG_FETCHED:
			return coord__run_fetched(k, p->worker, f);
		case DSM_MSG_RETURNED:
			return coord__run_returned(k, p->worker, f);
		case DSM_MSG_UNFIT:
			return on_unfit(k, p->worker, f);
		case DSM_MSG_LINK:
			return on_link(p->worker, f);
		case DSM_MSG_DRAIN:
			return on_drain(k, p->worker, f);
		default:
			break;
		}
	return DSM_EPROTO;
}

int
coord_frame(struct coord *k, struct coord_peer *peer, const struct dsm_frame *f,
            uint64_t now)
{
	int err;

	k->now = now;
	if (peer->closing)
		return DSM_EPROTO;
	peer->last_heard = now;
	if (peer->stopped)
		log_info("%s goes on", peer->name);
	peer->stopped = 0;
	err = on_frame(k, peer, f);
	/* No-op when a more precise refusal went out already. */
	if (err != DSM_OK)
		coord__peer_refuse(peer, err, "%s message: %s",
		                   dsm__msg_name(f->type), dsm__strerror(err));
	return err != DSM_OK ? DSM_EPROTO : DSM_OK;
}

/* --- time --- */

static uint64_t
earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/*
 * Is a silent peer gone? A client may be stopped, by Ctrl-Z or in a debugger: its
 * kernel acknowledges what we send, and its run waits for it. A worker that is
 * stopped is of no use; its tasks go elsewhere.
 */
static int
is_gone(const struct coord *k, struct coord_peer *p, uint64_t silent)
{
	uint64_t limit_ms = k->params.heartbeat_ms * (SILENT_BEATS - 1);

	if (p->session == NULL || silent > k->params.stopped_ms * DSM_MS ||
	    p->out->reachable == NULL || !p->out->reachable(p->out, limit_ms))
		return 1;
	if (!p->stopped)
		log_info("%s: silent, but its machine answers: stopped? It is "
		         "waited for",
		         p->name);
	p->stopped = 1;
	return 0;
}

/* Close it when silent, ping it when due. Returns when to look again. */
static uint64_t
peer_tick(struct coord *k, struct coord_peer *p, uint64_t now, int late)
{
	uint64_t beat = k->params.heartbeat_ms * DSM_MS;
	struct dsm_msg_ping ping;
	char reason[64];

	if (beat == 0 || p->closing)
		return DSM_FOREVER;
	if (p->last_heard == 0 || late)
		p->last_heard = now;
	if (now - p->last_heard > SILENT_BEATS * beat &&
	    is_gone(k, p, now - p->last_heard)) {
		snprintf(reason, sizeof(reason), "it was silent for %llu ms",
		         (unsigned long long)((now - p->last_heard) / DSM_MS));
		log_warn("%s: %s", p->name, reason);
		peer_close(p, reason);
		return DSM_FOREVER;
	}
	if (now >= p->next_ping) {
		ping.seq = ++p->ping_seq;
		p->next_ping = now + beat;
		/* One that is stopped has enough to answer already. */
		if (p->stopped)
			return p->next_ping;
		coord__peer_send_buf(k, p, DSM_MSG_PING,
		                     dsm__encode_ping(&k->buf, &ping));
	}
	return p->next_ping;
}

uint64_t
coord_tick(struct coord *k, uint64_t now)
{
	uint64_t next = DSM_FOREVER, beat = k->params.heartbeat_ms * DSM_MS;
	/* When we ourselves stood still, silence says nothing of the peers. */
	int late = k->last_tick != 0 && now - k->last_tick > 2 * beat + DSM_SEC;
	struct session *s;
	struct coord_peer *p;

	k->now = k->last_tick = now;
	TAILQ_FOREACH(p, &k->peers, link)
	next = earlier(next, peer_tick(k, p, now, late));
	TAILQ_FOREACH(s, &k->sessions, link)
	{
		if (s->run != NULL)
			next = earlier(next, coord__run_tick(s->run, now));
		/* The next RUN may come before the next tick. */
		next = earlier(next, now + TICK_RUN);
	}
	coord__dispatch(k);
	return earlier(next, coord__copies_tick(k, now));
}
