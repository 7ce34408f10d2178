/* Where the time of a run went, from the counters of its report. */
#include "example.h"

#include <inttypes.h>

static void
row(FILE *f, const char *name, uint64_t ns, uint64_t all)
{
	fprintf(f, "  %-30s %10.2f ms %6.2f %%\n", name, (double)ns * 1e-6,
	        all != 0 ? 100.0 * (double)ns / (double)all : 0.0);
}

void
example_print_costs(FILE *f, const struct taskrt_counters *c)
{
	uint64_t fetch = c->fetch_ns < c->exec_ns ? c->fetch_ns : c->exec_ns;
	uint64_t exec =
	    c->exec_ns - fetch; /* exec_ns has the page waits in it */
	uint64_t rest =
	    c->fold_ns + c->diff_ns + c->check_ns + c->commit_ns + c->reset_ns;
	uint64_t all = exec + fetch + c->dispatch_ns + rest;

	fprintf(f, "where the time went, summed over all slots:\n");
	row(f, "execution", exec, all);
	row(f, "page transfer", fetch, all);
	row(f, "dispatch", c->dispatch_ns, all);
	row(f, "fold + diff + check + commit", rest, all);
	row(f, "overhead (all but execution)", all - exec, all);
	fprintf(f,
	        "  %" PRIu64 " tasks in %" PRIu64 " chunks; %" PRIu64
	        " pages fetched, %" PRIu64 " written\n",
	        c->tasks, c->chunks, c->pages_fetched, c->pages_written);
}
