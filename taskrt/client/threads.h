/*
 * Does any other thread of the program run? Asked at every launch, since a folded
 * heap page may be dropped only when none does (dsm/heap/views.h), so it must be
 * cheap: two kinds of system calls of 0.2 us while the answer is "there is none".
 *
 * The library's own threads are known by their names. Right is: the process has
 * as many threads as the caller and the own ones that are still alive.
 */
#ifndef TASKRT_CLIENT_THREADS_H
#define TASKRT_CLIENT_THREADS_H

#include <sys/types.h>

#define TASKRT__OWN_THREADS 16

struct taskrt__threads {
	int dir_fd;  /* /proc/self/task; its link count is 2 + threads */
	int trusted; /* the link count was seen to be right */
	pid_t pid;
	int own[TASKRT__OWN_THREADS];
	size_t n_own;
};

/* Never fails: without /proc the answer is always 0. */
void taskrt__threads_init(struct taskrt__threads *t);
void taskrt__threads_fini(struct taskrt__threads *t);
/* 1 when no other thread of the program runs now; 0 also when in doubt. */
int taskrt__threads_exclusive(struct taskrt__threads *t);

#endif
