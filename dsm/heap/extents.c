/*
 * Lists of extents. Their memory is mapped, not malloc'ed: in the client malloc is
 * the heap, and a list that grows while the heap is folded must not be part of it.
 */
#include <string.h>
#include <sys/mman.h>

#include "views.h"

static uint64_t
end_of(const struct dsm_extent *x)
{
	return x->start + (x->n_pages << DSM_PAGE_SHIFT);
}

static int
grow(struct dsm_extents *x)
{
	size_t old = x->cap * sizeof(x->v[0]);
	size_t len = old != 0 ? old * 2 : DSM_PAGE;
	void *p;

	if (old == 0)
		p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	else
		p = mremap(x->v, old, len, MREMAP_MAYMOVE);
	if (p == MAP_FAILED)
		return DSM_ENOMEM;
	x->v = p;
	x->cap = len / sizeof(x->v[0]);
	return DSM_OK;
}

static int
insert(struct dsm_extents *x, size_t at, uint64_t start, uint64_t n_pages)
{
	int rc = x->v != NULL && x->n < x->cap ? DSM_OK : grow(x);

	if (rc != DSM_OK)
		return rc;
	if (at < x->n)
		memmove(&x->v[at + 1], &x->v[at],
		        (x->n - at) * sizeof(x->v[0]));
	x->v[at].start = start;
	x->v[at].n_pages = n_pages;
	x->n++;
	return DSM_OK;
}

size_t
dsm__extents_find(const struct dsm_extents *x, uint64_t addr)
{
	size_t lo = 0, hi = x->n, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (end_of(&x->v[mid]) > addr)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

int
dsm__extents_add(struct dsm_extents *x, uint64_t start, uint64_t n_pages)
{
	uint64_t end = start + (n_pages << DSM_PAGE_SHIFT);
	size_t i, j;

	if (n_pages == 0)
		return DSM_OK;
	if (x->n == 0 || start > end_of(&x->v[x->n - 1]))
		return insert(x, x->n, start, n_pages);
	/* v[i .. j) overlap or touch the new one; start > 0, it is an address */
	i = start >= x->v[x->n - 1].start ? x->n - 1
	                                  : dsm__extents_find(x, start - 1);
	for (j = i; j < x->n && x->v[j].start <= end; j++)
		;
	if (i == j)
		return insert(x, i, start, n_pages);
	if (end < end_of(&x->v[j - 1]))
		end = end_of(&x->v[j - 1]);
	if (start > x->v[i].start)
		start = x->v[i].start;
	x->v[i].start = start;
	x->v[i].n_pages = (end - start) >> DSM_PAGE_SHIFT;
	memmove(&x->v[i + 1], &x->v[j], (x->n - j) * sizeof(x->v[0]));
	x->n -= j - i - 1;
	return DSM_OK;
}

int
dsm__extents_push(struct dsm_extents *x, uint64_t start, uint64_t n_pages)
{
	struct dsm_extent *last = x->n != 0 ? &x->v[x->n - 1] : NULL;

	if (last != NULL && start >= last->start && start <= end_of(last)) {
		uint64_t end = start + (n_pages << DSM_PAGE_SHIFT);

		if (end > end_of(last))
			last->n_pages = (end - last->start) >> DSM_PAGE_SHIFT;
		return DSM_OK;
	}
	return insert(x, x->n, start, n_pages);
}

static void
sift_down(struct dsm_extent *v, size_t i, size_t n)
{
	struct dsm_extent x = v[i];
	size_t child;

	while ((child = 2 * i + 1) < n) {
		if (child + 1 < n && v[child + 1].start > v[child].start)
			child++;
		if (v[child].start <= x.start)
			break;
		v[i] = v[child];
		i = child;
	}
	v[i] = x;
}

/* Heap sort: qsort(3) may call malloc. */
static void
sort(struct dsm_extent *v, size_t n)
{
	struct dsm_extent top;
	size_t i;

	for (i = n / 2; i-- > 0;)
		sift_down(v, i, n);
	for (i = n; i-- > 1;) {
		top = v[0];
		v[0] = v[i];
		v[i] = top;
		sift_down(v, 0, i);
	}
}

void
dsm__extents_normalise(struct dsm_extents *x)
{
	size_t i, n = 0;

	for (i = 1; i < x->n && x->v[i - 1].start <= x->v[i].start; i++)
		;
	if (i < x->n)
		sort(x->v, x->n);
	for (i = 0; i < x->n; i++) {
		struct dsm_extent *last = n != 0 ? &x->v[n - 1] : NULL;

		if (last == NULL || x->v[i].start > end_of(last))
			x->v[n++] = x->v[i];
		else if (end_of(&x->v[i]) > end_of(last))
			last->n_pages =
			    (end_of(&x->v[i]) - last->start) >> DSM_PAGE_SHIFT;
	}
	x->n = n;
}

void
dsm__extents_fini(struct dsm_extents *x)
{
	if (x->cap != 0)
		munmap(x->v, x->cap * sizeof(x->v[0]));
	memset(x, 0, sizeof(*x));
}
