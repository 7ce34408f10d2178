/* taskrt stat: what a coordinator knows of its workers, programs and runs. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "tool.h"
#include "toolopt.h"

#define WAIT_MS 5000

static struct tool_target target;
static int as_json, once;
static uint64_t every_ms = 1000;

static const struct opt opts[] = {
    OPT_TARGET_ROWS(target),
    {"--json", NULL, NULL, "the coordinator's answer, one object a line",
     OPT_FLAG, &as_json, 0, 0},
    {"--once", "-1", NULL, "ask once, instead of again and again", OPT_FLAG,
     &once, 0, 0},
    {"--every", NULL, "SECONDS", "how often to ask (default 1)", OPT_SECONDS,
     &every_ms, 0, 0},
    OPT_HELP_ROW,
    OPT_LAST_ROW,
};

static const struct opt_command command = {
    .name = "taskrt stat",
    .usage = "[OPTIONS]",
    .about = "Shows the workers, programs and runs of a coordinator.",
    .opts = opts,
};

static unsigned long long
number(const char *object, const char *name)
{
	return json_number(json_member(object, name));
}

static void
print_workers(const char *list)
{
	unsigned long long slots = 0, busy = 0, tasks = 0;
	const char *w;
	char name[64], peer[64];
	unsigned n = 0;

	for (w = json_first(list); w != NULL; w = json_next(w), n++) {
		slots += json_number(json_member(w, "slots"));
		busy += json_number(json_member(w, "busy"));
		tasks += json_number(json_member(w, "tasks"));
	}
	printf("%u worker%s, %llu of %llu slots busy, %llu tasks done\n", n,
	       n == 1 ? "" : "s", busy, slots, tasks);
	if (n > 0)
		printf("  %-24s %-22s %6s %6s %12s\n", "WORKER", "ADDRESS",
		       "BUSY", "SLOTS", "TASKS");
	for (w = json_first(list); w != NULL; w = json_next(w))
		printf("  %-24s %-22s %6llu %6llu %12llu%s\n",
		       json_text(json_member(w, "name"), name, sizeof(name)),
		       json_text(json_member(w, "peer"), peer, sizeof(peer)),
		       (unsigned long long)json_number(json_member(w, "busy")),
		       (unsigned long long)json_number(json_member(w, "slots")),
		       (unsigned long long)json_number(json_member(w, "tasks")),
		       json_is_true(json_member(w, "draining")) ? "  draining"
		                                                : "");
}

/* "3 of 100 tasks, 2 failed, 1.5 s", or "" between runs. */
static void
describe_run(const char *run, char *buf, size_t size)
{
	char name[40];

	buf[0] = '\0';
	if (!json_is_object(run))
		return;
	json_text(json_member(run, "name"), name, sizeof(name));
	snprintf(buf, size, "%s%s%llu of %llu done, %llu failed, %.1f s", name,
	         name[0] != '\0' ? ": " : "",
	         (unsigned long long)json_number(json_member(run, "done")),
	         (unsigned long long)json_number(json_member(run, "total")),
	         (unsigned long long)json_number(json_member(run, "failed")),
	         (double)json_number(json_member(run, "elapsed_ms")) / 1000);
}

static int
same_text(const char *a, const char *b)
{
	char ta[200], tb[200];

	return strcmp(json_text(a, ta, sizeof(ta)),
	              json_text(b, tb, sizeof(tb))) == 0;
}

static int
same_link(const char *a, const char *b)
{
	return same_text(json_member(a, "transport"),
	                 json_member(b, "transport")) &&
	       same_text(json_member(a, "text"), json_member(b, "text"));
}

/* How workers reach the program: a line for each way, and why it is that one. */
static void
print_links(const char *list)
{
	char transport[32], text[200], worker[64];

	for (const char *l = json_first(list); l != NULL; l = json_next(l)) {
		unsigned n = 0;
		const char *o;

		for (o = json_first(list); o != l && !same_link(o, l);
		     o = json_next(o))
			;
		if (o != l)
			continue; /* was counted with that one */
		for (; o != NULL; o = json_next(o))
			n += same_link(o, l);
		json_text(json_member(l, "transport"), transport,
		          sizeof(transport));
		json_text(json_member(l, "text"), text, sizeof(text));
		json_text(json_member(l, "worker"), worker, sizeof(worker));
		printf("    %s, ", transport);
		if (n == 1)
			printf("worker %s", worker);
		else
			printf("%u workers", n);
		printf("%s%s\n", text[0] != '\0' ? ": " : "", text);
	}
}

/* What the program's arrays cost, if it counts that: TASKRT_STAT=1. */
static void
print_costs(const char *list)
{
	char what[300];

	if (json_first(list) == NULL)
		return;
	printf("    %8s %10s %8s %8s %12s  BY ALLOCATION\n", "FAULTS",
	       "WAITED ms", "FETCHED", "WRITTEN", "BYTES");
	for (const char *c = json_first(list); c != NULL; c = json_next(c))
		printf("    %8llu %10.3f %8llu %8llu %12llu  %s\n",
		       number(c, "faults"), (double)number(c, "wait_us") / 1e3,
		       number(c, "pages_fetched"), number(c, "pages_written"),
		       number(c, "bytes_written"),
		       json_text(json_member(c, "what"), what, sizeof(what)));
}

static void
print_sessions(const char *list)
{
	char name[64], run[160];
	const char *s;
	unsigned n = 0;

	for (s = json_first(list); s != NULL; s = json_next(s))
		n++;
	printf("%u program%s\n", n, n == 1 ? "" : "s");
	if (n > 0)
		printf("  %-24s %8s %8s %6s %8s  %s\n", "PROGRAM", "PID",
		       "WORKERS", "SLOTS", "RUNS", "NOW");
	for (s = json_first(list); s != NULL; s = json_next(s)) {
		const char *links = json_member(s, "links");

		describe_run(json_member(s, "run"), run, sizeof(run));
		printf(
		    "  %-24s %8llu %8llu %6llu %8llu  %s\n",
		    json_text(json_member(s, "name"), name, sizeof(name)),
		    (unsigned long long)json_number(json_member(s, "pid")),
		    (unsigned long long)json_number(json_member(s, "workers")),
		    (unsigned long long)json_number(json_member(s, "slots")),
		    (unsigned long long)json_number(json_member(s, "runs")),
		    run);
		print_links(links);
		print_costs(json_member(s, "costs"));
	}
}

static int
show(struct dsm_conn *conn, struct dsm_error *e)
{
	char *json;
	int err = tool_ask_stat(conn, WAIT_MS, &json, e);

	if (err != DSM_OK)
		return err;
	if (as_json) {
		printf("%s\n", json);
	} else if (!json_is_whole(json) || !json_is_object(json)) {
		err = dsm__fail(e, DSM_EPROTO,
		                "the answer of %s makes no "
		                "sense",
		                dsm__conn_peer(conn));
	} else {
		print_workers(json_member(json, "workers"));
		print_sessions(json_member(json, "sessions"));
		if (json_number(json_member(json, "left_out")) > 0)
			printf("(%llu more are not listed)\n",
			       (unsigned long long)json_number(
			           json_member(json, "left_out")));
	}
	free(json);
	if (fflush(stdout) != 0)
		err = dsm__fail(e, DSM_ESYS, "cannot write");
	return err;
}

int
tool_stat(int argc, char **argv)
{
	struct dsm_error e = {0};
	struct dsm_conn *conn = NULL;
	int status, err;

	if (opt_parse(&command, argc, argv, &status) < 0)
		return status;
	/* A connection for each question: between two there would be
	 * heartbeats to answer. */
	for (;;) {
		err = tool_connect(&target, WAIT_MS, &conn, &e);
		if (err == DSM_OK) {
			if (!as_json && !once && isatty(STDOUT_FILENO))
				printf("\033[H\033[J");
			err = show(conn, &e);
			dsm__conn_close(conn);
		}
		if (err != DSM_OK) {
			fprintf(stderr, "%s: %s\n", command.name, e.text);
			return 1;
		}
		if (once)
			return 0;
		poll(NULL, 0, (int)every_ms);
		if (!as_json && !isatty(STDOUT_FILENO))
			printf("\n");
	}
}
