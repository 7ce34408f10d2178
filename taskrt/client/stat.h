/* TASKRT_STAT=1: what all runs of the program came to, for people. */
#ifndef TASKRT_CLIENT_STAT_H
#define TASKRT_CLIENT_STAT_H

#include <stdio.h>

struct taskrt__sums;

void taskrt__stat_print(FILE *f, const struct taskrt__sums *sums);

#endif
