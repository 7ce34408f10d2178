/*
 * The worker's core between a coordinator and slots that say anything. Slots are
 * real processes (tests/helpers/fakeslot.c); what a hostile one could do, the script
 * does for it: frames on its control stream, anything in its control page and in the
 * states of the image. At the end of the script all sessions end, and must be gone
 * soon; the worker itself goes on to the next script.
 */
#include "fuzz.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../coordinator/worker/worker_priv.h"
#include "../helpers/fakeslot.h"
#include "../unit/worker/fakeelf.h"

#define N_SLOTS 2u
#define N_SESSIONS 2u
#define N_ENDS 16u
#define HEAP UINT64_C(0x10000000000)
#define HEAP_PAGES 64u
#define GONE_MS 20000

static struct coord_link up;
static struct dsm_loop *loop;
static struct worker *w;
static struct fuzz_pool pool;
static uint64_t runs[N_SESSIONS]; /* of the session's newest RUN */
static uint64_t last_attempt;
static int closed; /* the worker has had enough of the coordinator */
/* Of slots: their own ends of the control streams, the client's of data links. */
static int controls[N_ENDS], datas[N_ENDS];
static unsigned n_ends;

/* --- ends --- */

static void
up_send(struct coord_link *l, unsigned type, const struct iovec *iov, int n)
{
	FUZZ_MUST(l == &up && n == 1 && type != 0);
	FUZZ_MUST(iov->iov_len <= DSM_FRAME_MAX);
}

static void
up_close(struct coord_link *l, const char *reason)
{
	FUZZ_MUST(l == &up && reason != NULL);
	closed = 1;
}

/* The slot that is being started. */
static const struct wslot *
starting(unsigned number)
{
	const struct wsession *ss;

	LIST_FOREACH(ss, &w->sessions, link)
	if (number < ss->n_slots && ss->slots[number].control_peer_fd >= 0 &&
	    ss->slots[number].data_fd < 0)
		return &ss->slots[number];
	return NULL;
}

static int
local_data(void *ctx, unsigned slot, int stage_fd, int *fd_p)
{
	const struct wslot *s = starting(slot);
	unsigned i = n_ends % N_ENDS;
	int pair[2];

	FUZZ_MUST(ctx == NULL && stage_fd >= 0 && s != NULL);
	FUZZ_MUST(dsm__shm_pair(pair) == DSM_OK);
	if (n_ends >= N_ENDS) {
		close(controls[i]);
		close(datas[i]);
	}
	controls[i] = dup(s->control_peer_fd);
	datas[i] = pair[0];
	n_ends++;
	*fd_p = pair[1];
	return DSM_OK;
}

static void
setup_once(void)
{
	const struct dsm_loop_params lp = {0};
	const struct worker_params p = {
	    .n_slots = N_SLOTS,
	    .up = &up,
	    .local_data = local_data,
	    .heap_fd = -1,
	    .slot_elf = fake_elf,
	};
	struct dsm_error e;

	fuzz_quiet();
	signal(SIGPIPE, SIG_IGN);
	up.send = up_send;
	up.close = up_close;
	FUZZ_MUST(dsm__loop_create(&lp, &loop) == DSM_OK);
	dsm__loop_lock(loop);
	FUZZ_MUST(worker_create(loop, &p, &w, &e) == DSM_OK);
}

/* --- driving --- */

static int
three_rounds(void *arg)
{
	unsigned *n = arg;

	dsm__loop_uv(loop); /* look again, do not sleep */
	return ++*n > 3;
}

static int
all_gone(void *arg)
{
	(void)arg;
	return LIST_EMPTY(&w->sessions);
}

static void
check(void)
{
	const struct wsession *ss;
	const struct wexec_item *it;
	unsigned n;

	LIST_FOREACH(ss, &w->sessions, link)
	{
		n = 0;
		STAILQ_FOREACH(it, &ss->queue, link)
		n++;
		FUZZ_MUST(n == ss->n_queued);
		for (unsigned i = 0; i < ss->n_slots; i++)
			FUZZ_MUST(ss->slots[i].n_out <= SLOT_OUT_MAX);
		FUZZ_MUST(ss->state == WSESSION_OPEN || ss->n_queued == 0);
	}
}

static void
pump(void)
{
	unsigned rounds = 0;

	dsm__loop_drive(loop, three_rounds, &rounds, dsm__deadline_ms(5));
	check();
	if (closed)
		worker_up_lost(w);
	closed = 0;
}

/* --- the coordinator --- */

static void
say(unsigned type, struct dsm_wbuf *b)
{
	/* Exactly as long as it is. */
	uint8_t *body = malloc(b->len != 0 ? b->len : 1);
	const struct dsm_frame f = {
	    .type = (uint16_t)type, .body = body, .len = (uint32_t)b->len};

	FUZZ_MUST(body != NULL);
	if (b->len > 0)
		memcpy(body, b->ptr, b->len);
	worker_frame(w, &f);
	free(body);
	dsm__wbuf_fini(b);
}

static void
say_session(struct fuzz_in *in, unsigned i)
{
	static const char *const addrs[] = {"", "127.0.0.1:1", "localhost:1",
	                                    "nonsense"};
	const struct dsm_msg_session m = {
	    .session = 1 + i,
	    .key = {(const uint8_t *)"0123456789abcdef", 16},
	    .addr = dsm__str(addrs[fuzz_below(in, 5) % 4]),
	};
	struct dsm_wbuf b = {0};

	FUZZ_MUST(dsm__encode_session(&b, &m) == DSM_OK);
	say(DSM_MSG_SESSION, &b);
}

static void
say_session_end(unsigned i)
{
	const struct dsm_msg_session_end m = {1 + i};
	struct dsm_wbuf b = {0};

	FUZZ_MUST(dsm__encode_session_end(&b, &m) == DSM_OK);
	say(DSM_MSG_SESSION_END, &b);
	runs[i] = 0;
}

static void
say_run(struct fuzz_in *in, unsigned i)
{
	const struct dsm_rec_range range = {
	    .start = HEAP,
	    .end = HEAP + HEAP_PAGES * DSM_PAGE,
	    .image_off = fuzz_below(in, 3) * DSM_PAGE,
	    .prot = 3,
	    .kind = DSM_RANGE_HEAP,
	};
	const struct dsm_rec_extent drop = {HEAP + fuzz_below(in, 8) * DSM_PAGE,
	                                    1 + fuzz_raw(in, 1) * 64u};
	const struct dsm_rec_extent update = {
	    HEAP + fuzz_below(in, HEAP_PAGES) * DSM_PAGE, 1};
	static const uint8_t page[DSM_PAGE] = {1};
	struct dsm_wbuf b = {0}, ranges = {0}, drops = {0}, updates = {0};
	struct dsm_msg_run m = {
	    .session = 1 + i,
	    .run = ++runs[i],
	    .mode = DSM_MODE_FOR,
	    .flags = fuzz_below(in, 4) > 0 ? DSM_RUN_RANGES : 0,
	    .end = 100000,
	    /* Of fakeslot.h; how it starts. */
	    .fn = fuzz_u8(in) < 240 ? FAKE_FINE : FAKE_COLLIDES_IN_A,
	    .timeout_ms = fuzz_below(in, 4) == 3 ? 50 : 0,
	};

	FUZZ_MUST(dsm__pack_range(&ranges, &range) == DSM_OK);
	FUZZ_MUST(dsm__pack_extent(&drops, &drop) == DSM_OK);
	FUZZ_MUST(dsm__pack_extent(&updates, &update) == DSM_OK);
	if (m.flags & DSM_RUN_RANGES)
		m.ranges = (struct dsm_array){ranges.ptr, 1};
	if (fuzz_below(in, 2)) {
		m.drops = (struct dsm_array){drops.ptr, 1};
		m.updates = (struct dsm_array){updates.ptr, 1};
		m.pages = (struct dsm_blob){page, sizeof(page)};
	}
	FUZZ_MUST(dsm__encode_run(&b, &m) == DSM_OK);
	say(DSM_MSG_RUN, &b);
	dsm__wbuf_fini(&ranges);
	dsm__wbuf_fini(&drops);
	dsm__wbuf_fini(&updates);
}

static void
say_exec(struct fuzz_in *in, unsigned i)
{
	static const uint64_t acts[] = {0,
	                                0,
	                                0,
	                                FAKE_CRASH,
	                                FAKE_EXIT,
	                                FAKE_KILLED,
	                                FAKE_ABORT,
	                                FAKE_DAMAGE,
	                                FAKE_HANG,
	                                FAKE_CLAIM,
	                                FAKE_DATA_LOST};
	uint64_t lo = acts[fuzz_below(in, sizeof(acts) / sizeof(acts[0]))];
	const struct dsm_msg_exec m = {
	    .session = 1 + i,
	    .run = runs[i],
	    .attempt = ++last_attempt,
	    .lo = lo + fuzz_below(in, 3),
	    .hi = lo + 3 + fuzz_below(in, 3),
	};
	struct dsm_wbuf b = {0};

	fuzz_pool_put(&pool, m.attempt);
	FUZZ_MUST(dsm__encode_exec(&b, &m) == DSM_OK);
	say(DSM_MSG_EXEC, &b);
}

static void
say_cancel(unsigned i)
{
	const struct dsm_msg_cancel m = {1 + i, runs[i]};
	struct dsm_wbuf b = {0};

	FUZZ_MUST(dsm__encode_cancel(&b, &m) == DSM_OK);
	say(DSM_MSG_CANCEL, &b);
}

static void
say_anything(struct fuzz_in *in)
{
	unsigned type = fuzz_type(in);
	struct dsm_wbuf b = {0};

	fuzz_message(in, &pool, type, &b);
	say(type, &b);
}

/* --- slots --- */

static struct wslot *
pick(struct fuzz_in *in)
{
	struct wsession *ss = session_find(w, 1 + fuzz_below(in, N_SESSIONS));

	return ss != NULL ? &ss->slots[fuzz_below(in, N_SLOTS)] : NULL;
}

static void
write_control(struct fuzz_in *in, const void *p, size_t len)
{
	unsigned have = n_ends < N_ENDS ? n_ends : N_ENDS;

	if (have == 0 || len == 0)
		return;
	if (send(controls[fuzz_below(in, have)], p, len,
	         MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* it is gone, or it is full */
}

/* A frame, in its name. */
static void
slot_says(struct fuzz_in *in, unsigned type, struct dsm_wbuf *body)
{
	struct {
		uint32_t len;
		uint16_t type;
		uint8_t version, flags;
		uint64_t tag;
	} h = {(uint32_t)body->len, (uint16_t)type, DSM_VERSION, 0, 0};
	struct dsm_wbuf b = {0};

	if (fuzz_u8(in) > 250)
		h.len += fuzz_u8(in);
	FUZZ_MUST(dsm__wbuf_put(&b, &h, sizeof(h)) == DSM_OK);
	FUZZ_MUST(dsm__wbuf_put(&b, body->ptr, body->len) == DSM_OK);
	write_control(in, b.ptr, b.len);
	dsm__wbuf_fini(&b);
	dsm__wbuf_fini(body);
}

/* What it is at is done, it says. */
static void
slot_says_done(struct fuzz_in *in)
{
	const struct wslot *s = pick(in);
	struct dsm_msg_done m = {0};
	struct dsm_wbuf b = {0};

	if (s == NULL)
		return;
	m.session = s->ss->id;
	m.run = s->out[0].run;
	m.attempt = s->out[fuzz_below(in, 2)].attempt;
	m.n_bytes = fuzz_below(in, 2);
	FUZZ_MUST(dsm__encode_done(&b, &m) == DSM_OK);
	slot_says(in, DSM_MSG_DONE, &b);
}

static void
slot_says_anything(struct fuzz_in *in)
{
	unsigned type = fuzz_type(in);
	struct dsm_wbuf b = {0};

	fuzz_message(in, &pool, type, &b);
	slot_says(in, type, &b);
}

static void
slot_scribbles(struct fuzz_in *in)
{
	const struct wslot *s = pick(in);
	struct dsm_blob bytes = fuzz_bytes(in, 64);
	uint32_t at = (uint32_t)fuzz_raw(in, 2) % sizeof(struct slot_ctl);
	uint64_t v = fuzz_value(in, &pool);

	if (s == NULL || s->ctl == NULL)
		return;
	switch (fuzz_below(in, 5)) {
	case 0:
		atomic_store(&s->ctl->current, v);
		break;
	case 1:
		atomic_store(&s->ctl->claim_off[0], v & ~DSM_PAGE_MASK);
		atomic_store(&s->ctl->claim_n[0], fuzz_value(in, &pool));
		break;
	case 2:
		atomic_store(&s->ctl->n_let_go, v);
		atomic_store(&s->ctl->can_keep, fuzz_below(in, 2));
		break;
	case 3:
		atomic_store(&s->ctl->attempt, s->out[0].attempt);
		atomic_store(&s->ctl->state, (uint32_t)v);
		break;
	default:
		if (bytes.len > sizeof(*s->ctl) - at)
			bytes.len = (uint32_t)sizeof(*s->ctl) - at;
		if (bytes.len > 0)
			memcpy((uint8_t *)s->ctl + at, bytes.ptr, bytes.len);
	}
}

static void
slot_changes_states(struct fuzz_in *in)
{
	const struct wslot *s = pick(in);
	uint64_t page = fuzz_below(in, HEAP_PAGES);

	if (s != NULL && s->ss->image.states != NULL)
		atomic_store(&s->ss->image.states[page],
		             (uint32_t)fuzz_value(in, &pool));
}

static void
slot_dies(struct fuzz_in *in)
{
	const struct wslot *s = pick(in);

	if (s != NULL && s->pidfd >= 0)
		spawn_kill(s->pidfd, fuzz_below(in, 2) ? SIGSEGV : SIGKILL);
}

static void
step(struct fuzz_in *in)
{
	uint8_t what = fuzz_u8(in);
	unsigned i = (what >> 4) % N_SESSIONS;

	switch (what & 15) {
	case 0:
		say_session(in, i);
		break;
	case 1:
	case 2:
		say_run(in, i);
		break;
	case 3:
	case 4:
	case 5:
		say_exec(in, i);
		break;
	case 6:
		say_cancel(i);
		break;
	case 7:
		if (what >= 192)
			say_session_end(i);
		break;
	case 8:
		say_anything(in);
		break;
	case 9:
	case 10:
		slot_says_done(in);
		break;
	case 11:
		slot_says_anything(in);
		break;
	case 12:
		slot_scribbles(in);
		break;
	case 13:
		slot_changes_states(in);
		break;
	case 14:
		slot_dies(in);
		break;
	default: /* time for slots to start and answer */
		dsm__loop_drive(loop, all_gone, NULL, dsm__deadline_ms(2));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = fuzz_in(data, size);

	if (w == NULL)
		setup_once();
	memset(&pool, 0, sizeof(pool));
	memset(runs, 0, sizeof(runs));
	last_attempt = 0;
	fuzz_pool_put(&pool, 1);
	fuzz_pool_put(&pool, 2);
	fuzz_pool_put(&pool, HEAP);
	for (unsigned n = 0; n < 60 && fuzz_more(&in); n++) {
		step(&in);
		pump();
	}
	worker_up_lost(w);
	FUZZ_MUST(dsm__loop_drive(loop, all_gone, NULL,
	                          dsm__deadline_ms(GONE_MS)) == DSM_OK);
	for (unsigned i = 0; i < n_ends && i < N_ENDS; i++) {
		close(controls[i]);
		close(datas[i]);
	}
	n_ends = 0;
	return 0;
}
