/* TASKRT_STAT=1: what all runs of the program came to, for people. */
#ifndef TASKRT_CLIENT_STAT_H
#define TASKRT_CLIENT_STAT_H

#include <stdint.h>
#include <stdio.h>

#include "../../dsm/base/counters.h"
#include "session.h"

void taskrt__stat_print(FILE *f, const struct dsm_counters *c,
                        const struct taskrt__links *links, uint64_t n_runs);

#endif
