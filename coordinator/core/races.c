/*
 * The radix tree has 6 levels of 64 slots over the 35 bits of a page number.
 * States of a slot:
 *   EMPTY   nobody wrote there
 *   WHOLE   one task wrote every byte of all its pages (any level)
 *   SUSPECT two tasks met somewhere in it (any level; above the leaves all its
 *           pages were written)
 *   CHILD   a node (above the leaves)
 *   ONE     leaf: the mask record of the only writer
 *   UNION   leaf: the bytes written so far, no two tasks met
 * EMPTY -> ONE -> UNION -> SUSPECT, EMPTY -> CHILD -> SUSPECT, EMPTY -> WHOLE
 * -> SUSPECT. SUSPECT is final. It may be said too often (a block for one page;
 * a task that meets itself), never too rarely: the sweep is exact.
 */
#include "races.h"

#include <assert.h>
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/page.h"
#include "../../dsm/wire/packdiff.h"

#define WORDS 64 /* of a page's bitmap */
#define FAN_BITS 6
#define FAN (1u << FAN_BITS)
#define TOP 5 /* level of the root */

enum { EMPTY, WHOLE, SUSPECT, CHILD, ONE, UNION };
enum { REC_WHOLE, REC_BITMAP, REC_RUNS };

/* A slot is a pointer << 3 | state: records are not aligned. */
typedef uint64_t slot;

struct node {
	slot slot[FAN];
};

struct part {
	uint64_t task;
	const uint8_t *mask;
	size_t len;
};

struct races {
	struct node root;
	struct node *leaf; /* last one used, of pages leaf_key << FAN_BITS */
	uint64_t leaf_key;
	struct part *parts; /* everything added */
	size_t n_parts, cap_parts;
	void **kept; /* memory behind the parts */
	size_t n_kept, cap_kept;
	uint64_t n_pages;
	int suspect; /* any slot is */
};

static const uint64_t all_ones[WORDS] = {[0 ... WORDS - 1] = UINT64_MAX};

static slot
slot_make(const void *p, unsigned state)
{
	return (uint64_t)(uintptr_t)p << 3 | state;
}

static unsigned
slot_state(slot s)
{
	return s & 7;
}

static void *
slot_ptr(slot s)
{
	return (void *)(uintptr_t)(s >> 3);
}

/* --- mask records --- */

struct record {
	uint64_t page, n; /* pages covered */
	unsigned kind;
	const uint8_t *bytes; /* where it begins */
};

static uint16_t
get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return le16toh(v);
}

static uint64_t
get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* Read the record at p, which the mask check has passed; returns its end. */
static const uint8_t *
record_read(const uint8_t *p, struct record *rec)
{
	uint64_t head = get64(p);
	uint32_t n;

	rec->page = head >> 4;
	rec->kind = head & 15;
	rec->n = 1;
	rec->bytes = p;
	p += 8;
	switch (rec->kind) {
	case REC_WHOLE:
		memcpy(&n, p, sizeof(n));
		rec->n = le32toh(n);
		return p + 4;
	case REC_BITMAP:
		return p + WORDS * 8;
	default:
		return p + 2 + 4 * (size_t)get16(p);
	}
}

/* Set bits [off, off + len); non-zero when one was set. */
static uint64_t
bits_set(uint64_t *bits, unsigned off, unsigned len)
{
	uint64_t met = 0, mask;
	unsigned end = off + len, bit, n;

	for (; off < end; off += n) {
		bit = off % 64;
		n = end - off < 64 - bit ? end - off : 64 - bit;
		mask = (n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1) << bit;
		met |= bits[off / 64] & mask;
		bits[off / 64] |= mask;
	}
	return met;
}

/* Or a page's record into bits; non-zero when they had a byte in common. */
static uint64_t
bits_merge(uint64_t *bits, const uint8_t *rec)
{
	const uint8_t *p = rec + 8;
	uint64_t met = 0;
	unsigned i, n;

	switch (get64(rec) & 15) {
	case REC_WHOLE:
		return bits_set(bits, 0, DSM_PAGE);
	case REC_BITMAP:
		for (i = 0; i < WORDS; i++) {
			uint64_t v = get64(p + 8 * (size_t)i);

			met |= bits[i] & v;
			bits[i] |= v;
		}
		return met;
	default:
		n = get16(p);
		for (i = 0, p += 2; i < n; i++, p += 4)
			met |= bits_set(bits, get16(p), get16(p + 2));
		return met;
	}
}

/* --- the tree --- */

/* Frees what hangs on a slot; returns how many pages in it were written. */
static uint64_t
slot_free(slot s, unsigned level)
{
	uint64_t n = 0;

	switch (slot_state(s)) {
	case EMPTY:
		return 0;
	case CHILD:
		assert(level > 0);
		for (unsigned i = 0; i < FAN; i++)
			n += slot_free(((struct node *)slot_ptr(s))->slot[i],
			               level - 1);
		free(slot_ptr(s));
		return n;
	case UNION:
		free(slot_ptr(s));
		return 1;
	default:
		return UINT64_C(1) << (FAN_BITS * level);
	}
}

static void
suspect(struct races *r, slot *s, unsigned level)
{
	slot_free(*s, level);
	*s = SUSPECT;
	r->suspect = 1;
}

static unsigned
slot_index(uint64_t page, unsigned level)
{
	return (page >> (FAN_BITS * level)) % FAN;
}

/* The child of a slot, made when it is empty. */
static struct node *
child_get(slot *s)
{
	struct node *child;

	if (slot_state(*s) == CHILD)
		return slot_ptr(*s);
	child = calloc(1, sizeof(*child));
	if (child != NULL)
		*s = slot_make(child, CHILD);
	return child;
}

/* *leaf_p: NULL when the page lies in a block that is a suspect (now). */
static int
leaf_find(struct races *r, uint64_t page, struct node **leaf_p)
{
	struct node *node = &r->root;

	if (page >> FAN_BITS == r->leaf_key) {
		*leaf_p = r->leaf;
		return DSM_OK;
	}
	for (unsigned level = TOP; level > 0; level--) {
		slot *s = &node->slot[slot_index(page, level)];

		if (slot_state(*s) == WHOLE || slot_state(*s) == SUSPECT) {
			suspect(r, s, level);
			*leaf_p = NULL;
			return DSM_OK;
		}
		node = child_get(s);
		if (node == NULL)
			return DSM_ENOMEM;
	}
	r->leaf_key = page >> FAN_BITS;
	r->leaf = node;
	*leaf_p = node;
	return DSM_OK;
}

static int
page_add(struct races *r, const struct record *rec)
{
	uint64_t *bits;
	struct node *leaf;
	int err = leaf_find(r, rec->page, &leaf);
	slot *s;

	if (err != DSM_OK || leaf == NULL)
		return err;
	s = &leaf->slot[rec->page % FAN];
	switch (slot_state(*s)) {
	case EMPTY:
		*s = slot_make(rec->bytes, ONE);
		r->n_pages++;
		return DSM_OK;
	case ONE:
		bits = calloc(WORDS, sizeof(*bits));
		if (bits == NULL)
			return DSM_ENOMEM;
		bits_merge(bits, slot_ptr(*s));
		*s = slot_make(bits, UNION);
		/* fall through */
	case UNION:
		if (bits_merge(slot_ptr(*s), rec->bytes) != 0)
			suspect(r, s, 0);
		return DSM_OK;
	default:
		suspect(r, s, 0);
		return DSM_OK;
	}
}

/* Every byte of pages [lo, hi), which lie in a node that begins at page base. */
static int
whole_add(struct races *r, struct node *node, unsigned level, uint64_t base,
          uint64_t lo, uint64_t hi)
{
	uint64_t span = UINT64_C(1) << (FAN_BITS * level);
	uint64_t i = lo <= base ? 0 : (lo - base) / span;

	for (; i < FAN && base + i * span < hi; i++) {
		uint64_t from = base + i * span, to = from + span;
		slot *s = &node->slot[i];
		struct node *child;

		if (lo <= from && to <= hi) {
			uint64_t had = slot_free(*s, level);

			r->suspect |= had != 0;
			*s = had == 0 ? WHOLE : SUSPECT;
			r->n_pages += span - had;
		} else if (slot_state(*s) == WHOLE ||
		           slot_state(*s) == SUSPECT) {
			suspect(r, s, level);
		} else {
			child = child_get(s);
			if (child == NULL ||
			    whole_add(r, child, level - 1, from,
			              lo > from ? lo : from,
			              hi < to ? hi : to) != DSM_OK)
				return DSM_ENOMEM;
		}
	}
	return DSM_OK;
}

static int
any_suspect(const struct node *node, unsigned level, uint64_t base, uint64_t lo,
            uint64_t hi)
{
	uint64_t span = UINT64_C(1) << (FAN_BITS * level);
	uint64_t i = lo <= base ? 0 : (lo - base) / span;

	for (; i < FAN && base + i * span < hi; i++) {
		slot s = node->slot[i];

		if (slot_state(s) == SUSPECT ||
		    (slot_state(s) == CHILD &&
		     any_suspect(slot_ptr(s), level - 1, base + i * span, lo,
		                 hi)))
			return 1;
	}
	return 0;
}

/* --- adding --- */

int
races_create(struct races **r_p)
{
	struct races *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return DSM_ENOMEM;
	r->leaf_key = UINT64_MAX;
	*r_p = r;
	return DSM_OK;
}

void
races_destroy(struct races *r)
{
	if (r == NULL)
		return;
	for (unsigned i = 0; i < FAN; i++)
		slot_free(r->root.slot[i], TOP);
	for (size_t i = 0; i < r->n_kept; i++)
		free(r->kept[i]);
	free(r->kept);
	free(r->parts);
	free(r);
}

static int
grow(void **v, size_t *cap, size_t n, size_t size)
{
	size_t want = *cap != 0 ? *cap * 2 : 16;
	void *p;

	if (n < *cap)
		return DSM_OK;
	p = realloc(*v, want * size);
	if (p == NULL)
		return DSM_ENOMEM;
	*v = p;
	*cap = want;
	return DSM_OK;
}

int
races_keep(struct races *r, void *masks)
{
	int err =
	    grow((void **)&r->kept, &r->cap_kept, r->n_kept, sizeof(*r->kept));

	if (err == DSM_OK)
		r->kept[r->n_kept++] = masks;
	return err;
}

int
races_add_kept(struct races *r, uint64_t task, const void *mask, size_t len)
{
	const uint8_t *p = mask, *end = p + len;
	struct record rec;
	int err = grow((void **)&r->parts, &r->cap_parts, r->n_parts,
	               sizeof(*r->parts));

	if (err != DSM_OK)
		return err;
	r->parts[r->n_parts++] = (struct part){task, mask, len};
	while (p < end && err == DSM_OK) {
		p = record_read(p, &rec);
		if (rec.kind != REC_WHOLE) {
			err = page_add(r, &rec);
		} else {
			/* It may free the node we remember. */
			r->leaf_key = UINT64_MAX;
			err = whole_add(r, &r->root, TOP, 0, rec.page,
			                rec.page + rec.n);
		}
	}
	return err;
}

int
races_add(struct races *r, uint64_t task, const void *mask, size_t len)
{
	uint64_t n_bytes;
	void *copy;
	int err = dsm__mask_check(mask, len, &n_bytes);

	if (err != DSM_OK || len == 0)
		return err;
	copy = malloc(len);
	if (copy == NULL)
		return DSM_ENOMEM;
	memcpy(copy, mask, len);
	err = races_keep(r, copy);
	if (err != DSM_OK) {
		free(copy);
		return err;
	}
	return races_add_kept(r, task, copy, len);
}

uint64_t
races_pages(const struct races *r)
{
	return r->n_pages;
}

/* --- the sweep --- */

/*
 * Suspect records, sorted by page, are swept in ascending order of addresses.
 * Between the pages where a record begins or has just ended nothing changes, so
 * only those pages are looked at. In a page, byte by byte where a task's writing
 * starts or stops: with m tasks that go on writing and s that start, s * m +
 * s * (s - 1) / 2 pairs begin to race there. So counting is linear in the records
 * however many tasks wrote one byte.
 */
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
			if (!any_suspect(&r->root, TOP, 0, rec.page,
			                 rec.page + rec.n))
				continue;
			if (grow((void **)&w->items, &cap, w->n_items,
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
			bits_merge(bits, item->rec);
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
