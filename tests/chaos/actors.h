/*
 * The processes of a cluster that is being broken: starting, stopping, killing them,
 * what they say, and what they leave behind.
 *
 * States of an actor: RUNNING -> STOPPED (SIGSTOP) -> RUNNING (SIGCONT, when due);
 * RUNNING -> KILLED (SIGKILL) -> RUNNING (a new process, when due); RUNNING -> ENDED (by
 * itself). One who is not to come back stays KILLED.
 */
#ifndef TESTS_CHAOS_ACTORS_H
#define TESTS_CHAOS_ACTORS_H

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#define ACTOR_WORDS 24
#define ACTOR_LINE 512

enum actor_state {
	ACTOR_NONE,
	ACTOR_RUNNING,
	ACTOR_STOPPED,
	ACTOR_KILLED,
	ACTOR_ENDED,
};

struct actor {
	char name[24];
	char *argv[ACTOR_WORDS], *envp[ACTOR_WORDS];
	char text[4096]; /* of argv and envp */
	size_t text_len;
	unsigned n_argv, n_envp;
	const char *dir; /* NAME.log is there */
	enum actor_state state;
	pid_t pid;
	int status;        /* ENDED: as of waitpid */
	uint64_t due;      /* STOPPED, KILLED: dsm__now time; 0: never */
	unsigned n_starts; /* processes so far */
	/* Lines of its stdout, when it has some to say. */
	int talks;
	int in_fd, out_fd; /* of ours, to its stdin and stdout; -1 */
	char line[ACTOR_LINE];
	size_t line_len;
};

void actor_init(struct actor *a, const char *dir, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void actor_word(struct actor *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void actor_env(struct actor *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* 0, or -1 with a line on stderr. */
int actor_start(struct actor *a);
/* Start, continue: what is due. */
void actor_tick(struct actor *a, uint64_t now);
/* SIGSTOP or SIGKILL; it is back after ms, or never (0). Returns whether there was
 * anything to hit. */
int actor_stop(struct actor *a, unsigned ms);
int actor_kill(struct actor *a, unsigned ms);
/* Now, whatever was planned. */
void actor_bring_back(struct actor *a);
/* A process has ended: was it this one? */
int actor_reaped(struct actor *a, pid_t pid, int status);
/* The next whole line of what it says; NULL: none yet. Valid until the next call. */
const char *actor_line(struct actor *a);
void actor_say(struct actor *a, const char *text);
void actor_close(struct actor *a);

/* --- what processes have --- */

/* Children of a process, up to cap; how many there are. */
size_t children_of(pid_t pid, pid_t *pids, size_t cap);
/* Their children: the slots of a worker or program, whose child is the keeper. */
size_t slots_of(pid_t pid, pid_t *pids, size_t cap);
int count_files(pid_t pid); /* -1: it is gone */
uint64_t resident_kib(pid_t pid);

#endif
