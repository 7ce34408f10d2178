/*
 * CPU feature words from cpuid. The table below lists what counts, and the words
 * hold no other bits: what compilers and libc choose code by. Left out are hints
 * (ERMS), ids, what only a kernel uses, and instructions that one maker alone has
 * and next to nobody uses (sse4a, mmxext, waitpkg): with these no cluster of mixed
 * makes would ever suit. Where several features are missing the first of the table
 * is named, so the telling ones come first.
 */
#include "cpuid.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>

enum word {
	L1_ECX,
	L1_EDX,
	L7_EBX,
	L7_ECX,
	L7_EDX,
	L71_EAX,
	L71_EBX,
	L71_EDX,
	LD1_EAX,
	EXT_ECX,
	EXT_EDX,
	XCR0,
};
_Static_assert(XCR0 + 1 == DSM_CPU_WORDS, "one word each");

static const struct feature {
	uint8_t word, bit;
	char name[17];
} features[] = {
    {L7_EBX, 16, "avx512f"},
    {L7_EBX, 5, "avx2"},
    {L1_ECX, 28, "avx"},
    {L1_ECX, 12, "fma"},
    {L7_EBX, 17, "avx512dq"},
    {L7_EBX, 30, "avx512bw"},
    {L7_EBX, 31, "avx512vl"},
    {L7_EBX, 28, "avx512cd"},
    {L7_EBX, 21, "avx512ifma"},
    {L7_EBX, 26, "avx512pf"},
    {L7_EBX, 27, "avx512er"},
    {L7_ECX, 1, "avx512vbmi"},
    {L7_ECX, 6, "avx512_vbmi2"},
    {L7_ECX, 11, "avx512_vnni"},
    {L7_ECX, 12, "avx512_bitalg"},
    {L7_ECX, 14, "avx512_vpopcntdq"},
    {L7_EDX, 2, "avx512_4vnniw"},
    {L7_EDX, 3, "avx512_4fmaps"},
    {L7_EDX, 8, "avx512_vp2inters"},
    {L7_EDX, 23, "avx512_fp16"},
    {L71_EAX, 5, "avx512_bf16"},
    {L71_EDX, 19, "avx10"},
    {L71_EDX, 21, "apx"},
    {L7_EDX, 24, "amx_tile"},
    {L7_EDX, 22, "amx_bf16"},
    {L7_EDX, 25, "amx_int8"},
    {L71_EAX, 21, "amx_fp16"},
    {L71_EDX, 8, "amx_complex"},
    {L71_EAX, 4, "avx_vnni"},
    {L71_EAX, 23, "avx_ifma"},
    {L71_EDX, 4, "avx_vnni_int8"},
    {L71_EDX, 5, "avx_ne_convert"},
    {L71_EDX, 10, "avx_vnni_int16"},
    {L7_EBX, 3, "bmi1"},
    {L7_EBX, 8, "bmi2"},
    {EXT_ECX, 5, "lzcnt"},
    {L1_ECX, 20, "sse4_2"},
    {L1_ECX, 19, "sse4_1"},
    {L1_ECX, 9, "ssse3"},
    {L1_ECX, 0, "sse3"},
    {L1_ECX, 23, "popcnt"},
    {L1_ECX, 22, "movbe"},
    {L1_ECX, 29, "f16c"},
    {L1_ECX, 25, "aes"},
    {L1_ECX, 1, "pclmulqdq"},
    {L7_EBX, 29, "sha"},
    {L71_EAX, 0, "sha512"},
    {L71_EAX, 1, "sm3"},
    {L71_EAX, 2, "sm4"},
    {L7_ECX, 8, "gfni"},
    {L7_ECX, 9, "vaes"},
    {L7_ECX, 10, "vpclmulqdq"},
    {L7_EBX, 19, "adx"},
    {L7_EBX, 11, "rtm"},
    {L7_EBX, 0, "fsgsbase"},
    {L1_ECX, 30, "rdrand"},
    {L7_EBX, 18, "rdseed"},
    {L7_ECX, 22, "rdpid"},
    {EXT_EDX, 27, "rdtscp"},
    {L1_ECX, 26, "xsave"},
    {L1_ECX, 27, "osxsave"},
    {LD1_EAX, 0, "xsaveopt"},
    {LD1_EAX, 1, "xsavec"},
    {LD1_EAX, 2, "xgetbv1"},
    {L1_ECX, 13, "cx16"},
    {EXT_ECX, 0, "lahf_lm"},
    {EXT_ECX, 11, "xop"},
    {EXT_ECX, 16, "fma4"},
    {EXT_ECX, 21, "tbm"},
    {L1_EDX, 0, "fpu"},
    {L1_EDX, 4, "tsc"},
    {L1_EDX, 8, "cx8"},
    {L1_EDX, 15, "cmov"},
    {L1_EDX, 19, "clflush"},
    {L1_EDX, 23, "mmx"},
    {L1_EDX, 24, "fxsr"},
    {L1_EDX, 25, "sse"},
    {L1_EDX, 26, "sse2"},
    /* Registers that the kernel saves: what it does not, is not there. */
    {XCR0, 1, "xcr0 sse"},
    {XCR0, 2, "xcr0 avx"},
    {XCR0, 5, "xcr0 opmask"},
    {XCR0, 6, "xcr0 zmm"},
    {XCR0, 7, "xcr0 zmm16"},
    {XCR0, 17, "xcr0 tilecfg"},
    {XCR0, 18, "xcr0 tiledata"},
};
#define N_FEATURES (sizeof(features) / sizeof(features[0]))

static void
read_words(uint32_t w[DSM_CPU_WORDS])
{
	uint32_t a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d)) {
		w[L1_ECX] = c;
		w[L1_EDX] = d;
	}
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		uint32_t last = a;

		w[L7_EBX] = b;
		w[L7_ECX] = c;
		w[L7_EDX] = d;
		if (last >= 1) {
			__cpuid_count(7, 1, a, b, c, d);
			w[L71_EAX] = a;
			w[L71_EBX] = b;
			w[L71_EDX] = d;
		}
	}
	if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d))
		w[LD1_EAX] = a;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
		w[EXT_ECX] = c;
		w[EXT_EDX] = d;
	}
	if (w[L1_ECX] & bit_OSXSAVE) {
		__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
		w[XCR0] = a;
	}
}

#else /* no features to compare: the architecture itself is in HELLO */

static const struct feature {
	uint8_t word, bit;
	char name[17];
} features[1];
#define N_FEATURES 0

static void
read_words(uint32_t w[DSM_CPU_WORDS])
{
	(void)w;
}

#endif

/* Once for the process: const after it is filled in. */
static uint8_t words_le[DSM_CPU_WORDS * 4];

static void
fill_words(void)
{
	uint32_t raw[DSM_CPU_WORDS] = {0}, known[DSM_CPU_WORDS] = {0};

	read_words(raw);
	for (size_t i = 0; i < N_FEATURES; i++)
		known[features[i].word] |= UINT32_C(1) << features[i].bit;
	for (unsigned i = 0; i < DSM_CPU_WORDS; i++)
		for (unsigned k = 0; k < 4; k++)
			words_le[4 * i + k] =
			    (uint8_t)((raw[i] & known[i]) >> (8 * k));
}

const uint8_t *
dsm__cpu_words(size_t *len_p)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, fill_words);
	*len_p = N_FEATURES > 0 ? sizeof(words_le) : 0;
	return words_le;
}

/* Bytes that are not there are zero: none of their features. */
static unsigned
lacks(const uint8_t *need, const uint8_t *have, size_t have_len, size_t byte)
{
	return need[byte] & ~(byte < have_len ? have[byte] : 0u);
}

int
dsm__cpu_suits(const uint8_t *need, size_t need_len, const uint8_t *have,
               size_t have_len, char missing[32])
{
	for (size_t i = 0; i < N_FEATURES; i++) {
		const struct feature *f = &features[i];
		size_t byte = f->word * 4u + f->bit / 8u;

		if (byte < need_len &&
		    lacks(need, have, have_len, byte) & 1u << f->bit % 8u) {
			snprintf(missing, 32, "%s", f->name);
			return 0;
		}
	}
	/* A newer peer's client may know more features than we do. */
	for (size_t byte = 0; byte < need_len; byte++) {
		unsigned bits = lacks(need, have, have_len, byte);

		if (bits != 0) {
			snprintf(missing, 32, "feature word %u bit %u",
			         (unsigned)(byte / 4 % 1000),
			         (unsigned)(byte % 4 * 8) +
			             (unsigned)__builtin_ctz(bits));
			return 0;
		}
	}
	return 1;
}
