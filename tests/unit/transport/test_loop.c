/*
 * The event loop: who drives, what is called when, and what may be closed. Over
 * sockets, over descriptors that have to be armed, and over verbs.
 */
#include "../../../dsm/transport/loop.h"
#include "../../../dsm/transport/verbs.h"
#include "../../conformance/conformance.h"
#include "../../conformance/oneshot.h"
#include "verbs_pair.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define MIB (1u << 20)
#define SPIN (50 * DSM_US)
#define PATIENCE dsm__deadline_ms(20000)

/* An owner: counts, and does what the test wants of its callbacks. */
struct party {
	struct dsm_loop *loop;
	struct dsm_handle *h;
	struct party *other;
	void (*then)(struct party *p, const struct dsm_frame *f);
	uint64_t tag; /* of the last frame */
	unsigned frames, losts, want;
	int err;
};

static void
on_frame(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct party *p = owner;

	MUST(h == p->h);
	MUST_BE(p->losts, 0);
	p->frames++;
	p->tag = f->tag;
	if (p->then != NULL)
		p->then(p, f);
	dsm__loop_kick(p->loop);
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct party *p = owner;

	MUST(h == p->h);
	p->losts++;
	p->err = err;
	dsm__loop_kick(p->loop);
}

static const struct dsm_handle_ops ops = {on_frame, on_lost};

static int
has_frames(void *arg)
{
	const struct party *p = arg;

	return p->frames >= p->want;
}

static int
is_lost(void *arg)
{
	const struct party *p = arg;

	return p->losts > 0;
}

static int
never(void *arg)
{
	(void)arg;
	return 0;
}

static struct dsm_loop *
new_loop(uint64_t spin_ns, int background)
{
	const struct dsm_loop_params p = {spin_ns, background};
	struct dsm_loop *l;

	MUST_OK(dsm__loop_create(&p, &l));
	return l;
}

/* What the conns of a suite are; its cases set it. */
static struct conformance over;

static int
socket_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	return conformance_sockets(&dsm__shm_ops, dsm__shm_pair, max_body, c_p);
}

static void
new_conns(struct dsm_conn *c[2])
{
	MUST_OK(over.open(32 * MIB, c));
}

static void
attach(struct dsm_loop *l, struct dsm_conn *c, struct party *p)
{
	p->loop = l;
	MUST_OK(dsm__loop_attach(l, c, &ops, p, &p->h));
}

/* p on the loop, the returned conn is the other end. Lock held. */
static struct dsm_conn *
attach_one(struct dsm_loop *l, struct party *p)
{
	struct dsm_conn *c[2];

	new_conns(c);
	attach(l, c[0], p);
	return c[1];
}

static void
must_send(struct dsm_conn *c, uint64_t tag)
{
	struct iovec v = {&tag, sizeof(tag)};

	MUST_OK(dsm__conn_send(c, 1, 0, tag, &v, 1));
}

static void
echo(struct party *p, const struct dsm_frame *f)
{
	struct iovec v = {(void *)f->body, f->len};

	dsm__handle_send(p->h, f->type, f->tag + 1, &v, 1);
}

static void
ping_pong(uint64_t spin_ns, int background)
{
	struct dsm_loop *l = new_loop(spin_ns, background);
	struct party a = {.then = echo, .want = 200};
	struct party b = {.then = echo};
	struct dsm_conn *c[2];

	new_conns(c);
	dsm__loop_lock(l);
	attach(l, c[0], &a);
	attach(l, c[1], &b);
	MUST_OK(dsm__handle_send(a.h, 1, 0, NULL, 0));
	MUST_OK(dsm__loop_drive(l, has_frames, &a, PATIENCE));
	MUST(a.tag >= 399);
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
}

static void
test_two_handles_play_ping_pong(void)
{
	ping_pong(0, 0);
	ping_pong(SPIN, 0);
	ping_pong(0, 1);
	ping_pong(SPIN, 1);
}

static void
test_driving_ends_at_the_deadline(void)
{
	for (int spin = 0; spin < 2; spin++) {
		struct dsm_loop *l = new_loop(spin ? DSM_SEC : 0, 0);
		struct party a = {0};
		struct dsm_conn *c;
		uint64_t start = dsm__now();

		dsm__loop_lock(l);
		c = attach_one(l, &a);
		MUST_BE(dsm__loop_drive(l, never, NULL, start + 20 * DSM_MS),
		        DSM_ETIMEDOUT);
		MUST(dsm__now() - start >= 20 * DSM_MS);
		MUST_BE(dsm__loop_drive(l, never, NULL, 0), DSM_ETIMEDOUT);
		dsm__loop_unlock(l);
		dsm__conn_close(c);
		dsm__loop_destroy(l);
	}
}

static void
test_an_idle_loop_sleeps(void)
{
	struct dsm_loop *l = new_loop(SPIN, 1);
	struct party a = {0};
	struct dsm_conn *c;
	struct timespec before, after;
	uint64_t used;

	dsm__loop_lock(l);
	c = attach_one(l, &a);
	dsm__loop_unlock(l);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	dsm__loop_lock(l);
	MUST_BE(dsm__loop_drive(l, never, NULL, dsm__deadline_ms(100)),
	        DSM_ETIMEDOUT);
	dsm__loop_unlock(l);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	used = (uint64_t)(after.tv_sec - before.tv_sec) * DSM_SEC +
	       (uint64_t)after.tv_nsec - (uint64_t)before.tv_nsec;
	MUST(used < 30 * DSM_MS);
	dsm__conn_close(c);
	dsm__loop_destroy(l);
}

static void
test_a_lost_peer_is_told_once_after_its_last_frame(void)
{
	for (int spin = 0; spin < 2; spin++) {
		struct dsm_loop *l = new_loop(spin * SPIN, 0);
		struct party a = {0};
		struct dsm_conn *c;

		dsm__loop_lock(l);
		c = attach_one(l, &a);
		for (uint64_t i = 0; i < 20; i++)
			must_send(c, i);
		dsm__conn_close(c);
		MUST_OK(dsm__loop_drive(l, is_lost, &a, PATIENCE));
		MUST_BE(a.frames, 20);
		MUST_BE(a.err, DSM_ECONN);
		dsm__loop_drive(l, never, NULL, dsm__deadline_ms(5));
		MUST_BE(a.losts, 1);
		MUST_BE(dsm__handle_send(a.h, 1, 0, NULL, 0), DSM_ECONN);
		dsm__loop_drive(l, never, NULL, dsm__deadline_ms(5));
		MUST_BE(a.losts, 1);
		dsm__handle_close(a.h);
		dsm__loop_unlock(l);
		dsm__loop_destroy(l);
	}
}

static void
test_a_failed_send_is_told_by_the_loop(void)
{
	struct dsm_loop *l = new_loop(0, 0);
	struct party a = {0};
	struct dsm_conn *c;

	dsm__loop_lock(l);
	c = attach_one(l, &a);
	must_send(c, 5);
	dsm__conn_close(c);
	/* The first of them may still be taken by the transport. */
	MUST_WITHIN_MS(20000,
	               dsm__handle_send(a.h, 1, 0, NULL, 0) == DSM_ECONN);
	MUST_BE(a.losts, 0);
	MUST_OK(dsm__loop_drive(l, is_lost, &a, PATIENCE));
	MUST_BE(a.frames, 1);
	MUST_BE(a.losts, 1);
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
}

static void
test_garbage_is_told_as_a_protocol_error(void)
{
	struct dsm_loop *l = new_loop(0, 0);
	struct party a = {0};
	struct iovec garbage = {"0123456789abcdef", 16};
	struct dsm_conn *c;

	dsm__loop_lock(l);
	c = attach_one(l, &a);
	MUST_BE(over.ops->writev(c, &garbage, 1), 16);
	MUST_OK(dsm__loop_drive(l, is_lost, &a, PATIENCE));
	MUST_BE(a.err, DSM_EPROTO);
	dsm__loop_unlock(l);
	dsm__conn_close(c);
	dsm__loop_destroy(l);
}

/* Reads the body after closing: it must still be there. */
static void
close_both(struct party *p, const struct dsm_frame *f)
{
	uint64_t tag;

	dsm__handle_close(p->h);
	if (p->other != NULL) {
		dsm__handle_close(p->other->h);
		p->other->other = NULL;
		p->other->want = 0;
	}
	memcpy(&tag, f->body, sizeof(tag));
	MUST_BE(tag, f->tag);
}

static void
test_a_callback_may_close_its_own_and_other_handles(void)
{
	for (int spin = 0; spin < 2; spin++) {
		struct dsm_loop *l = new_loop(spin * SPIN, 0);
		struct party a = {.then = close_both, .want = 1};
		struct party b = {.then = close_both, .want = 1};
		struct dsm_conn *c[2];

		dsm__loop_lock(l);
		c[0] = attach_one(l, &a);
		c[1] = attach_one(l, &b);
		a.other = &b;
		b.other = &a;
		/* Both have frames waiting: one comes first and ends both. */
		for (uint64_t i = 1; i <= 20; i++) {
			must_send(c[0], i);
			must_send(c[1], i);
		}
		dsm__loop_drive(l, has_frames, &a, PATIENCE);
		dsm__loop_drive(l, has_frames, &b, PATIENCE);
		dsm__loop_drive(l, never, NULL, dsm__deadline_ms(5));
		MUST_BE(a.frames + b.frames, 1);
		MUST_BE(a.losts + b.losts, 0);
		dsm__loop_unlock(l);
		dsm__conn_close(c[0]);
		dsm__conn_close(c[1]);
		dsm__loop_destroy(l);
	}
}

static void
close_when_lost(void *owner, struct dsm_handle *h, int err)
{
	on_lost(owner, h, err);
	dsm__handle_close(h);
}

static void
test_lost_may_close_its_handle(void)
{
	static const struct dsm_handle_ops closing = {on_frame,
	                                              close_when_lost};
	struct dsm_loop *l = new_loop(SPIN, 0);
	struct party a = {.loop = l};
	struct dsm_conn *c[2];

	new_conns(c);
	dsm__loop_lock(l);
	MUST_OK(dsm__loop_attach(l, c[0], &closing, &a, &a.h));
	dsm__conn_close(c[1]);
	MUST_OK(dsm__loop_drive(l, is_lost, &a, PATIENCE));
	dsm__loop_drive(l, never, NULL, dsm__deadline_ms(5));
	MUST_BE(a.losts, 1);
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
}

/* Hands its conn on to the other party. */
static void
pass_on(struct party *p, const struct dsm_frame *f)
{
	struct dsm_conn *c = dsm__handle_detach(p->h);

	MUST_BE(f->tag, 1);
	attach(p->loop, c, p->other);
}

static void
test_a_detached_conn_keeps_its_buffered_frames(void)
{
	struct dsm_loop *l = new_loop(0, 0);
	struct party b = {.want = 19};
	struct party a = {.then = pass_on, .other = &b};
	struct dsm_conn *c;

	dsm__loop_lock(l);
	c = attach_one(l, &a);
	for (uint64_t i = 1; i <= 20; i++)
		must_send(c, i);
	MUST_OK(dsm__loop_drive(l, has_frames, &b, PATIENCE));
	MUST_BE(a.frames, 1);
	MUST_BE(b.frames, 19);
	MUST_BE(b.tag, 20);
	/* And its descriptor is still watched. */
	b.want = 20;
	must_send(c, 7);
	MUST_OK(dsm__loop_drive(l, has_frames, &b, PATIENCE));
	dsm__loop_unlock(l);
	dsm__conn_close(c);
	dsm__loop_destroy(l);
}

static void
check_fair(struct party *p, const struct dsm_frame *f)
{
	(void)f;
	/* The flood had its share, not more. */
	MUST(p->other->frames <= 100);
}

static void
test_a_flood_on_one_conn_does_not_starve_another(void)
{
	struct dsm_loop *l = new_loop(SPIN, 0);
	struct party flood = {0};
	struct party quiet = {.then = check_fair, .other = &flood, .want = 1};
	struct dsm_conn *c[2];

	dsm__loop_lock(l);
	c[0] = attach_one(l, &flood);
	c[1] = attach_one(l, &quiet);
	for (uint64_t i = 0; i < 5000; i++)
		must_send(c[0], i);
	must_send(c[1], 0);
	MUST_OK(dsm__loop_drive(l, has_frames, &quiet, PATIENCE));
	flood.want = 5000;
	while (flood.frames < 5000) {
		dsm__conn_flush(c[0]);
		dsm__loop_drive(l, has_frames, &flood, dsm__deadline_ms(1));
	}
	dsm__loop_unlock(l);
	dsm__conn_close(c[0]);
	dsm__conn_close(c[1]);
	dsm__loop_destroy(l);
}

static void
test_more_hot_conns_than_are_polled_one_by_one(void)
{
	enum { N = 20 };
	struct dsm_loop *l = new_loop(SPIN, 0);
	struct party p[N], q[N];
	struct dsm_conn *c[2];

	dsm__loop_lock(l);
	for (int i = 0; i < N; i++) {
		p[i] = (struct party){.then = echo, .want = 50};
		q[i] = (struct party){.then = echo};
		new_conns(c);
		attach(l, c[0], &p[i]);
		attach(l, c[1], &q[i]);
		MUST_OK(dsm__handle_send(p[i].h, 1, 0, NULL, 0));
	}
	for (int i = 0; i < N; i++)
		MUST_OK(dsm__loop_drive(l, has_frames, &p[i], PATIENCE));
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
}

static void
test_queued_bytes_are_written_when_there_is_room(void)
{
	for (int spin = 0; spin < 2; spin++) {
		struct dsm_loop *l = new_loop(spin * SPIN, 0);
		struct party a = {.then = echo, .want = 1};
		struct party b = {.want = 1};
		uint8_t *body = calloc(1, 4 * MIB);
		struct iovec v = {body, 4 * MIB};
		struct dsm_conn *c[2];

		new_conns(c);
		dsm__loop_lock(l);
		attach(l, c[0], &a);
		attach(l, c[1], &b);
		MUST_OK(dsm__handle_send(b.h, 1, 3, &v, 1));
		MUST(dsm__conn_backlog(c[1]) > 0);
		MUST_OK(dsm__loop_drive(l, has_frames, &b, PATIENCE));
		MUST_BE(b.tag, 4);
		dsm__loop_unlock(l);
		dsm__loop_destroy(l);
		free(body);
	}
}

static void
test_the_background_thread_answers_while_nobody_drives(void)
{
	for (int spin = 0; spin < 2; spin++) {
		struct dsm_loop *l = new_loop(spin * SPIN, 1);
		struct party a = {.then = echo};
		struct dsm_conn *c;
		struct dsm_frame f;

		dsm__loop_lock(l);
		c = attach_one(l, &a);
		dsm__loop_unlock(l);
		for (uint64_t i = 0; i < 50; i++) {
			must_send(c, i);
			MUST_OK(dsm__conn_recv_wait(c, PATIENCE, 0, &f, NULL));
			MUST_BE(f.tag, i + 1);
			/* Again after somebody else has driven for a while. */
			if (i % 10 != 9)
				continue;
			dsm__loop_lock(l);
			dsm__loop_drive(l, never, NULL,
			                dsm__deadline_ms(i % 20 == 9 ? 1 : 8));
			dsm__loop_unlock(l);
		}
		dsm__loop_destroy(l);
		dsm__conn_close(c);
	}
}

struct waiter {
	struct dsm_loop *loop;
	struct party party;
	struct dsm_conn *peer;
	pthread_t thread;
	int err;
};

static void *
wait_for_frames(void *arg)
{
	struct waiter *w = arg;

	dsm__loop_lock(w->loop);
	w->err = dsm__loop_drive(w->loop, has_frames, &w->party, PATIENCE);
	dsm__loop_unlock(w->loop);
	return NULL;
}

static void
several_waiters(uint64_t spin_ns, int background)
{
	enum { N = 5 };
	struct dsm_loop *l = new_loop(spin_ns, background);
	struct waiter w[N];

	dsm__loop_lock(l);
	for (int i = 0; i < N; i++) {
		w[i] = (struct waiter){.loop = l, .party = {.want = 10}};
		w[i].peer = attach_one(l, &w[i].party);
	}
	dsm__loop_unlock(l);
	for (int i = 0; i < N; i++)
		MUST_BE(
		    pthread_create(&w[i].thread, NULL, wait_for_frames, &w[i]),
		    0);
	/* Ends in an order of its own: the driver is not always the last. */
	for (int i = 0; i < N; i++) {
		struct waiter *one = &w[(i * 3 + 1) % N];

		for (uint64_t k = 0; k < 10; k++)
			must_send(one->peer, k);
		pthread_join(one->thread, NULL);
		MUST_OK(one->err);
	}
	dsm__loop_destroy(l);
	for (int i = 0; i < N; i++)
		dsm__conn_close(w[i].peer);
}

static void
test_several_waiters_each_end_with_their_own_condition(void)
{
	several_waiters(0, 0);
	several_waiters(SPIN, 0);
	several_waiters(0, 1);
	several_waiters(SPIN, 1);
}

static void *
ask_often(void *arg)
{
	struct waiter *w = arg;

	for (unsigned i = 1; i <= 200 && w->err == DSM_OK; i++) {
		dsm__loop_lock(w->loop);
		w->party.want = i;
		w->err = dsm__handle_send(w->party.h, 1, i, NULL, 0);
		if (w->err == DSM_OK)
			w->err = dsm__loop_drive(w->loop, has_frames, &w->party,
			                         PATIENCE);
		dsm__loop_unlock(w->loop);
	}
	return NULL;
}

static void
test_threads_that_ask_in_turn_all_get_their_answers(void)
{
	enum { N = 3 };
	struct dsm_loop *server = new_loop(SPIN, 1);
	struct dsm_loop *l = new_loop(SPIN, 1);
	struct party peers[N];
	struct waiter w[N];

	for (int i = 0; i < N; i++) {
		struct dsm_conn *c[2];

		peers[i] = (struct party){.then = echo};
		w[i] = (struct waiter){.loop = l};
		new_conns(c);
		dsm__loop_lock(server);
		attach(server, c[0], &peers[i]);
		dsm__loop_unlock(server);
		dsm__loop_lock(l);
		attach(l, c[1], &w[i].party);
		dsm__loop_unlock(l);
	}
	for (int i = 0; i < N; i++)
		MUST_BE(pthread_create(&w[i].thread, NULL, ask_often, &w[i]),
		        0);
	for (int i = 0; i < N; i++) {
		pthread_join(w[i].thread, NULL);
		MUST_OK(w[i].err);
		MUST_BE(w[i].party.frames, 200);
	}
	dsm__loop_destroy(l);
	dsm__loop_destroy(server);
}

static void
test_another_thread_may_attach_while_the_driver_sleeps(void)
{
	struct dsm_loop *l = new_loop(0, 0);
	struct waiter w = {.loop = l, .party = {.want = 1}};

	MUST_BE(pthread_create(&w.thread, NULL, wait_for_frames, &w), 0);
	/* Time for it to fall asleep; the test holds without, too. */
	for (int i = 0; i < 50; i++)
		test_pause();
	dsm__loop_lock(l);
	w.peer = attach_one(l, &w.party);
	dsm__loop_unlock(l);
	for (int i = 0; i < 50; i++)
		test_pause();
	must_send(w.peer, 1);
	pthread_join(w.thread, NULL);
	MUST_OK(w.err);
	dsm__loop_destroy(l);
	dsm__conn_close(w.peer);
}

static void
test_a_kick_makes_sleepers_look_again(void)
{
	enum { N = 3 };
	struct dsm_loop *l = new_loop(0, 0);
	struct waiter w[N];

	for (int i = 0; i < N; i++) {
		w[i] = (struct waiter){.loop = l, .party = {.want = 1}};
		MUST_BE(
		    pthread_create(&w[i].thread, NULL, wait_for_frames, &w[i]),
		    0);
	}
	for (int i = 0; i < 50; i++)
		test_pause();
	for (int i = 0; i < N; i++) {
		dsm__loop_lock(l);
		w[i].party.frames = 1;
		dsm__loop_kick(l);
		dsm__loop_unlock(l);
		pthread_join(w[i].thread, NULL);
		MUST_OK(w[i].err);
	}
	dsm__loop_destroy(l);
}

struct alarm {
	uv_timer_t timer;
	struct dsm_loop *loop;
	_Atomic unsigned fired;
	unsigned want;
};

static void
on_timer(uv_timer_t *timer)
{
	struct alarm *a = timer->data;

	a->fired++;
	dsm__loop_kick(a->loop);
}

static int
has_fired(void *arg)
{
	const struct alarm *a = arg;

	return a->fired >= a->want;
}

static void
start_alarm(struct dsm_loop *l, struct alarm *a, uint64_t ms)
{
	a->loop = l;
	a->timer.data = a;
	uv_timer_init(dsm__loop_uv(l), &a->timer);
	uv_timer_start(&a->timer, on_timer, ms, ms);
}

static void
test_timers_fire_while_conns_are_hot(void)
{
	struct dsm_loop *l = new_loop(10 * DSM_SEC, 0);
	struct party a = {.then = echo, .want = UINT32_MAX};
	struct party b = {.then = echo};
	struct alarm t = {.want = 3};
	struct dsm_conn *c[2];

	new_conns(c);
	dsm__loop_lock(l);
	attach(l, c[0], &a);
	attach(l, c[1], &b);
	start_alarm(l, &t, 2);
	/* Hot and silent, then hot and busy. */
	MUST_OK(dsm__loop_drive(l, has_fired, &t, PATIENCE));
	t.want = 6;
	MUST_OK(dsm__handle_send(a.h, 1, 0, NULL, 0));
	MUST_OK(dsm__loop_drive(l, has_fired, &t, PATIENCE));
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
}

static void
test_timers_fire_whoever_sleeps(void)
{
	struct dsm_loop *l = new_loop(0, 1);
	struct alarm t = {.want = UINT32_MAX};

	/* The background thread sleeps for ever when the timer starts. */
	for (int i = 0; i < 50; i++)
		test_pause();
	dsm__loop_lock(l);
	start_alarm(l, &t, 1);
	dsm__loop_unlock(l);
	MUST_WITHIN_MS(5000, t.fired >= 3);
	dsm__loop_lock(l);
	t.want = t.fired + 3;
	MUST_OK(dsm__loop_drive(l, has_fired, &t, PATIENCE));
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
}

static void
stop_loop(uv_timer_t *timer)
{
	dsm__loop_stop(timer->data);
}

static void
test_a_daemon_runs_until_it_is_stopped(void)
{
	struct dsm_loop *l = new_loop(SPIN, 0);
	uv_timer_t timer;

	for (int i = 0; i < 2; i++) {
		dsm__loop_lock(l);
		uv_timer_init(dsm__loop_uv(l), &timer);
		timer.data = l;
		uv_timer_start(&timer, stop_loop, 2, 0);
		dsm__loop_unlock(l);
		dsm__loop_run(l);
		uv_close((uv_handle_t *)&timer, NULL);
		dsm__loop_lock(l);
		dsm__loop_drive(l, never, NULL, dsm__deadline_ms(2));
		dsm__loop_unlock(l);
	}
	dsm__loop_destroy(l);
}

static void
test_destroy_closes_what_is_attached(void)
{
	for (int i = 0; i < 4; i++) {
		struct dsm_loop *l = new_loop(i % 2 * SPIN, i / 2);
		struct party a = {.then = echo};
		struct party b = {0};
		struct dsm_conn *c[2];
		struct dsm_frame f;

		dsm__loop_lock(l);
		c[0] = attach_one(l, &a);
		c[1] = attach_one(l, &b);
		must_send(c[0], 1);
		dsm__loop_unlock(l);
		dsm__loop_destroy(l);
		MUST_BE(a.losts + b.losts, 0);
		MUST_BE(dsm__conn_recv_wait(c[1], PATIENCE, 0, &f, NULL),
		        DSM_ECONN);
		dsm__conn_close(c[0]);
		dsm__conn_close(c[1]);
	}
	dsm__loop_destroy(NULL);
}

#define LOOP_CASES(X)                                        \
	X(two_handles_play_ping_pong)                        \
	X(driving_ends_at_the_deadline)                      \
	X(an_idle_loop_sleeps)                               \
	X(a_lost_peer_is_told_once_after_its_last_frame)     \
	X(a_failed_send_is_told_by_the_loop)                 \
	X(garbage_is_told_as_a_protocol_error)               \
	X(a_callback_may_close_its_own_and_other_handles)    \
	X(lost_may_close_its_handle)                         \
	X(a_detached_conn_keeps_its_buffered_frames)         \
	X(a_flood_on_one_conn_does_not_starve_another)       \
	X(more_hot_conns_than_are_polled_one_by_one)         \
	X(queued_bytes_are_written_when_there_is_room)       \
	X(the_background_thread_answers_while_nobody_drives) \
	X(several_waiters_each_end_with_their_own_condition) \
	X(threads_that_ask_in_turn_all_get_their_answers)    \
	X(another_thread_may_attach_while_the_driver_sleeps) \
	X(a_kick_makes_sleepers_look_again)                  \
	X(timers_fire_while_conns_are_hot)                   \
	X(timers_fire_whoever_sleeps)                        \
	X(a_daemon_runs_until_it_is_stopped)                 \
	X(destroy_closes_what_is_attached)

#define OVER(prefix, fn, ...)                             \
	static void prefix##_##fn(void)                   \
	{                                                 \
		over = (struct conformance){__VA_ARGS__}; \
		test_##fn();                              \
	}
#define OVER_SOCKETS(fn) OVER(sockets, fn, &dsm__shm_ops, socket_pair)
#define OVER_ONESHOT(fn) OVER(oneshot, fn, &oneshot_ops, oneshot_pair)
#define OVER_VERBS(fn) OVER(verbs, fn, &dsm__verbs_ops, verbs_pair)
LOOP_CASES(OVER_SOCKETS)
LOOP_CASES(OVER_ONESHOT)
LOOP_CASES(OVER_VERBS)

#define SOCKETS_CASE(fn) T(sockets_##fn),
#define ONESHOT_CASE(fn) T(oneshot_##fn),
#define VERBS_CASE(fn) T(verbs_##fn),
SUITE(dsm_transport_loop, "dsm.transport.loop",
      LOOP_CASES(SOCKETS_CASE){NULL, NULL});
SUITE(dsm_transport_loop_oneshot, "dsm.transport.loop_oneshot",
      LOOP_CASES(ONESHOT_CASE){NULL, NULL});
SUITE_UNLESS(dsm_transport_loop_verbs, "dsm.transport.loop_verbs",
             verbs_missing, LOOP_CASES(VERBS_CASE){NULL, NULL});
