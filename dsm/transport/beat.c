#include "beat.h"

#include "../base/clock.h"

void
dsm__beat_start(struct dsm_beat *b, uint32_t ms, uint64_t now)
{
	*b = (struct dsm_beat){.ms = ms, .heard = now, .looked = now};
}

void
dsm__beat_heard(struct dsm_beat *b, uint64_t now)
{
	b->heard = now;
}

uint64_t
dsm__beat_silent_ms(const struct dsm_beat *b, uint64_t now)
{
	return (now - b->heard) / DSM_MS;
}

enum dsm_beat_says
dsm__beat_look(struct dsm_beat *b, uint64_t now)
{
	uint64_t silent_ms;

	if (b->ms == 0)
		return DSM_BEAT_FINE;
	if (now - b->looked > 2 * b->ms * DSM_MS)
		b->heard = now;
	b->looked = now;
	silent_ms = dsm__beat_silent_ms(b, now);
	if (silent_ms >= (uint64_t)b->ms * DSM_SILENT_BEATS)
		return DSM_BEAT_LOST;
	if (silent_ms < b->ms)
		return DSM_BEAT_FINE;
	b->seq++;
	return DSM_BEAT_ASK;
}
