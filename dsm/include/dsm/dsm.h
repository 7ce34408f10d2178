/*
 * dsm.h - memory that tasks on other machines see and write.
 *
 *   double *a = dsm_calloc(n, sizeof(*a));
 *   dsm_name(a, "temperatures");
 *   ...                                run tasks over a: see <taskrt/taskrt.h>
 *   dsm_free(a);
 *
 * A task sees this memory as it was when its run was launched; what it writes
 * comes back when the run commits. Outside of runs it is ordinary memory: it
 * may be passed to system calls, read and written by any thread, freed by
 * another thread than the one that allocated it. No initialisation call is
 * needed.
 *
 * Also inside tasks: a block allocated there belongs to the program after the
 * commit, and a block of the program freed there is freed at the commit.
 *
 * Context, all calls: any thread; not in signal handlers; may be called in a
 * child after fork(). No call faults, blocks on the network or waits for a run.
 */
#ifndef DSM_DSM_H
#define DSM_DSM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
/* A function and a struct of one name, as stat of the C library. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif

#if defined(__GNUC__)
#define DSM_API __attribute__((visibility("default")))
#define DSM_MALLOC_LIKE __attribute__((malloc, warn_unused_result))
#else
#define DSM_API
#define DSM_MALLOC_LIKE
#endif

/*
 * What functions that can fail return: DSM_OK or a negative code. The numbers
 * are ABI: new ones may be added, none changes its meaning.
 */
#ifndef DSM_BASE_STATUS_H /* the library's own sources have them from there */
enum dsm_status {
	DSM_OK = 0,
	DSM_EINVAL = -1,     /* invalid argument */
	DSM_ENOMEM = -2,     /* out of memory */
	DSM_ECONN = -3,      /* no connection */
	DSM_ETIMEDOUT = -4,  /* timed out */
	DSM_EAUTH = -5,      /* not authorised */
	DSM_EPROTO = -6,     /* malformed or unexpected message from a peer */
	DSM_EAGAIN = -7,     /* would block */
	DSM_ENOSPC = -8,     /* no room */
	DSM_ESYS = -9,       /* system call failed */
	DSM_EVERSION = -10,  /* peer speaks another version */
	DSM_EINCOMPAT = -11, /* peer cannot run this program */
	DSM_ERACE = -32,     /* two tasks wrote the same byte */
	DSM_ETASK = -33,     /* a task failed */
	DSM_ECANCELED = -34, /* cancelled */
};
#endif

/*
 * dsm_malloc - allocate size bytes of shared memory.
 *
 * Returns     a block aligned to 16 bytes, its contents undefined; for size 0 a
 *             pointer that no other live block has; NULL with errno ENOMEM when
 *             the heap's address space or memory is used up
 * Owns        the caller: give it back with dsm_free or dsm_realloc
 * Remembers   the return address, for reports of races ("allocated at f.c:12")
 */
DSM_API void *dsm_malloc(size_t size) DSM_MALLOC_LIKE;

/*
 * dsm_calloc - allocate an array of n elements of size bytes, all zero.
 *
 * As dsm_malloc; NULL with ENOMEM also when n * size overflows. Memory that was
 * never used is known to be zero and is not touched. The element size is
 * remembered: reports name the element ("temperatures[17]").
 */
DSM_API void *dsm_calloc(size_t n, size_t size) DSM_MALLOC_LIKE;

/*
 * dsm_realloc - change a block's size; contents up to the smaller size stay.
 *
 * p           a live block, or NULL: then as dsm_malloc
 * size        new size; 0 frees p and returns NULL
 * Returns     the block, perhaps at another address: then p is no longer valid;
 *             NULL with errno ENOMEM: p is as before and still the caller's
 * Keeps       the block's name
 */
DSM_API void *dsm_realloc(void *p, size_t size)
    __attribute__((warn_unused_result));

/*
 * dsm_aligned_alloc - dsm_malloc with an alignment.
 *
 * align       a power of two up to 1 GiB; size need not be a multiple of it
 * Returns     as dsm_malloc; NULL with EINVAL for another align
 */
DSM_API void *dsm_aligned_alloc(size_t align, size_t size) DSM_MALLOC_LIKE;

/*
 * dsm_free - give a block back.
 *
 * p           a live block of dsm_malloc and its family, or NULL: nothing. Any
 *             other pointer, and a block that was freed before, ends the
 * program with one line on stderr that names it Never       writes to the
 * block's memory; changes errno
 */
DSM_API void dsm_free(void *p);

/*
 * dsm_name - give a live block a name for reports and tools.
 *
 * p           a live block, or any address in one
 * label       copied; the first 47 bytes count. "" or NULL takes the name away
 * Returns     DSM_OK; DSM_EINVAL when p is in no live block; DSM_ENOMEM
 */
DSM_API int dsm_name(const void *p, const char *label);

/* How tasks will use memory: advice of dsm_advise. */
enum {
	DSM_NORMAL = 0,     /* nothing is known: windows follow what tasks do */
	DSM_WILLNEED = 1,   /* all of it, soon */
	DSM_SEQUENTIAL = 2, /* from front to back */
	DSM_RANDOM = 3,     /* here and there */
};

/*
 * dsm_advise - say how tasks of the next launches will use a part of the heap.
 *
 * p, len      any part of the shared heap; every page that it touches is meant
 * advice      WILLNEED: pages travel with the launch message, before any task
 *             asks (up to 16 MiB a launch, those that changed and those that
 *             were never sent), the rest in the biggest windows;
 *             SEQUENTIAL: big windows from the first page on, the next one under
 *             way while the task works; RANDOM: just the pages that are
 *             touched, none besides; NORMAL: takes advice back
 * Returns     DSM_OK; DSM_EINVAL: another advice, not in the heap, or inside a task;
 *             DSM_ENOSPC: more than 1024 ranges with advice
 * Stays       with the addresses, until other advice is given for them
 * Costs       nothing where memory is shared: on one machine without a cluster it
 *             has no effect, and it never changes results
 */
DSM_API int dsm_advise(const void *p, size_t len, int advice);

/* The shared heap in numbers. Bytes, unless said otherwise. */
struct dsm_stats {
	uint64_t address_space; /* reserved for the heap; costs no memory */
	uint64_t allocated;     /* asked for in blocks that are alive */
	uint64_t blocks;        /* alive; a count */
	uint64_t committed; /* pages that hold blocks now, free room included */
	uint64_t touched;   /* pages that ever held blocks */
	uint64_t peak;      /* highest value of committed so far */
};

/*
 * dsm_stats - fill in the numbers of this moment.
 *
 * Returns     DSM_OK; DSM_EINVAL when stats is NULL
 * Ordering    allocations that other threads make meanwhile may count or not
 */
DSM_API int dsm_stats(struct dsm_stats *stats);

#ifdef __cplusplus
#pragma GCC diagnostic pop
}
#endif

#endif
