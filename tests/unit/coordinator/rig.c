/* See rig.h. */
#include "rig.h"

#include <elf.h>
#include <stdlib.h>

#include "../../../dsm/base/counters.h"
#include "../../../dsm/wire/packdiff.h"

#if defined(__x86_64__)
#define ARCH EM_X86_64
#else
#define ARCH EM_AARCH64
#endif

/* --- fake peers --- */

static size_t
fake_backlog(struct coord_link *l)
{
	return ((const struct fake *)l)->backlog;
}

static int
fake_reachable(struct coord_link *l, uint64_t limit_ms)
{
	const struct fake *f = (const struct fake *)l;

	MUST(limit_ms >= 2000);
	return !f->unreachable;
}

static void
fake_send(struct coord_link *l, unsigned type, const struct iovec *iov,
          int n_iov)
{
	struct fake *f = (struct fake *)l;
	struct sent *s;

	if (f->n == f->cap) {
		f->cap = f->cap * 2 + 16;
		f->v = realloc(f->v, f->cap * sizeof(*f->v));
	}
	s = &f->v[f->n++];
	s->type = type;
	s->len = 0;
	for (int i = 0; i < n_iov; i++)
		s->len += iov[i].iov_len;
	s->body = malloc(s->len + 1);
	for (size_t off = 0, i = 0; i < (size_t)n_iov; i++) {
		memcpy(s->body + off, iov[i].iov_base, iov[i].iov_len);
		off += iov[i].iov_len;
	}
}

static void
fake_close(struct coord_link *l, const char *reason)
{
	struct fake *f = (struct fake *)l;

	snprintf(f->closed, sizeof(f->closed), "%s", reason);
}

void
fake_fini(struct fake *f)
{
	for (size_t i = 0; i < f->n; i++)
		free(f->v[i].body);
	free(f->v);
	dsm__wbuf_fini(&f->buf);
	memset(f, 0, sizeof(*f));
}

struct dsm_msg_hello
hello_of(unsigned role, const char *name, unsigned n_slots)
{
	return (struct dsm_msg_hello){
	    .magic = DSM_MAGIC,
	    .version = DSM_VERSION,
	    .role = (uint16_t)role,
	    .page_size = 4096,
	    .arch = ARCH,
	    .n_slots = n_slots,
	    .name = dsm__str(name),
	    .addr = dsm__str("10.0.0.1:7000"),
	};
}

/* The next frame of that type, skipping others; NULL when there is none. */
struct sent *
next_of(struct fake *f, unsigned type)
{
	while (f->next < f->n)
		if (f->v[f->next++].type == type)
			return &f->v[f->next - 1];
	return NULL;
}

unsigned
count_of(const struct fake *f, unsigned type)
{
	unsigned n = 0;

	for (size_t i = 0; i < f->n; i++)
		n += f->v[i].type == type;
	return n;
}

int
join_hello_as(struct coord *k, struct fake *f, const struct dsm_msg_hello *h,
              const struct dsm_identity *who)
{
	struct dsm_msg_welcome m;
	struct sent *s;
	int err;

	memset(f, 0, sizeof(*f));
	f->link.send = fake_send;
	f->link.close = fake_close;
	f->link.reachable = fake_reachable;
	f->link.backlog = fake_backlog;
	f->k = k;
	f->now = DSM_SEC;
	err = coord_join(k, h, who, "peer:1", &f->link, &f->peer);
	if (err != DSM_OK)
		return err;
	s = next_of(f, DSM_MSG_WELCOME);
	MUST(s != NULL);
	MUST_OK(dsm__decode_welcome(s->body, s->len, &m));
	f->session = m.session;
	if (m.key.len == DSM_KEY_LEN)
		memcpy(f->key, m.key.ptr, DSM_KEY_LEN);
	return DSM_OK;
}

int
join_hello(struct coord *k, struct fake *f, const struct dsm_msg_hello *h)
{
	return join_hello_as(k, f, h, NULL);
}

void
join(struct coord *k, struct fake *f, unsigned role, const char *name,
     unsigned n_slots)
{
	struct dsm_msg_hello h = hello_of(role, name, n_slots);

	MUST_OK(join_hello(k, f, &h));
}

void
leave(struct fake *f)
{
	coord_peer_gone(f->k, f->peer, f->now);
	fake_fini(f);
}

/* Pass in what f->buf holds. */
int
say(struct fake *f, unsigned type, int encoded)
{
	struct dsm_frame frame = {.type = (uint16_t)type};
	int err;

	MUST_OK(encoded);
	frame.body = f->buf.ptr;
	frame.len = (uint32_t)f->buf.len;
	err = coord_frame(f->k, f->peer, &frame, f->now);
	dsm__wbuf_reset(&f->buf);
	return err;
}

/* --- a coordinator with one client and a few workers --- */

void
rig_init(struct rig *g, unsigned n_workers, unsigned n_slots)
{
	const struct coord_params p = {
	    .no_worker_ms = 10000,
	    .heartbeat_ms = 1000,
	    .stopped_ms = 60000,
	    .where = "10.0.0.9:7070",
	};
	char name[16];

	memset(g, 0, sizeof(*g));
	MUST_OK(coord_create(&p, &g->k));
	g->now = DSM_SEC;
	join(g->k, &g->c, DSM_ROLE_CLIENT, "prog", 0);
	for (unsigned i = 0; i < n_workers; i++) {
		snprintf(name, sizeof(name), "node%u", i);
		join(g->k, &g->w[i], DSM_ROLE_WORKER, name, n_slots);
	}
	g->n_workers = n_workers;
}

void
rig_fini(struct rig *g)
{
	coord_destroy(g->k);
	fake_fini(&g->c);
	for (unsigned i = 0; i < MAX_WORKERS; i++)
		fake_fini(&g->w[i]);
}

int
launch_from(struct fake *c, const struct launch *l)
{
	const struct dsm_rec_range range = {
	    .start = HEAP,
	    .end = HEAP + (1 << 20),
	    .prot = 3,
	    .kind = DSM_RANGE_HEAP,
	};
	const struct dsm_rec_advice advice = {HEAP, HEAP + 4096, 2};
	struct dsm_wbuf ranges = {0}, advices = {0};
	struct dsm_msg_run m = {
	    .session = c->session,
	    .run = l->run != 0 ? l->run : 1,
	    .mode = l->mode != 0 ? l->mode : DSM_MODE_TASKS,
	    .flags = l->flags | (l->no_table ? 0 : DSM_RUN_RANGES),
	    .begin = l->begin,
	    .end = l->end,
	    .chunk = l->chunk,
	    .max_slots = l->max_slots,
	    .retries = l->retries,
	    .name = dsm__str("the run"),
	};
	int err;

	MUST_OK(dsm__pack_range(&ranges, &range));
	if (!l->no_table)
		m.ranges = (struct dsm_array){ranges.ptr, 1};
	MUST_OK(dsm__pack_advice(&advices, &advice));
	if (l->advised)
		m.advice = (struct dsm_array){advices.ptr, 1};
	err = say(c, DSM_MSG_RUN, dsm__encode_run(&c->buf, &m));
	dsm__wbuf_fini(&ranges);
	dsm__wbuf_fini(&advices);
	return err;
}

/* The next EXEC to that worker: 1, 0 when there is none. */
int
next_exec(struct fake *w, struct dsm_msg_exec *x)
{
	struct sent *s = next_of(w, DSM_MSG_EXEC);

	if (s == NULL)
		return 0;
	MUST_OK(dsm__decode_exec(s->body, s->len, x));
	return 1;
}

int
answer_done(struct fake *w, const struct dsm_msg_exec *x,
            const struct answer *a)
{
	struct dsm_counters c = {.tasks = a->failed ? a->task - x->lo
	                                            : x->hi - x->lo,
	                         .exec_ns = (x->hi - x->lo) * DSM_MS};
	struct dsm_wbuf mask = {0}, masks = {0}, sets = {0}, fails = {0},
	                counters = {0};
	struct dsm_msg_done m = {x->session, x->run, x->attempt, 0,  {0},
	                         {0},        {0},    {0},        {0}};
	int err;

	if (a->addr != 0) {
		uint64_t head = (a->addr >> 12) << 4 | 2;
		uint16_t run[3] = {1, a->addr & 4095, 8};
		struct dsm_rec_taskset set = {x->lo, 0, 14};

		MUST_OK(dsm__wbuf_put(&mask, &head, sizeof(head)));
		MUST_OK(dsm__wbuf_put(&mask, run, sizeof(run)));
		MUST_OK(dsm__pack_taskset(&sets, &set));
		m.n_bytes = 8;
		m.sets = (struct dsm_array){sets.ptr, 1};
	}
	MUST_OK(dsm__squeeze(&masks, mask.ptr, mask.len, 1));
	m.masks = (struct dsm_blob){masks.ptr, (uint32_t)masks.len};
	if (a->failed) {
		const struct dsm_rec_failure f = {.task = a->task,
		                                  .kind = DSM_FAIL_CRASH,
		                                  .signal = 11,
		                                  .text_len = 4};

		MUST_OK(dsm__pack_failure(&fails, &f));
		m.failures = (struct dsm_array){fails.ptr, 1};
		m.texts = (struct dsm_blob){(const uint8_t *)"boom", 4};
	}
	MUST_OK(dsm__counters_pack(&counters, &c));
	if (!a->no_counters)
		m.counters =
		    (struct dsm_blob){counters.ptr, (uint32_t)counters.len};
	err = say(w, DSM_MSG_DONE, dsm__encode_done(&w->buf, &m));
	dsm__wbuf_fini(&mask);
	dsm__wbuf_fini(&masks);
	dsm__wbuf_fini(&sets);
	dsm__wbuf_fini(&fails);
	dsm__wbuf_fini(&counters);
	return err;
}

/* MASKS ahead of DONE: `task` wrote 8 bytes at addr. */
int
masks_ahead(struct fake *w, const struct dsm_msg_exec *x, uint64_t task,
            uint64_t addr)
{
	uint64_t head = (addr >> 12) << 4 | 2;
	uint16_t run[3] = {1, addr & 4095, 8};
	const struct dsm_rec_taskset set = {task, 0, 14};
	struct dsm_msg_masks m = {
	    .session = x->session, .run = x->run, .attempt = x->attempt};
	struct dsm_wbuf mask = {0}, masks = {0}, sets = {0};
	int err;

	MUST_OK(dsm__wbuf_put(&mask, &head, sizeof(head)));
	MUST_OK(dsm__wbuf_put(&mask, run, sizeof(run)));
	MUST_OK(dsm__squeeze(&masks, mask.ptr, mask.len, 1));
	MUST_OK(dsm__pack_taskset(&sets, &set));
	m.sets = (struct dsm_array){sets.ptr, 1};
	m.masks = (struct dsm_blob){masks.ptr, (uint32_t)masks.len};
	err = say(w, DSM_MSG_MASKS, dsm__encode_masks(&w->buf, &m));
	dsm__wbuf_fini(&mask);
	dsm__wbuf_fini(&masks);
	dsm__wbuf_fini(&sets);
	return err;
}

int
stored(struct fake *c, const struct dsm_msg_exec *x)
{
	const struct dsm_msg_stored m = {x->run, x->attempt};

	return say(c, DSM_MSG_STORED, dsm__encode_stored(&c->buf, &m));
}

int
returned_at(struct fake *w, const struct dsm_msg_exec *x, uint64_t task,
            const char *reason)
{
	const struct dsm_msg_returned m = {x->session, x->run, x->attempt, task,
	                                   dsm__str(reason)};

	return say(w, DSM_MSG_RETURNED, dsm__encode_returned(&w->buf, &m));
}

int
returned(struct fake *w, const struct dsm_msg_exec *x, const char *reason)
{
	return returned_at(w, x, UINT64_MAX, reason);
}

/* The client's next VERDICT: 1, 0 when there is none. */
int
next_verdict(struct fake *c, struct dsm_msg_verdict *v)
{
	struct sent *s = next_of(c, DSM_MSG_VERDICT);

	if (s == NULL)
		return 0;
	MUST_OK(dsm__decode_verdict(s->body, s->len, v));
	return 1;
}

void
expect_verdict(struct fake *c, int code, struct dsm_msg_verdict *v)
{
	MUST(next_verdict(c, v));
	MUST_BE(-(int)v->code, code);
}

int
str_has(struct dsm_str s, const char *part)
{
	return memmem(s.ptr, s.len, part, strlen(part)) != NULL;
}

/* Answer everything until nothing is out. Returns how many EXECs. */
unsigned
work_off(struct rig *g)
{
	struct dsm_msg_exec x;
	unsigned n = 0, again = 1;

	while (again) {
		again = 0;
		for (unsigned i = 0; i < g->n_workers; i++)
			while (next_exec(&g->w[i], &x)) {
				MUST_OK(answer(&g->w[i], &x, 0));
				n++;
				again = 1;
			}
	}
	return n;
}
