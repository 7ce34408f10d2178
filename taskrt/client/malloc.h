/* The malloc family that libtaskrt puts in front of libc's: see malloc.c. */
#ifndef TASKRT_CLIENT_MALLOC_H
#define TASKRT_CLIENT_MALLOC_H

#include <stddef.h>

/* In the program, before tasks: find what tasks need to know of the C library.
 * Warns, once, when another library's malloc hides ours: then tasks cannot return
 * what they allocate. */
void taskrt__malloc_check(void);
/* malloc_usable_size of a block of the C library. */
size_t taskrt__malloc_usable(void *p);

#endif
