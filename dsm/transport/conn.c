/*
 * Framing, buffering and the out-queue, for every back-end.
 *
 * Reading. Small frames are read READ_AHEAD bytes at a time, so that one call
 * brings several. A frame larger than that is read to its end and not further,
 * straight to where its body stays; what had been read of it before its length
 * was known (at most READ_AHEAD) is the only part that is ever moved.
 *
 *   in: [ handed out | not yet: whole frames, or the start of one |  room  ]
 *       0            in_off                                       in_len in_cap
 *
 * Writing. A frame goes out in one call, header and body gathered; what the
 * socket does not take is copied to `out`, which later frames then join.
 *
 * A failed write does not end reading: a peer that said why it left and closed
 * is still heard. recv fails when there is nothing left to read.
 */
#include "conn_priv.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../base/clock.h"
#include "../wire/wire.h"

#define HEADER 16
#define READ_AHEAD (32u << 10)
/* Buffers larger than this are given back when they are empty. */
#define KEEP (4u << 20)
#define MAX_IOV 64
#define TRIES_PER_CLOCK 8
#define DRAIN_SPIN_NS (20 * DSM_US)

/* The header as it travels, little-endian. */
struct header {
	uint32_t len;
	uint16_t type;
	uint8_t version, flags;
	uint64_t tag;
};
_Static_assert(sizeof(struct header) == HEADER, "frame header is 16 bytes");

ssize_t
dsm__sock_readv(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};
	ssize_t got;

	do
		got = n == 1 ? recv(c->fd, iov->iov_base, iov->iov_len,
		                    MSG_DONTWAIT)
		             : recvmsg(c->fd, &m, MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	if (got > 0)
		return got;
	return got < 0 && errno == EAGAIN ? DSM_EAGAIN : DSM_ECONN;
}

ssize_t
dsm__sock_writev(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = n};
	const int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
	ssize_t put;

	do
		put = n == 1 ? send(c->fd, iov->iov_base, iov->iov_len, flags)
		             : sendmsg(c->fd, &m, flags);
	while (put < 0 && errno == EINTR);
	if (put >= 0)
		return put;
	if (errno == EAGAIN)
		return DSM_EAGAIN;
	return errno == ENOMEM || errno == ENOBUFS ? DSM_ENOMEM : DSM_ECONN;
}

ssize_t
dsm__sock_splice(struct dsm_conn *c, int pipe_fd, size_t len)
{
	ssize_t got;

	do
		got = splice(c->fd, NULL, pipe_fd, NULL, len,
		             SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	while (got < 0 && errno == EINTR);
	if (got > 0)
		return got;
	if (got < 0 && errno == EAGAIN)
		return DSM_EAGAIN;
	return got < 0 && (errno == EINVAL || errno == ENOSYS) ? DSM_EINVAL
	                                                       : DSM_ECONN;
}

void
dsm__sock_close(struct dsm_conn *c)
{
	close(c->fd);
}

int
dsm__conn_create(const struct dsm_conn_ops *ops, int fd, uint32_t max_body,
                 struct dsm_conn **conn_p)
{
	struct dsm_conn *c;
	int flags, err;

	err = DSM_EINVAL;
	if (max_body > DSM_FRAME_MAX)
		goto close_fd;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
		goto close_fd;
	err = DSM_ENOMEM;
	c = calloc(1, sizeof(*c));
	if (c == NULL)
		goto close_fd;
	c->in = malloc(READ_AHEAD);
	if (c->in == NULL)
		goto free_conn;
	c->in_cap = READ_AHEAD;
	c->ops = ops;
	c->fd = c->poll_fd = fd;
	c->max_body = max_body;
	/* Now: a socket whose peer has gone no longer knows its name. */
	if (dsm__tcp_peer(fd, c->peer) != DSM_OK)
		snprintf(c->peer, sizeof(c->peer), "local");
	*conn_p = c;
	return DSM_OK;
free_conn:
	free(c);
close_fd:
	close(fd);
	return err;
}

void
dsm__conn_close(struct dsm_conn *c)
{
	if (c == NULL)
		return;
	(c->next_ops != NULL ? c->next_ops : c->ops)->close(c);
	if (c->tls != NULL)
		c->tls_free(c);
	free(c->in);
	free(c->out);
	free(c);
}

void
dsm__conn_forget(struct dsm_conn *c)
{
	if (c != NULL)
		(c->next_ops != NULL ? c->next_ops : c->ops)->forget(c);
}

int
dsm__conn_fd(const struct dsm_conn *c)
{
	return c->poll_fd;
}

int
dsm__conn_arm(struct dsm_conn *c, int events, int *poll_p)
{
	*poll_p = events;
	if (c->ops->arm == NULL)
		return DSM_OK;
	*poll_p = POLLIN;
	return c->ops->arm(c, events);
}

int
dsm__conn_check(struct dsm_conn *c)
{
	return c->ops->check == NULL ? DSM_OK : c->ops->check(c);
}

int
dsm__conn_is_polled(const struct dsm_conn *c)
{
	return c->ops->arm != NULL;
}

void
dsm__conn_set_max(struct dsm_conn *c, uint32_t max_body)
{
	c->max_body = max_body;
}

const char *
dsm__conn_transport(const struct dsm_conn *c)
{
	return c->ops->name;
}

const char *
dsm__conn_peer(const struct dsm_conn *c)
{
	return c->peer;
}

int
dsm__conn_error(const struct dsm_conn *c)
{
	return c->in_err != DSM_OK ? c->in_err : c->out_err;
}

const char *
dsm__conn_why(const struct dsm_conn *c)
{
	return c->why;
}

/* --- out --- */

size_t
dsm__conn_backlog(const struct dsm_conn *c)
{
	size_t queued = c->out_len - c->out_off;

	return c->ops->pending != NULL ? queued + c->ops->pending(c) : queued;
}

int
dsm__conn_wants_out(const struct dsm_conn *c)
{
	return dsm__conn_backlog(c) > 0 &&
	       (c->ops->needs_input == NULL || !c->ops->needs_input(c));
}

/* Room for more bytes at the end of the out-queue. */
static int
reserve_out(struct dsm_conn *c, size_t more)
{
	size_t left = c->out_len - c->out_off;
	size_t cap = c->out_cap ? c->out_cap : 4096;
	uint8_t *p;

	if (c->out_cap - c->out_len >= more)
		return DSM_OK;
	/* Moving is cheap against what was written since the last move. */
	if (c->out_off >= left && c->out_cap - left >= more) {
		memmove(c->out, c->out + c->out_off, left);
	} else {
		while (cap - left < more)
			cap *= 2;
		p = malloc(cap);
		if (p == NULL)
			return DSM_ENOMEM;
		if (left > 0)
			memcpy(p, c->out + c->out_off, left);
		free(c->out);
		c->out = p;
		c->out_cap = cap;
	}
	c->out_off = 0;
	c->out_len = left;
	return DSM_OK;
}

int
dsm__conn_flush(struct dsm_conn *c)
{
	struct iovec v;
	ssize_t put;

	if (dsm__conn_error(c) != DSM_OK)
		return dsm__conn_error(c);
	while (c->out_off < c->out_len) {
		v.iov_base = c->out + c->out_off;
		v.iov_len = c->out_len - c->out_off;
		put = c->ops->writev(c, &v, 1);
		if (put == DSM_EAGAIN)
			return DSM_EAGAIN;
		if (put < 0)
			return c->out_err = (int)put;
		c->out_off += (size_t)put;
	}
	c->out_off = c->out_len = 0;
	if (c->out_cap > KEEP) {
		free(c->out);
		c->out = NULL;
		c->out_cap = 0;
	}
	if (c->ops->flush == NULL)
		return DSM_OK;
	put = c->ops->flush(c);
	if (put < 0 && put != DSM_EAGAIN)
		c->out_err = (int)put;
	return (int)put;
}

/* A frame to send: iov[-1], so to speak, is its header. */
struct outgoing {
	struct header header;
	const struct iovec *iov;
	int n_iov;
	size_t len; /* header and body */
};

/* The pieces from byte skip on, at most MAX_IOV of them. */
static int
gather(const struct outgoing *f, size_t skip, struct iovec v[MAX_IOV])
{
	int n = 0;

	for (int i = -1; i < f->n_iov && n < MAX_IOV; i++) {
		const uint8_t *base =
		    i < 0 ? (const void *)&f->header : f->iov[i].iov_base;
		size_t len = i < 0 ? HEADER : f->iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		v[n].iov_base = (void *)(base + skip);
		v[n++].iov_len = len - skip;
		skip = 0;
	}
	return n;
}

/* Queue the frame from byte sent on. */
static int
enqueue(struct dsm_conn *c, const struct outgoing *f, size_t sent)
{
	struct iovec v[MAX_IOV];
	int n;

	if (reserve_out(c, f->len - sent) != DSM_OK) {
		/* Half a frame is on its way: nothing sensible can follow. */
		if (sent > 0)
			c->out_err = DSM_ENOMEM;
		return DSM_ENOMEM;
	}
	while (sent < f->len) {
		n = gather(f, sent, v);
		for (int i = 0; i < n; i++) {
			memcpy(c->out + c->out_len, v[i].iov_base,
			       v[i].iov_len);
			c->out_len += v[i].iov_len;
			sent += v[i].iov_len;
		}
	}
	return DSM_OK;
}

int
dsm__conn_send(struct dsm_conn *c, unsigned type, unsigned flags, uint64_t tag,
               const struct iovec *iov, int n_iov)
{
	struct outgoing f = {.iov = iov, .n_iov = n_iov};
	struct iovec v[MAX_IOV];
	size_t len = 0, sent = 0;
	ssize_t put;
	int err;

	for (int i = 0; i < n_iov; i++) {
		if (iov[i].iov_len > DSM_FRAME_MAX - len)
			return DSM_EINVAL;
		len += iov[i].iov_len;
	}
	if (type > UINT16_MAX || flags > UINT8_MAX)
		return DSM_EINVAL;
	f.len = HEADER + len;
	f.header.len = htole32((uint32_t)len);
	f.header.type = htole16((uint16_t)type);
	f.header.version = DSM_VERSION;
	f.header.flags = (uint8_t)flags;
	f.header.tag = htole64(tag);
	err = dsm__conn_flush(c);
	if (err == DSM_EAGAIN)
		return enqueue(c, &f, 0);
	if (err != DSM_OK)
		return err;
	while (sent < f.len) {
		put = c->ops->writev(c, v, gather(&f, sent, v));
		if (put == DSM_EAGAIN)
			return enqueue(c, &f, sent);
		if (put < 0)
			return c->out_err = (int)put;
		sent += (size_t)put;
	}
	return DSM_OK;
}

/* Until when to sleep in one go. */
static uint64_t
next_look(const struct dsm_conn *c, uint64_t deadline, uint64_t check)
{
	uint64_t until = deadline < check ? deadline : check;
	uint64_t look;

	if (c->ops->check == NULL)
		return until;
	look = dsm__deadline_ms(DSM_CHECK_MS);
	return look < until ? look : until;
}

void
dsm__conn_last_words(struct dsm_conn *c, unsigned type, const void *body,
                     size_t len)
{
	struct header h = {.len = htole32((uint32_t)len),
	                   .type = htole16((uint16_t)type),
	                   .version = DSM_VERSION};
	const struct iovec v[2] = {{&h, sizeof(h)},
	                           {(void *)(uintptr_t)body, len}};

	dsm__sock_writev(c, v, 2);
}

int
dsm__conn_sleep(struct dsm_conn *c, int events, uint64_t deadline)
{
	struct pollfd p = {.fd = c->poll_fd};
	uint64_t check = dsm__deadline_ms(DSM_REACH_MS);
	int wanted, err, n;

	if (dsm__ms_left(deadline) == 0)
		return DSM_ETIMEDOUT;
	if ((events & POLLOUT) != 0 && !dsm__conn_wants_out(c))
		events = POLLIN;
	err = dsm__conn_arm(c, events, &wanted);
	if (err == DSM_EAGAIN)
		return DSM_OK;
	if (err != DSM_OK)
		return err;
	p.events = (short)wanted;
	do {
		uint64_t until = next_look(c, deadline, check);

		n = poll(&p, 1, dsm__ms_left(until));
		if (n < 0 && errno != EINTR)
			return DSM_ESYS;
		if (n != 0 || dsm__conn_check(c) != DSM_OK)
			return DSM_OK;
		if (dsm__now() < check)
			continue;
		/* What we have said before is acknowledged by now. */
		if (!dsm__conn_reachable(c, DSM_REACH_MS))
			return c->in_err = c->out_err = DSM_ECONN;
		check = dsm__deadline_ms(1000);
	} while (dsm__ms_left(deadline) > 0);
	return DSM_ETIMEDOUT;
}

int
dsm__conn_drain(struct dsm_conn *c, uint64_t deadline)
{
	uint64_t spin_end = 0, tries = 0;
	int err;

	while ((err = dsm__conn_flush(c)) == DSM_EAGAIN) {
		uint64_t now = dsm__now();

		if (spin_end == 0)
			spin_end = now + DRAIN_SPIN_NS;
		if (now < spin_end && now < deadline) {
			dsm__spin_pause(tries++);
			continue;
		}
		err = dsm__conn_sleep(c, POLLOUT, deadline);
		if (err != DSM_OK)
			return err;
	}
	return err;
}

/* --- in --- */

/* Make the buffer hold need bytes from in_off = 0 on. */
static int
reserve_in(struct dsm_conn *c, size_t need)
{
	size_t have = c->in_len - c->in_off;
	size_t cap = c->in_cap;
	uint8_t *p;

	if (have == 0 && cap > KEEP && need <= READ_AHEAD)
		cap = READ_AHEAD;
	while (cap < need)
		cap *= 2;
	/* The limit, but never less than what reading ahead assumes. */
	if (cap > READ_AHEAD && cap > (size_t)c->max_body + HEADER)
		cap = (size_t)c->max_body + HEADER;
	if (cap == c->in_cap) {
		if (have > 0 && c->in_off > 0)
			memmove(c->in, c->in + c->in_off, have);
	} else {
		p = malloc(cap);
		if (p == NULL)
			return DSM_ENOMEM;
		memcpy(p, c->in + c->in_off, have);
		free(c->in);
		c->in = p;
		c->in_cap = cap;
	}
	c->in_off = 0;
	c->in_len = have;
	return DSM_OK;
}

/* One read towards need bytes, reading ahead up to `ahead` in all. */
static int
fill(struct dsm_conn *c, size_t need, size_t ahead)
{
	struct iovec v;
	ssize_t got;

	if (reserve_in(c, need) != DSM_OK)
		return c->in_err = DSM_ENOMEM;
	v.iov_base = c->in + c->in_len;
	v.iov_len = (need > ahead ? need : ahead) - c->in_len;
	got = c->ops->readv(c, &v, 1);
	if (got == DSM_EAGAIN && c->out_err == DSM_OK)
		return DSM_EAGAIN;
	if (got == DSM_EAGAIN)
		return c->in_err = c->out_err;
	if (got < 0)
		return c->in_err = (int)got;
	c->in_len += (size_t)got;
	return DSM_OK;
}

/* The next frame, once `head` bytes of its body are there. */
static int
recv_frame(struct dsm_conn *c, size_t head, size_t ahead, struct dsm_frame *f_p)
{
	struct header h;
	size_t need;

	if (c->in_err != DSM_OK)
		return c->in_err;
	if (c->rest > 0)
		return DSM_EINVAL;
	for (;;) {
		size_t have = c->in_len - c->in_off;
		int err;

		need = HEADER;
		if (have >= HEADER) {
			memcpy(&h, c->in + c->in_off, HEADER);
			h.len = le32toh(h.len);
			if (h.version != DSM_VERSION || h.len > c->max_body)
				return c->in_err = DSM_EPROTO;
			need += h.len < head ? h.len : head;
			if (have >= need)
				break;
		}
		err = fill(c, need, ahead);
		if (err != DSM_OK)
			return err;
	}
	f_p->type = le16toh(h.type);
	f_p->flags = h.flags;
	f_p->tag = le64toh(h.tag);
	f_p->body = c->in + c->in_off + HEADER;
	f_p->len = h.len;
	c->in_off += need;
	c->rest = HEADER + h.len - need;
	return DSM_OK;
}

int
dsm__conn_recv(struct dsm_conn *c, struct dsm_frame *f_p)
{
	return recv_frame(c, SIZE_MAX, READ_AHEAD, f_p);
}

struct awaited {
	size_t head, ahead; /* of recv_frame */
	uint64_t deadline, spin_ns;
};

static int
await_frame(struct dsm_conn *c, const struct awaited *w, struct dsm_frame *f_p,
            int *spun_p)
{
	uint64_t spin_end = 0;
	int spinning = 1;
	int err;

	for (unsigned tries = 0;; tries++) {
		err = recv_frame(c, w->head, w->ahead, f_p);
		if (err != DSM_EAGAIN)
			break;
		/* The answer may wait for what we still have to say. */
		if (dsm__conn_backlog(c) > 0)
			dsm__conn_flush(c);
		if (spinning && tries % TRIES_PER_CLOCK == 0) {
			uint64_t now = dsm__now();

			if (tries == 0)
				spin_end = w->spin_ns < w->deadline - now
				               ? now + w->spin_ns
				               : w->deadline;
			spinning = now < spin_end && now < w->deadline;
		}
		if (spinning) {
			dsm__spin_pause(tries);
			continue;
		}
		err = dsm__conn_sleep(
		    c, dsm__conn_backlog(c) > 0 ? POLLIN | POLLOUT : POLLIN,
		    w->deadline);
		if (err != DSM_OK)
			return err;
	}
	if (spun_p != NULL && err == DSM_OK)
		*spun_p = spinning;
	return err;
}

int
dsm__conn_recv_wait(struct dsm_conn *c, uint64_t deadline, uint64_t spin_ns,
                    struct dsm_frame *f_p, int *spun_p)
{
	const struct awaited w = {SIZE_MAX, READ_AHEAD, deadline, spin_ns};

	return await_frame(c, &w, f_p, spun_p);
}

int
dsm__conn_recv_head(struct dsm_conn *c, uint32_t head, uint64_t deadline,
                    uint64_t spin_ns, struct dsm_frame *f_p, int *spun_p)
{
	const struct awaited w = {head, HEADER + head, deadline, spin_ns};

	return await_frame(c, &w, f_p, spun_p);
}

/* --- the rest of a body --- */

size_t
dsm__conn_rest(const struct dsm_conn *c)
{
	return c->rest;
}

size_t
dsm__conn_rest_buffered(const struct dsm_conn *c)
{
	size_t have = c->in_len - c->in_off;

	return have < c->rest ? have : c->rest;
}

int
dsm__conn_rest_wait(struct dsm_conn *c, uint64_t deadline, uint64_t spin_end,
                    unsigned tries)
{
	if (dsm__now() >= spin_end)
		return dsm__conn_sleep(c, POLLIN, deadline);
	dsm__spin_pause(tries);
	return DSM_OK;
}

int
dsm__conn_rest_read(struct dsm_conn *c, void *to, size_t len, uint64_t deadline,
                    uint64_t spin_ns)
{
	size_t got = dsm__conn_rest_buffered(c);
	uint64_t spin_end = 0;
	int err;

	if (c->in_err != DSM_OK)
		return c->in_err;
	if (len > c->rest)
		return DSM_EINVAL;
	if (got > len)
		got = len;
	memcpy(to, c->in + c->in_off, got);
	c->in_off += got;
	c->rest -= got;
	for (unsigned tries = 0; got < len; tries++) {
		struct iovec v = {(uint8_t *)to + got, len - got};
		ssize_t n = c->ops->readv(c, &v, 1);

		if (n > 0) {
			got += (size_t)n;
			c->rest -= (size_t)n;
			spin_end = 0;
			continue;
		}
		if (n != DSM_EAGAIN)
			return c->in_err = (int)n;
		if (spin_end == 0)
			spin_end = dsm__now() + spin_ns;
		err = dsm__conn_rest_wait(c, deadline, spin_end, tries);
		if (err != DSM_OK)
			return err;
	}
	return DSM_OK;
}

int
dsm__conn_can_pipe(const struct dsm_conn *c)
{
	return c->ops->splice != NULL && !c->no_splice;
}

/* Decrypted page by page it is still in the cache when it is stored. */
int
dsm__conn_likes_parts(const struct dsm_conn *c)
{
	return dsm__conn_can_pipe(c) || c->ops->pending != NULL;
}

ssize_t
dsm__conn_rest_pipe(struct dsm_conn *c, int pipe_fd, size_t len)
{
	ssize_t n;

	if (c->in_err != DSM_OK)
		return c->in_err;
	if (len == 0 || len > c->rest || dsm__conn_rest_buffered(c) > 0 ||
	    !dsm__conn_can_pipe(c))
		return DSM_EINVAL;
	n = c->ops->splice(c, pipe_fd, len);
	if (n > 0)
		c->rest -= (size_t)n;
	else if (n == DSM_EINVAL)
		c->no_splice = 1;
	else if (n != DSM_EAGAIN)
		c->in_err = (int)n;
	return n;
}
