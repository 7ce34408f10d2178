/*
 * System calls made by client code in a task.
 *
 * Syscall user dispatch (Linux 5.11) hands every system call that is not made
 * from the slot's own text to a SIGSYS handler. The few that compute, or that
 * libc makes on its own account, are carried out; the others end the task with a
 * report. Without the kernel feature calls go to the kernel as they are.
 */
#ifndef TASKRT_SLOT_SYSCALLS_H
#define TASKRT_SLOT_SYSCALLS_H

#include <signal.h>

#include "arch.h"
#include "fault.h"

/* 0, or -1 when the kernel cannot. */
int syscalls_init(void);
/* A caught call: FAULT_NONE (done, result set), FAULT_FAILED (failure filled in)
 * or FAULT_LOST. */
int syscalls_handle(ucontext_t *uc, const siginfo_t *si, uint64_t task,
                    struct fault_failure *failure);

#endif
