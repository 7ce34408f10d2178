/*
 * States of a link: CONNECTING (to the target; bytes wait in the accepted socket) ->
 * OPEN -> gone, when both ways have ended, one has failed, or it is cut.
 *
 * A way holds pieces that were read and are due for writing; it reads no more while
 * it holds HELD_MAX bytes, so a receiver that does not read stops the sender, as
 * without a proxy.
 */
#include "proxy.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/transport/conn.h"
#include "../../dsm/wire/wire.h"
#include "rng.h"

#define DOORS_MAX 16
#define LINKS_MAX 512
#define PIECE_MAX (64u << 10)
#define HELD_MAX (256u << 10)
#define SHORT_BYTES \
	(24u << 10) /* a way is short for so long, or it takes ages */
#define FRAME_HEAD 16
#define NEVER UINT64_MAX

struct piece {
	STAILQ_ENTRY(piece) link;
	uint64_t due;
	size_t off, len;
	uint8_t bytes[];
};

/* Frames of a way. */
struct scan {
	uint8_t head[FRAME_HEAD];
	size_t n_head;
	uint64_t rest; /* of the body */
	int lost;      /* these are no frames */
};

struct way {
	int from, to;
	STAILQ_HEAD(, piece) pieces;
	size_t held;
	uint64_t n_read;
	uint64_t cut_at, stall_at; /* bytes; NEVER */
	uint32_t delay_us;
	size_t most; /* bytes at a time, while n_read < SHORT_BYTES */
	uint64_t last_due;
	int ended, passed_end;
	struct rng rng;
	struct scan scan;
};

enum link_state {
	LINK_CONNECTING,
	LINK_OPEN,
	LINK_GONE,
};

enum cut {
	CUT_RESET,
	CUT_CLOSE,
	CUT_ONE_WAY,
	N_CUTS,
};

struct link {
	TAILQ_ENTRY(link) entry;
	struct door *door;
	unsigned number;
	enum link_state state;
	struct way ways[2]; /* 1: back */
	enum cut how;
	uint64_t stalled_until, stall_ns;
	int wants_double, echo; /* echo: the double says all, not just HELLO */
	int double_fd;          /* -1: none */
	size_t double_len;      /* of what it still has to say */
	uint8_t double_bytes[4096];
	int slots[2]; /* in the poll array */
};

struct door {
	struct proxy *proxy;
	enum lane lane;
	unsigned number, n_accepted;
	int fd;
	char target[DSM_ADDR_MAX];
};

struct proxy {
	struct proxy_params p;
	struct door doors[DOORS_MAX];
	unsigned n_doors;
	TAILQ_HEAD(, link) links;
	unsigned n_links;
	int calm;
	struct proxy_counts counts;
	struct pollfd polls[DOORS_MAX + 2 * LINKS_MAX];
};

static const char *const lane_names[N_LANES] = {"client", "worker", "data"};

#define SAY(p, ...)                                             \
	do {                                                    \
		if ((p)->p.verbose)                             \
			fprintf(stderr, "proxy: " __VA_ARGS__); \
	} while (0)

int
proxy_create(const struct proxy_params *params, struct proxy **p_p)
{
	struct proxy *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return -1;
	p->p = *params;
	TAILQ_INIT(&p->links);
	*p_p = p;
	return 0;
}

int
proxy_door(struct proxy *p, enum lane lane, const char *listen,
           const char *target)
{
	struct door *d = &p->doors[p->n_doors];
	struct dsm_error e = {0};
	char addr[DSM_ADDR_MAX];

	if (p->n_doors == DOORS_MAX) {
		fprintf(stderr, "proxy: more than %d doors\n", DOORS_MAX);
		return -1;
	}
	if (dsm__tcp_listen(listen, addr, &d->fd, &e) != DSM_OK) {
		fprintf(stderr, "proxy: %s\n", e.text);
		return -1;
	}
	d->proxy = p;
	d->lane = lane;
	d->number = p->n_doors++;
	snprintf(d->target, sizeof(d->target), "%s", target);
	return 0;
}

/* --- links --- */

static void
free_pieces(struct way *w)
{
	struct piece *c;

	while ((c = STAILQ_FIRST(&w->pieces)) != NULL) {
		STAILQ_REMOVE_HEAD(&w->pieces, link);
		free(c);
	}
}

static void
end_link(struct proxy *p, struct link *l, int reset)
{
	const struct linger hard = {1, 0};

	for (int i = 0; i < 2; i++) {
		free_pieces(&l->ways[i]);
		if (reset)
			setsockopt(l->ways[i].from, SOL_SOCKET, SO_LINGER,
			           &hard, sizeof(hard));
		close(l->ways[i].from);
	}
	if (l->double_fd >= 0)
		close(l->double_fd);
	TAILQ_REMOVE(&p->links, l, entry);
	p->n_links--;
	free(l);
}

static void
init_way(struct way *w, int from, int to)
{
	STAILQ_INIT(&w->pieces);
	w->from = from;
	w->to = to;
	w->cut_at = w->stall_at = NEVER;
	w->most = PIECE_MAX;
}

/* What will become of it. */
static void
draw(struct proxy *p, struct link *l)
{
	const struct proxy_odds *o = &p->p.odds;
	struct rng r =
	    rng_of(p->p.seed, 1000 + l->door->number * 100000 + l->number);

	for (int i = 0; i < 2; i++) {
		struct way *w = &l->ways[i];

		w->rng = (struct rng){rng_next(&r)};
		if (rng_chance(&r, o->shorts)) {
			w->most = rng_log(&r, 10);
			p->counts.shorts++;
		}
		if (rng_chance(&r, o->delay)) {
			w->delay_us = (uint32_t)rng_below(&r, o->delay_us + 1);
			p->counts.delayed++;
		}
	}
	l->how = (enum cut)rng_below(&r, N_CUTS);
	if (rng_chance(&r, o->cut))
		l->ways[rng_below(&r, 2)].cut_at = rng_log(&r, 20) - 1;
	if (rng_chance(&r, o->stall))
		l->ways[rng_below(&r, 2)].stall_at = rng_log(&r, 18) - 1;
	l->stall_ns = rng_below(&r, o->stall_ms + 1) * DSM_MS;
	l->wants_double = rng_chance(&r, o->doubles);
	l->echo = rng_chance(&r, 50);
	SAY(p,
	    "%s link %u.%u: most %zu/%zu, delay %u/%u us, cut %lld/%lld "
	    "(%d), stall %lld/%lld for %llu ms, double %d\n",
	    lane_names[l->door->lane], l->door->number, l->number,
	    l->ways[0].most, l->ways[1].most, l->ways[0].delay_us,
	    l->ways[1].delay_us, (long long)l->ways[0].cut_at,
	    (long long)l->ways[1].cut_at, (int)l->how,
	    (long long)l->ways[0].stall_at, (long long)l->ways[1].stall_at,
	    (unsigned long long)(l->stall_ns / DSM_MS),
	    l->wants_double ? 1 + l->echo : 0);
}

static void
accept_one(struct proxy *p, struct door *d, int fd)
{
	struct dsm_error e = {0};
	struct link *l;
	int to;

	if (p->n_links == LINKS_MAX ||
	    dsm__tcp_connect_start(d->target, &to, &e) != DSM_OK) {
		close(fd);
		return;
	}
	l = calloc(1, sizeof(*l));
	if (l == NULL)
		abort();
	l->door = d;
	l->number = d->n_accepted++;
	l->state = LINK_CONNECTING;
	l->double_fd = -1;
	init_way(&l->ways[0], fd, to);
	init_way(&l->ways[1], to, fd);
	if (!p->calm)
		draw(p, l);
	TAILQ_INSERT_TAIL(&p->links, l, entry);
	p->n_links++;
	p->counts.links++;
	p->counts.lane_links[d->lane]++;
}

/* --- frames --- */

static uint32_t
get_u32(const uint8_t *b)
{
	return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 |
	       (uint32_t)b[3] << 24;
}

static void
saw_frame(struct proxy *p, struct link *l, int back, unsigned type)
{
	p->counts.frames++;
	if (p->p.frame != NULL && !p->calm)
		p->p.frame(p->p.arg, l->door->lane, back, type);
}

/* A header is complete. */
static void
saw_head(struct proxy *p, struct link *l, int back)
{
	struct scan *s = &l->ways[back].scan;

	s->n_head = 0;
	s->rest = get_u32(s->head);
	if (s->rest > DSM_FRAME_MAX || s->head[6] != DSM_VERSION ||
	    s->head[7] != 0)
		s->lost = 1;
	saw_frame(p, l, back,
	          s->lost ? 0 : s->head[4] | (unsigned)s->head[5] << 8);
}

static void
scan_frames(struct proxy *p, struct link *l, int back, const uint8_t *b,
            size_t len)
{
	struct scan *s = &l->ways[back].scan;

	if (s->lost)
		saw_frame(p, l, back, 0);
	while (len > 0 && !s->lost) {
		size_t n = len;

		if (s->rest > 0) {
			n = s->rest < len ? s->rest : len;
			s->rest -= n;
		} else {
			if (n > sizeof(s->head) - s->n_head)
				n = sizeof(s->head) - s->n_head;
			memcpy(s->head + s->n_head, b, n);
			s->n_head += n;
			if (s->n_head == sizeof(s->head))
				saw_head(p, l, back);
		}
		b += n;
		len -= n;
	}
}

/* --- the double --- */

static void
end_double(struct link *l)
{
	if (l->double_fd >= 0)
		close(l->double_fd);
	l->double_fd = -1;
	l->wants_double = 0;
}

/* Bytes of way 0: what it repeats. It must be quick: one that does not take
 * them is ended. */
static void
feed_double(struct proxy *p, struct link *l, const uint8_t *b, size_t len)
{
	struct dsm_error e = {0};
	uint8_t dump[4096];

	if (l->double_fd < 0) {
		size_t room = sizeof(l->double_bytes) - l->double_len;

		if (len > room)
			len = room;
		memcpy(l->double_bytes + l->double_len, b, len);
		l->double_len += len;
		/* Its first frame must have passed. */
		if (l->ways[0].scan.n_head != 0 || l->ways[0].scan.rest != 0)
			return;
		if (dsm__tcp_connect(l->door->target, dsm__deadline_ms(1000),
		                     &l->double_fd, &e) != DSM_OK) {
			l->double_fd = -1;
			end_double(l);
			return;
		}
		p->counts.doubled++;
		b = l->double_bytes;
		len = l->double_len;
	} else if (!l->echo) {
		return;
	}
	while (recv(l->double_fd, dump, sizeof(dump), MSG_DONTWAIT) > 0)
		;
	if (send(l->double_fd, b, len, MSG_DONTWAIT | MSG_NOSIGNAL) !=
	    (ssize_t)len)
		end_double(l);
}

/* --- bytes --- */

static size_t
step_of(struct way *w)
{
	if (w->n_read >= SHORT_BYTES || w->most == PIECE_MAX)
		return PIECE_MAX;
	return 1 + rng_below(&w->rng, w->most);
}

static void
stall(struct proxy *p, struct link *l)
{
	l->stalled_until = dsm__now() + l->stall_ns;
	p->counts.stalled++;
	SAY(p, "%s link %u.%u stalls\n", lane_names[l->door->lane],
	    l->door->number, l->number);
}

static void
cut(struct proxy *p, struct link *l, struct way *w)
{
	p->counts.cut++;
	SAY(p, "%s link %u.%u is cut after %llu bytes\n",
	    lane_names[l->door->lane], l->door->number, l->number,
	    (unsigned long long)w->n_read);
	w->cut_at = NEVER;
	if (l->how == CUT_ONE_WAY)
		w->ended = 1;
	else
		l->state = LINK_GONE;
}

/* One piece from its socket. */
static void
take_piece(struct proxy *p, struct link *l, int back)
{
	struct way *w = &l->ways[back];
	size_t want = step_of(w);
	struct piece *c;
	ssize_t n;

	if (!p->calm && w->cut_at != NEVER && want > w->cut_at - w->n_read)
		want = w->cut_at - w->n_read;
	if (!p->calm && want == 0) {
		cut(p, l, w);
		return;
	}
	c = malloc(sizeof(*c) + want);
	if (c == NULL)
		abort();
	n = recv(w->from, c->bytes, want, MSG_DONTWAIT);
	if (n <= 0) {
		if (n == 0)
			w->ended = 1;
		else if (errno != EAGAIN && errno != EINTR)
			l->state = LINK_GONE;
		free(c);
		return;
	}
	c->off = 0;
	c->len = (size_t)n;
	c->due = 0;
	if (w->delay_us > 0 && !p->calm) {
		c->due = dsm__now() + rng_below(&w->rng, w->delay_us) * DSM_US;
		if (c->due < w->last_due)
			c->due = w->last_due;
		w->last_due = c->due;
	}
	STAILQ_INSERT_TAIL(&w->pieces, c, link);
	w->held += c->len;
	w->n_read += c->len;
	p->counts.bytes += c->len;
	scan_frames(p, l, back, c->bytes, c->len);
	if (!back && l->wants_double && !p->calm)
		feed_double(p, l, c->bytes, c->len);
	if (!p->calm && w->n_read > w->stall_at) {
		w->stall_at = NEVER;
		stall(p, l);
	}
}

/* Its first piece, when due. */
static void
give_piece(struct proxy *p, struct link *l, struct way *w)
{
	struct piece *c = STAILQ_FIRST(&w->pieces);
	size_t want;
	ssize_t n;

	if (c == NULL) {
		if (w->ended && !w->passed_end) {
			w->passed_end = 1;
			shutdown(w->to, SHUT_WR);
		}
		return;
	}
	if (!p->calm && c->due > dsm__now())
		return;
	want = step_of(w);
	if (want > c->len - c->off)
		want = c->len - c->off;
	n = send(w->to, c->bytes + c->off, want, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			l->state = LINK_GONE;
		return;
	}
	c->off += (size_t)n;
	w->held -= (size_t)n;
	if (c->off == c->len) {
		STAILQ_REMOVE_HEAD(&w->pieces, link);
		free(c);
	}
}

/* --- a round --- */

static int
stalled(const struct proxy *p, const struct link *l, uint64_t now)
{
	return !p->calm && l->stalled_until > now;
}

/* What to wait for at each end of a link; brings *wake_p forward. */
static void
link_events(struct proxy *p, struct link *l, uint64_t now, short events[2],
            uint64_t *wake_p)
{
	events[0] = events[1] = 0;
	if (l->state == LINK_CONNECTING) {
		events[1] = POLLOUT;
		return;
	}
	if (stalled(p, l, now)) {
		if (l->stalled_until < *wake_p)
			*wake_p = l->stalled_until;
		return;
	}
	for (int i = 0; i < 2; i++) {
		struct way *w = &l->ways[i];
		const struct piece *c = STAILQ_FIRST(&w->pieces);

		if (!w->ended && w->held < HELD_MAX)
			events[i] |= POLLIN;
		if (c == NULL && w->ended && !w->passed_end)
			*wake_p = now;
		if (c == NULL)
			continue;
		if (p->calm || c->due <= now)
			events[!i] |= POLLOUT;
		else if (c->due < *wake_p)
			*wake_p = c->due;
	}
}

static void
serve_link(struct proxy *p, struct link *l, uint64_t now)
{
	short in = p->polls[l->slots[0]].revents;
	short back = p->polls[l->slots[1]].revents;
	struct dsm_error e = {0};

	if (l->state == LINK_CONNECTING) {
		if (back == 0)
			return;
		l->state = dsm__tcp_connect_result(
		               l->ways[0].to, l->door->target, &e) == DSM_OK
		               ? LINK_OPEN
		               : LINK_GONE;
		return;
	}
	if (stalled(p, l, now))
		return;
	if (in & (POLLIN | POLLHUP | POLLERR) && !l->ways[0].ended)
		take_piece(p, l, 0);
	if (back & (POLLIN | POLLHUP | POLLERR) && !l->ways[1].ended &&
	    l->state == LINK_OPEN)
		take_piece(p, l, 1);
	for (int i = 0; i < 2 && l->state == LINK_OPEN; i++)
		give_piece(p, l, &l->ways[i]);
	if (l->ways[0].passed_end && l->ways[1].passed_end)
		l->state = LINK_GONE;
}

static void
serve_door(struct proxy *p, struct door *d)
{
	int fd;

	while (dsm__tcp_accept(d->fd, &fd) == DSM_OK)
		accept_one(p, d, fd);
}

void
proxy_step(struct proxy *p, int ms)
{
	uint64_t now = dsm__now(), wake = now + (uint64_t)ms * DSM_MS;
	struct link *l, *next;
	struct timespec ts;
	unsigned n = 0;

	for (unsigned i = 0; i < p->n_doors; i++)
		p->polls[n++] = (struct pollfd){p->doors[i].fd, POLLIN, 0};
	TAILQ_FOREACH(l, &p->links, entry)
	{
		short events[2];

		link_events(p, l, now, events, &wake);
		for (int i = 0; i < 2; i++) {
			l->slots[i] = (int)n;
			/* An end that hung up would wake us all the time. */
			p->polls[n++] = (struct pollfd){
			    events[i] != 0 ? l->ways[i].from : -1, events[i],
			    0};
		}
	}
	wake = wake > now ? wake - now : 0;
	ts =
	    (struct timespec){(time_t)(wake / DSM_SEC), (long)(wake % DSM_SEC)};
	if (ppoll(p->polls, n, &ts, NULL) < 0)
		return;
	now = dsm__now();
	/* New links have no place in the array yet: they come last. */
	for (l = TAILQ_FIRST(&p->links); l != NULL; l = next) {
		next = TAILQ_NEXT(l, entry);
		serve_link(p, l, now);
		if (l->state == LINK_GONE)
			end_link(p, l, l->how == CUT_RESET);
	}
	for (unsigned i = 0; i < p->n_doors; i++)
		if (p->polls[i].revents != 0)
			serve_door(p, &p->doors[i]);
}

/* --- from outside --- */

void
proxy_calm(struct proxy *p)
{
	struct link *l;

	p->calm = 1;
	TAILQ_FOREACH(l, &p->links, entry)
	end_double(l);
}

void
proxy_cut_one(struct proxy *p, enum lane lane, uint64_t pick)
{
	struct link *l;
	uint64_t n = 0;

	TAILQ_FOREACH(l, &p->links, entry)
	n += l->door->lane == lane;
	if (n == 0)
		return;
	pick %= n;
	TAILQ_FOREACH(l, &p->links, entry)
	if (l->door->lane == lane && pick-- == 0)
		break;
	/* Not from inside serve_link: the next round ends it. */
	for (int i = 0; i < 2; i++)
		l->ways[i].cut_at = l->ways[i].n_read;
}

const struct proxy_counts *
proxy_counts(const struct proxy *p)
{
	return &p->counts;
}

void
proxy_destroy(struct proxy *p)
{
	struct link *l;

	while ((l = TAILQ_FIRST(&p->links)) != NULL)
		end_link(p, l, 0);
	for (unsigned i = 0; i < p->n_doors; i++)
		close(p->doors[i].fd);
	free(p);
}
