#include "hold.h"

#include <time.h>

#define PAUSE_NS 50000
#define ROOM_PAUSE_NS 500000
#define ROOM_MS 500

static struct slot_ctl *ctl; /* NULL: nobody evicts (tests) */
static unsigned depth;

void
hold_init(struct slot_ctl *c)
{
	ctl = c;
	depth = 0;
}

static void
pause_ns(long ns)
{
	nanosleep(&(const struct timespec){0, ns}, NULL);
}

/* The worker evicts in pieces of milliseconds; when it dies, so do we. */
void
hold_begin(void)
{
	if (ctl == NULL || depth++ > 0)
		return;
	for (;;) {
		atomic_store(&ctl->holds, 1);
		if (!atomic_load(&ctl->evicting))
			return;
		atomic_store(&ctl->holds, 0);
		pause_ns(PAUSE_NS);
	}
}

void
hold_end(void)
{
	if (ctl != NULL && --depth == 0)
		atomic_store(&ctl->holds, 0);
}

void
hold_wait_for_room(void)
{
	if (ctl == NULL || depth > 0)
		return;
	for (unsigned i = 0; i < ROOM_MS * 2 && atomic_load(&ctl->full); i++)
		pause_ns(ROOM_PAUSE_NS);
}
