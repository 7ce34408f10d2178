/*
 * Staged write sets of one run, and their commit: all or nothing.
 *
 * An attempt's write set arrives in parts (WRITES) while tasks run; nothing is
 * applied before the verdict. commit validates every accepted attempt whole
 * (mask well-formed, data length fits, every page in a writable committed
 * range) before the first byte is written.
 *
 * Part: the `packed` bytes of WRITES: zero or more pairs, each a squeezed mask
 * part and the squeezed data part that belongs to it (packdiff.h). Pages ascend
 * within a pair only: a part may hold several tasks' pairs. Parts of one
 * attempt are independent of each other (no record spans two).
 *
 * One owner (drive lock); commit may run on another thread once the run is
 * over.
 */
#ifndef DSM_HEAP_STAGE_H
#define DSM_HEAP_STAGE_H

#include "map.h"
#include "views.h"

struct dsm_stage;

int dsm__stage_create(struct dsm_stage **s_p);
void dsm__stage_destroy(struct dsm_stage *s); /* also: roll back */

/* Copy a part in. last: the attempt is whole. DSM_EPROTO: part out of order or
 * after the last. */
int dsm__stage_add(struct dsm_stage *s, uint64_t attempt, uint32_t part,
                   int last, const void *packed, size_t len);
/* The same without a copy: bytes stay valid until destroy (shared memory). */
int dsm__stage_add_borrowed(struct dsm_stage *s, uint64_t attempt,
                            uint32_t part, int last, const void *packed,
                            size_t len);
/* Whose the pairs of the part added last are: records `mark`, copied. DSM_EPROTO:
 * malformed, or there is no such attempt. Without, its tasks are not known. */
struct dsm_array;
int dsm__stage_marks(struct dsm_stage *s, uint64_t attempt,
                     const struct dsm_array *marks);
int dsm__stage_whole(const struct dsm_stage *s, uint64_t attempt);
/* Forget an attempt (its task runs elsewhere). */
void dsm__stage_drop(struct dsm_stage *s, uint64_t attempt);
/* The same, and what still comes of it is ignored (its twin has answered). After
 * DSM_ENOMEM it is staged as any other; no verdict names it. */
int dsm__stage_refuse(struct dsm_stage *s, uint64_t attempt);
size_t dsm__stage_bytes(const struct dsm_stage *s);

struct dsm_commit_stats {
	uint64_t pages, bytes;
};
#define DSM_NO_TASK UINT64_MAX
/* Bytes written by a task (DSM_NO_TASK: it is not known which of the attempt) and
 * by the program since the launch. */
struct dsm_client_race {
	uint64_t attempt, task, addr, len;
};
/*
 * attempts[0..n): in commit order; one that was never staged wrote nothing.
 * Heap bytes go through dsm__views_apply, others are written with
 * process_vm_writev on ourselves. races (may be NULL: do not look): room for
 * races_cap; when a conflict with the program is found nothing is applied and
 * DSM_ERACE is returned with *n_races_p listed (those that fit). DSM_EPROTO /
 * DSM_EINVAL with e: nothing was applied. `changed`: heap pages written.
 */
int dsm__stage_commit(struct dsm_stage *s, struct dsm_map *map,
                      struct dsm_views *views, const uint64_t *attempts,
                      size_t n, struct dsm_client_race *races, size_t races_cap,
                      size_t *n_races_p, struct dsm_extents *changed,
                      struct dsm_commit_stats *stats_p, struct dsm_error *e);

/*
 * Conflicts with the program outside the heap, before dsm__stage_commit: bytes that
 * the attempts wrote and that are not what tasks were given (served: contents of a
 * page, NULL: not known). *n_races_p: those listed. What is malformed is left to
 * commit to complain about.
 */
struct dsm_served {
	const uint8_t *(*page)(void *ctx, uint64_t addr);
	void *ctx;
};
void dsm__stage_outside(struct dsm_stage *s, struct dsm_map *map,
                        struct dsm_views *views, const uint64_t *attempts,
                        size_t n, const struct dsm_served *served,
                        struct dsm_client_race *races, size_t races_cap,
                        size_t *n_races_p);

/* After a commit: fn for every run of bytes that was written, attempt by attempt. */
void dsm__stage_each(struct dsm_stage *s, const uint64_t *attempts, size_t n,
                     void (*fn)(void *ctx, uint64_t addr, uint64_t len),
                     void *ctx);

/*
 * For race reports: what a task has written in [addr, addr + len). Where several
 * whole attempts have it, that is the newest one's.
 */
#define DSM_VALUE_MAX 8
struct dsm_value {
	uint64_t task, addr;
	uint32_t len; /* 1 to DSM_VALUE_MAX */
	uint32_t n;   /* [out] len: `bytes` are known; 0: not all of them are */
	uint8_t bytes[DSM_VALUE_MAX];
};
/* One pass over the write sets of these tasks, however many values are asked for. */
void dsm__stage_values(struct dsm_stage *s, struct dsm_value *values, size_t n);

#endif
