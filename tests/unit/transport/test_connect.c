/* TCP connections in the making. */
#include "../../../dsm/transport/connect.h"
#include "../../test.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE dsm__deadline_ms(20000)

struct rig {
	struct dsm_loop *loop;
	int n_done, fd;
	struct dsm_error e;
};

static void
on_done(void *arg, int fd, const struct dsm_error *e)
{
	struct rig *r = arg;

	r->n_done++;
	r->fd = fd;
	r->e = *e;
}

static int
is_done(void *arg)
{
	const struct rig *r = arg;

	return r->n_done > 0;
}

static void
rig_init(struct rig *r)
{
	const struct dsm_loop_params p = {0};

	*r = (struct rig){.fd = -1};
	MUST_OK(dsm__loop_create(&p, &r->loop));
	dsm__loop_lock(r->loop);
}

static void
rig_fini(struct rig *r)
{
	if (r->fd >= 0)
		close(r->fd);
	dsm__loop_unlock(r->loop);
	dsm__loop_destroy(r->loop);
}

static void
test_a_listener_is_reached(void)
{
	char addr[DSM_ADDR_MAX], peer[DSM_ADDR_MAX];
	struct dsm_connect *c;
	int listener;
	struct rig r;

	rig_init(&r);
	MUST_OK(dsm__tcp_listen(":0", addr, &listener, NULL));
	MUST_OK(dsm__connect_start(r.loop, addr, 10000, on_done, &r, &c, &r.e));
	MUST_BE(r.n_done, 0);
	MUST_OK(dsm__loop_drive(r.loop, is_done, &r, PATIENCE));
	MUST(r.fd >= 0);
	MUST_OK(dsm__tcp_peer(r.fd, peer));
	MUST(strcmp(peer, addr) == 0);
	close(listener);
	rig_fini(&r);
}

static void
test_a_refusal_is_told_with_its_reason(void)
{
	struct dsm_connect *c;
	struct rig r;

	rig_init(&r);
	MUST_OK(dsm__connect_start(r.loop, "127.0.0.1:1", 10000, on_done, &r,
	                           &c, &r.e));
	MUST_OK(dsm__loop_drive(r.loop, is_done, &r, PATIENCE));
	MUST_BE(r.fd, -1);
	MUST_BE(r.e.code, DSM_ECONN);
	MUST(strstr(r.e.text, "127.0.0.1:1") != NULL);
	MUST(strstr(r.e.text, "refused") != NULL);
	rig_fini(&r);
}

/* A listener whose queue is full answers nobody. */
static void
test_silence_ends_in_time(void)
{
	char addr[DSM_ADDR_MAX];
	struct dsm_connect *c;
	struct dsm_error e;
	int listener, filler[2];
	struct rig r;

	rig_init(&r);
	MUST_OK(dsm__tcp_listen(":0", addr, &listener, NULL));
	MUST_BE(listen(listener, 0), 0);
	for (int i = 0; i < 2; i++)
		MUST_OK(dsm__tcp_connect_start(addr, &filler[i], &e));
	uint64_t before = dsm__now();
	MUST_OK(dsm__connect_start(r.loop, addr, 100, on_done, &r, &c, &e));
	MUST_OK(dsm__loop_drive(r.loop, is_done, &r, PATIENCE));
	MUST(dsm__now() - before >= 100 * DSM_MS);
	MUST_BE(r.fd, -1);
	MUST_BE(r.e.code, DSM_ETIMEDOUT);
	MUST(strstr(r.e.text, "0.1 s") != NULL);
	for (int i = 0; i < 2; i++)
		close(filler[i]);
	close(listener);
	rig_fini(&r);
}

static int
never(void *arg)
{
	(void)arg;
	return 0;
}

static void
test_a_cancelled_one_says_nothing(void)
{
	struct dsm_connect *c;
	struct rig r;

	rig_init(&r);
	MUST_OK(dsm__connect_start(r.loop, "127.0.0.1:1", 10000, on_done, &r,
	                           &c, &r.e));
	dsm__connect_cancel(c);
	dsm__loop_drive(r.loop, never, NULL, dsm__deadline_ms(20));
	MUST_BE(r.n_done, 0);
	rig_fini(&r);
}

SUITE(dsm_transport_connect, "dsm.transport.connect",
      T(test_a_listener_is_reached), T(test_a_refusal_is_told_with_its_reason),
      T(test_silence_ends_in_time), T(test_a_cancelled_one_says_nothing));
