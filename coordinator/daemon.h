/*
 * What the two daemons have in common: the log, the loop, and ending on a signal.
 */
#ifndef COORDINATOR_DAEMON_H
#define COORDINATOR_DAEMON_H

#include "../dsm/transport/loop.h"

/* How long a daemon's loop spins after a frame, because waking up takes longer. */
#define DAEMON_SPIN_NS (50 * DSM_US)

/*
 * A loop that SIGINT, SIGTERM and SIGHUP stop: dsm__loop_run then returns. Log lines begin with `program` (static); the log level is
 * info unless TASKRT_LOG says otherwise. Once in a process. DSM_ENOMEM, DSM_ESYS.
 */
int daemon_start(const char *program, struct dsm_loop **loop_p);
/* Before SIGTERM ends the loop fn is asked: 1: not yet, it ends by itself later. The
 * second SIGTERM ends it, whatever fn thinks. */
void daemon_on_term(int (*fn)(void *arg), void *arg);
/* SIGHUP calls fn from the loop from now on, also under nohup. DSM_ESYS. */
int daemon_on_hangup(struct dsm_loop *loop, void (*fn)(void *arg), void *arg);

#endif
