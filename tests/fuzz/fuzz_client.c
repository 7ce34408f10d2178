/*
 * A program's session between a coordinator and slots that say anything: a run is in
 * flight, its write sets are staged, a verdict commits them or does not, the report
 * is made. All is the library's own but the two ends of its links.
 *
 * What may be written is the program's memory, and that is this program: so write
 * sets aim at a block of the heap, at a global and at what was lent, and a run whose
 * staged bytes go elsewhere is not committed.
 */
#include "fuzz.h"

#include <dsm/dsm.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/page.h"
#include "../../dsm/base/secret.h"
#include "../../dsm/wire/packdiff.h"
#include "../../taskrt/client/client.h"
#include "../../taskrt/client/run_priv.h"
#include "../../taskrt/client/serveconn.h"

#define N_SLOTS 3
#define N_ATTEMPTS 8
#define BLOCK_PAGES 64u
#define KEY "0123456789abcdef"
#define SESSION 3

struct slot {
	struct dsm_conn *conn; /* its end; NULL: not connected */
	uint64_t loan, loan_len, stamp;
	uint32_t parts[N_ATTEMPTS]; /* of WRITES that it has sent */
};

static struct taskrt__client client = {
    .run_lock = PTHREAD_MUTEX_INITIALIZER,
    .session_lock = PTHREAD_MUTEX_INITIALIZER,
};
static uint8_t global[4 * DSM_PAGE] __attribute__((aligned(4096)));
static uint8_t *block;
static struct taskrt__session *s;
static struct taskrt_run *run;
static struct slot slots[N_SLOTS];
static struct fuzz_pool pool;

/* --- the coordinator's link --- */

static void
link_send(struct taskrt__session *session, unsigned type,
          const struct iovec *iov, int n_iov)
{
	FUZZ_MUST(session == s && iov != NULL && n_iov > 0);
	(void)type;
}

static void
link_nothing(struct taskrt__session *session)
{
	FUZZ_MUST(session == s);
}

static void
link_relay(struct taskrt__session *session, uint64_t id)
{
	FUZZ_MUST(session == s);
	(void)id;
}

static const struct taskrt__link_ops link_ops = {
    .send = link_send,
    .welcomed = link_nothing,
    .relay = link_relay,
    .stop = link_nothing,
    .free = link_nothing,
};

/* --- set up --- */

static void
setup_once(void)
{
	static char *none[] = {NULL};
	struct dsm_error e;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	fuzz_quiet();
	/* What tasks print. */
	FUZZ_MUST(null >= 0 && dup2(null, STDOUT_FILENO) >= 0);
	close(null);
	FUZZ_MUST(dsm__heap_set_size(UINT64_C(64) << 30) == DSM_OK);
	FUZZ_MUST(taskrt__config_load(&client.config, NULL, none, &e) ==
	          DSM_OK);
	client.configured = 1;
	client.sums = calloc(1, sizeof(*client.sums));
	block = dsm_aligned_alloc(DSM_PAGE, BLOCK_PAGES * DSM_PAGE);
	FUZZ_MUST(client.sums != NULL && block != NULL);
	client.sums->costs = calloc(1, sizeof(*client.sums->costs));
	FUZZ_MUST(client.sums->costs != NULL);
}

static void
begin_session(struct fuzz_in *in)
{
	const struct dsm_loop_params params = {0};

	s = calloc(1, sizeof(*s));
	FUZZ_MUST(s != NULL);
	s->config = &client.config;
	s->heap = dsm__heap_default();
	s->sent_version = UINT64_MAX;
	s->link = &link_ops;
	s->id = SESSION;
	s->key = dsm__secret_alloc(TASKRT__KEY_MAX);
	FUZZ_MUST(s->key != NULL);
	memcpy(s->key, KEY, strlen(KEY));
	s->key_len = strlen(KEY);
	s->state = fuzz_below(in, 16) == 15 ? TASKRT__JOINING : TASKRT__READY;
	TAILQ_INIT(&s->serveconns);
	TAILQ_INIT(&s->stagemaps);
	FUZZ_MUST(dsm__server_create(s->heap->map, s->heap->views,
	                             &s->server) == DSM_OK);
	FUZZ_MUST(dsm__loop_create(&params, &s->loop) == DSM_OK);
	client.session = s;
}

static void
begin_run(struct fuzz_in *in)
{
	const struct taskrt_options opt = {.keep_partial =
	                                       fuzz_below(in, 4) == 3};
	const struct taskrt__job job = {
	    .mode = 1 + fuzz_below(in, 3), .end = 100, .async = 1};

	run = taskrt__run_new(&job, &opt);
	FUZZ_MUST(run != NULL);
	run->id = s->last_run = 1;
	run->session = s;
	run->launched = dsm__now();
	run->costs = client.sums->costs;
	taskrt__progress_start(&run->progress, run->launched);
	s->run = run;
	client.run = run;
	dsm__heap_lock(s->heap);
	dsm__heap_run_begin(s->heap);
	dsm__heap_unlock(s->heap);
}

static void
fill_pool(void)
{
	memset(&pool, 0, sizeof(pool));
	fuzz_pool_put(&pool, SESSION);
	fuzz_pool_put(&pool, 1);
	fuzz_pool_put(&pool, (uintptr_t)block);
	fuzz_pool_put(&pool, (uintptr_t)global);
	fuzz_pool_put(&pool, s->heap->base);
	fuzz_pool_put(&pool, DSM_MAGIC);
	fuzz_pool_put(&pool, DSM_VERSION);
	fuzz_pool_put(&pool, DSM_ROLE_DATA);
	fuzz_pool_put(&pool, STDOUT_FILENO);
}

/* --- slots --- */

static int
all_taken(void *arg)
{
	unsigned *rounds = arg;

	for (unsigned i = 0; i < N_SLOTS; i++) {
		int n = 0;

		if (slots[i].conn == NULL)
			continue;
		dsm__conn_flush(slots[i].conn);
		if (dsm__conn_error(slots[i].conn) == DSM_OK &&
		    ioctl(dsm__conn_fd(slots[i].conn), SIOCOUTQ, &n) == 0 &&
		    n > 0)
			*rounds = 0;
	}
	dsm__loop_uv(s->loop); /* look again, do not sleep */
	return ++*rounds > 3;
}

static void
hear(struct slot *sl)
{
	struct dsm_msg_loan loan;
	struct dsm_frame f;
	int err;

	while ((err = dsm__conn_recv(sl->conn, &f)) == DSM_OK)
		if (f.type == DSM_MSG_LOAN &&
		    dsm__decode_loan(f.body, f.len, &loan) == DSM_OK &&
		    loan.len > 0) {
			sl->loan = loan.base;
			sl->loan_len = loan.len;
			sl->stamp = loan.stamp;
			fuzz_pool_put(&pool, loan.base);
			fuzz_pool_put(&pool, loan.stamp);
		}
	if (err == DSM_EAGAIN)
		return;
	dsm__conn_close(sl->conn);
	sl->conn = NULL;
}

/* The session takes what slots have sent; they hear what it says. */
static void
pump(void)
{
	unsigned rounds = 0;

	/* One that does not read answers is not read from: then time ends it. */
	dsm__loop_drive(s->loop, all_taken, &rounds, dsm__deadline_ms(20));
	for (unsigned i = 0; i < N_SLOTS; i++)
		if (slots[i].conn != NULL)
			hear(&slots[i]);
}

static void
slot_send(struct slot *sl, unsigned type, struct dsm_wbuf *w)
{
	const struct iovec iov = {w->ptr, w->len};

	if (sl->conn != NULL)
		dsm__conn_send(sl->conn, type, 0, 7, &iov, w->len > 0);
	dsm__wbuf_fini(w);
}

static void
slot_hello(struct slot *sl)
{
	const struct dsm_msg_hello h = {
	    .magic = DSM_MAGIC,
	    .version = DSM_VERSION,
	    .role = DSM_ROLE_DATA,
	    .features = DSM_FEATURE_VERBS,
	    .session = SESSION,
	    .key = {s->key, s->key_len},
	};
	struct dsm_wbuf w = {0};

	FUZZ_MUST(dsm__encode_hello(&w, &h) == DSM_OK);
	slot_send(sl, DSM_MSG_HELLO, &w);
}

static void
slot_connect(struct fuzz_in *in, struct slot *sl)
{
	struct dsm_conn *ours;
	int pair[2];

	dsm__conn_close(sl->conn);
	*sl = (struct slot){.conn = NULL};
	FUZZ_MUST(dsm__shm_pair(pair) == DSM_OK);
	FUZZ_MUST(dsm__conn_create(&dsm__shm_ops, pair[0], DSM_FRAME_MAX,
	                           &sl->conn) == DSM_OK);
	FUZZ_MUST(dsm__conn_create(&dsm__shm_ops, pair[1], DSM_STRANGER_MAX,
	                           &ours) == DSM_OK);
	FUZZ_MUST(taskrt__serveconn_start(s, ours, NULL,
	                                  fuzz_below(in, 2)
	                                      ? TASKRT__LINK_DIRECT
	                                      : TASKRT__LINK_RELAYED,
	                                  NULL) == DSM_OK);
	if (fuzz_below(in, 8) != 7)
		slot_hello(sl);
}

/* Of our own memory a part, or what the slot has borrowed. */
static uint64_t
target(struct fuzz_in *in, const struct slot *sl)
{
	uint8_t which = fuzz_u8(in);

	if (which < 128 || (which < 200 && sl->loan == 0))
		return (uintptr_t)block + which % BLOCK_PAGES * DSM_PAGE;
	if (which < 200)
		return sl->loan + which % 32 * DSM_PAGE;
	if (which < 250)
		return (uintptr_t)global + which % 4 * DSM_PAGE;
	return fuzz_value(in, &pool);
}

/* The arena's header, as a task would leave it, with numbers that may be wrong. */
static void
put_data(struct fuzz_in *in, struct dsm_wbuf *w, uint64_t n)
{
	uint8_t how = fuzz_u8(in);

	for (uint64_t i = 0; i < n; i += 8) {
		uint64_t v = how < 64 ? fuzz_value(in, &pool) : how;

		FUZZ_MUST(dsm__wbuf_put(w, &v, n - i < 8 ? n - i : 8) ==
		          DSM_OK);
	}
}

static void
slot_writes(struct fuzz_in *in, struct slot *sl)
{
	uint32_t attempt = fuzz_below(in, N_ATTEMPTS);
	struct dsm_wbuf w = {0}, packed = {0}, marks = {0};
	struct dsm_msg_writes m = {
	    .run = 1,
	    .attempt = 1 + attempt,
	    .flags = fuzz_below(in, 4) > 0 ? DSM_WRITES_LAST : 0,
	    .part = sl->parts[attempt]++,
	};

	for (uint32_t n = 1 + fuzz_below(in, 2); n > 0; n--) {
		struct dsm_rec_mark mark = {fuzz_below(in, 100), packed.len};
		struct dsm_wbuf mask = {0}, data = {0};
		uint64_t n_bytes = fuzz_mask(in, target(in, sl), &mask);

		if (fuzz_u8(in) > 250)
			n_bytes++;
		put_data(in, &data, n_bytes);
		FUZZ_MUST(dsm__squeeze(&packed, mask.ptr, mask.len, 0) ==
		          DSM_OK);
		FUZZ_MUST(dsm__squeeze(&packed, data.ptr, data.len,
		                       (int)fuzz_below(in, 2)) == DSM_OK);
		FUZZ_MUST(dsm__pack_mark(&marks, &mark) == DSM_OK);
		m.marks.n++;
		dsm__wbuf_fini(&mask);
		dsm__wbuf_fini(&data);
	}
	m.marks.ptr = marks.ptr;
	m.packed = (struct dsm_blob){packed.ptr, (uint32_t)packed.len};
	if (fuzz_u8(in) > 250)
		packed.ptr[fuzz_raw(in, 2) % packed.len] ^= fuzz_u8(in);
	FUZZ_MUST(dsm__encode_writes(&w, &m) == DSM_OK);
	slot_send(sl, DSM_MSG_WRITES, &w);
	dsm__wbuf_fini(&packed);
	dsm__wbuf_fini(&marks);
}

/*
 * What a task that allocates leaves in the range that its slot has borrowed: an arena
 * as it should be, but for some bytes of its metadata. Made where it will lie, then
 * taken away again: it comes back by a commit.
 */
static void
make_arena(struct fuzz_in *in, const struct slot *sl, uint8_t *copy)
{
	static uint64_t state[DSM_PAGE / 8] __attribute__((aligned(64)));
	static const size_t sizes[] = {1, 24, 100, 2000, 5000, 20000};
	uint8_t *base = (uint8_t *)(uintptr_t)sl->loan;
	struct dsm_task_arena *ta;
	void *last = NULL, *p;

	FUZZ_MUST(dsm__task_arena_init(state, sizeof(state), base,
	                               DSM_TASK_ARENA_MIN, false, sl->stamp,
	                               &ta) == DSM_OK);
	for (uint32_t n = 1 + fuzz_below(in, 6); n > 0; n--) {
		p = dsm__task_malloc(ta, sizes[fuzz_below(in, 6)], NULL);
		if (fuzz_below(in, 3) == 2)
			dsm__task_free(ta, last);
		last = p;
	}
	dsm__task_arena_seal(ta);
	memcpy(copy, base, DSM_TASK_ARENA_MIN);
	memset(base, 0, DSM_TASK_ARENA_MIN);
	for (uint32_t n = fuzz_below(in, 4); n > 0; n--) {
		/* Of the last page, where header and map are, or near it. */
		uint64_t back = 8 * (1 + fuzz_raw(in, 2) % 1024);
		uint64_t v = fuzz_value(in, &pool);

		memcpy(copy + DSM_TASK_ARENA_MIN - back, &v, sizeof(v));
	}
}

static void
slot_leaves_arena(struct fuzz_in *in, struct slot *sl)
{
	static uint8_t copy[DSM_TASK_ARENA_MIN];
	uint32_t attempt = fuzz_below(in, N_ATTEMPTS);
	uint64_t head = sl->loan >> DSM_PAGE_SHIFT << 4; /* WHOLE */
	uint32_t n = DSM_TASK_ARENA_MIN / DSM_PAGE;
	struct dsm_wbuf w = {0}, mask = {0}, packed = {0};
	struct dsm_msg_writes m = {
	    .run = 1,
	    .attempt = 1 + attempt,
	    .flags = DSM_WRITES_LAST,
	    .part = sl->parts[attempt]++,
	};

	if (sl->loan == 0 || sl->loan_len < DSM_TASK_ARENA_MIN)
		return;
	make_arena(in, sl, copy);
	FUZZ_MUST(dsm__wbuf_put(&mask, &head, sizeof(head)) == DSM_OK);
	FUZZ_MUST(dsm__wbuf_put(&mask, &n, sizeof(n)) == DSM_OK);
	FUZZ_MUST(dsm__squeeze(&packed, mask.ptr, mask.len, 0) == DSM_OK);
	FUZZ_MUST(dsm__squeeze(&packed, copy, sizeof(copy), 1) == DSM_OK);
	m.packed = (struct dsm_blob){packed.ptr, (uint32_t)packed.len};
	FUZZ_MUST(dsm__encode_writes(&w, &m) == DSM_OK);
	slot_send(sl, DSM_MSG_WRITES, &w);
	dsm__wbuf_fini(&mask);
	dsm__wbuf_fini(&packed);
}

/* The program frees what tasks have allocated, where it can be found. */
static void
free_blocks(uint64_t loan)
{
	for (uint64_t at = loan; at < loan + DSM_TASK_ARENA_MIN; at += 16) {
		struct dsm_alloc_info b;
		void *p = (void *)(uintptr_t)at;

		if (dsm__heap_find(p, &b) && b.base == p)
			dsm_free(p);
	}
}

static void
slot_read(struct fuzz_in *in, struct slot *sl)
{
	const struct dsm_msg_read m = {.run = 1,
	                               .addr = dsm__page_down(target(in, sl)),
	                               .n_pages = 1 + fuzz_below(in, 8)};
	struct dsm_wbuf w = {0};

	FUZZ_MUST(dsm__encode_read(&w, &m) == DSM_OK);
	slot_send(sl, DSM_MSG_READ, &w);
}

static void
slot_borrow(struct fuzz_in *in, struct slot *sl)
{
	const struct dsm_msg_borrow m = {.least = DSM_TASK_ARENA_MIN,
	                                 .want = UINT64_C(1)
	                                         << 17 << fuzz_below(in, 4)};
	struct dsm_wbuf w = {0};

	FUZZ_MUST(dsm__encode_borrow(&w, &m) == DSM_OK);
	slot_send(sl, DSM_MSG_BORROW, &w);
}

static void
slot_says_anything(struct fuzz_in *in, struct slot *sl)
{
	unsigned type = fuzz_type(in);
	struct dsm_wbuf w = {0};

	fuzz_message(in, &pool, type, &w);
	slot_send(sl, type, &w);
}

/* Bytes that need not be frames. */
static void
slot_writes_bytes(struct fuzz_in *in, struct slot *sl)
{
	struct dsm_blob b = fuzz_bytes(in, 200);

	if (sl->conn != NULL && dsm__conn_backlog(sl->conn) == 0 && b.len > 0 &&
	    send(dsm__conn_fd(sl->conn), b.ptr, b.len,
	         MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

/* --- the coordinator --- */

static void
coordinator_says(unsigned type, struct dsm_wbuf *w)
{
	/* Exactly as long as it is. */
	uint8_t *body = malloc(w->len != 0 ? w->len : 1);

	FUZZ_MUST(body != NULL);
	if (w->len > 0)
		memcpy(body, w->ptr, w->len);
	taskrt__session_frame(s, type, body, (uint32_t)w->len);
	free(body);
	dsm__wbuf_fini(w);
}

static void
coordinator_says_anything(struct fuzz_in *in)
{
	unsigned type = fuzz_type(in);
	struct dsm_wbuf w = {0};

	fuzz_message(in, &pool, type, &w);
	coordinator_says(type, &w);
}

/* The run's end: some attempts are accepted, and now and then something failed. */
static void
verdict(struct fuzz_in *in)
{
	uint8_t which = fuzz_u8(in), more = fuzz_u8(in);
	struct dsm_wbuf ids = {0}, failures = {0}, races = {0}, w = {0};
	struct dsm_msg_verdict m = {.run = 1};

	for (uint64_t i = 0; i < N_ATTEMPTS; i++)
		if (which >> i & 1) {
			const struct dsm_rec_attempt a = {1 + i};

			FUZZ_MUST(dsm__pack_attempt(&ids, &a) == DSM_OK);
			m.accepted.n++;
		}
	m.accepted.ptr = ids.ptr;
	if (more >= 240) { /* rarely: a report takes milliseconds */
		const struct dsm_rec_race race = {
		    fuzz_below(in, 100), fuzz_below(in, 100),
		    (uintptr_t)block + fuzz_raw(in, 2), fuzz_u8(in)};
		struct dsm_rec_failure f = {.task = fuzz_below(in, 100),
		                            .kind = 1 + fuzz_below(in, 6),
		                            .signal = fuzz_u8(in)};

		m.code = fuzz_u8(in);
		m.texts = fuzz_bytes(in, 400);
		f.text_len = fuzz_below(in, m.texts.len + 1);
		f.context_len = m.texts.len - f.text_len;
		FUZZ_MUST(dsm__pack_failure(&failures, &f) == DSM_OK);
		FUZZ_MUST(dsm__pack_race(&races, &race) == DSM_OK);
		m.failures = (struct dsm_array){failures.ptr, 1};
		m.races = (struct dsm_array){races.ptr, 1};
		m.n_races = 1;
	}
	FUZZ_MUST(dsm__encode_verdict(&w, &m) == DSM_OK);
	coordinator_says(DSM_MSG_VERDICT, &w);
	dsm__wbuf_fini(&ids);
	dsm__wbuf_fini(&failures);
	dsm__wbuf_fini(&races);
}

/* --- the end --- */

static int
is_in(uint64_t addr, uint64_t len, const void *base, uint64_t size)
{
	uint64_t off = addr - (uintptr_t)base;

	return off < size && len <= size - off;
}

static void
note_stray(void *ctx, uint64_t addr, uint64_t len)
{
	const struct dsm_heap *h = s->heap;
	int *stray = ctx;

	if (!is_in(addr, len, block, BLOCK_PAGES * DSM_PAGE) &&
	    !is_in(addr, len, global, sizeof(global)) &&
	    !is_in(addr, len, (void *)(uintptr_t)(h->base + h->user_size),
	           h->size - h->user_size))
		*stray = 1;
}

static void
finish_run(void)
{
	struct dsm_error why = {.code = DSM_ECANCELED, .text = "the end"};
	struct dsm_msg_verdict m;
	int stray = 0;

	if (!run->over)
		taskrt__run_end(run, &why);
	for (uint64_t i = 0; run->verdict.len > 0; i++) {
		struct dsm_rec_attempt a;

		FUZZ_MUST(dsm__decode_verdict(run->verdict.ptr,
		                              run->verdict.len, &m) == DSM_OK);
		if (dsm__unpack_attempt(&m.accepted, (uint32_t)i, &a) != DSM_OK)
			break;
		dsm__stage_each(run->stage, &a.id, 1, note_stray, &stray);
	}
	if (stray) {
		dsm__wbuf_reset(&run->verdict);
		run->lost = why;
	}
	dsm__loop_unlock(s->loop);
	taskrt__run_finish(&client);
	dsm__loop_lock(s->loop);
	taskrt__run_free(run);
	run = NULL;
}

static void
step(struct fuzz_in *in)
{
	uint8_t what = fuzz_u8(in);
	struct slot *sl = &slots[(what >> 4) % N_SLOTS];

	switch (what & 15) {
	case 0:
	case 1:
		slot_connect(in, sl);
		break;
	case 2:
	case 3:
	case 4:
		slot_writes(in, sl);
		break;
	case 5:
		slot_read(in, sl);
		break;
	case 6:
		slot_borrow(in, sl);
		break;
	case 7:
	case 8:
	case 9:
		slot_says_anything(in, sl);
		break;
	case 10:
		slot_writes_bytes(in, sl);
		break;
	case 11:
		verdict(in);
		break;
	case 12:
		slot_leaves_arena(in, sl);
		break;
	case 13:
		dsm__conn_close(sl->conn);
		sl->conn = NULL;
		break;
	default:
		coordinator_says_anything(in);
	}
	pump();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = fuzz_in(data, size);

	if (block == NULL)
		setup_once();
	begin_session(&in);
	dsm__loop_lock(s->loop);
	begin_run(&in);
	fill_pool();
	memset(slots, 0, sizeof(slots));
	for (unsigned n = 0; n < 100 && fuzz_more(&in); n++)
		step(&in);
	finish_run();
	dsm__loop_unlock(s->loop);
	for (unsigned i = 0; i < N_SLOTS; i++)
		if (slots[i].loan != 0)
			free_blocks(slots[i].loan);
	taskrt__session_destroy(s);
	client.session = NULL;
	for (unsigned i = 0; i < N_SLOTS; i++)
		dsm__conn_close(slots[i].conn);
	return 0;
}
