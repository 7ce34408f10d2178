/*
 * CPU feature words: what a client's code may use and a worker's CPU must have.
 * libc's ifuncs choose code by these at the client's start, so a worker that
 * lacks one that the client has would die of SIGILL. x86-64: leaves 1, 7.0, 7.1,
 * 0xd.1, 0x80000001 and XCR0, 32 bits each, ids and topology masked out.
 */
#ifndef DSM_BASE_CPUID_H
#define DSM_BASE_CPUID_H

#include <stddef.h>
#include <stdint.h>

#define DSM_CPU_WORDS 12

/* This machine's words; bytes little-endian, ready for the wire. */
const uint8_t *dsm__cpu_words(size_t *len_p);
/*
 * 1 when a machine with words `have` runs code chosen for `need`. Otherwise 0 and
 * the name of the first missing feature in missing ("avx512f").
 */
int dsm__cpu_suits(const uint8_t *need, size_t need_len, const uint8_t *have,
                   size_t have_len, char missing[32]);

#endif
