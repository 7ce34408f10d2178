/*
 * chaos - random things happen to small clusters; nothing may go wrong.
 *
 *   chaos [--seeds A-B] [--jobs N] [--minutes M] [--hold] [-v] BUILD
 *
 * Each seed is a cluster of its own: a coordinator, one to three workers and one or two
 * programs (program.c, which knows what its runs must come to), all unmodified, with a
 * proxy (proxy.c) in every connection. What happens to them is in plan.c. Then the
 * cluster is left alone: each program's last runs must succeed. At the end nothing
 * may be left: sessions, slots, descriptors, processes, files; and all daemons must
 * end as they are told.
 *
 * A seed runs in a process of its own, on a loopback address of its own (127.x.y.z, by
 * its process id), and is the parent of whatever its cluster orphans. Seeds run N at a
 * time; each that fails prints one line with the command that runs it again (-v: and what
 * was done to whom). The seed decides what is done, and at which frame or byte; the
 * order of things in different processes it does not.
 *
 * --minutes: go on from seed B, until the time is over. --hold: a cluster that fails is
 * left as it is, for a debugger. Last line: "N passed, N failed".
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "world.h"

static int verbose, hold;

/* --- after a failure --- */

static void
kill_rest(struct world *w)
{
	pid_t pids[64];
	size_t n;

	(void)w;
	/* Children come to us when their parents end. */
	for (int i = 0; i < 200; i++) {
		n = children_of(getpid(), pids, 64);
		if (n == 0)
			break;
		while (n-- > 0)
			kill(pids[n], SIGKILL);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		proxy_step(w->proxy, 1);
	}
}

static void
show_log(const struct world *w, const char *name)
{
	char command[256];

	fflush(stdout);
	snprintf(command, sizeof(command),
	         "tail -n 12 %s/%s.log 2>/dev/null | sed 's/^/    %s: /'",
	         w->dir, name, name);
	if (system(command) != 0)
		fprintf(stderr, "no %s.log\n", name);
}

static void
report(struct world *w)
{
	const struct plan *p = &w->plan;
	char all_text[1200];

	snprintf(all_text, sizeof(all_text),
	         "  FAIL seed %" PRIu64 " (%s): %s\n    again: "
	         "%s/tests/chaos/chaos --seeds %" PRIu64 " -v %s\n",
	         p->seed, plan_profiles[p->profile], w->failure, w->build,
	         p->seed, w->build);
	fputs(all_text, stdout);
	show_log(w, w->coordinator.name);
	for (unsigned i = 0; i < p->n_workers; i++)
		show_log(w, w->workers[i].name);
	for (unsigned i = 0; i < p->n_clients; i++)
		show_log(w, w->clients[i].name);
}

static void
remove_folder(const struct world *w)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", w->dir);
	if (system(command) != 0)
		fprintf(stderr, "%s is left\n", w->dir);
}

static void
add_totals(const struct world *w)
{
	const struct proxy_counts *c = proxy_counts(w->proxy);

	for (int i = 0; i < N_LANES; i++)
		totals->links[i] += c->lane_links[i];
	totals->bytes += c->bytes;
	totals->frames += c->frames;
	totals->shorts += c->shorts;
	totals->delayed += c->delayed;
	totals->cut += c->cut;
	totals->stalled += c->stalled;
	totals->doubled += c->doubled;
}

/* --- seeds --- */

/* The seed's cluster must not be left alone with nobody to end it. */
static void
on_term(int sig)
{
	(void)sig;
	world_ended = 1;
}

static int
run_seed(uint64_t seed, const char *build)
{
	static struct world w;
	unsigned id = (unsigned)getpid();

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGTERM, on_term);
	w.build = build;
	w.verbose = verbose;
	w.deadline = dsm__deadline_ms(SEED_SECONDS * 1000);
	plan_make(&w.plan, seed);
	snprintf(w.ip, sizeof(w.ip), "127.%u.%u.%u", 1 + (id >> 16) % 254,
	         (id >> 8) % 256, id % 256);
	snprintf(w.dir, sizeof(w.dir), "/tmp/chaos-XXXXXX");
	if (mkdtemp(w.dir) == NULL) {
		perror(w.dir);
		return 1;
	}
	snprintf(w.tmp, sizeof(w.tmp), "%s/tmp", w.dir);
	mkdir(w.tmp, 0700);
	if (world_begin(&w) == 0 && world_break(&w) == 0 &&
	    world_leave_alone(&w) == 0 && world_look_for_leaks(&w) == 0)
		world_end(&w);
	add_totals(&w);
	if (w.failure[0] != '\0') {
		report(&w);
		fflush(stdout);
		while (hold && !world_ended)
			proxy_step(w.proxy, 1000);
		kill_rest(&w);
	}
	proxy_destroy(w.proxy);
	remove_folder(&w);
	return w.failure[0] != '\0';
}

/* Waits for a seed to end. 0: none runs. */
static int
collect(void)
{
	int status;

	if (waitpid(-1, &status, 0) < 0)
		return 0;
	if (status == 0)
		totals->passed++;
	else
		totals->failed++;
	return 1;
}

static void
launch_seed(uint64_t seed, const char *build)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0) {
		perror("fork");
		exit(2);
	}
	if (pid > 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	exit(run_seed(seed, build));
}

static void
print_totals(double seconds)
{
	printf("%" PRIu64 " seeds in %.0f s: %" PRIu64
	       " runs, of which %" PRIu64 " committed, %" PRIu64
	       " refused for a broken cluster, %" PRIu64 " failed as planned\n",
	       totals->passed + totals->failed, seconds, totals->runs,
	       totals->committed, totals->refused, totals->planned);
	printf("connections: %" PRIu64 " of programs, %" PRIu64
	       " of workers, %" PRIu64 " of slots; %.1f MB, %" PRIu64
	       " frames\n",
	       totals->links[LANE_CLIENT], totals->links[LANE_WORKER],
	       totals->links[LANE_DATA], (double)totals->bytes / 1e6,
	       totals->frames);
	printf("done to them: %" PRIu64 " ways short, %" PRIu64
	       " ways delayed, %" PRIu64 " cut, %" PRIu64 " stalled, %" PRIu64
	       " doubled\n",
	       totals->shorts, totals->delayed, totals->cut, totals->stalled,
	       totals->doubled);
	printf("done to processes:");
	for (int i = 0; i < N_ACTIONS; i++)
		printf("%s %" PRIu64 " %s", i > 0 ? "," : "",
		       totals->strikes[i], plan_actions[i]);
	printf("\n");
}

static int
usage(void)
{
	fprintf(stderr, "usage: chaos [--seeds A[-B]] [--jobs N] [--minutes M] "
	                "[--hold] [-v] BUILD\n");
	return 2;
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
	    {"seeds", required_argument, NULL, 's'},
	    {"jobs", required_argument, NULL, 'j'},
	    {"minutes", required_argument, NULL, 'm'},
	    {"hold", no_argument, NULL, 'h'},
	    {NULL, 0, NULL, 0}};
	unsigned long long first = 1, last = 8;
	unsigned jobs = 4, running = 0;
	double minutes = 0;
	int c;

	while ((c = getopt_long(argc, argv, "v", options, NULL)) != -1)
		switch (c) {
		case 's':
			c = sscanf(optarg, "%llu-%llu", &first, &last);
			if (c < 1)
				return usage();
			if (c == 1)
				last = first;
			break;
		case 'j':
			jobs = (unsigned)atoi(optarg);
			break;
		case 'm':
			minutes = atof(optarg);
			break;
		case 'h':
			hold = 1;
			break;
		case 'v':
			verbose++;
			break;
		default:
			return usage();
		}
	if (optind + 1 != argc || jobs == 0)
		return usage();
	signal(SIGPIPE, SIG_IGN);
	totals = mmap(NULL, sizeof(*totals), PROT_READ | PROT_WRITE,
	              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (totals == MAP_FAILED)
		return 2;
	uint64_t start = dsm__now();
	uint64_t end = start + (uint64_t)(minutes * 60 * 1e9);
	for (uint64_t s = first; s <= last || dsm__now() < end; s++) {
		if (running == jobs)
			running -= (unsigned)collect();
		launch_seed(s, argv[optind]);
		running++;
	}
	while (running > 0 && collect())
		running--;
	print_totals((double)(dsm__now() - start) / 1e9);
	printf("%" PRIu64 " passed, %" PRIu64 " failed\n", totals->passed,
	       totals->failed);
	return totals->failed != 0;
}
