/*
 * Any bytes into any decoder. The first byte picks the message. What decodes
 * must encode to the same bytes again, and its arrays must unpack.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

#define RECORD(name)                                                \
	static void walk_##name(const struct dsm_array *a)          \
	{                                                           \
		struct dsm_rec_##name r;                            \
		for (uint32_t i = 0; i < a->n; i++)                 \
			if (dsm__unpack_##name(a, i, &r) != DSM_OK) \
				abort();                            \
	}
#include "../../dsm/wire/messages.def"

#define MESSAGE(NAME, name, number)                                        \
	static void try_##name(const uint8_t *body, size_t len)            \
	{                                                                  \
		struct dsm_msg_##name m;                                   \
		struct dsm_wbuf w = {0};                                   \
		if (dsm__decode_##name(body, len, &m) != DSM_OK)           \
			return;                                            \
		if (dsm__encode_##name(&w, &m) != DSM_OK || w.len > len || \
		    memcmp(w.ptr, body, w.len) != 0)                       \
			abort();                                           \
		if (w.len != len && (number) != DSM_MSG_PAGES)             \
			abort();                                           \
		dsm__wbuf_fini(&w);
#define ARRAY(rec, f) walk_##rec(&m.f);
#define END(name) }
#include "../../dsm/wire/messages.def"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (data[0]) {
#define MESSAGE(NAME, name, number)             \
	case number:                            \
		try_##name(data + 1, size - 1); \
		break;
#include "../../dsm/wire/messages.def"
	default:
		break;
	}
	return 0;
}
