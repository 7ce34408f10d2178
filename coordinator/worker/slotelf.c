/* The slot programs that are built in (slot_blob.S). */
#include "worker_priv.h"

extern const char taskrt__slot_a_start[], taskrt__slot_a_end[];
extern const char taskrt__slot_b_start[], taskrt__slot_b_end[];

int
slot_elf(unsigned variant, const void **p, size_t *len)
{
	const char *start =
	    variant == 0 ? taskrt__slot_a_start : taskrt__slot_b_start;
	const char *end =
	    variant == 0 ? taskrt__slot_a_end : taskrt__slot_b_end;

	if (variant >= SLOT_VARIANTS || end == start)
		return DSM_EINVAL;
	*p = start;
	*len = (size_t)(end - start);
	return DSM_OK;
}
