#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "../base/clock.h"

/* Pages a batch: small enough for the processor's cache and the pipe's buffers
 * (256 in 1 MiB, of which a page of the network's takes up to three). */
#define BATCH 64u
#define PIPE_BYTES (1 << 20)

struct pour {
	struct dsm_image *im;
	uint64_t off;
	uint32_t n; /* pages to come */
	struct dsm_conn *c;
	struct dsm_stream *st;
	size_t in_pipe; /* bytes */
	uint64_t deadline, spin_ns;
};

int
dsm__stream_prepare(struct dsm_stream *st)
{
	if (st->made != 0)
		return st->made > 0 ? DSM_OK : DSM_ESYS;
	st->made = -1;
	if (pipe2(st->fds, O_CLOEXEC | O_NONBLOCK) != 0)
		return DSM_ESYS;
	/* A smaller one works too, in smaller batches. */
	(void)fcntl(st->fds[1], F_SETPIPE_SZ, PIPE_BYTES);
	st->made = 1;
	return DSM_OK;
}

void
dsm__stream_fini(struct dsm_stream *st)
{
	if (st->made > 0) {
		close(st->fds[0]);
		close(st->fds[1]);
	}
	st->made = 0;
}

/* k pages by way of a buffer: first what is in the pipe, then the frame. */
static int
copy_pages(struct pour *p, uint32_t k)
{
	uint8_t *buf = p->st->buf;
	size_t len = k * DSM_PAGE, got = 0;
	int err;

	while (p->in_pipe > 0 && got < len) {
		ssize_t n = read(p->st->fds[0], buf + got, len - got);

		if (n <= 0)
			return DSM_ESYS;
		got += (size_t)n;
		p->in_pipe -= (size_t)n;
	}
	err = dsm__conn_rest_read(p->c, buf + got, len - got, p->deadline,
	                          p->spin_ns);
	if (err == DSM_OK)
		err = dsm__image_publish(p->im, p->off, k, buf);
	p->off += k * DSM_PAGE;
	p->n -= k;
	return err;
}

/* The k pages at the front of the pipe, whole, into the file. */
static int
pour_pages(struct pour *p, uint32_t k)
{
	size_t left = k * DSM_PAGE;
	off64_t at = (off64_t)p->off;

	while (left > 0) {
		ssize_t n = splice(p->st->fds[0], NULL, p->im->pages_fd, &at,
		                   left, SPLICE_F_MOVE);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			p->im->write_errno = n < 0 ? errno : EIO;
			return p->im->write_errno == ENOSPC ? DSM_ENOMEM
			                                    : DSM_ESYS;
		}
		left -= (size_t)n;
		p->in_pipe -= (size_t)n;
	}
	dsm__image_present(p->im, p->off, k);
	p->st->n_piped += k;
	p->off += k * DSM_PAGE;
	p->n -= k;
	return DSM_OK;
}

/* A batch by the pipe. DSM_EINVAL: this connection cannot. */
static int
pipe_batch(struct pour *p)
{
	size_t want = (p->n < BATCH ? p->n : BATCH) * DSM_PAGE;
	uint64_t spin_end = 0;
	int slept = 0;

	for (unsigned tries = 0; p->in_pipe < want; tries++) {
		ssize_t got =
		    dsm__conn_rest_pipe(p->c, p->st->fds[1], want - p->in_pipe);
		int err;

		if (got > 0) {
			p->in_pipe += (size_t)got;
			spin_end = 0;
			slept = 0;
			continue;
		}
		if (got != DSM_EAGAIN)
			return (int)got;
		/* Something to do meanwhile; or the pipe is full. */
		if (p->in_pipe >= DSM_PAGE)
			break;
		/* There was something, but no room: of crumbs. */
		if (slept && p->in_pipe > 0)
			return copy_pages(p, 1);
		if (spin_end == 0)
			spin_end = dsm__now() + p->spin_ns;
		slept = dsm__now() >= spin_end;
		err = dsm__conn_rest_wait(p->c, p->deadline, spin_end, tries);
		if (err != DSM_OK)
			return err;
	}
	return pour_pages(p, (uint32_t)(p->in_pipe / DSM_PAGE));
}

/* How many pages at the front can be received right into the file. */
static uint32_t
kept_run(const struct pour *p)
{
	uint32_t n = 0;

	while (n < p->n && n < BATCH &&
	       (atomic_load_explicit(
	            dsm__image_state(p->im, p->off + n * DSM_PAGE),
	            memory_order_relaxed) &
	        DSM_PG_KEPT))
		n++;
	return n;
}

/* DSM_EINVAL: there is no view of them. */
static int
view_pages(struct pour *p, uint32_t k)
{
	uint8_t *at = dsm__view_at(&p->st->view, p->im, p->off, k);
	int err;

	if (at == NULL)
		return DSM_EINVAL;
	err = dsm__conn_rest_read(p->c, at, k * DSM_PAGE, p->deadline,
	                          p->spin_ns);
	if (err != DSM_OK)
		return err;
	dsm__image_present(p->im, p->off, k);
	p->st->n_viewed += k;
	p->off += k * DSM_PAGE;
	p->n -= k;
	return DSM_OK;
}

int
dsm__image_stream(struct dsm_image *im, uint64_t off, uint32_t n,
                  struct dsm_conn *c, struct dsm_stream *st, uint64_t deadline,
                  uint64_t spin_ns)
{
	struct pour p = {im, off, n, c, st, 0, deadline, spin_ns};
	int piping = dsm__conn_can_pipe(c) && dsm__stream_prepare(st) == DSM_OK;
	int err = DSM_OK;

	while (p.n > 0 && err == DSM_OK) {
		size_t buffered = dsm__conn_rest_buffered(c);
		uint32_t kept = p.in_pipe == 0 ? kept_run(&p) : 0;

		if (kept > 0) {
			err = view_pages(&p, kept);
			if (err != DSM_EINVAL)
				continue;
		}
		if (piping && buffered == 0) {
			err = pipe_batch(&p);
			if (err != DSM_EINVAL)
				continue;
			piping = 0;
		}
		/* Of what is in memory the last page is completed. */
		uint32_t k = piping ? (uint32_t)(buffered / DSM_PAGE + 1)
		                    : DSM_STREAM_COPY;

		k = k < DSM_STREAM_COPY ? k : DSM_STREAM_COPY;
		err = copy_pages(&p, k < p.n ? k : p.n);
	}
	/* What a failed frame has left in the pipe belongs to nobody. */
	if (err != DSM_OK)
		dsm__stream_fini(st);
	return err;
}
