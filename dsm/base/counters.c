#include "counters.h"

const struct dsm_counter_info dsm__counter_info[DSM_N_COUNTERS] = {
#define DSM_COUNTER(name, unit, help) {#name, unit, help},
#include "../include/dsm/stats.def"
#undef DSM_COUNTER
};
