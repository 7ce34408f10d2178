#include "../../test.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../dsm/heap/alloc.h"
#include "../../../dsm/heap/task_arena.h"

#define MIB (UINT64_C(1) << 20)
#define RA ((void *)0x123456789a)
#define OTHER_RA ((void *)0x7fffdeadbeef)

/* ---- one region and its allocator per test ---- */

static struct {
	char *base;
	uint64_t size;
	struct dsm_alloc *a;
	uint64_t released;
} t;

static void
note_release(void *ctx, void *p, size_t len)
{
	(void)ctx;
	t.released += len;
	MUST(madvise(p, len, MADV_DONTNEED) == 0);
}

static void
setup_with(uint64_t size, void (*release)(void *, void *, size_t))
{
	memset(&t, 0, sizeof(t));
	t.size = size;
	t.base = mmap(NULL, size, PROT_READ | PROT_WRITE,
	              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	MUST(t.base != MAP_FAILED);

	struct dsm_alloc_params p = {
	    .base = t.base,
	    .size = size,
	    .release = release,
	};

	MUST_OK(dsm__alloc_create(&p, &t.a));
}

static void
setup(void)
{
	setup_with(1024 * MIB, NULL);
}

static void
teardown(void)
{
	dsm__alloc_destroy(t.a);
	munmap(t.base, t.size);
}

static struct dsm_stats
stats(void)
{
	struct dsm_stats s;

	dsm__alloc_stats(t.a, &s);
	return s;
}

static bool
is_zero(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != 0)
			return false;
	return true;
}

static bool
is_filled(const char *p, char with, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != with)
			return false;
	return true;
}

/* Sizes of all kinds: mostly small, some page runs, a few of a megabyte. */
static size_t
random_size(uint64_t *rng)
{
	uint64_t r = test_rand(rng);

	if (r % 100 == 0)
		return (r >> 32) % MIB;
	if (r % 10 == 0)
		return (r >> 32) % 20000;
	return (r >> 32) % 300;
}

/* ---- plain blocks ---- */

static void
test_blocks_of_all_sizes_are_aligned_to_16_and_usable(void)
{
	setup();
	for (size_t size = 0; size < 5000; size += 7) {
		char *p = dsm__alloc_malloc(t.a, size, RA);

		MUST(p != NULL);
		MUST_BE((uintptr_t)p % 16, 0);
		MUST(dsm__alloc_usable(t.a, p) >= size);
		memset(p, 1, dsm__alloc_usable(t.a, p));
	}
	teardown();
}

static void
test_blocks_of_a_page_or_more_start_on_a_page(void)
{
	setup();
	for (size_t size = 4096; size < 100000; size += 5000)
		MUST_BE((uintptr_t)dsm__alloc_malloc(t.a, size, RA) % 4096, 0);
	teardown();
}

static void
test_rounding_up_costs_at_most_a_quarter_or_16_bytes(void)
{
	for (uint64_t size = 1; size <= DSM_SMALL_MAX; size++) {
		uint32_t room = dsm__class_size(dsm__class_of(size));

		MUST(room >= size);
		MUST(room % 16 == 0);
		MUST(room - size < 16 || (room - size) * 4 <= size);
	}
}

static void
test_blocks_of_size_zero_are_different_ones(void)
{
	setup();

	void *a = dsm__alloc_malloc(t.a, 0, RA);
	void *b = dsm__alloc_malloc(t.a, 0, RA);
	void *c = dsm__alloc_calloc(t.a, 0, 8, RA);

	MUST(a != NULL && b != NULL && c != NULL);
	MUST(a != b && b != c && a != c);
	dsm__alloc_free(t.a, a);
	dsm__alloc_free(t.a, b);
	dsm__alloc_free(t.a, c);
	teardown();
}

static void
test_aligned_blocks_are_aligned_up_to_a_gibibyte(void)
{
	setup_with(UINT64_C(8) << 30, NULL);
	for (uint64_t align = 1; align <= UINT64_C(1) << 30; align *= 2)
		for (size_t size = 1; size < 10000; size = size * 3 + 1) {
			char *p = dsm__alloc_aligned(t.a, align, size, RA);
			struct dsm_alloc_info info;

			MUST(p != NULL);
			MUST_BE((uintptr_t)p % align, 0);
			MUST(dsm__alloc_find(t.a, p, &info));
			MUST_BE(info.size, size);
			dsm__alloc_free(t.a, p);
		}
	errno = 0;
	MUST(dsm__alloc_aligned(t.a, 3, 8, RA) == NULL && errno == EINVAL);
	MUST(dsm__alloc_aligned(t.a, 0, 8, RA) == NULL);
	MUST(dsm__alloc_aligned(t.a, UINT64_C(2) << 30, 8, RA) == NULL);
	teardown();
}

static void
test_a_full_region_gives_null_and_enomem(void)
{
	setup_with(4 * MIB, NULL);

	void *small[4096];
	size_t n = 0;

	errno = 0;
	MUST(dsm__alloc_malloc(t.a, 5 * MIB, RA) == NULL);
	MUST_BE(errno, ENOMEM);
	MUST(dsm__alloc_malloc(t.a, SIZE_MAX, RA) == NULL);
	MUST(dsm__alloc_malloc(t.a, SIZE_MAX - 4095, RA) == NULL);
	while (n < 4096 &&
	       (small[n] = dsm__alloc_malloc(t.a, 2000, RA)) != NULL)
		n++;
	MUST(n > 1500 && n < 4096);
	errno = 0;
	MUST(dsm__alloc_malloc(t.a, 2000, RA) == NULL);
	MUST_BE(errno, ENOMEM);
	/* All of it can be used again, also as one block. */
	while (n > 0)
		dsm__alloc_free(t.a, small[--n]);
	MUST(dsm__alloc_malloc(t.a, 3 * MIB, RA) != NULL);
	teardown();
}

static void
test_calloc_that_overflows_gives_null_and_enomem(void)
{
	setup();
	errno = 0;
	MUST(dsm__alloc_calloc(t.a, SIZE_MAX / 2, 3, RA) == NULL);
	MUST_BE(errno, ENOMEM);
	teardown();
}

static void
test_calloc_of_reused_memory_is_zero(void)
{
	setup();

	uint64_t seed = test_seed(), rng = seed;
	void *v[500] = {0};

	for (int i = 0; i < 20000; i++) {
		size_t slot = test_rand(&rng) % 500;
		size_t size = random_size(&rng);

		dsm__alloc_free(t.a, v[slot]);
		if (test_rand(&rng) % 2 == 0) {
			v[slot] = dsm__alloc_calloc(t.a, 1, size, RA);
			if (!is_zero(v[slot], size))
				printf("    seed %llu\n",
				       (unsigned long long)seed);
			MUST(is_zero(v[slot], size));
		} else {
			v[slot] = dsm__alloc_malloc(t.a, size, RA);
		}
		memset(v[slot], 0xee, dsm__alloc_usable(t.a, v[slot]));
	}
	teardown();
}

static void
test_calloc_of_fresh_memory_touches_no_page(void)
{
	setup();

	char *p = dsm__alloc_calloc(t.a, 64, MIB / 64, RA);
	unsigned char in_core[256];

	MUST(p != NULL);
	MUST(mincore(p, MIB, in_core) == 0);
	for (int i = 0; i < 256; i++)
		MUST_BE(in_core[i] & 1, 0);
	teardown();
}

static void
test_realloc_keeps_contents(void)
{
	setup();

	uint64_t rng = 1;
	size_t size = 1;
	char *p = dsm__alloc_malloc(t.a, size, RA);

	*p = 0;
	for (int i = 0; i < 2000; i++) {
		size_t old = size;

		size = random_size(&rng) + 1;
		p = dsm__alloc_realloc(t.a, p, size, RA);
		MUST(p != NULL);
		MUST(is_filled(p, (char)i, old < size ? old : size));
		memset(p, (char)(i + 1), size);
		MUST(dsm__alloc_usable(t.a, p) >= size);
	}
	MUST_BE(stats().blocks, 1);
	MUST_BE(stats().allocated, size);
	MUST(dsm__alloc_realloc(t.a, p, 0, RA) == NULL);
	MUST_BE(stats().blocks, 0);
	p = dsm__alloc_realloc(t.a, NULL, 5, RA);
	MUST(p != NULL);
	teardown();
}

static void
test_realloc_of_the_last_block_grows_in_place(void)
{
	setup();

	char *p = dsm__alloc_malloc(t.a, 5000, RA);
	char *q = p;

	for (size_t size = 5000; size < 64 * MIB; size *= 2)
		q = dsm__alloc_realloc(t.a, q, size, RA);
	MUST(q == p);
	teardown();
}

/* ---- placement ---- */

static void
test_high_water_stays_low_when_blocks_come_and_go(void)
{
	setup();

	uint64_t rng = 7, live = 0;
	void *v[200] = {0};

	for (int i = 0; i < 50000; i++) {
		size_t slot = test_rand(&rng) % 200;

		if (i % 2 == 0) {
			dsm__alloc_free(t.a, v[slot]);
			v[slot] = NULL;
		}
		v[slot] =
		    dsm__alloc_realloc(t.a, v[slot], random_size(&rng) + 1, RA);
		MUST(v[slot] != NULL);
		if (stats().allocated > live)
			live = stats().allocated;
	}
	MUST(dsm__alloc_high_water(t.a) < 3 * live + 2 * MIB);
	teardown();
}

static void
test_freed_runs_are_merged_and_reused_lowest_first(void)
{
	setup();

	char *a = dsm__alloc_malloc(t.a, 40960, RA);
	char *b = dsm__alloc_malloc(t.a, 40960, RA);
	char *c = dsm__alloc_malloc(t.a, 40960, RA);
	char *d = dsm__alloc_malloc(t.a, 40960, RA);

	dsm__alloc_free(t.a, a);
	dsm__alloc_free(t.a, c);
	dsm__alloc_free(t.a, b);
	MUST(dsm__alloc_malloc(t.a, 3 * 40960, RA) == a);
	MUST_BE(dsm__alloc_high_water(t.a), 4 * 40960);
	dsm__alloc_free(t.a, d);
	teardown();
}

static void
test_release_is_called_for_large_blocks_only(void)
{
	setup_with(64 * MIB, note_release);

	char *small = dsm__alloc_malloc(t.a, 60000, RA);
	char *big = dsm__alloc_malloc(t.a, MIB, RA);

	dsm__alloc_free(t.a, small);
	MUST_BE(t.released, 0);
	big = dsm__alloc_realloc(t.a, big, MIB / 2, RA);
	MUST_BE(t.released, MIB / 2);
	dsm__alloc_free(t.a, big);
	MUST_BE(t.released, MIB);
	teardown();
}

static void
test_malloc_and_free_write_to_no_page_of_the_region(void)
{
	setup();

	uint64_t rng = 3;
	void *v[3000];

	for (size_t i = 0; i < 3000; i++) {
		v[i] = dsm__alloc_malloc(t.a, random_size(&rng), RA);
		memset(v[i], (int)i, dsm__alloc_usable(t.a, v[i]));
	}

	uint64_t used = dsm__alloc_high_water(t.a);

	MUST(mprotect(t.base, t.size, PROT_READ) == 0);
	/* A write would be a SIGSEGV now. */
	for (size_t i = 0; i < 3000; i++)
		dsm__alloc_free(t.a, v[i]);
	for (size_t i = 0; i < 1000; i++) {
		v[i] = dsm__alloc_malloc(t.a, random_size(&rng) / 4, RA);
		MUST(dsm__alloc_name(t.a, v[i], "x") == DSM_OK);
	}
	MUST(dsm__alloc_high_water(t.a) == used);
	teardown();
}

/* ---- model ---- */

struct model {
	char *p;
	size_t size;
	char fill;
};

static void
test_random_operations_agree_with_a_model(void)
{
	enum { N = 1000, STEPS = 60000 };
	static struct model m[N];
	uint64_t seed = test_seed(), rng = seed, bytes = 0, blocks = 0;
	bool ok = true;

	setup();
	memset(m, 0, sizeof(m));
	for (int i = 0; i < STEPS && ok; i++) {
		struct model *b = &m[test_rand(&rng) % N];
		size_t size = random_size(&rng);
		uint64_t op = test_rand(&rng) % 4;

		ok = is_filled(b->p, b->fill, b->p != NULL ? b->size : 0);
		bytes -= b->p != NULL ? b->size : 0;
		blocks -= b->p != NULL;
		if (op == 0) {
			b->p = dsm__alloc_realloc(t.a, b->p, ++size, RA);
		} else {
			dsm__alloc_free(t.a, b->p);
			if (op == 1)
				b->p = dsm__alloc_malloc(t.a, size, RA);
			else if (op == 2)
				b->p = dsm__alloc_aligned(
				    t.a, UINT64_C(1) << test_rand(&rng) % 14,
				    size, RA);
			else
				b->p = NULL;
		}
		b->size = size;
		b->fill = (char)test_rand(&rng);
		if (b->p != NULL) {
			memset(b->p, b->fill, size);
			bytes += size;
			blocks++;
		}
		ok = ok && stats().allocated == bytes &&
		     stats().blocks == blocks;
	}
	for (int i = 0; i < N && ok; i++) {
		struct dsm_alloc_info info;

		if (m[i].p == NULL)
			continue;
		ok = is_filled(m[i].p, m[i].fill, m[i].size) &&
		     dsm__alloc_find(t.a, m[i].p + m[i].size / 2, &info) &&
		     info.alive && info.base == m[i].p &&
		     info.size == m[i].size;
		dsm__alloc_free(t.a, m[i].p);
	}
	if (!ok)
		printf("    seed %llu\n", (unsigned long long)seed);
	MUST(ok);
	MUST_BE(stats().allocated, 0);
	MUST_BE(stats().blocks, 0);
	teardown();
}

/* ---- threads ---- */

enum { N_THREADS = 4, N_BOXES = 256 };
static char *_Atomic boxes[N_BOXES];

/* Blocks go from thread to thread through the boxes; whoever takes one out
 * checks and frees it. The first bytes hold the size. */
static void *
exchange(void *arg)
{
	uint64_t rng = (uintptr_t)arg;

	for (int i = 0; i < 20000; i++) {
		size_t size = random_size(&rng) / 4 + sizeof(size_t);
		char *p = dsm__alloc_malloc(t.a, size, RA);

		if (p == NULL)
			return (void *)1;
		memcpy(p, &size, sizeof(size));
		memset(p + sizeof(size), (int)size, size - sizeof(size));
		p = atomic_exchange(&boxes[test_rand(&rng) % N_BOXES], p);
		if (p == NULL)
			continue;
		memcpy(&size, p, sizeof(size));
		if (!is_filled(p + sizeof(size), (char)size,
		               size - sizeof(size)))
			return (void *)2;
		dsm__alloc_free(t.a, p);
	}
	return NULL;
}

static void
test_threads_may_free_each_others_blocks(void)
{
	pthread_t threads[N_THREADS];
	uint64_t seed = test_seed();
	void *result;

	setup();
	for (uintptr_t i = 0; i < N_THREADS; i++)
		MUST(pthread_create(&threads[i], NULL, exchange,
		                    (void *)(uintptr_t)(seed + i)) == 0);
	for (int i = 0; i < N_THREADS; i++) {
		pthread_join(threads[i], &result);
		if (result != NULL)
			printf("    seed %llu\n", (unsigned long long)seed);
		MUST(result == NULL);
	}
	for (int i = 0; i < N_BOXES; i++)
		dsm__alloc_free(t.a, atomic_exchange(&boxes[i], NULL));
	MUST_BE(stats().blocks, 0);
	MUST_BE(stats().allocated, 0);
	teardown();
}

static void *
allocate_and_end(void *arg)
{
	void **v = arg;

	for (int i = 0; i < 1000; i++)
		v[i] = dsm__alloc_malloc(t.a, 48, RA);
	for (int i = 0; i < 1000; i += 2)
		dsm__alloc_free(t.a, v[i]);
	return NULL;
}

static void
test_a_thread_that_ends_gives_its_cache_back(void)
{
	static void *v[1000];
	uint64_t first = 0;

	setup();
	for (int round = 0; round < 20; round++) {
		pthread_t thread;

		MUST(pthread_create(&thread, NULL, allocate_and_end, v) == 0);
		pthread_join(thread, NULL);
		MUST_BE(stats().blocks, 500);
		for (int i = 1; i < 1000; i += 2)
			dsm__alloc_free(t.a, v[i]);
		if (round == 1)
			first = dsm__alloc_high_water(t.a);
	}
	MUST_BE(dsm__alloc_high_water(t.a), first);
	teardown();
}

static void
test_several_allocators_work_side_by_side(void)
{
	enum { N = 8 };
	struct dsm_alloc *a[N];
	char *region = mmap(NULL, N * MIB, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	MUST(region != MAP_FAILED);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < N; i++) {
			struct dsm_alloc_params p = {
			    .base = region + (uint64_t)i * MIB,
			    .size = MIB,
			};

			MUST_OK(dsm__alloc_create(&p, &a[i]));
		}
		for (int k = 0; k < 100; k++)
			for (int i = 0; i < N; i++) {
				char *p = dsm__alloc_malloc(a[i], 100, RA);

				MUST((uint64_t)(p - region) / MIB ==
				     (uint64_t)i);
				if (k % 2 == 0)
					dsm__alloc_free(a[i], p);
			}
		for (int i = 0; i < N; i++)
			dsm__alloc_destroy(a[i]);
	}
	munmap(region, N * MIB);
}

static _Atomic int stop;

static void *
churn(void *arg)
{
	(void)arg;
	while (!stop)
		dsm__alloc_free(t.a, dsm__alloc_malloc(t.a, 5000, RA));
	return NULL;
}

static void
test_a_forked_child_can_allocate_and_free(void)
{
	pthread_t thread;
	int status;

	setup();
	stop = 0;

	char *p = dsm__alloc_malloc(t.a, 100, RA);

	MUST(pthread_create(&thread, NULL, churn, NULL) == 0);
	for (int i = 0; i < 10; i++) {
		dsm__alloc_fork_prepare(t.a);

		pid_t pid = fork();

		if (pid == 0) {
			dsm__alloc_fork_child(t.a);
			alarm(20);
			dsm__alloc_free(t.a, p);
			for (size_t k = 0; k < 10000; k += 50)
				if (dsm__alloc_malloc(t.a, k, RA) == NULL)
					_exit(1);
			_exit(0);
		}
		dsm__alloc_fork_parent(t.a);
		MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
		MUST_BE(status, 0);
	}
	stop = 1;
	pthread_join(thread, NULL);
	dsm__alloc_free(t.a, p);
	teardown();
}

/* ---- race reports ---- */

static void
test_find_gives_base_size_and_return_address(void)
{
	setup();
	for (size_t size = 1; size < 300000; size = size * 5 / 4 + 1) {
		char *p = dsm__alloc_malloc(t.a, size, OTHER_RA);
		struct dsm_alloc_info info;

		MUST(dsm__alloc_find(t.a, p + size - 1, &info));
		MUST(info.base == p);
		MUST_BE(info.size, size);
		MUST_BE(info.elem_size, 0);
		MUST(info.return_address == OTHER_RA);
		MUST(info.alive);
		MUST(info.label[0] == '\0');
	}
	teardown();
}

static void
test_find_works_in_the_middle_of_a_huge_block(void)
{
	setup_with(UINT64_C(1) << 40, NULL);

	uint64_t size = UINT64_C(600) << 30;
	char *before = dsm__alloc_malloc(t.a, 5000, RA);
	char *p = dsm__alloc_malloc(t.a, size, RA);
	struct dsm_alloc_info info;

	for (uint64_t off = 0; off < size; off += (UINT64_C(7) << 30) + 12345) {
		MUST(dsm__alloc_find(t.a, p + off, &info));
		MUST(info.base == p);
	}
	MUST(dsm__alloc_find(t.a, before + 4999, &info) && info.base == before);
	dsm__alloc_free(t.a, p);
	MUST(!dsm__alloc_find(t.a, p + size / 2, &info));
	teardown();
}

static void
test_find_gives_the_element_size_of_calloc(void)
{
	static const size_t elem[] = {1,   4,   8,    24,   127,
	                              128, 200, 1000, 2048, 5000};
	struct dsm_alloc_info info;

	setup();
	for (size_t i = 0; i < sizeof(elem) / sizeof(elem[0]); i++)
		for (size_t n = 1; n < 3000; n = n * 2 + 1) {
			char *p = dsm__alloc_calloc(t.a, n, elem[i], RA);

			MUST(dsm__alloc_find(t.a, p, &info));
			MUST_BE(info.elem_size, elem[i]);
			MUST_BE(info.size, n * elem[i]);
		}
	teardown();
}

static void
test_find_says_when_no_live_block_is_there(void)
{
	struct dsm_alloc_info info;

	setup();
	MUST(!dsm__alloc_find(t.a, t.base, &info));
	MUST(!dsm__alloc_find(t.a, t.base + t.size, &info));
	MUST(!dsm__alloc_find(t.a, &info, &info));

	char *p = dsm__alloc_malloc(t.a, 40, RA);

	dsm__alloc_free(t.a, p);
	MUST(dsm__alloc_find(t.a, p + 1, &info));
	MUST(!info.alive && info.base == p);
	p = dsm__alloc_malloc(t.a, 40000, RA);
	dsm__alloc_free(t.a, p);
	MUST(!dsm__alloc_find(t.a, p, &info));
	teardown();
}

static void
test_a_name_lives_as_long_as_its_block(void)
{
	static const size_t sizes[] = {40, 40000};
	struct dsm_alloc_info info;

	setup();
	for (int i = 0; i < 2; i++) {
		char *p = dsm__alloc_malloc(t.a, sizes[i], RA);
		char *q;

		MUST_OK(dsm__alloc_name(t.a, p + 5, "first"));
		MUST_OK(dsm__alloc_name(t.a, p, "temperatures"));
		MUST(dsm__alloc_find(t.a, p, &info));
		MUST(strcmp(info.label, "temperatures") == 0);
		q = dsm__alloc_realloc(t.a, p, sizes[i] * 20, RA);
		MUST(dsm__alloc_find(t.a, q, &info));
		MUST(strcmp(info.label, "temperatures") == 0);
		dsm__alloc_free(t.a, q);
		p = dsm__alloc_malloc(t.a, sizes[i], RA);
		MUST(dsm__alloc_find(t.a, p, &info));
		MUST(info.label[0] == '\0');
		MUST_OK(dsm__alloc_name(t.a, p, "x"));
		MUST_OK(dsm__alloc_name(t.a, p, NULL));
		MUST(dsm__alloc_find(t.a, p, &info) && info.label[0] == '\0');
	}
	MUST_BE(dsm__alloc_name(t.a, &info, "x"), DSM_EINVAL);
	teardown();
}

/* ---- misuse ---- */

static void
free_twice_small(void)
{
	void *p = dsm__alloc_malloc(t.a, 40, RA);

	dsm__alloc_free(t.a, p);
	dsm__alloc_free(t.a, p);
}

static void
free_twice_large(void)
{
	char *p = dsm__alloc_malloc(t.a, 40000, RA);

	dsm__alloc_free(t.a, p);
	dsm__alloc_free(t.a, p);
}

static void
free_inside_small(void)
{
	char *p = dsm__alloc_malloc(t.a, 40, RA);

	dsm__alloc_free(t.a, p + 16);
}

static void
free_inside_large(void)
{
	char *p = dsm__alloc_malloc(t.a, 40000, RA);

	dsm__alloc_free(t.a, p + 4096);
}

static void
free_foreign(void)
{
	int x = 0;
	void *volatile p = &x;

	dsm__alloc_free(t.a, p);
}

static void
realloc_freed(void)
{
	void *p = dsm__alloc_malloc(t.a, 40000, RA);

	dsm__alloc_free(t.a, p);
	(void)dsm__alloc_realloc(t.a, p, 50000, RA);
}

/* What fn prints before it aborts in a child. */
static void
must_die(void (*fn)(void), const char *text)
{
	int fds[2], status;
	char line[300];
	ssize_t n;
	pid_t pid;

	MUST(pipe(fds) == 0);
	pid = fork();
	if (pid == 0) {
		dup2(fds[1], STDERR_FILENO);
		fn();
		_exit(0);
	}
	close(fds[1]);
	n = read(fds[0], line, sizeof(line) - 1);
	close(fds[0]);
	MUST(waitpid(pid, &status, 0) == pid);
	MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	MUST(n > 0);
	line[n] = '\0';
	MUST(strstr(line, text) != NULL);
	MUST(strstr(line, " 0x") != NULL);
	MUST(strchr(line, '\n') == line + n - 1);
}

static void
test_bad_frees_abort_with_a_line_that_names_the_pointer(void)
{
	setup();
	must_die(free_twice_small, "freed twice");
	must_die(free_twice_large, "freed twice");
	must_die(free_inside_small, "not a block");
	must_die(free_inside_large, "not a block");
	must_die(free_foreign, "not a block");
	must_die(realloc_freed, "freed twice");
	teardown();
}

static void
test_free_of_null_is_nothing_and_free_keeps_errno(void)
{
	setup();
	errno = 77;
	dsm__alloc_free(t.a, NULL);
	dsm__alloc_free(t.a, dsm__alloc_malloc(t.a, 10, RA));
	dsm__alloc_free(t.a, dsm__alloc_malloc(t.a, 100000, RA));
	MUST_BE(errno, 77);
	teardown();
}

static void
test_statistics_add_up(void)
{
	setup();

	void *p = dsm__alloc_malloc(t.a, 100, RA);
	void *q = dsm__alloc_malloc(t.a, MIB + 1, RA);
	struct dsm_stats s = stats();

	MUST_BE(s.address_space, t.size);
	MUST_BE(s.allocated, MIB + 101);
	MUST_BE(s.blocks, 2);
	MUST_BE(s.committed, MIB + 4096 + 4 * 4096);
	MUST_BE(s.touched, s.committed);
	MUST_BE(s.peak, s.committed);
	dsm__alloc_free(t.a, p);
	dsm__alloc_free(t.a, q);
	s = stats();
	MUST_BE(s.allocated, 0);
	MUST_BE(s.blocks, 0);
	MUST_BE(s.committed, 4 * 4096);
	MUST_BE(s.peak, MIB + 5 * 4096);
	teardown();
}

/* ---- task arenas ---- */

#define ARENA (4 * MIB)
#define STAMP 77
static _Alignas(64) char state[4096];

static struct dsm_task_arena *
start_task(char **base_p)
{
	struct dsm_task_arena *ta;
	bool zeroed;

	*base_p = dsm__alloc_reserve(t.a, ARENA, true, STAMP, &zeroed);
	MUST(*base_p != NULL);
	memset(state, 0xcd, sizeof(state));
	MUST_OK(dsm__task_arena_init(state, sizeof(state), *base_p, ARENA,
	                             zeroed, STAMP, &ta));
	return ta;
}

static void
test_task_blocks_lie_in_the_arena_and_are_reused(void)
{
	char *base;

	setup();

	struct dsm_task_arena *ta = start_task(&base);
	void *p[100];

	for (int round = 0; round < 200; round++) {
		for (size_t i = 0; i < 100; i++) {
			p[i] = dsm__task_malloc(ta, i * 50, RA);
			MUST(p[i] != NULL && dsm__task_has(ta, p[i]));
			MUST(dsm__task_usable(ta, p[i]) >= i * 50);
			memset(p[i], 0xff, i * 50);
		}
		for (size_t i = 0; i < 100; i++)
			dsm__task_free(ta, p[i]);
	}
	MUST_BE(dsm__task_arena_seal(ta), 0);
	MUST(!dsm__task_page_live(ta, base));
	MUST_BE(dsm__alloc_high_water(t.a), 0);
	teardown();
}

static void
test_a_task_that_allocates_nothing_touches_nothing(void)
{
	unsigned char in_core[ARENA / 4096];
	char *base;

	setup();

	struct dsm_task_arena *ta = start_task(&base);

	dsm__task_free(ta, state);
	MUST_BE(dsm__task_arena_seal(ta), 0);
	MUST(mincore(base, ARENA, in_core) == 0);
	for (size_t i = 0; i < sizeof(in_core); i++)
		MUST_BE(in_core[i] & 1, 0);
	teardown();
}

static void
test_a_full_arena_gives_null_and_recovers(void)
{
	static void *p[200000];
	size_t n = 0;
	char *base;

	setup();

	struct dsm_task_arena *ta = start_task(&base);
	void *big = dsm__task_malloc(ta, ARENA - 64 * 4096, RA);

	MUST(big != NULL);
	MUST(dsm__task_malloc(ta, ARENA, RA) == NULL);
	dsm__task_free(ta, big);
	/* Now metadata need the pages that the big block had. */
	while (n < 200000 && (p[n] = dsm__task_calloc(ta, 1, 32, RA)) != NULL) {
		MUST(is_zero(p[n], 32));
		memset(p[n++], 0xff, 32);
	}
	MUST(n > ARENA / 64 && n < 200000);
	MUST_BE(errno, ENOMEM);
	while (n > 0)
		dsm__task_free(ta, p[--n]);
	MUST(dsm__task_malloc(ta, ARENA / 4, RA) != NULL);
	teardown();
}

static void
test_frees_of_the_clients_blocks_are_deferred(void)
{
	void *out[2000];
	char *base;

	setup();

	struct dsm_task_arena *ta = start_task(&base);
	char *p = dsm__alloc_malloc(t.a, 100, RA);

	memset(p, 5, 100);
	for (uintptr_t i = 1; i <= 1500; i++)
		dsm__task_free(ta, (void *)(i * 16));
	dsm__task_free(ta, NULL);
	MUST_BE(dsm__task_deferred(ta, NULL, 0), 1500);

	char *q = dsm__task_realloc(ta, p, 1000, dsm__alloc_usable(t.a, p), RA);

	MUST(dsm__task_has(ta, q) && is_filled(q, 5, 100));
	MUST_BE(dsm__task_deferred(ta, out, 2000), 1501);
	for (uintptr_t i = 1; i <= 1500; i++)
		MUST(out[i - 1] == (void *)(i * 16));
	MUST(out[1500] == p);
	teardown();
}

static void
test_task_blocks_belong_to_the_client_after_adopt(void)
{
	static struct model m[300];
	uint64_t rng = 11, blocks = 0;
	char *base;

	setup();

	struct dsm_task_arena *ta = start_task(&base);

	memset(m, 0, sizeof(m));
	for (int i = 0; i < 5000; i++) {
		struct model *b = &m[test_rand(&rng) % 300];
		size_t size = random_size(&rng) / 8 + 1;

		if (test_rand(&rng) % 3 != 0) {
			b->p = dsm__task_realloc(ta, b->p, size, 0, OTHER_RA);
			MUST(b->p != NULL);
		} else {
			dsm__task_free(ta, b->p);
			b->p = dsm__task_calloc(ta, size, 1, OTHER_RA);
			MUST(is_zero(b->p, size));
		}
		b->size = size;
		b->fill = (char)i;
		memset(b->p, b->fill, size);
		if (test_rand(&rng) % 3 == 0) {
			dsm__task_free(ta, b->p);
			b->p = NULL;
		}
	}
	for (int i = 0; i < 300; i++)
		blocks += m[i].p != NULL;
	MUST_BE(dsm__task_arena_seal(ta), blocks);

	/* What is not live would not have been sent. */
	for (uint64_t off = 0; off < ARENA; off += 4096)
		if (!dsm__task_page_live(ta, base + off))
			memset(base + off, 0x99, 4096);
	memset(state, 0xee, sizeof(state));
	MUST_OK(dsm__alloc_adopt(t.a, base, ARENA, STAMP));
	MUST_BE(stats().blocks, blocks);
	for (int i = 0; i < 300; i++) {
		struct dsm_alloc_info info;

		if (m[i].p == NULL)
			continue;
		MUST(is_filled(m[i].p, m[i].fill, m[i].size));
		MUST(dsm__alloc_find(t.a, m[i].p, &info) && info.alive);
		MUST_BE(info.size, m[i].size);
		MUST(info.return_address == OTHER_RA);
		dsm__alloc_free(t.a, m[i].p);
	}
	MUST_BE(stats().blocks, 0);
	MUST_BE(stats().allocated, 0);
	/* The range is one free run again, but for spans kept for reuse. */
	for (uint64_t i = 0; i < 100; i++)
		memset(dsm__alloc_malloc(t.a, 40 * i, RA), 1, 40 * i);
	teardown();
}

static void
test_a_range_can_be_given_back_and_reserved_again(void)
{
	bool zeroed;

	setup();

	char *a = dsm__alloc_reserve(t.a, ARENA, true, STAMP, &zeroed);
	char *b = dsm__alloc_reserve(t.a, ARENA, true, STAMP, &zeroed);

	MUST(a == t.base + t.size - ARENA && b == a - ARENA && zeroed);
	MUST_BE(dsm__alloc_upper(t.a), b - t.base);
	MUST_BE(stats().committed, 0);
	dsm__alloc_unreserve(t.a, a, ARENA, STAMP, true);
	dsm__alloc_unreserve(t.a, b, ARENA, STAMP, false);
	MUST(dsm__alloc_reserve(t.a, 2 * ARENA, true, STAMP, &zeroed) == b);
	MUST(!zeroed);
	b = dsm__alloc_reserve(t.a, ARENA, false, STAMP, &zeroed);
	MUST(b == t.base && zeroed);
	MUST_BE(dsm__alloc_high_water(t.a), ARENA);
	teardown();
}

/* Any bytes may come back from a worker: adopt must refuse or leave an
 * allocator that works, never crash. */
static void
test_adopt_of_damaged_metadata_is_refused_or_harmless(void)
{
	uint64_t seed = test_seed(), rng = seed;
	unsigned refused = 0;
	char *base;

	for (int round = 0; round < 300; round++) {
		setup_with(16 * MIB, NULL);

		struct dsm_task_arena *ta = start_task(&base);

		for (size_t i = 0; i < 200; i++)
			MUST(dsm__task_malloc(ta, i * 30, RA) != NULL);
		MUST(dsm__task_arena_seal(ta) == 200);
		for (int i = 0; i < 1 + round % 3; i++) {
			uint64_t at = test_rand(&rng) % (24 * 1024);
			char *tail = base + ARENA - 12 * 1024;

			/* Header and map begin 3 pages before the end;
			 * descriptors and words lie below. */
			tail[(int64_t)at - 12 * 1024] ^=
			    (char)(1 << test_rand(&rng) % 8);
		}

		int err = dsm__alloc_adopt(t.a, base, ARENA, STAMP);

		if (err != DSM_OK && err != DSM_EPROTO)
			printf("    seed %llu\n", (unsigned long long)seed);
		MUST(err == DSM_OK || err == DSM_EPROTO);
		refused += err == DSM_EPROTO;
		if (err == DSM_EPROTO)
			dsm__alloc_unreserve(t.a, base, ARENA, STAMP, true);
		for (size_t i = 0; i < 100; i++)
			memset(dsm__alloc_malloc(t.a, i * 60, RA), 1, i * 60);
		teardown();
	}
	MUST(refused > 0);
}

static void
test_adopt_wants_a_reserved_range(void)
{
	char *base;

	setup();
	start_task(&base);
	MUST_BE(dsm__alloc_adopt(t.a, t.base, ARENA, STAMP), DSM_EINVAL);
	MUST_BE(dsm__alloc_adopt(t.a, base, ARENA + 4096, STAMP), DSM_EINVAL);
	MUST_BE(dsm__alloc_adopt(t.a, base, ARENA / 2, STAMP), DSM_EPROTO);
	MUST_BE(dsm__alloc_adopt(t.a, base, ARENA, STAMP + 1), DSM_EINVAL);
	MUST_BE(dsm__alloc_adopt(t.a, base, ARENA, STAMP), DSM_EPROTO);
	teardown();
}

/* Arenas of several tasks in one range come back in any order; what lies between
 * stays reserved until it is given back. */
static void
test_arenas_are_cut_out_of_a_reserved_range(void)
{
	enum { N = 5 };
	const uint64_t len = DSM_TASK_ARENA_MIN;
	static const int order[] = {3, 0, 4}; /* 1 and 2 never do */
	struct dsm_task_arena *ta;
	char *base, *p[N];
	bool zeroed;

	setup();
	base = dsm__alloc_reserve(t.a, ARENA, false, STAMP, &zeroed);
	MUST(base == t.base);
	for (int i = 0; i < N; i++) {
		MUST_OK(dsm__task_arena_init(state, sizeof(state),
		                             base + i * len, len, zeroed, STAMP,
		                             &ta));
		p[i] = dsm__task_malloc(ta, 3000, RA);
		memset(p[i], i, 3000);
		MUST_BE(dsm__task_arena_seal(ta), 1);
	}
	for (int i = 0; i < 3; i++)
		MUST_OK(
		    dsm__alloc_adopt(t.a, base + order[i] * len, len, STAMP));
	MUST_BE(stats().blocks, 3);
	MUST_BE(dsm__alloc_adopt(t.a, base + 3 * len, len, STAMP), DSM_EINVAL);
	/* What is free between blocks is used at once, what is reserved not. */
	char *q = dsm__alloc_reserve(t.a, len / 2, false, 5, &zeroed);
	MUST(q > p[0] && q < base + len);
	dsm__alloc_unreserve(t.a, base, ARENA, STAMP, true);
	/* The other's is still the other's. */
	MUST(dsm__alloc_reserve(t.a, len / 2, false, STAMP, &zeroed) != q);
	dsm__alloc_unreserve(t.a, base, ARENA, STAMP, true);
	dsm__alloc_unreserve(t.a, q, len / 2, 5, true);
	q = dsm__alloc_reserve(t.a, 2 * len, false, STAMP, &zeroed);
	MUST(q > p[0] && q < base + 3 * len);
	dsm__alloc_unreserve(t.a, q, 2 * len, STAMP, true);
	for (int i = 0; i < 3; i++) {
		MUST(is_filled(p[order[i]], (char)order[i], 3000));
		dsm__alloc_free(t.a, p[order[i]]);
	}
	MUST_BE(stats().blocks, 0);
	MUST_BE(stats().committed, 0);
	MUST(dsm__alloc_reserve(t.a, ARENA, false, STAMP, &zeroed) == base);
	teardown();
}

static void
test_pages_that_are_abandoned_are_never_handed_out_again(void)
{
	bool zeroed;
	char *base, *q;

	setup();
	base = dsm__alloc_reserve(t.a, ARENA, false, STAMP, &zeroed);
	MUST_BE(dsm__alloc_abandon(t.a, base + 3 * 4096, 2 * 4096), 2);
	MUST_BE(dsm__alloc_abandon(t.a, base + 4 * 4096, 4096), 0);
	dsm__alloc_unreserve(t.a, base, ARENA, STAMP, true);
	q = dsm__alloc_reserve(t.a, 3 * 4096, false, STAMP, &zeroed);
	MUST(q == base);
	q = dsm__alloc_reserve(t.a, 4096, false, STAMP, &zeroed);
	MUST(q == base + 5 * 4096);
	teardown();
}

SUITE(dsm_heap_alloc, "dsm.heap.alloc",
      T(test_blocks_of_all_sizes_are_aligned_to_16_and_usable),
      T(test_blocks_of_a_page_or_more_start_on_a_page),
      T(test_rounding_up_costs_at_most_a_quarter_or_16_bytes),
      T(test_blocks_of_size_zero_are_different_ones),
      T(test_aligned_blocks_are_aligned_up_to_a_gibibyte),
      T(test_a_full_region_gives_null_and_enomem),
      T(test_calloc_that_overflows_gives_null_and_enomem),
      T(test_calloc_of_reused_memory_is_zero),
      T(test_calloc_of_fresh_memory_touches_no_page),
      T(test_realloc_keeps_contents),
      T(test_realloc_of_the_last_block_grows_in_place),
      T(test_high_water_stays_low_when_blocks_come_and_go),
      T(test_freed_runs_are_merged_and_reused_lowest_first),
      T(test_release_is_called_for_large_blocks_only),
      T(test_malloc_and_free_write_to_no_page_of_the_region),
      T(test_random_operations_agree_with_a_model),
      T(test_threads_may_free_each_others_blocks),
      T(test_a_thread_that_ends_gives_its_cache_back),
      T(test_several_allocators_work_side_by_side),
      T(test_a_forked_child_can_allocate_and_free),
      T(test_find_gives_base_size_and_return_address),
      T(test_find_works_in_the_middle_of_a_huge_block),
      T(test_find_gives_the_element_size_of_calloc),
      T(test_find_says_when_no_live_block_is_there),
      T(test_a_name_lives_as_long_as_its_block),
      T(test_bad_frees_abort_with_a_line_that_names_the_pointer),
      T(test_free_of_null_is_nothing_and_free_keeps_errno),
      T(test_statistics_add_up),
      T(test_task_blocks_lie_in_the_arena_and_are_reused),
      T(test_a_task_that_allocates_nothing_touches_nothing),
      T(test_a_full_arena_gives_null_and_recovers),
      T(test_frees_of_the_clients_blocks_are_deferred),
      T(test_task_blocks_belong_to_the_client_after_adopt),
      T(test_a_range_can_be_given_back_and_reserved_again),
      T(test_adopt_of_damaged_metadata_is_refused_or_harmless),
      T(test_adopt_wants_a_reserved_range),
      T(test_arenas_are_cut_out_of_a_reserved_range),
      T(test_pages_that_are_abandoned_are_never_handed_out_again));
