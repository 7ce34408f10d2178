/*
 * What a slot and its worker share: the start message on the command line's
 * descriptors, and a page of shared memory that the worker samples.
 *
 * A slot is spawned with these descriptors (and no others but stderr):
 *   3  control: unix stream to the worker (RUN, EXEC in; DONE out)
 *   4  data: stream to the client, HELLO and WELCOME already exchanged
 *   5  image pages   6 image states   7 control page (this struct)
 *   8  client heap memfd, embedded only   9 staging memfd, embedded only
 * argv: taskrt-slot SLOT-NUMBER SESSION TRANSPORT [DEVICE]
 *   tcp         shm         as it is
 *   verbs       TCP whose client accepts a queue pair: go over when that works
 *   verbs-only  the same; end when it does not
 * DEVICE: what the user chose (dsm__verbs_choice_text).
 */
#ifndef TASKRT_SLOT_SLOTCTL_H
#define TASKRT_SLOT_SLOTCTL_H

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

#include "../../dsm/transport/tls.h"

/* The worker asks a slot to fail its task: slot_ctl.late_… say which and why. */
#define SLOT_SIGNAL_LATE SIGALRM

enum {
	SLOT_FD_CONTROL = 3,
	SLOT_FD_DATA,
	SLOT_FD_PAGES,
	SLOT_FD_STATES,
	SLOT_FD_CTL,
	SLOT_FD_HEAP,
	SLOT_FD_STAGE,
	SLOT_FD_END,
};

/* Exit statuses of a slot that did not start or had to stop. */
enum {
	SLOT_EXIT_OK = 0,        /* control stream closed */
	SLOT_EXIT_COLLIDES = 80, /* client ranges overlap the slot's zone */
	SLOT_EXIT_SETUP = 81,    /* see ctl->message */
	SLOT_EXIT_DATA = 82,     /* connection to the client lost: message */
	SLOT_EXIT_CRASHED = 83,  /* a task crashed; it was reported in DONE */
	SLOT_EXIT_PROTO = 84,    /* worker or client sent nonsense */
	SLOT_EXIT_MEMORY = 85, /* the machine's memory is short; see message */
};

enum slot_state {
	SLOT_IDLE = 0,
	SLOT_RUNNING, /* client code runs: `current` says which task */
	SLOT_PACKING, /* diff, send */
};

/* Pages of the heap, by address. */
struct slot_extent {
	_Atomic uint64_t start, n_pages;
};
#define SLOT_STALE 64u

struct slot_ctl {
	_Atomic uint32_t state;    /* enum slot_state */
	_Atomic uint32_t fetching; /* 1 while claim_off/claim_n are claimed */
	_Atomic uint64_t attempt;  /* being run */
	_Atomic uint64_t current;  /* task or iteration running now */
	_Atomic uint64_t
	    claim_off[2]; /* image claims in flight: demand, ahead */
	_Atomic uint64_t claim_n[2];
	/* The task that SLOT_SIGNAL_LATE is about, and how long it may run. */
	_Atomic uint64_t late_attempt, late_current;
	_Atomic uint32_t late_ms;
	/* The slot's answer to the signal: the task is not at code of its own, but
	 * waits in ours for a page, say. It can only be killed. */
	_Atomic uint32_t late_waits;
	/* worker, before the start: use the segv fault back-end though the
	 * kernel has userfaultfd */
	uint32_t force_segv;
	/* worker, before the start: the user wants no sandbox (sandbox.h) */
	uint32_t no_sandbox;
	/* SLOT_EXIT_DATA: what failed is the queue pair, perhaps not the client */
	uint32_t fabric_failed;
	/*
	 * Kept pages (image.h). Slot, at its start: it can tell them. Worker, before
	 * the start: there may be some, so the slot must be able to.
	 */
	_Atomic uint32_t can_keep;
	uint32_t must_keep;
	/*
	 * What the slot is to let go of at its next RUN: a ring, filled by the worker
	 * while no slot of the session has an EXEC. No room: all of the heap.
	 */
	_Atomic uint32_t all_stale;
	_Atomic uint64_t n_stale, n_let_go; /* ever put in, ever let go of */
	struct slot_extent stale[SLOT_STALE];
	/* Memory (hold.h). Slot: it looks at the image by itself; absent pages of its
	 * mappings raise SIGBUS. Worker: it takes pages from the image; it has
	 * more memory in use than it may have. */
	_Atomic uint32_t holds, can_evict;
	_Atomic uint32_t evicting, full;
	/* worker, before the start: the data link goes on with these; the slot
	 * wipes them */
	struct dsm_tls_state tls;
	char message[256]; /* why it ended */
};

#endif
