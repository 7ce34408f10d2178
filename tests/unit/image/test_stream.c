/*
 * Pages from a connection into the image: whole ones only, however the stream is
 * cut.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../../dsm/image/stream.h"
#include "../../../dsm/wire/wire.h"
#include "../../test.h"

#define PAGES 600u
#define HEAD 24u
#define OFF (UINT64_C(3) << 30)
#define PATIENCE dsm__deadline_ms(20000)

static struct {
	struct dsm_image image;
	struct dsm_stream stream;
	struct dsm_conn *in;
	int out;        /* socket of the sender */
	uint8_t *frame; /* header, head, pages */
	size_t frame_len;
	size_t send_len; /* of it, then the socket is closed */
	unsigned seed;   /* 0: in one go */
	uint64_t off;    /* of the pages in the image */
	pthread_t sender, watcher;
	int watched;
	atomic_int over;
	atomic_uint torn, seen;
} rg;

static const uint8_t *
page_of_frame(uint32_t i)
{
	return rg.frame + 16 + HEAD + i * DSM_PAGE;
}

static void *
sender_main(void *arg)
{
	size_t at = 0;

	while (at < rg.send_len) {
		size_t n = rg.send_len - at;

		if (rg.seed != 0) {
			size_t cut = (size_t)rand_r(&rg.seed);

			cut = cut % (cut % 3 == 0 ? 9000 : 60000) + 1;
			n = n < cut ? n : cut;
		}
		ssize_t put = send(rg.out, rg.frame + at, n, MSG_NOSIGNAL);
		if (put <= 0)
			break;
		at += (size_t)put;
	}
	close(rg.out);
	return arg;
}

/* As another slot sees the file: what is there must be whole. */
static void *
watcher_main(void *arg)
{
	size_t len = PAGES * DSM_PAGE;
	uint8_t *p = mmap(NULL, len, PROT_READ, MAP_SHARED, rg.image.pages_fd,
	                  (off_t)OFF);
	unsigned char there[PAGES];

	while (p != MAP_FAILED && !atomic_load(&rg.over)) {
		if (mincore(p, len, there) != 0)
			break;
		for (uint32_t i = 0; i < PAGES; i++) {
			if (!(there[i] & 1))
				continue;
			atomic_fetch_add(&rg.seen, 1);
			if (memcmp(p + i * DSM_PAGE, page_of_frame(i),
			           DSM_PAGE) != 0)
				atomic_fetch_add(&rg.torn, 1);
		}
	}
	munmap(p, len);
	return arg;
}

static void
make_pair(const struct dsm_conn_ops *ops)
{
	struct pollfd p = {.events = POLLIN};
	char addr[DSM_ADDR_MAX];
	struct dsm_error e;
	int fds[2];

	if (ops == &dsm__shm_ops) {
		MUST_BE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	} else {
		MUST_OK(dsm__tcp_listen(":0", addr, &p.fd, &e));
		MUST_OK(dsm__tcp_connect(addr, PATIENCE, &fds[0], &e));
		MUST_BE(poll(&p, 1, 20000), 1);
		MUST_OK(dsm__tcp_accept(p.fd, &fds[1]));
		close(p.fd);
		/* The sender waits for room. */
		MUST_BE(fcntl(fds[1], F_SETFL, 0), 0);
	}
	MUST_OK(dsm__conn_create(ops, fds[0], DSM_FRAME_MAX, &rg.in));
	rg.out = fds[1];
}

/* Pages that the file has, with other bytes. */
static void
keep_pages(uint64_t off, uint32_t n)
{
	static const uint8_t old[DSM_PAGE] = {99};

	for (uint32_t i = 0; i < n; i++)
		MUST_OK(dsm__image_update(&rg.image, off + i * DSM_PAGE, old));
	dsm__image_keep(&rg.image, off, n);
}

static void
begin_kept(const struct dsm_conn_ops *ops, unsigned seed, size_t n_sent,
           uint64_t off, uint32_t n_kept)
{
	struct dsm_error e;
	uint32_t state;

	memset(&rg, 0, sizeof(rg));
	rg.seed = seed;
	rg.frame_len = 16 + HEAD + PAGES * DSM_PAGE;
	rg.send_len = n_sent > 0 ? n_sent : rg.frame_len;
	rg.frame = calloc(1, rg.frame_len);
	MUST(rg.frame != NULL);
	for (size_t i = 16; i < rg.frame_len; i++)
		rg.frame[i] = (uint8_t)(1 + i % 250 + (i >> 12) % 5);
	uint32_t body = (uint32_t)(rg.frame_len - 16);
	memcpy(rg.frame, &body, sizeof(body));
	rg.frame[4] = 7; /* type */
	rg.frame[6] = DSM_VERSION;
	MUST_OK(dsm__image_create(&rg.image, &e));
	rg.off = off;
	keep_pages(off, n_kept);
	MUST_BE(dsm__image_claim(&rg.image, off, PAGES, 1, &state), PAGES);
	make_pair(ops);
	/* Of kept pages the file has old bytes, which nobody has mapped. */
	rg.watched = n_kept == 0;
	if (rg.watched)
		MUST_BE(pthread_create(&rg.watcher, NULL, watcher_main, NULL),
		        0);
	MUST_BE(pthread_create(&rg.sender, NULL, sender_main, NULL), 0);
}

static void
begin(const struct dsm_conn_ops *ops, unsigned seed, size_t n_sent)
{
	begin_kept(ops, seed, n_sent, OFF, 0);
}

static void
end(void)
{
	atomic_store(&rg.over, 1);
	dsm__conn_close(rg.in);
	pthread_join(rg.sender, NULL);
	if (rg.watched)
		pthread_join(rg.watcher, NULL);
	MUST_BE(atomic_load(&rg.torn), 0);
	dsm__stream_fini(&rg.stream);
	dsm__image_fini(&rg.image);
	free(rg.frame);
}

/* The frame's pages in steps of `step`. How many were taken before an error. */
static uint32_t
take(uint32_t step, int *err_p)
{
	struct dsm_frame f;
	uint32_t done = 0;

	*err_p = dsm__conn_recv_head(rg.in, HEAD, PATIENCE, 0, &f, NULL);
	while (*err_p == DSM_OK && done < PAGES) {
		uint32_t n = PAGES - done < step ? PAGES - done : step;

		*err_p =
		    dsm__image_stream(&rg.image, rg.off + done * DSM_PAGE, n,
		                      rg.in, &rg.stream, PATIENCE, 1000);
		if (*err_p == DSM_OK)
			done += n;
	}
	return done;
}

static void
must_have_all(void)
{
	uint8_t got[DSM_PAGE];

	for (uint32_t i = 0; i < PAGES; i++) {
		MUST_BE(atomic_load(
		            dsm__image_state(&rg.image, rg.off + i * DSM_PAGE)),
		        DSM_PG_PRESENT);
		MUST_BE(pread(rg.image.pages_fd, got, DSM_PAGE,
		              (off_t)(rg.off + i * DSM_PAGE)),
		        DSM_PAGE);
		MUST(memcmp(got, page_of_frame(i), DSM_PAGE) == 0);
	}
}

static void
test_pages_arrive_whole_however_the_stream_is_cut(void)
{
	static const uint32_t steps[] = {1, 7, 64, 65, PAGES};
	int err;

	for (unsigned seed = 1; seed <= 10; seed++) {
		begin(&dsm__tcp_ops, seed, 0);
		MUST_BE(take(steps[seed % 5], &err), PAGES);
		MUST_OK(err);
		must_have_all();
		MUST_BE(dsm__conn_rest(rg.in), 0);
		end();
	}
}

static void
test_most_pages_of_a_tcp_stream_are_not_copied_here(void)
{
	int err;

	begin(&dsm__tcp_ops, 0, 0);
	MUST_BE(take(64, &err), PAGES);
	must_have_all();
	MUST(rg.stream.n_piped > PAGES * 9 / 10);
	end();
}

static void
test_pages_come_from_connections_that_cannot_use_a_pipe(void)
{
	int err;

	begin(&dsm__shm_ops, 3, 0);
	MUST_BE(take(64, &err), PAGES);
	must_have_all();
	MUST_BE(rg.stream.n_piped, 0);
	end();
}

static void
test_a_small_pipe_does(void)
{
	int err;

	begin(&dsm__tcp_ops, 5, 0);
	MUST_BE(pipe2(rg.stream.fds, O_CLOEXEC | O_NONBLOCK), 0);
	MUST(fcntl(rg.stream.fds[1], F_SETPIPE_SZ, 4096) >= 4096);
	rg.stream.made = 1;
	MUST_BE(take(64, &err), PAGES);
	must_have_all();
	end();
}

static void
test_a_stream_that_ends_early_leaves_whole_pages_only(void)
{
	for (unsigned seed = 1; seed <= 5; seed++) {
		uint32_t n_whole = 17 * seed, done;
		int err;

		begin(&dsm__tcp_ops, seed, 16 + HEAD + n_whole * DSM_PAGE + 99);
		done = take(1, &err);
		MUST_BE(err, DSM_ECONN);
		MUST_BE(done, n_whole);
		MUST(atomic_load(dsm__image_state(&rg.image,
		                                  OFF + n_whole * DSM_PAGE)) !=
		     DSM_PG_PRESENT);
		MUST_BE(lseek(rg.image.pages_fd,
		              (off_t)(OFF + n_whole * DSM_PAGE), SEEK_DATA),
		        -1);
		end();
	}
}

static void *
view_room(void)
{
	void *p = mmap(NULL, DSM_VIEW_SIZE, PROT_NONE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	MUST(p != MAP_FAILED);
	return p;
}

static void
test_kept_pages_are_received_right_into_the_file(void)
{
	void *room = view_room();
	int err;

	for (unsigned seed = 0; seed <= 5; seed++) {
		begin_kept(&dsm__tcp_ops, seed, 0, OFF, PAGES);
		rg.stream.view.base = room;
		MUST_BE(take(64, &err), PAGES);
		must_have_all();
		MUST_BE(rg.stream.n_viewed, PAGES);
		MUST_BE(rg.stream.n_piped, 0);
		end();
	}
	munmap(room, DSM_VIEW_SIZE);
}

static void
test_kept_pages_and_others_may_follow_each_other(void)
{
	void *room = view_room();
	int err;

	for (unsigned seed = 1; seed <= 5; seed++) {
		/* Also: a step that lies in two pieces of the view. */
		begin_kept(&dsm__tcp_ops, seed, 0,
		           7 * DSM_VIEW_PIECE - 70 * DSM_PAGE, 200);
		rg.stream.view.base = room;
		MUST_BE(take(48, &err), PAGES);
		must_have_all();
		MUST(rg.stream.n_viewed > 100 && rg.stream.n_viewed < 200);
		end();
	}
	munmap(room, DSM_VIEW_SIZE);
}

static void
test_kept_pages_do_without_a_view(void)
{
	int err;

	begin_kept(&dsm__tcp_ops, 3, 0, OFF, PAGES);
	MUST_BE(take(64, &err), PAGES);
	must_have_all();
	MUST_BE(rg.stream.n_viewed, 0);
	end();
}

SUITE(dsm_image_stream, "dsm.image.stream",
      T(test_pages_arrive_whole_however_the_stream_is_cut),
      T(test_most_pages_of_a_tcp_stream_are_not_copied_here),
      T(test_pages_come_from_connections_that_cannot_use_a_pipe),
      T(test_a_small_pipe_does),
      T(test_a_stream_that_ends_early_leaves_whole_pages_only),
      T(test_kept_pages_are_received_right_into_the_file),
      T(test_kept_pages_and_others_may_follow_each_other),
      T(test_kept_pages_do_without_a_view));
