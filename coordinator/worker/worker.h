/*
 * The worker without its connection to the coordinator: sessions, images, slots.
 * The daemon connects it by TCP, embedded mode by a queue.
 *
 * Owner: one loop, under its drive lock. Uses the loop for slot streams, process
 * descriptors and timers.
 *
 * States of a session: OPEN (SESSION came; image made; slots are started at
 * once, so that the first task does not wait for them) -> CLOSING (slots
 * killed) -> gone.
 * States of a slot: STARTING (dialling the client) -> SPAWNED -> IDLE <-> BUSY
 * (up to two EXECs outstanding) -> DEAD (reaped: outstanding EXECs are returned or
 * reported as failures of the task that was running).
 *
 * A slot that died: with exit status SLOT_EXIT_CRASHED its DONE has said
 * everything. By a signal, or another status, in state SLOT_RUNNING: the task
 * `current` of its control page failed (SIGKILL from us at a time-out:
 * DSM_FAIL_TIMEOUT; SIGKILL from elsewhere, or because it was stopped: returned, the task is not to
 * blame; exit status: DSM_FAIL_FORBIDDEN, the task ended its process); the rest of
 * the attempt is returned. SLOT_EXIT_COLLIDES: start again with the other build;
 * when none fits: UNFIT with the ranges named. Claims it left in the image are
 * taken back.
 *
 * RUN for a session is applied to its image (drops, updates) when no slot of the
 * session is busy; slots busy with an older run are killed first.
 *
 * CPU features: a client built for (or whose libc chose code for) features that
 * this CPU lacks makes the worker UNFIT for the session.
 */
#ifndef COORDINATOR_WORKER_WORKER_H
#define COORDINATOR_WORKER_WORKER_H

#include "../../dsm/transport/loop.h"
#include "../core/coord.h"

struct worker;

/* RDMA for the slots. All zero: TCP only. */
struct worker_verbs {
	int usable; /* clients are offered it */
	int only;   /* over verbs or not at all, never through the relay */
	char choice[160];  /* which device: dsm__verbs_choice_text */
	char why_not[400]; /* unless usable; "": nobody asked for it */
};

/* How slots are kept from what is not theirs (taskrt/slot/sandbox.h). All zero: the
 * sandbox, as our own user. */
struct worker_sandbox {
	int off;
	uint32_t uid, gid; /* 0: our own */
};

struct worker_params {
	unsigned n_slots;
	/* Frames to the coordinator go here. */
	struct coord_link *up;
	/* Embedded: data links are made with this instead of TCP: returns the
	 * slot's end of a connection whose other end the client serves. The
	 * slot puts write sets into stage_fd (borrowed: the client maps or dups
	 * it). NULL: dial the client's address over TCP. */
	int (*local_data)(void *ctx, unsigned slot, int stage_fd, int *fd_p);
	void *local_ctx;
	int heap_fd; /* embedded: client heap memfd, else -1 */
	uint64_t heap_base, heap_size; /* embedded */
	const char *relay; /* HOST:PORT of the coordinator, NULL: none */
	struct worker_verbs verbs;
	/* Bytes, 0: no limit. All sessions' images and slots; the private memory of
	 * each slot. memory_from: for messages, NULL: the option. */
	uint64_t memory, task_memory;
	const char *memory_from;
	int tls;      /* data links: with the key of their session */
	int insecure; /* without: plain TCP beyond loopback is wanted */
	struct worker_sandbox sandbox;
	int force_segv;      /* fault back-end segv though uffd works */
	uint64_t connect_ms; /* for dialling a client, then the relay; 0: 3 s */
	uint64_t
	    stopped_ms; /* a slot that is stopped for longer ends; 0: 5 s */
	/* The coordinator has all that it is to have: leave. NULL: never asked for. */
	void (*drained)(void *ctx);
	void *drained_ctx;
	/* Program of slots, linked at address `variant` (0, 1); NULL: those
	 * that are built in. */
	int (*slot_elf)(unsigned variant, const void **p, size_t *len);
};

int worker_create(struct dsm_loop *loop, const struct worker_params *p,
                  struct worker **w_p, struct dsm_error *e);
/* Kills and reaps all slots (bounded), frees everything. */
void worker_destroy(struct worker *w);
/* A frame from the coordinator. DSM_EPROTO as coord_frame. */
int worker_frame(struct worker *w, const struct dsm_frame *f);
/* The coordinator is gone: all sessions end. */
void worker_up_lost(struct worker *w);
/*
 * Take no more EXECs, finish those that slots have: what is only queued goes back to
 * the coordinator, as does what still comes. The coordinator answers DRAIN when it
 * has all results: worker_frame then calls p.drained.
 */
void worker_drain(struct worker *w);
/* HELLO fields of this machine: features, slots, cpu words, host name. The blob
 * points at static memory. */
void worker_hello(const struct worker *w, struct dsm_msg_hello *h);
unsigned worker_busy(const struct worker *w);

#endif
