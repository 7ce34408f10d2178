/* What several groups of cases use. */
#ifndef TESTS_E2E_BEHAVIOUR_H
#define TESTS_E2E_BEHAVIOUR_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "../../helpers/cases.h"

#define PAGE 4096u

extern const struct cases_one results_cases[], failures_cases[], calls_cases[],
    memory_cases[], sizes_cases[], between_cases[], threads_cases[],
    mappings_cases[];

extern int a_global;
extern int *canary; /* one_failure's; must be as it was after a failed run */

struct node {
	struct node *next;
	size_t value;
};

/* Tasks and bodies of loops. */
void square(size_t i, void *ctx); /* a[i] = i * i, of doubles */
void count_one(void *arg);        /* an unsigned, one more */
void fail_some(void *arg); /* an int: a multiple of 10 fails, others change
                                     * their sign */
void increment_shared(void *arg); /* an int: two that do it race */
void launch_inside(void *arg);    /* an int: what a launch in a task returns */
void touch_canary(void);          /* part of one */

/* body(3) touches the canary and fails like this, and nothing remains of it. */
void one_failure(void (*body)(size_t, void *), int kind, int sig,
                 unsigned timeout_ms);

#endif
