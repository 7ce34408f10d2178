/* Passing frames on from one handle to another that is slower. */
#include "../../../dsm/transport/loop.h"
#include "../../test.h"

#include <time.h>

#define FRAME (128u << 10)
#define LIMIT (512u << 10)
#define N_FRAMES 400 /* 50 MiB: more than sockets buffer */
#define PATIENCE dsm__deadline_ms(20000)

static uint8_t body[FRAME];

/* far (the sender's end) -> in => out -> far end of `out`. */
struct pipe {
	struct dsm_loop *loop;
	struct dsm_handle *in, *out;
	struct dsm_conn *sender, *reader;
	unsigned passed, losts;
	size_t most; /* bytes queued at `out` */
};

static void
pass_on(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	struct pipe *p = owner;
	const struct iovec iov = {(void *)(uintptr_t)f->body, f->len};
	size_t queued;

	MUST(h == p->in);
	MUST_OK(dsm__handle_send(p->out, f->type, f->tag, &iov, 1));
	p->passed++;
	queued = dsm__conn_backlog(dsm__handle_conn(p->out));
	if (queued > p->most)
		p->most = queued;
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct pipe *p = owner;

	(void)err;
	MUST(h == p->in);
	p->losts++;
	dsm__loop_kick(p->loop);
}

static const struct dsm_handle_ops ops = {.frame = pass_on, .lost = on_lost};

static int
never(void *arg)
{
	(void)arg;
	return 0;
}

static int
is_lost(void *arg)
{
	const struct pipe *p = arg;

	return p->losts > 0;
}

static struct dsm_handle *
attach_end(struct pipe *p, struct dsm_conn **far_p)
{
	struct dsm_handle *h;
	struct dsm_conn *near;
	int fds[2];

	MUST_OK(dsm__shm_pair(fds));
	MUST_OK(dsm__conn_create(&dsm__shm_ops, fds[0], FRAME, &near));
	MUST_OK(dsm__conn_create(&dsm__shm_ops, fds[1], FRAME, far_p));
	MUST_OK(dsm__loop_attach(p->loop, near, &ops, p, &h));
	return h;
}

static void
open_pipe(struct pipe *p, uint64_t spin_ns)
{
	const struct dsm_loop_params params = {.spin_ns = spin_ns};

	*p = (struct pipe){0};
	MUST_OK(dsm__loop_create(&params, &p->loop));
	dsm__loop_lock(p->loop);
	p->in = attach_end(p, &p->sender);
	p->out = attach_end(p, &p->reader);
	dsm__handle_throttle(p->in, p->out, LIMIT);
	for (uint64_t i = 0; i < N_FRAMES; i++) {
		const struct iovec iov = {body, sizeof(body)};

		MUST_OK(dsm__conn_send(p->sender, 1, 0, i, &iov, 1));
	}
}

static void
close_pipe(struct pipe *p)
{
	dsm__loop_unlock(p->loop);
	dsm__loop_destroy(p->loop);
	dsm__conn_close(p->sender);
	dsm__conn_close(p->reader);
}

/* Drive until nothing moves any more. */
static void
drive_until_stuck(struct pipe *p)
{
	unsigned before;

	do {
		before = p->passed;
		MUST(dsm__conn_flush(p->sender) != DSM_ECONN);
		dsm__loop_drive(p->loop, never, NULL, dsm__deadline_ms(10));
	} while (p->passed != before);
}

static void
test_a_slow_reader_slows_the_sender(void)
{
	for (int spin = 0; spin < 2; spin++) {
		struct dsm_frame f;
		struct pipe p;

		open_pipe(&p, spin * 50 * DSM_US);
		drive_until_stuck(&p);
		MUST(p.passed < N_FRAMES);
		MUST(p.most <= LIMIT + FRAME + 1024);
		for (uint64_t i = 0; i < N_FRAMES; i++) {
			int err;

			while ((err = dsm__conn_recv(p.reader, &f)) ==
			       DSM_EAGAIN) {
				dsm__conn_flush(p.sender);
				dsm__loop_drive(p.loop, never, NULL,
				                dsm__deadline_ms(1));
			}
			MUST_OK(err);
			MUST_BE(f.tag, i);
		}
		MUST_BE(p.passed, N_FRAMES);
		MUST(p.most <= LIMIT + FRAME + 1024);
		close_pipe(&p);
	}
}

static void
test_it_reads_on_when_the_reader_is_closed(void)
{
	struct pipe p;

	open_pipe(&p, 0);
	drive_until_stuck(&p);
	dsm__handle_close(p.out);
	dsm__conn_close(p.reader);
	p.out = attach_end(&p, &p.reader);
	dsm__handle_throttle(p.in, p.out, UINT32_MAX);
	while (p.passed < N_FRAMES) {
		MUST(dsm__conn_flush(p.sender) != DSM_ECONN);
		MUST_BE(
		    dsm__loop_drive(p.loop, never, NULL, dsm__deadline_ms(1)),
		    DSM_ETIMEDOUT);
	}
	close_pipe(&p);
}

static void
test_a_held_handle_sleeps(void)
{
	struct timespec before, after;
	struct pipe p;
	uint64_t used;

	open_pipe(&p, 50 * DSM_US);
	drive_until_stuck(&p);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	dsm__loop_drive(p.loop, never, NULL, dsm__deadline_ms(100));
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	used = (uint64_t)(after.tv_sec - before.tv_sec) * DSM_SEC +
	       (uint64_t)after.tv_nsec - (uint64_t)before.tv_nsec;
	MUST(used < 30 * DSM_MS);
	close_pipe(&p);
}

static void
test_without_a_sink_its_end_is_noticed(void)
{
	struct pipe p;

	open_pipe(&p, 0);
	drive_until_stuck(&p);
	dsm__conn_close(p.sender);
	p.sender = NULL;
	dsm__handle_throttle(p.in, p.out, SIZE_MAX);
	MUST_OK(dsm__loop_drive(p.loop, is_lost, &p, PATIENCE));
	dsm__handle_throttle(p.in, NULL, 0);
	close_pipe(&p);
}

/* Every frame is answered, and the other end reads no answers. */
static void
test_who_does_not_read_answers_is_not_asked_for_more(void)
{
	struct pipe p;

	open_pipe(&p, 0);
	dsm__handle_close(p.out);
	p.out = p.in;
	dsm__handle_throttle(p.in, p.in, LIMIT);
	drive_until_stuck(&p);
	MUST(p.passed < N_FRAMES);
	MUST(p.most <= LIMIT + FRAME + 1024);
	close_pipe(&p);
}

/* A relay's two ends: each is the other's sink after it was its own. */
static void
test_a_handle_that_was_its_own_sink_can_have_another(void)
{
	struct pipe p;

	open_pipe(&p, 0);
	dsm__handle_throttle(p.in, p.in, LIMIT);
	dsm__handle_throttle(p.out, p.out, LIMIT);
	dsm__handle_throttle(p.in, p.out, LIMIT);
	dsm__handle_throttle(p.out, p.in, LIMIT);
	while (p.passed < N_FRAMES) {
		struct dsm_frame f;

		while (dsm__conn_recv(p.reader, &f) == DSM_OK)
			;
		MUST(dsm__conn_flush(p.sender) != DSM_ECONN);
		MUST_BE(
		    dsm__loop_drive(p.loop, never, NULL, dsm__deadline_ms(1)),
		    DSM_ETIMEDOUT);
	}
	close_pipe(&p);
}

SUITE(dsm_transport_throttle, "dsm.transport.throttle",
      T(test_a_slow_reader_slows_the_sender),
      T(test_it_reads_on_when_the_reader_is_closed),
      T(test_a_held_handle_sleeps), T(test_without_a_sink_its_end_is_noticed),
      T(test_who_does_not_read_answers_is_not_asked_for_more),
      T(test_a_handle_that_was_its_own_sink_can_have_another));
