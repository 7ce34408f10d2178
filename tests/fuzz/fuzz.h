/*
 * What fuzz targets share: reading an input as choices, and making messages of them.
 *
 * A target whose input is a *script* takes it byte by byte as a list of choices
 * (which peer, which message, which values), so that most inputs get far; behind the
 * end every choice is 0. Values come mostly from a pool that the target fills with
 * what makes sense at the time: numbers of sessions, runs and attempts, addresses.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "../../dsm/wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise: say which and end, so that the input is kept. */
#define FUZZ_MUST(cond)                                       \
	do {                                                  \
		if (!(cond))                                  \
			fuzz_fail(__FILE__, __LINE__, #cond); \
	} while (0)
void __attribute__((noreturn))
fuzz_fail(const char *file, int line, const char *cond);

struct fuzz_in {
	const uint8_t *p, *end;
};
struct fuzz_in fuzz_in(const uint8_t *data, size_t size);
int fuzz_more(const struct fuzz_in *in); /* 0: at the end */
uint8_t fuzz_u8(struct fuzz_in *in);
uint64_t fuzz_raw(struct fuzz_in *in, unsigned n_bytes); /* little-endian */
uint32_t fuzz_below(struct fuzz_in *in, uint32_t n);     /* 0 for n 0 */
/* Up to max bytes of the input, as they are. */
struct dsm_blob fuzz_bytes(struct fuzz_in *in, uint32_t max);

/* Values that make sense; the oldest are forgotten. */
#define FUZZ_POOL 24u
struct fuzz_pool {
	uint64_t v[FUZZ_POOL];
	unsigned n; /* ever put */
};
void fuzz_pool_put(struct fuzz_pool *pool, uint64_t v);
/* One of the pool, or near one, or a small one, or at a border, or any. */
uint64_t fuzz_value(struct fuzz_in *in, const struct fuzz_pool *pool);

/*
 * The body of a message of that type, with fields chosen by the input, appended to
 * w; now and then cut, continued or changed in one byte. An unknown type: bytes.
 */
void fuzz_message(struct fuzz_in *in, const struct fuzz_pool *pool,
                  unsigned type, struct dsm_wbuf *w);
/* Of all message types one. */
unsigned fuzz_type(struct fuzz_in *in);

/* A mask of a few pages from that address on (WHOLE, BITMAP and RUNS records), mostly
 * well-formed, and how many bytes it names. */
uint64_t fuzz_mask(struct fuzz_in *in, uint64_t addr, struct dsm_wbuf *w);

/* Before the first input: log nothing, so that what is seen is what failed. */
void fuzz_quiet(void);

#endif
