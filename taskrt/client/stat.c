/* Counters and cost breakdown, as a table. */
#include "stat.h"

#include "client.h"

#include <inttypes.h>
#include <string.h>

static double
ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* What the time of slots and client went into. Tasks' time includes their waits
 * for pages; slots work at the same time, so the sum may exceed the wall clock. */
static void
print_breakdown(FILE *f, const struct dsm_counters *c)
{
	const struct {
		const char *what;
		uint64_t ns;
	} parts[] = {
	    {"execution",
	     c->exec_ns > c->fetch_ns ? c->exec_ns - c->fetch_ns : 0},
	    {"page transfer", c->fetch_ns},
	    {"dispatch", c->dispatch_ns},
	    {"fold", c->fold_ns},
	    {"diff and reset", c->diff_ns + c->reset_ns},
	    {"race check", c->check_ns},
	    {"commit", c->commit_ns},
	};
	const size_t n = sizeof(parts) / sizeof(*parts);
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += parts[i].ns;
	for (size_t i = 0; i < n; i++)
		fprintf(f, "  %-18s %14.3f ms %6.1f%%\n", parts[i].what,
		        ms(parts[i].ns),
		        sum > 0 ? 100.0 * (double)parts[i].ns / (double)sum
		                : 0.0);
	fprintf(f, "  %-18s %14.3f ms of all slots and the program\n", "sum",
	        ms(sum));
	fprintf(f, "  %-18s %14.3f ms\n", "wall clock", ms(c->total_ns));
}

static void
print_links(FILE *f, const struct taskrt__links *l,
            const struct dsm_counters *c)
{
	const struct {
		const char *name;
		uint64_t n;
	} kinds[] = {
	    {"verbs", l->verbs}, {"tcp", l->tcp}, {"tls", l->tls},
	    {"relay", l->relay}, {"shm", l->shm},
	};
	const char *before = " ";

	fprintf(f, "  %-18s", "data links");
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		if (kinds[i].n == 0)
			continue;
		fprintf(f, "%s%" PRIu64 " %s", before, kinds[i].n,
		        kinds[i].name);
		before = ", ";
	}
	if (l->rdma[0] != '\0')
		fprintf(f, "%s(RDMA: %s)", before[0] == ' ' ? " none " : " ",
		        l->rdma);
	fprintf(f, "\n");
	if (l->verbs > 0)
		fprintf(
		    f, "  %-18s %" PRIu64 " by RDMA, %" PRIu64 " in messages\n",
		    "pages fetched", c->pages_rdma,
		    c->pages_fetched - c->pages_rdma);
}

void
taskrt__stat_print(FILE *f, const struct taskrt__sums *sums)
{
	const struct dsm_counters *c = &sums->totals;
	uint64_t n_runs = sums->n_runs;
	const uint64_t *v = (const uint64_t *)c;

	fprintf(f, "taskrt: %" PRIu64 " run%s\n", n_runs,
	        n_runs == 1 ? "" : "s");
	print_breakdown(f, c);
	print_links(f, &sums->links, c);
	for (size_t i = 0; i < DSM_N_COUNTERS; i++) {
		const struct dsm_counter_info *info = &dsm__counter_info[i];

		/* Times are in the breakdown. */
		if (v[i] == 0 || strcmp(info->unit, "ns") == 0)
			continue;
		fprintf(f, "  %-18s %14" PRIu64 "    %s\n", info->name, v[i],
		        info->help);
	}
	if (sums->costs != NULL)
		taskrt__costs_print(f, sums->costs, sums->heap_shared);
}
