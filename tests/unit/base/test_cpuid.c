/* CPU feature words: which machine may run whose code. */
#include "../../../dsm/base/cpuid.h"
#include "../../test.h"

static void
test_this_machine_suits_itself(void)
{
	char missing[32] = "untouched";
	size_t len;
	const uint8_t *w = dsm__cpu_words(&len);

	MUST_BE(len % 4, 0);
	MUST_BE(dsm__cpu_suits(w, len, w, len, missing), 1);
	MUST(strcmp(missing, "untouched") == 0);
}

static void
test_words_are_the_same_every_time(void)
{
	size_t len_a, len_b;
	const uint8_t *a = dsm__cpu_words(&len_a);
	const uint8_t *b = dsm__cpu_words(&len_b);

	MUST(a == b);
	MUST_BE(len_a, len_b);
}

static void
test_a_client_without_features_suits_everywhere(void)
{
	const uint8_t need[48] = {0}, have[48] = {0};
	char missing[32];

	MUST_BE(dsm__cpu_suits(need, 48, have, 48, missing), 1);
	MUST_BE(dsm__cpu_suits(NULL, 0, have, 48, missing), 1);
	MUST_BE(dsm__cpu_suits(need, 48, NULL, 0, missing), 1);
}

#if defined(__x86_64__)
static void
set(uint8_t *words, unsigned word, unsigned bit)
{
	words[4 * word + bit / 8] |= (uint8_t)(1u << bit % 8);
}

static void
test_the_first_missing_feature_is_named(void)
{
	uint8_t need[48] = {0}, have[48] = {0};
	char missing[32];

	set(need, 2, 16); /* avx512f */
	set(need, 2, 5);  /* avx2 */
	MUST_BE(dsm__cpu_suits(need, 48, have, 48, missing), 0);
	MUST(strcmp(missing, "avx512f") == 0);
	set(have, 2, 16);
	MUST_BE(dsm__cpu_suits(need, 48, have, 48, missing), 0);
	MUST(strcmp(missing, "avx2") == 0);
	set(have, 2, 5);
	MUST_BE(dsm__cpu_suits(need, 48, have, 48, missing), 1);
}

static void
test_more_features_than_needed_do_no_harm(void)
{
	uint8_t need[48] = {0}, have[48];
	char missing[32];

	memset(have, 0xff, sizeof(have));
	set(need, 2, 5);
	MUST_BE(dsm__cpu_suits(need, 48, have, 48, missing), 1);
}

static void
test_an_unknown_feature_of_a_newer_peer_is_missing(void)
{
	uint8_t need[52] = {0}, have[48];
	char missing[32];

	memset(have, 0xff, sizeof(have));
	set(need, 12, 3);
	MUST_BE(dsm__cpu_suits(need, 52, have, 48, missing), 0);
	MUST(strcmp(missing, "feature word 12 bit 3") == 0);
}

static void
test_words_that_end_early_lack_the_rest(void)
{
	uint8_t need[48] = {0}, have[8];
	char missing[32];

	memset(have, 0xff, sizeof(have));
	set(need, 2, 5);
	MUST_BE(dsm__cpu_suits(need, 48, have, 8, missing), 0);
	MUST(strcmp(missing, "avx2") == 0);
	MUST_BE(dsm__cpu_suits(need, 8, have, 8, missing), 1);
}

static void
test_sse2_is_always_there(void)
{
	size_t len;
	const uint8_t *w = dsm__cpu_words(&len);

	MUST_BE(len, DSM_CPU_WORDS * 4);
	MUST(w[4 * 1 + 3] & 1u << 2);
}

#define X86_TESTS                                                  \
	, T(test_the_first_missing_feature_is_named),              \
	    T(test_more_features_than_needed_do_no_harm),          \
	    T(test_an_unknown_feature_of_a_newer_peer_is_missing), \
	    T(test_words_that_end_early_lack_the_rest),            \
	    T(test_sse2_is_always_there)
#else
#define X86_TESTS
#endif

SUITE(dsm_base_cpuid, "dsm.base.cpuid", T(test_this_machine_suits_itself),
      T(test_words_are_the_same_every_time),
      T(test_a_client_without_features_suits_everywhere) X86_TESTS);
