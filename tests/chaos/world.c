#include "world.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "../../dsm/base/clock.h"

struct totals *totals;
volatile sig_atomic_t world_ended;

int
world_fail(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (w->failure[0] != '\0')
		return -1;
	va_start(ap, fmt);
	vsnprintf(w->failure, sizeof(w->failure), fmt, ap);
	va_end(ap);
	return -1;
}

/* --- setting up --- */

static void
common_env(const struct world *w, struct actor *a)
{
	const char *path = getenv("PATH");

	actor_env(a, "PATH=%s", path != NULL ? path : "/usr/bin:/bin");
	actor_env(a, "TMPDIR=%s", w->tmp);
	if (w->tokens[0] != '\0')
		actor_env(a, "TASKRT_TOKEN_FILE=%s", w->tokens);
	if (w->verbose > 1)
		actor_env(a, "TASKRT_LOG=debug");
}

static int
start_coordinator(struct world *w)
{
	struct actor *a = &w->coordinator;

	actor_init(a, w->dir, "coordinator");
	actor_word(a, "%s/bin/taskrt-coordinator", w->build);
	actor_word(a, "--listen");
	actor_word(a, "%s:7100", w->ip);
	actor_word(a, "--heartbeat");
	actor_word(a, "%u", w->plan.heartbeat_ms);
	actor_word(a, "--stopped");
	actor_word(a, "3");
	common_env(w, a);
	return actor_start(a);
}

static int
start_worker(struct world *w, unsigned i)
{
	struct actor *a = &w->workers[i];
	char door[64], target[64];

	snprintf(door, sizeof(door), "%s:%u", w->ip, 7200 + i);
	snprintf(target, sizeof(target), "%s:7100", w->ip);
	if (proxy_door(w->proxy, LANE_WORKER, door, target) != 0)
		return -1;
	actor_init(a, w->dir, "worker%u", i);
	actor_word(a, "%s/bin/taskrt-worker", w->build);
	actor_word(a, "--coordinator");
	actor_word(a, "%s", door);
	actor_word(a, "--slots");
	actor_word(a, "%u", w->plan.n_slots[i]);
	actor_word(a, "--name");
	actor_word(a, "w%u", i);
	if (w->plan.segv[i]) {
		actor_word(a, "--faults");
		actor_word(a, "segv");
	}
	common_env(w, a);
	return actor_start(a);
}

static int
start_client(struct world *w, unsigned i)
{
	struct actor *a = &w->clients[i];
	char door[64], data[64], target[64];

	actor_init(a, w->dir, "client%u", i);
	actor_word(a, "%s/tests/chaos/program", w->build);
	actor_word(a, "%" PRIu64, w->plan.seed * 10 + i);
	actor_word(a, "%u", w->plan.n_rounds);
	common_env(w, a);
	if (w->plan.embedded[i]) {
		actor_env(a, "TASKRT_SLOTS=2");
	} else {
		snprintf(door, sizeof(door), "%s:%u", w->ip, 7300 + i);
		snprintf(target, sizeof(target), "%s:7100", w->ip);
		if (proxy_door(w->proxy, LANE_CLIENT, door, target) != 0)
			return -1;
		actor_env(a, "TASKRT_COORDINATOR=%s", door);
		snprintf(data, sizeof(data), "%s:%u", w->ip, 7400 + i);
		snprintf(target, sizeof(target), "%s:%u", w->ip, 7500 + i);
		if (proxy_door(w->proxy, LANE_DATA, data, target) != 0)
			return -1;
		actor_env(a, "TASKRT_LISTEN=%s", target);
		if (w->plan.relayed[i]) /* nobody listens there */
			snprintf(data, sizeof(data), "%s:1", w->ip);
		actor_env(a, "TASKRT_ADVERTISE=%s", data);
		actor_env(a, "TASKRT_WAIT=8");
	}
	a->talks = 1;
	return actor_start(a);
}

static int
log_says(const struct world *w, const struct actor *a, const char *text)
{
	char path[512], line[512];
	int found = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.log", w->dir, a->name);
	f = fopen(path, "re");
	while (f != NULL && !found && fgets(line, sizeof(line), f) != NULL)
		found = strstr(line, text) != NULL;
	if (f != NULL)
		fclose(f);
	return found;
}

/* --- a step --- */

static void
hear(struct world *w, unsigned i)
{
	struct actor *a = &w->clients[i];
	unsigned runs, committed, refused, planned;
	const char *line;

	while ((line = actor_line(a)) != NULL) {
		if (w->verbose)
			fprintf(stderr, "%s: %s\n", a->name, line);
		if (sscanf(line, "round %u", &w->rounds[i]) == 1)
			continue;
		if (strcmp(line, "waits") == 0)
			w->waits[i] = 1;
		else if (sscanf(line,
		                "right: %u runs, %u committed, %u refused, %u "
		                "failed as planned",
		                &runs, &committed, &refused, &planned) == 4) {
			w->right[i] = 1;
			totals->runs += runs;
			totals->committed += committed;
			totals->refused += refused;
			totals->planned += planned;
		} else if (strncmp(line, "WRONG", 5) == 0) {
			world_fail(w, "%s: %s", a->name, line);
		}
	}
}

static int
died(struct world *w, struct actor *a, pid_t pid, int status)
{
	if (!actor_reaped(a, pid, status))
		return 0;
	for (unsigned i = 0; i < w->plan.n_clients; i++)
		if (a == &w->clients[i])
			hear(w, i);
	if (WIFSIGNALED(status))
		world_fail(w, "%s was ended by signal %d", a->name,
		           WTERMSIG(status));
	return 1;
}

static void
reap(struct world *w)
{
	int status, known;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		known = died(w, &w->coordinator, pid, status);
		for (unsigned i = 0; i < w->plan.n_workers && !known; i++)
			known = died(w, &w->workers[i], pid, status);
		for (unsigned i = 0; i < w->plan.n_clients && !known; i++)
			known = died(w, &w->clients[i], pid, status);
	}
}

void
world_step(struct world *w, int ms)
{
	uint64_t now;

	proxy_step(w->proxy, ms);
	now = dsm__now();
	for (unsigned i = 0; i < w->plan.n_clients; i++) {
		hear(w, i);
		/* A new program begins from the start. */
		if (w->clients[i].state == ACTOR_KILLED)
			w->waits[i] = 0;
		actor_tick(&w->clients[i], now);
	}
	for (unsigned i = 0; i < w->plan.n_workers; i++)
		actor_tick(&w->workers[i], now);
	actor_tick(&w->coordinator, now);
	world_wake_slots(w, now);
	reap(w);
	if (world_ended)
		world_fail(w, "ended by a signal");
	if (now > w->deadline)
		world_fail(w, "it takes longer than %d s", SEED_SECONDS);
}

/* Nobody but a program that is ready ends by itself. */
static void
look_after_daemons(struct world *w)
{
	const struct actor *a = &w->coordinator;

	for (unsigned i = 0; i <= w->plan.n_workers; i++) {
		if (a->state == ACTOR_ENDED)
			world_fail(w, "%s ended with status %d", a->name,
			           WEXITSTATUS(a->status));
		a = &w->workers[i];
	}
}

static int
all(const struct world *w, const int *flags)
{
	for (unsigned i = 0; i < w->plan.n_clients; i++)
		if (!flags[i])
			return 0;
	return 1;
}

/* --- the phases of a seed --- */

/* One that may do everything. */
static int
make_token(struct world *w)
{
	char command[300];

	snprintf(w->tokens, sizeof(w->tokens), "%s/tokens", w->dir);
	snprintf(command, sizeof(command),
	         "%s/bin/taskrt token --file %s --words 'client worker admin' "
	         "new chaos >/dev/null",
	         w->build, w->tokens);
	return system(command) == 0 ? 0 : world_fail(w, "no token");
}

int
world_begin(struct world *w)
{
	const struct proxy_params pp = {.seed = w->plan.seed,
	                                .odds = w->plan.odds,
	                                .frame = world_frame,
	                                .arg = w,
	                                .verbose = w->verbose};

	if (w->plan.tls && make_token(w) != 0)
		return -1;
	if (proxy_create(&pp, &w->proxy) != 0 || start_coordinator(w) != 0)
		return world_fail(w, "cannot start");
	while (!log_says(w, &w->coordinator, "listening on")) {
		world_step(w, 2);
		look_after_daemons(w);
		if (w->failure[0] != '\0')
			return -1;
	}
	w->coordinator_files = count_files(w->coordinator.pid);
	for (unsigned i = 0; i < w->plan.n_workers; i++)
		if (start_worker(w, i) != 0)
			return world_fail(w, "cannot start a worker");
	for (unsigned i = 0; i < w->plan.n_clients; i++)
		if (start_client(w, i) != 0)
			return world_fail(w, "cannot start a program");
	return 0;
}

int
world_break(struct world *w)
{
	while (!all(w, w->waits) && w->failure[0] == '\0') {
		world_step(w, 20);
		world_strike(w);
		look_after_daemons(w);
		for (unsigned i = 0; i < w->plan.n_clients; i++)
			if (w->clients[i].state == ACTOR_ENDED)
				world_fail(w, "%s ended with status %d",
				           w->clients[i].name,
				           WEXITSTATUS(w->clients[i].status));
	}
	return w->failure[0] == '\0' ? 0 : -1;
}

int
world_leave_alone(struct world *w)
{
	proxy_calm(w->proxy);
	world_wake_slots(w, UINT64_MAX);
	actor_bring_back(&w->coordinator);
	for (unsigned i = 0; i < w->plan.n_workers; i++)
		actor_bring_back(&w->workers[i]);
	for (unsigned i = 0; i < w->plan.n_clients; i++) {
		actor_bring_back(&w->clients[i]);
		actor_say(&w->clients[i], "go\n");
	}
	while (!all(w, w->right) && w->failure[0] == '\0') {
		world_step(w, 20);
		look_after_daemons(w);
		for (unsigned i = 0; i < w->plan.n_clients; i++)
			if (w->clients[i].state == ACTOR_ENDED && !w->right[i])
				world_fail(w, "%s ended with status %d",
				           w->clients[i].name,
				           WEXITSTATUS(w->clients[i].status));
	}
	return w->failure[0] == '\0' ? 0 : -1;
}
