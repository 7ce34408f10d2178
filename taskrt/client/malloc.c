/*
 * The malloc family. In the program it is libc's; what comes from dsm_malloc is
 * told by its address and goes back to the shared heap, so that free and realloc
 * work on every pointer, also on those that tasks have returned. In a task
 * everything comes from the task's arena.
 *
 * Tasks run in a copy of the program's memory: libc's malloc there would change
 * libc's own lists, which are dropped with the task, and hand out memory that the
 * program would then hand out again. That is why it must be ours.
 *
 * Forwards to glibc's __libc_ names. A static program needs another way: this
 * object can be left out of the link. Not compiled with a sanitizer, which must
 * have the family for itself.
 */
#include "malloc.h"

#include <dlfcn.h>
#include <link.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/log.h"
#include "../../dsm/base/page.h"
#include "../../dsm/heap/heap.h"
#include "task.h"
#include "taskpage.h"
#include <taskrt/taskrt.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

/* Before main: dsm_* calls must know a task from the program, too. */
static const struct dsm_task_ops task_ops = {
    .malloc = taskrt__task_malloc,
    .calloc = taskrt__task_calloc,
    .realloc = taskrt__task_realloc,
    .aligned = taskrt__task_aligned,
    .free = taskrt__task_free,
};

static __attribute__((constructor)) void
install_task_ops(void)
{
	dsm__heap_set_task(&taskrt__task_page.in_task, &task_ops);
}

/* The C library's, found when first needed: there is no __libc_ name for it. */
static size_t (*libc_usable)(void *p);

size_t
taskrt__malloc_usable(void *p)
{
	if (libc_usable == NULL)
		*(void **)&libc_usable = dlsym(RTLD_NEXT, "malloc_usable_size");
	return libc_usable != NULL && p != NULL ? libc_usable(p) : 0;
}

#if defined(SANITIZED)

void
taskrt__malloc_check(void)
{
	taskrt__malloc_usable(NULL);
}

#else

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *p);
size_t malloc_usable_size(void *p);
void *memalign(size_t align, size_t size);
void *pvalloc(size_t size);

#define RA __builtin_return_address(0)
#define SMALL_MAX 1032u /* what glibc's thread caches hold */

/* --- the C library's own calls --- */

/*
 * What the C library frees in a task it has also forgotten there, in data that is
 * dropped with the task: in the program it still uses the block (tzset() and
 * its old time zone, fclose()). So such a free is not made up for at the commit;
 * but for a block of the shared heap, which libc never has for itself. (In a static
 * program all code looks like libc's: there only such blocks are freed.)
 */
static uintptr_t libc_start, libc_end;

static int
note_libc(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t inside = (uintptr_t)__libc_malloc;
	uintptr_t start = UINTPTR_MAX, end = 0;

	(void)size;
	(void)arg;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t at = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type != PT_LOAD)
			continue;
		start = at < start ? at : start;
		end = at + ph->p_memsz > end ? at + ph->p_memsz : end;
	}
	if (inside < start || inside >= end)
		return 0;
	libc_start = start;
	libc_end = end;
	return 1;
}

static int
is_libc(const void *ra)
{
	return (uintptr_t)ra >= libc_start && (uintptr_t)ra < libc_end;
}

void
taskrt__malloc_check(void)
{
	static int done;
	Dl_info seen, own;
	void *p = dlsym(RTLD_DEFAULT, "malloc");

	taskrt__malloc_usable(NULL);
	dl_iterate_phdr(note_libc, NULL);
	/* An executable that holds libtaskrt need not export its malloc; then
	 * the search finds libc's, and all but its own calls go there. */
	if (done || dladdr(p, &seen) == 0 || dladdr(&task_ops, &own) == 0 ||
	    seen.dli_fbase == own.dli_fbase)
		return;
	done = 1;
	log_warn("another malloc is in front of taskrt's: tasks cannot return "
	         "memory that they allocate with malloc");
}

void *
malloc(size_t size)
{
	if (__builtin_expect(taskrt__in_task(), 0))
		return taskrt__task_malloc(size, RA);
	return __libc_malloc(size);
}

void *
calloc(size_t n, size_t size)
{
	if (__builtin_expect(taskrt__in_task(), 0))
		return taskrt__task_calloc(n, size, RA);
	/* glibc's own never takes a small block from the thread's cache, but
	 * changes data of libc's each time, which tasks read, too: pages that
	 * would be sent to all workers at each launch. */
	if (n <= SMALL_MAX && size <= SMALL_MAX && n * size <= SMALL_MAX) {
		void *p = __libc_malloc(n * size);

		return p != NULL ? memset(p, 0, n * size) : NULL;
	}
	return __libc_calloc(n, size);
}

/* --- what a task frees of the program's --- */

#define IS_MMAPPED ((size_t)2) /* bits of the size in front of a block */
#define PREV_IN_USE ((size_t)1)
#define FLAGS ((size_t)7)

/*
 * Does p look like a block of libc's that is alive? libc itself looks when the
 * block is freed in the program, at the commit, and ends the program when it does
 * not. A task that touches nothing mapped here fails by that.
 */
static int
is_block(const void *p)
{
	const uintptr_t at = (uintptr_t)p - 2 * sizeof(size_t);
	const size_t *head = (const size_t *)p - 2;
	size_t size, off;

	if ((uintptr_t)p % 16 != 0)
		return 0;
	size = head[1] & ~FLAGS;
	if (size < 32 || size % 16 != 0 || size > UINTPTR_MAX / 2 - at)
		return 0;
	if (head[1] & IS_MMAPPED)
		return ((at - head[0]) | (head[0] + size)) % DSM_PAGE == 0;
	/* The next one says whether this one is in use. */
	off = size / sizeof(size_t);
	return (head[off + 1] & PREV_IN_USE) != 0;
}

static void
must_be_block(const void *p, int quiet)
{
	char text[80];

	if (p == NULL || quiet || dsm__heap_has(p) || is_block(p))
		return;
	snprintf(text, sizeof(text),
	         "free or realloc of %p, which malloc has not returned", p);
	taskrt_fail(text);
}

void
free(void *p)
{
	if (__builtin_expect(taskrt__in_task(), 0)) {
		const int quiet = is_libc(RA);

		must_be_block(p, quiet);
		taskrt__task_drop(p, quiet);
	} else if (__builtin_expect(dsm__heap_has(p), 0))
		dsm_free(p);
	else
		__libc_free(p);
}

void *
realloc(void *p, size_t size)
{
	if (__builtin_expect(taskrt__in_task(), 0)) {
		const int quiet = is_libc(RA);

		must_be_block(p, quiet);
		return taskrt__task_resize(p, size, RA, quiet);
	}
	if (__builtin_expect(dsm__heap_has(p), 0))
		return dsm_realloc(p, size);
	return __libc_realloc(p, size);
}

void *
reallocarray(void *p, size_t n, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(n, size, &total)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(p, total);
}

/* glibc rounds a bad alignment up; in a task the caller must mean it. */
void *
memalign(size_t align, size_t size)
{
	if (__builtin_expect(taskrt__in_task(), 0))
		return taskrt__task_aligned(align, size, RA);
	return __libc_memalign(align, size);
}

void *
aligned_alloc(size_t align, size_t size)
{
	return memalign(align, size);
}

int
posix_memalign(void **p_p, size_t align, size_t size)
{
	int saved = errno;

	if (align < sizeof(void *) || (align & (align - 1)) != 0)
		return EINVAL;
	void *p = memalign(align, size);
	errno = saved;
	if (p == NULL)
		return ENOMEM;
	*p_p = p;
	return 0;
}

void *
valloc(size_t size)
{
	return memalign(DSM_PAGE, size);
}

void *
pvalloc(size_t size)
{
	if (size > SIZE_MAX - DSM_PAGE_MASK) {
		errno = ENOMEM;
		return NULL;
	}
	return memalign(DSM_PAGE, dsm__page_up(size));
}

size_t
malloc_usable_size(void *p)
{
	if (p == NULL)
		return 0;
	if (__builtin_expect(taskrt__in_task(), 0))
		return taskrt__task_usable(p);
	if (dsm__heap_has(p))
		return dsm__heap_usable(p);
	return taskrt__malloc_usable(p);
}

#endif
