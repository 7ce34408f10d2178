/*
 * Any bytes as a part on the wire, and what comes out of it (or the bytes
 * themselves) as a mask. mask_check and the iterator must agree.
 */
#include <stdint.h>
#include <stdlib.h>

#include "../../dsm/wire/packdiff.h"
#include "fuzz.h"

#define RAW_MAX (1u << 20)

static void
walk(const uint8_t *mask, size_t len)
{
	struct dsm_maskit it;
	uint64_t addr, run, n_bytes = 0, sum = 0, end = 0;
	int checked = dsm__mask_check(mask, len, &n_bytes);
	int got;

	dsm__maskit_init(&it, mask, len);
	while ((got = dsm__maskit_next(&it, &addr, &run)) == 1) {
		if (run == 0 || addr + run > UINT64_C(1) << 47)
			abort();
		if (checked == DSM_OK && addr < end)
			abort();
		end = addr + run;
		sum += run;
	}
	if (checked == DSM_OK && (got != 0 || sum != n_bytes))
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dsm_wbuf scratch = {0};
	const uint8_t *p;
	size_t len, used;

	walk(data, size);
	if (dsm__unsqueeze(data, size, RAW_MAX, &scratch, &p, &len, &used) ==
	    DSM_OK) {
		if (len > RAW_MAX || used > size)
			abort();
		walk(p, len);
	}
	dsm__wbuf_fini(&scratch);
	return 0;
}
