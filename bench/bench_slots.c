/*
 * slots_1000: what a task costs the coordinator with 1000 slots, against 10: the
 * whole way of a task that is a chunk of its own and writes a few bytes. Slots are
 * simulated: workers of 10 slots are queues of frames, and answers are made
 * before the clock starts. The floor is the same run with one worker.
 */
#include "bench.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "../coordinator/core/coord.h"
#include "../dsm/base/clock.h"
#include "../dsm/base/counters.h"
#include "../dsm/base/page.h"
#include "../dsm/wire/packdiff.h"

#define SLOTS_A_WORKER 10
#define MANY_WORKERS 100
#define N_TASKS UINT64_C(40000)
#define ROUNDS 5
#define HEAP_START UINT64_C(0x100000000000)

#if defined(__x86_64__)
#define ARCH EM_X86_64
#else
#define ARCH EM_AARCH64
#endif

struct cluster;

/* A worker, or the client. */
struct end {
	struct coord_link link; /* first: the core's handle */
	struct coord_peer *peer;
	struct cluster *cluster;
};

/* What the core has sent: its EXEC's body, and who got it. */
struct order {
	struct end *worker;
	uint8_t body[64];
	size_t len;
};

/* A frame to come: the body is in cluster.bytes. */
struct answer {
	struct end *from;
	unsigned type;
	size_t off, len;
};

struct cluster {
	struct coord *k;
	struct end client, workers[MANY_WORKERS];
	uint64_t session, now;
	int over; /* the client has its verdict */

	struct order *orders;
	size_t n_orders, cap_orders; /* 2 a slot */
	struct answer *answers;      /* 2 an order */
	size_t n_answers;
	struct dsm_wbuf bytes, mask, counters;
};

static void
take_frame(struct coord_link *l, unsigned type, const struct iovec *iov,
           int n_iov)
{
	struct end *end = (struct end *)l;
	struct cluster *c = end->cluster;
	struct dsm_msg_welcome w;
	struct dsm_msg_verdict v;

	if (type == DSM_MSG_EXEC) {
		if (c->n_orders == c->cap_orders)
			bench_die("a slot has more than two chunks");
		struct order *o = &c->orders[c->n_orders++];
		o->worker = end;
		o->len = 0;
		for (int i = 0; i < n_iov; i++) {
			memcpy(o->body + o->len, iov[i].iov_base,
			       iov[i].iov_len);
			o->len += iov[i].iov_len;
		}
	} else if (type == DSM_MSG_WELCOME && end == &c->client) {
		if (dsm__decode_welcome(iov[0].iov_base, iov[0].iov_len, &w) !=
		    DSM_OK)
			bench_die("a malformed WELCOME");
		c->session = w.session;
	} else if (type == DSM_MSG_VERDICT) {
		if (dsm__decode_verdict(iov[0].iov_base, iov[0].iov_len, &v) !=
		        DSM_OK ||
		    v.code != 0)
			bench_die("the run of %s has failed",
			          "simulated slots");
		c->over = 1;
	}
}

static void
closed(struct coord_link *l, const char *reason)
{
	(void)l;
	bench_die("the coordinator closes a link: %s", reason);
}

static void
join(struct cluster *c, struct end *end, unsigned role, unsigned n_slots)
{
	const struct dsm_msg_hello h = {
	    .magic = DSM_MAGIC,
	    .version = DSM_VERSION,
	    .role = (uint16_t)role,
	    .page_size = DSM_PAGE,
	    .arch = ARCH,
	    .n_slots = n_slots,
	    .name = dsm__str("simulated"),
	    .addr = dsm__str("10.0.0.1:7000"),
	};

	end->link.send = take_frame;
	end->link.close = closed;
	end->cluster = c;
	if (coord_join(c->k, &h, NULL, "peer", &end->link, &end->peer) !=
	    DSM_OK)
		bench_die("a peer cannot join");
}

static void
give(struct cluster *c, const struct answer *a)
{
	const struct dsm_frame f = {.type = (uint16_t)a->type,
	                            .body = c->bytes.ptr + a->off,
	                            .len = (uint32_t)a->len};

	if (coord_frame(c->k, a->from->peer, &f, c->now) != DSM_OK)
		bench_die("the coordinator refuses a frame");
}

static void
note_answer(struct cluster *c, struct end *from, unsigned type, size_t off)
{
	c->answers[c->n_answers++] = (struct answer){
	    .from = from, .type = type, .off = off, .len = c->bytes.len - off};
}

static void
launch(struct cluster *c)
{
	const struct dsm_rec_range range = {.start = HEAP_START,
	                                    .end =
	                                        HEAP_START + N_TASKS * DSM_PAGE,
	                                    .prot = 3,
	                                    .kind = DSM_RANGE_HEAP};
	struct dsm_wbuf ranges = {0};
	struct answer a = {.from = &c->client, .type = DSM_MSG_RUN};

	if (dsm__pack_range(&ranges, &range) != DSM_OK)
		bench_die("out of memory");
	const struct dsm_msg_run m = {.session = c->session,
	                              .run = 1,
	                              .mode = DSM_MODE_FOR,
	                              .flags = DSM_RUN_RANGES,
	                              .end = N_TASKS,
	                              .chunk = 1,
	                              .name = dsm__str("simulated"),
	                              .ranges = {ranges.ptr, 1}};

	dsm__wbuf_reset(&c->bytes);
	if (dsm__encode_run(&c->bytes, &m) != DSM_OK)
		bench_die("out of memory");
	a.len = c->bytes.len;
	give(c, &a);
	dsm__wbuf_fini(&ranges);
}

/* The task wrote 8 bytes; every page is written by two tasks. */
static void
answer_order(struct cluster *c, const struct order *o)
{
	const struct dsm_counters counters = {.tasks = 1, .exec_ns = DSM_MS};
	struct dsm_wbuf sets = {0}, squeezed = {0};
	struct dsm_msg_exec x;
	size_t off = c->bytes.len;

	if (dsm__decode_exec(o->body, o->len, &x) != DSM_OK)
		bench_die("a malformed EXEC");
	uint64_t addr = HEAP_START + x.lo / 2 * DSM_PAGE + x.lo % 2 * 64;
	uint64_t head = addr >> DSM_PAGE_SHIFT << 4 | 2;
	const uint16_t changed[3] = {1, addr & DSM_PAGE_MASK, 8};

	dsm__wbuf_reset(&c->mask);
	dsm__wbuf_reset(&c->counters);
	if (dsm__wbuf_put(&c->mask, &head, sizeof(head)) != DSM_OK ||
	    dsm__wbuf_put(&c->mask, changed, sizeof(changed)) != DSM_OK ||
	    dsm__squeeze(&squeezed, c->mask.ptr, c->mask.len, 1) != DSM_OK ||
	    dsm__counters_pack(&c->counters, &counters) != DSM_OK)
		bench_die("out of memory");
	const struct dsm_rec_taskset set = {x.lo, 0, (uint32_t)c->mask.len};
	if (dsm__pack_taskset(&sets, &set) != DSM_OK)
		bench_die("out of memory");
	const struct dsm_msg_done done = {
	    .session = x.session,
	    .run = x.run,
	    .attempt = x.attempt,
	    .n_bytes = 8,
	    .sets = {sets.ptr, 1},
	    .masks = {squeezed.ptr, (uint32_t)squeezed.len},
	    .counters = {c->counters.ptr, (uint32_t)c->counters.len}};
	const struct dsm_msg_stored stored = {x.run, x.attempt};

	int err = dsm__encode_done(&c->bytes, &done);
	note_answer(c, o->worker, DSM_MSG_DONE, off);
	off = c->bytes.len;
	if (err != DSM_OK || dsm__encode_stored(&c->bytes, &stored) != DSM_OK)
		bench_die("out of memory");
	note_answer(c, &c->client, DSM_MSG_STORED, off);
	dsm__wbuf_fini(&sets);
	dsm__wbuf_fini(&squeezed);
}

/* Every slot ends what it has been given: a millisecond goes by. Returns the
 * nanoseconds that the coordinator took. */
static double
step(struct cluster *c)
{
	size_t n = c->n_orders;

	dsm__wbuf_reset(&c->bytes);
	c->n_answers = 0;
	for (size_t i = 0; i < n; i++)
		answer_order(c, &c->orders[i]);
	c->n_orders = 0;
	c->now += DSM_MS;
	uint64_t start = dsm__now();
	for (size_t i = 0; i < c->n_answers; i++)
		give(c, &c->answers[i]);
	coord_tick(c->k, c->now);
	return (double)(dsm__now() - start);
}

static double
ns_per_task(unsigned n_workers)
{
	const struct coord_params params = {.no_worker_ms = 1000};
	static struct cluster c;
	double ns = 0;

	memset(&c, 0, sizeof(c));
	c.now = DSM_SEC;
	c.cap_orders = 2u * SLOTS_A_WORKER * n_workers;
	c.orders = calloc(c.cap_orders, sizeof(*c.orders));
	c.answers = calloc(2 * c.cap_orders, sizeof(*c.answers));
	if (c.orders == NULL || c.answers == NULL ||
	    coord_create(&params, &c.k) != DSM_OK)
		bench_die("out of memory");
	join(&c, &c.client, DSM_ROLE_CLIENT, 0);
	for (unsigned i = 0; i < n_workers; i++)
		join(&c, &c.workers[i], DSM_ROLE_WORKER, SLOTS_A_WORKER);
	launch(&c);
	while (!c.over) {
		if (c.n_orders == 0)
			bench_die("no work and no verdict");
		ns += step(&c);
	}
	for (unsigned i = 0; i < n_workers; i++)
		coord_peer_gone(c.k, c.workers[i].peer, c.now);
	coord_peer_gone(c.k, c.client.peer, c.now);
	coord_destroy(c.k);
	dsm__wbuf_fini(&c.bytes);
	dsm__wbuf_fini(&c.mask);
	dsm__wbuf_fini(&c.counters);
	free(c.orders);
	free(c.answers);
	return ns / (double)N_TASKS;
}

void
bench_slots_1000(struct bench_result *r)
{
	double value[ROUNDS], floor_ns[ROUNDS];

	ns_per_task(MANY_WORKERS); /* memory that is there from then on */
	for (int i = 0; i < ROUNDS; i++) {
		floor_ns[i] = ns_per_task(1);
		value[i] = ns_per_task(MANY_WORKERS);
		bench_note("%.0f ns a task with 1000 slots, %.0f with 10",
		           value[i], floor_ns[i]);
	}
	r->value = bench_median(value, ROUNDS);
	r->floor = bench_median(floor_ns, ROUNDS);
	r->unit = "ns";
}
