/*
 * Who met whom, and where: see races.h.
 *
 * Suspect records, sorted by page, are swept in ascending order of addresses.
 * Between the pages where a record begins or has just ended nothing changes, so
 * only those pages are looked at. In a page, byte by byte where a task's writing
 * starts or stops: with m tasks that go on writing and s that start, s * m +
 * s * (s - 1) / 2 pairs begin to race there. So counting is linear in the records
 * however many tasks wrote one byte.
 */
#include "races_priv.h"

#include <stdlib.h>

#include "../../dsm/base/page.h"

static const uint64_t all_ones[WORDS] = {[0 ... WORDS - 1] = UINT64_MAX};

struct item {
	uint64_t page, end, task;
	const uint8_t *rec; /* NULL: every byte */
};

struct owner {
	uint64_t task;
	const uint64_t *bits;
	uint64_t prev; /* 1: wrote the byte before */
};

struct open_race {
	size_t out;
	size_t a, b; /* owners of this page */
};

struct sweep {
	struct item *items;
	size_t n_items;
	struct item *active; /* that cover the page, by task */
	size_t n_active;
	struct owner *owners;
	size_t n_owners;
	uint64_t *carry; /* tasks that wrote the last byte before, ascending */
	size_t n_carry;
	uint64_t *bits; /* n_bits bitmaps */
	size_t n_bits;
	size_t *now, *starts; /* owners at one byte */
	struct open_race *open;
	size_t n_open;
	struct dsm_rec_race *out;
	size_t n_out, max;
	uint64_t total;
};

static int
compare(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int
item_by_page(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	int c = compare(x->page, y->page);

	return c != 0 ? c : compare(x->task, y->task);
}

static int
item_by_task(const void *a, const void *b)
{
	return compare(((const struct item *)a)->task,
	               ((const struct item *)b)->task);
}

static int
sweep_collect(struct sweep *w, const struct races *r)
{
	size_t cap = 0;
	struct record rec;

	for (size_t i = 0; i < r->n_parts; i++) {
		const struct part *part = &r->parts[i];
		const uint8_t *p = part->mask, *end = p + part->len;

		while (p < end) {
			p = record_read(p, &rec);
			if (!races__suspect(r, rec.page, rec.page + rec.n))
				continue;
			if (races__grow((void **)&w->items, &cap, w->n_items,
			                sizeof(*w->items)) != DSM_OK)
				return DSM_ENOMEM;
			w->items[w->n_items++] = (struct item){
			    rec.page, rec.page + rec.n, part->task,
			    rec.kind == REC_WHOLE ? NULL : rec.bytes};
		}
	}
	if (w->n_items > 0)
		qsort(w->items, w->n_items, sizeof(*w->items), item_by_page);
	return DSM_OK;
}

/* Drop what ended before `page`, add what begins there, keep them by task. */
static void
sweep_activate(struct sweep *w, uint64_t page, size_t *next)
{
	size_t n = 0;
	int sorted = 1;

	for (size_t i = 0; i < w->n_active; i++)
		if (w->active[i].end > page)
			w->active[n++] = w->active[i];
	for (; *next < w->n_items && w->items[*next].page == page; ++*next) {
		if (n > 0 && w->active[n - 1].task > w->items[*next].task)
			sorted = 0;
		w->active[n++] = w->items[*next];
	}
	w->n_active = n;
	if (!sorted)
		qsort(w->active, n, sizeof(*w->active), item_by_task);
}

/* The bitmaps of the active records, one a task, and who goes on from before. */
static int
sweep_owners(struct sweep *w)
{
	size_t c = 0, n = 0;

	if (w->n_active > w->n_bits) {
		uint64_t *bits =
		    realloc(w->bits, w->n_active * WORDS * sizeof(*bits));

		if (bits == NULL)
			return DSM_ENOMEM;
		w->bits = bits;
		w->n_bits = w->n_active;
	}
	for (size_t i = 0; i < w->n_active; i++) {
		const struct item *item = &w->active[i];
		uint64_t *bits = w->bits + n * WORDS;

		if (n > 0 && w->owners[n - 1].task == item->task) {
			bits -= WORDS;
			if (w->owners[n - 1].bits != bits)
				continue;
		} else {
			while (c < w->n_carry && w->carry[c] < item->task)
				c++;
			w->owners[n].task = item->task;
			w->owners[n].prev =
			    c < w->n_carry && w->carry[c] == item->task;
			memset(bits, 0, WORDS * sizeof(*bits));
			n++;
		}
		w->owners[n - 1].bits = item->rec == NULL ? all_ones : bits;
		if (item->rec != NULL)
			races__merge(bits, item->rec);
	}
	w->n_owners = n;
	return DSM_OK;
}

static size_t
owner_find(const struct sweep *w, uint64_t task)
{
	size_t lo = 0, hi = w->n_owners;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (w->owners[mid].task < task)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < w->n_owners && w->owners[lo].task == task ? lo : SIZE_MAX;
}

/* At the start of a page: its owners have other places than before. */
static void
open_resolve(struct sweep *w, uint64_t addr)
{
	size_t n = 0;

	for (size_t i = 0; i < w->n_open; i++) {
		struct dsm_rec_race *race = &w->out[w->open[i].out];
		struct open_race o = {w->open[i].out,
		                      owner_find(w, race->task_a),
		                      owner_find(w, race->task_b)};

		if (o.a == SIZE_MAX || o.b == SIZE_MAX)
			race->len = addr - race->addr;
		else
			w->open[n++] = o;
	}
	w->n_open = n;
}

/* End the race o in the 64 bytes from addr when it ends at or after byte
 * `from`; 0 when it goes on. */
static int
open_end(struct sweep *w, const struct open_race *o, unsigned word,
         uint64_t addr, unsigned from)
{
	uint64_t gap =
	    ~(w->owners[o->a].bits[word] & w->owners[o->b].bits[word]) &
	    (UINT64_MAX << from);
	struct dsm_rec_race *race = &w->out[o->out];

	if (gap == 0)
		return 0;
	race->len = addr + (unsigned)__builtin_ctzll(gap) - race->addr;
	return 1;
}

static void
open_add(struct sweep *w, size_t a, size_t b, unsigned word, uint64_t addr,
         unsigned bit)
{
	struct open_race o = {w->n_out, a, b};

	w->out[w->n_out++] = (struct dsm_rec_race){
	    .task_a = w->owners[a].task,
	    .task_b = w->owners[b].task,
	    .addr = addr + bit,
	};
	if (!open_end(w, &o, word, addr, bit))
		w->open[w->n_open++] = o;
}

/* Byte `bit` of the word: count the pairs that meet there and list them. */
static void
sweep_byte(struct sweep *w, unsigned word, uint64_t addr, unsigned bit)
{
	size_t n = 0, s = 0, first = 0;

	for (size_t i = 0; i < w->n_owners; i++) {
		uint64_t c = w->owners[i].bits[word];

		if (!(c >> bit & 1))
			continue;
		w->now[n++] = i;
		if (!(bit > 0 ? c >> (bit - 1) & 1 : w->owners[i].prev))
			w->starts[s++] = i;
	}
	w->total += (uint64_t)s * (n - s) + (uint64_t)s * (s - (s != 0)) / 2;
	if (s == 0)
		return;
	for (size_t i = 0; i < n && w->n_out < w->max; i++) {
		size_t a = w->now[i], j;

		while (first < s && w->starts[first] < a)
			first++;
		if (first < s && w->starts[first] == a)
			for (j = i + 1; j < n && w->n_out < w->max; j++)
				open_add(w, a, w->now[j], word, addr, bit);
		else
			for (j = first; j < s && w->n_out < w->max; j++)
				open_add(w, a, w->starts[j], word, addr, bit);
	}
}

static void
sweep_word(struct sweep *w, unsigned word, uint64_t addr)
{
	uint64_t once = 0, twice = 0, change = 0;
	size_t n = 0;

	for (size_t i = 0; i < w->n_owners; i++) {
		uint64_t c = w->owners[i].bits[word];

		twice |= once & c;
		once |= c;
		change |= c ^ (c << 1 | w->owners[i].prev);
	}
	for (size_t i = 0; i < w->n_open; i++)
		if (!open_end(w, &w->open[i], word, addr, 0))
			w->open[n++] = w->open[i];
	w->n_open = n;
	for (change &= twice; change != 0; change &= change - 1)
		sweep_byte(w, word, addr, (unsigned)__builtin_ctzll(change));
	for (size_t i = 0; i < w->n_owners; i++)
		w->owners[i].prev = w->owners[i].bits[word] >> 63;
}

static int
sweep_page(struct sweep *w, uint64_t page)
{
	uint64_t addr = page << DSM_PAGE_SHIFT;
	int err = sweep_owners(w);

	if (err != DSM_OK)
		return err;
	open_resolve(w, addr);
	for (unsigned i = 0; i < WORDS && w->n_owners > 0; i++)
		sweep_word(w, i, addr + 64 * i);
	w->n_carry = 0;
	for (size_t i = 0; i < w->n_owners; i++)
		if (w->owners[i].prev)
			w->carry[w->n_carry++] = w->owners[i].task;
	return DSM_OK;
}

static int
sweep_all(struct sweep *w)
{
	size_t next = 0;
	uint64_t page;

	while (next < w->n_items || w->n_active > 0) {
		page = next < w->n_items ? w->items[next].page : UINT64_MAX;
		for (size_t i = 0; i < w->n_active; i++)
			if (w->active[i].end < page)
				page = w->active[i].end;
		sweep_activate(w, page, &next);
		if (sweep_page(w, page) != DSM_OK)
			return DSM_ENOMEM;
	}
	return DSM_OK;
}

static int
sweep_run(struct sweep *w, const struct races *r)
{
	int err = sweep_collect(w, r);
	size_t n = w->n_items;

	if (err != DSM_OK || n == 0)
		return err;
	w->active = calloc(n, sizeof(*w->active));
	w->owners = calloc(n, sizeof(*w->owners));
	w->carry = calloc(n, sizeof(*w->carry));
	w->now = calloc(n, sizeof(*w->now));
	w->starts = calloc(n, sizeof(*w->starts));
	w->open = calloc(w->max + 1, sizeof(*w->open));
	if (w->active == NULL || w->owners == NULL || w->carry == NULL ||
	    w->now == NULL || w->starts == NULL || w->open == NULL)
		return DSM_ENOMEM;
	return sweep_all(w);
}

uint64_t
races_list(struct races *r, struct dsm_rec_race *out, size_t max)
{
	struct sweep w = {.out = out, .max = max};

	if (!r->suspect)
		return 0;
	if (sweep_run(&w, r) != DSM_OK) {
		w.total = 1;
		if (max > 0)
			memset(out, 0, sizeof(*out));
	}
	free(w.items);
	free(w.active);
	free(w.owners);
	free(w.carry);
	free(w.now);
	free(w.starts);
	free(w.open);
	free(w.bits);
	return w.total;
}
