/*
 * Text of tasks is shown once, however often a task is run: one whose slot was lost
 * runs again, one that is late may run twice at a time. A task says the same each
 * time, so of each task and stream it is enough to know how many bytes have been
 * shown; of an attempt, how many it has said.
 *
 * Kept from launch to launch: what is said by an attempt that lost may come after
 * its run's verdict.
 */
#ifndef TASKRT_CLIENT_SAID_H
#define TASKRT_CLIENT_SAID_H

#include "../../dsm/heap/idtab.h"
#include "../../dsm/wire/wire.h"

/* Of a session. {0} is a valid one. Drive lock. */
struct taskrt__said {
	uint64_t run;
	struct dsm_idtab shown; /* by task and stream: bytes */
};

/* Of a data link: a slot is at one task at a time. {0} is a valid one. */
struct taskrt__speaker {
	uint64_t run, attempt, task;
	uint64_t said[2]; /* bytes, to stdout and stderr */
};

/*
 * How many bytes at the front of m's text have been shown before; the rest counts as
 * shown now. m->fd is 1 or 2. Without memory it is 0: better twice than never.
 */
size_t taskrt__said_before(struct taskrt__said *s, struct taskrt__speaker *p,
                           const struct dsm_msg_output *m);
void taskrt__said_fini(struct taskrt__said *s);

#endif
