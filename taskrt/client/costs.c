#include "costs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/page.h"
#include "../../dsm/heap/heap.h"
#include "../../dsm/heap/sizeclass.h"
#include "debuginfo.h"

#define SHOWN 10u
#define TELL_MS 100 /* at least, between two COSTS */

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
	/* Behind its end its last page is its own, too. */
	if ((uintptr_t)b.base + b.size > addr)
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

/* --- the dearest, as lines --- */

/* A page that was waited for is dearer than one that is sent back. */
static uint64_t
weight(const struct taskrt__cost *c)
{
	return 2 * c->fetched + c->faults + c->written;
}

struct entry {
	uint64_t weight;
	struct taskrt__cost_row *row;
};

struct line {
	struct taskrt__cost cost;
	uint64_t size; /* 0: a sum */
	char what[256];
};
#define LINES_MAX (SHOWN + TASKRT__N_COSTS)

static int
dearer_first(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	if (x->weight != y->weight)
		return x->weight > y->weight ? -1 : 1;
	return (x->row->base > y->row->base) - (x->row->base < y->row->base);
}

/* Once for each: debug information is slow to open. */
static void
name_rows(struct entry *v, uint32_t n)
{
	struct taskrt__debuginfo *d = NULL;

	for (uint32_t i = 0; i < n; i++) {
		struct taskrt__cost_row *r = v[i].row;

		if (r->named)
			continue;
		if (d == NULL)
			d = taskrt__debuginfo_open();
		/* The return address belongs to the call before it. */
		taskrt__debuginfo_code(d, (uintptr_t)r->return_address - 1,
		                       r->by, sizeof(r->by));
		r->named = 1;
	}
	if (d != NULL)
		taskrt__debuginfo_close(d);
}

static void
add(struct taskrt__cost *to, const struct taskrt__cost *k)
{
	to->faults += k->faults;
	to->wait_ns += k->wait_ns;
	to->fetched += k->fetched;
	to->written += k->written;
	to->bytes += k->bytes;
}

static void
put_sum(struct line *v, size_t *n, const struct taskrt__cost *c,
        const char *what)
{
	struct line *l = &v[*n];

	if (weight(c) == 0)
		return;
	l->cost = *c;
	l->size = 0;
	snprintf(l->what, sizeof(l->what), "%s", what);
	++*n;
}

static size_t
make_lines(struct taskrt__costs *c, struct line v[LINES_MAX])
{
	static const char *const names[] = {
	    [TASKRT__COST_SMALL] = "blocks of up to 2048 bytes",
	    [TASKRT__COST_FREE] =
	        ("the heap outside blocks (what tasks allocate for "
	         "themselves, freed, read ahead)"),
	    [TASKRT__COST_OUTSIDE] = "globals, stacks, code",
	};
	struct entry rows[TASKRT__COST_ROWS];
	struct taskrt__cost rest = c->sums[TASKRT__COST_OTHERS];
	uint32_t n_rows = 0;
	size_t n = 0;

	_Static_assert(DSM_SMALL_MAX == 2048, "the text above says so");
	for (uint32_t i = 0; i < TASKRT__COST_ROWS; i++)
		if (c->rows[i].base != NULL)
			rows[n_rows++] = (struct entry){
			    weight(&c->rows[i].cost), &c->rows[i]};
	qsort(rows, n_rows, sizeof(*rows), dearer_first);
	name_rows(rows, n_rows < SHOWN ? n_rows : SHOWN);
	for (uint32_t i = 0; i < n_rows; i++) {
		const struct taskrt__cost_row *r = rows[i].row;
		struct line *l = &v[n];

		if (i >= SHOWN) {
			add(&rest, &r->cost);
			continue;
		}
		l->cost = r->cost;
		l->size = r->size;
		snprintf(l->what, sizeof(l->what), "%s of %zu bytes%s%s",
		         r->label[0] != '\0' ? r->label : "block", r->size,
		         r->by[0] != '\0' ? ", allocated in " : "", r->by);
		n++;
	}
	put_sum(v, &n, &rest, "other blocks");
	for (size_t i = 0; i < TASKRT__COST_OTHERS; i++)
		put_sum(v, &n, &c->sums[i], names[i]);
	return n;
}

/* --- for people --- */

void
taskrt__costs_print(FILE *f, struct taskrt__costs *c, int heap_shared)
{
	struct line v[LINES_MAX];
	size_t n = make_lines(c, v);

	if (n == 0)
		return;
	fprintf(f, "by allocation%s\n",
	        heap_shared ? " (slots of this machine share the heap: of it, "
	                      "nothing is fetched)"
	                    : "");
	fprintf(f, "  %8s %10s %8s %8s %12s\n", "FAULTS", "WAITED ms",
	        "FETCHED", "WRITTEN", "BYTES");
	for (size_t i = 0; i < n; i++) {
		const struct taskrt__cost *k = &v[i].cost;

		fprintf(f,
		        "  %8" PRIu64 " %10.3f %8" PRIu64 " %8" PRIu64
		        " %12" PRIu64 "  %s\n",
		        k->faults, (double)k->wait_ns / 1e6, k->fetched,
		        k->written, k->bytes, v[i].what);
	}
}

/* --- for `taskrt stat` --- */

static int
pack_lines(const struct line *v, size_t n, struct dsm_wbuf *costs,
           struct dsm_wbuf *texts)
{
	int err = DSM_OK;

	_Static_assert(LINES_MAX <= DSM_COSTS_MAX &&
	                   LINES_MAX * sizeof(v->what) <= DSM_COSTS_TEXT,
	               "they fit into a COSTS");
	for (size_t i = 0; i < n && err == DSM_OK; i++) {
		const struct taskrt__cost *k = &v[i].cost;
		const struct dsm_rec_cost r = {
		    .faults = k->faults,
		    .wait_ns = k->wait_ns,
		    .fetched = k->fetched,
		    .written = k->written,
		    .bytes = k->bytes,
		    .size = v[i].size,
		    .text_off = (uint32_t)texts->len,
		    .text_len = (uint32_t)strlen(v[i].what),
		};

		err = dsm__wbuf_put(texts, v[i].what, r.text_len);
		if (err == DSM_OK)
			err = dsm__pack_cost(costs, &r);
	}
	return err;
}

int
taskrt__costs_encode(struct taskrt__costs *c, uint64_t run, struct dsm_wbuf *w)
{
	uint64_t now = dsm__now();
	struct dsm_wbuf costs = {0}, texts = {0};
	struct line v[LINES_MAX];
	struct dsm_msg_costs m = {.run = run};
	size_t n;
	int err;

	if (c->told_at != 0 && now - c->told_at < TELL_MS * DSM_MS)
		return DSM_EAGAIN;
	c->told_at = now;
	n = make_lines(c, v);
	err = pack_lines(v, n, &costs, &texts);
	m.costs = (struct dsm_array){costs.ptr, (uint32_t)n};
	m.texts = (struct dsm_blob){texts.ptr, (uint32_t)texts.len};
	if (err == DSM_OK)
		err = dsm__encode_costs(w, &m);
	dsm__wbuf_fini(&costs);
	dsm__wbuf_fini(&texts);
	return err;
}
