/*
 * Hold: while this slot's own code looks at the program's pages (twins of what a task
 * wrote, memory that a system call names), the worker evicts none of the image.
 *
 * A page that is evicted raises SIGBUS when it is touched, and is fetched again; that
 * is for the client's code. The slot's own may not fault: it holds the image, sees to
 * it that the pages are there, looks, and lets go. For short: the worker waits.
 *
 *   slot    holds = 1; evicting? -> holds = 0, wait, again
 *   worker  evicting = 1; does any slot hold? -> evicting = 0, later again
 *
 * Both write, then read (sequentially consistent): never do both go on.
 */
#ifndef TASKRT_SLOT_HOLD_H
#define TASKRT_SLOT_HOLD_H

#include "slotctl.h"

void hold_init(struct slot_ctl *ctl);
/* May be nested. */
void hold_begin(void);
void hold_end(void);
/*
 * Before pages are asked for: the worker has more than it may have, and is about to
 * evict. Waits until it has, or for ROOM_MS. Not while holding.
 */
void hold_wait_for_room(void);

#endif
