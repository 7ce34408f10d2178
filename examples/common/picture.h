/*
 * Pictures, for results that one would rather look at than read.
 */
#ifndef EXAMPLES_COMMON_PICTURE_H
#define EXAMPLES_COMMON_PICTURE_H

#include <stddef.h>
#include <stdint.h>

/* A colour for each of 256 indices: red, green, blue. */
typedef uint8_t example_palette[256][3];

/*
 * Write a PNG and say so on stdout.
 *
 * index       width * height bytes, a row after the other, from the top
 * Returns     0, or -1 after one line on stderr
 */
int example_write_png(const char *path, size_t width, size_t height,
                      const uint8_t *index, const example_palette palette);

#endif
