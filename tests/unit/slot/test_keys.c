/* The slot's table of registered parts of the heap. */
#include "../../../dsm/base/page.h"
#include "../../../taskrt/slot/keys.h"
#include "../../test.h"

#define BASE UINT64_C(0x10000000000)
#define AT(page) (BASE + (page)*DSM_PAGE)
#define REMOTE UINT64_C(0x700000000000)

static int
add(struct keys *k, uint64_t lo, uint64_t hi, uint32_t rkey)
{
	const struct dsm_rec_region r = {.start = AT(lo),
	                                 .end = AT(hi),
	                                 .remote = REMOTE + AT(lo),
	                                 .rkey = rkey};
	struct dsm_wbuf w = {0};
	int err;

	MUST_OK(dsm__pack_region(&w, &r));
	err = keys_add(k, &(struct dsm_array){w.ptr, 1});
	dsm__wbuf_fini(&w);
	return err;
}

/* -1: nothing is known of that page. */
static long
key_of(const struct keys *k, uint64_t page)
{
	const struct dsm_rec_region *r = keys_find(k, AT(page) + 5);

	if (r == NULL)
		return -1;
	MUST(r->start <= AT(page) && AT(page) < r->end);
	MUST_BE(r->remote, REMOTE + r->start);
	return (long)r->rkey;
}

static void
test_a_region_is_found_by_its_addresses_and_no_others(void)
{
	struct keys k = {0};

	MUST_OK(add(&k, 4, 6, 77));
	MUST_BE(key_of(&k, 3), -1);
	MUST_BE(key_of(&k, 4), 77);
	MUST(keys_find(&k, AT(6) - 1) != NULL);
	MUST(keys_find(&k, AT(6)) == NULL);
	keys_fini(&k);
}

static void
test_a_new_run_forgets_what_had_no_key(void)
{
	struct keys k = {0};

	MUST_OK(add(&k, 0, 4, 0));
	MUST_OK(add(&k, 4, 8, 9));
	MUST_OK(add(&k, 8, 12, 0));
	MUST_BE(key_of(&k, 0), 0);
	keys_new_run(&k);
	MUST_BE(key_of(&k, 0), -1);
	MUST_BE(key_of(&k, 4), 9);
	MUST_BE(key_of(&k, 8), -1);
	keys_fini(&k);
}

static void
test_a_part_without_a_key_hides_none_that_has_one(void)
{
	struct keys k = {0};

	MUST_OK(add(&k, 2, 4, 5));
	MUST_OK(add(&k, 6, 8, 6));
	MUST_OK(add(&k, 0, 10, 0));
	MUST_BE(key_of(&k, 1), 0);
	MUST_BE(key_of(&k, 3), 5);
	MUST_BE(key_of(&k, 5), 0);
	MUST_BE(key_of(&k, 7), 6);
	MUST_BE(key_of(&k, 9), 0);
	keys_fini(&k);
}

static void
test_a_key_counts_where_there_was_none(void)
{
	struct keys k = {0};

	MUST_OK(add(&k, 0, 10, 0));
	MUST_OK(add(&k, 3, 5, 8));
	MUST_BE(key_of(&k, 2), 0);
	MUST_BE(key_of(&k, 4), 8);
	MUST_BE(key_of(&k, 5), 0);
	keys_fini(&k);
}

static int
add_raw(const struct dsm_rec_region *r)
{
	struct dsm_wbuf w = {0};
	struct keys k = {0};
	int err;

	MUST_OK(dsm__pack_region(&w, r));
	err = keys_add(&k, &(struct dsm_array){w.ptr, 1});
	MUST(err == DSM_OK || k.n == 0);
	dsm__wbuf_fini(&w);
	keys_fini(&k);
	return err;
}

static void
test_regions_that_cannot_be_are_refused(void)
{
	struct dsm_rec_region r = {.start = BASE, .end = AT(1), .rkey = 1};

	MUST_OK(add_raw(&r));
	r.end = BASE;
	MUST_BE(add_raw(&r), DSM_EPROTO);
	r.end = BASE - DSM_PAGE;
	MUST_BE(add_raw(&r), DSM_EPROTO);
	r.end = AT(1) + 1;
	MUST_BE(add_raw(&r), DSM_EPROTO);
	r.end = AT(1);
	r.remote = UINT64_MAX - 100;
	MUST_BE(add_raw(&r), DSM_EPROTO);
}

/* Against a table with one entry a page. */
static void
test_any_order_of_regions_gives_what_a_page_table_gives(void)
{
	enum { PAGES = 40 };
	uint64_t seed = test_seed();
	long model[PAGES];
	struct keys k = {0};

	for (int p = 0; p < PAGES; p++)
		model[p] = -1;
	for (unsigned step = 0; step < 3000; step++) {
		uint64_t lo = test_rand(&seed) % (PAGES - 1);
		uint64_t hi = lo + 1 + test_rand(&seed) % (PAGES - lo);
		uint32_t rkey = test_rand(&seed) % 2 ? step + 1 : 0;

		if (step % 50 == 49) {
			keys_new_run(&k);
			for (int p = 0; p < PAGES; p++)
				model[p] = model[p] == 0 ? -1 : model[p];
		}
		if (step % 200 == 199) {
			keys_fini(&k);
			for (int p = 0; p < PAGES; p++)
				model[p] = -1;
		}
		MUST_OK(add(&k, lo, hi, rkey));
		for (uint64_t p = lo; p < hi; p++)
			if (rkey != 0 || model[p] <= 0)
				model[p] = (long)rkey;
		for (unsigned p = 0; p < PAGES; p++)
			MUST_BE(key_of(&k, p), model[p]);
	}
	keys_fini(&k);
}

SUITE(taskrt_slot_keys, "taskrt.slot.keys",
      T(test_a_region_is_found_by_its_addresses_and_no_others),
      T(test_a_new_run_forgets_what_had_no_key),
      T(test_a_part_without_a_key_hides_none_that_has_one),
      T(test_a_key_counts_where_there_was_none),
      T(test_regions_that_cannot_be_are_refused),
      T(test_any_order_of_regions_gives_what_a_page_table_gives));
