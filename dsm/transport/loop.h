/*
 * The event loop of daemons and client: libuv plus a bounded spin over the
 * connections that were busy lately, because waking up can take 70 us.
 *
 * Ownership: a loop, its conns and their callbacks belong to whoever holds the
 * drive lock. A daemon's main thread just runs dsm__loop_run. In the client any
 * thread that waits for a run drives the loop itself (dsm__loop_drive); a
 * background thread drives it while nobody else does:
 *
 *   background thread              waiting user thread
 *   waits until n_drivers == 0     n_drivers++, lock
 *   lock: spin while conns are     spin: recv on hot conns, uv_run(NOWAIT),
 *   hot, uv_run(NOWAIT)            lending the lock to who wants it
 *   unlock, poll(backend fd)       then unlock, poll(backend fd), lock
 *                                  n_drivers--
 *
 * so a user thread never waits for the background thread to wake up, and
 * replies are taken by the thread that needs them. Nobody sleeps with the lock
 * held: it is free within a round (some microseconds, plus the callbacks). A
 * conn is hot for spin_ns after it was attached and after each frame in either
 * direction.
 *
 * Callbacks run on the driving thread with the lock held; they may send, attach
 * and detach (their own handle too), but not drive.
 */
#ifndef DSM_TRANSPORT_LOOP_H
#define DSM_TRANSPORT_LOOP_H

#include <uv.h>

#include "conn.h"

struct dsm_loop;
struct dsm_handle; /* a conn attached to a loop */

struct dsm_loop_params {
	uint64_t spin_ns; /* how long to spin on hot conns before sleeping */
	int background;   /* 1: start the background thread */
};

/* DSM_ENOMEM; DSM_ESYS, then errno says why. */
int dsm__loop_create(const struct dsm_loop_params *p, struct dsm_loop **loop_p);
/* Closes whatever is still attached. Not from a callback. */
void dsm__loop_destroy(struct dsm_loop *l);
/*
 * For timers, signals, fd polls of the owner; use with the lock held. Ask anew
 * whenever a watcher is started, stopped or changed (timers excepted) rather
 * than keep the pointer: the call notes that whoever sleeps must look again.
 */
uv_loop_t *dsm__loop_uv(struct dsm_loop *l);

/* Drive lock for short work (attach, send) from any thread. dsm__loop_lock
 * makes the background thread notice changes when it unlocks. */
void dsm__loop_lock(struct dsm_loop *l);
void dsm__loop_unlock(struct dsm_loop *l);

/* Lock held: run until done(arg) is true or the deadline passes. Callbacks run
 * in between. DSM_OK or DSM_ETIMEDOUT. Several threads may be in here: one
 * drives, the others sleep and are woken when it leaves or when
 * dsm__loop_kick is called. */
int dsm__loop_drive(struct dsm_loop *l, int (*done)(void *arg), void *arg,
                    uint64_t deadline);
/* Any thread, lock held or not: this thread is going to drive; until leave the
 * background thread is not woken for what it will see itself. */
void dsm__loop_enter(struct dsm_loop *l);
void dsm__loop_leave(struct dsm_loop *l);
/* Lock held: make other drivers look at their done() again. */
void dsm__loop_kick(struct dsm_loop *l);
/* A daemon's main: run until dsm__loop_stop. Takes the lock itself. */
void dsm__loop_run(struct dsm_loop *l);
/* From a callback or signal watcher. */
void dsm__loop_stop(struct dsm_loop *l);

/* Lock held (callbacks included): call fn(arg) on the driving thread after the
 * current callback, before anything else is waited for. In order. For code that
 * must not be re-entered, such as the queues of embedded mode. */
int dsm__loop_defer(struct dsm_loop *l, void (*fn)(void *arg), void *arg);

struct dsm_handle_ops {
	/* A frame arrived. Its body lives until the callback returns. */
	void (*frame)(void *owner, struct dsm_handle *h,
	              const struct dsm_frame *f);
	/* The connection FAILED; err as dsm__conn_error. Called once; detach in
	 * it or later. No frame follows. */
	void (*lost)(void *owner, struct dsm_handle *h, int err);
};

/* Lock held. Takes conn (on failure it stays with the caller); frames already
 * buffered are delivered from the loop, not from here. DSM_ENOMEM, DSM_ESYS. */
int dsm__loop_attach(struct dsm_loop *l, struct dsm_conn *conn,
                     const struct dsm_handle_ops *ops, void *owner,
                     struct dsm_handle **h_p);
/* Lock held. Closes the connection after one try to flush. The handle is gone;
 * in its own frame callback the frame's body stays until that returns. */
void dsm__handle_close(struct dsm_handle *h);
/* Lock held. Give the connection back to the caller (to pass its fd on). */
struct dsm_conn *dsm__handle_detach(struct dsm_handle *h);
struct dsm_conn *dsm__handle_conn(struct dsm_handle *h);
/* Lock held. The conn has another descriptor than before. DSM_ENOMEM, DSM_ESYS:
 * close the handle. */
int dsm__handle_refresh(struct dsm_handle *h);
/* Lock held. As dsm__conn_send; watches for writability when bytes stay queued.
 * When it fails because the conn has, lost follows, from the loop, after the
 * frames that had arrived. */
int dsm__handle_send(struct dsm_handle *h, unsigned type, uint64_t tag,
                     const struct iovec *iov, int n_iov);

/* Lock held. Do not read from h while sink has more than limit bytes queued: what
 * comes in at h is passed on to sink, or is answered there (sink may be h). Ends when either handle goes; sink NULL ends
 * it too. One h per sink. When h fails meanwhile, lost comes at once, and frames
 * that had arrived are dropped. */
void dsm__handle_throttle(struct dsm_handle *h, struct dsm_handle *sink,
                          size_t limit);

#endif
