/*
 * What a slot takes away from itself, so that a task, whatever its code does, can
 * reach nothing but its own program's pages and the few descriptors of its slot.
 *
 * Two layers. Syscall user dispatch (syscalls.h) catches the calls of client code,
 * answers some in the task's own world and reports the rest: that is for programs
 * that are mistaken. Client code shares the slot's address space, so code that
 * wants to can write the slot's data and jump to its `syscall` instructions: behind
 * it stands the sandbox, which holds against a slot that is the task's own.
 *
 *   NEW        the keeper has started it: a session of its own, no capability, no
 *              new privileges, the user id of --user (coordinator/worker/keeper.c)
 *   EARLY      first filter: what no slot does at any time. Devices, files of /proc
 *              and the queue pair are opened under it
 *   ENTERED    limits, Landlock, second filter: only what a slot needs to run
 *              tasks. There is no way back, and no descriptor more to be had
 *
 * Invariant: no client code runs before ENTERED (or the user has said --no-sandbox).
 */
#ifndef TASKRT_SLOT_SANDBOX_H
#define TASKRT_SLOT_SANDBOX_H

#include "../../dsm/base/status.h"

/* First, before anything that a peer has sent is looked at. */
int sandbox_early(struct dsm_error *e);
/*
 * Last. verbs: the data link is a queue pair. Afterwards stderr is /dev/null, and a
 * call that is not on the list is SIGSYS with si_code SYS_SECCOMP, or the end.
 * DSM_ESYS, e says which step failed: the slot must not go on.
 */
int sandbox_enter(int verbs, struct dsm_error *e);

#endif
