/*
 * Which tasks of a run to give out next, and how many at a time. Pure logic: no
 * messages, workers or clocks.
 *
 * Pending tasks are the fresh ones [next, end) and the intervals that came back,
 * which are given out first, last one first. A task is in one of them or with
 * the caller, never both.
 *
 * Chunk size, unless the run fixes one: guided self-scheduling (Polychronopoulos
 * and Kuck, 1987): pending / (factor * slots). The factor goes from 2 to 4 as
 * measured times per task are uneven; before anything is measured it is 16, a
 * probe. A chunk is not made so small that handing it out costs more than
 * running it, nor so long that losing it hurts.
 *
 * What a task usually takes (for stragglers) is the median of the last chunks: one
 * that takes for ever, or not at all, does not move it.
 */
#ifndef COORDINATOR_CORE_SCHED_H
#define COORDINATOR_CORE_SCHED_H

#include <stddef.h>
#include <stdint.h>

#define SCHED_RECENT 31u

struct sched_iv {
	uint64_t lo, hi;
	uint32_t n_lost; /* times its tasks were lost with a slot or worker */
};

struct sched {
	uint64_t next, end;
	struct sched_iv *back; /* a stack */
	size_t n_back, cap_back;
	uint64_t n_pending;
	uint64_t fixed;   /* the run's chunk size, 0: adaptive */
	uint64_t least;   /* keeps the number of chunks in bounds */
	double ns;        /* per task, moving average */
	double deviation; /* its mean absolute deviation, moving average */
	unsigned n_samples;
	double recent[SCHED_RECENT]; /* ns per task: of the last chunks */
};

/* Tasks [begin, end) are pending. */
void coord__sched_init(struct sched *s, uint64_t begin, uint64_t end,
                       uint64_t fixed);
void coord__sched_fini(struct sched *s);

/* Tasks that the next chunk should have; 0 when none are pending. n_slots: that
 * may work on the run (0 counts as 1). */
uint64_t coord__sched_chunk(const struct sched *s, uint64_t n_slots);
/* 1 and the next chunk, or 0 when none are pending. */
int coord__sched_take(struct sched *s, uint64_t n_slots, struct sched_iv *iv_p);
/* Chunks that a slot may have at a time: 2, so that it need not wait for the
 * next one, but 1 when pending work is less than a chunk per slot. */
unsigned coord__sched_credits(const struct sched *s, uint64_t n_slots);
/* [lo, hi) is pending again; nothing when empty. DSM_ENOMEM. */
int coord__sched_give_back(struct sched *s, uint64_t lo, uint64_t hi,
                           uint32_t n_lost);
/* A chunk of n_tasks took exec_ns. */
void coord__sched_measured(struct sched *s, uint64_t n_tasks, uint64_t exec_ns);
/* What n_tasks usually take, in ns; 0: nothing was measured yet. */
uint64_t coord__sched_typical(const struct sched *s, uint64_t n_tasks);

#endif
