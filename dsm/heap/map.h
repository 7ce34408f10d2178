/*
 * The client's address space as a table of ranges (doc/ARCHITECTURE.md).
 *
 * Read from /proc/self/maps and dl_iterate_phdr by dsm__map_refresh; never on
 * the launch path unless a library was loaded or unloaded since
 * (dlpi_adds/subs) or the heap's range is new. Readers (page server) look a
 * page up without locks: the table is immutable and replaced as a whole (RCU,
 * liburcu-bp).
 *
 * image_off: what is the same as before (same kind, same backing) keeps its
 * offset, also when only a part of it is left or its protection is another;
 * what a range has grown by, and anything else, gets fresh offsets. Offsets
 * are never reused in the life of a map.
 *
 * Left out: [vsyscall], [vvar], devices, mappings without read permission, and
 * ranges the caller excludes (the library's own: serving view, images, rings,
 * private stacks). Guard pages are thus simply absent.
 */
#ifndef DSM_HEAP_MAP_H
#define DSM_HEAP_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "../base/status.h"

struct dsm_map;

struct dsm_range {
	uint64_t start, end, image_off;
	uint32_t prot; /* PROT_READ | PROT_WRITE | PROT_EXEC */
	uint32_t kind; /* enum dsm_range_kind of wire.h */
	/* Bytes that are private to a task whatever the kind; equal: none. The
	 * words of a lazily bound PLT: the first call of a library function
	 * writes one, in two tasks the same. */
	uint64_t priv_start, priv_end;
};

int dsm__map_create(struct dsm_map **m_p);
void dsm__map_destroy(struct dsm_map *m);

/* [start, end) is never in the table (call before or after refresh). unexclude:
 * the very span that was excluded; shows at the next refresh. */
int dsm__map_exclude(struct dsm_map *m, uint64_t start, uint64_t end);
void dsm__map_unexclude(struct dsm_map *m, uint64_t start, uint64_t end);
/* The dsm heap: shown as HEAP with PROT_READ|PROT_WRITE whatever maps says. */
int dsm__map_heap(struct dsm_map *m, uint64_t start, uint64_t end);

/*
 * Whole pages that the program keeps to itself (taskrt_private): shown as KEPT,
 * without rights, where they are mapped and not the heap. keep 0: no longer. Shows at
 * the next refresh. DSM_EINVAL: not whole pages, or in the heap; DSM_ENOSPC: more
 * than 1024 such spans.
 */
int dsm__map_keep(struct dsm_map *m, uint64_t start, uint64_t end, int keep);

/* Read the maps again. *version_p grows when the table changed. Any thread. */
int dsm__map_refresh(struct dsm_map *m, uint64_t *version_p,
                     struct dsm_error *e);
/* 1 when a library was loaded or unloaded since the last refresh, or the heap
 * is new, or there was none. */
int dsm__map_stale(struct dsm_map *m);

/* Copy of the range that holds addr: 1, or 0 when there is none. Lock-free. */
int dsm__map_find(struct dsm_map *m, uint64_t addr, struct dsm_range *r_p);
/* Of the table as it is now. */
uint64_t dsm__map_version(struct dsm_map *m);
/* The whole table: *v_p malloc'ed, caller frees. */
int dsm__map_table(struct dsm_map *m, struct dsm_range **v_p, size_t *n_p,
                   uint64_t *version_p);

/* Thread-local storage of the calling thread, thread control block included:
 * bytes that are private to a task. */
void dsm__map_tls(uint64_t *start_p, uint64_t *end_p);

/* Kind of one line of /proc/self/maps by its path; 0: left out. */
uint32_t dsm__map_classify(const char *path, uint32_t prot, int shared,
                           const char *main_exe);

#endif
