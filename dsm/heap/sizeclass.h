/*
 * Size classes of small blocks: every 16 bytes up to 128, then four to a
 * doubling, so that rounding up costs at most a quarter (16 bytes at the
 * bottom). Class sizes are multiples of 16; powers of two are among them, which
 * is what small aligned allocations use.
 */
#ifndef DSM_HEAP_SIZECLASS_H
#define DSM_HEAP_SIZECLASS_H

#include <stdint.h>

#define DSM_N_CLASSES 24u
#define DSM_SMALL_MAX 2048u

/* The smallest class that holds size bytes; size <= DSM_SMALL_MAX. */
static inline unsigned
dsm__class_of(uint64_t size)
{
	if (size <= 128)
		return size == 0 ? 0 : (unsigned)((size - 1) >> 4);

	unsigned lg = 63 - (unsigned)__builtin_clzll(size - 1);

	return 8 + (lg - 7) * 4 + ((unsigned)((size - 1) >> (lg - 2)) & 3);
}

static inline uint32_t
dsm__class_size(unsigned cls)
{
	if (cls < 8)
		return (cls + 1) * 16;

	unsigned lg = 7 + (cls - 8) / 4;

	return (1u << lg) + ((cls - 8) % 4 + 1) * (1u << (lg - 2));
}

/* Pages of one span: small, so that a heap with a few blocks stays dense, but
 * with 32 slots or more, so that taking one is rare. */
static inline unsigned
dsm__class_pages(unsigned cls)
{
	uint32_t size = dsm__class_size(cls);

	return size <= 256 ? 4 : size <= 1024 ? 8 : 16;
}

/*
 * The class for an aligned block, or -1 when it needs a page run. Spans start
 * on a page boundary, so slots of a size that is a multiple of align are
 * aligned.
 */
static inline int
dsm__class_aligned(uint64_t align, uint64_t size)
{
	if (align > DSM_SMALL_MAX || size > DSM_SMALL_MAX)
		return -1;
	for (unsigned c = dsm__class_of(size < align ? align : size);
	     c < DSM_N_CLASSES; c++)
		if (dsm__class_size(c) % align == 0)
			return (int)c;
	return -1;
}

#endif
