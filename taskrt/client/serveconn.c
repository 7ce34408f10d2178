/*
 * One data link: READ, ASK, BORROW and WRITES of a slot.
 *
 * A direct link may go over to a queue pair (dsm/transport/verbs.h):
 *
 *   HELLO offers verbs, and rdma is open -> WELCOME says so, may_qp
 *   QP, the next frame -> ours is made, connected and sent; the link goes over;
 *                         or number 0 and the reason, and all stays as it is
 *   from then on ASK_KEY, too
 */
#include "serveconn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/log.h"
#include "../../dsm/base/secret.h"
#include "../../dsm/transport/tls.h"
#include "rdma.h"
#include "run.h"

/* Address space for one staging file; only what is there costs memory. */
#define STAGE_SIZE (UINT64_C(64) << 30)
/* What a staging file keeps between runs: pages that are there are faster. */
#define STAGE_KEEP (UINT64_C(64) << 20)
/* For our QP to leave: a small frame into an empty socket. */
#define QP_DRAIN_MS 200
/* Links that have not said HELLO: so many, and so long. A slot's worker says it at
 * once. */
#define STRANGERS_MAX 64
#define HELLO_NS (5 * DSM_SEC)
/* Answers that a slot does not take: then its questions wait. Ours has at most three
 * windows under way. */
#define BACKLOG_MAX ((size_t)16 << 20)

struct taskrt__serveconn {
	TAILQ_ENTRY(taskrt__serveconn) link;
	struct taskrt__session *session;
	struct dsm_handle *handle;
	struct taskrt__stagemap *stage; /* NULL: bytes come in messages */
	enum taskrt__link_kind kind;
	int known;     /* HELLO was good, or we made the link ourselves */
	uint64_t born; /* when it was made */
	uint64_t loan; /* stamp of what its slot borrowed last; 0: nothing */

	struct taskrt__speaker speaker;

	int may_qp;  /* WELCOME was the last frame, and offered verbs */
	int over;    /* has gone over to a queue pair */
	size_t told; /* regions that the slot has heard of */
};

/* --- staging files --- */

int
taskrt__stagemap_create(struct taskrt__session *s, int fd,
                        struct taskrt__stagemap **m_p)
{
	struct taskrt__stagemap *m = calloc(1, sizeof(*m));
	int err = DSM_ENOMEM;

	if (m == NULL)
		return DSM_ENOMEM;
	m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (m->fd < 0) {
		err = DSM_ESYS;
		goto free_map;
	}
	void *p = mmap(NULL, STAGE_SIZE, PROT_READ, MAP_SHARED | MAP_NORESERVE,
	               m->fd, 0);
	if (p == MAP_FAILED)
		goto close_fd;
	m->base = p;
	err = dsm__map_exclude(s->heap->map, (uintptr_t)p,
	                       (uintptr_t)p + STAGE_SIZE);
	if (err != DSM_OK)
		goto unmap;
	m->in_use = 1;
	TAILQ_INSERT_TAIL(&s->stagemaps, m, link);
	*m_p = m;
	return DSM_OK;
unmap:
	munmap(p, STAGE_SIZE);
close_fd:
	close(m->fd);
free_map:
	free(m);
	return err;
}

static void
destroy_stagemap(struct taskrt__session *s, struct taskrt__stagemap *m)
{
	uintptr_t base = (uintptr_t)m->base;

	TAILQ_REMOVE(&s->stagemaps, m, link);
	munmap((void *)base, STAGE_SIZE);
	dsm__map_unexclude(s->heap->map, base, base + STAGE_SIZE);
	close(m->fd);
	free(m);
}

void
taskrt__stagemap_trim(struct taskrt__session *s)
{
	struct taskrt__stagemap *m, *next;

	for (m = TAILQ_FIRST(&s->stagemaps); m != NULL; m = next) {
		next = TAILQ_NEXT(m, link);
		if (!m->in_use)
			destroy_stagemap(s, m);
	}
}

void
taskrt__stagemap_shrink(struct taskrt__session *s)
{
	struct taskrt__stagemap *m;

	TAILQ_FOREACH(m, &s->stagemaps, link)
	{
		if (m->file_len <= STAGE_KEEP)
			continue;
		/* It keeps its length: its slot writes there again. */
		fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		          (off_t)STAGE_KEEP, (off_t)(m->file_len - STAGE_KEEP));
		m->file_len = STAGE_KEEP;
	}
}

/* Bytes [off, off + len) of the file, or NULL when it does not have them. */
static const uint8_t *
staged_bytes(struct taskrt__stagemap *m, uint64_t off, uint64_t len)
{
	struct stat st;

	if (off > STAGE_SIZE || len > STAGE_SIZE - off)
		return NULL;
	if (off + len > m->file_len) {
		if (fstat(m->fd, &st) != 0 || st.st_size < 0)
			return NULL;
		m->file_len = (uint64_t)st.st_size;
	}
	return off + len <= m->file_len ? m->base + off : NULL;
}

/* --- the link --- */

/* Tell the slot why, then close. */
static void
refuse(struct taskrt__serveconn *c, int code, const char *text)
{
	struct dsm_msg_refuse m = {
	    .code = (uint32_t)-code,
	    .text = dsm__str(text),
	};
	struct dsm_wbuf w = {0};

	log_debug("data link of %s refused: %s",
	          dsm__conn_peer(dsm__handle_conn(c->handle)), text);
	if (dsm__encode_refuse(&w, &m) == DSM_OK)
		taskrt__serveconn_send(c, DSM_MSG_REFUSE, 0, &w);
	dsm__wbuf_fini(&w);
	taskrt__serveconn_close(c);
}

/* Has it shown the session's key? With TLS that was the handshake. Through the
 * relay it was our own with the coordinator, which has asked the slot for its. */
static int
knows_key(const struct taskrt__serveconn *c, struct dsm_blob key)
{
	const struct taskrt__session *s = c->session;

	if (s->tls)
		return dsm__conn_is_tls(dsm__handle_conn(c->handle));
	return key.len == s->key_len &&
	       dsm__secret_equal(key.ptr, s->key, key.len);
}

static int
verbs_only(const struct taskrt__serveconn *c)
{
	return c->session->config->transport == TASKRT__TRANSPORT_VERBS;
}

static int
send_welcome(struct taskrt__serveconn *c)
{
	struct dsm_msg_welcome m = {
	    .version = DSM_VERSION,
	    .flags = verbs_only(c) ? DSM_WELCOME_VERBS_ONLY : 0,
	    .features = c->may_qp ? DSM_FEATURE_VERBS : 0,
	    .session = c->session->id,
	};
	struct dsm_wbuf w = {0};
	int err = dsm__encode_welcome(&w, &m);

	if (err == DSM_OK)
		err = taskrt__serveconn_send(c, DSM_MSG_WELCOME, 0, &w);
	dsm__wbuf_fini(&w);
	return err;
}

static uint64_t *
direct_links(struct taskrt__session *s)
{
	return s->tls ? &s->links.tls : &s->links.tcp;
}

static void
welcome(struct taskrt__serveconn *c, const struct dsm_msg_hello *m)
{
	c->known = 1;
	dsm__conn_set_max(dsm__handle_conn(c->handle), DSM_FRAME_MAX);
	c->may_qp = c->session->rdma != NULL &&
	            c->kind == TASKRT__LINK_DIRECT &&
	            (m->features & DSM_FEATURE_VERBS) != 0;
	if (c->kind == TASKRT__LINK_RELAYED)
		c->session->links.relay++;
	else
		++*direct_links(c->session);
	send_welcome(c);
}

static void
on_hello(struct taskrt__serveconn *c, const struct dsm_frame *f)
{
	struct dsm_msg_hello m;
	int err = dsm__decode_hello(f->body, f->len, &m);

	if (err != DSM_OK || m.magic != DSM_MAGIC)
		refuse(c, DSM_EPROTO, "not a taskrt peer");
	else if (c->known)
		refuse(c, DSM_EPROTO, "HELLO comes once");
	else if (m.version != DSM_VERSION)
		refuse(c, DSM_EVERSION, "the client speaks another version");
	else if (m.role != DSM_ROLE_DATA || m.session != c->session->id ||
	         !knows_key(c, m.key))
		refuse(c, DSM_EAUTH, "not a slot of this session");
	else if (verbs_only(c) && c->kind == TASKRT__LINK_RELAYED)
		refuse(c, DSM_EINCOMPAT,
		       "a relay cannot do verbs (taskrt-coordinator --insecure "
		       "lets workers reach the program directly)");
	else if (verbs_only(c) && (m.features & DSM_FEATURE_VERBS) == 0)
		refuse(c, DSM_EINCOMPAT,
		       "the program insists on verbs, but this worker does not "
		       "offer it");
	else
		welcome(c, &m);
}

static int
on_read(struct taskrt__serveconn *c, const struct dsm_frame *f)
{
	struct taskrt__session *s = c->session;
	struct dsm_msg_read m;
	struct iovec iov[2];
	uint8_t fixed[64];
	struct dsm_wbuf w = {.ptr = fixed, .cap = sizeof(fixed)};
	uint32_t n = 0;

	_Static_assert(DSM_PAGES_FIXED <= sizeof(fixed),
	               "encoded without allocating");
	int err = dsm__decode_read(f->body, f->len, &m);
	if (err != DSM_OK || m.n_pages == 0 || m.n_pages > DSM_READ_MAX ||
	    (m.addr & DSM_PAGE_MASK) != 0)
		return DSM_EPROTO;
	err = dsm__server_read(s->server, m.addr, m.n_pages, &iov[1], &n);
	if (err != DSM_OK) {
		log_debug("READ of 0x%llx: %s", (unsigned long long)m.addr,
		          dsm__strerror(err));
		n = 0;
	}
	/* The contents are those of the last launch, whichever the slot meant:
	 * a slot that is behind sees it by the run's number. */
	struct dsm_msg_pages reply = {
	    .run = s->last_run,
	    .addr = m.addr,
	    .n_pages = n,
	};
	err = dsm__encode_pages(&w, &reply);
	if (err != DSM_OK)
		return err;
	iov[0] = (struct iovec){w.ptr, w.len};
	iov[1].iov_len = n * DSM_PAGE;
	return dsm__handle_send(c->handle, DSM_MSG_PAGES, f->tag, iov,
	                        n > 0 ? 2 : 1);
}

static int
send_qp(struct taskrt__serveconn *c, uint64_t tag, const struct dsm_msg_qp *m)
{
	struct dsm_wbuf w = {0};
	int err = dsm__encode_qp(&w, m);

	if (err == DSM_OK)
		err = taskrt__serveconn_send(c, DSM_MSG_QP, tag, &w);
	dsm__wbuf_fini(&w);
	return err;
}

/* Once a session: what is wrong with one link is wrong with the others. */
static void
warn_stays(struct taskrt__serveconn *c, const char *who, const char *why)
{
	const char *peer = dsm__conn_peer(dsm__handle_conn(c->handle));

	if (c->session->rdma_warned) {
		log_debug("data link of %s stays with tcp: %s%s", peer, who,
		          why);
		return;
	}
	c->session->rdma_warned = 1;
	log_warn("RDMA: a data link of %s cannot go over to it: %s%s; %s", peer,
	         who, why,
	         verbs_only(c) ? "the slot ends" : "it stays with tcp");
}

/* Nothing follows what we answer until the slot has gone over, too. */
static int
go_over(struct taskrt__serveconn *c, struct dsm_error *e)
{
	struct dsm_conn *conn = dsm__handle_conn(c->handle);

	int err = dsm__conn_drain(conn, dsm__deadline_ms(QP_DRAIN_MS));
	if (err != DSM_OK)
		return dsm__fail(e, err, "cannot send QP: %s",
		                 dsm__strerror(err));
	err = taskrt__rdma_go(c->session->rdma, conn, e);
	if (err != DSM_OK)
		return err;
	err = dsm__handle_refresh(c->handle);
	if (err != DSM_OK)
		return dsm__fail(e, err, "cannot watch the queue pair: %s",
		                 dsm__strerror(err));
	c->over = 1;
	--*direct_links(c->session);
	c->session->links.verbs++;
	return DSM_OK;
}

static int
on_qp(struct taskrt__serveconn *c, const struct dsm_frame *f, int may)
{
	struct dsm_conn *conn = dsm__handle_conn(c->handle);
	struct dsm_msg_qp theirs, mine = {0};
	struct dsm_error e = {0};
	char why[200];

	int err = dsm__decode_qp(f->body, f->len, &theirs);
	if (err != DSM_OK)
		return err;
	if (!may)
		return DSM_EPROTO;
	if (theirs.number == 0) {
		warn_stays(c, "the worker says: ",
		           dsm__str_copy(why, sizeof(why), theirs.text));
		return DSM_OK;
	}
	err = taskrt__rdma_connect(c->session->rdma, conn, &theirs, &mine, &e);
	if (err != DSM_OK) {
		const struct dsm_msg_qp none = {.text = dsm__str(e.text)};

		warn_stays(c, "", e.text);
		return send_qp(c, f->tag, &none);
	}
	err = send_qp(c, f->tag, &mine);
	if (err == DSM_OK && go_over(c, &e) != DSM_OK) {
		/* The slot has gone over already, perhaps. */
		log_warn("data link of %s closed: %s", dsm__conn_peer(conn),
		         e.text);
		taskrt__serveconn_close(c);
	}
	return err;
}

static int
on_ask_key(struct taskrt__serveconn *c, const struct dsm_frame *f)
{
	struct dsm_msg_regions reply = {0};
	struct dsm_wbuf table = {0}, w = {0};
	struct dsm_msg_ask_key m;

	int err = dsm__decode_ask_key(f->body, f->len, &m);
	if (err == DSM_OK && !c->over)
		err = DSM_EPROTO;
	if (err == DSM_OK)
		err = taskrt__rdma_regions(c->session->rdma, &m, &c->told,
		                           &table, &reply.regions.n);
	if (err == DSM_OK) {
		reply.regions.ptr = table.ptr;
		err = dsm__encode_regions(&w, &reply);
	}
	if (err == DSM_OK) {
		struct iovec iov = {w.ptr, w.len};

		err = dsm__handle_send(c->handle, DSM_MSG_REGIONS, f->tag, &iov,
		                       1);
	}
	dsm__wbuf_fini(&table);
	dsm__wbuf_fini(&w);
	return err;
}

static int
on_ask(struct taskrt__serveconn *c, const struct dsm_frame *f)
{
	struct taskrt__session *s = c->session;
	struct dsm_wbuf table = {0}, w = {0};
	struct dsm_msg_ranges reply = {0};
	struct dsm_msg_ask m;
	struct dsm_error e;
	uint64_t version;

	int err = dsm__decode_ask(f->body, f->len, &m);
	if (err != DSM_OK)
		return err;
	if (taskrt__session_refresh_map(s, &e) != DSM_OK)
		log_debug("%s", e.text); /* the old table is an answer too */
	err = taskrt__session_pack_ranges(s, UINT64_MAX, &table,
	                                  &reply.ranges.n, &version);
	if (err == DSM_OK) {
		reply.ranges.ptr = table.ptr;
		err = dsm__encode_ranges(&w, &reply);
	}
	if (err == DSM_OK) {
		struct iovec iov = {w.ptr, w.len};

		err = dsm__handle_send(c->handle, DSM_MSG_RANGES, f->tag, &iov,
		                       1);
	}
	dsm__wbuf_fini(&table);
	dsm__wbuf_fini(&w);
	return err;
}

/* A slot that has gone over sees that the fabric brings something. */
static int
on_ping(struct taskrt__serveconn *c, const struct dsm_frame *f)
{
	struct dsm_msg_ping m;
	struct dsm_wbuf w = {0};

	int err = dsm__decode_ping(f->body, f->len, &m);
	if (err != DSM_OK)
		return err;
	err = dsm__encode_pong(&w, &(struct dsm_msg_pong){.seq = m.seq});
	if (err == DSM_OK)
		err = taskrt__serveconn_send(c, DSM_MSG_PONG, f->tag, &w);
	dsm__wbuf_fini(&w);
	return err;
}

/* A slot that borrows again has used up what it had. */
static int
on_borrow(struct taskrt__serveconn *c, const struct dsm_frame *f)
{
	struct dsm_heap *h = c->session->heap;
	struct dsm_msg_loan reply = {0};
	struct dsm_msg_borrow m;
	struct dsm_loan loan;
	struct dsm_wbuf w = {0};

	int err = dsm__decode_borrow(f->body, f->len, &m);
	if (err != DSM_OK)
		return err;
	if (dsm__heap_lend(h, m.least, m.want, &loan) == DSM_OK) {
		dsm__heap_lend_end(h, c->loan);
		c->loan = loan.stamp;
		reply = (struct dsm_msg_loan){loan.base, loan.len, loan.stamp};
	}
	err = dsm__encode_loan(&w, &reply);
	if (err == DSM_OK)
		err = taskrt__serveconn_send(c, DSM_MSG_LOAN, f->tag, &w);
	dsm__wbuf_fini(&w);
	return err;
}

/* A task's text, onto our own stdout or stderr. Where that is closed or full for
 * good, the text is lost as it would be locally. */
static int
on_output(struct taskrt__serveconn *c, const struct dsm_frame *f)
{
	struct dsm_msg_output m;
	size_t done;

	int err = dsm__decode_output(f->body, f->len, &m);
	if (err != DSM_OK)
		return err;
	if (m.fd != STDOUT_FILENO && m.fd != STDERR_FILENO)
		return DSM_EPROTO;
	done = taskrt__said_before(&c->session->said, &c->speaker, &m);
	while (done < m.text.len) {
		ssize_t n =
		    write((int)m.fd, m.text.ptr + done, m.text.len - done);

		if (n < 0 && errno != EINTR)
			break;
		done += n > 0 ? (size_t)n : 0;
	}
	return DSM_OK;
}

static int
on_writes(struct taskrt__serveconn *c, const struct dsm_frame *f)
{
	const uint8_t *staged = NULL;
	struct dsm_msg_writes m;

	int err = dsm__decode_writes(f->body, f->len, &m);
	if (err != DSM_OK)
		return err;
	if (m.staged_len > 0) {
		if (c->stage == NULL)
			return DSM_EPROTO;
		staged = staged_bytes(c->stage, m.staged_off, m.staged_len);
		if (staged == NULL)
			return DSM_EPROTO;
	}
	/* Of a run that is over: late, and nobody waits for it. */
	if (c->session->run == NULL || c->session->run->id != m.run)
		return DSM_OK;
	return taskrt__run_writes(c->session->run, &m, staged);
}

static void
on_frame(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct taskrt__serveconn *c = owner;
	int may_qp = c->may_qp;
	int err = DSM_OK;

	(void)h;
	c->may_qp = 0;
	if (f->type == DSM_MSG_HELLO) {
		on_hello(c, f);
		return;
	}
	if (f->type == DSM_MSG_REFUSE) { /* of a relay */
		taskrt__serveconn_close(c);
		return;
	}
	if (!c->known) {
		refuse(c, DSM_EPROTO, "HELLO comes first");
		return;
	}
	switch (f->type) {
	case DSM_MSG_READ:
		err = on_read(c, f);
		break;
	case DSM_MSG_ASK:
		err = on_ask(c, f);
		break;
	case DSM_MSG_BORROW:
		err = on_borrow(c, f);
		break;
	case DSM_MSG_PING:
		err = on_ping(c, f);
		break;
	case DSM_MSG_WRITES:
		err = on_writes(c, f);
		break;
	case DSM_MSG_OUTPUT:
		err = on_output(c, f);
		break;
	case DSM_MSG_QP:
		err = on_qp(c, f, may_qp);
		break;
	case DSM_MSG_ASK_KEY:
		err = on_ask_key(c, f);
		break;
	default:
		err = DSM_EPROTO;
	}
	/* A link that has failed is closed when its loss is told. */
	if (err == DSM_OK ||
	    dsm__conn_error(dsm__handle_conn(c->handle)) != DSM_OK)
		return;
	log_warn("data link of %s closed: %s: %s",
	         dsm__conn_peer(dsm__handle_conn(c->handle)),
	         dsm__msg_name(f->type), dsm__strerror(err));
	taskrt__serveconn_close(c);
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct taskrt__serveconn *c = owner;
	const char *why = dsm__conn_why(dsm__handle_conn(h));

	log_debug("data link of %s lost: %s%s%s",
	          dsm__conn_peer(dsm__handle_conn(h)), dsm__strerror(err),
	          why[0] != '\0' ? ": " : "", why);
	taskrt__serveconn_close(c);
}

static const struct dsm_handle_ops handle_ops = {on_frame, on_lost};

/* Who connects to say nothing must not keep out those who have something to say. */
static void
make_room(struct taskrt__session *s)
{
	struct taskrt__serveconn *c, *oldest = NULL;
	unsigned n = 0;

	TAILQ_FOREACH(c, &s->serveconns, link)
	{
		if (c->known)
			continue;
		n++;
		if (oldest == NULL)
			oldest = c;
	}
	if (n < STRANGERS_MAX)
		return;
	if (dsm__log_due(&s->said_strangers))
		log_warn("more than %d data links without HELLO: the oldest "
		         "are closed",
		         STRANGERS_MAX);
	taskrt__serveconn_close(oldest);
}

unsigned
taskrt__serveconn_sweep(struct taskrt__session *s)
{
	uint64_t now = dsm__now();
	struct taskrt__serveconn *c, *next;
	unsigned n = 0;

	for (c = TAILQ_FIRST(&s->serveconns); c != NULL; c = next) {
		next = TAILQ_NEXT(c, link);
		if (c->known)
			continue;
		if (now - c->born < HELLO_NS) {
			n++;
			continue;
		}
		log_debug("data link of %s closed: no HELLO",
		          dsm__conn_peer(dsm__handle_conn(c->handle)));
		taskrt__serveconn_close(c);
	}
	return n;
}

int
taskrt__serveconn_start(struct taskrt__session *s, struct dsm_conn *conn,
                        struct taskrt__stagemap *stage,
                        enum taskrt__link_kind kind,
                        struct taskrt__serveconn **c_p)
{
	struct taskrt__serveconn *c = calloc(1, sizeof(*c));
	int err = DSM_ENOMEM;

	if (c == NULL)
		goto close_conn;
	make_room(s);
	c->born = dsm__now();
	c->session = s;
	c->stage = stage;
	c->kind = kind;
	c->known = kind == TASKRT__LINK_OWN;
	err = dsm__loop_attach(s->loop, conn, &handle_ops, c, &c->handle);
	if (err != DSM_OK)
		goto free_link;
	dsm__handle_throttle(c->handle, c->handle, BACKLOG_MAX);
	s->links.shm += kind == TASKRT__LINK_OWN;
	TAILQ_INSERT_TAIL(&s->serveconns, c, link);
	if (c_p != NULL)
		*c_p = c;
	return DSM_OK;
free_link:
	free(c);
close_conn:
	dsm__conn_close(conn);
	if (stage != NULL)
		stage->in_use = 0;
	return err;
}

int
taskrt__serveconn_send(struct taskrt__serveconn *c, unsigned type, uint64_t tag,
                       const struct dsm_wbuf *w)
{
	struct iovec iov = {w->ptr, w->len};

	return dsm__handle_send(c->handle, type, tag, &iov, 1);
}

void
taskrt__serveconn_close(struct taskrt__serveconn *c)
{
	TAILQ_REMOVE(&c->session->serveconns, c, link);
	dsm__handle_close(c->handle);
	dsm__heap_lend_end(c->session->heap, c->loan);
	if (c->stage != NULL)
		c->stage->in_use = 0;
	free(c);
}

void
taskrt__serveconn_close_all(struct taskrt__session *s)
{
	/* The analyzer does not see that close takes it off the list. */
	while (!TAILQ_EMPTY(&s->serveconns))
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		taskrt__serveconn_close(TAILQ_FIRST(&s->serveconns));
}

void
taskrt__serveconn_forget_all(struct taskrt__session *s)
{
	struct taskrt__serveconn *c;
	struct taskrt__stagemap *m;

	TAILQ_FOREACH(c, &s->serveconns, link)
	dsm__conn_forget(dsm__handle_conn(c->handle));
	TAILQ_FOREACH(m, &s->stagemaps, link)
	{
		munmap((void *)(uintptr_t)m->base, STAGE_SIZE);
		close(m->fd);
	}
}
