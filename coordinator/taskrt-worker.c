/* taskrt-worker: offers this machine's processors to a coordinator. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../dsm/base/log.h"
#include "daemon.h"
#include "worker/memlimit.h"
#include "options.h"
#include "rdma.h"
#include "sandbox.h"
#include "uplink.h"

#define SLOTS_MAX 4096

static const char *coordinator, *token_file, *shown_name, *faults;
static uint64_t n_slots, wait_ms = 30000, drain_ms = 600000;
static uint64_t memory, task_memory;
static int once, insecure;
static struct sandbox_options sandbox;
static struct rdma_options rdma = {.gid_index = RDMA_ANY_GID};

static const struct opt opts[] = {
    {"--coordinator", "-c", "HOST:PORT",
     "where to join (default: "
     "TASKRT_COORDINATOR)",
     OPT_TEXT, &coordinator, 0, 0},
    {"--slots", "-n", "N",
     "tasks that run at a time (default: the "
     "processors this process may use)",
     OPT_NUMBER, &n_slots, 1, SLOTS_MAX},
    {"--name", NULL, "NAME", "shown in reports (default: the host name)",
     OPT_TEXT, &shown_name, 0, 0},
    {"--token-file", NULL, "FILE",
     "NAME:SECRET to join with, over TLS (default: TASKRT_TOKEN_FILE)",
     OPT_TEXT, &token_file, 0, 0},
    {"--insecure", NULL, NULL,
     "without a token file: connect beyond loopback, not encrypted (default: "
     "TASKRT_INSECURE)",
     OPT_FLAG, &insecure, 0, 0},
    {"--wait", NULL, "SECONDS",
     "how long to try to join at the start "
     "(default 30)",
     OPT_SECONDS, &wait_ms, 0, 0},
    {"--memory", NULL, "SIZE",
     "for the memory of all programs' pages and tasks (default: nine tenths of "
     "what its cgroup, batch job or machine has)",
     OPT_SIZE, &memory, 32 << 20, 0},
    {"--task-memory", NULL, "SIZE", "that a task may write to (default: none)",
     OPT_SIZE, &task_memory, 8 << 20, 0},
    {"--drain-time", NULL, "SECONDS",
     "how long tasks may go on after SIGTERM (default 600)", OPT_SECONDS,
     &drain_ms, 0, 0},
    {"--faults", NULL, "KIND",
     "how slots trap missing pages: auto, or segv where userfaultfd is not "
     "wanted",
     OPT_TEXT, &faults, 0, 0},
    {"--user", NULL, "NAME",
     "whom slots run as, when the worker is root's (default: the worker's own "
     "user)",
     OPT_TEXT, &sandbox.user, 0, 0},
    {"--no-sandbox", NULL, NULL,
     "let tasks do all that the worker may: for debugging them", OPT_FLAG,
     &sandbox.off, 0, 0},
    {"--transport", NULL, "KIND",
     "tcp, verbs (RDMA or nothing), or auto: verbs where it works (default: "
     "TASKRT_TRANSPORT)",
     OPT_TEXT, &rdma.transport, 0, 0},
    {"--device", NULL, "NAME", "RDMA device (default: TASKRT_VERBS_DEVICE)",
     OPT_TEXT, &rdma.device, 0, 0},
    {"--port", NULL, "N",
     "of the device (default: TASKRT_VERBS_PORT, else the first active one)",
     OPT_NUMBER, &rdma.port, 1, 255},
    {"--gid-index", NULL, "N",
     "address of the port (default: TASKRT_VERBS_GID_INDEX)", OPT_NUMBER,
     &rdma.gid_index, 0, 255},
    {"--once", NULL, NULL,
     "end when the coordinator is gone, instead of "
     "joining again",
     OPT_FLAG, &once, 0, 0},
    {"--version", "-V", NULL, "print the version", OPT_VERSION, NULL, 0, 0},
    {"--help", "-h", NULL, "print this", OPT_HELP, NULL, 0, 0},
    {NULL, NULL, NULL, NULL, OPT_FLAG, NULL, 0, 0},
};

static const struct opt_command command = {
    .name = "taskrt-worker",
    .usage = "--coordinator HOST:PORT [OPTIONS]",
    .about = "Runs tasks of any program that has joined the coordinator.",
    .opts = opts,
};

/* Processors this process may use: at least 1. */
static unsigned
count_cpus(void)
{
	/* cpu_set_t ends at 1024 CPUs; a larger machine says EINVAL. */
	for (int n = CPU_SETSIZE; n <= 1 << 16; n *= 2) {
		cpu_set_t *set = CPU_ALLOC((size_t)n);
		size_t size = CPU_ALLOC_SIZE((size_t)n);
		int count = 0;

		if (set != NULL && sched_getaffinity(0, size, set) == 0)
			count = CPU_COUNT_S(size, set);
		CPU_FREE(set);
		if (count > 0)
			return count < SLOTS_MAX ? (unsigned)count : SLOTS_MAX;
	}
	return 1;
}

/* 0, or the exit status. */
static int
check_coordinator(void)
{
	struct dsm_error e = {0};

	if (coordinator == NULL)
		coordinator = getenv("TASKRT_COORDINATOR");
	if (coordinator == NULL || *coordinator == '\0')
		return opt_wrong(&command, "--coordinator HOST:PORT is needed");
	/* A name that cannot be resolved yet is tried again later. */
	if (dsm__tcp_is_loopback(coordinator, &e) == DSM_EINVAL)
		return opt_wrong(&command, "--coordinator: %s", e.text);
	if (strlen(coordinator) >= DSM_ADDR_MAX)
		return opt_wrong(&command, "--coordinator: the name is too "
		                           "long");
	return 0;
}

/* --- SIGTERM --- */

/* In static memory: the loop closes the timer when it is destroyed. */
static struct drain {
	struct dsm_loop *loop;
	struct uplink *up;
	uv_timer_t timer;
} drain;

static void
on_drain_time(uv_timer_t *t)
{
	const struct drain *d = t->data;

	log_warn("tasks still run %g s after SIGTERM (--drain-time): they are "
	         "ended, and run again elsewhere",
	         (double)drain_ms / 1000);
	dsm__loop_stop(d->loop);
}

/* Batch systems and systemd say SIGTERM, and SIGKILL some time later. */
static int
on_term(void *arg)
{
	struct drain *d = arg;
	unsigned n = uplink_drain(d->up);

	log_info("SIGTERM: takes no more tasks, %u slot%s at work; a second "
	         "one ends it at once",
	         n, n == 1 ? "" : "s");
	d->timer.data = d;
	uv_timer_init(dsm__loop_uv(d->loop), &d->timer);
	uv_update_time(dsm__loop_uv(d->loop));
	uv_timer_start(&d->timer, on_drain_time, drain_ms, 0);
	return 1;
}

/* What --memory is when it is not given, and why, in memory_from. */
static char memory_text[120];
static const char *memory_from;

static void
choose_memory(void)
{
	const struct memlimit_source src = {"", getenv};

	if (memory != 0)
		return;
	memory = memlimit_default(&src, memory_text, sizeof(memory_text));
	memory_from = memory_text;
	log_debug("--memory is %llu MiB: %s", (unsigned long long)memory >> 20,
	          memory_text);
}

static int
work(struct dsm_loop *loop, struct uplink *up, const struct worker_verbs *verbs,
     const struct dsm_access *access, const struct worker_sandbox *slots)
{
	const struct worker_params p = {
	    .n_slots = (unsigned)n_slots,
	    .up = uplink_link(up),
	    .drained = uplink_drained,
	    .memory = memory,
	    .task_memory = task_memory,
	    .memory_from = memory_from,
	    .drained_ctx = up,
	    .heap_fd = -1,
	    .relay = coordinator,
	    .tls = access->psk != NULL,
	    .insecure = insecure,
	    .verbs = *verbs,
	    .sandbox = *slots,
	    .force_segv = faults != NULL && strcmp(faults, "segv") == 0,
	};
	struct dsm_error e = {0};
	struct worker *w;

	if (worker_create(loop, &p, &w, &e) != DSM_OK) {
		log_error("%s", e.text);
		return 1;
	}
	uplink_start(up, w, p.n_slots);
	drain.loop = loop;
	drain.up = up;
	daemon_on_term(on_term, &drain);
	dsm__loop_run(loop);
	daemon_on_term(NULL, NULL);
	uplink_stop(up);
	worker_destroy(w);
	return uplink_status(up);
}

int
main(int argc, char **argv)
{
	struct worker_verbs verbs = {0};
	struct worker_sandbox slots = {0};
	struct uplink_params p = {0};
	struct dsm_error e = {0};
	struct dsm_loop *loop;
	struct uplink *up;
	const char *plain;
	int status, err;

	if (opt_parse(&command, argc, argv, &status) < 0)
		return status;
	status = check_coordinator();
	if (status != 0)
		return status;
	if (faults != NULL && strcmp(faults, "auto") != 0 &&
	    strcmp(faults, "segv") != 0)
		return opt_wrong(&command, "--faults is auto or segv");
	if (n_slots == 0)
		n_slots = count_cpus();
	p = (struct uplink_params){
	    .addr = coordinator,
	    .name = shown_name,
	    .wait_ms = wait_ms,
	    .once = once,
	};
	err = daemon_start(command.name, &loop);
	if (err != DSM_OK) {
		log_error("cannot start: %s", dsm__strerror(err));
		return 1;
	}
	status = sandbox_probe(&sandbox, &slots);
	if (status == 0)
		status = rdma_probe(&rdma, &verbs);
	if (status != 0) {
		dsm__loop_destroy(loop);
		return status;
	}
	if (verbs.usable && !slots.off)
		log_info("sandbox: slots over verbs have no Landlock, seccomp "
		         "alone: RDMA devices refuse who has taken it");
	if (token_file == NULL)
		token_file = getenv("TASKRT_TOKEN_FILE");
	plain = getenv("TASKRT_INSECURE");
	insecure |= plain != NULL && strcmp(plain, "1") == 0;
	if (dsm__access_init(&p.access, token_file, insecure, DSM_TOKEN_WORKER,
	                     &e) != DSM_OK) {
		log_error("%s", e.text);
		dsm__loop_destroy(loop);
		return 1;
	}
	choose_memory();
	err = uplink_create(loop, &p, &up);
	if (err != DSM_OK) {
		log_error("cannot start: %s", dsm__strerror(err));
		dsm__loop_destroy(loop);
		return 1;
	}
	status = work(loop, up, &verbs, &p.access, &slots);
	dsm__loop_destroy(loop);
	uplink_free(up);
	dsm__access_fini(&p.access);
	return status;
}
