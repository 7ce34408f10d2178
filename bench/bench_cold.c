/*
 * cold_first_task: the first task of a session: its worker has none of the
 * program's code, libraries, stack or data. Session set-up apart. Floor: 5 ms,
 * within which nobody notices that something was not local.
 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include <taskrt/taskrt.h>

#define SESSIONS 7
#define FLOOR_MS 5.0

static unsigned calls;

struct job {
	double x, y;
	char *text;
};

/* A bit of everything: libm, malloc, a global, the launcher's stack. */
static void
small_task(void *arg)
{
	struct job *j = arg;

	j->y = sin(j->x) + sqrt(j->x);
	j->text = malloc(32);
	if (j->text != NULL)
		j->text[0] = 'y';
	calls++;
}

/* In a process of its own: nothing is left of the session before. */
static double
first_task(void)
{
	struct job j = {.x = 2};
	const struct taskrt_task task = {small_task, &j};

	bench_session_tcp();
	bench_pause_ms(200); /* the slot starts, the session settles */
	uint64_t start = dsm__now();
	bench_ok(taskrt_run(&task, 1, NULL), "the first task");
	double ns = (double)(dsm__now() - start);
	bench_note_costs("first run");
	if (calls != 1 || j.text == NULL || j.text[0] != 'y')
		bench_die("the task's writes are not there");
	taskrt_fini();
	return ns;
}

void
bench_cold_first_task(struct bench_result *r)
{
	double value[SESSIONS];

	bench_cluster_start(1);
	for (int i = 0; i < SESSIONS; i++) {
		int fds[2];
		pid_t pid = pipe(fds) == 0 ? fork() : -1;

		if (pid == 0) {
			double ns = first_task();

			_exit(write(fds[1], &ns, sizeof(ns)) !=
			      (ssize_t)sizeof(ns));
		}
		close(fds[1]);
		if (pid < 0 || read(fds[0], &value[i], sizeof(*value)) !=
		                   (ssize_t)sizeof(*value))
			bench_die("session %d failed", i + 1);
		close(fds[0]);
		waitpid(pid, NULL, 0);
	}
	r->value = bench_median(value, SESSIONS) / 1e6;
	r->floor = FLOOR_MS;
	r->unit = "ms";
}
