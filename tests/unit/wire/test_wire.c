/* Messages: what messages.def grows, message by message, by the same table. */
#include "../../test.h"

#include <stdlib.h>

#include "../../../dsm/base/counters.h"
#include "../../../dsm/wire/wire.h"

#define ROUNDS 50

/* --- random messages --- */

/* Backing store of one random message's strings, blobs and arrays. */
struct pool {
	uint64_t *rng;
	uint8_t bytes[1 << 16];
	size_t used;
};

static void *
pool_take(struct pool *p, uint32_t len, int no_nul)
{
	uint8_t *start = p->bytes + p->used;

	MUST(p->used + len <= sizeof(p->bytes));
	for (uint32_t i = 0; i < len; i++) {
		start[i] = (uint8_t)test_rand(p->rng);
		if (no_nul && start[i] == 0)
			start[i] = 'x';
	}
	p->used += len;
	return start;
}

static uint32_t
some(struct pool *p)
{
	return (uint32_t)(test_rand(p->rng) % 20);
}

#define MESSAGE(NAME, name, number)                                       \
	static void fill_##name(struct dsm_msg_##name *m, struct pool *p) \
	{                                                                 \
		uint32_t n = 0;                                           \
		(void)n;
#define U8(f) m->f = (uint8_t)test_rand(p->rng);
#define U16(f) m->f = (uint16_t)test_rand(p->rng);
#define U32(f) m->f = (uint32_t)test_rand(p->rng);
#define U64(f) m->f = test_rand(p->rng);
#define STR(f)       \
	n = some(p); \
	m->f = (struct dsm_str){pool_take(p, n, 1), n};
#define BLOB(f)      \
	n = some(p); \
	m->f = (struct dsm_blob){pool_take(p, n, 0), n};
#define ARRAY(rec, f)              \
	n = some(p);               \
	m->f = (struct dsm_array){ \
	    pool_take(p, n * (uint32_t)dsm__sizeof_##rec(), 0), n};
#define END(name) }
#define RECORD(name)                                                          \
	static void fill_rec_##name(struct dsm_rec_##name *m, struct pool *p) \
	{
#define END_RECORD(name) }
#include "../../../dsm/wire/messages.def"

/* --- comparing --- */

#define SAME_BYTES(a, b, n) MUST((n) == 0 || memcmp((a), (b), (n)) == 0)
#define MESSAGE(NAME, name, number)                             \
	static void same_##name(const struct dsm_msg_##name *a, \
	                        const struct dsm_msg_##name *b) \
	{
#define RECORD(name)                                                \
	static void same_rec_##name(const struct dsm_rec_##name *a, \
	                            const struct dsm_rec_##name *b) \
	{
#define U8(f) MUST_BE(a->f, b->f);
#define U16(f) MUST_BE(a->f, b->f);
#define U32(f) MUST_BE(a->f, b->f);
#define U64(f) MUST_BE(a->f, b->f);
#define STR(f)                       \
	MUST_BE(a->f.len, b->f.len); \
	SAME_BYTES(a->f.ptr, b->f.ptr, a->f.len);
#define BLOB(f) STR(f)
#define ARRAY(rec, f)            \
	MUST_BE(a->f.n, b->f.n); \
	SAME_BYTES(a->f.ptr, b->f.ptr, a->f.n *dsm__sizeof_##rec());
#define END(name) }
#define END_RECORD(name) }
#include "../../../dsm/wire/messages.def"

/* --- the checks every message goes through --- */

/*
 * A copy of exactly len bytes on the heap, so that the sanitizers see a decoder
 * that reads one byte too many.
 */
static uint8_t *
exact_copy(const uint8_t *p, size_t len)
{
	uint8_t *copy = malloc(len != 0 ? len : 1);

	MUST(copy != NULL);
	if (len > 0)
		memcpy(copy, p, len);
	return copy;
}

#define MESSAGE(NAME, name, number)                                         \
	static void round_trip_##name(struct pool *p)                       \
	{                                                                   \
		struct dsm_msg_##name m, back;                              \
		struct dsm_wbuf w = {0};                                    \
		fill_##name(&m, p);                                         \
		MUST_OK(dsm__encode_##name(&w, &m));                        \
		MUST_OK(dsm__decode_##name(w.ptr, w.len, &back));           \
		same_##name(&m, &back);                                     \
		dsm__wbuf_fini(&w);                                         \
	}                                                                   \
	static void truncate_##name(struct pool *p)                         \
	{                                                                   \
		struct dsm_msg_##name m, back, untouched;                   \
		struct dsm_wbuf w = {0};                                    \
		fill_##name(&m, p);                                         \
		memset(&back, 0x5a, sizeof(back));                          \
		memcpy(&untouched, &back, sizeof(back));                    \
		MUST_OK(dsm__encode_##name(&w, &m));                        \
		for (size_t len = 0; len < w.len; len++) {                  \
			uint8_t *cut = exact_copy(w.ptr, len);              \
			MUST_BE(dsm__decode_##name(cut, len, &back),        \
			        DSM_EPROTO);                                \
			MUST(memcmp(&back, &untouched, sizeof(back)) == 0); \
			free(cut);                                          \
		}                                                           \
		MUST_OK(dsm__wbuf_put(&w, "", 1));                          \
		MUST_BE(dsm__decode_##name(w.ptr, w.len, &back),            \
		        number == DSM_MSG_PAGES ? DSM_OK : DSM_EPROTO);     \
		dsm__wbuf_fini(&w);                                         \
	}
#define RECORD(name)                                                   \
	static void round_trip_rec_##name(struct pool *p)              \
	{                                                              \
		struct dsm_rec_##name m[2], back;                      \
		struct dsm_wbuf w = {0};                               \
		struct dsm_array a;                                    \
		for (int i = 0; i < 2; i++) {                          \
			fill_rec_##name(&m[i], p);                     \
			MUST_OK(dsm__pack_##name(&w, &m[i]));          \
		}                                                      \
		MUST_BE(w.len, 2 * dsm__sizeof_##name());              \
		a = (struct dsm_array){w.ptr, 2};                      \
		for (uint32_t i = 0; i < 2; i++) {                     \
			MUST_OK(dsm__unpack_##name(&a, i, &back));     \
			same_rec_##name(&m[i], &back);                 \
		}                                                      \
		MUST_BE(dsm__unpack_##name(&a, 2, &back), DSM_EPROTO); \
		dsm__wbuf_fini(&w);                                    \
	}
#include "../../../dsm/wire/messages.def"

static struct pool pool;

static void
each_message(uint64_t seed, int truncated)
{
	pool.rng = &seed;
	for (int i = 0; i < (truncated ? 3 : ROUNDS); i++) {
#define MESSAGE(NAME, name, number) \
	pool.used = 0;              \
	(truncated ? truncate_##name : round_trip_##name)(&pool);
#include "../../../dsm/wire/messages.def"
	}
}

static void
test_every_message_comes_back_as_it_was_sent(void)
{
	each_message(test_seed(), 0);
}

static void
test_every_truncation_of_every_message_is_refused(void)
{
	each_message(test_seed(), 1);
}

static void
test_every_record_comes_back_as_it_was_packed(void)
{
	uint64_t seed = test_seed();

	pool.rng = &seed;
#define RECORD(name) round_trip_rec_##name(&pool);
#include "../../../dsm/wire/messages.def"
}

/* --- single cases --- */

static void
test_message_numbers_are_unique_and_named(void)
{
	unsigned char seen[256] = {0};

#define MESSAGE(NAME, name, number)                            \
	MUST((number) > 0 && (number) < 256 && !seen[number]); \
	seen[number] = 1;                                      \
	MUST(strcmp(dsm__msg_name(number), #NAME) == 0);
#include "../../../dsm/wire/messages.def"
	MUST(strcmp(dsm__msg_name(0), "?") == 0);
	MUST(strcmp(dsm__msg_name(255), "?") == 0);
}

static void
test_array_count_beyond_the_body_is_refused(void)
{
	const struct dsm_msg_ranges m = {{NULL, 0}};
	struct dsm_msg_ranges back;
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_ranges(&w, &m));
	memset(w.ptr, 0xff, 4);
	MUST_BE(dsm__decode_ranges(w.ptr, w.len, &back), DSM_EPROTO);
	dsm__wbuf_fini(&w);
}

static void
test_encoder_refuses_what_no_decoder_takes(void)
{
	static char longer[70000];
	struct dsm_msg_refuse m = {1, {longer, UINT16_MAX + 1}};
	struct dsm_msg_ranges no_ptr = {{NULL, 1}};
	struct dsm_wbuf w = {0};

	memset(longer, 'a', sizeof(longer) - 1);
	MUST_OK(dsm__wbuf_put(&w, "before", 6));
	MUST_BE(dsm__encode_refuse(&w, &m), DSM_EINVAL);
	m.text = (struct dsm_str){"a\0b", 3};
	MUST_BE(dsm__encode_refuse(&w, &m), DSM_EINVAL);
	MUST_BE(dsm__encode_ranges(&w, &no_ptr), DSM_EINVAL);
	MUST_BE(w.len, 6);
	m.text = (struct dsm_str){longer, UINT16_MAX};
	MUST_OK(dsm__encode_refuse(&w, &m));
	dsm__wbuf_fini(&w);
}

static void
test_string_with_a_nul_inside_is_refused(void)
{
	static const uint8_t body[] = {3, 0, 'a', 0, 'b'};
	struct dsm_msg_stat_reply m;

	MUST_BE(dsm__decode_stat_reply(body, sizeof(body), &m), DSM_EPROTO);
}

static void
test_page_bytes_follow_the_fields_of_pages(void)
{
	const struct dsm_msg_pages m = {.run = 1, .addr = 4096, .n_pages = 1};
	struct dsm_msg_pages back;
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_pages(&w, &m));
	MUST_BE(w.len, DSM_PAGES_FIXED);
	MUST_OK(dsm__wbuf_put(&w, "page bytes", 10));
	MUST_OK(dsm__decode_pages(w.ptr, w.len, &back));
	MUST_BE(back.addr, 4096);
	dsm__wbuf_fini(&w);
}

static void
test_copied_string_is_cut_and_terminated(void)
{
	char buf[4];

	MUST(strcmp(dsm__str_copy(buf, sizeof(buf), dsm__str("abcdef")),
	            "abc") == 0);
	MUST(strcmp(dsm__str_copy(buf, sizeof(buf), dsm__str("ab")), "ab") ==
	     0);
	MUST(strcmp(dsm__str_copy(buf, sizeof(buf), dsm__str(NULL)), "") == 0);
}

static void
test_counters_of_an_older_or_newer_peer_are_taken(void)
{
	struct dsm_counters c, back;
	uint64_t *v = (uint64_t *)&c;
	struct dsm_wbuf w = {0};
	uint32_t len;

	for (size_t i = 0; i < DSM_N_COUNTERS; i++)
		v[i] = i + 1;
	MUST_OK(dsm__counters_pack(&w, &c));
	len = (uint32_t)w.len;
	MUST_OK(dsm__wbuf_put(&w, "newer..", 8));
	dsm__counters_unpack((struct dsm_blob){w.ptr, len + 8}, &back);
	MUST(memcmp(&c, &back, sizeof(c)) == 0);
	dsm__counters_unpack((struct dsm_blob){w.ptr, 16}, &back);
	MUST_BE(((uint64_t *)&back)[1], 2);
	MUST_BE(((uint64_t *)&back)[2], 0);
	MUST_BE(((uint64_t *)&back)[DSM_N_COUNTERS - 1], 0);
	dsm__counters_unpack((struct dsm_blob){NULL, 0}, &back);
	MUST_BE(back.tasks, 0);
	dsm__wbuf_fini(&w);
}

/* --- tests/golden: bytes written down by hand --- */

static size_t
golden(const char *name, uint8_t *buf, size_t cap)
{
	char path[128], line[512];
	size_t len = 0;
	unsigned byte;
	FILE *f;

	snprintf(path, sizeof(path), "tests/golden/%s.hex", name);
	f = fopen(path, "r");
	if (f == NULL)
		printf("    no %s: run the tests in the top folder\n", path);
	MUST(f != NULL);
	while (fgets(line, sizeof(line), f) != NULL) {
		char *p = line;
		int n;

		line[strcspn(line, "#")] = '\0';
		for (; sscanf(p, "%2x%n", &byte, &n) == 1; p += n) {
			MUST(len < cap);
			buf[len++] = (uint8_t)byte;
		}
	}
	fclose(f);
	return len;
}

static void
must_equal(struct dsm_wbuf *w, const char *name)
{
	uint8_t buf[1024];
	size_t len = golden(name, buf, sizeof(buf));

	MUST_BE(w->len, len);
	for (size_t i = 0; i < len; i++)
		MUST_BE(w->ptr[i], buf[i]);
	dsm__wbuf_fini(w);
}

static void
test_hello_has_its_golden_bytes(void)
{
	static const uint8_t cpu[4] = {1, 2, 3, 4};
	const struct dsm_msg_hello m = {.magic = DSM_MAGIC,
	                                .version = 1,
	                                .role = DSM_ROLE_WORKER,
	                                .features = 5,
	                                .page_size = 4096,
	                                .arch = 62,
	                                .pid = 1234,
	                                .n_slots = 2,
	                                .cpu = {cpu, 4},
	                                .name = dsm__str("node1")};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_hello(&w, &m));
	must_equal(&w, "hello");
}

static void
test_exec_has_its_golden_bytes(void)
{
	const struct dsm_msg_exec m = {0x0102030405060708, 3, 17, 100, 200};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_exec(&w, &m));
	must_equal(&w, "exec");
}

static void
test_read_has_its_golden_bytes(void)
{
	const struct dsm_msg_read m = {3, 0x7f1234567000, 16, 0};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__encode_read(&w, &m));
	must_equal(&w, "read");
}

static void
test_done_has_its_golden_bytes(void)
{
	const struct dsm_rec_taskset set = {100, 0, 14};
	const struct dsm_rec_failure failure = {101, 0x10, 1, 11, 0, 5, 0};
	/* stored, 14 bytes: page 0x12345, one run of 4 bytes at offset 8 */
	static const uint8_t masks[] = {0, 14, 0, 0, 0, 0x52, 0x34, 0x12, 0, 0,
	                                0, 0,  0, 1, 0, 8,    0,    4,    0};
	struct dsm_wbuf sets = {0}, failures = {0}, w = {0};
	struct dsm_msg_done m = {.session = 1,
	                         .run = 3,
	                         .attempt = 17,
	                         .n_bytes = 4,
	                         .masks = {masks, sizeof(masks)},
	                         .texts = {(const uint8_t *)"crash", 5}};

	MUST_OK(dsm__pack_taskset(&sets, &set));
	MUST_OK(dsm__pack_failure(&failures, &failure));
	m.sets = (struct dsm_array){sets.ptr, 1};
	m.failures = (struct dsm_array){failures.ptr, 1};
	MUST_OK(dsm__encode_done(&w, &m));
	must_equal(&w, "done");
	dsm__wbuf_fini(&sets);
	dsm__wbuf_fini(&failures);
}

static int
check_cost(uint32_t n, uint32_t off, uint32_t len)
{
	const struct dsm_rec_cost r = {.text_off = off, .text_len = len};
	struct dsm_msg_costs m = {.texts = {(const uint8_t *)"array", 5}};
	struct dsm_wbuf w = {0};
	int err;

	for (uint32_t i = 0; i < n; i++)
		MUST_OK(dsm__pack_cost(&w, &r));
	m.costs = (struct dsm_array){w.ptr, n};
	err = dsm__costs_check(&m);
	dsm__wbuf_fini(&w);
	return err;
}

static void
test_costs_are_few_and_their_texts_inside(void)
{
	MUST_OK(check_cost(0, 0, 0));
	MUST_OK(check_cost(DSM_COSTS_MAX, 2, 3));
	MUST_BE(check_cost(DSM_COSTS_MAX + 1, 0, 0), DSM_EPROTO);
	MUST_BE(check_cost(1, 6, 0), DSM_EPROTO);
	MUST_BE(check_cost(1, 2, 4), DSM_EPROTO);
	MUST_BE(check_cost(1, 1, UINT32_MAX), DSM_EPROTO);
}

SUITE(dsm_wire_wire, "dsm.wire.wire",
      T(test_every_message_comes_back_as_it_was_sent),
      T(test_every_truncation_of_every_message_is_refused),
      T(test_every_record_comes_back_as_it_was_packed),
      T(test_message_numbers_are_unique_and_named),
      T(test_array_count_beyond_the_body_is_refused),
      T(test_encoder_refuses_what_no_decoder_takes),
      T(test_string_with_a_nul_inside_is_refused),
      T(test_page_bytes_follow_the_fields_of_pages),
      T(test_copied_string_is_cut_and_terminated),
      T(test_counters_of_an_older_or_newer_peer_are_taken),
      T(test_hello_has_its_golden_bytes), T(test_exec_has_its_golden_bytes),
      T(test_read_has_its_golden_bytes),
      T(test_costs_are_few_and_their_texts_inside),
      T(test_done_has_its_golden_bytes));
