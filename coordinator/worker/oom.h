/*
 * Has the kernel killed for lack of memory? A slot that it kills looks like one that
 * somebody killed by hand: SIGKILL. The kernel's counters say which it was.
 */
#ifndef COORDINATOR_WORKER_OOM_H
#define COORDINATOR_WORKER_OOM_H

#include <stdint.h>

/* Kills so far, of the machine and of our cgroups (v1, v2) where they count them. Only a
 * number that grows means something. root: "", or a folder for tests. */
uint64_t oom_kills(const char *root);

#endif
