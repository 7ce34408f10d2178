/*
 * Connections: ordered, reliable streams of frames between two ends. This
 * header is the contract of every transport back-end; tests/conformance runs
 * the same suite over all of them.
 *
 * Frame: a 16-byte header {u32 body length, u16 type, u8 version, u8 flags,
 * u64 tag}, then the body. type and body are dsm/wire's business; tag is the
 * sender's (0 where unused).
 *
 * Back-ends:
 *   shm   unix stream socket; the ends are on one machine and share memory by
 *         descriptors besides
 *   tcp   TCP stream
 *   verbs RDMA: a tcp connection that went over to a queue pair (verbs.h)
 *   tls   TLS 1.3 over a TCP stream (tls.h)
 * A back-end is a table of operations on raw bytes (ops
 * below); framing, buffering and the out-queue are shared (conn.c).
 *
 * States: OPEN -> FAILED (a peer closed, reset, sent garbage; err says which)
 * -> closed by dsm__conn_close. A FAILED connection answers every call with its
 * error; it never blocks. One exception: after a failed write recv still hands
 * out what the peer had sent before it went, then fails.
 *
 * A conn has one owner at a time (thread, or whoever holds the loop's drive
 * lock): no internal locking. Nothing here raises SIGPIPE.
 */
#ifndef DSM_TRANSPORT_CONN_H
#define DSM_TRANSPORT_CONN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "../base/status.h"

struct dsm_conn;

struct dsm_frame {
	uint16_t type;
	uint8_t flags;
	uint64_t tag;
	const uint8_t
	    *body; /* valid until the next recv on the conn; unaligned */
	uint32_t len;
};

/* What a back-end provides. All non-blocking. */
struct dsm_conn_ops {
	const char *name; /* "shm", "tcp", "tls", "verbs" */
	/* Bytes moved, or DSM_EAGAIN, or DSM_ECONN (peer closed or reset). */
	ssize_t (*readv)(struct dsm_conn *c, const struct iovec *iov, int n);
	ssize_t (*writev)(struct dsm_conn *c, const struct iovec *iov, int n);
	/* NULL: cannot. Bytes moved into the pipe without passing through this
	 * process, DSM_EAGAIN (none there, or no room in the pipe), DSM_EINVAL
	 * (this socket cannot), DSM_ECONN. */
	ssize_t (*splice)(struct dsm_conn *c, int pipe_fd, size_t len);
	/*
	 * NULL: dsm__conn_fd polls as a socket does. Else: called before a sleep
	 * for `events` (POLLIN to read, POLLOUT to write). DSM_OK: from now on
	 * dsm__conn_fd becomes readable, whatever the events, when trying again
	 * makes sense; DSM_EAGAIN: it makes sense already.
	 */
	int (*arm)(struct dsm_conn *c, int events);
	int (*check)(struct dsm_conn *c); /* as dsm__conn_check, or NULL */
	/* NULL: writev keeps nothing back. Else: write what it has taken and
	 * could not send: DSM_OK, DSM_EAGAIN, or an error; how much that is; is
	 * there no sense in waiting for room to write, because the peer has to
	 * say something first? */
	int (*flush)(struct dsm_conn *c);
	size_t (*pending)(const struct dsm_conn *c);
	int (*needs_input)(const struct dsm_conn *c);
	void (*close)(struct dsm_conn *c);
	void (*forget)(struct dsm_conn *c); /* as dsm__conn_forget */
};

/* How long a machine that other ends of a connection wait for may be gone. */
#define DSM_REACH_MS 5000

extern const struct dsm_conn_ops dsm__shm_ops;
extern const struct dsm_conn_ops dsm__tcp_ops;

/*
 * Take a connected stream socket (made non-blocking here). Owns fd from then
 * on, also on failure. max_body: larger frames are DSM_EPROTO (<=
 * DSM_FRAME_MAX).
 */
int dsm__conn_create(const struct dsm_conn_ops *ops, int fd, uint32_t max_body,
                     struct dsm_conn **conn_p);
void dsm__conn_close(struct dsm_conn *c); /* NULL is fine */
/* In a forked child, instead of close: closes its copies of the descriptors and
 * nothing else, the parent goes on. c's memory stays as it is. */
void dsm__conn_forget(struct dsm_conn *c);

/* To sleep on, with poll(2) or a loop. Before sleeping call dsm__conn_arm. */
int dsm__conn_fd(const struct dsm_conn *c);
/*
 * Sleep for events (POLLIN, POLLOUT)? DSM_OK: poll dsm__conn_fd for *poll_p.
 * DSM_EAGAIN: not yet, try again to read or write first. Never blocks.
 */
int dsm__conn_arm(struct dsm_conn *c, int events, int *poll_p);
/*
 * For an armed conn that nobody looks at, about once a second (dsm__conn_sleep and
 * the loop do it): not every failure wakes its descriptor. DSM_OK: sleep on;
 * DSM_EAGAIN: look at it, something has come or it has FAILED. Never blocks.
 */
int dsm__conn_check(struct dsm_conn *c);
#define DSM_CHECK_MS 1000
/* Looking for a frame is no system call: cheaper than asking poll(2). */
int dsm__conn_is_polled(const struct dsm_conn *c);
const char *dsm__conn_transport(const struct dsm_conn *c);
const char *dsm__conn_peer(const struct dsm_conn *c); /* "10.0.0.2:7000" */
/* DSM_OK, or why it FAILED (DSM_ECONN, DSM_EPROTO, DSM_ENOMEM). */
int dsm__conn_error(const struct dsm_conn *c);
/* Why a FAILED conn failed, in words ("RDMA READ: transport retry counter
 * exceeded"); "" when there is nothing to add to its code. */
const char *dsm__conn_why(const struct dsm_conn *c);

/*
 * 0 when the peer's kernel has not acknowledged for limit_ms what it ought to have:
 * its machine or the way to it is gone. 1 else, also when the peer itself says
 * nothing (stopped, busy), and for what is not TCP. The limit is to be 2 s or more:
 * the kernel asks a silent peer every second from the second one on.
 */
int dsm__conn_reachable(const struct dsm_conn *c, uint64_t limit_ms);

/* From the next frame on: for a peer that is known now. Not less than before. */
void dsm__conn_set_max(struct dsm_conn *c, uint32_t max_body);
/* Frames of a peer that has not said who it is are no longer than this. */
#define DSM_STRANGER_MAX (64u << 10)

/*
 * Send one frame whose body is the concatenation of iov. Never blocks: what the
 * socket does not take at once is copied to the out-queue. iov is borrowed for
 * the call. DSM_OK (sent or queued), DSM_EINVAL (body longer than
 * DSM_FRAME_MAX), DSM_ENOMEM, or the error of a FAILED connection.
 */
int dsm__conn_send(struct dsm_conn *c, unsigned type, unsigned flags,
                   uint64_t tag, const struct iovec *iov, int n_iov);
/* A frame to a peer that does not speak our language, past whatever there is of
 * back-ends and queues: if the socket takes it. Then close. */
void dsm__conn_last_words(struct dsm_conn *c, unsigned type, const void *body,
                          size_t len);
/* Bytes in the out-queue: the sender's measure for back-pressure. */
size_t dsm__conn_backlog(const struct dsm_conn *c);
/* Is there a backlog that room in the socket would help? Not while a handshake
 * waits for the peer. */
int dsm__conn_wants_out(const struct dsm_conn *c);
/* Write queued bytes: DSM_OK when none are left, DSM_EAGAIN, or an error. */
int dsm__conn_flush(struct dsm_conn *c);
/* The same with a deadline, spinning then sleeping (slots, tools, tests).
 * Incoming bytes are not read meanwhile. DSM_ETIMEDOUT; DSM_ECONN also when the
 * peer cannot be reached for DSM_REACH_MS. */
int dsm__conn_drain(struct dsm_conn *c, uint64_t deadline);

/*
 * Next frame: DSM_OK, DSM_EAGAIN (none whole yet), or an error. Reads from
 * the socket at most what the current frame needs when that is large, so that a
 * frame's body is contiguous and never moved. *f_p->body is valid until the
 * next recv. DSM_EPROTO: wrong version, oversized.
 */
int dsm__conn_recv(struct dsm_conn *c, struct dsm_frame *f_p);
/*
 * The same, waiting: spins for spin_ns, then sleeps in poll(2) until deadline
 * (DSM_ETIMEDOUT) or until the peer cannot be reached for DSM_REACH_MS (DSM_ECONN). Queued bytes are written meanwhile. *spun_p (may be NULL): 1
 * when it came while spinning, 0 when after a sleep.
 */
int dsm__conn_recv_wait(struct dsm_conn *c, uint64_t deadline, uint64_t spin_ns,
                        struct dsm_frame *f_p, int *spun_p);

/*
 * A large frame in parts, for a receiver that does not need its body in one
 * buffer. recv_head waits as recv_wait does, but hands a frame out when `head`
 * bytes of its body are there (all of a shorter one): f_p->body has these,
 * f_p->len is the whole length. It reads no further than that. The rest must be
 * taken before the next frame: until then recv answers DSM_EINVAL.
 */
int dsm__conn_recv_head(struct dsm_conn *c, uint32_t head, uint64_t deadline,
                        uint64_t spin_ns, struct dsm_frame *f_p, int *spun_p);
/* Bytes of it to be taken yet; how many of those are in memory already. */
size_t dsm__conn_rest(const struct dsm_conn *c);
size_t dsm__conn_rest_buffered(const struct dsm_conn *c);
/* Take len bytes, waiting. DSM_EINVAL (more than there are), DSM_ETIMEDOUT, or
 * the connection's error. */
int dsm__conn_rest_read(struct dsm_conn *c, void *to, size_t len,
                        uint64_t deadline, uint64_t spin_ns);
/*
 * Move up to len bytes of the rest into a (non-blocking) pipe, without waiting:
 * how many (> 0); DSM_EAGAIN: none there, or no room in the pipe. DSM_EINVAL: this
 * connection cannot (see can_pipe), some are in memory already, or len is more
 * than the rest.
 */
ssize_t dsm__conn_rest_pipe(struct dsm_conn *c, int pipe_fd, size_t len);
int dsm__conn_can_pipe(const struct dsm_conn *c);
/* Is a large body cheaper taken in parts (recv_head) than as a whole? */
int dsm__conn_likes_parts(const struct dsm_conn *c);
/* One step of waiting for more of the rest: a pause before spin_end, else sleep.
 * DSM_OK: try again. */
int dsm__conn_rest_wait(struct dsm_conn *c, uint64_t deadline,
                        uint64_t spin_end, unsigned tries);

/* --- endpoints --- */

/* A connected pair over a unix socket pair. */
int dsm__shm_pair(int fds_p[2]);
/*
 * "HOST:PORT", "[V6]:PORT", ":PORT" (loopback), "*:PORT" (any), PORT 0: the
 * kernel picks one. "*" is every IPv4 address, "[::]" every address. Listening
 * socket, CLOEXEC, non-blocking, or a negative code with e filled in ("cannot
 * listen on 127.0.0.1:7070: Address already in use"). *addr_p (may be NULL):
 * numeric address it listens on.
 */
#define DSM_ADDR_MAX 96
int dsm__tcp_listen(const char *addr, char addr_p[DSM_ADDR_MAX], int *fd_p,
                    struct dsm_error *e);
/* 1 when the address text means loopback only, 0 when not, negative: not an
 * address (DSM_EINVAL) or not to be resolved (DSM_ECONN). No name look-up
 * beyond getaddrinfo, which keeps its own time. */
int dsm__tcp_is_loopback(const char *addr, struct dsm_error *e);
/* 1: a numeric address and a port, that connecting to asks no name server for. For
 * what a peer names: a look-up may take minutes. */
int dsm__tcp_is_numeric(const char *addr);
/* *addr_p: such an address of what addr names, by a look-up where it is a name. */
int dsm__tcp_numeric(const char *addr, char addr_p[DSM_ADDR_MAX],
                     struct dsm_error *e);
/* Connect, waiting until the deadline at most; the socket is non-blocking,
 * CLOEXEC, TCP_NODELAY. DSM_EINVAL, DSM_ECONN, DSM_ETIMEDOUT; e: peer, errno
 * text. */
int dsm__tcp_connect(const char *addr, uint64_t deadline, int *fd_p,
                     struct dsm_error *e);
/* Start a connect: *fd_p is a non-blocking socket that polls writable when
 * done (then dsm__tcp_connect_result). */
int dsm__tcp_connect_start(const char *addr, int *fd_p, struct dsm_error *e);
int dsm__tcp_connect_result(int fd, const char *addr, struct dsm_error *e);
/* Accepted socket (CLOEXEC, non-blocking, TCP_NODELAY), DSM_EAGAIN (nobody is
 * there), or DSM_ESYS with errno (no descriptors left: stop polling a while).
 */
int dsm__tcp_accept(int listen_fd, int *fd_p);
/* Numeric HOST:PORT of a socket's own / other end. */
int dsm__tcp_local(int fd, char addr_p[DSM_ADDR_MAX]);
int dsm__tcp_peer(int fd, char addr_p[DSM_ADDR_MAX]);

#endif
