/*
 * Signals of client code: faults that bring pages, crashes that end the task,
 * system calls that a task may or may not make.
 *
 * The handler is a system call in all but name. A signal is raised by client
 * code only (state SLOT_RUNNING), never by the slot's own, so the handler may use
 * the slot's libc and the links. It first puts the slot's thread pointer back:
 * nothing before that may use thread-local storage. Compiled without stack
 * protector for the same reason.
 */
#ifndef TASKRT_SLOT_FAULT_H
#define TASKRT_SLOT_FAULT_H

#include <stdint.h>

#include "../../dsm/base/counters.h"
#include "../../dsm/wire/wire.h"
#include "arch.h"
#include "slotctl.h"

struct fault_params {
	struct slot_ctl *ctl;
	struct dsm_counters *counters;
	uint64_t slot_tp;                      /* the slot's thread pointer */
	uint64_t stack_lo, stack_hi, guard_lo; /* the task's stack */
};

int fault_init(const struct fault_params *p);

/* How the task on the other stack ended: arch_call's value. */
enum fault_end {
	FAULT_NONE = 0, /* it returned */
	FAULT_FAILED,   /* fault_failure says how */
	FAULT_LOST,     /* no pages any more: the slot must end */
};
struct fault_failure {
	uint32_t kind, signal;
	uint64_t addr;
	uint64_t regs[ARCH_REGS];
	uint64_t stack, stack_len; /* what lies above the stack pointer */
	char text[512];
};
/* The stack's bytes are there until the next task. */
const struct fault_failure *fault_last(void);
/* What was not mapped in the last run may be in this one. */
void fault_new_run(void);

/* Make [addr, addr + len) of client memory accessible before the slot itself
 * touches it where no signal may be raised. 0, or -1 when it is not there. */
int fault_touch(uint64_t addr, uint64_t len, int write);

#endif
