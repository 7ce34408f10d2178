/* Why a slot has ended, and what that means for the task that it had. */
#ifndef COORDINATOR_WORKER_FATE_H
#define COORDINATOR_WORKER_FATE_H

#include "worker_priv.h"

/* What becomes of an EXEC that the slot had begun. */
struct fate {
	int fails; /* enum dsm_failure_kind of its current task; 0: returned */
	int signal;
	int runs;       /* client code was running */
	int begun;      /* 0: it had not, another slot may have it */
	int bad_start;  /* counts as one */
	int fabric;     /* RDMA's doing, not the client's */
	char text[400]; /* reason */
};

/* status: as of waitpid, with the slot's control stream read to its end. */
void slot_judge(const struct wslot *s, int status, struct fate *f);
/* Index of the task the slot was at; of its first EXEC, which it must have. */
uint64_t slot_task_at(const struct wslot *s);

#endif
