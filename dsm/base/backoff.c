#include "backoff.h"

#include <unistd.h>

#include "clock.h"

void
dsm__backoff_init(struct dsm_backoff *b, uint64_t first_ms, uint64_t most_ms)
{
	/* Processes that start together differ in their number at least. */
	*b = (struct dsm_backoff){
	    .first_ms = first_ms,
	    .most_ms = most_ms,
	    .due_ms = first_ms,
	    .random = dsm__now() ^ (uint64_t)getpid() << 32,
	};
}

void
dsm__backoff_reset(struct dsm_backoff *b)
{
	b->due_ms = b->first_ms;
}

/* splitmix64: any state will do. */
static uint64_t
draw(struct dsm_backoff *b)
{
	uint64_t x = b->random += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint64_t
dsm__backoff_next(struct dsm_backoff *b)
{
	uint64_t ms = b->due_ms;

	b->due_ms = ms < b->most_ms / 2 ? ms * 2 : b->most_ms;
	return ms - draw(b) % (ms / 2 + 1);
}
