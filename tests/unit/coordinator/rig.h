/*
 * The coordinator with fake links: peers are queues of frames that the core sent,
 * tests answer for them. Time is a number.
 */
#ifndef TESTS_COORDINATOR_RIG_H
#define TESTS_COORDINATOR_RIG_H

#include "../../../coordinator/core/coord.h"
#include "../../test.h"

#define HEAP UINT64_C(0x100000000000)

struct sent {
	unsigned type;
	uint8_t *body;
	size_t len;
};

struct fake {
	struct coord_link link; /* first: the core's handle */
	struct coord *k;
	struct coord_peer *peer;
	struct sent *v;
	size_t n, cap, next; /* next: not looked at by the test */
	char closed[200];    /* reason, "" while open */
	uint64_t session;    /* from WELCOME */
	uint8_t key[DSM_KEY_LEN];
	uint64_t now;
	int unreachable; /* its machine is gone */
	size_t backlog;  /* that it has not read */
	struct dsm_wbuf buf;
};

enum { MAX_WORKERS = 4 };

struct rig {
	struct coord *k;
	struct fake c;
	struct fake w[MAX_WORKERS];
	unsigned n_workers;
	uint64_t now;
};

/* Options of the runs that tests launch. */
struct launch {
	uint64_t run;
	uint32_t mode, flags, max_slots, retries;
	uint64_t begin, end, chunk;
	int no_table, advised;
};

/* Options of a RUN as fields of struct launch. */
#define launch(g, ...) launch_from(&(g)->c, &(const struct launch){__VA_ARGS__})

/* What a slot reports of an EXEC. */
struct answer {
	int failed;
	uint64_t task;   /* that failed */
	uint64_t addr;   /* not 0: task lo wrote 8 bytes there */
	int no_counters; /* the worker speaks for a dead slot */
};

#define answer(w, x, ...) answer_done(w, x, &(const struct answer){__VA_ARGS__})

void fake_fini(struct fake *f);
struct dsm_msg_hello hello_of(unsigned role, const char *name,
                              unsigned n_slots);
/* The next frame of that type, skipping others; NULL when there is none. */
struct sent *next_of(struct fake *f, unsigned type);
unsigned count_of(const struct fake *f, unsigned type);
int join_hello_as(struct coord *k, struct fake *f,
                  const struct dsm_msg_hello *h,
                  const struct dsm_identity *who);
int join_hello(struct coord *k, struct fake *f, const struct dsm_msg_hello *h);
void join(struct coord *k, struct fake *f, unsigned role, const char *name,
          unsigned n_slots);
void leave(struct fake *f);
/* Pass in what f->buf holds. */
int say(struct fake *f, unsigned type, int encoded);
void rig_init(struct rig *g, unsigned n_workers, unsigned n_slots);
void rig_fini(struct rig *g);
int launch_from(struct fake *c, const struct launch *l);
/* The next EXEC to that worker: 1, 0 when there is none. */
int next_exec(struct fake *w, struct dsm_msg_exec *x);
int answer_done(struct fake *w, const struct dsm_msg_exec *x,
                const struct answer *a);
/* MASKS ahead of DONE: `task` wrote 8 bytes at addr. */
int masks_ahead(struct fake *w, const struct dsm_msg_exec *x, uint64_t task,
                uint64_t addr);
int stored(struct fake *c, const struct dsm_msg_exec *x);
/* RETURNED; its slot was lost at that task. */
int returned_at(struct fake *w, const struct dsm_msg_exec *x, uint64_t task,
                const char *reason);
int returned(struct fake *w, const struct dsm_msg_exec *x, const char *reason);
/* The client's next VERDICT: 1, 0 when there is none. */
int next_verdict(struct fake *c, struct dsm_msg_verdict *v);
void expect_verdict(struct fake *c, int code, struct dsm_msg_verdict *v);
int str_has(struct dsm_str s, const char *part);
/* Answer everything until nothing is out. Returns how many EXECs. */
unsigned work_off(struct rig *g);

#endif
