/*
 * Signs of life of a peer, for the end that connected to it: after one heartbeat
 * of silence it is asked for one (PING), after DSM_SILENT_BEATS of them it is lost.
 *
 * Whoever was stopped itself (SIGSTOP, a suspended machine) knows nothing of the
 * time it slept through: what came meanwhile is read after the timers. So a look
 * that comes much too late counts as having heard something.
 */
#ifndef DSM_TRANSPORT_BEAT_H
#define DSM_TRANSPORT_BEAT_H

#include <stdint.h>

#define DSM_SILENT_BEATS 5

struct dsm_beat {
	uint32_t ms; /* heartbeat; 0: none, nobody is ever lost */
	uint64_t heard, looked;
	uint64_t seq; /* of PING */
};

enum dsm_beat_says {
	DSM_BEAT_FINE,
	DSM_BEAT_ASK, /* send PING with b->seq */
	DSM_BEAT_LOST,
};

/* Every `now` is dsm__now time. */
void dsm__beat_start(struct dsm_beat *b, uint32_t ms, uint64_t now);
void dsm__beat_heard(struct dsm_beat *b, uint64_t now);
/* Once every b->ms. */
enum dsm_beat_says dsm__beat_look(struct dsm_beat *b, uint64_t now);
/* For how long it has been silent. */
uint64_t dsm__beat_silent_ms(const struct dsm_beat *b, uint64_t now);

#endif
