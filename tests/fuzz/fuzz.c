#include "fuzz.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/log.h"
#include "../../dsm/base/page.h"

#define MAX_RECORDS 6
#define MAX_ARRAYS 8

void
fuzz_fail(const char *file, int line, const char *cond)
{
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, cond);
	abort();
}

void
fuzz_quiet(void)
{
	static int done;

	if (!done && getenv("FUZZ_LOG") == NULL)
		dsm__log_level(DSM_LOG_ERROR);
	done = 1;
}

/* --- choices --- */

struct fuzz_in
fuzz_in(const uint8_t *data, size_t size)
{
	return (struct fuzz_in){data, size > 0 ? data + size : data};
}

int
fuzz_more(const struct fuzz_in *in)
{
	return in->p < in->end;
}

uint8_t
fuzz_u8(struct fuzz_in *in)
{
	return in->p < in->end ? *in->p++ : 0;
}

uint64_t
fuzz_raw(struct fuzz_in *in, unsigned n_bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < n_bytes; i++)
		v |= (uint64_t)fuzz_u8(in) << (8 * i);
	return v;
}

uint32_t
fuzz_below(struct fuzz_in *in, uint32_t n)
{
	if (n <= 1)
		return 0;
	return (uint32_t)fuzz_raw(in, n > 256 ? 2 : 1) % n;
}

struct dsm_blob
fuzz_bytes(struct fuzz_in *in, uint32_t max)
{
	uint32_t n = fuzz_below(in, max + 1);
	struct dsm_blob b = {in->p, n};

	if (n > (size_t)(in->end - in->p))
		b.len = (uint32_t)(in->end - in->p);
	in->p += b.len;
	return b;
}

void
fuzz_pool_put(struct fuzz_pool *pool, uint64_t v)
{
	pool->v[pool->n++ % FUZZ_POOL] = v;
}

uint64_t
fuzz_value(struct fuzz_in *in, const struct fuzz_pool *pool)
{
	static const uint64_t borders[] = {0,
	                                   1,
	                                   UINT16_MAX,
	                                   UINT32_MAX,
	                                   UINT64_C(1) << 32,
	                                   UINT64_C(1) << 40,
	                                   UINT64_C(1) << 46,
	                                   UINT64_C(1) << 47,
	                                   INT64_MAX,
	                                   UINT64_C(1) << 63,
	                                   UINT64_MAX - 4095,
	                                   UINT64_MAX};
	unsigned have = pool->n < FUZZ_POOL ? pool->n : FUZZ_POOL;
	uint8_t how = fuzz_u8(in);
	uint64_t v;

	if (how < 160 && have > 0)
		return pool->v[how % have];
	if (how < 176 && have > 0) {
		v = pool->v[fuzz_u8(in) % have];
		return how % 2 == 0 ? v + fuzz_u8(in)
		                    : v + fuzz_u8(in) * DSM_PAGE;
	}
	if (how < 216)
		return how - 176u;
	if (how < 240)
		return borders[how % (sizeof(borders) / sizeof(borders[0]))];
	return fuzz_raw(in, how < 248 ? 4 : 8);
}

/* --- messages --- */

static struct dsm_str
make_str(struct fuzz_in *in)
{
	struct dsm_blob b = fuzz_bytes(in, 130);
	const void *nul = b.len > 0 ? memchr(b.ptr, 0, b.len) : NULL;

	if (nul != NULL)
		b.len = (uint32_t)((const uint8_t *)nul - b.ptr);
	return (struct dsm_str){(const char *)b.ptr, b.len};
}

/* Packed records of a message's arrays. */
struct parts {
	struct dsm_wbuf v[MAX_ARRAYS];
	unsigned n;
};

static void
parts_fini(struct parts *parts)
{
	for (unsigned i = 0; i < parts->n; i++)
		dsm__wbuf_fini(&parts->v[i]);
}

/* Records come first in messages.def. */
#define ARGS \
	struct fuzz_in *in, const struct fuzz_pool *pool, struct dsm_wbuf *w
#define RECORD(name)                      \
	static void make_rec_##name(ARGS) \
	{                                 \
		struct dsm_rec_##name m;
#define END_RECORD(name)                              \
	FUZZ_MUST(dsm__pack_##name(w, &m) == DSM_OK); \
	}
#define MESSAGE(NAME, name, number)            \
	static void make_msg_##name(ARGS)      \
	{                                      \
		struct dsm_msg_##name m;       \
		struct parts parts = {.n = 0}; \
		(void)pool;
#define U8(f) m.f = (uint8_t)fuzz_value(in, pool);
#define U16(f) m.f = (uint16_t)fuzz_value(in, pool);
#define U32(f) m.f = (uint32_t)fuzz_value(in, pool);
#define U64(f) m.f = fuzz_value(in, pool);
#define STR(f) m.f = make_str(in);
#define BLOB(f) m.f = fuzz_bytes(in, 300);
#define ARRAY(rec, f)                                        \
	{                                                    \
		struct dsm_wbuf *part = &parts.v[parts.n++]; \
		m.f.n = fuzz_below(in, MAX_RECORDS);         \
		for (uint32_t i = 0; i < m.f.n; i++)         \
			make_rec_##rec(in, pool, part);      \
		m.f.ptr = part->ptr;                         \
	}
#define END(name)                                       \
	FUZZ_MUST(dsm__encode_##name(w, &m) == DSM_OK); \
	parts_fini(&parts);                             \
	}
#include "../../dsm/wire/messages.def"

/* One message in eight is not what it ought to be. */
static void
spoil(struct fuzz_in *in, struct dsm_wbuf *w, size_t from)
{
	uint8_t how = fuzz_u8(in);
	size_t len = w->len - from;
	struct dsm_blob more;

	if (how < 224)
		return;
	if (how < 232) {
		w->len -= len > 0 ? fuzz_raw(in, 2) % len : 0;
	} else if (how < 240) {
		more = fuzz_bytes(in, 40);
		FUZZ_MUST(dsm__wbuf_put(w, more.ptr, more.len) == DSM_OK);
	} else if (len > 0) {
		w->ptr[from + fuzz_raw(in, 2) % len] ^= fuzz_u8(in);
	}
}

void
fuzz_message(struct fuzz_in *in, const struct fuzz_pool *pool, unsigned type,
             struct dsm_wbuf *w)
{
	size_t from = w->len;
	struct dsm_blob b;

	switch (type) {
#define MESSAGE(NAME, name, number)           \
	case number:                          \
		make_msg_##name(in, pool, w); \
		break;
#include "../../dsm/wire/messages.def"
	default:
		b = fuzz_bytes(in, 300);
		FUZZ_MUST(dsm__wbuf_put(w, b.ptr, b.len) == DSM_OK);
	}
	spoil(in, w, from);
}

unsigned
fuzz_type(struct fuzz_in *in)
{
	static const unsigned types[] = {
#define MESSAGE(NAME, name, number) number,
#include "../../dsm/wire/messages.def"
	};

	return types[fuzz_below(in, sizeof(types) / sizeof(types[0]))];
}

/* --- masks --- */

enum { REC_WHOLE, REC_BITMAP, REC_RUNS };

static uint64_t
put_runs(struct fuzz_in *in, struct dsm_wbuf *w)
{
	uint16_t n = (uint16_t)(1 + fuzz_below(in, 3)), v[2];
	uint32_t at = 0;
	uint64_t n_bytes = 0;

	v[0] = htole16(n);
	FUZZ_MUST(dsm__wbuf_put(w, v, 2) == DSM_OK);
	for (unsigned i = 0; i < n; i++) {
		uint32_t off = at + fuzz_u8(in), len = 1 + fuzz_u8(in);

		v[0] = htole16((uint16_t)off);
		v[1] = htole16((uint16_t)len);
		FUZZ_MUST(dsm__wbuf_put(w, v, 4) == DSM_OK);
		at = off + len + 1;
		n_bytes += len;
	}
	return n_bytes;
}

static uint64_t
put_bitmap(struct fuzz_in *in, struct dsm_wbuf *w)
{
	uint64_t n_bytes = 0;

	for (unsigned i = 0; i < DSM_PAGE / 64; i++) {
		uint64_t v = i == 0 ? fuzz_raw(in, 2) | 1 : i % 8 == 3;

		n_bytes += (uint64_t)__builtin_popcountll(v);
		v = htole64(v);
		FUZZ_MUST(dsm__wbuf_put(w, &v, sizeof(v)) == DSM_OK);
	}
	return n_bytes;
}

uint64_t
fuzz_mask(struct fuzz_in *in, uint64_t addr, struct dsm_wbuf *w)
{
	uint64_t page = addr >> DSM_PAGE_SHIFT, n_bytes = 0;
	uint32_t n = 1 + fuzz_below(in, 3), n_pages;

	for (uint32_t i = 0; i < n; i++) {
		uint8_t how = fuzz_u8(in);
		unsigned kind = how < 240 ? how % 3 : how % 16;
		uint64_t head;

		page += how >> 4 & 3;
		head = htole64(page << 4 | kind);
		FUZZ_MUST(dsm__wbuf_put(w, &head, sizeof(head)) == DSM_OK);
		page++;
		if (kind == REC_RUNS) {
			n_bytes += put_runs(in, w);
		} else if (kind == REC_BITMAP) {
			n_bytes += put_bitmap(in, w);
		} else {
			n_pages = htole32(1 + fuzz_below(in, 4));
			FUZZ_MUST(dsm__wbuf_put(w, &n_pages, 4) == DSM_OK);
			n_bytes += le32toh(n_pages) * DSM_PAGE;
			page += le32toh(n_pages) - 1;
		}
	}
	return n_bytes;
}
