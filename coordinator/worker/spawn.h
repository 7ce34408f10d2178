/*
 * Starting slot processes, out of memory and out of the program's sight.
 *
 * In embedded mode slots are started by a process that is the user's: wait() and
 * SIGCHLD are the user's too, and a thread that starts a slot may end at any
 * time, which would fire the slot's PR_SET_PDEATHSIG. A child that has exec'ed is
 * always seen by its parent's wait() (execve sets its exit signal to SIGCHLD). So
 * slots are children of a **keeper**: a process that shares our memory, never
 * execs (wait() does not see it, no SIGCHLD is sent for it), has descriptors and
 * signals of its own and does two things only: start, and reap. It kills what is
 * left and ends when the spawner or the whole program does. It has a process group,
 * and each slot a session of its own: a Ctrl-C at the terminal goes to the program
 * alone, and no slot has a terminal.
 *
 * Requests and replies are messages on a socket: nothing here waits for a process
 * to start. One owner at a time, no locks.
 */
#ifndef COORDINATOR_WORKER_SPAWN_H
#define COORDINATOR_WORKER_SPAWN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "../../dsm/base/status.h"

#define SPAWN_FIRST_FD 3 /* fds[i] becomes descriptor 3 + i */
#define SPAWN_MAX_FDS 7
#define SPAWN_MAX_ARGS 8
#define SPAWN_ARGS_LEN 256 /* bytes of all arguments with their NULs */
#define SPAWN_MAX_PROCS 1024
#define SPAWN_IN_FLIGHT 32 /* starts asked for and not answered */

struct spawner;

/* What a process is started without. */
struct spawn_rights {
	/* all capabilities, and ways to more (no_new_privs) */
	int none;
	/* unless 0: it runs as this user and group, in no other. We must be root. */
	uint32_t uid, gid;
	/* lock memory as we may: the limit stays when the capability goes */
	int locks_memory;
};

struct spawn_request {
	uint64_t tag;                         /* comes back in the reply */
	int image_fd;                         /* spawn_image */
	const char *args[SPAWN_MAX_ARGS + 1]; /* argv, ends with NULL */
	int fds[SPAWN_MAX_FDS];               /* borrowed; -1: not open */
	struct spawn_rights rights;
};

enum spawn_reply_kind {
	SPAWN_STARTED, /* pid and pidfd (CLOEXEC, now the caller's) */
	SPAWN_FAILED,  /* error: errno, step: what failed */
	SPAWN_REAPED,  /* status as of waitpid; error ECHILD: no such child */
};

struct spawn_reply {
	enum spawn_reply_kind kind;
	uint64_t tag;
	pid_t pid;
	int pidfd; /* -1 but for SPAWN_STARTED */
	int status;
	int error;
	const char *step; /* static text */
};

int spawner_create(struct spawner **sp_p, struct dsm_error *e);
/* Kills and reaps all its processes: waits for that, 2 s at most. NULL is fine. */
void spawner_destroy(struct spawner *sp);
/* Polls readable when a reply is there or the keeper is gone. */
int spawner_fd(const struct spawner *sp);

/*
 * Ask for a process: stderr is ours, stdin and stdout are /dev/null, then the
 * request's descriptors and no others; environment empty, default signal
 * handling, nothing blocked. DSM_OK (a reply will come), DSM_EAGAIN
 * (SPAWN_IN_FLIGHT of them are unanswered), DSM_EINVAL (arguments too long),
 * DSM_ECONN (keeper gone), DSM_ESYS (errno).
 */
int spawner_start(struct spawner *sp, const struct spawn_request *r);
/* Ask for the exit status of a process whose pidfd polls readable. */
int spawner_reap(struct spawner *sp, pid_t pid, uint64_t tag);
/* Next reply: DSM_OK, DSM_EAGAIN (none yet), DSM_ECONN (keeper gone). */
int spawner_reply(struct spawner *sp, struct spawn_reply *r_p);

/* An executable in memory, sealed: CLOEXEC descriptor. elf: an ELF file. */
int spawn_image(const void *elf, size_t len, int *fd_p, struct dsm_error *e);
/* Signal a process by its pidfd; an ended one is no error. */
void spawn_kill(int pidfd, int sig);

#endif
