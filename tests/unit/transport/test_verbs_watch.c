/* What no completion tells of: queue pairs that have stopped, and what the device says
 * of its port and its queue pairs. */
#include "../../../dsm/transport/loop.h"
#include "../../../dsm/transport/verbs_queue.h"
#include "../../test.h"
#include "verbs_pair.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE 4096u
#define LIMIT (2u << 20)
#define PATIENCE dsm__deadline_ms(20000)

/* --- an adapter that has gone silent: no request of ours ever ends --- */

static int (*real_poll)(struct ibv_cq *cq, int n, struct ibv_wc *wc);

static int
poll_nothing(struct ibv_cq *cq, int n, struct ibv_wc *wc)
{
	(void)cq, (void)n, (void)wc;
	return 0;
}

static void
go_silent(uint32_t stall_ms)
{
	struct dsm_verbs *v = verbs_device();

	real_poll = v->ctx->ops.poll_cq;
	v->ctx->ops.poll_cq = poll_nothing;
	v->stall_ms = stall_ms;
}

static void
recover(void)
{
	verbs_device()->ctx->ops.poll_cq = real_poll;
	verbs_device()->stall_ms = VERBS_STALL_MS;
}

static void
open_pair(struct dsm_conn *c[2])
{
	MUST_OK(verbs_pair(LIMIT, c));
}

static void
close_pair(struct dsm_conn *c[2])
{
	dsm__conn_close(c[0]);
	dsm__conn_close(c[1]);
}

static void
must_have_stopped(struct dsm_conn *c)
{
	MUST_BE(dsm__conn_error(c), DSM_ECONN);
	MUST(strstr(dsm__conn_why(c), "has stopped") != NULL);
	MUST(strstr(dsm__conn_why(c), verbs_device()->name) != NULL);
}

static void
test_a_frame_that_never_gets_there_fails_with_words(void)
{
	struct dsm_conn *c[2];
	struct dsm_frame f;
	int err;

	open_pair(c);
	go_silent(500);
	MUST_OK(dsm__conn_send(c[0], 7, 0, 0, NULL, 0));
	err = dsm__conn_recv_wait(c[0], PATIENCE, 0, &f, NULL);
	recover();
	MUST_BE(err, DSM_ECONN);
	must_have_stopped(c[0]);
	close_pair(c);
}

static void
test_a_read_that_never_ends_fails_with_words(void)
{
	struct dsm_verbs_region *region;
	struct dsm_conn *c[2];
	void *m = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
	               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int err;

	MUST(m != MAP_FAILED);
	open_pair(c);
	MUST_OK(dsm__conn_read_ring(c[0], m, PAGE, NULL));
	MUST_OK(dsm__verbs_register(verbs_domain(), (char *)m + PAGE, PAGE,
	                            &region, NULL));
	go_silent(500);
	MUST_OK(dsm__conn_read_start(c[0], (uintptr_t)m + PAGE,
	                             dsm__verbs_rkey(region), m, PAGE));
	err = dsm__conn_read_wait(c[0], PATIENCE, 0, NULL);
	recover();
	MUST_BE(err, DSM_ECONN);
	MUST(strstr(dsm__conn_why(c[0]), "has stopped") != NULL);
	close_pair(c);
	dsm__verbs_unregister(region);
	munmap(m, 2 * PAGE);
}

struct party {
	struct dsm_handle *h;
	int losts;
};

static void
on_frame(void *owner, struct dsm_handle *h, const struct dsm_frame *f)
{
	(void)owner, (void)h, (void)f;
}

static void
on_lost(void *owner, struct dsm_handle *h, int err)
{
	struct party *p = owner;

	(void)h, (void)err;
	p->losts++;
}

static int
is_lost(void *arg)
{
	return ((struct party *)arg)->losts > 0;
}

static void
test_a_loop_notices_it_in_its_sleep(void)
{
	static const struct dsm_handle_ops ops = {on_frame, on_lost};
	const struct dsm_loop_params params = {.spin_ns = 0};
	struct dsm_loop *l;
	struct dsm_conn *c[2];
	struct party p = {.losts = 0};
	int err;

	open_pair(c);
	MUST_OK(dsm__loop_create(&params, &l));
	dsm__loop_lock(l);
	MUST_OK(dsm__loop_attach(l, c[0], &ops, &p, &p.h));
	go_silent(500);
	MUST_OK(dsm__handle_send(p.h, 7, 0, NULL, 0));
	err = dsm__loop_drive(l, is_lost, &p, PATIENCE);
	recover();
	MUST_OK(err);
	must_have_stopped(c[0]);
	dsm__handle_close(p.h);
	dsm__loop_unlock(l);
	dsm__loop_destroy(l);
	dsm__conn_close(c[1]);
}

static void
test_a_peer_that_does_not_read_is_waited_for(void)
{
	struct dsm_conn *c[2];
	uint8_t *body = calloc(1, LIMIT);
	struct iovec v = {body, LIMIT};

	MUST(body != NULL);
	open_pair(c);
	verbs_device()->stall_ms = 100;
	MUST_OK(dsm__conn_send(c[0], 7, 0, 0, &v, 1));
	/* Its adapter has taken what there were credits for. */
	MUST_BE(dsm__conn_drain(c[0], dsm__deadline_ms(2500)), DSM_ETIMEDOUT);
	verbs_device()->stall_ms = VERBS_STALL_MS;
	MUST_OK(dsm__conn_error(c[0]));
	close_pair(c);
	free(body);
}

static void
test_nothing_outstanding_is_no_stop(void)
{
	struct dsm_conn *c[2];
	struct dsm_frame f;

	open_pair(c);
	MUST_OK(dsm__conn_send(c[0], 7, 0, 0, NULL, 0));
	MUST_OK(dsm__conn_recv_wait(c[1], PATIENCE, 0, &f, NULL));
	verbs_device()->stall_ms = 100;
	MUST_BE(dsm__conn_recv_wait(c[0], dsm__deadline_ms(2500), 0, &f, NULL),
	        DSM_ETIMEDOUT);
	verbs_device()->stall_ms = VERBS_STALL_MS;
	close_pair(c);
}

/* --- what the device says --- */

static struct ibv_async_event said;
static int n_said;

static int
say(struct ibv_context *ctx, struct ibv_async_event *ev)
{
	(void)ctx;
	if (n_said == 0)
		return -1;
	n_said--;
	*ev = said;
	return 0;
}

static void
say_no_more(struct ibv_async_event *ev)
{
	(void)ev;
}

/* As if the device had said it. */
static void
hear(enum ibv_event_type type, const struct ibv_qp *qp, int port)
{
	struct dsm_verbs *v = verbs_device();
	const struct verbs_lib *real = v->lib;
	struct verbs_lib mine = *real;

	mine.get_async_event = say;
	mine.ack_async_event = say_no_more;
	said = (struct ibv_async_event){.event_type = type};
	if (qp != NULL)
		said.element.qp = (struct ibv_qp *)(uintptr_t)qp;
	else
		said.element.port_num = port;
	n_said = 1;
	v->lib = &mine;
	dsm__verbs_hear(v);
	v->lib = real;
	MUST_BE(n_said, 0);
}

struct sleeper {
	struct dsm_conn *c;
	int err;
};

static void *
sleep_on(void *arg)
{
	struct sleeper *s = arg;
	struct dsm_frame f;

	s->err = dsm__conn_recv_wait(s->c, PATIENCE, 0, &f, NULL);
	return NULL;
}

static void
test_a_link_that_goes_down_ends_idle_queue_pairs_at_once(void)
{
	struct dsm_conn *c[2];
	struct sleeper s[2];
	pthread_t threads[2];
	uint64_t start;

	open_pair(c);
	for (int i = 0; i < 2; i++) {
		s[i].c = c[i];
		MUST_BE(pthread_create(&threads[i], NULL, sleep_on, &s[i]), 0);
	}
	start = dsm__now();
	hear(IBV_EVENT_PORT_ERR, NULL, (int)verbs_device()->port);
	for (int i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		MUST_BE(s[i].err, DSM_ECONN);
		MUST(strstr(dsm__conn_why(c[i]), "link went down") != NULL);
	}
	MUST(dsm__now() - start < 10 * DSM_SEC);
	close_pair(c);
}

static void
must_still_work(struct dsm_conn *c[2])
{
	struct dsm_frame f;

	MUST_OK(dsm__conn_send(c[0], 7, 0, 3, NULL, 0));
	MUST_OK(dsm__conn_recv_wait(c[1], PATIENCE, 0, &f, NULL));
	MUST_BE(f.tag, 3);
}

static void
test_another_ports_link_and_other_news_end_nothing(void)
{
	struct dsm_conn *c[2];
	int port = (int)verbs_device()->port;

	open_pair(c);
	hear(IBV_EVENT_PORT_ERR, NULL, port + 1);
	hear(IBV_EVENT_PORT_ACTIVE, NULL, port);
	hear(IBV_EVENT_GID_CHANGE, NULL, port);
	must_still_work(c);
	close_pair(c);
}

static void
test_one_queue_pair_that_fails_leaves_the_others(void)
{
	struct dsm_conn *c[2], *d[2];
	struct dsm_frame f;

	open_pair(c);
	open_pair(d);
	hear(IBV_EVENT_QP_FATAL, dsm__queue_of(c[0])->qp, 0);
	MUST_BE(dsm__conn_recv_wait(c[0], PATIENCE, 0, &f, NULL), DSM_ECONN);
	MUST(strlen(dsm__conn_why(c[0])) > 0);
	must_still_work(d);
	close_pair(c);
	close_pair(d);
}

static void
test_a_device_that_fails_ends_all(void)
{
	struct dsm_conn *c[2];
	struct dsm_frame f;

	open_pair(c);
	hear(IBV_EVENT_DEVICE_FATAL, NULL, 0);
	for (int i = 0; i < 2; i++)
		MUST_BE(dsm__conn_recv_wait(c[i], PATIENCE, 0, &f, NULL),
		        DSM_ECONN);
	close_pair(c);
}

static void
test_old_news_is_nothing_to_new_queue_pairs(void)
{
	struct dsm_conn *c[2];

	hear(IBV_EVENT_PORT_ERR, NULL, (int)verbs_device()->port);
	open_pair(c);
	must_still_work(c);
	close_pair(c);
}

SUITE_UNLESS(dsm_transport_verbs_watch, "dsm.transport.verbs_watch",
             verbs_missing,
             T(test_a_frame_that_never_gets_there_fails_with_words),
             T(test_a_read_that_never_ends_fails_with_words),
             T(test_a_loop_notices_it_in_its_sleep),
             T(test_a_peer_that_does_not_read_is_waited_for),
             T(test_nothing_outstanding_is_no_stop),
             T(test_a_link_that_goes_down_ends_idle_queue_pairs_at_once),
             T(test_another_ports_link_and_other_news_end_nothing),
             T(test_one_queue_pair_that_fails_leaves_the_others),
             T(test_a_device_that_fails_ends_all),
             T(test_old_news_is_nothing_to_new_queue_pairs));
