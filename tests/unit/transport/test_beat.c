/* Signs of life, on a clock of the test's own. */
#include "../../../dsm/transport/beat.h"
#include "../../test.h"

#define BEAT 100u

/* Looks once a beat for n of them; the last answer. */
static enum dsm_beat_says
look_on(struct dsm_beat *b, uint64_t *now, unsigned n)
{
	enum dsm_beat_says says = DSM_BEAT_FINE;

	while (n-- > 0) {
		*now += BEAT * DSM_MS;
		says = dsm__beat_look(b, *now);
	}
	return says;
}

static void
test_a_silent_peer_is_asked_and_then_lost(void)
{
	uint64_t now = DSM_SEC;
	struct dsm_beat b;

	dsm__beat_start(&b, BEAT, now);
	MUST_BE(dsm__beat_look(&b, now + BEAT * DSM_MS / 2), DSM_BEAT_FINE);
	MUST_BE(look_on(&b, &now, 1), DSM_BEAT_ASK);
	MUST_BE(b.seq, 1);
	MUST_BE(look_on(&b, &now, DSM_SILENT_BEATS - 2), DSM_BEAT_ASK);
	MUST_BE(look_on(&b, &now, 1), DSM_BEAT_LOST);
	MUST_BE(dsm__beat_silent_ms(&b, now), DSM_SILENT_BEATS * BEAT);
}

static void
test_a_peer_that_answers_is_kept(void)
{
	uint64_t now = DSM_SEC;
	struct dsm_beat b;

	dsm__beat_start(&b, BEAT, now);
	for (int i = 0; i < 100; i++) {
		MUST(look_on(&b, &now, DSM_SILENT_BEATS - 1) != DSM_BEAT_LOST);
		dsm__beat_heard(&b, now);
	}
}

static void
test_who_was_stopped_itself_loses_nobody(void)
{
	uint64_t now = DSM_SEC;
	struct dsm_beat b;

	dsm__beat_start(&b, BEAT, now);
	look_on(&b, &now, 2);
	now += 3600 * DSM_SEC;
	MUST_BE(dsm__beat_look(&b, now), DSM_BEAT_FINE);
	MUST_BE(look_on(&b, &now, DSM_SILENT_BEATS - 1), DSM_BEAT_ASK);
	MUST_BE(look_on(&b, &now, 1), DSM_BEAT_LOST);
}

static void
test_without_a_heartbeat_nobody_is_lost(void)
{
	struct dsm_beat b;

	dsm__beat_start(&b, 0, DSM_SEC);
	MUST_BE(dsm__beat_look(&b, 3600 * DSM_SEC), DSM_BEAT_FINE);
}

SUITE(dsm_transport_beat, "dsm.transport.beat",
      T(test_a_silent_peer_is_asked_and_then_lost),
      T(test_a_peer_that_answers_is_kept),
      T(test_who_was_stopped_itself_loses_nobody),
      T(test_without_a_heartbeat_nobody_is_lost));
