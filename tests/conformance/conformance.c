/* The suite that every transport back-end passes. */
#include "conformance.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../dsm/wire/wire.h"

#define MIB (1u << 20)
#define LIMIT (2 * MIB)
#define PATIENCE dsm__deadline_ms(20000)

struct ends {
	const struct conformance *t;
	struct dsm_conn *a, *b;
};

int
conformance_sockets(const struct dsm_conn_ops *ops, int (*pair)(int *fds_p),
                    uint32_t max_body, struct dsm_conn *c_p[2])
{
	int fds[2];
	int err = pair(fds);

	if (err != DSM_OK)
		return err;
	err = dsm__conn_create(ops, fds[0], max_body, &c_p[0]);
	if (err != DSM_OK) {
		close(fds[1]);
		return err;
	}
	err = dsm__conn_create(ops, fds[1], max_body, &c_p[1]);
	if (err != DSM_OK)
		dsm__conn_close(c_p[0]);
	return err;
}

static void
open_ends(const struct conformance *t, uint32_t max_body, struct ends *e)
{
	struct dsm_conn *c[2];

	MUST_OK(t->open(max_body, c));
	*e = (struct ends){t, c[0], c[1]};
}

static void
close_b(struct ends *e)
{
	dsm__conn_close(e->b);
	e->b = NULL;
}

static void
close_ends(struct ends *e)
{
	dsm__conn_close(e->a);
	close_b(e);
}

/* Byte i of the body of frame tag. */
static uint8_t
pattern(uint64_t tag, size_t i)
{
	return (uint8_t)(tag * 31 + i + (i >> 8) * 7);
}

static uint8_t *
make_body(uint64_t tag, size_t len)
{
	uint8_t *p = malloc(len + 1);

	MUST(p != NULL);
	for (size_t i = 0; i < len; i++)
		p[i] = pattern(tag, i);
	return p;
}

static int
send_pattern(struct dsm_conn *c, uint64_t tag, size_t len)
{
	uint8_t *body = make_body(tag, len);
	struct iovec v = {body, len};
	int err = dsm__conn_send(c, 7, 1, tag, &v, 1);

	free(body);
	return err;
}

static void
must_be_pattern(const struct dsm_frame *f, uint64_t tag, size_t len)
{
	size_t i = 0;

	MUST_BE(f->type, 7);
	MUST_BE(f->flags, 1);
	MUST_BE(f->tag, tag);
	MUST_BE(f->len, len);
	while (i < len && f->body[i] == pattern(tag, i))
		i++;
	MUST_BE(i, len);
}

static void
must_recv(struct dsm_conn *c, uint64_t tag, size_t len)
{
	struct dsm_frame f;

	MUST_OK(dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL));
	must_be_pattern(&f, tag, len);
}

static int
wait_error(struct dsm_conn *c)
{
	struct dsm_frame f;

	return dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL);
}

/* Bytes, not frames, from b to a. */
static void
must_write(const struct ends *e, const void *p, size_t n)
{
	uint64_t until = PATIENCE;

	while (n > 0) {
		struct iovec v = {(void *)p, n};
		ssize_t put = e->t->ops->writev(e->b, &v, 1);

		MUST(put > 0 || put == DSM_EAGAIN);
		MUST(dsm__now() < until);
		if (put > 0) {
			p = (const uint8_t *)p + put;
			n -= (size_t)put;
		}
	}
}

/* A sleeper is woken by what comes. */
static void
must_wake(struct dsm_conn *c)
{
	struct pollfd p = {.fd = dsm__conn_fd(c)};
	int events;

	if (dsm__conn_arm(c, POLLIN, &events) == DSM_EAGAIN)
		return;
	p.events = (short)events;
	MUST_BE(poll(&p, 1, 5000), 1);
}

static void
put_header(uint8_t h[16], uint32_t len, uint8_t version)
{
	memset(h, 0, 16);
	for (int i = 0; i < 4; i++)
		h[i] = (uint8_t)(len >> 8 * i);
	h[4] = 7;
	h[6] = version;
	h[7] = 1;
	h[8] = 42;
}

void
conformance_frames_arrive_whole_and_in_order(const struct conformance *t)
{
	struct ends e;

	open_ends(t, LIMIT, &e);
	for (uint64_t i = 0; i < 100; i++)
		MUST_OK(send_pattern(e.a, i, i * 13));
	for (uint64_t i = 0; i < 100; i++) {
		dsm__conn_flush(e.a);
		must_recv(e.b, i, i * 13);
	}
	close_ends(&e);
}

void
conformance_an_empty_body_is_a_frame(const struct conformance *t)
{
	struct dsm_frame f;
	struct ends e;

	open_ends(t, LIMIT, &e);
	MUST_BE(dsm__conn_recv(e.b, &f), DSM_EAGAIN);
	MUST_OK(dsm__conn_send(e.a, 7, 1, UINT64_MAX, NULL, 0));
	MUST_OK(dsm__conn_send(e.a, 65535, 255, 0, NULL, 0));
	must_recv(e.b, UINT64_MAX, 0);
	MUST_OK(dsm__conn_recv_wait(e.b, PATIENCE, 0, &f, NULL));
	MUST_BE(f.type, 65535);
	MUST_BE(f.flags, 255);
	MUST_BE(f.len, 0);
	close_ends(&e);
}

void
conformance_a_body_of_many_pieces_arrives_as_one(const struct conformance *t)
{
	enum { PIECES = 300, PIECE = 5000 };
	uint8_t *body = make_body(3, PIECES * PIECE);
	struct iovec v[PIECES];
	struct dsm_frame f;
	struct ends e;
	size_t len = 0;
	int err;

	open_ends(t, LIMIT, &e);
	for (size_t i = 0; i < PIECES; i++) {
		v[i].iov_base = body + len;
		v[i].iov_len = i % 7 == 0 ? 0 : i * 16 % PIECE;
		len += v[i].iov_len;
	}
	MUST_OK(dsm__conn_send(e.a, 7, 1, 3, v, PIECES));
	while ((err = dsm__conn_recv(e.b, &f)) == DSM_EAGAIN)
		dsm__conn_flush(e.a);
	MUST_OK(err);
	must_be_pattern(&f, 3, len);
	close_ends(&e);
	free(body);
}

void
conformance_large_bodies_both_ways_at_once_do_not_deadlock(
    const struct conformance *t)
{
	enum { N = 6 };
	uint64_t until = PATIENCE;
	struct ends e;
	unsigned got[2] = {0, 0};

	open_ends(t, LIMIT, &e);
	for (uint64_t i = 0; i < N; i++) {
		MUST_OK(send_pattern(e.a, i, MIB + i));
		MUST_OK(send_pattern(e.b, i, MIB - i));
	}
	while (got[0] < N || got[1] < N) {
		struct dsm_frame f;

		MUST(dsm__now() < until);
		dsm__conn_flush(e.a);
		dsm__conn_flush(e.b);
		if (got[0] < N && dsm__conn_recv(e.a, &f) == DSM_OK) {
			must_be_pattern(&f, got[0], MIB - got[0]);
			got[0]++;
		}
		if (got[1] < N && dsm__conn_recv(e.b, &f) == DSM_OK) {
			must_be_pattern(&f, got[1], MIB + got[1]);
			got[1]++;
		}
	}
	MUST_BE(dsm__conn_backlog(e.a) + dsm__conn_backlog(e.b), 0);
	close_ends(&e);
}

void
conformance_frames_of_all_sizes_survive_any_interleaving(
    const struct conformance *t)
{
	static const size_t scale[] = {1, 40, 4200, 33000, 70000, LIMIT};
	enum { N = 250 };
	uint64_t seed = test_seed();
	uint64_t until = PATIENCE;
	size_t len[N];
	unsigned sent = 0, got = 0;
	struct ends e;

	open_ends(t, LIMIT, &e);
	while (got < N) {
		struct dsm_frame f;

		MUST(dsm__now() < until);
		if (sent < N && test_rand(&seed) % 2 == 0) {
			/* The largest are rare: they take long to check. */
			size_t s =
			    test_rand(&seed) % 5 + (test_rand(&seed) % 32 == 0);

			len[sent] = test_rand(&seed) % (scale[s] + 1);
			MUST_OK(send_pattern(e.a, sent, len[sent]));
			sent++;
		}
		if (test_rand(&seed) % 2 == 0)
			dsm__conn_flush(e.a);
		if (test_rand(&seed) % 2 == 0 &&
		    dsm__conn_recv(e.b, &f) == DSM_OK) {
			must_be_pattern(&f, got, len[got]);
			got++;
		}
	}
	close_ends(&e);
}

void
conformance_many_frames_in_one_read_are_handed_out_one_by_one(
    const struct conformance *t)
{
	enum { N = 1000 };
	uint8_t all[N * 18];
	struct ends e;

	open_ends(t, LIMIT, &e);
	for (size_t i = 0; i < N; i++) {
		put_header(all + i * 18, 2, DSM_VERSION);
		all[i * 18 + 16] = pattern(42, 0);
		all[i * 18 + 17] = pattern(42, 1);
	}
	must_write(&e, all, sizeof(all));
	for (size_t i = 0; i < N; i++)
		must_recv(e.a, 42, 2);
	close_ends(&e);
}

void
conformance_a_frame_arrives_byte_by_byte(const struct conformance *t)
{
	enum { LEN = 100 };
	uint8_t bytes[16 + LEN];
	struct dsm_frame f;
	struct ends e;

	open_ends(t, LIMIT, &e);
	put_header(bytes, LEN, DSM_VERSION);
	for (size_t i = 0; i < LEN; i++)
		bytes[16 + i] = pattern(42, i);
	for (size_t i = 0; i < sizeof(bytes); i++) {
		MUST_BE(dsm__conn_recv(e.a, &f), DSM_EAGAIN);
		must_write(&e, bytes + i, 1);
		must_wake(e.a);
	}
	MUST_OK(dsm__conn_recv(e.a, &f));
	must_be_pattern(&f, 42, LEN);
	close_ends(&e);
}

void
conformance_a_large_frame_is_not_read_beyond_its_end(
    const struct conformance *t)
{
	enum { LEN = 50000 };
	uint8_t *bytes = make_body(0, 16 + LEN + 5);
	static const uint8_t after[] = {1, 2, 3, 4, 5};
	uint8_t left[64];
	struct dsm_frame f;
	struct iovec v;
	struct ends e;
	ssize_t got;

	open_ends(t, LIMIT, &e);
	put_header(bytes, LEN, DSM_VERSION);
	for (size_t i = 0; i < LEN; i++)
		bytes[16 + i] = pattern(42, i);
	memcpy(bytes + 16 + LEN, after, sizeof(after));
	must_write(&e, bytes, 16 + LEN + 5);
	must_recv(e.a, 42, LEN);
	/* A back-end may give fewer bytes than there are. */
	for (size_t n = 0; n < sizeof(after); n += (size_t)got) {
		v = (struct iovec){left + n, sizeof(left) - n};
		got = t->ops->readv(e.a, &v, 1);
		MUST(got > 0);
	}
	MUST(memcmp(left, after, sizeof(after)) == 0);
	MUST_BE(dsm__conn_recv(e.a, &f), DSM_EAGAIN);
	close_ends(&e);
	free(bytes);
}

/* Sends a frame of 1 MiB, then one of 10 bytes, whatever the socket takes. */
static void *
send_two(void *conn)
{
	struct dsm_conn *c = conn;

	send_pattern(c, 1, MIB);
	send_pattern(c, 2, 10);
	dsm__conn_drain(c, PATIENCE);
	return NULL;
}

void
conformance_a_large_body_can_be_taken_in_parts(const struct conformance *t)
{
	enum { HEAD = 24, PART = 70000 };
	uint8_t *got = malloc(MIB);
	struct dsm_frame f, other;
	size_t at = HEAD;
	pthread_t peer;
	struct ends e;

	MUST(got != NULL);
	open_ends(t, LIMIT, &e);
	MUST_BE(pthread_create(&peer, NULL, send_two, e.b), 0);
	MUST_OK(dsm__conn_recv_head(e.a, HEAD, PATIENCE, 0, &f, NULL));
	MUST_BE(f.tag, 1);
	MUST_BE(f.len, MIB);
	MUST_BE(dsm__conn_rest(e.a), MIB - HEAD);
	memcpy(got, f.body, HEAD);
	MUST_BE(dsm__conn_recv(e.a, &other), DSM_EINVAL);
	MUST_BE(dsm__conn_rest_read(e.a, got, MIB, PATIENCE, 0), DSM_EINVAL);
	while (at < MIB) {
		size_t n = MIB - at < PART ? MIB - at : PART;

		MUST_OK(dsm__conn_rest_read(e.a, got + at, n, PATIENCE, 0));
		at += n;
	}
	MUST_BE(dsm__conn_rest(e.a), 0);
	f.body = got;
	must_be_pattern(&f, 1, MIB);
	/* A body shorter than the head is whole at once. */
	MUST_OK(dsm__conn_recv_head(e.a, HEAD, PATIENCE, 0, &f, NULL));
	must_be_pattern(&f, 2, 10);
	MUST_BE(dsm__conn_rest(e.a), 0);
	pthread_join(peer, NULL);
	free(got);
	close_ends(&e);
}

void
conformance_a_lost_peer_ends_the_wait_for_the_rest_of_a_body(
    const struct conformance *t)
{
	uint8_t bytes[16 + 100] = {0}, got[200];
	struct dsm_frame f;
	struct ends e;

	put_header(bytes, 200, DSM_VERSION);
	open_ends(t, LIMIT, &e);
	must_write(&e, bytes, sizeof(bytes));
	MUST_OK(dsm__conn_recv_head(e.a, 10, PATIENCE, 0, &f, NULL));
	MUST_BE(dsm__conn_rest_read(e.a, got, 190, dsm__now() + 20 * DSM_MS, 0),
	        DSM_ETIMEDOUT);
	close_b(&e);
	MUST_BE(dsm__conn_rest_read(e.a, got, dsm__conn_rest(e.a), PATIENCE, 0),
	        DSM_ECONN);
	close_ends(&e);
}

void
conformance_a_body_over_the_limit_is_refused(const struct conformance *t)
{
	struct ends e;

	open_ends(t, 1000, &e);
	MUST_OK(send_pattern(e.a, 1, 1000));
	MUST_OK(send_pattern(e.a, 2, 1001));
	MUST_OK(send_pattern(e.a, 3, 1));
	must_recv(e.b, 1, 1000);
	MUST_BE(wait_error(e.b), DSM_EPROTO);
	MUST_BE(wait_error(e.b), DSM_EPROTO);
	MUST_BE(dsm__conn_error(e.b), DSM_EPROTO);
	MUST_BE(send_pattern(e.b, 4, 1), DSM_EPROTO);
	close_ends(&e);
}

void
conformance_a_body_over_the_frame_limit_is_not_sent(const struct conformance *t)
{
	static uint8_t page[4096];
	struct iovec v[2] = {{page, 1}, {page, DSM_FRAME_MAX}};
	struct ends e;

	open_ends(t, LIMIT, &e);
	MUST_BE(dsm__conn_send(e.a, 7, 1, 0, v, 2), DSM_EINVAL);
	v[1].iov_len = SIZE_MAX;
	MUST_BE(dsm__conn_send(e.a, 7, 1, 0, v, 2), DSM_EINVAL);
	MUST_OK(dsm__conn_error(e.a));
	MUST_OK(send_pattern(e.a, 5, 10));
	must_recv(e.b, 5, 10);
	close_ends(&e);
}

void
conformance_garbage_is_a_protocol_error(const struct conformance *t)
{
	static const char garbage[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	uint8_t h[16];
	struct ends e;

	open_ends(t, LIMIT, &e);
	must_write(&e, garbage, sizeof(garbage) - 1);
	MUST_BE(wait_error(e.a), DSM_EPROTO);
	close_ends(&e);

	open_ends(t, LIMIT, &e);
	put_header(h, 0, DSM_VERSION + 1);
	must_write(&e, h, sizeof(h));
	MUST_BE(wait_error(e.a), DSM_EPROTO);
	close_ends(&e);
}

void
conformance_a_closed_peer_is_seen_after_its_last_frame(
    const struct conformance *t)
{
	struct ends e;

	open_ends(t, LIMIT, &e);
	MUST_OK(send_pattern(e.a, 1, 10));
	MUST_OK(send_pattern(e.a, 2, 70000));
	dsm__conn_close(e.a);
	e.a = NULL;
	must_recv(e.b, 1, 10);
	must_recv(e.b, 2, 70000);
	MUST_BE(wait_error(e.b), DSM_ECONN);
	MUST_BE(wait_error(e.b), DSM_ECONN);
	MUST_BE(dsm__conn_error(e.b), DSM_ECONN);
	MUST_BE(dsm__conn_flush(e.b), DSM_ECONN);
	close_ends(&e);
}

void
conformance_half_a_frame_and_a_close_is_a_lost_connection(
    const struct conformance *t)
{
	uint8_t bytes[30];
	struct ends e;

	for (size_t n = 1; n < sizeof(bytes); n++) {
		memset(bytes, 0, sizeof(bytes));
		put_header(bytes, sizeof(bytes) - 16, DSM_VERSION);
		open_ends(t, LIMIT, &e);
		must_write(&e, bytes, n);
		close_b(&e);
		MUST_BE(wait_error(e.a), DSM_ECONN);
		close_ends(&e);
	}
}

void
conformance_a_failed_send_does_not_lose_what_came_before(
    const struct conformance *t)
{
	struct ends e;
	uint64_t until = PATIENCE;

	open_ends(t, LIMIT, &e);
	MUST_OK(send_pattern(e.a, 1, 10));
	MUST_OK(send_pattern(e.a, 2, 20));
	dsm__conn_close(e.a);
	e.a = NULL;
	/* The first of them may still be taken by the kernel. */
	while (send_pattern(e.b, 3, 10) == DSM_OK)
		MUST(dsm__now() < until);
	MUST_BE(dsm__conn_error(e.b), DSM_ECONN);
	must_recv(e.b, 1, 10);
	must_recv(e.b, 2, 20);
	MUST_BE(wait_error(e.b), DSM_ECONN);
	close_ends(&e);
}

void
conformance_waiting_for_a_frame_times_out(const struct conformance *t)
{
	struct dsm_frame f;
	struct ends e;
	uint64_t start = dsm__now();

	open_ends(t, LIMIT, &e);
	MUST_BE(dsm__conn_recv_wait(e.a, start + 20 * DSM_MS, DSM_MS, &f, NULL),
	        DSM_ETIMEDOUT);
	MUST(dsm__now() - start >= 20 * DSM_MS);
	/* A spin longer than the wait ends with it; a past deadline at once. */
	MUST_BE(dsm__conn_recv_wait(e.a, dsm__deadline_ms(5), DSM_FOREVER, &f,
	                            NULL),
	        DSM_ETIMEDOUT);
	MUST_BE(dsm__conn_recv_wait(e.a, 0, DSM_SEC, &f, NULL), DSM_ETIMEDOUT);
	MUST_OK(dsm__conn_error(e.a));
	close_ends(&e);
}

static void *
read_then_answer(void *arg)
{
	struct dsm_conn *c = arg;
	struct dsm_frame f;

	if (dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL) == DSM_OK)
		send_pattern(c, 2, 10);
	return NULL;
}

void
conformance_waiting_for_a_frame_writes_what_is_queued(
    const struct conformance *t)
{
	enum { LEN = 16 * MIB };
	struct ends e;
	pthread_t peer;

	open_ends(t, LEN, &e);
	MUST_OK(send_pattern(e.a, 1, LEN));
	MUST(dsm__conn_backlog(e.a) > 0);
	MUST_BE(pthread_create(&peer, NULL, read_then_answer, e.b), 0);
	must_recv(e.a, 2, 10);
	pthread_join(peer, NULL);
	close_ends(&e);
}

void
conformance_a_frame_that_comes_during_the_spin_says_so(
    const struct conformance *t)
{
	struct dsm_frame f;
	struct ends e;
	int spun = -1;

	open_ends(t, LIMIT, &e);
	MUST_OK(send_pattern(e.a, 1, 10));
	MUST_OK(dsm__conn_recv_wait(e.b, PATIENCE, DSM_SEC, &f, &spun));
	MUST_BE(spun, 1);
	close_ends(&e);
}

void
conformance_draining_times_out_when_the_peer_does_not_read(
    const struct conformance *t)
{
	enum { LEN = 16 * MIB };
	struct ends e;
	pthread_t peer;
	uint64_t start;

	open_ends(t, LEN, &e);
	MUST_OK(dsm__conn_drain(e.a, PATIENCE));
	MUST_OK(send_pattern(e.a, 1, LEN));
	start = dsm__now();
	MUST_BE(dsm__conn_drain(e.a, start + 20 * DSM_MS), DSM_ETIMEDOUT);
	MUST(dsm__now() - start >= 20 * DSM_MS);
	MUST(dsm__conn_backlog(e.a) > 0);
	MUST_BE(pthread_create(&peer, NULL, read_then_answer, e.b), 0);
	MUST_OK(dsm__conn_drain(e.a, PATIENCE));
	MUST_BE(dsm__conn_backlog(e.a), 0);
	must_recv(e.a, 2, 10);
	pthread_join(peer, NULL);
	close_ends(&e);
}

void
conformance_backlog_counts_the_queued_bytes(const struct conformance *t)
{
	enum { LEN = 16 * MIB };
	struct ends e;
	size_t before;

	open_ends(t, LEN, &e);
	MUST_OK(send_pattern(e.a, 1, 100));
	MUST_BE(dsm__conn_backlog(e.a), 0);
	MUST_OK(send_pattern(e.a, 2, LEN));
	MUST(dsm__conn_backlog(e.a) > 0);
	MUST(dsm__conn_backlog(e.a) < LEN);
	MUST_BE(dsm__conn_flush(e.a), DSM_EAGAIN);
	before = dsm__conn_backlog(e.a);
	MUST_OK(send_pattern(e.a, 3, 100));
	/* The kernel may have found room for some of it meanwhile. */
	MUST(dsm__conn_backlog(e.a) <= before + 116);
	MUST(dsm__conn_backlog(e.a) > 116);
	close_ends(&e);
}

void
conformance_a_connection_names_its_peer(const struct conformance *t)
{
	struct ends e;

	open_ends(t, LIMIT, &e);
	MUST(strlen(dsm__conn_peer(e.a)) > 0);
	MUST(strcmp(dsm__conn_transport(e.a), t->ops->name) == 0);
	close_ends(&e);
}
