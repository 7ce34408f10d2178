/* Which parts of the heap are registered, and what that does to the rest. */
#include "../../test.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../dsm/base/log.h"
#include "../../../dsm/base/page.h"
#include "../../../dsm/heap/regions.h"
#include "../../../dsm/heap/serve.h"
#include "../../../dsm/wire/wire.h"

#define G DSM_REGION_GRANULE
#define MIB (UINT64_C(1) << 20)

/* Stands in for a device: pins (touches) pages up to a limit. */
struct dsm_verbs_domain {
	uint64_t limit, registered;
	unsigned n_added, n_live;
	uint32_t next_key;
};
struct dsm_verbs_region {
	struct dsm_verbs_domain *d;
	void *base;
	size_t len;
	uint32_t key;
};

static int
fake_add(struct dsm_verbs_domain *d, void *base, size_t len,
         struct dsm_verbs_region **r_p, struct dsm_error *e)
{
	volatile uint8_t *p = base;
	struct dsm_verbs_region *r;

	if (d->registered + len > d->limit)
		return dsm__fail(e, DSM_ENOMEM, "limit of the test");
	r = malloc(sizeof(*r));
	MUST(r != NULL);
	for (size_t i = 0; i < len; i += DSM_PAGE)
		(void)p[i];
	*r = (struct dsm_verbs_region){d, base, len, ++d->next_key};
	d->registered += len;
	d->n_added++;
	d->n_live++;
	*r_p = r;
	return DSM_OK;
}

static void
fake_remove(struct dsm_verbs_region *r)
{
	r->d->n_live--;
	r->d->registered -= r->len;
	free(r);
}

static uint32_t
fake_rkey(const struct dsm_verbs_region *r)
{
	return r->key;
}

static const struct dsm_regions_ops fake_ops = {fake_add, fake_remove,
                                                fake_rkey};

struct fixture {
	struct dsm_verbs_domain domain;
	struct dsm_views *views;
	struct dsm_regions *r;
	struct dsm_extents changed;
	uint8_t *base;
};

/* A heap of two chunks whose first `dense` bytes are written and frozen. */
static void
set_up(struct fixture *f, uint64_t dense)
{
	const struct dsm_views_params p = {.size = 2 * DSM_HEAP_CHUNK};
	struct dsm_error e = {0};

	*f = (struct fixture){.domain = {.limit = UINT64_MAX}};
	MUST_OK(dsm__views_create(&p, &f->views, &e));
	f->base = dsm__views_base(f->views);
	memset(f->base, 1, dense);
	MUST_OK(dsm__regions_create(f->views, &fake_ops, &f->domain, &f->r));
}

static void
freeze(struct fixture *f, uint64_t used)
{
	const struct dsm_freeze z = {
	    .used = used, .exclusive = 1, .changed = &f->changed};
	struct dsm_error e = {0};

	f->changed.n = 0;
	MUST_OK(dsm__views_freeze(f->views, &z, &e));
}

static void
tear_down(struct fixture *f)
{
	dsm__regions_destroy(f->r);
	MUST_BE(f->domain.n_live, 0);
	MUST_BE(dsm__views_pinned(f->views)->n, 0);
	dsm__extents_fini(&f->changed);
	dsm__views_destroy(f->views);
}

static struct dsm_rec_region
ask(struct fixture *f, uint64_t off, uint64_t len)
{
	struct dsm_rec_region rec;
	uint64_t addr = (uintptr_t)f->base + off;

	MUST_OK(dsm__regions_ask(f->r, addr, len, &rec));
	MUST(rec.start <= addr && addr < rec.end);
	MUST(rec.rkey == 0 ||
	     rec.remote == (uintptr_t)dsm__views_serving(f->views, rec.start));
	return rec;
}

static uint64_t
file_pages(struct fixture *f)
{
	struct stat st;

	MUST_BE(fstat(dsm__views_fd(f->views), &st), 0);
	return (uint64_t)st.st_blocks * 512 / DSM_PAGE;
}

/* --- what is registered --- */

static void
test_a_dense_granule_is_registered_once(void)
{
	struct fixture f;
	struct dsm_rec_region a, b;

	set_up(&f, 8 * MIB);
	freeze(&f, 8 * MIB);
	a = ask(&f, 3 * MIB, 0);
	MUST(a.rkey != 0);
	MUST_BE(a.start - (uintptr_t)f.base, 2 * MIB);
	MUST_BE(a.end - a.start, G);
	b = ask(&f, 2 * MIB, 0);
	MUST_BE(b.rkey, a.rkey);
	MUST_BE(f.domain.n_added, 1);
	MUST_BE(dsm__regions_count(f.r), 1);
	MUST_BE(dsm__regions_bytes(f.r), G);
	tear_down(&f);
}

static void
test_a_sparse_heap_stays_sparse(void)
{
	struct fixture f;
	uint64_t before;

	set_up(&f, 0);
	for (uint64_t off = 0; off < 64 * MIB; off += 16 * DSM_PAGE)
		f.base[off] = 1;
	freeze(&f, 64 * MIB);
	before = file_pages(&f);
	for (uint64_t off = 0; off < 64 * MIB; off += MIB)
		MUST_BE(ask(&f, off, 64 * MIB).rkey, 0);
	MUST_BE(f.domain.n_added, 0);
	MUST_BE(file_pages(&f), before);
	tear_down(&f);
}

static void
test_half_of_the_pages_are_enough(void)
{
	struct fixture f;
	uint64_t half = G / DSM_PAGE / 2;

	set_up(&f, 0);
	for (uint64_t i = 0; i < half; i++) {
		f.base[2 * i * DSM_PAGE] = 1;
		if (i > 0)
			f.base[G + 2 * i * DSM_PAGE] = 1;
	}
	freeze(&f, 2 * G);
	MUST_BE(ask(&f, G, 0).rkey, 0);
	MUST(ask(&f, 0, 0).rkey != 0);
	MUST_BE(f.domain.n_added, 1);
	tear_down(&f);
}

static void
test_of_the_last_granule_only_the_used_part_counts(void)
{
	struct fixture f;

	set_up(&f, 10 * DSM_PAGE);
	freeze(&f, 10 * DSM_PAGE);
	MUST(ask(&f, 0, 0).rkey != 0);
	MUST_BE(f.domain.registered, G);
	tear_down(&f);
}

static void
test_what_no_launch_has_seen_is_not_registered(void)
{
	struct fixture f;

	set_up(&f, 8 * MIB);
	MUST_BE(ask(&f, 0, 0).rkey, 0);
	freeze(&f, 4 * MIB);
	MUST(ask(&f, 0, 0).rkey != 0);
	MUST_BE(ask(&f, 4 * MIB, 0).rkey, 0);
	freeze(&f, 8 * MIB);
	MUST(ask(&f, 4 * MIB, 0).rkey != 0);
	tear_down(&f);
}

static void
test_an_address_outside_the_heap_is_an_error(void)
{
	struct fixture f;
	struct dsm_rec_region rec;
	uint64_t base, size;

	set_up(&f, 0);
	base = (uintptr_t)f.base;
	size = dsm__views_size(f.views);
	MUST_BE(dsm__regions_ask(f.r, base - 1, 0, &rec), DSM_EINVAL);
	MUST_BE(dsm__regions_ask(f.r, base + size, 0, &rec), DSM_EINVAL);
	/* A length that nobody can mean does no harm. */
	MUST_OK(dsm__regions_ask(f.r, base + size - 1, UINT64_MAX, &rec));
	tear_down(&f);
}

/* --- how much at a time --- */

static void
test_a_scan_asks_rarely(void)
{
	struct fixture f;
	uint64_t off = 0;
	unsigned n = 0;
	static const uint64_t steps[] = {2, 4, 8, 16, 32, 32, 32};

	set_up(&f, 126 * MIB);
	freeze(&f, 126 * MIB);
	while (off < 126 * MIB) {
		struct dsm_rec_region rec = ask(&f, off, 0);

		MUST(rec.rkey != 0);
		MUST_BE(rec.start, (uintptr_t)f.base + off);
		MUST(n < sizeof(steps) / sizeof(*steps));
		MUST_BE(rec.end - rec.start, steps[n] * MIB);
		off += rec.end - rec.start;
		n++;
	}
	tear_down(&f);
}

static void
test_a_hint_makes_the_region_as_long(void)
{
	struct fixture f;

	set_up(&f, 126 * MIB);
	freeze(&f, 126 * MIB);
	MUST_BE(ask(&f, 5 * MIB, 4 * MIB).end - (uintptr_t)f.base, 10 * MIB);
	MUST_BE(f.domain.registered, 6 * MIB);
	ask(&f, 64 * MIB, UINT64_MAX);
	MUST_BE(f.domain.registered, 38 * MIB);
	tear_down(&f);
}

static void
test_a_region_ends_at_the_next_one_and_where_it_gets_sparse(void)
{
	struct fixture f;
	struct dsm_rec_region rec;

	set_up(&f, 6 * MIB);
	memset(f.base + 8 * MIB, 1, 8 * MIB);
	freeze(&f, 16 * MIB);
	rec = ask(&f, 0, 32 * MIB);
	MUST_BE(rec.end - (uintptr_t)f.base, 6 * MIB);
	MUST_BE(ask(&f, 6 * MIB, 0).end - (uintptr_t)f.base, 8 * MIB);
	ask(&f, 12 * MIB, 0);
	rec = ask(&f, 8 * MIB, 32 * MIB);
	MUST_BE(rec.end - (uintptr_t)f.base, 12 * MIB);
	tear_down(&f);
}

/* Against a plain model: every answer is right, regions never overlap, the list in
 * the order of their making agrees with the answers. */
static void
test_random_questions_get_right_answers(void)
{
	uint64_t seed = test_seed();
	struct fixture f;
	uint8_t covered[128] = {0}; /* a MiB each */
	int dense[64];
	size_t told = 0;

	set_up(&f, 0);
	for (uint64_t g = 0; g < 64; g++) {
		dense[g] = test_rand(&seed) % 3 != 0;
		memset(f.base + g * G, 1, dense[g] ? G : DSM_PAGE);
	}
	freeze(&f, 2 * DSM_HEAP_CHUNK);
	for (int i = 0; i < 500; i++) {
		uint64_t off = test_rand(&seed) % (2 * DSM_HEAP_CHUNK);
		struct dsm_rec_region rec =
		    ask(&f, off, test_rand(&seed) % (8 * MIB));
		uint64_t start = rec.start - (uintptr_t)f.base;

		MUST_BE(rec.rkey != 0, dense[off / G]);
		if (dsm__regions_count(f.r) == told)
			continue;
		MUST_BE(dsm__regions_count(f.r), ++told);
		dsm__regions_get(f.r, told - 1, &rec);
		for (uint64_t m = start / MIB;
		     m < (rec.end - (uintptr_t)f.base) / MIB; m++) {
			MUST_BE(covered[m], 0);
			covered[m] = 1;
		}
	}
	tear_down(&f);
}

/* --- the device refuses --- */

static void
test_after_a_refusal_nothing_more_is_registered(void)
{
	struct fixture f;
	uint32_t key;

	set_up(&f, 64 * MIB);
	freeze(&f, 64 * MIB);
	f.domain.limit = G;
	key = ask(&f, 0, 0).rkey;
	MUST(key != 0);
	dsm__log_level(DSM_LOG_ERROR);
	MUST_BE(ask(&f, 32 * MIB, 0).rkey, 0);
	dsm__log_level(DSM_LOG_WARN);
	f.domain.limit = UINT64_MAX;
	MUST_BE(ask(&f, 32 * MIB, 0).rkey, 0);
	/* One answer for all that is left, and the old ones are good. */
	MUST_BE(ask(&f, G, 0).end,
	        (uintptr_t)f.base + dsm__views_size(f.views));
	MUST_BE(ask(&f, 0, 0).rkey, key);
	MUST_BE(f.domain.n_added, 1);
	tear_down(&f);
}

/* --- what a registration means for others --- */

static void
test_released_memory_of_a_region_keeps_its_pages_and_is_zero(void)
{
	struct fixture f;
	const uint8_t *serving;
	uint64_t before, addr;

	set_up(&f, 12 * MIB);
	freeze(&f, 12 * MIB);
	ask(&f, 4 * MIB, 0);
	memset(f.base, 2, 12 * MIB); /* private pages on top */
	addr = (uintptr_t)f.base;
	serving = dsm__views_serving(f.views, addr);
	before = file_pages(&f);
	MUST_OK(dsm__views_release(f.views, addr + 2 * MIB + 1, 8 * MIB));
	/* What lies outside the region is given back: 6 MiB less a page. */
	MUST_BE(before - file_pages(&f), 6 * MIB / DSM_PAGE - 1);
	MUST_BE(dsm__views_present(f.views, addr + 4 * MIB, G, UINT64_MAX),
	        G / DSM_PAGE);
	for (uint64_t off = 3 * MIB; off < 10 * MIB; off += DSM_PAGE / 2) {
		MUST_BE(serving[off], 0);
		MUST_BE(f.base[off], 0);
	}
	MUST_BE(f.base[2 * MIB], 2);
	MUST_BE(f.base[10 * MIB + 1], 2);
	tear_down(&f);
}

static void
test_without_regions_released_memory_is_given_back_again(void)
{
	struct fixture f;
	uint64_t addr;

	set_up(&f, 4 * MIB);
	freeze(&f, 4 * MIB);
	ask(&f, 0, 0);
	addr = (uintptr_t)f.base;
	dsm__regions_destroy(f.r);
	f.r = NULL;
	MUST_OK(dsm__views_release(f.views, addr, 4 * MIB));
	MUST_BE(file_pages(&f), 0);
	tear_down(&f);
}

static void
test_changed_pages_of_a_region_are_dropped_at_every_launch(void)
{
	struct fixture f;
	struct dsm_map *map;
	struct dsm_server *s;
	struct dsm_extents drops = {0}, updates = {0};
	struct dsm_wbuf pages = {0};
	uint64_t base;

	set_up(&f, 8 * MIB);
	base = (uintptr_t)f.base;
	MUST_OK(dsm__map_create(&map));
	MUST_OK(dsm__map_heap(map, base, base + dsm__views_size(f.views)));
	MUST_OK(dsm__map_refresh(map, NULL, NULL));
	MUST_OK(dsm__server_create(map, f.views, &s));
	freeze(&f, 8 * MIB);
	ask(&f, 2 * MIB, 0); /* nobody has asked for a page */
	for (int launch = 0; launch < 3; launch++) {
		/* From below the region to above it, and one page of it. */
		memset(f.base + 2 * MIB - DSM_PAGE, 3 + launch, DSM_PAGE * 2);
		f.base[3 * MIB] = (uint8_t)(3 + launch);
		memset(f.base + 4 * MIB - DSM_PAGE, 3 + launch, DSM_PAGE * 2);
		freeze(&f, 8 * MIB);
		drops.n = 0;
		MUST_OK(dsm__server_launch(s, &f.changed, &drops, &updates,
		                           &pages));
		MUST_BE(drops.n, 3);
		MUST_BE(drops.v[0].start, base + 2 * MIB);
		MUST_BE(drops.v[1].start, base + 3 * MIB);
		MUST_BE(drops.v[2].start, base + 4 * MIB - DSM_PAGE);
		for (int i = 0; i < 3; i++)
			MUST_BE(drops.v[i].n_pages, 1);
	}
	dsm__server_destroy(s);
	dsm__map_destroy(map);
	dsm__extents_fini(&drops);
	dsm__extents_fini(&updates);
	dsm__wbuf_fini(&pages);
	tear_down(&f);
}

static void
test_in_a_forked_child_nothing_is_pinned(void)
{
	struct fixture f;
	int status;
	pid_t pid;

	set_up(&f, 4 * MIB);
	freeze(&f, 4 * MIB);
	ask(&f, 0, 0);
	dsm__views_fork_prepare(f.views, 4 * MIB);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		uint64_t addr = (uintptr_t)f.base;

		_exit(dsm__views_fork_child(f.views) != DSM_OK ||
		      dsm__views_pinned(f.views)->n != 0 ||
		      dsm__views_release(f.views, addr, 4 * MIB) != DSM_OK ||
		      file_pages(&f) != 0);
	}
	dsm__views_fork_parent(f.views);
	MUST_BE(waitpid(pid, &status, 0), pid);
	MUST_BE(status, 0);
	MUST_BE(dsm__views_pinned(f.views)->n, 1);
	MUST(file_pages(&f) >= 4 * MIB / DSM_PAGE);
	tear_down(&f);
}

SUITE(dsm_heap_regions, "dsm.heap.regions",
      T(test_a_dense_granule_is_registered_once),
      T(test_a_sparse_heap_stays_sparse), T(test_half_of_the_pages_are_enough),
      T(test_of_the_last_granule_only_the_used_part_counts),
      T(test_what_no_launch_has_seen_is_not_registered),
      T(test_an_address_outside_the_heap_is_an_error),
      T(test_a_scan_asks_rarely), T(test_a_hint_makes_the_region_as_long),
      T(test_a_region_ends_at_the_next_one_and_where_it_gets_sparse),
      T(test_random_questions_get_right_answers),
      T(test_after_a_refusal_nothing_more_is_registered),
      T(test_released_memory_of_a_region_keeps_its_pages_and_is_zero),
      T(test_without_regions_released_memory_is_given_back_again),
      T(test_changed_pages_of_a_region_are_dropped_at_every_launch),
      T(test_in_a_forked_child_nothing_is_pinned));
