/*
 * Does a RUN make sense? One answer for coordinator and workers: a RUN that the
 * coordinator lets pass and a worker chokes on would cost every program of that
 * worker its slots, not just the one that sent it.
 */
#ifndef COORDINATOR_CORE_RUNCHECK_H
#define COORDINATOR_CORE_RUNCHECK_H

#include "../../dsm/wire/wire.h"

/*
 * NULL, or what is wrong with it, to be read behind "RUN 7 ": "with a bad range".
 * Of the message alone: mode, flags, bounds, ranges, drops, updates, advice. Ranges,
 * drops and advice ascend and do not overlap, and lie where programs do; so going
 * through drops and ranges side by side takes as long as they are, whoever made
 * them up.
 */
const char *coord__run_wrong(const struct dsm_msg_run *m);

#endif
