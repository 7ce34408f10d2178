/* Between spawn.c and the keeper process (keeper.c). */
#ifndef COORDINATOR_WORKER_KEEPER_H
#define COORDINATOR_WORKER_KEEPER_H

#include "spawn.h"

enum keeper_op {
	KEEPER_START = 1,
	KEEPER_REAP,
};

/* One message each way on a SOCK_SEQPACKET pair. With START travel the image's
 * descriptor and those of fd_mask; with its reply a pidfd. */
struct keeper_request {
	uint32_t op;      /* enum keeper_op */
	uint32_t fd_mask; /* bit i: descriptor SPAWN_FIRST_FD + i */
	uint64_t tag;
	int32_t pid;
	uint32_t n_args;
	struct spawn_rights rights;
	char args[SPAWN_ARGS_LEN];
};

struct keeper_reply {
	uint32_t op;
	uint32_t step; /* enum keeper_step */
	uint64_t tag;
	int32_t pid;
	int32_t status;
	int32_t error; /* errno, 0: fine */
	uint32_t pad;
};

enum keeper_step {
	KEEPER_STEP_NONE,
	KEEPER_STEP_CLONE,
	KEEPER_STEP_FDS,
	KEEPER_STEP_USER,
	KEEPER_STEP_RIGHTS,
	KEEPER_STEP_EXEC,
	KEEPER_STEP_WAIT,
};

/* Memory of the keeper, its stack below it. Written by the keeper and, while it is
 * suspended by vfork, by the child that is about to exec. */
struct keeper {
	int sock;   /* in: descriptors as numbered in spawn.c's process */
	int client; /* in: pidfd of that process */
	int child_error;
	uint32_t child_step;
	unsigned n_pids;
	pid_t pids[SPAWN_MAX_PROCS];
	struct keeper_request request;
	struct keeper_reply reply;
	int fds[SPAWN_MAX_FDS + 1]; /* received */
	unsigned n_fds;
};

/* For rawsys_clone_onto: runs until the other end of `sock` is closed. arg:
 * struct keeper. Signals are blocked by the caller. */
int keeper_main(void *arg);

#endif
