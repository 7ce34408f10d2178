/*
 * Queue pairs, both ends on one device of this machine: the conformance suite, and
 * what only verbs does. TASKRT_VERBS_DEVICE and the others choose the device.
 */
#include "../../../dsm/transport/loop.h"
#include "../../../dsm/transport/verbs_queue.h"
#include "../../conformance/conformance.h"

#include "verbs_pair.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define MIB (1u << 20)
#define LIMIT (2 * MIB)
#define SPIN (50 * DSM_US)
#define PATIENCE dsm__deadline_ms(20000)

CONFORMANCE(dsm_transport_verbs, "dsm.transport.verbs", &dsm__verbs_ops,
            verbs_pair, verbs_missing);

struct ends {
	struct dsm_conn *a, *b;
};

static struct ends
open_ends(void)
{
	struct dsm_conn *c[2];

	MUST_OK(verbs_pair(LIMIT, c));
	return (struct ends){c[0], c[1]};
}

static void
close_ends(struct ends *e)
{
	dsm__conn_close(e->a);
	dsm__conn_close(e->b);
}

static void
must_send(struct dsm_conn *c, uint64_t tag, size_t len)
{
	uint8_t *body = calloc(1, len + 1);
	struct iovec v = {body, len};

	MUST(body != NULL);
	memset(body, (int)tag, len);
	MUST_OK(dsm__conn_send(c, 7, 0, tag, &v, 1));
	free(body);
}

static void
must_be(const struct dsm_frame *f, uint64_t tag, size_t len)
{
	MUST_BE(f->tag, tag);
	MUST_BE(f->len, len);
	for (size_t i = 0; i < len; i++)
		if (f->body[i] != (uint8_t)tag)
			MUST_BE(f->body[i], (uint8_t)tag);
}

static void
must_recv(struct dsm_conn *c, uint64_t tag, size_t len)
{
	struct dsm_frame f;

	MUST_OK(dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL));
	must_be(&f, tag, len);
}

static void
must_pass_frames(struct ends *e)
{
	must_send(e->a, 1, 100);
	must_recv(e->b, 1, 100);
	must_send(e->b, 2, 40000);
	must_recv(e->a, 2, 40000);
}

/* --- going over --- */

static int
offer_both(struct ends *e, struct dsm_msg_qp qp[2])
{
	struct dsm_conn *c[2];

	MUST_OK(verbs_tcp_pair(LIMIT, c));
	*e = (struct ends){c[0], c[1]};
	MUST_OK(dsm__conn_verbs_offer(e->a, verbs_domain(), &qp[0], NULL));
	MUST_OK(dsm__conn_verbs_offer(e->b, verbs_domain(), &qp[1], NULL));
	return 1;
}

static void
test_an_offer_that_is_withdrawn_leaves_the_socket(void)
{
	struct dsm_msg_qp qp[2];
	struct ends e;

	offer_both(&e, qp);
	dsm__conn_verbs_withdraw(e.a);
	dsm__conn_verbs_withdraw(e.a);
	MUST(strcmp(dsm__conn_transport(e.a), "tcp") == 0);
	must_pass_frames(&e);
	MUST_BE(dsm__conn_verbs_go(e.a, NULL), DSM_EINVAL);
	MUST_BE(dsm__conn_verbs_connect(e.a, &qp[1], NULL), DSM_EINVAL);
	/* And may be made again; b's is closed as it is. */
	MUST_OK(dsm__conn_verbs_offer(e.a, verbs_domain(), &qp[0], NULL));
	MUST_BE(dsm__conn_verbs_offer(e.a, verbs_domain(), &qp[0], NULL),
	        DSM_EINVAL);
	close_ends(&e);
}

static void
test_a_queue_pair_that_cannot_be_is_refused(void)
{
	static uint8_t gid[17];
	struct dsm_msg_qp qp[2], bad[12];
	struct dsm_error why = {0};
	struct ends e;

	offer_both(&e, qp);
	for (int i = 0; i < 12; i++)
		bad[i] = qp[1];
	bad[0].number = 0;
	bad[1].number = 1 << 24;
	bad[2].psn = 1 << 24;
	bad[3].mtu = 0;
	bad[4].mtu = 6;
	bad[5].depth = 0;
	bad[6].depth = UINT32_MAX;
	bad[7].buf_len = 0;
	bad[8].gid.len = 15;
	bad[9].gid = (struct dsm_blob){gid, 17};
	bad[10].rd_atomic = 256;
	bad[11].lid = 65536;
	for (int i = 0; i < 12; i++) {
		MUST_BE(dsm__conn_verbs_connect(e.a, &bad[i], &why),
		        DSM_EPROTO);
		MUST(strstr(why.text, "cannot be one") != NULL);
		/* Withdrawn, and the socket goes on. */
		must_pass_frames(&e);
		MUST_OK(
		    dsm__conn_verbs_offer(e.a, verbs_domain(), &qp[0], NULL));
	}
	close_ends(&e);
}

static void
test_nothing_may_be_left_on_tcp_when_going_over(void)
{
	struct dsm_msg_qp qp[2];
	struct ends e;
	struct dsm_frame f;

	offer_both(&e, qp);
	MUST_BE(dsm__conn_verbs_go(e.a, NULL), DSM_EINVAL); /* not connected */
	MUST_OK(dsm__conn_verbs_connect(e.a, &qp[1], NULL));
	MUST_OK(dsm__conn_verbs_connect(e.b, &qp[0], NULL));
	must_send(e.a, 1, LIMIT); /* more than a socket takes */
	MUST(dsm__conn_backlog(e.a) > 0);
	MUST_BE(dsm__conn_verbs_go(e.a, NULL), DSM_EINVAL);
	while (dsm__conn_recv(e.b, &f) == DSM_EAGAIN)
		dsm__conn_flush(e.a);
	must_be(&f, 1, LIMIT);
	must_send(e.a, 2, 1);
	must_send(e.a, 3, 1);
	must_recv(e.b, 2, 1);
	/* 3 has come with 2. */
	MUST_BE(dsm__conn_verbs_go(e.b, NULL), DSM_EPROTO);
	must_recv(e.b, 3, 1);
	MUST_OK(dsm__conn_verbs_go(e.b, NULL));
	MUST_OK(dsm__conn_verbs_go(e.a, NULL));
	must_pass_frames(&e);
	close_ends(&e);
}

static void
test_what_is_sent_before_the_peer_goes_over_is_kept(void)
{
	struct dsm_msg_qp qp[2];
	struct ends e;

	offer_both(&e, qp);
	MUST_OK(dsm__conn_verbs_connect(e.b, &qp[0], NULL));
	MUST_OK(dsm__conn_verbs_connect(e.a, &qp[1], NULL));
	MUST_OK(dsm__conn_verbs_go(e.a, NULL));
	must_send(e.a, 1, 100);
	must_send(e.a, 2, 40000);
	MUST_OK(dsm__conn_verbs_go(e.b, NULL));
	must_recv(e.b, 1, 100);
	must_recv(e.b, 2, 40000);
	close_ends(&e);
}

static void
test_bytes_on_the_silent_socket_are_an_error(void)
{
	struct dsm_msg_qp qp[2];
	struct dsm_frame f;
	struct ends e;

	offer_both(&e, qp);
	MUST_OK(dsm__conn_verbs_connect(e.b, &qp[0], NULL));
	MUST_OK(dsm__conn_verbs_go(e.b, NULL));
	must_send(e.a, 1, 1);
	MUST_BE(dsm__conn_recv_wait(e.b, PATIENCE, 0, &f, NULL), DSM_EPROTO);
	MUST(strstr(dsm__conn_why(e.b), "TCP") != NULL);
	close_ends(&e);
}

/* --- one-sided reads --- */

/* A region of e.b's that e.a may read into its ring. */
struct memory {
	struct ends e;
	uint8_t *heap, *ring;
	size_t len;
	struct dsm_verbs_region *region;
};

static uint8_t *
shared(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
	               MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	MUST(p != MAP_FAILED);
	return p;
}

static void
open_memory(struct memory *m, size_t len)
{
	m->e = open_ends();
	m->len = len;
	m->heap = shared(len);
	m->ring = shared(len);
	for (size_t i = 0; i < len / 8; i++)
		((uint64_t *)m->heap)[i] = i * UINT64_C(0x9e3779b97f4a7c15);
	MUST_OK(dsm__verbs_register(verbs_domain(), m->heap, len, &m->region,
	                            NULL));
	MUST(dsm__verbs_rkey(m->region) != 0);
	MUST_OK(dsm__conn_read_ring(m->e.a, m->ring, len, NULL));
}

static void
close_memory(struct memory *m)
{
	close_ends(&m->e);
	dsm__verbs_unregister(m->region);
	munmap(m->heap, m->len);
	munmap(m->ring, m->len);
}

static int
start_read(struct memory *m, size_t from, size_t to, size_t len)
{
	return dsm__conn_read_start(m->e.a, (uintptr_t)m->heap + from,
	                            dsm__verbs_rkey(m->region), m->ring + to,
	                            len);
}

static int
wait_read(struct memory *m)
{
	return dsm__conn_read_wait(m->e.a, PATIENCE, SPIN, NULL);
}

static void
test_a_read_brings_the_bytes(void)
{
	struct memory m;
	int spun = -1;

	open_memory(&m, MIB);
	MUST_OK(start_read(&m, 3 * PAGE, 5 * PAGE, 2 * PAGE));
	MUST_OK(wait_read(&m));
	MUST(memcmp(m.ring + 5 * PAGE, m.heap + 3 * PAGE, 2 * PAGE) == 0);
	MUST_BE(m.ring[5 * PAGE - 1] + m.ring[7 * PAGE], 0);
	/* Stores made since are seen, too. */
	memset(m.heap + 3 * PAGE, 7, PAGE);
	MUST_OK(start_read(&m, 3 * PAGE, 0, PAGE));
	MUST_OK(dsm__conn_read_wait(m.e.a, PATIENCE, 5 * DSM_SEC, &spun));
	MUST_BE(spun, 1);
	MUST(memcmp(m.ring, m.heap + 3 * PAGE, PAGE) == 0);
	/* All at once. */
	MUST_OK(start_read(&m, 0, 0, MIB));
	MUST_OK(dsm__conn_read_wait(m.e.a, PATIENCE, 0, NULL));
	MUST(memcmp(m.ring, m.heap, MIB) == 0);
	close_memory(&m);
}

static void
test_reads_in_flight_end_in_order_among_frames(void)
{
	enum { ROUNDS = 300, SLOTS = MIB / PAGE };
	uint64_t seed = test_seed();
	struct {
		size_t from, to, len;
	} started[ROUNDS];
	unsigned n_started = 0, n_ended = 0, most = 0, sent = 0, got = 0;
	struct memory m;

	open_memory(&m, MIB);
	while (n_ended < ROUNDS) {
		size_t len = 8 * (1 + test_rand(&seed) % (PAGE / 8));
		size_t from = test_rand(&seed) % (MIB - len);
		size_t to = n_started % SLOTS * PAGE;
		int err = n_started == ROUNDS ? DSM_EAGAIN
		                              : start_read(&m, from, to, len);

		if (err == DSM_OK) {
			started[n_started].from = from;
			started[n_started].to = to;
			started[n_started++].len = len;
			if (n_started - n_ended > most)
				most = n_started - n_ended;
		}
		MUST(err == DSM_OK || err == DSM_EAGAIN);
		if (test_rand(&seed) % 8 == 0) {
			must_send(m.e.b, sent++, 100);
			must_send(m.e.a, 9, 10);
			must_recv(m.e.b, 9, 10);
		}
		if (err == DSM_OK && test_rand(&seed) % 16 != 0)
			continue;
		MUST_OK(wait_read(&m));
		MUST(memcmp(m.ring + started[n_ended].to,
		            m.heap + started[n_ended].from,
		            started[n_ended].len) == 0);
		n_ended++;
		if (test_rand(&seed) % 4 == 0)
			for (; got < sent; got++)
				must_recv(m.e.a, got, 100);
	}
	for (; got < sent; got++)
		must_recv(m.e.a, got, 100);
	MUST(most > 8);
	MUST(most < SLOTS);
	MUST_BE(dsm__conn_read_wait(m.e.a, PATIENCE, 0, NULL), DSM_EINVAL);
	close_memory(&m);
}

static void
test_a_read_outside_the_ring_is_not_started(void)
{
	struct memory m;

	open_memory(&m, MIB);
	MUST_BE(start_read(&m, 0, MIB, 1), DSM_EINVAL);
	MUST_BE(start_read(&m, 0, MIB - 8, 16), DSM_EINVAL);
	MUST_BE(start_read(&m, 0, (size_t)0 - 8, 16), DSM_EINVAL);
	MUST_BE(start_read(&m, 0, 0, 0), DSM_EINVAL);
	MUST_BE(start_read(&m, 0, 0, SIZE_MAX), DSM_EINVAL);
	MUST_BE(wait_read(&m), DSM_EINVAL);
	/* b has no ring. */
	MUST_BE(dsm__conn_read_start(m.e.b, 0, 1, m.ring, 8), DSM_EINVAL);
	MUST_BE(dsm__conn_read_ring(m.e.a, m.ring, PAGE, NULL), DSM_EINVAL);
	must_pass_frames(&m.e);
	close_memory(&m);
}

/* Started, it ends the connection, and both ends learn of it. */
static void
must_be_refused(struct memory *m)
{
	struct dsm_frame f;

	MUST_BE(wait_read(m), DSM_ECONN);
	MUST(strstr(dsm__conn_why(m->e.a), "RDMA READ: remote") != NULL);
	MUST_BE(start_read(m, 0, 0, 8), DSM_ECONN);
	MUST_BE(dsm__conn_recv_wait(m->e.a, PATIENCE, 0, &f, NULL), DSM_ECONN);
	MUST_BE(dsm__conn_send(m->e.a, 7, 0, 0, NULL, 0), DSM_ECONN);
	dsm__conn_close(m->e.a);
	m->e.a = NULL;
	MUST_BE(dsm__conn_recv_wait(m->e.b, PATIENCE, 0, &f, NULL), DSM_ECONN);
}

static void
test_a_read_with_a_wrong_key_fails_with_words(void)
{
	struct memory m;

	open_memory(&m, MIB);
	/* What ended before it counts. */
	MUST_OK(start_read(&m, 0, 0, PAGE));
	MUST_OK(dsm__conn_read_start(m.e.a, (uintptr_t)m.heap,
	                             dsm__verbs_rkey(m.region) + 77777, m.ring,
	                             PAGE));
	MUST_OK(wait_read(&m));
	must_be_refused(&m);
	close_memory(&m);
}

static void
test_a_read_out_of_range_fails_with_words(void)
{
	struct memory m;

	open_memory(&m, MIB);
	MUST_OK(start_read(&m, MIB - 8, 0, 16));
	must_be_refused(&m);
	close_memory(&m);
}

static void
test_a_domain_does_not_reach_into_another(void)
{
	struct dsm_verbs_domain *other;
	struct dsm_verbs_region *theirs;
	uint8_t *heap = shared(PAGE);
	struct memory m;

	MUST_OK(dsm__verbs_domain_create(verbs_device(), &other, NULL));
	MUST_OK(dsm__verbs_register(other, heap, PAGE, &theirs, NULL));
	open_memory(&m, MIB);
	MUST_OK(dsm__conn_read_start(m.e.a, (uintptr_t)heap,
	                             dsm__verbs_rkey(theirs), m.ring, PAGE));
	must_be_refused(&m);
	close_memory(&m);
	dsm__verbs_unregister(theirs);
	dsm__verbs_domain_destroy(other);
	munmap(heap, PAGE);
}

/* --- credits --- */

/* The largest frames, both ways, by ends that read and write as they like. */
static void
flood(struct ends *e, unsigned n, uint64_t seed)
{
	struct dsm_conn *c[2] = {e->a, e->b};
	unsigned sent[2] = {0, 0}, got[2] = {0, 0};
	uint64_t until = PATIENCE;

	while (got[0] < n || got[1] < n) {
		struct dsm_frame f;
		uint64_t r = test_rand(&seed);
		int i = (int)(r & 1);

		MUST(dsm__now() < until);
		if (sent[i] < n && r >> 1 & 1) {
			size_t len =
			    r >> 8 & 3 ? 100 + sent[i] : 200000 + sent[i];

			must_send(c[i], sent[i] * 1000 + len, len);
			sent[i]++;
		} else if (r >> 2 & 1) {
			dsm__conn_flush(c[i]);
		} else if (got[i] < n && dsm__conn_recv(c[i], &f) == DSM_OK) {
			must_be(&f, got[i] * 1000 + f.len, f.len);
			got[i]++;
		}
		MUST_OK(dsm__conn_error(c[i]));
	}
}

static void
test_floods_both_ways_neither_stop_nor_overrun(void)
{
	struct ends e = open_ends();

	flood(&e, 60, test_seed());
	close_ends(&e);
}

/* With so few credits every rule of theirs is at work all the time. */
static void
test_floods_pass_through_the_smallest_queue(void)
{
	struct dsm_verbs *small;
	struct dsm_conn *c[2];
	struct ends e;

	MUST_OK(verbs_pair_of_depth(4, LIMIT, &small, c));
	e = (struct ends){c[0], c[1]};
	flood(&e, 40, test_seed() + 1);
	close_ends(&e);
	verbs_pair_done(small);
}

static void
test_an_end_that_only_reads_gives_credits_back(void)
{
	struct ends e = open_ends();
	struct dsm_frame f;

	for (uint64_t i = 0; i < 1000; i++) {
		must_send(e.a, i, 10);
		MUST_BE(dsm__conn_backlog(e.a), 0);
		MUST_OK(dsm__conn_recv_wait(e.b, PATIENCE, DSM_SEC, &f, NULL));
		must_be(&f, i, 10);
	}
	close_ends(&e);
}

/* What the credits are for: a peer that takes more overruns the receives, and
 * that fails, it does not pass unseen. */
static void
test_a_peer_that_was_promised_too_much_fails(void)
{
	struct dsm_msg_qp qp[2];
	struct ends e;

	offer_both(&e, qp);
	qp[0].depth = 1000;
	MUST_OK(dsm__conn_verbs_connect(e.b, &qp[0], NULL));
	MUST_OK(dsm__conn_verbs_connect(e.a, &qp[1], NULL));
	MUST_OK(dsm__conn_verbs_go(e.a, NULL));
	MUST_OK(dsm__conn_verbs_go(e.b, NULL));
	MUST_WITHIN_MS(20000, dsm__conn_send(e.b, 7, 0, 0, NULL, 0) != DSM_OK);
	MUST_BE(dsm__conn_error(e.b), DSM_ECONN);
	MUST(strstr(dsm__conn_why(e.b), "RNR") != NULL);
	close_ends(&e);
}

/* --- sleeping --- */

static void *
read_all(void *arg)
{
	struct dsm_conn *c = arg;
	struct dsm_frame f;
	uint64_t n = 0;

	while (dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL) == DSM_OK)
		n += f.len;
	return (void *)(uintptr_t)n;
}

static void
test_a_writer_without_credits_sleeps_until_they_come(void)
{
	struct ends e = open_ends();
	pthread_t reader;
	void *n;

	must_send(e.a, 1, LIMIT);
	/* All that the peer has room for; nothing may come of waiting. */
	MUST_BE(dsm__conn_drain(e.a, dsm__deadline_ms(50)), DSM_ETIMEDOUT);
	MUST(dsm__conn_backlog(e.a) > MIB);
	MUST_BE(pthread_create(&reader, NULL, read_all, e.b), 0);
	MUST_OK(dsm__conn_drain(e.a, PATIENCE));
	for (uint64_t i = 0; i < 20; i++) {
		must_send(e.a, i, 100000);
		MUST_OK(dsm__conn_drain(e.a, PATIENCE));
	}
	dsm__conn_close(e.a);
	pthread_join(reader, &n);
	MUST_BE((uintptr_t)n, LIMIT + 20 * 100000);
	dsm__conn_close(e.b);
}

static void
test_credits_that_came_while_reading_are_no_reason_to_sleep(void)
{
	struct ends e = open_ends();
	struct dsm_frame f;
	int wanted;

	must_send(e.a, 1, LIMIT);
	MUST_BE(dsm__conn_drain(e.a, dsm__deadline_ms(50)), DSM_ETIMEDOUT);
	/* b reads what there is, and gives it all back; a looks for frames. */
	MUST_WITHIN_MS(20000, dsm__conn_recv(e.b, &f) == DSM_EAGAIN &&
	                          dsm__conn_recv(e.a, &f) == DSM_EAGAIN &&
	                          dsm__queue_of(e.a)->credits ==
	                              dsm__queue_of(e.a)->their_depth);
	while (dsm__conn_arm(e.a, POLLIN, &wanted) != DSM_OK)
		;
	MUST(dsm__conn_backlog(e.a) > 0);
	MUST_BE(dsm__conn_arm(e.a, POLLOUT, &wanted), DSM_EAGAIN);
	close_ends(&e);
}

struct party {
	struct dsm_loop *loop;
	struct dsm_handle *h;
	unsigned frames, losts, want;
};

static void
echo(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct party *p = owner;
	struct iovec v = {(void *)f->body, f->len};

	p->frames++;
	dsm__handle_send(h, f->type, f->tag + 1, &v, 1);
	dsm__loop_kick(p->loop);
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct party *p = owner;

	(void)h;
	(void)err;
	p->losts++;
	dsm__loop_kick(p->loop);
}

static const struct dsm_handle_ops echo_ops = {echo, on_lost};

static int
has_frames(void *arg)
{
	const struct party *p = arg;

	return p->frames >= p->want || p->losts > 0;
}

static int
is_lost(void *arg)
{
	const struct party *p = arg;

	return p->losts > 0;
}

static struct dsm_loop *
new_loop(uint64_t spin_ns, int background)
{
	const struct dsm_loop_params p = {spin_ns, background};
	struct dsm_loop *l;

	MUST_OK(dsm__loop_create(&p, &l));
	return l;
}

static void
ping_pong_on_loops(uint64_t spin_ns, unsigned n, size_t len)
{
	struct dsm_loop *l = new_loop(spin_ns, 0);
	struct dsm_loop *far = new_loop(spin_ns, 1);
	struct party a = {.loop = l, .want = n};
	struct party b = {.loop = far};
	struct ends e = open_ends();
	uint8_t *body = calloc(1, len);
	struct iovec v = {body, len};

	MUST(body != NULL);
	dsm__loop_lock(far);
	MUST_OK(dsm__loop_attach(far, e.b, &echo_ops, &b, &b.h));
	dsm__loop_unlock(far);
	dsm__loop_lock(l);
	MUST_OK(dsm__loop_attach(l, e.a, &echo_ops, &a, &a.h));
	MUST_OK(dsm__handle_send(a.h, 1, 0, &v, 1));
	MUST_OK(dsm__loop_drive(l, has_frames, &a, PATIENCE));
	MUST_BE(a.losts + b.losts, 0);
	dsm__handle_close(a.h);
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
	dsm__loop_destroy(far);
	free(body);
}

static void
test_loops_that_spin_play_ping_pong(void)
{
	ping_pong_on_loops(SPIN, 100, 10);
}

static void
test_loops_that_sleep_play_ping_pong(void)
{
	ping_pong_on_loops(0, 100, 10);
}

static void
test_loops_write_on_when_credits_come(void)
{
	ping_pong_on_loops(0, 10, 700000);
}

struct goer {
	struct party party;
	struct dsm_msg_qp theirs;
};

static void
go_over(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct goer *g = owner;
	struct dsm_conn *c = dsm__handle_conn(h);

	if (strcmp(dsm__conn_transport(c), "verbs") == 0) {
		echo(&g->party, h, f);
		return;
	}
	MUST_OK(dsm__conn_verbs_connect(c, &g->theirs, NULL));
	MUST_OK(dsm__handle_send(h, f->type, f->tag, NULL, 0));
	MUST_OK(dsm__conn_flush(c));
	MUST_OK(dsm__conn_verbs_go(c, NULL));
	MUST_OK(dsm__handle_refresh(h));
}

static void
test_a_conn_goes_over_on_a_loop(void)
{
	static const struct dsm_handle_ops ops = {go_over, on_lost};
	struct dsm_loop *l = new_loop(0, 1);
	struct goer g = {.party = {.loop = l}};
	struct dsm_msg_qp qp[2];
	struct ends e;

	offer_both(&e, qp);
	g.theirs = qp[0];
	dsm__loop_lock(l);
	MUST_OK(dsm__loop_attach(l, e.b, &ops, &g, &g.party.h));
	dsm__loop_unlock(l);
	must_send(e.a, 1, 10);
	must_recv(e.a, 1, 0);
	MUST_OK(dsm__conn_verbs_connect(e.a, &qp[1], NULL));
	MUST_OK(dsm__conn_verbs_go(e.a, NULL));
	for (uint64_t i = 0; i < 50; i++) {
		struct dsm_frame f;

		must_send(e.a, i, 3000);
		MUST_OK(dsm__conn_recv_wait(e.a, PATIENCE, 0, &f, NULL));
		MUST_BE(f.tag, i + 1);
	}
	dsm__conn_close(e.a);
	dsm__loop_lock(l);
	MUST_OK(dsm__loop_drive(l, is_lost, &g.party, PATIENCE));
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
}

/* --- the end of the peer --- */

/* A process with a device of its own that goes over on fd and then waits to be
 * killed. Exits with a place in the code when it cannot. */
static void __attribute__((noreturn)) be_peer(int fd)
{
	struct dsm_verbs_choice choice = {.port = 0};
	struct dsm_verbs_domain *d;
	struct dsm_verbs *v;
	struct dsm_conn *c;
	struct dsm_msg_qp mine, theirs;
	struct dsm_wbuf w = {0};
	struct dsm_frame f;
	struct iovec iov;

	alarm(30);
	if (dsm__verbs_choice_env(&choice, NULL) != DSM_OK ||
	    dsm__verbs_open(&choice, &v, NULL) != DSM_OK ||
	    dsm__verbs_domain_create(v, &d, NULL) != DSM_OK ||
	    dsm__conn_create(&dsm__tcp_ops, fd, LIMIT, &c) != DSM_OK ||
	    dsm__conn_verbs_offer(c, d, &mine, NULL) != DSM_OK ||
	    dsm__encode_qp(&w, &mine) != DSM_OK)
		_exit(2);
	iov = (struct iovec){w.ptr, w.len};
	if (dsm__conn_send(c, DSM_MSG_QP, 0, 0, &iov, 1) != DSM_OK ||
	    dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL) != DSM_OK ||
	    dsm__decode_qp(f.body, f.len, &theirs) != DSM_OK ||
	    dsm__conn_verbs_connect(c, &theirs, NULL) != DSM_OK ||
	    dsm__conn_verbs_go(c, NULL) != DSM_OK ||
	    dsm__conn_send(c, 7, 0, 5, NULL, 0) != DSM_OK)
		_exit(3);
	for (;;)
		pause();
}

/* Our end of a connection to such a process. */
static struct dsm_conn *
start_peer(pid_t *pid_p)
{
	struct dsm_msg_qp mine, theirs;
	struct dsm_wbuf w = {0};
	struct dsm_frame f;
	struct dsm_conn *c;
	struct iovec iov;
	int fds[2];

	MUST_OK(dsm__shm_pair(fds));
	*pid_p = fork();
	MUST(*pid_p >= 0);
	if (*pid_p == 0) {
		close(fds[0]);
		dsm__verbs_forget(verbs_device());
		be_peer(fds[1]);
	}
	close(fds[1]);
	MUST_OK(dsm__conn_create(&dsm__tcp_ops, fds[0], LIMIT, &c));
	MUST_OK(dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL));
	MUST_OK(dsm__decode_qp(f.body, f.len, &theirs));
	MUST_OK(dsm__conn_verbs_offer(c, verbs_domain(), &mine, NULL));
	MUST_OK(dsm__conn_verbs_connect(c, &theirs, NULL));
	MUST_OK(dsm__encode_qp(&w, &mine));
	iov = (struct iovec){w.ptr, w.len};
	MUST_OK(dsm__conn_send(c, DSM_MSG_QP, 0, 0, &iov, 1));
	dsm__wbuf_fini(&w);
	MUST_OK(dsm__conn_verbs_go(c, NULL));
	must_recv(c, 5, 0);
	return c;
}

static void
must_die(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	MUST_BE(waitpid(pid, &status, 0), pid);
	MUST(WIFSIGNALED(status));
}

static void
test_a_killed_peer_is_seen_by_a_sleeper(void)
{
	struct dsm_frame f;
	uint64_t start;
	pid_t pid;
	struct dsm_conn *c = start_peer(&pid);

	must_die(pid);
	start = dsm__now();
	MUST_BE(dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL), DSM_ECONN);
	MUST(dsm__now() - start < 5 * DSM_SEC);
	dsm__conn_close(c);
}

static void
test_a_killed_peer_ends_reads_in_flight(void)
{
	uint8_t *ring = shared(MIB);
	uint64_t start;
	pid_t pid;
	struct dsm_conn *c = start_peer(&pid);

	MUST_OK(dsm__conn_read_ring(c, ring, MIB, NULL));
	must_die(pid);
	start = dsm__now();
	MUST_OK(dsm__conn_read_start(c, PAGE, 1, ring, PAGE));
	MUST_OK(dsm__conn_read_start(c, PAGE, 1, ring, PAGE));
	MUST_BE(dsm__conn_read_wait(c, PATIENCE, SPIN, NULL), DSM_ECONN);
	MUST(dsm__now() - start < 10 * DSM_SEC);
	dsm__conn_close(c);
	munmap(ring, MIB);
}

static void
test_a_killed_peer_ends_a_writer(void)
{
	uint64_t start;
	pid_t pid;
	struct dsm_conn *c = start_peer(&pid);

	must_die(pid);
	start = dsm__now();
	MUST_OK(dsm__conn_send(c, 7, 0, 1, NULL, 0));
	MUST_WITHIN_MS(10000, dsm__conn_send(c, 7, 0, 1, NULL, 0) == DSM_ECONN);
	dsm__conn_close(c);
	MUST(dsm__now() - start < 11 * DSM_SEC);
}

static void
test_a_forked_child_lets_go_without_disturbing(void)
{
	struct ends e = open_ends();
	struct dsm_frame f;
	int ready[2], status;
	pid_t pid;
	char byte;

	MUST_BE(pipe(ready), 0);
	must_pass_frames(&e);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		dsm__conn_forget(e.a);
		dsm__conn_forget(e.b);
		dsm__verbs_forget(verbs_device());
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	MUST_BE(read(ready[0], &byte, 1), 1);
	must_pass_frames(&e);
	/* It has nothing of ours that would keep the connection. */
	dsm__conn_close(e.a);
	MUST_BE(dsm__conn_recv_wait(e.b, PATIENCE, 0, &f, NULL), DSM_ECONN);
	dsm__conn_close(e.b);
	kill(pid, SIGKILL);
	MUST_BE(waitpid(pid, &status, 0), pid);
	close(ready[0]);
	close(ready[1]);
}

SUITE_UNLESS(dsm_transport_verbs_pairs, "dsm.transport.verbs_pairs",
             verbs_missing,
             T(test_an_offer_that_is_withdrawn_leaves_the_socket),
             T(test_a_queue_pair_that_cannot_be_is_refused),
             T(test_nothing_may_be_left_on_tcp_when_going_over),
             T(test_what_is_sent_before_the_peer_goes_over_is_kept),
             T(test_bytes_on_the_silent_socket_are_an_error),
             T(test_a_read_brings_the_bytes),
             T(test_reads_in_flight_end_in_order_among_frames),
             T(test_a_read_outside_the_ring_is_not_started),
             T(test_a_read_with_a_wrong_key_fails_with_words),
             T(test_a_read_out_of_range_fails_with_words),
             T(test_a_domain_does_not_reach_into_another),
             T(test_floods_both_ways_neither_stop_nor_overrun),
             T(test_floods_pass_through_the_smallest_queue),
             T(test_an_end_that_only_reads_gives_credits_back),
             T(test_a_peer_that_was_promised_too_much_fails),
             T(test_a_writer_without_credits_sleeps_until_they_come),
             T(test_credits_that_came_while_reading_are_no_reason_to_sleep),
             T(test_loops_that_spin_play_ping_pong),
             T(test_loops_that_sleep_play_ping_pong),
             T(test_loops_write_on_when_credits_come),
             T(test_a_conn_goes_over_on_a_loop),
             T(test_a_killed_peer_is_seen_by_a_sleeper),
             T(test_a_killed_peer_ends_reads_in_flight),
             T(test_a_killed_peer_ends_a_writer),
             T(test_a_forked_child_lets_go_without_disturbing));
