#include "costs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/page.h"
#include "../../dsm/heap/heap.h"
#include "../../dsm/heap/sizeclass.h"
#include "debuginfo.h"

#define SHOWN 10u

/* --- rows --- */

static int
is_row_of(const struct taskrt__cost_row *r, const struct dsm_alloc_info *b)
{
	return r->base == b->base && r->size == b->size &&
	       r->return_address == b->return_address &&
	       strcmp(r->label, b->label) == 0;
}

static struct taskrt__cost *
row_of(struct taskrt__costs *c, const struct dsm_alloc_info *b)
{
	uint64_t h = ((uintptr_t)b->base >> 12) * UINT64_C(0x9e3779b97f4a7c15);

	for (uint32_t i = 0; i < TASKRT__COST_ROWS; i++) {
		struct taskrt__cost_row *r =
		    &c->rows[((h >> 32) + i) % TASKRT__COST_ROWS];

		if (is_row_of(r, b))
			return &r->cost;
		if (r->base != NULL)
			continue;
		r->base = b->base;
		r->size = b->size;
		r->return_address = b->return_address;
		memcpy(r->label, b->label, sizeof(r->label));
		c->n_rows++;
		return &r->cost;
	}
	return &c->sums[TASKRT__COST_OTHERS];
}

/* Whose the byte at addr is; *end_p: it is so below that. */
static struct taskrt__cost *
cost_of(struct taskrt__costs *c, uint64_t addr, uint64_t *end_p)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	const void *p = (const void *)(uintptr_t)addr;
	struct dsm_alloc_info b;

	*end_p = dsm__page_down(addr) + DSM_PAGE;
	if (!dsm__heap_has(p))
		return &c->sums[TASKRT__COST_OUTSIDE];
	if (!dsm__heap_find(p, &b))
		return &c->sums[TASKRT__COST_FREE];
	if (b.size <= DSM_SMALL_MAX)
		return &c->sums[TASKRT__COST_SMALL];
	*end_p = (uintptr_t)b.base + b.size;
	return row_of(c, &b);
}

/* --- adding up --- */

static void
fetched(struct taskrt__costs *c, const struct dsm_rec_place *r)
{
	uint64_t end = r->start + r->n_pages * DSM_PAGE;
	uint64_t until;
	struct taskrt__cost *k = cost_of(c, r->start, &until);

	k->faults += r->faults;
	k->wait_ns += r->wait_ns;
	for (uint64_t at = r->start; at < end; at += DSM_PAGE) {
		if (at >= until)
			k = cost_of(c, at, &until);
		k->fetched++;
	}
}

void
taskrt__costs_fetched(struct taskrt__costs *c, const struct dsm_array *places)
{
	struct dsm_rec_place r;

	for (uint32_t i = 0; i < places->n; i++)
		if (dsm__unpack_place(places, i, &r) == DSM_OK)
			fetched(c, &r);
}

void
taskrt__costs_written(void *costs, uint64_t addr, uint64_t len)
{
	uint64_t end = addr + len, until = addr;
	struct taskrt__cost *k = NULL;

	while (addr < end) {
		uint64_t page = dsm__page_down(addr);
		uint64_t to = page + DSM_PAGE < end ? page + DSM_PAGE : end;

		if (addr >= until)
			k = cost_of(costs, addr, &until);
		if (to > until)
			to = until;
		k->written += page != k->last_page;
		k->last_page = page;
		k->bytes += to - addr;
		addr = to;
	}
}

/* --- for people --- */

/* A page that was waited for is dearer than one that is sent back. */
static uint64_t
weight(const struct taskrt__cost *c)
{
	return 2 * c->fetched + c->faults + c->written;
}

struct entry {
	uint64_t weight;
	const struct taskrt__cost_row *row;
};

static int
dearer_first(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return (x->row->base > y->row->base) - (x->row->base < y->row->base);
}

static void
print_cost(FILE *f, const struct taskrt__cost *c)
{
	fprintf(f,
	        "  %8" PRIu64 " %10.3f %8" PRIu64 " %8" PRIu64 " %12" PRIu64
	        "  ",
	        c->faults, (double)c->wait_ns / 1e6, c->fetched, c->written,
	        c->bytes);
}

static void
print_row(FILE *f, const struct taskrt__cost_row *r,
          struct taskrt__debuginfo *d)
{
	char by[200];

	print_cost(f, &r->cost);
	/* The return address belongs to the call before it. */
	taskrt__debuginfo_code(d, (uintptr_t)r->return_address - 1, by,
	                       sizeof(by));
	fprintf(f, "%s of %zu bytes%s%s\n",
	        r->label[0] != '\0' ? r->label : "block", r->size,
	        by[0] != '\0' ? ", allocated in " : "", by);
}

static void
print_sum(FILE *f, const struct taskrt__cost *c, const char *what)
{
	if (weight(c) == 0)
		return;
	print_cost(f, c);
	fprintf(f, "%s\n", what);
}

static void
print_rows(FILE *f, const struct taskrt__costs *c)
{
	struct entry v[TASKRT__COST_ROWS];
	struct taskrt__cost rest = c->sums[TASKRT__COST_OTHERS];
	struct taskrt__debuginfo *d = taskrt__debuginfo_open();
	uint32_t n = 0;

	for (uint32_t i = 0; i < TASKRT__COST_ROWS; i++)
		if (c->rows[i].base != NULL)
			v[n++] = (struct entry){weight(&c->rows[i].cost),
			                        &c->rows[i]};
	qsort(v, n, sizeof(*v), dearer_first);
	for (uint32_t i = 0; i < n; i++) {
		const struct taskrt__cost *k = &v[i].row->cost;

		if (i < SHOWN) {
			print_row(f, v[i].row, d);
			continue;
		}
		rest.faults += k->faults;
		rest.wait_ns += k->wait_ns;
		rest.fetched += k->fetched;
		rest.written += k->written;
		rest.bytes += k->bytes;
	}
	taskrt__debuginfo_close(d);
	print_sum(f, &rest, "other blocks");
}

void
taskrt__costs_print(FILE *f, const struct taskrt__costs *c, int heap_shared)
{
	static const char *const names[] = {
	    [TASKRT__COST_SMALL] = "blocks of up to 2048 bytes",
	    [TASKRT__COST_FREE] =
	        ("the heap outside blocks (what tasks allocate for "
	         "themselves, freed, read ahead)"),
	    [TASKRT__COST_OUTSIDE] = "globals, stacks, code",
	};
	uint64_t any = c->n_rows;

	_Static_assert(DSM_SMALL_MAX == 2048, "the text above says so");
	for (size_t i = 0; i < TASKRT__N_COSTS; i++)
		any += weight(&c->sums[i]);
	if (any == 0)
		return;
	fprintf(f, "by allocation%s\n",
	        heap_shared ? " (slots of this machine share the heap: of it, "
	                      "nothing is fetched)"
	                    : "");
	fprintf(f, "  %8s %10s %8s %8s %12s\n", "FAULTS", "WAITED ms",
	        "FETCHED", "WRITTEN", "BYTES");
	print_rows(f, c);
	for (size_t i = 0; i < TASKRT__COST_OTHERS; i++)
		print_sum(f, &c->sums[i], names[i]);
}
