/*
 * fault_read_tcp, fault_read_tls, fault_read_verbs: one task reads a word of each of N heap pages that no image
 * has, in an order that nobody foresees and never next to a page that is there:
 * each is one demand fault. Timed inside the task, page by page.
 *
 * Floor: 16 B -> 4 KiB and back over the same addresses, both ends spinning, or an
 * RDMA READ of 4 KiB; plus a SIGSEGV/mprotect pair.
 */
#include "bench.h"

#include "../dsm/base/page.h"
#include <taskrt/taskrt.h>

/* Fewer over RDMA: what it may read is registered, and so must all be there. */
#define TCP_PAGES 4096
#define VERBS_PAGES 1024
#define MAX_PAGES TCP_PAGES
/* In pages; those between are never touched by tasks. Far enough that no
 * prefetching which looks at a page's surroundings has anything to go by. */
#define STRIDE 32
#define MAX_PREFETCHED 128 /* of code and data, in the first round */
#define ROUNDS 5

struct reads {
	const char *base;
	uint32_t n;
	uint32_t *order, *ticks; /* [n], shared heap */
};

static void
read_at_random(void *arg)
{
	struct reads *r = arg;

	for (uint32_t i = 0; i < r->n; i++) {
		uint32_t page = r->order[i];
		const volatile uint64_t *p =
		    (const void *)(r->base + (size_t)page * STRIDE * DSM_PAGE);
		uint64_t start = bench_ticks();

		(void)*p;
		r->ticks[i] = (uint32_t)(bench_ticks() - start);
	}
}

static void
shuffle(uint32_t *order, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		order[i] = i;
	for (uint32_t i = n; i > 1; i--) {
		uint32_t k = (uint32_t)(bench_mix(i) % i);
		uint32_t page = order[i - 1];

		order[i - 1] = order[k];
		order[k] = page;
	}
}

/* What the program writes, images drop at the next launch. */
static void
make_cold(char *base, uint32_t n, uint64_t round)
{
	for (size_t page = 0; page < n; page++) {
		uint64_t *words = (void *)(base + page * STRIDE * DSM_PAGE);

		for (size_t i = 0; i < DSM_PAGE / sizeof(*words); i++)
			words[i] = bench_mix(page << 20 ^ i << 8 ^ round);
	}
}

static double
measure(struct reads *r, uint64_t round)
{
	static double ns[MAX_PAGES];
	const struct taskrt_task task = {read_at_random, r};

	make_cold((char *)(uintptr_t)r->base, r->n, round);
	bench_ok(taskrt_run(&task, 1, NULL), "the reading task");
	bench_note_costs("run");
	const struct taskrt_counters *c = &taskrt_report()->counters;
	if (c->faults_heap_read < r->n || c->pages_prefetched > MAX_PREFETCHED)
		bench_die("not one page a fault: %llu heap faults for %u "
		          "pages, %llu pages prefetched",
		          (unsigned long long)c->faults_heap_read, r->n,
		          (unsigned long long)c->pages_prefetched);
	for (size_t i = 0; i < r->n; i++)
		ns[i] = r->ticks[i] * bench_ns_per_tick();
	return bench_median(ns, r->n);
}

/* dense: the pages between are there, too. */
static void
fault_read(struct bench_result *r, const struct bench_wire *wire, uint32_t n,
           int dense)
{
	double value[ROUNDS], exchange[ROUNDS], pair[ROUNDS];
	size_t len = (size_t)n * STRIDE * DSM_PAGE;
	struct reads reads = {.n = n};
	char *base;

	if (wire->tokens)
		bench_cluster_tokens();
	bench_cluster_start(1);
	wire->start();
	wire->session();
	base = dsm_aligned_alloc(DSM_PAGE, len);
	reads.base = base;
	reads.order = dsm_malloc(n * sizeof(*reads.order));
	reads.ticks = dsm_malloc(n * sizeof(*reads.ticks));
	if (reads.base == NULL || reads.order == NULL || reads.ticks == NULL)
		bench_die("out of memory");
	for (size_t off = 0; dense && off < len; off += DSM_PAGE)
		base[off] = 1;
	shuffle(reads.order, n);
	for (int i = 0; i < ROUNDS; i++) {
		exchange[i] = wire->page(n);
		pair[i] = floor_segv_pair(n);
		value[i] = measure(&reads, (uint64_t)i);
	}
	r->value = bench_median(value, ROUNDS) / 1e3;
	double on_wire = bench_median(exchange, ROUNDS) / 1e3;
	double trap = bench_median(pair, ROUNDS) / 1e3;
	bench_note("floor: %.2f us on the wire, %.2f us in the trap", on_wire,
	           trap);
	r->floor = on_wire + trap;
	r->unit = "us";
}

void
bench_fault_read_tcp(struct bench_result *r)
{
	fault_read(r, &bench_tcp, TCP_PAGES, 0);
}

void
bench_fault_read_tls(struct bench_result *r)
{
	fault_read(r, &bench_tls, TCP_PAGES, 0);
}

void
bench_fault_read_verbs(struct bench_result *r)
{
	fault_read(r, &bench_verbs, VERBS_PAGES, 1);
}
