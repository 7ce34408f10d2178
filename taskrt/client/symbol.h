/* Names for addresses outside the heap, for reports. */
#ifndef TASKRT_CLIENT_SYMBOL_H
#define TASKRT_CLIENT_SYMBOL_H

#include <stddef.h>

/*
 * As the source has it, also in C++: "total in prog", "body+0x1c in prog", or "prog+0x40b0" when the file of the
 * program or library has no symbol there; "on the launching thread's stack"; else
 * "". Reads the file: not for fast paths.
 */
void taskrt__symbol_describe(const void *addr, char *buf, size_t size);

#endif
