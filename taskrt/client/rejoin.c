/*
 * A coordinator that is gone while a run is on: found again, or not in time.
 *
 * Nothing of the run has been applied, and the coordinator keeps nothing, so the
 * session begins anew in all but its memory: data links are closed (their slots
 * end), what they sent is thrown away, and when there is a coordinator again, the
 * old one or a new one, the run is launched a second time (resubmit.c), from the
 * same frozen memory. The new session has another key: no slot of the old one can
 * come back and be taken for one of the new.
 *
 * Nobody waits here. All that ends in time by itself, the whole of it within the
 * configuration's reconnect_ms of the loss.
 */
#include "remote_priv.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/log.h"

#define FIRST_PAUSE_MS 100
#define LONGEST_PAUSE_MS 2000
#define CONNECT_MS 5000
#define WELCOME_MS 5000
#define LEAST_MS 200 /* an attempt gets, however late it is */

static uint64_t
left_ms(const struct rejoin *j)
{
	uint64_t now = dsm__now();

	return j->give_up > now ? (j->give_up - now) / DSM_MS : 0;
}

/* For one step, which may take `ms`. */
static uint64_t
at_most(const struct rejoin *j, uint64_t ms)
{
	uint64_t left = left_ms(j);

	if (left < LEAST_MS)
		left = LEAST_MS;
	return left < ms ? left : ms;
}

static void set_timer(struct taskrt__session *s, uint64_t ms);

static void
pause_or_end(struct taskrt__session *s)
{
	struct remote *r = s->link_state;
	struct rejoin *j = &r->rejoin;
	uint64_t ms = dsm__backoff_next(&j->backoff), left = left_ms(j);

	if (left == 0) {
		j->state = REJOIN_OFF;
		taskrt__session_lose(
		    s, DSM_ECONN,
		    "the coordinator at %s is gone (%s) and did not come back "
		    "within %g s (TASKRT_RECONNECT)%s%s; start it again, then "
		    "launch again",
		    s->config->coordinator, j->why,
		    (double)s->config->reconnect_ms / 1000,
		    j->last[0] != '\0' ? ": " : "", j->last);
		return;
	}
	j->state = REJOIN_PAUSING;
	set_timer(s, ms < left ? ms : left);
}

/* --- one attempt --- */

static void
on_connected(void *arg, int fd, const struct dsm_error *connect_error)
{
	struct taskrt__session *s = arg;
	struct remote *r = s->link_state;
	struct rejoin *j = &r->rejoin;
	struct dsm_error e = {0};

	j->connect = NULL;
	if (s->state != TASKRT__REJOINING) {
		if (fd >= 0)
			close(fd);
		return;
	}
	j->state = REJOIN_GREETING;
	if (fd < 0) {
		rejoin_failed(s, connect_error->text);
		return;
	}
	set_timer(s, at_most(j, WELCOME_MS));
	if (remote_greet(s, fd, &e) != DSM_OK)
		rejoin_failed(s, e.text);
}

static void
dial(struct taskrt__session *s)
{
	struct remote *r = s->link_state;
	struct rejoin *j = &r->rejoin;
	struct dsm_error e = {0};

	j->state = REJOIN_DIALLING;
	if (dsm__connect_start(s->loop, r->addr, at_most(j, CONNECT_MS),
	                       on_connected, s, &j->connect, &e) != DSM_OK)
		rejoin_failed(s, e.text);
}

static void
on_timer(uv_timer_t *t)
{
	struct taskrt__session *s = t->data;
	struct remote *r = s->link_state;

	/* The run may have been cancelled, and the session ended with it. */
	if (s->state != TASKRT__REJOINING)
		return;
	if (r->rejoin.state == REJOIN_PAUSING)
		dial(s);
	else if (r->rejoin.state == REJOIN_GREETING)
		rejoin_failed(s, "it accepts connections but does not answer");
}

static void
set_timer(struct taskrt__session *s, uint64_t ms)
{
	struct remote *r = s->link_state;

	uv_update_time(dsm__loop_uv(s->loop));
	uv_timer_start(&r->rejoin.timer, on_timer, ms, 0);
}

void
rejoin_failed(struct taskrt__session *s, const char *why)
{
	struct remote *r = s->link_state;
	struct rejoin *j = &r->rejoin;

	snprintf(j->last, sizeof(j->last), "%s", why);
	log_debug("coordinator %s: %s", s->config->coordinator, why);
	remote_unlink(s);
	taskrt__listener_stop(s);
	uv_timer_stop(&j->timer);
	pause_or_end(s);
}

void
rejoin_done(struct taskrt__session *s)
{
	struct remote *r = s->link_state;
	struct rejoin *j = &r->rejoin;

	j->state = REJOIN_OFF;
	uv_timer_stop(&j->timer);
	log_warn("the coordinator at %s is there again after %.1f s: the run "
	         "is launched again",
	         s->config->coordinator,
	         (double)(dsm__now() - j->lost_at) / DSM_SEC);
}

/* --- begin and end --- */

void
rejoin_begin(struct taskrt__session *s, const char *why)
{
	struct remote *r = s->link_state;
	struct rejoin *j = &r->rejoin;

	snprintf(j->why, sizeof(j->why), "%s", why);
	j->last[0] = '\0';
	j->lost_at = dsm__now();
	j->give_up = j->lost_at + s->config->reconnect_ms * DSM_MS;
	dsm__backoff_reset(&j->backoff);
	log_warn("the coordinator at %s is gone (%s); looking for it for %g s "
	         "(TASKRT_RECONNECT)",
	         s->config->coordinator, why,
	         (double)s->config->reconnect_ms / 1000);
	pause_or_end(s);
}

void
rejoin_init(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	dsm__backoff_init(&r->rejoin.backoff, FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
	uv_timer_init(dsm__loop_uv(s->loop), &r->rejoin.timer);
	r->rejoin.timer.data = s;
}

void
rejoin_stop(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	dsm__connect_cancel(r->rejoin.connect);
	r->rejoin.connect = NULL;
	r->rejoin.state = REJOIN_OFF;
	taskrt__session_uv_close(s, (uv_handle_t *)&r->rejoin.timer);
}

void
rejoin_forget(struct taskrt__session *s)
{
	struct remote *r = s->link_state;

	dsm__connect_forget(r->rejoin.connect);
}
