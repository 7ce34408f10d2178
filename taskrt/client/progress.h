/* A bar on stderr for runs that take longer than a second, when people look. */
#ifndef TASKRT_CLIENT_PROGRESS_H
#define TASKRT_CLIENT_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

struct taskrt__progress {
	uint64_t started; /* of dsm__now */
	uint64_t shown;   /* when the bar was drawn last, 0: not yet */
};

void taskrt__progress_start(struct taskrt__progress *p, uint64_t now);
void taskrt__progress_show(struct taskrt__progress *p, const char *name,
                           uint64_t done, uint64_t total, uint32_t slots);
/* Take the bar away. */
void taskrt__progress_end(struct taskrt__progress *p);

/* The bar's text, for tests. */
void taskrt__progress_format(char *buf, size_t size, const char *name,
                             uint64_t done, uint64_t total, uint32_t slots,
                             double seconds);

#endif
