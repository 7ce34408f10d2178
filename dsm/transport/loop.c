/*
 * The event loop: libuv for everything that may sleep, plus a spin over the
 * connections that had a frame lately.
 *
 * A driver alternates between two kinds of rounds (step):
 *
 *   hot    some conn is hot (a frame came or went less than spin_ns ago) or has
 *          frames buffered: recv on those, uv_run(NOWAIT) every so often
 *   cold   uv_run(NOWAIT); when that changed nothing, sleep in poll(2) on
 *          libuv's backend descriptor, without the drive lock
 *
 * Nobody sleeps with the lock, so whoever takes it may have changed what a
 * sleeper waits for. libuv tells the kernel of a changed watcher only in
 * uv_run, and a new timer shortens the sleep: the sleeper is kicked
 * (uv_async_send) when `changed` is set or a timer is due before it wakes.
 *
 * The drive lock is a ticket lock, because a driver that spins gives it up for
 * an instant every round and must not get it back before those who wait. The
 * background thread never takes a ticket: waking up takes it long, and all
 * would wait for it. It tries, and parks when the lock is busy:
 *
 *   PARK_BUSY     somebody has the lock for short work: unlock unparks
 *   PARK_DRIVEN   a user thread drives. Comes back by itself after PARK_NS, so
 *                 that short runs, one after another, need not wake it each
 * time; an unlock unparks it only if there is something to see PARK_LONG driven
 * for longer than that: the last driver to leave unparks
 *
 * Handles: a callback may close any handle. Memory of a handle is freed by
 * libuv's close callback, which runs in uv_run after all others; its conn, when
 * closed in its own frame callback, after that has returned.
 *
 * A conn whose back-end must be armed before a sleep (verbs) is armed when its
 * handle leaves the hot list, and after each event that did not put it back
 * there: a handle is hot, or armed, or its descriptor is readable. Once a second
 * such a back-end is asked whether it has failed without a word.
 */
#include "loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "../base/clock.h"

#define FRAMES_PER_ROUND 8
/* More hot conns than this: asking epoll is cheaper than a recv on each. */
#define HOT_RECV_MAX 4
#define ROUNDS_PER_UV_RUN 64
#define NS_PER_UV_RUN (100 * DSM_US)
#define LOCK_SPINS 300
#define PARK_NS (2 * DSM_MS)
#define PARK_LONG_NS (100 * DSM_MS)

enum park {
	PARK_NOT,
	PARK_BUSY,
	PARK_DRIVEN,
	PARK_LONG,
};

enum sleeper {
	SLEEPER_DRIVER,
	SLEEPER_BACKGROUND,
	N_SLEEPERS,
};

/* Apart from the handle: a conn can get another descriptor. */
struct watcher {
	uv_poll_t poll;
	struct dsm_handle *handle; /* freed with it; NULL: it has a newer one */
};

struct dsm_handle {
	struct watcher *watcher;
	struct dsm_loop *loop;
	struct dsm_conn *conn;   /* NULL once closed or detached */
	struct dsm_conn *zombie; /* closed in its own frame callback */
	const struct dsm_handle_ops *ops;
	void *owner;
	TAILQ_ENTRY(dsm_handle) link;
	TAILQ_ENTRY(dsm_handle) hot_link;
	uint64_t hot_until; /* monotonic ns */
	int events;         /* what libuv watches for */
	int hot;            /* is in the hot list */
	int again;          /* look at it next round: frames may be buffered */
	int broken;   /* socket error: fails when there is nothing to read */
	int lost;     /* owner has been told */
	int in_frame; /* its frame callback runs */

	/* dsm__handle_throttle: sink->source == this. */
	struct dsm_handle *sink, *source;
	size_t limit;
	int held; /* not watched for reading: sink is full */
};
TAILQ_HEAD(handle_list, dsm_handle);

struct deferred {
	void (*fn)(void *arg);
	void *arg;
};

/* Members without a remark: drive lock. */
struct dsm_loop {
	uv_loop_t uv;
	uv_async_t wake;  /* uv_async_send: any thread */
	uv_timer_t check; /* runs while there are conns that are polled */
	uint64_t spin_ns;
	struct handle_list handles, hot;
	struct dsm_handle *cursor; /* next of a walk over hot */
	unsigned n_hot;
	unsigned rounds;      /* hot rounds since uv_run */
	uint64_t idle_rounds; /* hot rounds since the last frame */
	uint64_t uv_next;     /* next uv_run at the latest, while hot */
	int changed;          /* since uv_run: watchers, handles */
	int sent;             /* since the last round: an answer may come */
	int kicked;           /* wake is on its way */
	struct deferred *deferred; /* first come, first called */
	size_t n_deferred, cap_deferred;
	int driving;   /* a user thread is in a round, maybe asleep */
	int n_waiting; /* drivers waiting for their turn */
	int stop;

	/* Drive lock: ticket `serving` has it. */
	_Atomic uint64_t next, serving;
	/* Threads in dsm__loop_drive; written with the drive lock. */
	_Atomic int n_drivers;
	/* uv time at which a sleeper wakes by itself, 0: is awake. Set with the
	 * drive lock, cleared by the sleeper without. */
	_Atomic uint64_t due[N_SLEEPERS];
	_Atomic int quit;
	_Atomic int parked; /* enum park */

	pthread_mutex_t mutex; /* short; inside the drive lock, never around */
	pthread_cond_t lock_cond; /* mutex: serving changed */
	pthread_cond_t turn_cond; /* mutex: turn changed */
	pthread_cond_t park_cond; /* mutex: unpark changed */
	uint64_t turn;            /* mutex */
	int unpark;               /* mutex */
	int has_thread;           /* const after create */
	pthread_t thread;
};

/* --- drive lock --- */

static void
take(struct dsm_loop *l)
{
	uint64_t mine = atomic_fetch_add(&l->next, 1);

	for (int i = 0; i < LOCK_SPINS; i++) {
		if (atomic_load(&l->serving) == mine)
			return;
		dsm__cpu_relax();
	}
	pthread_mutex_lock(&l->mutex);
	while (atomic_load(&l->serving) != mine)
		pthread_cond_wait(&l->lock_cond, &l->mutex);
	pthread_mutex_unlock(&l->mutex);
}

static int
try_take(struct dsm_loop *l)
{
	uint64_t mine = atomic_load(&l->serving);

	return atomic_load(&l->next) == mine &&
	       atomic_compare_exchange_strong(&l->next, &mine, mine + 1);
}

static void
give(struct dsm_loop *l)
{
	uint64_t now_serving = atomic_fetch_add(&l->serving, 1) + 1;

	/* Pairs with take: it raises next, then reads serving under the mutex;
	 * we raise serving, then read next. One of us sees the other. */
	if (atomic_load(&l->next) == now_serving)
		return;
	pthread_mutex_lock(&l->mutex);
	pthread_cond_broadcast(&l->lock_cond);
	pthread_mutex_unlock(&l->mutex);
}

static int
is_wanted(struct dsm_loop *l)
{
	return atomic_load(&l->next) > atomic_load(&l->serving) + 1;
}

/* mutex held. */
static void
wait_until(struct dsm_loop *l, pthread_cond_t *cond, uint64_t deadline)
{
	struct timespec ts;

	/* Later than tomorrow is tomorrow: time_t has an end. */
	if (deadline > dsm__now() + 86400 * DSM_SEC)
		deadline = dsm__now() + 86400 * DSM_SEC;
	ts.tv_sec = (time_t)(deadline / DSM_SEC);
	ts.tv_nsec = (long)(deadline % DSM_SEC);
	pthread_cond_timedwait(cond, &l->mutex, &ts);
}

static void
unpark(struct dsm_loop *l)
{
	pthread_mutex_lock(&l->mutex);
	l->unpark = 1;
	pthread_cond_signal(&l->park_cond);
	pthread_mutex_unlock(&l->mutex);
}

/* uv time of the next thing to do that no descriptor announces. */
static uint64_t
next_due(struct dsm_loop *l)
{
	int ms = uv_backend_timeout(&l->uv);

	return ms < 0 ? UINT64_MAX : uv_now(&l->uv) + (uint64_t)ms;
}

static void
kick(struct dsm_loop *l)
{
	if (!l->kicked) {
		l->kicked = 1;
		uv_async_send(&l->wake);
	}
}

static void
on_wake(uv_async_t *wake)
{
	struct dsm_loop *l = wake->data;

	l->kicked = 0;
}

void
dsm__loop_lock(struct dsm_loop *l)
{
	take(l);
}

void
dsm__loop_unlock(struct dsm_loop *l)
{
	int news = l->changed || l->sent || l->n_deferred > 0;
	/* A background thread that sleeps on while others drive will find out
	 * when it wakes. */
	enum sleeper who = atomic_load(&l->n_drivers) > 0 ? SLEEPER_DRIVER
	                                                  : SLEEPER_BACKGROUND;
	uint64_t due = atomic_load(&l->due[who]);

	if (due > 0 && (l->changed || l->n_deferred > 0 || next_due(l) < due))
		kick(l);
	give(l);
	/* Pairs with park: it sets parked, then looks at the lock. */
	switch ((enum park)atomic_load(&l->parked)) {
	case PARK_NOT:
		break;
	case PARK_BUSY:
		unpark(l);
		break;
	case PARK_DRIVEN:
	case PARK_LONG:
		if (news && atomic_load(&l->n_drivers) == 0)
			unpark(l);
		break;
	}
}

/* --- handles --- */

/* Out of the hot list. */
static void
cool(struct dsm_handle *h)
{
	struct dsm_loop *l = h->loop;

	if (!h->hot)
		return;
	if (l->cursor == h)
		l->cursor = TAILQ_NEXT(h, hot_link);
	TAILQ_REMOVE(&l->hot, h, hot_link);
	l->n_hot--;
	h->hot = 0;
}

static void
heat(struct dsm_handle *h)
{
	struct dsm_loop *l = h->loop;

	if (l->spin_ns > 0)
		h->hot_until = dsm__now() + l->spin_ns;
	if (h->hot || h->lost || (l->spin_ns == 0 && !h->again))
		return;
	TAILQ_INSERT_TAIL(&l->hot, h, hot_link);
	l->n_hot++;
	h->hot = 1;
}

static void
look_again(struct dsm_handle *h)
{
	h->again = 1;
	heat(h);
}

static void on_poll(uv_poll_t *poll, int status, int events);

static int
is_held(const struct dsm_handle *h)
{
	return h->sink != NULL && dsm__conn_backlog(h->sink->conn) > h->limit;
}

static void
watch(struct dsm_handle *h)
{
	int events = 0;

	h->held = is_held(h);
	if (!h->held)
		events |= UV_READABLE;
	if (dsm__conn_wants_out(h->conn))
		events |= UV_WRITABLE;
	if (h->events == events || h->broken || h->lost)
		return;
	h->events = events;
	h->loop->changed = 1;
	if (events != 0 && dsm__conn_is_polled(h->conn)) {
		/* Room to write shows in its descriptor as something to read,
		 * but it may not be armed. */
		events = UV_READABLE;
		look_again(h);
	}
	if (events != 0)
		uv_poll_start(&h->watcher->poll, events, on_poll);
	else
		uv_poll_stop(&h->watcher->poll);
}

/* h is not hot: from here on only its descriptor tells of news. */
static void
arm(struct dsm_handle *h)
{
	int events = h->events & UV_READABLE ? POLLIN : 0;

	if (h->lost || h->broken || h->events == 0)
		return;
	if (h->events & UV_WRITABLE)
		events |= POLLOUT;
	if (dsm__conn_arm(h->conn, events, &events) != DSM_OK)
		look_again(h);
}

/* h has fewer bytes queued: read again from what feeds it. */
static void
release(struct dsm_handle *h)
{
	struct dsm_handle *source = h->source;

	if (source == NULL || !source->held || is_held(source))
		return;
	watch(source);
	if (!source->lost)
		look_again(source);
}

static void
lose(struct dsm_handle *h, int err)
{
	h->again = 0;
	cool(h);
	if (h->lost)
		return;
	h->lost = 1;
	h->loop->changed = 1;
	uv_poll_stop(&h->watcher->poll);
	h->ops->lost(h->owner, h, err);
}

/* Hand out what has arrived, up to the fair share of a round. */
static void
deliver(struct dsm_handle *h)
{
	struct dsm_frame f;
	int err;

	h->again = 0;
	for (int i = 0; i < FRAMES_PER_ROUND; i++) {
		if (is_held(h)) {
			/* Nobody watches for its end otherwise. */
			if (h->broken || dsm__conn_error(h->conn) != DSM_OK)
				lose(h, DSM_ECONN);
			else
				watch(h);
			return;
		}
		err = dsm__conn_recv(h->conn, &f);
		if (err == DSM_EAGAIN && h->broken)
			err = DSM_ECONN;
		if (err == DSM_EAGAIN) {
			/* A handshake that is over lets go of what waited. */
			if (dsm__conn_wants_out(h->conn))
				watch(h);
			return;
		}
		if (err != DSM_OK) {
			lose(h, err);
			return;
		}
		heat(h);
		h->loop->idle_rounds = 0;
		h->in_frame = 1;
		h->ops->frame(h->owner, h, &f);
		h->in_frame = 0;
		if (h->conn == NULL) {
			dsm__conn_close(h->zombie);
			h->zombie = NULL;
			return;
		}
	}
	look_again(h);
}

/* Write queued bytes. A failure shows when reading ends. */
static void
flush(struct dsm_handle *h)
{
	if (dsm__conn_backlog(h->conn) == 0 ||
	    dsm__conn_error(h->conn) != DSM_OK)
		return;
	if (dsm__conn_flush(h->conn) == DSM_EAGAIN) {
		release(h);
		return;
	}
	if (dsm__conn_error(h->conn) != DSM_OK)
		look_again(h);
	else
		watch(h);
	release(h);
}

static void
on_poll(uv_poll_t *poll, int status, int events)
{
	struct watcher *w = poll->data;
	struct dsm_handle *h = w->handle;

	/* libuv has stopped the watcher; there may be bytes to read still. */
	if (status < 0)
		h->broken = 1;
	if (events & UV_WRITABLE || dsm__conn_is_polled(h->conn))
		flush(h);
	deliver(h);
	if (h->conn != NULL && !h->hot)
		arm(h);
}

static void
on_closed(uv_handle_t *poll)
{
	struct watcher *w = poll->data;

	free(w->handle);
	free(w);
}

static void
on_check(uv_timer_t *timer)
{
	struct dsm_loop *l = timer->data;
	struct dsm_handle *h;
	int n_polled = 0;

	TAILQ_FOREACH(h, &l->handles, link)
	{
		if (!dsm__conn_is_polled(h->conn))
			continue;
		n_polled++;
		if (!h->hot && !h->lost && h->events != 0 &&
		    dsm__conn_check(h->conn) != DSM_OK)
			look_again(h);
	}
	if (n_polled == 0)
		uv_timer_stop(timer);
}

/* A watcher for the descriptor that h's conn has now. */
static int
new_watcher(struct dsm_handle *h)
{
	struct watcher *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return DSM_ENOMEM;
	if (uv_poll_init(&h->loop->uv, &w->poll, dsm__conn_fd(h->conn)) != 0) {
		free(w);
		return DSM_ESYS;
	}
	w->poll.data = w;
	w->handle = h;
	h->watcher = w;
	if (dsm__conn_is_polled(h->conn) &&
	    !uv_is_active((uv_handle_t *)&h->loop->check))
		uv_timer_start(&h->loop->check, on_check, DSM_CHECK_MS,
		               DSM_CHECK_MS);
	return DSM_OK;
}

int
dsm__handle_refresh(struct dsm_handle *h)
{
	struct watcher *old = h->watcher;
	int err = new_watcher(h);

	if (err != DSM_OK)
		return err;
	old->handle = NULL;
	uv_close((uv_handle_t *)&old->poll, on_closed);
	h->events = 0;
	h->loop->changed = 1;
	watch(h);
	look_again(h);
	return DSM_OK;
}

int
dsm__loop_attach(struct dsm_loop *l, struct dsm_conn *conn,
                 const struct dsm_handle_ops *ops, void *owner,
                 struct dsm_handle **h_p)
{
	struct dsm_handle *h = calloc(1, sizeof(*h));
	int err;

	if (h == NULL)
		return DSM_ENOMEM;
	h->loop = l;
	h->conn = conn;
	err = new_watcher(h);
	if (err != DSM_OK) {
		free(h);
		return err;
	}
	h->ops = ops;
	h->owner = owner;
	TAILQ_INSERT_TAIL(&l->handles, h, link);
	watch(h);
	look_again(h);
	*h_p = h;
	return DSM_OK;
}

struct dsm_conn *
dsm__handle_detach(struct dsm_handle *h)
{
	struct dsm_conn *conn = h->conn;

	if (h->sink != NULL)
		dsm__handle_throttle(h, NULL, 0);
	if (h->source != NULL)
		dsm__handle_throttle(h->source, NULL, 0);
	cool(h);
	TAILQ_REMOVE(&h->loop->handles, h, link);
	h->conn = NULL;
	h->loop->changed = 1;
	uv_close((uv_handle_t *)&h->watcher->poll, on_closed);
	return conn;
}

void
dsm__handle_close(struct dsm_handle *h)
{
	struct dsm_conn *conn = dsm__handle_detach(h);

	dsm__conn_flush(conn);
	/* The frame that is being handled lies in the conn. */
	if (h->in_frame)
		h->zombie = conn;
	else
		dsm__conn_close(conn);
}

struct dsm_conn *
dsm__handle_conn(struct dsm_handle *h)
{
	return h->conn;
}

int
dsm__handle_send(struct dsm_handle *h, unsigned type, uint64_t tag,
                 const struct iovec *iov, int n_iov)
{
	int err = dsm__conn_send(h->conn, type, 0, tag, iov, n_iov);

	h->loop->sent = 1;
	if (dsm__conn_error(h->conn) != DSM_OK) {
		if (!h->lost)
			look_again(h);
		return err;
	}
	heat(h);
	watch(h);
	release(h);
	return err;
}

void
dsm__handle_throttle(struct dsm_handle *h, struct dsm_handle *sink,
                     size_t limit)
{
	if (h->sink != NULL && h->sink->source == h)
		h->sink->source = NULL;
	h->sink = sink;
	h->limit = limit;
	if (sink != NULL)
		sink->source = h;
	watch(h);
	if (!h->lost)
		look_again(h);
}

/* --- deferred calls --- */

int
dsm__loop_defer(struct dsm_loop *l, void (*fn)(void *arg), void *arg)
{
	if (l->n_deferred == l->cap_deferred) {
		size_t cap = l->cap_deferred > 0 ? 2 * l->cap_deferred : 8;
		struct deferred *v = realloc(l->deferred, cap * sizeof(*v));

		if (v == NULL)
			return DSM_ENOMEM;
		l->deferred = v;
		l->cap_deferred = cap;
	}
	l->deferred[l->n_deferred++] = (struct deferred){fn, arg};
	return DSM_OK;
}

/* What they defer in turn is called in the same go. */
static void
run_deferred(struct dsm_loop *l)
{
	for (size_t i = 0; i < l->n_deferred; i++) {
		struct deferred d = l->deferred[i];

		d.fn(d.arg);
	}
	l->n_deferred = 0;
}

/* --- driving --- */

static void
run_uv(struct dsm_loop *l, uint64_t now)
{
	l->rounds = 0;
	l->uv_next = now + NS_PER_UV_RUN;
	l->changed = 0;
	uv_run(&l->uv, UV_RUN_NOWAIT);
}

static void
poll_hot(struct dsm_loop *l, uint64_t now)
{
	struct dsm_handle *h;

	for (h = TAILQ_FIRST(&l->hot); h != NULL; h = l->cursor) {
		l->cursor = TAILQ_NEXT(h, hot_link);
		if (!h->again && now >= h->hot_until) {
			cool(h);
			arm(h);
		} else if (h->again || l->n_hot <= HOT_RECV_MAX ||
		           dsm__conn_is_polled(h->conn)) {
			flush(h);
			deliver(h);
		}
	}
}

/*
 * One round, lock held. Returns how long to sleep before the next, in ms; 0:
 * not at all. *ran_p: the last round was a cold one that found nothing, and the
 * caller has looked at its condition since; 0 after a sleep.
 */
static int
step(struct dsm_loop *l, uint64_t deadline, int *ran_p)
{
	uint64_t now = dsm__now();
	int ms, left;

	l->sent = 0;
	run_deferred(l);
	if (!TAILQ_EMPTY(&l->hot)) {
		*ran_p = 0;
		poll_hot(l, now);
		if (++l->rounds >= ROUNDS_PER_UV_RUN || l->changed ||
		    l->n_hot > HOT_RECV_MAX || now >= l->uv_next)
			run_uv(l, now);
		run_deferred(l);
		dsm__spin_pause(l->idle_rounds++);
		return 0;
	}
	if (!*ran_p || l->changed) {
		*ran_p = 1;
		run_uv(l, now);
		run_deferred(l);
		return 0;
	}
	*ran_p = 0;
	/* The lock may have been away for long since uv_run. */
	uv_update_time(&l->uv);
	ms = uv_backend_timeout(&l->uv);
	left = dsm__ms_left(deadline);
	return ms < 0 || ms > left ? left : ms;
}

/* Lock held: say how long we sleep, so that others can shorten it. */
static void
announce(struct dsm_loop *l, enum sleeper who)
{
	/* Of this driver's deadline the others need to know nothing. */
	atomic_store(&l->due[who], next_due(l));
}

/* Without the lock. */
static void
sleep_until_io(struct dsm_loop *l, enum sleeper who, int ms)
{
	struct pollfd p = {.fd = uv_backend_fd(&l->uv), .events = POLLIN};

	poll(&p, 1, ms);
	atomic_store(&l->due[who], 0);
}

/* Lock held, given up meanwhile: wait until the driver leaves or kicks. */
static void
wait_turn(struct dsm_loop *l, uint64_t deadline)
{
	uint64_t turn;

	l->n_waiting++;
	pthread_mutex_lock(&l->mutex);
	turn = l->turn;
	pthread_mutex_unlock(&l->mutex);
	give(l);
	pthread_mutex_lock(&l->mutex);
	while (l->turn == turn && dsm__now() < deadline)
		wait_until(l, &l->turn_cond, deadline);
	pthread_mutex_unlock(&l->mutex);
	take(l);
	l->n_waiting--;
}

static void
call_turn(struct dsm_loop *l)
{
	if (l->n_waiting == 0)
		return;
	pthread_mutex_lock(&l->mutex);
	l->turn++;
	pthread_cond_broadcast(&l->turn_cond);
	pthread_mutex_unlock(&l->mutex);
}

void
dsm__loop_kick(struct dsm_loop *l)
{
	call_turn(l);
	if (atomic_load(&l->due[SLEEPER_DRIVER]) != 0)
		kick(l);
}

/* Lock held, given up while asleep or when others want it. */
static void
drive_round(struct dsm_loop *l, uint64_t deadline, int *ran_p)
{
	int ms;

	l->driving = 1;
	ms = step(l, deadline, ran_p);
	if (ms > 0) {
		announce(l, SLEEPER_DRIVER);
		give(l);
		sleep_until_io(l, SLEEPER_DRIVER, ms);
		take(l);
	} else if (is_wanted(l)) {
		give(l);
		take(l);
	}
	l->driving = 0;
}

void
dsm__loop_enter(struct dsm_loop *l)
{
	atomic_fetch_add(&l->n_drivers, 1);
}

void
dsm__loop_leave(struct dsm_loop *l)
{
	/* Pairs with park: it sets PARK_LONG, then reads n_drivers. */
	if (atomic_fetch_sub(&l->n_drivers, 1) == 1 &&
	    atomic_load(&l->parked) == PARK_LONG)
		unpark(l);
}

int
dsm__loop_drive(struct dsm_loop *l, int (*done)(void *arg), void *arg,
                uint64_t deadline)
{
	int ran = 0;
	int err = DSM_OK;

	dsm__loop_enter(l);
	while (!done(arg)) {
		if (dsm__now() >= deadline) {
			err = DSM_ETIMEDOUT;
			break;
		}
		if (l->driving) {
			wait_turn(l, deadline);
			ran = 0;
		} else {
			drive_round(l, deadline, &ran);
		}
	}
	dsm__loop_leave(l);
	call_turn(l);
	return err;
}

static int
is_stopped(void *arg)
{
	struct dsm_loop *l = arg;

	return l->stop;
}

void
dsm__loop_run(struct dsm_loop *l)
{
	dsm__loop_lock(l);
	dsm__loop_drive(l, is_stopped, l, DSM_FOREVER);
	l->stop = 0;
	dsm__loop_unlock(l);
}

void
dsm__loop_stop(struct dsm_loop *l)
{
	l->stop = 1;
	dsm__loop_kick(l);
}

/* --- background thread --- */

static int
is_free(struct dsm_loop *l)
{
	return atomic_load(&l->next) == atomic_load(&l->serving);
}

static void
park(struct dsm_loop *l)
{
	uint64_t until = dsm__now() + PARK_NS;
	int driven = atomic_load(&l->n_drivers) > 0;

	pthread_mutex_lock(&l->mutex);
	atomic_store(&l->parked, driven ? PARK_DRIVEN : PARK_BUSY);
	while (!l->unpark && dsm__now() < until && (driven || !is_free(l)))
		wait_until(l, &l->park_cond, until);
	if (!l->unpark && driven) {
		atomic_store(&l->parked, PARK_LONG);
		until = dsm__now() + PARK_LONG_NS;
		while (!l->unpark && atomic_load(&l->n_drivers) > 0 &&
		       dsm__now() < until)
			wait_until(l, &l->park_cond, until);
	}
	atomic_store(&l->parked, PARK_NOT);
	l->unpark = 0;
	pthread_mutex_unlock(&l->mutex);
}

/* The lock, unless somebody drives or keeps it for longer than an instant. */
static int
try_take_for_background(struct dsm_loop *l)
{
	for (int i = 0; i < LOCK_SPINS; i++) {
		if (atomic_load(&l->n_drivers) > 0)
			return 0;
		if (try_take(l)) {
			if (atomic_load(&l->n_drivers) == 0)
				return 1;
			give(l);
			return 0;
		}
		dsm__cpu_relax();
	}
	return 0;
}

static void *
background(void *arg)
{
	struct dsm_loop *l = arg;
	int ran = 0;
	int ms;

	while (!atomic_load(&l->quit)) {
		if (!try_take_for_background(l)) {
			park(l);
			ran = 0;
			continue;
		}
		ms = step(l, DSM_FOREVER, &ran);
		if (ms > 0)
			announce(l, SLEEPER_BACKGROUND);
		give(l);
		if (ms > 0)
			sleep_until_io(l, SLEEPER_BACKGROUND, ms);
	}
	return NULL;
}

/* The program's signal handlers must not run on our thread. */
static int
start_background(struct dsm_loop *l)
{
	static const int synchronous[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL,
	                                  SIGTRAP};
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	for (unsigned i = 0; i < sizeof(synchronous) / sizeof(int); i++)
		sigdelset(&all, synchronous[i]);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&l->thread, NULL, background, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0) {
		errno = rc;
		return rc == ENOMEM ? DSM_ENOMEM : DSM_ESYS;
	}
	pthread_setname_np(l->thread, "taskrt-loop");
	l->has_thread = 1;
	return DSM_OK;
}

/* --- life --- */

static void
close_leftover(uv_handle_t *handle, void *arg)
{
	(void)arg;
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

static void
free_loop(struct dsm_loop *l)
{
	while (!TAILQ_EMPTY(&l->handles))
		dsm__handle_close(TAILQ_FIRST(&l->handles));
	uv_walk(&l->uv, close_leftover, NULL);
	uv_run(&l->uv, UV_RUN_DEFAULT);
	uv_loop_close(&l->uv);
	free(l->deferred);
	pthread_cond_destroy(&l->park_cond);
	pthread_cond_destroy(&l->turn_cond);
	pthread_cond_destroy(&l->lock_cond);
	pthread_mutex_destroy(&l->mutex);
	free(l);
}

int
dsm__loop_create(const struct dsm_loop_params *p, struct dsm_loop **loop_p)
{
	struct dsm_loop *l = calloc(1, sizeof(*l));
	pthread_condattr_t attr;
	int err;

	if (l == NULL)
		return DSM_ENOMEM;
	TAILQ_INIT(&l->handles);
	TAILQ_INIT(&l->hot);
	l->spin_ns = p->spin_ns;
	err = uv_loop_init(&l->uv);
	if (err != 0) {
		free(l);
		errno = -err;
		return err == UV_ENOMEM ? DSM_ENOMEM : DSM_ESYS;
	}
	pthread_mutex_init(&l->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->lock_cond, &attr);
	pthread_cond_init(&l->turn_cond, &attr);
	pthread_cond_init(&l->park_cond, &attr);
	pthread_condattr_destroy(&attr);
	/* Also keeps uv_backend_timeout from saying 0 for want of handles. */
	err = uv_async_init(&l->uv, &l->wake, on_wake);
	errno = -err;
	err = err == 0 ? DSM_OK : DSM_ESYS;
	l->wake.data = l;
	uv_timer_init(&l->uv, &l->check);
	l->check.data = l;
	if (err == DSM_OK && p->background)
		err = start_background(l);
	if (err != DSM_OK) {
		int saved = errno;

		free_loop(l);
		errno = saved;
		return err;
	}
	*loop_p = l;
	return DSM_OK;
}

void
dsm__loop_destroy(struct dsm_loop *l)
{
	if (l == NULL)
		return;
	if (l->has_thread) {
		atomic_store(&l->quit, 1);
		uv_async_send(&l->wake);
		unpark(l);
		pthread_join(l->thread, NULL);
	}
	free_loop(l);
}

uv_loop_t *
dsm__loop_uv(struct dsm_loop *l)
{
	l->changed = 1;
	return &l->uv;
}
