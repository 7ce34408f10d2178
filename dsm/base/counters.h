/* The counters of stats.def as a struct, and a table to walk it by. */
#ifndef DSM_BASE_COUNTERS_H
#define DSM_BASE_COUNTERS_H

#include <stddef.h>
#include <stdint.h>

struct dsm_counters {
#define DSM_COUNTER(name, unit, help) uint64_t name;
#include "../include/dsm/stats.def"
#undef DSM_COUNTER
};

#define DSM_N_COUNTERS (sizeof(struct dsm_counters) / sizeof(uint64_t))

struct dsm_counter_info {
	const char *name, *unit, *help;
};
extern const struct dsm_counter_info dsm__counter_info[DSM_N_COUNTERS];

static inline void
dsm__counters_add(struct dsm_counters *to, const struct dsm_counters *from)
{
	uint64_t *t = (uint64_t *)to;
	const uint64_t *f = (const uint64_t *)from;

	for (size_t i = 0; i < DSM_N_COUNTERS; i++)
		t[i] += f[i];
}

#endif
