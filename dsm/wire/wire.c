/*
 * Every encoder and decoder is an expansion of messages.def. One pass makes the
 * size of the fixed parts, one the encoders, one the decoders; the functions
 * they call, one per kind of field, are all that is written by hand.
 */
#include "wire.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "../base/counters.h"
#include "../base/page.h"

/* --- buffer --- */

int
dsm__wbuf_reserve(struct dsm_wbuf *w, size_t more)
{
	size_t cap = w->cap != 0 ? w->cap : 256;
	uint8_t *ptr;

	if (more <= w->cap - w->len)
		return DSM_OK;
	if (more > SIZE_MAX / 4 - w->len)
		return DSM_ENOMEM;
	while (cap < w->len + more)
		cap *= 2;
	ptr = realloc(w->ptr, cap);
	if (ptr == NULL)
		return DSM_ENOMEM;
	w->ptr = ptr;
	w->cap = cap;
	return DSM_OK;
}

int
dsm__wbuf_put(struct dsm_wbuf *w, const void *p, size_t n)
{
	int err = dsm__wbuf_reserve(w, n);

	if (err != DSM_OK)
		return err;
	if (n > 0)
		memcpy(w->ptr + w->len, p, n);
	w->len += n;
	return DSM_OK;
}

void
dsm__wbuf_reset(struct dsm_wbuf *w)
{
	w->len = 0;
	w->whole_end = 0;
}

void
dsm__wbuf_fini(struct dsm_wbuf *w)
{
	free(w->ptr);
	*w = (struct dsm_wbuf){0};
}

/* --- size of what has a fixed size --- */

#define MESSAGE(NAME, name, number) enum { fixed_##name = 0
#define RECORD(name) enum { size_##name = 0
#define U8(f) +1
#define U16(f) +2
#define U32(f) +4
#define U64(f) +8
#define STR(f) +2
#define BLOB(f) +4
#define ARRAY(rec, f) +4
#define END(name) \
	}         \
	;
#define END_RECORD(name) \
	}                \
	;
#include "messages.def"

_Static_assert(fixed_pages == DSM_PAGES_FIXED, "DSM_PAGES_FIXED is wrong");
_Static_assert((int)size_range == 48, "range records are protocol");

/* --- encoding: the first error sticks --- */

struct enc {
	struct dsm_wbuf *w;
	int err;
};

static void
put(struct enc *e, const void *p, size_t n)
{
	if (e->err == DSM_OK)
		e->err = dsm__wbuf_put(e->w, p, n);
}

static void
put_u16(struct enc *e, uint16_t v)
{
	v = htole16(v);
	put(e, &v, sizeof(v));
}

static void
put_u32(struct enc *e, uint32_t v)
{
	v = htole32(v);
	put(e, &v, sizeof(v));
}

static void
put_u64(struct enc *e, uint64_t v)
{
	v = htole64(v);
	put(e, &v, sizeof(v));
}

static void
put_counted(struct enc *e, uint32_t n, const void *p, size_t size)
{
	if (n > 0 && p == NULL) {
		e->err = DSM_EINVAL;
		return;
	}
	put_u32(e, n);
	put(e, p, n * size);
}

static void
put_str(struct enc *e, struct dsm_str s)
{
	if (s.len > UINT16_MAX ||
	    (s.len > 0 && (s.ptr == NULL || memchr(s.ptr, 0, s.len) != NULL))) {
		e->err = DSM_EINVAL;
		return;
	}
	put_u16(e, (uint16_t)s.len);
	put(e, s.ptr, s.len);
}

static int
enc_end(struct enc *e, size_t len_before)
{
	if (e->err != DSM_OK)
		e->w->len = len_before;
	return e->err;
}

#define BEGIN_ENC                           \
	{                                   \
		struct enc e = {w, DSM_OK}; \
		size_t len_before = w->len;
#define MESSAGE(NAME, name, number)                \
	int dsm__encode_##name(struct dsm_wbuf *w, \
	                       const struct dsm_msg_##name *m) BEGIN_ENC
#define RECORD(name)                             \
	int dsm__pack_##name(struct dsm_wbuf *w, \
	                     const struct dsm_rec_##name *m) BEGIN_ENC
#define U8(f) put(&e, &m->f, 1);
#define U16(f) put_u16(&e, m->f);
#define U32(f) put_u32(&e, m->f);
#define U64(f) put_u64(&e, m->f);
#define STR(f) put_str(&e, m->f);
#define BLOB(f) put_counted(&e, m->f.len, m->f.ptr, 1);
#define ARRAY(rec, f) put_counted(&e, m->f.n, m->f.ptr, size_##rec);
#define END(name)                       \
	return enc_end(&e, len_before); \
	}
#define END_RECORD(name) END(name)
#include "messages.def"

/* --- decoding: the first field that does not fit sticks --- */

struct dec {
	const uint8_t *p;
	size_t left;
	int bad;
};

/* The next n bytes, or NULL. */
static const uint8_t *
take(struct dec *d, size_t n)
{
	const uint8_t *p = d->p;

	if (d->bad || n > d->left) {
		d->bad = 1;
		return NULL;
	}
	d->p += n;
	d->left -= n;
	return p;
}

static uint16_t
get_u16(struct dec *d)
{
	const uint8_t *p = take(d, 2);
	uint16_t v = 0;

	if (p != NULL)
		memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static uint32_t
get_u32(struct dec *d)
{
	const uint8_t *p = take(d, 4);
	uint32_t v = 0;

	if (p != NULL)
		memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t
get_u64(struct dec *d)
{
	const uint8_t *p = take(d, 8);
	uint64_t v = 0;

	if (p != NULL)
		memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static struct dsm_str
get_str(struct dec *d)
{
	uint32_t len = get_u16(d);
	const char *p = (const char *)take(d, len);

	if (p != NULL && len > 0 && memchr(p, 0, len) != NULL)
		d->bad = 1;
	return (struct dsm_str){p, len};
}

static struct dsm_blob
get_blob(struct dec *d)
{
	uint32_t len = get_u32(d);

	return (struct dsm_blob){take(d, len), len};
}

static struct dsm_array
get_array(struct dec *d, size_t size)
{
	uint32_t n = get_u32(d);

	return (struct dsm_array){take(d, n * size), n};
}

static int
dec_end(const struct dec *d, unsigned type)
{
	if (d->bad || (d->left > 0 && type != DSM_MSG_PAGES))
		return DSM_EPROTO;
	return DSM_OK;
}

/* An unpack function is a decoder of one record's bytes. */
#define MESSAGE(NAME, name, number)                             \
	int dsm__decode_##name(const uint8_t *body, size_t len, \
	                       struct dsm_msg_##name *m_p)      \
	{                                                       \
		const unsigned type = number;                   \
		struct dec d = {body, len, 0};                  \
		struct dsm_msg_##name m;
#define RECORD(name)                                                  \
	size_t dsm__sizeof_##name(void)                               \
	{                                                             \
		return size_##name;                                   \
	}                                                             \
	int dsm__unpack_##name(const struct dsm_array *a, uint32_t i, \
	                       struct dsm_rec_##name *m_p)            \
	{                                                             \
		const unsigned type = 0;                              \
		struct dec d = {NULL, size_##name, i >= a->n};        \
		struct dsm_rec_##name m;                              \
		if (i < a->n)                                         \
			d.p = a->ptr + (size_t)i * size_##name;
#define U8(f)                                      \
	{                                          \
		const uint8_t *byte = take(&d, 1); \
		m.f = byte != NULL ? *byte : 0;    \
	}
#define U16(f) m.f = get_u16(&d);
#define U32(f) m.f = get_u32(&d);
#define U64(f) m.f = get_u64(&d);
#define STR(f) m.f = get_str(&d);
#define BLOB(f) m.f = get_blob(&d);
#define ARRAY(rec, f) m.f = get_array(&d, size_##rec);
#define END(name)                        \
	if (dec_end(&d, type) != DSM_OK) \
		return DSM_EPROTO;       \
	*m_p = m;                        \
	return DSM_OK;                   \
	}
#define END_RECORD(name) END(name)
#include "messages.def"

/* --- odds and ends --- */

const char *
dsm__msg_name(unsigned type)
{
	switch (type) {
#define MESSAGE(NAME, name, number) \
	case number:                \
		return #NAME;
#include "messages.def"
	default:
		return "?";
	}
}

char *
dsm__str_copy(char *buf, size_t size, struct dsm_str s)
{
	size_t n = s.len < size ? s.len : size - 1;

	if (n > 0)
		memcpy(buf, s.ptr, n);
	buf[n] = '\0';
	return buf;
}

struct dsm_str
dsm__str(const char *s)
{
	size_t len = s != NULL ? strlen(s) : 0;

	/* Longer than any STR: the encoder says no. */
	return (struct dsm_str){s,
	                        len > UINT32_MAX ? UINT32_MAX : (uint32_t)len};
}

int
dsm__places_check(const struct dsm_array *places)
{
	struct dsm_rec_place r;

	if (places->n > DSM_FETCHED_MAX)
		return DSM_EPROTO;
	for (uint32_t i = 0; i < places->n; i++)
		if (dsm__unpack_place(places, i, &r) != DSM_OK ||
		    r.start % DSM_PAGE != 0 || r.start > UINT64_MAX / 2 ||
		    r.n_pages > DSM_READ_MAX)
			return DSM_EPROTO;
	return DSM_OK;
}

int
dsm__costs_check(const struct dsm_msg_costs *m)
{
	struct dsm_rec_cost r;

	if (m->costs.n > DSM_COSTS_MAX || m->texts.len > DSM_COSTS_TEXT)
		return DSM_EPROTO;
	for (uint32_t i = 0; i < m->costs.n; i++)
		if (dsm__unpack_cost(&m->costs, i, &r) != DSM_OK ||
		    r.text_off > m->texts.len ||
		    r.text_len > m->texts.len - r.text_off)
			return DSM_EPROTO;
	return DSM_OK;
}

int
dsm__counters_pack(struct dsm_wbuf *w, const void *counters)
{
	const uint64_t *c = counters;
	struct enc e = {w, DSM_OK};
	size_t len_before = w->len;

	for (size_t i = 0; i < DSM_N_COUNTERS; i++)
		put_u64(&e, c[i]);
	return enc_end(&e, len_before);
}

void
dsm__counters_unpack(struct dsm_blob b, void *counters)
{
	uint64_t *c = counters;
	struct dec d = {b.ptr, b.len, 0};

	/* get_u64 gives 0 past the end. */
	for (size_t i = 0; i < DSM_N_COUNTERS; i++)
		c[i] = get_u64(&d);
}
