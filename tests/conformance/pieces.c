/*
 * Reads bring a few bytes, at random: a reader must be right about what it has. Writes
 * take all, or some kilobytes. (EAGAIN where there is something would be another
 * thing: it means that nothing is there, and some rely on it.)
 */
#include "pieces.h"

#include "../../dsm/transport/conn_priv.h"
#include "conformance.h"

#define WRITE_LEAST 4096u
#define IOV_MAX_HERE 16

/* 1 … 2^15, small ones as often as large ones. */
static size_t
draw(void)
{
	static uint64_t state;

	if (state == 0)
		state = test_seed();
	return 1 + test_rand(&state) % (UINT64_C(1) << test_rand(&state) % 16);
}

/* The first `most` bytes of iov, in to. Returns how many pieces. */
static int
shorten(const struct iovec *iov, int n, size_t most,
        struct iovec to[IOV_MAX_HERE])
{
	int i;

	for (i = 0; i < n && i < IOV_MAX_HERE && most > 0; i++) {
		to[i] = iov[i];
		if (to[i].iov_len > most)
			to[i].iov_len = most;
		most -= to[i].iov_len;
	}
	return i;
}

static ssize_t
readv_pieces(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct iovec some[IOV_MAX_HERE];

	return dsm__sock_readv(c, some, shorten(iov, n, draw(), some));
}

static ssize_t
writev_pieces(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct iovec some[IOV_MAX_HERE];

	return dsm__sock_writev(c, some,
	                        shorten(iov, n, WRITE_LEAST + draw(), some));
}

static ssize_t
splice_pieces(struct dsm_conn *c, int pipe_fd, size_t len)
{
	size_t most = draw();

	return dsm__sock_splice(c, pipe_fd, len < most ? len : most);
}

const struct dsm_conn_ops pieces_ops = {
    .name = "pieces",
    .readv = readv_pieces,
    .writev = writev_pieces,
    .splice = splice_pieces,
    .close = dsm__sock_close,
    .forget = dsm__sock_close,
};

int
pieces_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	return conformance_sockets(&pieces_ops, dsm__shm_pair, max_body, c_p);
}
