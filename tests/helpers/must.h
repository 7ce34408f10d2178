/* For programs of e2e scripts that play one part: what must be so, or they end. */
#ifndef TESTS_HELPERS_MUST_H
#define TESTS_HELPERS_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(cond)                                                          \
	do {                                                                \
		if (!(cond)) {                                              \
			printf("%s:%d: not true: %s\n", __FILE__, __LINE__, \
			       #cond);                                      \
			exit(1);                                            \
		}                                                           \
	} while (0)

#endif
