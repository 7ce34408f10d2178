/*
 * Inside a session with a coordinator over TCP:
 *
 *   remote.c   the control link, its heartbeat, the relays it asks for
 *   rejoin.c   the same session with a coordinator that was gone
 *
 * All under the session's drive lock.
 */
#ifndef TASKRT_CLIENT_REMOTE_PRIV_H
#define TASKRT_CLIENT_REMOTE_PRIV_H

#include "../../dsm/base/backoff.h"
#include "../../dsm/transport/access.h"
#include "../../dsm/transport/beat.h"
#include "../../dsm/transport/connect.h"
#include "session.h"

/*
 * What rejoin.c is at:
 *   OFF       the link is there, or the session is LOST
 *   PAUSING   until the next attempt (timer)
 *   DIALLING  connecting; ends by itself
 *   GREETING  HELLO was sent on a new control link; WELCOME until the timer goes off
 * OFF -> PAUSING -> DIALLING -> GREETING -> OFF; from DIALLING and GREETING, when
 * they come to nothing, -> PAUSING, or -> OFF when the time is over.
 */
enum rejoin_state {
	REJOIN_OFF,
	REJOIN_PAUSING,
	REJOIN_DIALLING,
	REJOIN_GREETING
};

struct rejoin {
	enum rejoin_state state;
	uv_timer_t timer;
	struct dsm_connect *connect; /* DIALLING */
	struct dsm_backoff backoff;
	uint64_t lost_at, give_up; /* of dsm__now */
	char why[200];             /* it was lost */
	char last[300]; /* why the last attempt failed, "": none yet */
};

struct remote {
	struct dsm_access access;
	struct dsm_handle *handle; /* NULL: no control link */
	char addr[DSM_ADDR_MAX];   /* the coordinator's, numeric */
	struct dsm_beat beat;
	int loopback; /* the data listener's address is */
	uv_timer_t heartbeat;
	LIST_HEAD(, dial) dials;
	struct rejoin rejoin;
};

/* --- remote.c --- */

/* Make fd (taken) the control link: listen for slots beside it, say HELLO. */
int remote_greet(struct taskrt__session *s, int fd, struct dsm_error *e);
/* Close the control link and all that was made for it. */
void remote_unlink(struct taskrt__session *s);

/* --- rejoin.c --- */

void rejoin_init(struct taskrt__session *s);
/* The link was closed for this reason while a run is on: look for the coordinator,
 * or end the session. */
void rejoin_begin(struct taskrt__session *s, const char *why);
/* The attempt that is GREETING came to nothing. */
void rejoin_failed(struct taskrt__session *s, const char *why);
/* WELCOME came. */
void rejoin_done(struct taskrt__session *s);
void rejoin_stop(struct taskrt__session *s);
void rejoin_forget(struct taskrt__session *s);

#endif
