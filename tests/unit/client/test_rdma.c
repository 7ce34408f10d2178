/* How data links go over to queue pairs; the device is a stand-in. */
#include "../../test.h"

#include <stdlib.h>
#include <unistd.h>

#include "../../../dsm/base/log.h"
#include "../../../dsm/base/page.h"
#include "../../../dsm/transport/conn_priv.h"
#include "../../../taskrt/client/rdma.h"
#include "../../../taskrt/client/serveconn.h"
#include <dsm/dsm.h>

#define MIB (UINT64_C(1) << 20)
#define KEY "0123456789abcdef"

/* --- the stand-in --- */

struct dsm_verbs {
	int unused;
};
struct dsm_verbs_domain {
	unsigned n_regions;
};
struct dsm_verbs_region {
	struct dsm_verbs_domain *d;
};

/* What it is to do, and what was done: a letter a call. */
static struct {
	int open_err, domain_err, offer_err, connect_err, go_err;
	char done[64];
	struct dsm_verbs verbs;
	struct dsm_verbs_domain domain;
} fake;

static int
did(char what, int err, struct dsm_error *e)
{
	size_t n = strlen(fake.done);

	MUST(n + 1 < sizeof(fake.done));
	fake.done[n] = what;
	return err == DSM_OK ? err : dsm__fail(e, err, "the test says no");
}

static int
fake_open(const struct dsm_verbs_choice *c, struct dsm_verbs **v_p,
          struct dsm_error *e)
{
	(void)c;
	*v_p = &fake.verbs;
	return did('O', fake.open_err, e);
}

static void
fake_close(struct dsm_verbs *v)
{
	MUST(v == &fake.verbs);
	did('C', DSM_OK, NULL);
}

static const char *
fake_text(const struct dsm_verbs *v)
{
	MUST(v == &fake.verbs);
	return "fake0 port 1";
}

static int
fake_domain(struct dsm_verbs *v, struct dsm_verbs_domain **d_p,
            struct dsm_error *e)
{
	MUST(v == &fake.verbs);
	*d_p = &fake.domain;
	return did('D', fake.domain_err, e);
}

static void
fake_domain_end(struct dsm_verbs_domain *d)
{
	MUST_BE(d->n_regions, 0);
	did('d', DSM_OK, NULL);
}

static int
fake_offer(struct dsm_conn *c, struct dsm_verbs_domain *d,
           struct dsm_msg_qp *mine, struct dsm_error *e)
{
	MUST(strcmp(dsm__conn_transport(c), "tcp") == 0);
	MUST(d == &fake.domain);
	*mine = (struct dsm_msg_qp){.number = 77};
	return did('o', fake.offer_err, e);
}

static int
fake_connect(struct dsm_conn *c, const struct dsm_msg_qp *theirs,
             struct dsm_error *e)
{
	(void)c;
	MUST_BE(theirs->number, 55);
	return did('c', fake.connect_err, e);
}

static void
fake_over_close(struct dsm_conn *c)
{
	close(c->poll_fd);
	dsm__sock_close(c);
}

static const struct dsm_conn_ops fake_over = {
    .name = "fake",
    .readv = dsm__sock_readv,
    .writev = dsm__sock_writev,
    .close = fake_over_close,
};

/* Frames go on over the socket, but under another descriptor. */
static int
fake_go(struct dsm_conn *c, struct dsm_error *e)
{
	MUST_BE(dsm__conn_backlog(c), 0);
	if (fake.go_err == DSM_OK) {
		c->ops = &fake_over;
		c->poll_fd = dup(c->fd);
	}
	return did('g', fake.go_err, e);
}

static int
fake_add(struct dsm_verbs_domain *d, void *base, size_t len,
         struct dsm_verbs_region **r_p, struct dsm_error *e)
{
	(void)base;
	(void)len;
	(void)e;
	*r_p = malloc(sizeof(**r_p));
	MUST(*r_p != NULL);
	(*r_p)->d = d;
	d->n_regions++;
	return DSM_OK;
}

static void
fake_remove(struct dsm_verbs_region *r)
{
	r->d->n_regions--;
	free(r);
	did('r', DSM_OK, NULL);
}

static uint32_t
fake_rkey(const struct dsm_verbs_region *r)
{
	(void)r;
	return 9;
}

static const struct taskrt__rdma_ops fake_ops = {
    .open = fake_open,
    .close = fake_close,
    .text = fake_text,
    .domain_create = fake_domain,
    .domain_destroy = fake_domain_end,
    .offer = fake_offer,
    .connect = fake_connect,
    .go = fake_go,
    .regions = {fake_add, fake_remove, fake_rkey},
};

/* --- a session without a coordinator, and slots that are this test --- */

struct fixture {
	struct taskrt__config config;
	uint8_t key[TASKRT__KEY_MAX];
	struct taskrt__session s;
	uint8_t *block; /* 6 MiB of the heap, frozen */
};

struct peer {
	struct fixture *f;
	struct dsm_conn *conn;
	struct dsm_frame frame; /* the last one */
	int err;
};

static void
set_up(struct fixture *f, enum taskrt__transport transport)
{
	const struct dsm_loop_params params = {0};
	struct dsm_extents changed = {0};
	struct dsm_error e = {0};

	memset(&fake, 0, sizeof(fake));
	memset(f, 0, sizeof(*f));
	dsm__log_level(DSM_LOG_ERROR);
	f->config.transport = transport;
	strcpy(f->config.coordinator, "node1:7070");
	f->s.config = &f->config;
	f->s.heap = dsm__heap_default();
	MUST(f->s.heap != NULL);
	f->s.id = 3;
	f->s.key = f->key;
	memcpy(f->s.key, KEY, 16);
	f->s.key_len = 16;
	TAILQ_INIT(&f->s.serveconns);
	TAILQ_INIT(&f->s.stagemaps);
	MUST_OK(dsm__loop_create(&params, &f->s.loop));
	MUST_OK(dsm__map_refresh(f->s.heap->map, NULL, NULL));
	MUST_OK(
	    dsm__server_create(f->s.heap->map, f->s.heap->views, &f->s.server));
	MUST_OK(taskrt__rdma_open(&f->config, f->s.heap, &fake_ops, &f->s.rdma,
	                          f->s.links.rdma, sizeof(f->s.links.rdma),
	                          &e));
	f->block = dsm_aligned_alloc(2 * MIB, 6 * MIB);
	MUST(f->block != NULL);
	memset(f->block, 1, 6 * MIB);
	dsm__heap_lock(f->s.heap);
	const struct dsm_freeze z = {.used = dsm__heap_used(f->s.heap),
	                             .changed = &changed};
	MUST_OK(dsm__views_freeze(f->s.heap->views, &z, &e));
	dsm__heap_unlock(f->s.heap);
	dsm__extents_fini(&changed);
	dsm__loop_lock(f->s.loop);
}

/* As taskrt__session_destroy does it. */
static void
tear_down(struct fixture *f)
{
	taskrt__serveconn_close_all(&f->s);
	dsm__loop_unlock(f->s.loop);
	dsm__loop_destroy(f->s.loop);
	taskrt__rdma_close(f->s.rdma);
	dsm__server_destroy(f->s.server);
	dsm_free(f->block);
	dsm__log_level(DSM_LOG_WARN);
}

static void
link_up(struct fixture *f, struct peer *p, enum taskrt__link_kind kind)
{
	struct dsm_conn *ours;
	int fds[2];

	MUST_OK(dsm__shm_pair(fds));
	MUST_OK(
	    dsm__conn_create(&dsm__tcp_ops, fds[0], DSM_FRAME_MAX, &p->conn));
	MUST_OK(dsm__conn_create(&dsm__tcp_ops, fds[1], DSM_FRAME_MAX, &ours));
	MUST_OK(taskrt__serveconn_start(&f->s, ours, NULL, kind, NULL));
	p->f = f;
}

static void
tell(struct peer *p, unsigned type, struct dsm_wbuf *w)
{
	const struct iovec iov = {w->ptr, w->len};

	MUST_OK(dsm__conn_send(p->conn, type, 0, 5, &iov, 1));
	dsm__wbuf_fini(w);
}

static int
has_frame(void *arg)
{
	struct peer *p = arg;

	p->err = dsm__conn_recv(p->conn, &p->frame);
	return p->err != DSM_EAGAIN;
}

/* The type of the next frame; 0: the link is closed. */
static unsigned
answer(struct peer *p)
{
	MUST_OK(dsm__loop_drive(p->f->s.loop, has_frame, p,
	                        dsm__deadline_ms(20000)));
	if (p->err == DSM_OK)
		MUST_BE(p->frame.tag == 0 ? 5 : p->frame.tag, 5);
	return p->err == DSM_OK ? p->frame.type : 0;
}

static unsigned
hello(struct peer *p, uint64_t features)
{
	const struct dsm_msg_hello m = {
	    .magic = DSM_MAGIC,
	    .version = DSM_VERSION,
	    .role = DSM_ROLE_DATA,
	    .features = features,
	    .session = 3,
	    .key = {(const uint8_t *)KEY, 16},
	};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_hello(&w, &m));
	tell(p, DSM_MSG_HELLO, &w);
	return answer(p);
}

/* The features of WELCOME. */
static uint64_t
welcomed(struct peer *p, uint64_t features, unsigned want_flags)
{
	struct dsm_msg_welcome m;

	MUST_BE(hello(p, features), DSM_MSG_WELCOME);
	MUST_OK(dsm__decode_welcome(p->frame.body, p->frame.len, &m));
	MUST_BE(m.flags, want_flags);
	return m.features;
}

static unsigned
qp(struct peer *p, uint32_t number)
{
	const struct dsm_msg_qp m = {
	    .number = number,
	    .text = dsm__str(number == 0 ? "no, thanks" : ""),
	};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_qp(&w, &m));
	tell(p, DSM_MSG_QP, &w);
	return number != 0 ? answer(p) : 0;
}

static unsigned
ask_key(struct peer *p, uint64_t addr)
{
	const struct dsm_msg_ask_key m = {.addr = addr};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_ask_key(&w, &m));
	tell(p, DSM_MSG_ASK_KEY, &w);
	return answer(p);
}

/* The link works: a page of the heap is served. */
static void
must_serve(struct peer *p)
{
	const struct dsm_msg_read m = {
	    .addr = (uintptr_t)p->f->block,
	    .n_pages = 1,
	};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_read(&w, &m));
	tell(p, DSM_MSG_READ, &w);
	MUST_BE(answer(p), DSM_MSG_PAGES);
	MUST_BE(p->frame.len, DSM_PAGES_FIXED + DSM_PAGE);
}

static void
go_over(struct fixture *f, struct peer *p)
{
	struct dsm_msg_qp m;

	link_up(f, p, TASKRT__LINK_DIRECT);
	MUST_BE(welcomed(p, DSM_FEATURE_VERBS, 0), DSM_FEATURE_VERBS);
	MUST_BE(qp(p, 55), DSM_MSG_QP);
	MUST_OK(dsm__decode_qp(p->frame.body, p->frame.len, &m));
	MUST_BE(m.number, 77);
}

static struct dsm_msg_regions
regions(struct peer *p, uint64_t addr)
{
	struct dsm_msg_regions m;

	MUST_BE(ask_key(p, addr), DSM_MSG_REGIONS);
	MUST_OK(dsm__decode_regions(p->frame.body, p->frame.len, &m));
	return m;
}

static struct dsm_rec_region
region(const struct dsm_msg_regions *m, uint32_t i)
{
	struct dsm_rec_region r;

	MUST_OK(dsm__unpack_region(&m->regions, i, &r));
	return r;
}

/* --- the device --- */

static int
open_with(enum taskrt__transport transport, const char *coordinator,
          struct taskrt__rdma **r_p, char why[100], struct dsm_error *e)
{
	static struct taskrt__config config;

	config.transport = transport;
	snprintf(config.coordinator, sizeof(config.coordinator), "%s",
	         coordinator);
	return taskrt__rdma_open(&config, dsm__heap_default(), &fake_ops, r_p,
	                         why, 100, e);
}

static void
test_without_a_cluster_or_with_tcp_no_device_is_looked_for(void)
{
	struct taskrt__rdma *r;
	struct dsm_error e = {0};
	char why[100];

	memset(&fake, 0, sizeof(fake));
	MUST_OK(open_with(TASKRT__TRANSPORT_AUTO, "", &r, why, &e));
	MUST(r == NULL && why[0] == '\0');
	MUST_OK(open_with(TASKRT__TRANSPORT_TCP, "a:1", &r, why, &e));
	MUST(r == NULL && why[0] == '\0');
	MUST(strcmp(fake.done, "") == 0);
}

static void
test_what_cannot_be_opened_is_tcp_by_auto_and_an_error_by_verbs(void)
{
	static const int codes[] = {DSM_ECONN, DSM_ESYS, DSM_EINVAL,
	                            DSM_ENOMEM};
	struct taskrt__rdma *r;
	struct dsm_error e = {0};
	char why[100];

	dsm__log_level(DSM_LOG_ERROR);
	for (int domain = 0; domain < 2; domain++)
		for (size_t i = 0; i < 4; i++) {
			memset(&fake, 0, sizeof(fake));
			*(domain ? &fake.domain_err : &fake.open_err) =
			    codes[i];
			MUST_OK(open_with(TASKRT__TRANSPORT_AUTO, "a:1", &r,
			                  why, &e));
			MUST(r == NULL && strcmp(why, "the test says no") == 0);
			MUST(open_with(TASKRT__TRANSPORT_VERBS, "a:1", &r, why,
			               &e) != DSM_OK);
			MUST(r == NULL);
			MUST(strstr(e.text, "the test says no") != NULL);
			MUST(strcmp(fake.done, domain ? "ODCODC" : "OO") == 0);
		}
	dsm__log_level(DSM_LOG_WARN);
}

static void
test_all_ends_in_the_right_order(void)
{
	struct fixture f;
	struct peer p;

	set_up(&f, TASKRT__TRANSPORT_AUTO);
	go_over(&f, &p);
	regions(&p, (uintptr_t)f.block);
	MUST_BE(dsm__views_pinned(f.s.heap->views)->n, 1);
	dsm__conn_close(p.conn);
	tear_down(&f);
	MUST(strcmp(fake.done, "ODocgrdC") == 0);
	MUST_BE(dsm__views_pinned(f.s.heap->views)->n, 0);
}

/* --- going over --- */

static void
test_a_link_goes_over_when_both_offer(void)
{
	struct fixture f;
	struct peer p;

	set_up(&f, TASKRT__TRANSPORT_AUTO);
	go_over(&f, &p);
	must_serve(&p);
	MUST_BE(f.s.links.verbs, 1);
	MUST_BE(f.s.links.tcp, 0);
	dsm__conn_close(p.conn);
	tear_down(&f);
}

static void
test_verbs_is_offered_to_direct_links_that_offer_it(void)
{
	struct fixture f;
	struct peer p;

	set_up(&f, TASKRT__TRANSPORT_AUTO);
	link_up(&f, &p, TASKRT__LINK_DIRECT);
	MUST_BE(welcomed(&p, 0, 0), 0);
	must_serve(&p);
	dsm__conn_close(p.conn);
	link_up(&f, &p, TASKRT__LINK_RELAYED);
	MUST_BE(welcomed(&p, DSM_FEATURE_VERBS, 0), 0);
	must_serve(&p);
	dsm__conn_close(p.conn);
	MUST_BE(f.s.links.tcp, 1);
	MUST_BE(f.s.links.relay, 1);
	tear_down(&f);
	set_up(&f, TASKRT__TRANSPORT_TCP);
	link_up(&f, &p, TASKRT__LINK_DIRECT);
	MUST_BE(welcomed(&p, DSM_FEATURE_VERBS, 0), 0);
	/* What was not offered is not done. */
	MUST_BE(qp(&p, 55), 0);
	dsm__conn_close(p.conn);
	tear_down(&f);
	MUST(strcmp(fake.done, "") == 0);
}

static void
test_a_queue_pair_that_fails_leaves_the_link_with_tcp(void)
{
	struct fixture f;
	struct peer p;
	struct dsm_msg_qp m;

	for (int i = 0; i < 2; i++) {
		set_up(&f, TASKRT__TRANSPORT_AUTO);
		fake.offer_err = i == 0 ? DSM_ENOMEM : DSM_OK;
		fake.connect_err = i == 1 ? DSM_ESYS : DSM_OK;
		link_up(&f, &p, TASKRT__LINK_DIRECT);
		MUST_BE(welcomed(&p, DSM_FEATURE_VERBS, 0), DSM_FEATURE_VERBS);
		MUST_BE(qp(&p, 55), DSM_MSG_QP);
		MUST_OK(dsm__decode_qp(p.frame.body, p.frame.len, &m));
		MUST_BE(m.number, 0);
		MUST(m.text.len == strlen("the test says no"));
		must_serve(&p);
		MUST_BE(f.s.links.verbs, 0);
		MUST(strchr(fake.done, 'g') == NULL);
		dsm__conn_close(p.conn);
		tear_down(&f);
	}
}

static void
test_a_slot_may_decline(void)
{
	struct fixture f;
	struct peer p;

	set_up(&f, TASKRT__TRANSPORT_AUTO);
	link_up(&f, &p, TASKRT__LINK_DIRECT);
	welcomed(&p, DSM_FEATURE_VERBS, 0);
	qp(&p, 0);
	must_serve(&p);
	MUST_BE(f.s.links.tcp, 1);
	MUST(strcmp(fake.done, "OD") == 0);
	dsm__conn_close(p.conn);
	tear_down(&f);
}

static void
test_a_link_that_cannot_go_over_after_its_answer_is_closed(void)
{
	struct fixture f;
	struct peer p;

	set_up(&f, TASKRT__TRANSPORT_AUTO);
	fake.go_err = DSM_EPROTO;
	go_over(&f, &p);
	MUST_BE(answer(&p), 0);
	dsm__conn_close(p.conn);
	tear_down(&f);
}

static void
test_what_comes_out_of_order_ends_the_link(void)
{
	struct fixture f;
	struct peer p;

	set_up(&f, TASKRT__TRANSPORT_AUTO);
	/* QP before HELLO */
	link_up(&f, &p, TASKRT__LINK_DIRECT);
	MUST_BE(qp(&p, 55), DSM_MSG_REFUSE);
	dsm__conn_close(p.conn);
	/* QP after something else */
	link_up(&f, &p, TASKRT__LINK_DIRECT);
	welcomed(&p, DSM_FEATURE_VERBS, 0);
	must_serve(&p);
	MUST_BE(qp(&p, 55), 0);
	dsm__conn_close(p.conn);
	/* QP twice */
	go_over(&f, &p);
	MUST_BE(qp(&p, 55), 0);
	dsm__conn_close(p.conn);
	/* HELLO again, for another QP */
	go_over(&f, &p);
	MUST_BE(hello(&p, DSM_FEATURE_VERBS), DSM_MSG_REFUSE);
	dsm__conn_close(p.conn);
	/* ASK_KEY over TCP */
	link_up(&f, &p, TASKRT__LINK_DIRECT);
	welcomed(&p, DSM_FEATURE_VERBS, 0);
	MUST_BE(ask_key(&p, (uintptr_t)f.block), 0);
	dsm__conn_close(p.conn);
	/* ASK_KEY of what is not the heap's */
	go_over(&f, &p);
	MUST_BE(ask_key(&p, (uintptr_t)&f), 0);
	dsm__conn_close(p.conn);
	MUST(TAILQ_EMPTY(&f.s.serveconns));
	tear_down(&f);
}

static void
test_who_insists_on_verbs_refuses_all_else(void)
{
	struct fixture f;
	struct peer p;

	set_up(&f, TASKRT__TRANSPORT_VERBS);
	link_up(&f, &p, TASKRT__LINK_DIRECT);
	MUST_BE(hello(&p, 0), DSM_MSG_REFUSE);
	dsm__conn_close(p.conn);
	link_up(&f, &p, TASKRT__LINK_RELAYED);
	MUST_BE(hello(&p, DSM_FEATURE_VERBS), DSM_MSG_REFUSE);
	dsm__conn_close(p.conn);
	link_up(&f, &p, TASKRT__LINK_DIRECT);
	MUST_BE(welcomed(&p, DSM_FEATURE_VERBS, DSM_WELCOME_VERBS_ONLY),
	        DSM_FEATURE_VERBS);
	dsm__conn_close(p.conn);
	tear_down(&f);
}

/* --- keys --- */

static void
test_a_new_slot_learns_all_regions_with_one_question(void)
{
	uint64_t serving, at;
	struct dsm_msg_regions m;
	struct fixture f;
	struct peer p, q;

	set_up(&f, TASKRT__TRANSPORT_AUTO);
	at = (uintptr_t)f.block;
	serving = (uintptr_t)dsm__views_serving(f.s.heap->views, at);
	go_over(&f, &p);
	go_over(&f, &q);
	m = regions(&p, at);
	MUST_BE(m.regions.n, 1);
	MUST_BE(region(&m, 0).start, at);
	MUST_BE(region(&m, 0).end, at + 2 * MIB);
	MUST_BE(region(&m, 0).remote, serving);
	MUST_BE(region(&m, 0).rkey, 9);
	m = regions(&p, at + 5 * MIB);
	MUST_BE(m.regions.n, 1); /* it knows the other */
	/* What it asks for comes first, and once. */
	m = regions(&q, at + 5 * MIB);
	MUST_BE(m.regions.n, 2);
	MUST_BE(region(&m, 0).start, at + 4 * MIB);
	MUST_BE(region(&m, 1).start, at);
	m = regions(&q, at);
	MUST_BE(m.regions.n, 1);
	MUST_BE(region(&m, 0).start, at);
	MUST_BE(fake.domain.n_regions, 2);
	dsm__conn_close(p.conn);
	dsm__conn_close(q.conn);
	tear_down(&f);
}

static void
test_while_the_heap_is_busy_pages_go_in_messages(void)
{
	struct dsm_msg_ask_key m = {0};
	struct dsm_wbuf w = {0};
	struct dsm_rec_region r;
	struct fixture f;
	size_t told = 0;
	uint32_t n;

	set_up(&f, TASKRT__TRANSPORT_AUTO);
	m.addr = (uintptr_t)f.block + 3 * MIB;
	dsm__heap_lock(f.s.heap); /* as a commit does */
	MUST_OK(taskrt__rdma_regions(f.s.rdma, &m, &told, &w, &n));
	dsm__heap_unlock(f.s.heap);
	MUST_BE(n, 1);
	const struct dsm_array a = {w.ptr, n};
	MUST_OK(dsm__unpack_region(&a, 0, &r));
	MUST_BE(r.rkey, 0);
	MUST_BE(r.start, (uintptr_t)f.block + 2 * MIB);
	MUST_BE(r.end, (uintptr_t)f.block + 4 * MIB);
	MUST_BE(fake.domain.n_regions, 0);
	dsm__wbuf_fini(&w);
	tear_down(&f);
}

SUITE(taskrt_client_rdma, "taskrt.client.rdma",
      T(test_without_a_cluster_or_with_tcp_no_device_is_looked_for),
      T(test_what_cannot_be_opened_is_tcp_by_auto_and_an_error_by_verbs),
      T(test_all_ends_in_the_right_order),
      T(test_a_link_goes_over_when_both_offer),
      T(test_verbs_is_offered_to_direct_links_that_offer_it),
      T(test_a_queue_pair_that_fails_leaves_the_link_with_tcp),
      T(test_a_slot_may_decline),
      T(test_a_link_that_cannot_go_over_after_its_answer_is_closed),
      T(test_what_comes_out_of_order_ends_the_link),
      T(test_who_insists_on_verbs_refuses_all_else),
      T(test_a_new_slot_learns_all_regions_with_one_question),
      T(test_while_the_heap_is_busy_pages_go_in_messages));
