/*
 * Pauses between attempts: each up to twice as long as the one before, until the
 * longest. A pause is half to all of what is due, at random, so that those who
 * lost one peer together do not all come back in the same instant.
 */
#ifndef DSM_BASE_BACKOFF_H
#define DSM_BASE_BACKOFF_H

#include <stdint.h>

struct dsm_backoff {
	uint64_t first_ms, most_ms; /* const after init; first_ms > 0 */
	uint64_t due_ms;
	uint64_t random;
};

void dsm__backoff_init(struct dsm_backoff *b, uint64_t first_ms,
                       uint64_t most_ms);
/* An attempt was good: the next pause is a first one. */
void dsm__backoff_reset(struct dsm_backoff *b);
/* Milliseconds to wait now. */
uint64_t dsm__backoff_next(struct dsm_backoff *b);

#endif
