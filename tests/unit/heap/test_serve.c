/* Serving pages, and what a launch finds changed. */
#include "../../test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../dsm/base/page.h"
#include "../../../dsm/heap/idtab.h"
#include "../../../dsm/heap/serve.h"
#include "../../../dsm/wire/wire.h"

#define RW (PROT_READ | PROT_WRITE)
#define N_GLOBAL 16

static char globals[N_GLOBAL * DSM_PAGE] __attribute__((aligned(4096)));

struct fixture {
	struct dsm_map *map;
	struct dsm_views *views;
	struct dsm_server *s;
	struct dsm_extents changed, drops, updates;
	struct dsm_wbuf pages;
};

static uint64_t
addr_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static void
set_up(struct fixture *f, int heap)
{
	*f = (struct fixture){0};
	MUST_OK(dsm__map_create(&f->map));
	if (heap) {
		const struct dsm_views_params p = {.size = 2 * DSM_HEAP_CHUNK};
		struct dsm_error e;
		uint64_t at;

		MUST_OK(dsm__views_create(&p, &f->views, &e));
		at = addr_of(dsm__views_base(f->views));
		MUST_OK(dsm__map_heap(f->map, at, at + p.size));
	}
	MUST_OK(dsm__map_refresh(f->map, NULL, NULL));
	MUST_OK(dsm__server_create(f->map, f->views, &f->s));
}

static void
tear_down(struct fixture *f)
{
	dsm__server_destroy(f->s);
	if (f->views != NULL)
		dsm__views_destroy(f->views);
	dsm__map_destroy(f->map);
	dsm__extents_fini(&f->changed);
	dsm__extents_fini(&f->drops);
	dsm__extents_fini(&f->updates);
	dsm__wbuf_fini(&f->pages);
}

/* Lists as a launch finds them: those of the one before are gone. */
static void
launch(struct fixture *f)
{
	dsm__extents_fini(&f->drops);
	dsm__extents_fini(&f->updates);
	dsm__wbuf_reset(&f->pages);
	MUST_OK(dsm__server_launch(f->s, &f->changed, &f->drops, &f->updates,
	                           &f->pages));
	dsm__extents_fini(&f->changed);
}

static const char *
serve(struct fixture *f, const void *p, uint32_t n, uint32_t want)
{
	struct iovec iov;
	uint32_t got;

	MUST_OK(dsm__server_read(f->s, addr_of(p), n, &iov, &got));
	MUST_BE(got, want);
	MUST_BE(iov.iov_len, want * DSM_PAGE);
	return iov.iov_base;
}

static char *
map_pages(size_t n)
{
	char *p =
	    mmap(NULL, n * DSM_PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	MUST(p != MAP_FAILED);
	return p;
}

/* --- the table of ids --- */

static void
test_id_table_agrees_with_an_array(void)
{
	uint64_t seed = test_seed();
	struct dsm_idtab t = {0};
	char there[512] = {0};
	size_t n = 0;

	for (int i = 0; i < 20000; i++) {
		uint64_t k = test_rand(&seed) % 512;

		MUST((dsm__idtab_get(&t, k << 12) != NULL) == there[k]);
		if (there[k]) {
			MUST(dsm__idtab_take(&t, k << 12) == &there[k]);
			n--;
		} else {
			MUST_OK(dsm__idtab_put(&t, k << 12, &there[k]));
			n++;
		}
		there[k] = !there[k];
		MUST_BE(t.n, n);
	}
	for (uint64_t k = 0; k < 512; k++)
		MUST((dsm__idtab_get(&t, k << 12) != NULL) == there[k]);
	dsm__idtab_fini(&t);
}

/* --- reading --- */

static void
test_pages_are_served_as_they_are(void)
{
	struct fixture f;
	const char *got;

	set_up(&f, 0);
	for (size_t i = 0; i < N_GLOBAL; i++)
		memset(globals + i * DSM_PAGE, 'a' + (int)i, DSM_PAGE);
	got = serve(&f, globals, N_GLOBAL, N_GLOBAL);
	MUST(memcmp(got, globals, sizeof(globals)) == 0);
	got = serve(&f, globals + 3 * DSM_PAGE, 1, 1);
	MUST(memcmp(got, globals + 3 * DSM_PAGE, DSM_PAGE) == 0);
	MUST_BE(dsm__server_pages_served(f.s), N_GLOBAL + 1);
	tear_down(&f);
}

static void
test_code_is_served_and_never_compared(void)
{
	struct fixture f;
	uint64_t at = dsm__page_down(addr_of((void *)(uintptr_t)serve));
	struct iovec iov;
	uint32_t n;

	set_up(&f, 0);
	MUST_OK(dsm__server_read(f.s, at, 1, &iov, &n));
	MUST_BE(n, 1);
	MUST(memcmp(iov.iov_base, (void *)(uintptr_t)at, DSM_PAGE) == 0);
	launch(&f);
	MUST_BE(f.updates.n, 0);
	tear_down(&f);
}

static void
test_an_unmapped_page_is_no_pages(void)
{
	struct fixture f;
	char *p = map_pages(3);

	set_up(&f, 0);
	munmap(p + DSM_PAGE, DSM_PAGE); /* the table still has it */
	serve(&f, p + DSM_PAGE, 1, 0);
	serve(&f, p, 3, 1);
	serve(&f, NULL, 1, 0);
	MUST_BE(dsm__server_read(f.s, 1, 1, &(struct iovec){0}, &(uint32_t){0}),
	        DSM_EINVAL);
	MUST_BE(dsm__server_read(f.s, 0, 0, &(struct iovec){0}, &(uint32_t){0}),
	        DSM_EINVAL);
	munmap(p, 3 * DSM_PAGE);
	tear_down(&f);
}

static void
test_reading_ends_where_the_range_does(void)
{
	struct fixture f;
	char *p = map_pages(8);

	MUST_BE(mprotect(p + 5 * DSM_PAGE, DSM_PAGE, PROT_NONE), 0);
	set_up(&f, 0);
	serve(&f, p, 8, 5);
	serve(&f, p + 5 * DSM_PAGE, 3, 0);
	serve(&f, p + 6 * DSM_PAGE, 1, 1);
	munmap(p, 8 * DSM_PAGE);
	tear_down(&f);
}

static void
test_memory_mapped_since_the_last_refresh_is_served(void)
{
	struct fixture f;
	char *p;

	set_up(&f, 0);
	p = map_pages(4);
	p[0] = 'x';
	MUST_BE(serve(&f, p, 1, 1)[0], 'x');
	munmap(p, 4 * DSM_PAGE);
	tear_down(&f);
}

static void
test_everybody_gets_the_bytes_that_were_served_first(void)
{
	struct fixture f;

	set_up(&f, 0);
	memset(globals, 'a', DSM_PAGE);
	MUST_BE(serve(&f, globals, 1, 1)[0], 'a');
	memset(globals, 'b', DSM_PAGE);
	MUST_BE(serve(&f, globals, 1, 1)[0], 'a');
	MUST_BE(serve(&f, globals, 2, 2)[0], 'a');
	launch(&f);
	MUST_BE(f.updates.n, 1);
	MUST_BE(serve(&f, globals, 1, 1)[0], 'b');
	tear_down(&f);
}

static void
test_what_the_program_keeps_is_never_served(void)
{
	struct fixture f;
	struct iovec iov;
	uint64_t at = addr_of(globals);
	uint32_t n;

	set_up(&f, 0);
	serve(&f, globals, 1, 1);
	MUST_OK(dsm__map_keep(f.map, at, at + 2 * DSM_PAGE, 1));
	MUST_OK(dsm__map_refresh(f.map, NULL, NULL));
	launch(&f);
	for (int i = 0; i < 2; i++) {
		MUST_OK(dsm__server_read(f.s, at + (uint64_t)i * DSM_PAGE, 4,
		                         &iov, &n));
		MUST_BE(n, 0);
	}
	globals[0]++;
	launch(&f);
	MUST(f.updates.n == 0 && f.pages.len == 0);
	serve(&f, globals + 2 * DSM_PAGE, 1, 1);
	tear_down(&f);
}

static void
test_own_memory_of_the_server_is_not_in_the_map(void)
{
	struct fixture f;
	struct dsm_range r;
	struct iovec iov;
	uint32_t n;

	set_up(&f, 0);
	MUST_OK(dsm__server_read(f.s, addr_of(globals), 1, &iov, &n));
	MUST_OK(dsm__map_refresh(f.map, NULL, NULL));
	MUST_BE(dsm__map_find(f.map, addr_of(iov.iov_base), &r), 0);
	tear_down(&f);
}

/* --- launches --- */

static void
test_a_served_page_that_changed_is_an_update_once(void)
{
	struct fixture f;

	set_up(&f, 0);
	memset(globals, 0, sizeof(globals));
	serve(&f, globals, N_GLOBAL, N_GLOBAL);
	launch(&f);
	MUST(f.updates.n == 0 && f.pages.len == 0 && f.drops.n == 0);

	globals[2 * DSM_PAGE + 7] = 'x';
	globals[9 * DSM_PAGE] = 'y';
	globals[10 * DSM_PAGE + 4095] = 'z';
	launch(&f);
	MUST_BE(f.updates.n, 2);
	MUST_BE(f.updates.v[0].start, addr_of(globals + 2 * DSM_PAGE));
	MUST_BE(f.updates.v[0].n_pages, 1);
	MUST_BE(f.updates.v[1].start, addr_of(globals + 9 * DSM_PAGE));
	MUST_BE(f.updates.v[1].n_pages, 2);
	MUST_BE(f.pages.len, 3 * DSM_PAGE);
	MUST(memcmp(f.pages.ptr, globals + 2 * DSM_PAGE, DSM_PAGE) == 0);
	MUST(memcmp(f.pages.ptr + DSM_PAGE, globals + 9 * DSM_PAGE,
	            2 * DSM_PAGE) == 0);
	MUST_BE(f.drops.n, 0);
	launch(&f);
	MUST_BE(f.updates.n, 0);
	tear_down(&f);
}

static void
test_a_changed_page_that_was_not_served_is_no_update(void)
{
	struct fixture f;

	set_up(&f, 0);
	serve(&f, globals, 1, 1);
	globals[DSM_PAGE]++;
	launch(&f);
	MUST_BE(f.updates.n, 0);
	tear_down(&f);
}

static void
test_pushed_heap_pages_are_those_that_nobody_has(void)
{
	struct fixture f;
	char *heap;
	uint64_t at;

	set_up(&f, 1);
	heap = dsm__views_base(f.views);
	at = addr_of(heap);
	for (int i = 0; i < 10; i++)
		heap[i * DSM_PAGE] = (char)('a' + i);
	serve(&f, heap + 2 * DSM_PAGE, 1, 1);
	launch(&f);
	dsm__server_push(f.s, at, at + 6 * DSM_PAGE, SIZE_MAX, &f.updates,
	                 &f.pages);
	MUST_BE(f.updates.n, 2);
	MUST_BE(f.updates.v[0].start, at);
	MUST_BE(f.updates.v[0].n_pages, 2);
	MUST_BE(f.updates.v[1].start, at + 3 * DSM_PAGE);
	MUST_BE(f.updates.v[1].n_pages, 3);
	MUST_BE(f.pages.len, 5 * DSM_PAGE);
	MUST_BE(f.pages.ptr[0], 'a');
	MUST_BE(f.pages.ptr[2 * DSM_PAGE], 'd');
	/* Once; but again when it has changed, and no more than there is room. */
	MUST_OK(dsm__extents_add(&f.changed, at + 4 * DSM_PAGE, 1));
	launch(&f);
	MUST_BE(f.drops.n, 1);
	dsm__server_push(f.s, at, at + 10 * DSM_PAGE, 3 * DSM_PAGE, &f.updates,
	                 &f.pages);
	MUST_BE(f.pages.len, 3 * DSM_PAGE);
	MUST_BE(f.updates.n, 2);
	MUST_BE(f.updates.v[0].start, at + 4 * DSM_PAGE);
	MUST_BE(f.updates.v[1].start, at + 6 * DSM_PAGE);
	MUST_BE(f.updates.v[1].n_pages, 2);
	tear_down(&f);
}

static void
test_updates_are_ascending_whatever_was_served_first(void)
{
	struct fixture f;
	char *p = map_pages(2000);
	uint64_t seed = test_seed();

	set_up(&f, 0);
	for (int i = 0; i < 1500; i++)
		serve(&f, p + test_rand(&seed) % 2000 * DSM_PAGE, 1, 1);
	serve(&f, p + 100 * DSM_PAGE, 256, 256);
	launch(&f);
	MUST_BE(f.updates.n, 0);
	for (size_t i = 0; i < 2000; i++)
		memcpy(p + i * DSM_PAGE, &i, sizeof(i));
	launch(&f);
	MUST(f.pages.len >= 256 * DSM_PAGE);
	for (size_t i = 0, k = 0; i < f.updates.n; i++)
		for (uint64_t j = 0; j < f.updates.v[i].n_pages; j++, k++)
			MUST(memcmp((char *)(uintptr_t)f.updates.v[i].start +
			                j * DSM_PAGE,
			            f.pages.ptr + k * DSM_PAGE, DSM_PAGE) == 0);
	munmap(p, 2000 * DSM_PAGE);
	tear_down(&f);
}

static void
test_a_served_page_that_is_gone_does_not_hurt_a_launch(void)
{
	struct fixture f;
	char *p = map_pages(6);

	set_up(&f, 0);
	serve(&f, p, 6, 6);
	/* The lists must not be mapped into the hole. */
	MUST_OK(dsm__extents_add(&f.drops, DSM_PAGE, 1));
	MUST_OK(dsm__extents_add(&f.updates, DSM_PAGE, 1));
	f.drops.n = f.updates.n = 0;
	munmap(p + 2 * DSM_PAGE, DSM_PAGE); /* the table still has it */
	mprotect(p + 4 * DSM_PAGE, DSM_PAGE, PROT_NONE);
	p[DSM_PAGE] = p[3 * DSM_PAGE] = p[5 * DSM_PAGE] = 'x';
	MUST_OK(dsm__server_launch(f.s, &f.changed, &f.drops, &f.updates,
	                           &f.pages));
	MUST_BE(f.updates.n, 3);
	MUST_BE(f.drops.n, 2);
	MUST_BE(f.drops.v[0].start, addr_of(p + 2 * DSM_PAGE));
	MUST_BE(f.drops.v[1].start, addr_of(p + 4 * DSM_PAGE));
	munmap(p, 6 * DSM_PAGE);
	MUST_OK(dsm__map_refresh(f.map, NULL, NULL));
	launch(&f);
	MUST(f.updates.n == 0 && f.drops.n == 0);
	tear_down(&f);
}

static void
test_a_copy_of_what_was_mapped_before_is_not_served(void)
{
	struct fixture f;
	char *p = map_pages(4);

	set_up(&f, 0);
	p[0] = 'a';
	serve(&f, p, 1, 1);
	munmap(p, 4 * DSM_PAGE);
	MUST_OK(dsm__map_refresh(f.map, NULL, NULL));
	MUST(mmap(p, 4 * DSM_PAGE, RW,
	          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
	          0) == p);
	p[0] = 'b';
	MUST_OK(dsm__map_refresh(f.map, NULL, NULL));
	MUST_BE(serve(&f, p, 1, 1)[0], 'b');
	launch(&f);
	MUST(f.updates.n == 0 && f.drops.n == 0);
	munmap(p, 4 * DSM_PAGE);
	tear_down(&f);
}

/* --- heap --- */

static void
test_heap_pages_are_dropped_when_served_and_changed(void)
{
	struct fixture f;
	char *heap;

	set_up(&f, 1);
	heap = dsm__views_base(f.views);
	heap[0] = 'a';
	MUST_BE(serve(&f, heap, 1, 1)[0], 'a');
	serve(&f, heap + 60 * DSM_PAGE, 10, 10);
	serve(&f, heap + 128 * DSM_PAGE, 64, 64);
	serve(&f, heap + DSM_HEAP_CHUNK - DSM_PAGE, 2, 2);

	/* Pages 0..1, 62..299 and everything from 1000 on changed. */
	MUST_OK(dsm__extents_add(&f.changed, addr_of(heap), 2));
	MUST_OK(
	    dsm__extents_add(&f.changed, addr_of(heap + 62 * DSM_PAGE), 238));
	MUST_OK(dsm__extents_add(&f.changed, addr_of(heap + 1000 * DSM_PAGE),
	                         20000));
	launch(&f);
	MUST_BE(f.drops.n, 4);
	MUST_BE(f.drops.v[0].start, addr_of(heap));
	MUST_BE(f.drops.v[0].n_pages, 1);
	MUST_BE(f.drops.v[1].start, addr_of(heap + 62 * DSM_PAGE));
	MUST_BE(f.drops.v[1].n_pages, 8);
	MUST_BE(f.drops.v[2].start, addr_of(heap + 128 * DSM_PAGE));
	MUST_BE(f.drops.v[2].n_pages, 64);
	MUST_BE(f.drops.v[3].start, addr_of(heap + DSM_HEAP_CHUNK - DSM_PAGE));
	MUST_BE(f.drops.v[3].n_pages, 2);
	MUST_BE(f.updates.n, 0);

	/* They count as not served; pages 60 and 61 still do. */
	MUST_OK(dsm__extents_add(&f.changed, addr_of(heap), 20000));
	launch(&f);
	MUST_BE(f.drops.n, 1);
	MUST_BE(f.drops.v[0].start, addr_of(heap + 60 * DSM_PAGE));
	MUST_BE(f.drops.v[0].n_pages, 2);
	tear_down(&f);
}

static void
test_reading_the_heap_shows_the_frozen_bytes(void)
{
	struct fixture f;
	struct dsm_freeze freeze = {.used = 16 * DSM_PAGE, .exclusive = 1};
	struct dsm_error e;
	char *heap;

	set_up(&f, 1);
	heap = dsm__views_base(f.views);
	heap[5] = 'a';
	freeze.changed = &f.changed;
	MUST_OK(dsm__views_freeze(f.views, &freeze, &e));
	launch(&f);
	heap[5] = 'b';
	MUST_BE(serve(&f, heap, 1, 1)[5], 'a');
	tear_down(&f);
}

/* --- without process_vm_readv --- */

static int
refuse_process_vm(void)
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
	             offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog prog = {5, code};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

static int
serve_refused(struct fixture *f, char *p)
{
	struct iovec iov;
	uint32_t n;

	if (!refuse_process_vm())
		return 77;
	p[DSM_PAGE] = 'q';
	if (dsm__server_read(f->s, addr_of(p), 3, &iov, &n) != DSM_OK ||
	    n != 3 || ((char *)iov.iov_base)[DSM_PAGE] != 'q')
		return 1;
	p[DSM_PAGE] = 'r';
	munmap(p, DSM_PAGE);
	if (dsm__server_launch(f->s, &f->changed, &f->drops, &f->updates,
	                       &f->pages) != DSM_OK)
		return 2;
	return f->updates.n == 1 && f->drops.n == 1 && f->pages.ptr[0] == 'r'
	           ? 0
	           : 3;
}

static void
test_refused_process_vm_readv_falls_back_to_proc_mem(void)
{
	struct fixture f;
	char *p = map_pages(3);
	pid_t child;
	int status;

	set_up(&f, 0);
	child = fork();
	if (child == 0)
		_exit(serve_refused(&f, p));
	MUST_BE(waitpid(child, &status, 0), child);
	MUST(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		printf("    skipped: no seccomp\n");
	else
		MUST_BE(WEXITSTATUS(status), 0);
	munmap(p, 3 * DSM_PAGE);
	tear_down(&f);
}

SUITE(dsm_heap_serve, "dsm.heap.serve", T(test_id_table_agrees_with_an_array),
      T(test_pages_are_served_as_they_are),
      T(test_code_is_served_and_never_compared),
      T(test_an_unmapped_page_is_no_pages),
      T(test_reading_ends_where_the_range_does),
      T(test_memory_mapped_since_the_last_refresh_is_served),
      T(test_everybody_gets_the_bytes_that_were_served_first),
      T(test_what_the_program_keeps_is_never_served),
      T(test_own_memory_of_the_server_is_not_in_the_map),
      T(test_a_served_page_that_changed_is_an_update_once),
      T(test_a_changed_page_that_was_not_served_is_no_update),
      T(test_pushed_heap_pages_are_those_that_nobody_has),
      T(test_updates_are_ascending_whatever_was_served_first),
      T(test_a_served_page_that_is_gone_does_not_hurt_a_launch),
      T(test_a_copy_of_what_was_mapped_before_is_not_served),
      T(test_heap_pages_are_dropped_when_served_and_changed),
      T(test_reading_the_heap_shows_the_frozen_bytes),
      T(test_refused_process_vm_readv_falls_back_to_proc_mem));
