#include "pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* linux/fs.h of 6.7; older headers do not have it. */
struct pm_region {
	uint64_t start, end, categories;
};
struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask;
	uint64_t return_mask;
};
#define PM_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PM_IS_FILE (UINT64_C(1) << 2)
#define PM_IS_PRESENT (UINT64_C(1) << 3)
#define PM_IS_SWAPPED (UINT64_C(1) << 4)

/* An entry of /proc/self/pagemap. */
#define ENTRY_PRESENT (UINT64_C(1) << 63)
#define ENTRY_SWAPPED (UINT64_C(1) << 62)
#define ENTRY_FILE (UINT64_C(1) << 61)

/* Both buffers live on stacks that may be small (the slot's). The kernel itself
 * works in steps of 512 entries. */
#define N_REGIONS 256
#define N_ENTRIES 512

/* The extent that may still grow, and who gets it. */
struct walk {
	int (*cb)(void *arg, uint64_t start, uint64_t n_pages);
	void *arg;
	uint64_t start, end;
};

static int
walk_flush(struct walk *w)
{
	uint64_t start = w->start, end = w->end;

	w->start = w->end = 0;
	if (start == end)
		return DSM_OK;
	return w->cb(w->arg, start, (end - start) >> DSM_PAGE_SHIFT);
}

static int
walk_add(struct walk *w, uint64_t start, uint64_t end)
{
	int rc;

	if (start == w->end) {
		w->end = end;
		return DSM_OK;
	}
	rc = walk_flush(w);
	w->start = start;
	w->end = end;
	return rc;
}

/*
 * One PAGEMAP_SCAN over [start, end): returns the regions found or -1, *walked_p
 * is where it stopped. The zero page counts as private: the kernel's same-page
 * merging puts it where a private page of zeros was, whatever the file has.
 */
static int
scan_once(int fd, uint64_t start, uint64_t end, struct pm_region *v,
          uint64_t v_len, uint64_t *walked_p)
{
	struct pm_scan_arg a = {
	    .size = sizeof(a),
	    .start = start,
	    .end = end,
	    .vec = (uintptr_t)v,
	    .vec_len = v_len,
	    .category_inverted = PM_IS_FILE,
	    .category_mask = PM_IS_FILE,
	    .category_anyof_mask = PM_IS_PRESENT | PM_IS_SWAPPED,
	    /* always clear in what matches, so neighbours are merged */
	    .return_mask = PM_IS_FILE};
	int n;

	do
		n = ioctl(fd, PM_SCAN, &a);
	while (n < 0 && errno == EINTR);
	*walked_p = a.walk_end;
	return n;
}

static int
walk_scan(struct walk *w, int fd, uint64_t start, uint64_t end)
{
	struct pm_region v[N_REGIONS];
	uint64_t walked;
	int rc, i, n;

	while (start < end) {
		n = scan_once(fd, start, end, v, N_REGIONS, &walked);
		if (n < 0 || walked <= start)
			return DSM_ESYS;
		for (i = 0; i < n; i++) {
			rc = walk_add(w, v[i].start, v[i].end);
			if (rc != DSM_OK)
				return rc;
		}
		start = walked;
	}
	return DSM_OK;
}

static int
is_private(uint64_t entry)
{
	return (entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) != 0 &&
	       (entry & ENTRY_FILE) == 0;
}

static int
walk_entries(struct walk *w, int fd, uint64_t start, uint64_t end)
{
	uint64_t v[N_ENTRIES], n;
	ssize_t got;
	int rc, i;

	while (start < end) {
		n = (end - start) >> DSM_PAGE_SHIFT;
		if (n > N_ENTRIES)
			n = N_ENTRIES;
		got = pread(fd, v, n * sizeof(v[0]),
		            (off_t)((start >> DSM_PAGE_SHIFT) * sizeof(v[0])));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < (ssize_t)sizeof(v[0]))
			return DSM_ESYS;
		for (i = 0; i < got / (ssize_t)sizeof(v[0]); i++) {
			rc = is_private(v[i])
			         ? walk_add(w, start, start + DSM_PAGE)
			         : DSM_OK;
			if (rc != DSM_OK)
				return rc;
			start += DSM_PAGE;
		}
	}
	return DSM_OK;
}

int
dsm__pagemap_init(struct dsm_pagemap *pm, int use_scan)
{
	struct pm_region r;
	uint64_t here, walked;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return DSM_ESYS;
	here = dsm__page_down((uintptr_t)&r);
	pm->fd = fd;
	pm->scan = use_scan &&
	           scan_once(fd, here, here + DSM_PAGE, &r, 1, &walked) >= 0;
	return DSM_OK;
}

void
dsm__pagemap_fini(struct dsm_pagemap *pm)
{
	close(pm->fd);
	pm->fd = -1;
}

int
dsm__pagemap_private(const struct dsm_pagemap *pm, uint64_t start,
                     uint64_t n_pages,
                     int (*cb)(void *arg, uint64_t start, uint64_t n_pages),
                     void *arg)
{
	struct walk w = {.cb = cb, .arg = arg};
	uint64_t end = start + (n_pages << DSM_PAGE_SHIFT);
	int rc;

	if (pm->scan)
		rc = walk_scan(&w, pm->fd, start, end);
	else
		rc = walk_entries(&w, pm->fd, start, end);
	return rc != DSM_OK ? rc : walk_flush(&w);
}
