/*
 * run_empty: launch and join one empty task, warm, embedded. Floor: two
 * spinning round trips of a short message between two processes over the
 * transport that embedded mode uses: one for the task, one for the verdict.
 *
 * sandbox: run_empty as it is. Floor: run_empty with TASKRT_SANDBOX=off, in turns.
 *
 * forks_per_s: empty tasks in one bunch. Floor: 10,000 a second, what a
 * kernel-level remote fork gives from one parent (MITOSIS, OSDI '23).
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#include "../dsm/base/clock.h"
#include "../dsm/transport/conn.h"
#include <taskrt/taskrt.h>

#define MESSAGE_BYTES 64
#define BATCH 200
#define BATCHES 10
#define BUNCH 20000
#define BUNCHES 5
#define MITOSIS_FORKS_PER_S 10000.0

static void
nothing(void *arg)
{
	(void)arg;
}

static void
bounce(struct dsm_conn *c, const void *body)
{
	struct iovec iov = {(void *)(uintptr_t)body, MESSAGE_BYTES};

	if (dsm__conn_send(c, 1, 0, 0, &iov, 1) != DSM_OK)
		bench_die("the echo process is gone");
}

static struct dsm_conn *
open_conn(int fd)
{
	struct dsm_conn *c;

	if (dsm__conn_create(&dsm__shm_ops, fd, 4096, &c) != DSM_OK)
		bench_die("no connection");
	return c;
}

/*
 * Pure spinning, up to a deadline: dsm__conn_recv_wait offers the core to others
 * after a while, which would make the floor higher when both ends are on one
 * core.
 */
static int
spin_recv(struct dsm_conn *c, uint64_t ns, struct dsm_frame *f)
{
	uint64_t until = dsm__now() + ns;
	int err;

	while ((err = dsm__conn_recv(c, f)) == DSM_EAGAIN && dsm__now() < until)
		dsm__cpu_relax();
	return err;
}

static void
echo(int fd, void *ctx)
{
	struct dsm_conn *c = open_conn(fd);
	struct dsm_frame f;
	int err;

	(void)ctx;
	do {
		err = spin_recv(c, DSM_MS, &f);
		/* Asleep while taskrt is measured. */
		if (err == DSM_EAGAIN)
			err = dsm__conn_recv_wait(c, DSM_FOREVER, 0, &f, NULL);
		if (err == DSM_OK)
			bounce(c, f.body);
	} while (err == DSM_OK);
}

static void
round_trip(struct dsm_conn *c)
{
	static const char body[MESSAGE_BYTES];
	struct dsm_frame f;

	bounce(c, body);
	if (spin_recv(c, 5 * DSM_SEC, &f) != DSM_OK)
		bench_die("the echo process is gone");
}

void
bench_run_empty(struct bench_result *r)
{
	static double value[BATCHES * BATCH], floor_ns[BATCHES * BATCH];
	const struct taskrt_task task = {nothing, NULL};
	struct dsm_conn *c = open_conn(bench_peer_unix(echo, NULL));

	bench_session_embedded();
	for (int i = 0; i < BATCH; i++)
		bench_ok(taskrt_run(&task, 1, NULL), "an empty task");
	for (size_t i = 0; i < BATCHES * BATCH; i++) {
		if (i % BATCH == 0) {
			for (size_t k = i; k < i + BATCH; k++) {
				uint64_t start = dsm__now();

				round_trip(c);
				round_trip(c);
				floor_ns[k] = (double)(dsm__now() - start);
			}
			bench_pause_ms(5);
		}
		uint64_t start = dsm__now();
		int err = taskrt_run(&task, 1, NULL);

		value[i] = (double)(dsm__now() - start);
		bench_ok(err, "an empty task");
	}
	bench_note_costs("last run");
	r->value = bench_median(value, BATCHES * BATCH) / 1e3;
	r->floor = bench_median(floor_ns, BATCHES * BATCH) / 1e3;
	r->unit = "us";
	bench_note("a tenth of the runs took less than %.1f us, a tenth more "
	           "than %.1f us",
	           value[BATCHES * BATCH / 10] / 1e3,
	           value[BATCHES * BATCH / 10 * 9] / 1e3);
	dsm__conn_close(c);
}

/* In a process of its own: a program's settings are read once. Median in ns. */
static uint64_t
launches(uint64_t sandboxed)
{
	static int started;
	const struct taskrt_task task = {nothing, NULL};
	double ns[BATCH];

	if (!started) {
		/* The warning is no news here. */
		setenv("TASKRT_LOG", "error", 0);
		setenv("TASKRT_SANDBOX", sandboxed ? "on" : "off", 1);
		bench_session_embedded();
		started = 1;
		launches(sandboxed);
	}
	for (size_t i = 0; i < BATCH; i++) {
		uint64_t start = dsm__now();
		int err = taskrt_run(&task, 1, NULL);

		ns[i] = (double)(dsm__now() - start);
		bench_ok(err, "an empty task");
	}
	return (uint64_t)bench_median(ns, BATCH);
}

void
bench_sandbox(struct bench_result *r)
{
	struct bench_rival with, without;
	double in[BATCHES], out[BATCHES];

	bench_rival_start(&with, launches);
	bench_rival_start(&without, launches);
	for (size_t i = 0; i < BATCHES; i++) {
		uint64_t ns;

		bench_rival_run(&with, 1, &ns);
		in[i] = (double)ns / 1e3;
		bench_pause_ms(5);
		bench_rival_run(&without, 0, &ns);
		out[i] = (double)ns / 1e3;
		bench_pause_ms(5);
	}
	r->value = bench_median(in, BATCHES);
	r->floor = bench_median(out, BATCHES);
	r->unit = "us";
}

void
bench_forks_per_s(struct bench_result *r)
{
	struct taskrt_task *tasks = calloc(BUNCH, sizeof(*tasks));
	double rate[BUNCHES];

	if (tasks == NULL)
		bench_die("out of memory");
	for (size_t i = 0; i < BUNCH; i++)
		tasks[i].fn = nothing;
	bench_session_embedded();
	bench_ok(taskrt_run(tasks, BUNCH, NULL), "empty tasks"); /* warm */
	for (int i = 0; i < BUNCHES; i++) {
		uint64_t start = dsm__now();
		int err = taskrt_run(tasks, BUNCH, NULL);

		rate[i] = BUNCH * 1e9 / (double)(dsm__now() - start);
		bench_ok(err, "empty tasks");
	}
	bench_note_costs("last run");
	free(tasks);
	r->value = bench_median(rate, BUNCHES);
	r->floor = MITOSIS_FORKS_PER_S;
	r->unit = "tasks/s";
}
