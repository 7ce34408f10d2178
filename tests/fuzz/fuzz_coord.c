/*
 * The coordinator's core between clients and workers that say anything. The input is
 * a script of who does what: joins, launches, answers, leaves, or sends a message
 * that is out of place. After each step the core's books must be right; at the end
 * every run of a client that is still there must have got its verdict.
 */
#include "fuzz.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "../../coordinator/core/core.h"
#include "../../dsm/base/page.h"
#include "../../dsm/wire/packdiff.h"

#define N_PEERS 6
#define N_EXECS 16
#define HEAP UINT64_C(0x100000000000)
#define HEAP_PAGES 64u
#define WAIT_MS 10000u

struct peer {
	struct coord_link link;  /* first: the core hands it back */
	struct coord_peer *peer; /* NULL: not joined */
	unsigned role;
	int closed;
	uint64_t session;
	uint64_t n_runs, n_verdicts;
	struct dsm_msg_exec execs[N_EXECS]; /* got last */
	unsigned n_execs;
};

static struct coord *k;
static struct peer peers[N_PEERS];
static struct fuzz_pool pool;
static uint64_t now;

/* --- the ends of the links --- */

static void
on_exec(struct peer *p, const uint8_t *body, size_t len)
{
	struct dsm_msg_exec *x = &p->execs[p->n_execs % N_EXECS];

	FUZZ_MUST(dsm__decode_exec(body, len, x) == DSM_OK);
	FUZZ_MUST(x->lo < x->hi);
	p->n_execs++;
	fuzz_pool_put(&pool, x->attempt);
	fuzz_pool_put(&pool, x->lo);
}

static void
on_welcome(struct peer *p, const uint8_t *body, size_t len)
{
	struct dsm_msg_welcome m;

	FUZZ_MUST(dsm__decode_welcome(body, len, &m) == DSM_OK);
	p->session = m.session;
}

static void
on_verdict(struct peer *p, const uint8_t *body, size_t len)
{
	struct dsm_msg_verdict m;

	FUZZ_MUST(dsm__decode_verdict(body, len, &m) == DSM_OK);
	FUZZ_MUST(m.run == p->n_runs);
	p->n_verdicts++;
	FUZZ_MUST(p->n_verdicts == p->n_runs);
}

static void
link_send(struct coord_link *l, unsigned type, const struct iovec *iov, int n)
{
	struct peer *p = (struct peer *)l;

	FUZZ_MUST(!p->closed);
	FUZZ_MUST(n == 1);
	if (type == DSM_MSG_EXEC)
		on_exec(p, iov->iov_base, iov->iov_len);
	else if (type == DSM_MSG_WELCOME)
		on_welcome(p, iov->iov_base, iov->iov_len);
	else if (type == DSM_MSG_VERDICT)
		on_verdict(p, iov->iov_base, iov->iov_len);
}

static void
link_close(struct coord_link *l, const char *reason)
{
	struct peer *p = (struct peer *)l;

	FUZZ_MUST(reason != NULL && !p->closed);
	p->closed = 1;
}

/* --- the books --- */

static uint64_t
check_held(const struct run *r, const struct sworker *sw, uint64_t *n_out_p)
{
	const struct attempt *a;
	uint64_t n = 0;

	TAILQ_FOREACH(a, &sw->held, link)
	{
		FUZZ_MUST(r != NULL);
		FUZZ_MUST(a->sw == sw);
		FUZZ_MUST(a->state == ATTEMPT_OUT || a->state == ATTEMPT_DONE);
		FUZZ_MUST(a->lo < a->hi);
		*n_out_p += a->state == ATTEMPT_OUT;
		FUZZ_MUST(a->twin == NULL || a->twin->twin == a);
		/* Of two that run the same tasks one. */
		if (a->twin == NULL || a->id < a->twin->id)
			n += a->hi - a->lo;
	}
	return n;
}

static void
check_session(const struct session *s)
{
	const struct run *r = s->run;
	const struct sworker *sw;
	const struct attempt *a;
	uint64_t n_slots = 0, n_tasks = 0, n_out = 0, n_held = 0;

	TAILQ_FOREACH(sw, &s->workers, of_session)
	{
		if (sw->state == SWORKER_TOLD && !sw->worker->draining)
			n_slots += sw->worker->n_slots;
		n_tasks += check_held(r, sw, &n_out);
		TAILQ_FOREACH(a, &sw->held, link)
		n_held++;
	}
	FUZZ_MUST(s->n_slots == n_slots);
	if (r == NULL)
		return;
	FUZZ_MUST(r->n_out == n_out);
	FUZZ_MUST(r->n_held == n_held);
	FUZZ_MUST(r->n_done + r->n_failed + r->sched.n_pending + n_tasks ==
	          r->total);
}

static void
check_worker(const struct worker_peer *w)
{
	const struct sworker *sw;
	const struct attempt *a;
	unsigned n_out = 0;

	TAILQ_FOREACH(sw, &w->sessions, of_worker)
	TAILQ_FOREACH(a, &sw->held, link)
	n_out += a->state == ATTEMPT_OUT;
	FUZZ_MUST(w->n_out == n_out);
	FUZZ_MUST(n_out <= 2 * w->n_slots);
}

static void
check(void)
{
	const struct session *s;
	const struct worker_peer *w;

	TAILQ_FOREACH(s, &k->sessions, link)
	check_session(s);
	TAILQ_FOREACH(w, &k->workers, link)
	check_worker(w);
}

/* --- steps --- */

static void
leave(struct peer *p)
{
	if (p->peer != NULL)
		coord_peer_gone(k, p->peer, now);
	memset(p, 0, sizeof(*p));
}

/* The core does not want them any more. */
static void
bury_closed(void)
{
	for (unsigned i = 0; i < N_PEERS; i++)
		if (peers[i].closed)
			leave(&peers[i]);
}

/* Whose token a peer shows: none, mostly. */
static const struct dsm_identity *
whose(struct fuzz_in *in)
{
	static const struct dsm_identity who[] = {
	    {.name = "ann", .roles = ~0u},
	    {.name = "ben", .roles = 1, .slots = 1, .runs = 2},
	};
	uint32_t i = fuzz_below(in, 8);

	return i < 6 ? NULL : &who[i - 6];
}

static void
join(struct fuzz_in *in, struct peer *p, unsigned role)
{
	static const uint8_t cpu[4] = {1, 0, 0, 0};
	struct dsm_blob name = fuzz_bytes(in, 8);
	struct dsm_msg_hello h = {
		.magic = DSM_MAGIC,
		.version = DSM_VERSION,
		.role = (uint16_t)role,
		.page_size = DSM_PAGE,
#if defined(__x86_64__)
		.arch = EM_X86_64,
#else
		.arch = EM_AARCH64,
#endif
		.n_slots = 1 + fuzz_below(in, 4),
		.cpu = {cpu, fuzz_below(in, 2) * 4},
		.addr = dsm__str("10.0.0.1:7000"),
	};

	leave(p);
	for (uint32_t i = 0; i < name.len; i++)
		if (name.ptr[i] == 0)
			name.len = i;
	h.name = (struct dsm_str){(const char *)name.ptr, name.len};
	p->link = (struct coord_link){.send = link_send, .close = link_close};
	p->role = role;
	if (coord_join(k, &h, whose(in), "peer", &p->link, &p->peer) != DSM_OK)
		p->closed = 1;
	else
		fuzz_pool_put(&pool, p->session);
}

/* HELLO with anything in it. */
static void
join_oddly(struct fuzz_in *in, struct peer *p)
{
	struct dsm_wbuf w = {0};
	struct dsm_msg_hello h;

	leave(p);
	p->link = (struct coord_link){.send = link_send, .close = link_close};
	fuzz_message(in, &pool, DSM_MSG_HELLO, &w);
	if (dsm__decode_hello(w.ptr, w.len, &h) == DSM_OK) {
		if (fuzz_below(in, 4) > 0) {
			h.magic = DSM_MAGIC;
			h.version = DSM_VERSION;
			h.page_size = DSM_PAGE;
			h.arch = EM_X86_64;
		}
		p->role = h.role;
		if (coord_join(k, &h, whose(in), "odd", &p->link, &p->peer) !=
		    DSM_OK)
			p->closed = 1;
	}
	dsm__wbuf_fini(&w);
}

static int
say(struct peer *p, unsigned type, struct dsm_wbuf *w)
{
	/* Exactly as long as it is. */
	uint8_t *body = malloc(w->len != 0 ? w->len : 1);
	const struct dsm_frame f = {
	    .type = (uint16_t)type, .body = body, .len = (uint32_t)w->len};
	int err = DSM_OK;

	FUZZ_MUST(body != NULL);
	if (w->len > 0)
		memcpy(body, w->ptr, w->len);
	if (p->peer != NULL && !p->closed)
		err = coord_frame(k, p->peer, &f, now);
	free(body);
	dsm__wbuf_fini(w);
	return err;
}

/* Whether it was taken shows in the session: the run may be over already. */
static void
say_run(struct peer *p, struct dsm_wbuf *w)
{
	struct session *s = coord__session_find(k, p->session);
	uint64_t last = s != NULL ? s->last_run : 0;

	/* The core counts it before it can end it. */
	if (s == NULL || s->run != NULL) {
		say(p, DSM_MSG_RUN, w);
		return;
	}
	p->n_runs = last + 1;
	say(p, DSM_MSG_RUN, w);
	if (!p->closed && p->peer != NULL && s->last_run == last)
		p->n_runs = last;
}

static void
launch(struct fuzz_in *in, struct peer *p)
{
	static const uint64_t totals[] = {0, 1, 2, 7, 100, 5000, 1u << 30};
	const struct dsm_rec_range range = {
	    .start = HEAP,
	    .end = HEAP + HEAP_PAGES * DSM_PAGE,
	    .prot = 3,
	    .kind = DSM_RANGE_HEAP,
	};
	struct session *s = coord__session_find(k, p->session);
	struct dsm_wbuf ranges = {0}, w = {0};
	struct dsm_msg_run m = {
	    .session = p->session,
	    .run = (s != NULL ? s->last_run : 0) + 1,
	    .mode = 1 + fuzz_below(in, 3),
	    .flags = fuzz_below(in, 16) << 1 | DSM_RUN_RANGES,
	    .end = totals[fuzz_below(in, sizeof(totals) / sizeof(totals[0]))],
	    .chunk = fuzz_below(in, 10),
	    .max_slots = fuzz_below(in, 3),
	    .retries = fuzz_below(in, 3),
	    .wait_ms = WAIT_MS,
	    .ranges = {NULL, 1},
	};

	FUZZ_MUST(dsm__pack_range(&ranges, &range) == DSM_OK);
	m.ranges.ptr = ranges.ptr;
	fuzz_pool_put(&pool, m.run);
	FUZZ_MUST(dsm__encode_run(&w, &m) == DSM_OK);
	say_run(p, &w);
	dsm__wbuf_fini(&ranges);
}

/* Masks of some tasks of [lo, hi): packed records and the bytes they lie in. */
struct masks {
	struct dsm_wbuf sets, raw, packed;
	uint32_t n;
	uint64_t n_bytes;
};

static void
make_masks(struct fuzz_in *in, const struct dsm_msg_exec *x, struct masks *m)
{
	uint32_t n = fuzz_below(in, 4);
	uint64_t task = x->lo;

	*m = (struct masks){.n = n};
	for (uint32_t i = 0; i < n; i++) {
		struct dsm_rec_taskset set = {.task = task,
		                              .mask_off = (uint32_t)m->raw.len};
		uint64_t page = fuzz_below(in, HEAP_PAGES);

		m->n_bytes += fuzz_mask(in, HEAP + page * DSM_PAGE, &m->raw);
		set.mask_len = (uint32_t)m->raw.len - set.mask_off;
		FUZZ_MUST(dsm__pack_taskset(&m->sets, &set) == DSM_OK);
		task += 1 + fuzz_below(in, 2);
	}
	FUZZ_MUST(dsm__squeeze(&m->packed, m->raw.ptr, m->raw.len, 1) ==
	          DSM_OK);
}

static void
masks_fini(struct masks *m)
{
	dsm__wbuf_fini(&m->sets);
	dsm__wbuf_fini(&m->raw);
	dsm__wbuf_fini(&m->packed);
}

/* Of the EXECs it got one, or none that it ever got. */
static struct dsm_msg_exec
pick_exec(struct fuzz_in *in, const struct peer *p)
{
	unsigned have = p->n_execs < N_EXECS ? p->n_execs : N_EXECS;
	unsigned i = fuzz_below(in, N_EXECS);

	if (have == 0)
		return (struct dsm_msg_exec){.session = 1, .run = 1, .hi = 1};
	/* 0: the newest. */
	return p->execs[(p->n_execs - 1 - i % have) % N_EXECS];
}

static void
say_masks(struct fuzz_in *in, struct peer *p)
{
	const struct dsm_msg_exec x = pick_exec(in, p);
	struct dsm_msg_masks m = {
	    .session = x.session, .run = x.run, .attempt = x.attempt};
	struct dsm_wbuf w = {0};
	struct masks masks;

	make_masks(in, &x, &masks);
	m.sets = (struct dsm_array){masks.sets.ptr, masks.n};
	m.masks =
	    (struct dsm_blob){masks.packed.ptr, (uint32_t)masks.packed.len};
	FUZZ_MUST(dsm__encode_masks(&w, &m) == DSM_OK);
	say(p, DSM_MSG_MASKS, &w);
	masks_fini(&masks);
}

static void
say_done(struct fuzz_in *in, struct peer *p, int failed)
{
	const struct dsm_msg_exec x = pick_exec(in, p);
	struct dsm_counters c = {.exec_ns = fuzz_raw(in, 3)};
	struct dsm_msg_done m = {
	    .session = x.session, .run = x.run, .attempt = x.attempt};
	struct dsm_wbuf w = {0}, failures = {0}, counters = {0};
	struct dsm_blob text = {0};
	struct masks masks;

	make_masks(in, &x, &masks);
	m.sets = (struct dsm_array){masks.sets.ptr, masks.n};
	m.masks =
	    (struct dsm_blob){masks.packed.ptr, (uint32_t)masks.packed.len};
	m.n_bytes = fuzz_u8(in) < 240 ? masks.n_bytes : fuzz_value(in, &pool);
	c.tasks = x.hi - x.lo;
	if (failed) {
		struct dsm_rec_failure f = {
		    .task = x.lo + fuzz_below(in, 4),
		    .kind = 1 + fuzz_below(in, 6),
		    .signal = fuzz_u8(in),
		};

		text = fuzz_bytes(in, 60);
		f.text_len = fuzz_below(in, text.len + 1);
		f.context_len = text.len - f.text_len;
		c.tasks = fuzz_u8(in) < 200 ? f.task - x.lo : 0;
		FUZZ_MUST(dsm__pack_failure(&failures, &f) == DSM_OK);
		m.failures = (struct dsm_array){failures.ptr, 1};
		m.texts = text;
	}
	FUZZ_MUST(dsm__counters_pack(&counters, &c) == DSM_OK);
	m.counters = (struct dsm_blob){counters.ptr, (uint32_t)counters.len};
	FUZZ_MUST(dsm__encode_done(&w, &m) == DSM_OK);
	say(p, DSM_MSG_DONE, &w);
	dsm__wbuf_fini(&failures);
	dsm__wbuf_fini(&counters);
	masks_fini(&masks);
}

static void
say_returned(struct fuzz_in *in, struct peer *p)
{
	const struct dsm_msg_exec x = pick_exec(in, p);
	const struct dsm_msg_returned m = {
	    .session = x.session,
	    .run = x.run,
	    .attempt = x.attempt,
	    .task = x.lo + fuzz_below(in, 4),
	    .reason = dsm__str(fuzz_below(in, 2) ? "its slot died" : "")};
	struct dsm_wbuf w = {0};

	FUZZ_MUST(dsm__encode_returned(&w, &m) == DSM_OK);
	say(p, DSM_MSG_RETURNED, &w);
}

/* Of any attempt that some worker has got. */
static void
say_stored(struct fuzz_in *in, struct peer *p)
{
	const struct peer *w = &peers[fuzz_below(in, N_PEERS)];
	const struct dsm_msg_exec x = pick_exec(in, w);
	const struct dsm_msg_stored m = {.run = x.run, .attempt = x.attempt};
	struct dsm_wbuf b = {0};

	FUZZ_MUST(dsm__encode_stored(&b, &m) == DSM_OK);
	say(p, DSM_MSG_STORED, &b);
}

static void
say_anything(struct fuzz_in *in, struct peer *p)
{
	unsigned type = fuzz_type(in);
	struct dsm_wbuf w = {0};

	fuzz_message(in, &pool, type, &w);
	if (type == DSM_MSG_RUN)
		say_run(p, &w);
	else
		say(p, type, &w);
}

static void
tick(struct fuzz_in *in)
{
	static const uint64_t steps[] = {DSM_MS, 300 * DSM_MS, DSM_SEC,
	                                 11 * DSM_SEC};
	char *json;

	now += steps[fuzz_below(in, 4)];
	coord_tick(k, now);
	if (fuzz_below(in, 4) == 1) {
		json = coord_stat_json(k, whose(in), now);
		FUZZ_MUST(json != NULL && strlen(json) < 65536);
		free(json);
	}
}

static void
step(struct fuzz_in *in)
{
	uint8_t what = fuzz_u8(in);
	struct peer *p = &peers[(what >> 4) % N_PEERS];

	switch (what & 15) {
	case 0:
		join(in, p, DSM_ROLE_CLIENT);
		break;
	case 1:
		join(in, p, DSM_ROLE_WORKER);
		break;
	case 2:
		join_oddly(in, p);
		break;
	case 3:
	case 4:
		launch(in, p);
		break;
	case 5:
	case 6:
		say_done(in, p, 0);
		break;
	case 7:
		say_done(in, p, 1);
		break;
	case 8:
		say_masks(in, p);
		break;
	case 9:
		say_returned(in, p);
		break;
	case 10:
	case 11:
		say_stored(in, p);
		break;
	case 12:
		tick(in);
		break;
	case 13:
		leave(p);
		break;
	default:
		say_anything(in, p);
	}
}

/* All workers go, and time passes: nothing is left to wait for. */
static void
end_runs(void)
{
	struct dsm_wbuf w;

	for (unsigned i = 0; i < N_PEERS; i++)
		if (peers[i].peer != NULL && peers[i].session != 0 &&
		    peers[i].role == DSM_ROLE_WORKER)
			leave(&peers[i]);
	for (unsigned n = 0; n < 4; n++) {
		now += UINT64_C(1) << 53; /* 100 days; RUN.wait_ms has 50 */
		for (unsigned i = 0; i < N_PEERS; i++) {
			const struct dsm_msg_ping ping = {n};

			w = (struct dsm_wbuf){0};
			FUZZ_MUST(dsm__encode_ping(&w, &ping) == DSM_OK);
			say(&peers[i], DSM_MSG_PING, &w);
		}
		coord_tick(k, now);
		bury_closed();
		check();
	}
	for (unsigned i = 0; i < N_PEERS; i++)
		FUZZ_MUST(peers[i].n_verdicts == peers[i].n_runs);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = fuzz_in(data, size);
	const struct coord_params params = {
	    .no_worker_ms = WAIT_MS,
	    .heartbeat_ms = fuzz_below(&in, 2) * 1000,
	    .stopped_ms = 60000,
	};

	fuzz_quiet();
	memset(peers, 0, sizeof(peers));
	memset(&pool, 0, sizeof(pool));
	fuzz_pool_put(&pool, 1);
	fuzz_pool_put(&pool, HEAP);
	now = DSM_SEC;
	FUZZ_MUST(coord_create(&params, &k) == DSM_OK);
	for (unsigned n = 0; n < 400 && fuzz_more(&in); n++) {
		step(&in);
		bury_closed();
		check();
	}
	end_runs();
	coord_destroy(k);
	return 0;
}
