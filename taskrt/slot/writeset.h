/*
 * The write set of an attempt: private pages compared with their twins, packed,
 * sent to the client in parts; the masks are kept for DONE, or sent ahead of it
 * when they are many.
 *
 *   writeset_begin                 a new attempt
 *   writeset_collect(task)         after each isolated task; also drops the
 *                                  private pages
 *   writeset_finish                sends what is left, last part flagged
 * writeset_discard instead of collect drops the private pages unseen (the task
 * failed).
 */
#ifndef TASKRT_SLOT_WRITESET_H
#define TASKRT_SLOT_WRITESET_H

#include "../../dsm/base/counters.h"
#include "../../dsm/transport/conn.h"
#include "../../dsm/wire/wire.h"

struct writeset_params {
	struct dsm_conn *data;
	struct dsm_conn *control; /* to the worker: masks that are many */
	uint64_t session;
	int stage_fd;  /* embedded: staging memfd, else -1 */
	int allow_lz4; /* the link is slower than the codec */
	struct dsm_counters *counters;
};

int writeset_init(const struct writeset_params *p);
#define WRITESET_ARENAS 8u
/* Bytes that are never committed, whatever range they lie in. */
enum writeset_private {
	PRIVATE_TLS,    /* thread-local storage of the launching thread */
	PRIVATE_STDOUT, /* the buffer of the program's stdout */
	PRIVATE_PAGE,   /* the task page and its state */
	PRIVATE_ARENA,  /* what the task has borrowed, when nothing is alive */
	N_PRIVATE = PRIVATE_ARENA + WRITESET_ARENAS,
};
void writeset_private(unsigned which, uint64_t start, uint64_t end);
/* A new run: the staging file can be used from its start again. */
void writeset_new_run(uint64_t run);

void writeset_begin(uint64_t attempt);
int writeset_collect(uint64_t task);
int writeset_discard(void);
/*
 * What DONE needs: squeezed masks, packed tasksets. Valid until the next begin.
 */
int writeset_finish(uint64_t *n_bytes_p, struct dsm_array *sets_p,
                    struct dsm_blob *masks_p);

#endif
