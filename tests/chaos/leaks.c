/* What a cluster has left when its programs have ended, and when it has itself. */
#include "world.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"

/* What is left of the programs, in words; "": nothing. */
static void
what_is_left(struct world *w, char *text, size_t size)
{
	char command[256], json[8192] = "";
	pid_t slots[64];
	FILE *f;

	text[0] = '\0';
	for (unsigned i = 0; i < w->plan.n_clients; i++)
		if (w->clients[i].state == ACTOR_RUNNING) {
			snprintf(text, size, "%s does not end",
			         w->clients[i].name);
			return;
		}
	for (unsigned i = 0; i < w->plan.n_workers; i++) {
		size_t n = slots_of(w->workers[i].pid, slots, 64);

		if (n > 0) {
			snprintf(text, size, "%s has %zu slots",
			         w->workers[i].name, n);
			return;
		}
	}
	/* Before it is asked: it may see late that who asked has gone. */
	int n_files = count_files(w->coordinator.pid);
	snprintf(command, sizeof(command),
	         "TASKRT_TOKEN_FILE=%s %s/bin/taskrt stat -1 --json "
	         "--coordinator %s:7100",
	         w->tokens, w->build, w->ip);
	f = popen(command, "re");
	if (f != NULL) {
		json[fread(json, 1, sizeof(json) - 1, f)] = '\0';
		pclose(f);
	}
	int want = w->coordinator_files + (int)w->plan.n_workers;
	if (strstr(json, "\"sessions\":[]") == NULL)
		snprintf(text, size, "the coordinator has sessions: %s", json);
	else if (n_files != want)
		snprintf(text, size,
		         "the coordinator has %d descriptors, must have %d",
		         n_files, want);
}

/* A worker that never ran anything has as many descriptors as one must have that has
 * nothing to run any more. */
static int
compare_workers(struct world *w)
{
	unsigned n = w->plan.n_workers;
	int least = 1 << 20, most = 0;

	for (unsigned i = 0; i < n; i++) {
		int files = count_files(w->workers[i].pid);

		if (files < least)
			least = files;
		if (files > most)
			most = files;
	}
	return least == most;
}

int
world_look_for_leaks(struct world *w)
{
	uint64_t end = dsm__deadline_ms(CLEAN_MS);
	char left[400];

	do {
		world_step(w, 20);
		what_is_left(w, left, sizeof(left));
		if (left[0] == '\0' && !compare_workers(w))
			snprintf(left, sizeof(left),
			         "a worker has more descriptors than another");
		if (left[0] == '\0')
			return 0;
	} while (dsm__now() < end && w->failure[0] == '\0');
	return world_fail(w, "%d s after the last program: %s", CLEAN_MS / 1000,
	                  left);
}

static int
end_one(struct world *w, struct actor *a)
{
	uint64_t end = dsm__deadline_ms(CLEAN_MS);

	kill(a->pid, SIGTERM);
	while (a->state == ACTOR_RUNNING && dsm__now() < end)
		world_step(w, 5);
	if (a->state == ACTOR_RUNNING)
		return world_fail(w, "%s does not end on SIGTERM", a->name);
	if (a->status != 0)
		return world_fail(w, "%s ended on SIGTERM with status %d",
		                  a->name, WEXITSTATUS(a->status));
	return 0;
}

static int
folder_is_empty(const char *path)
{
	DIR *dir = opendir(path);
	int n = 0;

	if (dir == NULL)
		return 0;
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n == 2;
}

int
world_end(struct world *w)
{
	uint64_t end = dsm__deadline_ms(CLEAN_MS);

	for (unsigned i = 0; i < w->plan.n_workers; i++)
		if (end_one(w, &w->workers[i]) != 0)
			return -1;
	if (end_one(w, &w->coordinator) != 0)
		return -1;
	/* What it orphaned is ours now. */
	for (;;) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0 && errno == ECHILD)
			break;
		if (pid == 0 && dsm__now() > end)
			return world_fail(w,
			                  "a process of the cluster is left");
		if (pid == 0)
			proxy_step(w->proxy, 5);
	}
	if (!folder_is_empty(w->tmp))
		return world_fail(w, "there are files in TMPDIR");
	return 0;
}
