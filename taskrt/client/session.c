/* A session: its life, and the coordinator's frames. */
#include "session.h"

#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/cpuid.h"
#include "../../dsm/base/log.h"
#include "../../dsm/base/secret.h"
#include "../../dsm/heap/map.h"
#include "rdma.h"
#include "run.h"
#include "serveconn.h"

/* Waking a sleeping thread costs about 70 us (on another core): spin as long. */
#define SPIN_NS (100 * DSM_US)
#define RETRY_MS 100  /* between two attempts to join */
#define CLOSE_MS 5000 /* for uv handles to close: they need no peer */

#if defined(__x86_64__)
#define OUR_ARCH EM_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH EM_AARCH64
#endif

void
taskrt__session_hello(struct dsm_msg_hello *m, enum dsm_role role,
                      const char *addr)
{
	size_t cpu_len;
	const uint8_t *cpu = dsm__cpu_words(&cpu_len);

	*m = (struct dsm_msg_hello){
	    .magic = DSM_MAGIC,
	    .version = DSM_VERSION,
	    .role = (uint16_t)role,
	    .page_size = DSM_PAGE,
	    .arch = OUR_ARCH,
	    .pid = (uint32_t)getpid(),
	    .cpu = {cpu, (uint32_t)cpu_len},
	    .name = dsm__str(program_invocation_short_name),
	    .addr = dsm__str(addr),
	};
}

void
taskrt__session_send(struct taskrt__session *s, unsigned type,
                     struct dsm_wbuf *w, int encode_err)
{
	struct iovec iov = {w->ptr, w->len};

	if (encode_err != DSM_OK)
		taskrt__session_lose(s, encode_err, "cannot send %s: %s",
		                     dsm__msg_name(type),
		                     dsm__strerror(encode_err));
	else if (s->state != TASKRT__LOST)
		s->link->send(s, type, &iov, 1);
	dsm__wbuf_fini(w);
}

void
taskrt__session_lose(struct taskrt__session *s, int code, const char *fmt, ...)
{
	va_list ap;

	if (s->state == TASKRT__LOST)
		return;
	s->state = TASKRT__LOST;
	s->why.code = code;
	va_start(ap, fmt);
	vsnprintf(s->why.text, sizeof(s->why.text), fmt, ap);
	va_end(ap);
	log_debug("session %llu: %s", (unsigned long long)s->id, s->why.text);
	if (s->run != NULL)
		taskrt__run_end(s->run, &s->why);
	dsm__loop_kick(s->loop);
}

int
taskrt__session_suspend(struct taskrt__session *s)
{
	if (s->state != TASKRT__READY || s->run == NULL ||
	    s->config->reconnect_ms == 0 || !taskrt__run_may_resume(s->run))
		return 0;
	s->state = TASKRT__REJOINING;
	taskrt__serveconn_close_all(s);
	taskrt__listener_stop(s);
	return 1;
}

/* --- the coordinator's frames --- */

static int
on_welcome(struct taskrt__session *s, const uint8_t *body, uint32_t len)
{
	struct dsm_msg_welcome m;
	int err = dsm__decode_welcome(body, len, &m);

	if (err != DSM_OK || m.key.len > TASKRT__KEY_MAX ||
	    (s->state != TASKRT__JOINING && s->state != TASKRT__REJOINING))
		return DSM_EPROTO;
	if (m.version != DSM_VERSION)
		return DSM_EVERSION;
	s->id = m.session;
	memcpy(s->key, m.key.ptr, m.key.len);
	s->key_len = m.key.len;
	/* The message's memory is like any other: tasks are served it. */
	dsm__wipe((void *)(uintptr_t)m.key.ptr, m.key.len);
	s->welcome_flags = m.flags;
	s->heartbeat_ms = m.heartbeat_ms;
	s->state = TASKRT__READY;
	s->link->welcomed(s);
	/* It was launched in another session. */
	if (s->run != NULL)
		taskrt__run_resubmit(s->run);
	return DSM_OK;
}

static int
on_refuse(struct taskrt__session *s, const uint8_t *body, uint32_t len)
{
	struct dsm_msg_refuse m;
	int err = dsm__decode_refuse(body, len, &m);
	int code = DSM_ECONN;

	if (err != DSM_OK)
		return err;
	if (m.code > 0 && m.code < 1000)
		code = -(int)m.code;
	taskrt__session_lose(s, code,
	                     "the coordinator refuses this program: %.*s",
	                     (int)m.text.len, m.text.ptr);
	return DSM_OK;
}

static int
on_ping(struct taskrt__session *s, const uint8_t *body, uint32_t len)
{
	struct dsm_msg_ping m;
	struct dsm_msg_pong reply;
	struct dsm_wbuf w = {0};
	int err = dsm__decode_ping(body, len, &m);

	if (err != DSM_OK)
		return err;
	reply.seq = m.seq;
	taskrt__session_send(s, DSM_MSG_PONG, &w, dsm__encode_pong(&w, &reply));
	return DSM_OK;
}

static int
on_relay(struct taskrt__session *s, const uint8_t *body, uint32_t len)
{
	struct dsm_msg_relay m;
	int err = dsm__decode_relay(body, len, &m);

	if (err == DSM_OK && s->link->relay != NULL)
		s->link->relay(s, m.id);
	return err;
}

static int
on_progress(struct taskrt__session *s, const uint8_t *body, uint32_t len)
{
	struct dsm_msg_progress m;
	int err = dsm__decode_progress(body, len, &m);

	if (err == DSM_OK && s->run != NULL && s->run->id == m.run)
		taskrt__run_progress(s->run, &m);
	return err;
}

static int
on_fetched(struct taskrt__session *s, const uint8_t *body, uint32_t len)
{
	struct dsm_msg_fetched m;
	int err = dsm__decode_fetched(body, len, &m);

	if (err == DSM_OK)
		err = dsm__places_check(&m.places);
	if (err == DSM_OK && s->run != NULL && s->run->id == m.run)
		taskrt__run_fetched(s->run, &m.places);
	return err;
}

static int
on_forget(struct taskrt__session *s, const uint8_t *body, uint32_t len)
{
	struct dsm_msg_forget m;
	int err = dsm__decode_forget(body, len, &m);

	if (err == DSM_OK && s->run != NULL && s->run->id == m.run)
		taskrt__run_forget_attempt(s->run, m.attempt);
	return err;
}

/* A verdict on a run that has ended otherwise (cancelled here) is late. */
static int
on_verdict(struct taskrt__session *s, const uint8_t *body, uint32_t len)
{
	struct dsm_msg_verdict m;
	int err = dsm__decode_verdict(body, len, &m);

	if (err == DSM_OK && s->run != NULL && s->run->id == m.run)
		err = taskrt__run_verdict(s->run, body, len);
	return err;
}

void
taskrt__session_frame(struct taskrt__session *s, unsigned type,
                      const uint8_t *body, uint32_t len)
{
	int err = DSM_OK;

	if (s->state == TASKRT__LOST)
		return;
	switch (type) {
	case DSM_MSG_WELCOME:
		err = on_welcome(s, body, len);
		break;
	case DSM_MSG_REFUSE:
		err = on_refuse(s, body, len);
		break;
	case DSM_MSG_PING:
		err = on_ping(s, body, len);
		break;
	case DSM_MSG_PONG:
		break;
	case DSM_MSG_RELAY:
		err = on_relay(s, body, len);
		break;
	case DSM_MSG_PROGRESS:
		err = on_progress(s, body, len);
		break;
	case DSM_MSG_FETCHED:
		err = on_fetched(s, body, len);
		break;
	case DSM_MSG_FORGET:
		err = on_forget(s, body, len);
		break;
	case DSM_MSG_VERDICT:
		err = on_verdict(s, body, len);
		break;
	default:
		err = DSM_EPROTO;
	}
	if (err != DSM_OK)
		taskrt__session_lose(s, err,
		                     "the coordinator sent a bad %s: %s",
		                     dsm__msg_name(type), dsm__strerror(err));
}

/* --- ranges --- */

int
taskrt__session_refresh_map(struct taskrt__session *s, struct dsm_error *e)
{
	uint64_t version;

	return dsm__map_refresh(s->heap->map, &version, e);
}

int
taskrt__session_pack_ranges(struct taskrt__session *s, uint64_t known,
                            struct dsm_wbuf *w, uint32_t *n_p,
                            uint64_t *version_p)
{
	struct dsm_range *v;
	size_t n;
	int err;

	*n_p = 0;
	*version_p = dsm__map_version(s->heap->map);
	if (*version_p == known)
		return DSM_OK;
	err = dsm__map_table(s->heap->map, &v, &n, version_p);
	if (err != DSM_OK)
		return err;
	for (size_t i = 0; i < n && err == DSM_OK; i++) {
		const struct dsm_rec_range rec = {
		    .start = v[i].start,
		    .end = v[i].end,
		    .image_off = v[i].image_off,
		    .prot = v[i].prot,
		    .priv_start = v[i].priv_start,
		    .priv_end = v[i].priv_end,
		    .kind = v[i].kind,
		};
		err = dsm__pack_range(w, &rec);
	}
	free(v);
	*n_p = (uint32_t)n;
	return err;
}

/* --- life --- */

void
taskrt__links_add(struct taskrt__links *to, const struct taskrt__links *from)
{
	to->shm += from->shm;
	to->tcp += from->tcp;
	to->tls += from->tls;
	to->relay += from->relay;
	to->verbs += from->verbs;
	memcpy(to->rdma, from->rdma, sizeof(to->rdma));
}

static void
on_closed(uv_handle_t *h)
{
	struct taskrt__session *s = h->data;

	s->n_uv_closing--;
}

void
taskrt__session_uv_close(struct taskrt__session *s, uv_handle_t *h)
{
	s->n_uv_closing++;
	dsm__loop_uv(s->loop);
	uv_close(h, on_closed);
}

static int
has_answer(void *arg)
{
	const struct taskrt__session *s = arg;

	return s->state != TASKRT__JOINING;
}

static int
all_closed(void *arg)
{
	const struct taskrt__session *s = arg;

	return s->n_uv_closing == 0;
}

/* Lock held: connect, and wait for WELCOME. */
static int
join(struct taskrt__session *s, uint64_t deadline, struct dsm_error *e)
{
	int err;

	if (s->config->coordinator[0] != '\0')
		err = taskrt__remote_start(s, deadline, e);
	else
		err = taskrt__embedded_start(s, e);
	if (err != DSM_OK)
		return err;
	/* What has been connected may answer, however late it is by now. */
	uint64_t least = dsm__deadline_ms(1000);
	if (deadline < least)
		deadline = least;
	if (dsm__loop_drive(s->loop, has_answer, s, deadline) != DSM_OK)
		return dsm__fail(
		    e, DSM_ETIMEDOUT,
		    "%s accepts connections but does not answer as a taskrt "
		    "coordinator",
		    s->config->coordinator);
	if (s->state == TASKRT__LOST)
		return dsm__fail(e, s->why.code, "%s", s->why.text);
	return DSM_OK;
}

static int
create_once(const struct taskrt__config *config, struct dsm_heap *heap,
            uint64_t deadline, struct taskrt__session **s_p,
            struct dsm_error *e)
{
	const struct dsm_loop_params params = {
	    .spin_ns = SPIN_NS,
	    .background = 1,
	};
	struct taskrt__session *s = calloc(1, sizeof(*s));
	int err = DSM_ENOMEM;

	if (s == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	s->config = config;
	s->heap = heap;
	s->sent_version = UINT64_MAX;
	s->key = dsm__secret_alloc(TASKRT__KEY_MAX);
	if (s->key == NULL) {
		dsm__fail(e, DSM_ENOMEM, "no memory for a key");
		goto free_session;
	}
	TAILQ_INIT(&s->serveconns);
	TAILQ_INIT(&s->stagemaps);
	err = dsm__server_create(heap->map, heap->views, &s->server);
	if (err != DSM_OK) {
		dsm__fail(e, err, "cannot start the page server: %s",
		          dsm__strerror(err));
		goto free_session;
	}
	err = dsm__loop_create(&params, &s->loop);
	if (err != DSM_OK) {
		dsm__fail(
		    e, err,
		    "cannot start the library's event loop and thread: %s",
		    err == DSM_ESYS ? strerror(errno) : dsm__strerror(err));
		goto destroy_server;
	}
	err = taskrt__rdma_open(config, heap, &taskrt__rdma_verbs, &s->rdma,
	                        s->links.rdma, sizeof(s->links.rdma), e);
	if (err == DSM_OK) {
		if (s->rdma != NULL)
			snprintf(s->links.rdma, sizeof(s->links.rdma), "%s",
			         taskrt__rdma_text(s->rdma));
		dsm__loop_lock(s->loop);
		err = join(s, deadline, e);
		dsm__loop_unlock(s->loop);
	}
	if (err != DSM_OK) {
		taskrt__session_destroy(s);
		return err;
	}
	*s_p = s;
	return DSM_OK;
destroy_server:
	dsm__server_destroy(s->server);
free_session:
	dsm__secret_free(s->key);
	free(s);
	return err;
}

/* A coordinator that is being restarted may take a connection and drop it; so does
 * what stands in front of one that is not there. */
int
taskrt__session_create(const struct taskrt__config *config,
                       struct dsm_heap *heap, struct taskrt__session **s_p,
                       struct dsm_error *e)
{
	uint64_t deadline = dsm__deadline_ms(config->wait_ms);

	for (;;) {
		int err = create_once(config, heap, deadline, s_p, e);

		if (err != DSM_ECONN || config->coordinator[0] == '\0' ||
		    dsm__now() + RETRY_MS * DSM_MS >= deadline)
			return err;
		log_debug("%s; trying again", e->text);
		poll(NULL, 0, RETRY_MS);
	}
}

void
taskrt__session_destroy(struct taskrt__session *s)
{
	if (s == NULL)
		return;
	dsm__loop_lock(s->loop);
	taskrt__session_lose(s, DSM_ECANCELED, "the session was ended");
	if (s->link != NULL)
		s->link->stop(s);
	taskrt__serveconn_close_all(s);
	taskrt__listener_stop(s);
	dsm__loop_drive(s->loop, all_closed, s, dsm__deadline_ms(CLOSE_MS));
	dsm__loop_unlock(s->loop);
	dsm__loop_destroy(s->loop);
	if (s->link != NULL)
		s->link->free(s);
	taskrt__rdma_close(s->rdma); /* the loop has closed its links */
	taskrt__stagemap_trim(s);
	dsm__server_destroy(s->server);
	dsm__extents_fini(&s->changed);
	taskrt__launch_free(s->launch);
	taskrt__said_fini(&s->said);
	dsm__secret_free(s->key);
	free(s);
}

void
taskrt__session_forget(struct taskrt__session *s)
{
	int fd = taskrt__listener_fd(s);

	if (fd >= 0)
		close(fd);
	if (s->link != NULL && s->link->forget != NULL)
		s->link->forget(s);
	taskrt__serveconn_forget_all(s);
	taskrt__rdma_forget(s->rdma);
}
