/* The client's address space as ranges. */
#include "../../test.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../../dsm/base/page.h"
#include "../../../dsm/heap/map.h"
#include "../../../dsm/heap/maptext.h"
#include "../../../dsm/wire/wire.h"

#define RW (PROT_READ | PROT_WRITE)

static int initialised_global = 7;
static char big_bss[64 * DSM_PAGE];

static uint64_t
addr_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static struct dsm_map *
new_map(void)
{
	struct dsm_map *m;

	MUST_OK(dsm__map_create(&m));
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	return m;
}

static struct dsm_range
must_find(struct dsm_map *m, uint64_t addr)
{
	struct dsm_range r = {0};

	MUST_BE(dsm__map_find(m, addr, &r), 1);
	MUST(r.start <= addr && addr < r.end);
	return r;
}

static int
is_there(struct dsm_map *m, uint64_t addr)
{
	struct dsm_range r;

	return dsm__map_find(m, addr, &r);
}

static uint64_t
off_of(struct dsm_map *m, uint64_t addr)
{
	struct dsm_range r = must_find(m, addr);

	return r.image_off + (addr - r.start);
}

/* A place of n pages with nothing on either side. */
static char *
hole(size_t n)
{
	char *p = mmap(NULL, (n + 32) * DSM_PAGE, PROT_NONE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(p != MAP_FAILED);
	MUST_BE(munmap(p, (n + 32) * DSM_PAGE), 0);
	return p + 16 * DSM_PAGE;
}

static char *
map_at(char *p, size_t n, int prot)
{
	char *q =
	    mmap(p, n * DSM_PAGE, prot,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	MUST(q == p);
	return q;
}

/* --- kinds --- */

static void
test_lines_are_classified_by_path_and_access(void)
{
	static const struct {
		const char *path;
		uint32_t prot;
		int shared;
		uint32_t kind;
	} cases[] = {
	    {"", RW, 0, DSM_RANGE_ANON},
	    {"", PROT_READ, 0, DSM_RANGE_ANON},
	    {"", PROT_NONE, 0, 0},
	    {"", PROT_EXEC, 0, 0},
	    {"[heap]", RW, 0, DSM_RANGE_ANON},
	    {"[anon: glibc: malloc]", RW, 0, DSM_RANGE_ANON},
	    {"[stack]", RW, 0, DSM_RANGE_STACK},
	    {"[vdso]", PROT_READ | PROT_EXEC, 0, DSM_RANGE_VDSO},
	    {"[vvar]", PROT_READ, 0, 0},
	    {"[vvar_vclock]", PROT_READ, 0, 0},
	    {"[vsyscall]", PROT_EXEC, 0, 0},
	    {"/lib/libc.so.6", PROT_READ | PROT_EXEC, 0, DSM_RANGE_CODE},
	    {"/lib/libc.so.6", PROT_READ, 0, DSM_RANGE_CODE},
	    {"/lib/libc.so.6", RW, 0, DSM_RANGE_SYS},
	    {"/lib/libc-2.31.so", RW, 0, DSM_RANGE_SYS},
	    {"/lib/ld-linux-x86-64.so.2", RW, 0, DSM_RANGE_SYS},
	    {"/lib/liburcu-bp.so.8", RW, 0, DSM_RANGE_SYS},
	    {"/lib/libibverbs.so.1.14.44.0", RW, 0, DSM_RANGE_SYS},
	    {"/lib/libibverbs/librxe-rdmav34.so", RW, 0, DSM_RANGE_SYS},
	    {"/lib/libnl-route-3.so.200.26.0", RW, 0, DSM_RANGE_SYS},
	    {"/home/me/libibverbsy.so", RW, 0, DSM_RANGE_DATA},
	    {"/dev/infiniband/uverbs0", RW, 1, 0},
	    {"/memfd:dsm-verbs (deleted)", RW, 1, 0},
	    {"/lib/libstdc++.so.6.0.30", RW, 0, DSM_RANGE_SYS},
	    {"/lib/libc.so.6 (deleted)", RW, 0, DSM_RANGE_SYS},
	    {"/home/me/libcustom.so", RW, 0, DSM_RANGE_DATA},
	    {"/home/me/libc-tools.so", RW, 0, DSM_RANGE_DATA},
	    {"/home/me/libc/data", RW, 0, DSM_RANGE_DATA},
	    {"/home/me/prog", RW, 0, DSM_RANGE_DATA},
	    {"/home/me/libm.so", RW, 0, DSM_RANGE_DATA}, /* main_exe */
	    {"/tmp/file", RW, 1, DSM_RANGE_ANON},
	    {"/tmp/file", PROT_READ, 1, DSM_RANGE_ANON},
	    {"/dev/dri/card0", RW, 1, 0},
	    {"/dev/shm/x", RW, 1, DSM_RANGE_ANON},
	    {"/dev/zero (deleted)", RW, 1, DSM_RANGE_ANON},
	    {"anon_inode:[io_uring]", RW, 1, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint32_t kind =
		    dsm__map_classify(cases[i].path, cases[i].prot,
		                      cases[i].shared, "/home/me/libm.so");

		if (kind != cases[i].kind)
			printf("    %s is %u\n", cases[i].path, kind);
		CU_ASSERT(kind == cases[i].kind);
	}
}

static void
test_lines_are_taken_apart_and_nonsense_is_skipped(void)
{
	char text[] = "1000-3000 r-xp 00002000 fe:01 77    /a b\n"
	              "nonsense\n"
	              "\n"
	              "zz00-3000 r-xp 0 fe:01 77 \n"
	              "3000-2000 r--p 0 0:0 0 \n"
	              "4000-5000 rw-s 00000000 00:00 0 ";
	char *p = text;
	struct dsm_mapline l;

	MUST_BE(dsm__maptext_line(&p, &l), 1);
	MUST(l.start == 0x1000 && l.end == 0x3000 && l.off == 0x2000);
	MUST(l.ino == 77 && l.dev == (UINT64_C(0xfe) << 32 | 1));
	MUST(l.prot == (PROT_READ | PROT_EXEC) && !l.shared);
	CU_ASSERT_STRING_EQUAL(l.path, "/a b");
	MUST_BE(dsm__maptext_line(&p, &l), 1);
	MUST(l.start == 0x4000 && l.shared && l.path[0] == '\0');
	MUST_BE(dsm__maptext_line(&p, &l), 0);
}

static void
test_parts_of_this_program_have_their_kinds(void)
{
	struct dsm_map *m = new_map();
	int local = 0;
	/* One in libc's .bss, which has no name in maps. */
	const void *bss = dlsym(RTLD_DEFAULT, "re_syntax_options");
	struct dsm_range r;

	MUST_BE(must_find(m, addr_of(&initialised_global)).kind,
	        DSM_RANGE_DATA);
	MUST_BE(must_find(m, addr_of(big_bss + 32 * DSM_PAGE)).kind,
	        DSM_RANGE_DATA);
	MUST_BE(must_find(m, addr_of(&local)).kind, DSM_RANGE_STACK);
	r = must_find(m, addr_of((const void *)(uintptr_t)new_map));
	MUST_BE(r.kind, DSM_RANGE_CODE);
	MUST_BE(r.prot, PROT_READ | PROT_EXEC);
	MUST_BE(must_find(m, addr_of("literal")).kind, DSM_RANGE_CODE);
	if (bss != NULL) { /* not a static program */
		MUST_BE(must_find(m, addr_of(bss)).kind, DSM_RANGE_SYS);
		MUST_BE(must_find(m, addr_of(stdout)).kind, DSM_RANGE_SYS);
		MUST_BE(must_find(m, addr_of(&errno)).kind, DSM_RANGE_SYS);
		MUST_BE(must_find(m, (uint64_t)pthread_self()).kind,
		        DSM_RANGE_SYS);
	}
	MUST(!is_there(m, 0));
	MUST(!is_there(m, UINT64_MAX));
	dsm__map_destroy(m);
}

static void
test_ranges_are_ascending_disjoint_and_so_are_their_offsets(void)
{
	struct dsm_map *m = new_map();
	struct dsm_range *v;
	uint64_t version, end = 0;
	size_t n;

	MUST_OK(dsm__map_table(m, &v, &n, &version));
	MUST(n > 10 && version == 1);
	for (size_t i = 0; i < n; i++) {
		MUST(v[i].start >= end && v[i].start < v[i].end);
		MUST((v[i].prot & PROT_READ) != 0 && v[i].kind != 0);
		MUST((v[i].image_off & DSM_PAGE_MASK) == 0);
		MUST(v[i].image_off > 0);
		end = v[i].end;
		for (size_t j = 0; j < i; j++)
			MUST(v[j].image_off + (v[j].end - v[j].start) <=
			         v[i].image_off ||
			     v[i].image_off + (v[i].end - v[i].start) <=
			         v[j].image_off);
	}
	free(v);
	dsm__map_destroy(m);
}

/* --- offsets --- */

static void
test_refresh_without_a_change_keeps_the_version(void)
{
	struct dsm_map *m = new_map();
	char *p = map_at(hole(4), 4, RW);
	uint64_t a, b, c;

	/* The first ones may still grow buffers of their own. */
	MUST_OK(dsm__map_refresh(m, &a, NULL));
	MUST_OK(dsm__map_refresh(m, &a, NULL));
	MUST_OK(dsm__map_refresh(m, &b, NULL));
	MUST_BE(b, a);
	munmap(p, 4 * DSM_PAGE);
	MUST_OK(dsm__map_refresh(m, &c, NULL));
	MUST(c > b);
	MUST(!is_there(m, addr_of(p)));
	dsm__map_destroy(m);
}

static void
test_growth_of_a_range_keeps_its_offsets(void)
{
	struct dsm_map *m = new_map();
	char *p = hole(12);
	uint64_t a, b;

	map_at(p + 4 * DSM_PAGE, 4, RW);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	a = off_of(m, addr_of(p + 4 * DSM_PAGE));
	b = off_of(m, addr_of(p + 7 * DSM_PAGE));
	MUST_BE(b, a + 3 * DSM_PAGE);
	MUST(!is_there(m, addr_of(p + 3 * DSM_PAGE)));
	MUST(!is_there(m, addr_of(p + 8 * DSM_PAGE)));

	map_at(p, 4, RW);
	map_at(p + 8 * DSM_PAGE, 4, RW);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST_BE(off_of(m, addr_of(p + 4 * DSM_PAGE)), a);
	MUST_BE(off_of(m, addr_of(p + 7 * DSM_PAGE)), b);
	MUST(off_of(m, addr_of(p)) > b);
	MUST(off_of(m, addr_of(p + 11 * DSM_PAGE)) > b);
	munmap(p, 12 * DSM_PAGE);
	dsm__map_destroy(m);
}

static void
test_what_is_left_of_a_range_keeps_its_offsets(void)
{
	struct dsm_map *m = new_map();
	char *p = map_at(hole(8), 8, RW);
	uint64_t first, last;

	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	first = off_of(m, addr_of(p));
	last = off_of(m, addr_of(p + 7 * DSM_PAGE));
	munmap(p + 2 * DSM_PAGE, 4 * DSM_PAGE);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST_BE(off_of(m, addr_of(p)), first);
	MUST_BE(off_of(m, addr_of(p + 7 * DSM_PAGE)), last);
	MUST(!is_there(m, addr_of(p + 2 * DSM_PAGE)));
	MUST(!is_there(m, addr_of(p + 6 * DSM_PAGE - 1)));
	munmap(p, 8 * DSM_PAGE);
	dsm__map_destroy(m);
}

static void
test_memory_mapped_anew_gets_a_new_offset(void)
{
	struct dsm_map *m = new_map();
	char *p = map_at(hole(4), 4, RW);
	uint64_t before;

	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	before = off_of(m, addr_of(p));
	munmap(p, 4 * DSM_PAGE);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	map_at(p, 4, RW);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST(off_of(m, addr_of(p)) > before);
	munmap(p, 4 * DSM_PAGE);
	dsm__map_destroy(m);
}

static void
test_another_file_or_place_in_it_gets_a_new_offset(void)
{
	struct dsm_map *m = new_map();
	int a = memfd_create("a", 0), b = memfd_create("b", 0);
	char *p = hole(2);
	uint64_t off[4];
	const struct {
		int fd;
		off_t at;
	} maps[4] = {{a, 0}, {b, 0}, {b, DSM_PAGE}, {b, DSM_PAGE}};

	MUST_BE(ftruncate(a, 8 * DSM_PAGE), 0);
	MUST_BE(ftruncate(b, 8 * DSM_PAGE), 0);
	for (int i = 0; i < 4; i++) {
		MUST(mmap(p, 2 * DSM_PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED,
		          maps[i].fd, maps[i].at) == p);
		MUST_OK(dsm__map_refresh(m, NULL, NULL));
		MUST_BE(must_find(m, addr_of(p)).kind, DSM_RANGE_CODE);
		off[i] = off_of(m, addr_of(p));
	}
	MUST(off[1] > off[0] && off[2] > off[1] && off[3] == off[2]);
	munmap(p, 2 * DSM_PAGE);
	close(a);
	close(b);
	dsm__map_destroy(m);
}

static void
test_another_protection_keeps_the_offset(void)
{
	struct dsm_map *m = new_map();
	char *p = map_at(hole(4), 4, RW);
	uint64_t before, version;

	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	before = off_of(m, addr_of(p + DSM_PAGE));
	MUST_BE(mprotect(p + DSM_PAGE, DSM_PAGE, PROT_READ), 0);
	MUST_OK(dsm__map_refresh(m, &version, NULL));
	MUST_BE(off_of(m, addr_of(p + DSM_PAGE)), before);
	MUST_BE(must_find(m, addr_of(p + DSM_PAGE)).prot, PROT_READ);
	MUST_BE(must_find(m, addr_of(p)).prot, RW);
	MUST_BE(must_find(m, addr_of(p)).end, addr_of(p + DSM_PAGE));
	munmap(p, 4 * DSM_PAGE);
	dsm__map_destroy(m);
}

/* --- what the caller knows --- */

static void
test_excluded_spans_are_never_in_the_table(void)
{
	struct dsm_map *m;
	char *p = map_at(hole(8), 8, RW);
	uint64_t at = addr_of(p), off;

	MUST_OK(dsm__map_create(&m));
	MUST_OK(dsm__map_exclude(m, at + DSM_PAGE, at + 2 * DSM_PAGE));
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST(is_there(m, at) && is_there(m, at + 2 * DSM_PAGE));
	MUST(!is_there(m, at + DSM_PAGE) && !is_there(m, at + 8191));
	off = off_of(m, at + 4 * DSM_PAGE);

	/* After a refresh: at once. */
	MUST_OK(dsm__map_exclude(m, at + 3 * DSM_PAGE, at + 4 * DSM_PAGE));
	MUST(!is_there(m, at + 3 * DSM_PAGE));
	MUST_BE(off_of(m, at + 4 * DSM_PAGE), off);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST(!is_there(m, at + 3 * DSM_PAGE) && !is_there(m, at + DSM_PAGE));
	MUST_BE(off_of(m, at + 4 * DSM_PAGE), off);

	dsm__map_unexclude(m, at + DSM_PAGE, at + 2 * DSM_PAGE);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST(is_there(m, at + DSM_PAGE) && !is_there(m, at + 3 * DSM_PAGE));
	MUST_BE(dsm__map_exclude(m, at + 1, at + DSM_PAGE), DSM_EINVAL);
	munmap(p, 8 * DSM_PAGE);
	dsm__map_destroy(m);
}

static void
test_what_the_program_keeps_has_a_kind_of_its_own_and_no_rights(void)
{
	struct dsm_map *m = new_map();
	char *p = map_at(hole(12), 12, RW);
	uint64_t at = addr_of(p), before;
	struct dsm_range r;

	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	before = off_of(m, at + 5 * DSM_PAGE);
	MUST_OK(dsm__map_keep(m, at + 4 * DSM_PAGE, at + 6 * DSM_PAGE, 1));
	MUST_OK(dsm__map_keep(m, at + 10 * DSM_PAGE, at + 90 * DSM_PAGE, 1));
	MUST(dsm__map_stale(m));
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	r = must_find(m, at + 5 * DSM_PAGE);
	MUST_BE(r.kind, DSM_RANGE_KEPT);
	MUST_BE(r.prot, PROT_NONE);
	MUST_BE(r.start, at + 4 * DSM_PAGE);
	MUST_BE(r.end, at + 6 * DSM_PAGE);
	MUST(off_of(m, at + 5 * DSM_PAGE) != before);
	MUST_BE(must_find(m, at + 3 * DSM_PAGE).kind, DSM_RANGE_ANON);
	MUST_BE(must_find(m, at + 6 * DSM_PAGE).prot, RW);
	MUST_BE(must_find(m, at + 11 * DSM_PAGE).kind, DSM_RANGE_KEPT);
	/* Neighbours keep their places, and so does what comes back. */
	MUST_BE(off_of(m, at + 6 * DSM_PAGE), before + DSM_PAGE);
	MUST_OK(dsm__map_keep(m, at + 5 * DSM_PAGE, at + 90 * DSM_PAGE, 0));
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST_BE(must_find(m, at + 4 * DSM_PAGE).kind, DSM_RANGE_KEPT);
	MUST_BE(must_find(m, at + 5 * DSM_PAGE).kind, DSM_RANGE_ANON);
	MUST(off_of(m, at + 5 * DSM_PAGE) != before);
	MUST_BE(dsm__map_keep(m, at + 1, at + DSM_PAGE, 1), DSM_EINVAL);
	munmap(p, 12 * DSM_PAGE);
	dsm__map_destroy(m);
}

static void
test_the_heap_is_one_range_whatever_is_mapped_there(void)
{
	struct dsm_map *m = new_map();
	char *p = map_at(hole(8), 8, RW);
	uint64_t at = addr_of(p);
	struct dsm_range r;

	MUST_BE(mprotect(p + 3 * DSM_PAGE, DSM_PAGE, PROT_NONE), 0);
	munmap(p + 4 * DSM_PAGE, DSM_PAGE);
	MUST_BE(dsm__map_stale(m), 0);
	MUST_OK(dsm__map_heap(m, at + DSM_PAGE, at + 7 * DSM_PAGE));
	MUST_BE(dsm__map_stale(m), 1);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST_BE(dsm__map_stale(m), 0);
	r = must_find(m, at + 4 * DSM_PAGE);
	MUST(r.start == at + DSM_PAGE && r.end == at + 7 * DSM_PAGE);
	MUST(r.kind == DSM_RANGE_HEAP && r.prot == RW);
	MUST_BE(must_find(m, at).kind, DSM_RANGE_ANON);
	MUST_BE(must_find(m, at + 7 * DSM_PAGE).kind, DSM_RANGE_ANON);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST_BE(must_find(m, at + 4 * DSM_PAGE).image_off, r.image_off);
	munmap(p, 8 * DSM_PAGE);
	dsm__map_destroy(m);
}

static void
test_loading_a_library_makes_the_map_stale(void)
{
	static const char *const names[] = {
	    "libthread_db.so.1", "libBrokenLocale.so.1", "libanl.so.1",
	    "libnsl.so.1",       "libmvec.so.1",         "libgomp.so.1",
	    "libz.so.1"};
	struct dsm_map *m = new_map();
	void *lib = NULL;

	MUST_BE(dsm__map_stale(m), 0);
	for (size_t i = 0; lib == NULL && i < 7; i++)
		if (dlopen(names[i], RTLD_NOW | RTLD_NOLOAD) == NULL)
			lib = dlopen(names[i], RTLD_NOW);
	if (lib == NULL) {
		printf("    skipped: no library to load\n");
		dsm__map_destroy(m);
		return;
	}
	MUST_BE(dsm__map_stale(m), 1);
	MUST_OK(dsm__map_refresh(m, NULL, NULL));
	MUST_BE(dsm__map_stale(m), 0);
	dlclose(lib);
	dsm__map_destroy(m);
}

static __thread int thread_variable;

static void *
tls_of_thread(void *arg)
{
	uint64_t start, end;
	uint64_t *ok = arg;

	dsm__map_tls(&start, &end);
	*ok = addr_of(&thread_variable) >= start &&
	      addr_of(&thread_variable) + sizeof(int) <= end &&
	      addr_of(&errno) >= start && addr_of(&errno) < end &&
	      (uint64_t)pthread_self() >= start &&
	      (uint64_t)pthread_self() < end && end - start < 2 << 20;
	return NULL;
}

static void
test_thread_local_storage_is_found_in_every_thread(void)
{
	uint64_t ok = 0;
	pthread_t t;

	tls_of_thread(&ok);
	MUST_BE(ok, 1);
	ok = 0;
	MUST_BE(pthread_create(&t, NULL, tls_of_thread, &ok), 0);
	pthread_join(t, NULL);
	MUST_BE(ok, 1);
}

/* --- many threads --- */

struct churn {
	struct dsm_map *m;
	char *fixed; /* mapped all the time */
	int stop;
	uint64_t lost;
};

static void *
churn_mappings(void *arg)
{
	struct churn *c = arg;

	while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
		char *p[16];

		for (int i = 0; i < 16; i++) {
			p[i] = mmap(NULL, (1 + (size_t)i % 3) * DSM_PAGE,
			            i % 2 ? PROT_READ : RW,
			            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		}
		for (int i = 0; i < 16; i++)
			munmap(p[i], (1 + (size_t)i % 3) * DSM_PAGE);
	}
	return NULL;
}

static void *
look_up(void *arg)
{
	struct churn *c = arg;
	struct dsm_range r;

	while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED))
		for (int i = 0; i < 64; i++)
			if (!dsm__map_find(
			        c->m, addr_of(c->fixed + 2 * i * DSM_PAGE), &r))
				c->lost++;
	return NULL;
}

static void
test_no_mapping_is_missed_while_others_come_and_go(void)
{
	struct churn c = {.m = NULL};
	uint64_t off;
	pthread_t t[2];
	struct dsm_range r;

	/* Every second page: 64 mappings that stay, with their offsets. */
	c.fixed = mmap(NULL, 128 * DSM_PAGE, PROT_NONE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(c.fixed != MAP_FAILED);
	for (int i = 0; i < 64; i++)
		mprotect(c.fixed + 2 * i * DSM_PAGE, DSM_PAGE, RW);
	c.m = new_map();
	off = off_of(c.m, addr_of(c.fixed));
	pthread_create(&t[0], NULL, churn_mappings, &c);
	pthread_create(&t[1], NULL, look_up, &c);
	for (int i = 0; i < 200; i++) {
		int found = 0;

		MUST_OK(dsm__map_refresh(c.m, NULL, NULL));
		for (int k = 0; k < 64; k++)
			found += dsm__map_find(
			    c.m, addr_of(c.fixed + 2 * k * DSM_PAGE), &r);
		MUST_BE(found, 64);
		MUST_BE(off_of(c.m, addr_of(c.fixed)), off);
	}
	__atomic_store_n(&c.stop, 1, __ATOMIC_RELAXED);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	MUST_BE(c.lost, 0);
	munmap(c.fixed, 128 * DSM_PAGE);
	dsm__map_destroy(c.m);
}

SUITE(dsm_heap_map, "dsm.heap.map",
      T(test_lines_are_classified_by_path_and_access),
      T(test_lines_are_taken_apart_and_nonsense_is_skipped),
      T(test_parts_of_this_program_have_their_kinds),
      T(test_ranges_are_ascending_disjoint_and_so_are_their_offsets),
      T(test_refresh_without_a_change_keeps_the_version),
      T(test_growth_of_a_range_keeps_its_offsets),
      T(test_what_is_left_of_a_range_keeps_its_offsets),
      T(test_memory_mapped_anew_gets_a_new_offset),
      T(test_another_file_or_place_in_it_gets_a_new_offset),
      T(test_another_protection_keeps_the_offset),
      T(test_excluded_spans_are_never_in_the_table),
      T(test_what_the_program_keeps_has_a_kind_of_its_own_and_no_rights),
      T(test_the_heap_is_one_range_whatever_is_mapped_there),
      T(test_loading_a_library_makes_the_map_stale),
      T(test_thread_local_storage_is_found_in_every_thread),
      T(test_no_mapping_is_missed_while_others_come_and_go));
