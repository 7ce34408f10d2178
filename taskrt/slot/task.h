/*
 * Running client code: the jump onto the task's stack with the client's thread
 * pointer and floating-point modes, one task or one chunk of a loop.
 */
#ifndef TASKRT_SLOT_TASK_H
#define TASKRT_SLOT_TASK_H

#include "../../dsm/wire/wire.h"
#include "fault.h"
#include "slotctl.h"

struct task_run {
	uint32_t mode; /* enum dsm_run_mode */
	uint64_t fn, ctx;
	void (*at_end)(void); /* of the client, NULL: none */
	uint64_t tp;
	uint32_t mxcsr, fpucw;
};

struct task_params {
	struct slot_ctl *ctl;
	struct dsm_counters *counters;
	uint64_t slot_tp;
};

/* Makes the task's stack (stack_size bytes) and the signal handlers. */
int task_init(const struct task_params *p, uint64_t stack_size);
void task_set_run(const struct task_run *run);
/* Tasks or iterations [lo, hi) one after another. */
enum fault_end task_call(uint64_t lo, uint64_t hi);

#endif
