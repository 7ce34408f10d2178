#ifndef TESTS_UNIT_WORKER_FAKEELF_H
#define TESTS_UNIT_WORKER_FAKEELF_H

#include <stddef.h>

/* The program tests/helpers/fakeslot.c, which lies beside the test program;
 * variant 0, 1: marked 'a', 'b'. For worker_params.slot_elf. */
int fake_elf(unsigned variant, const void **p, size_t *len);

#endif
