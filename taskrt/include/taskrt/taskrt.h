/*
 * taskrt - run a program's tasks on a whole cluster as if they were local.
 *
 *   #include <taskrt/taskrt.h>
 *
 *   static void body(size_t i, void *ctx) { double *a = ctx; a[i] = f(i); }
 *   …
 *   double *a = dsm_malloc(n * sizeof(*a));
 *   if (taskrt_for(0, n, body, a, NULL) != 0)
 *           taskrt_report_print(stderr);
 *
 * A task sees the caller's memory as it was at the launch, plus its own writes.
 * When every task has succeeded and no two wrote the same byte, all writes are in
 * place when the call returns; otherwise nothing has changed, and the report says
 * why. No initialisation call is needed.
 *
 * Functions that can fail return 0 or a negative TASKRT_E… code. All may be called
 * from any thread; calls that launch wait for each other: one run of a program is
 * in flight at a time. Inside a task they fail with TASKRT_EINVAL.
 */
#ifndef TASKRT_TASKRT_H
#define TASKRT_TASKRT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <dsm/dsm.h>

#ifdef __cplusplus
extern "C" {
/* A function and a struct of one name, as stat of the C library. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif

#define TASKRT_VERSION "0.1.0"

enum taskrt_status {
	TASKRT_OK = 0,
	TASKRT_EINVAL = -1,
	TASKRT_ENOMEM = -2,
	TASKRT_ECONN = -3, /* no coordinator or worker; all tasks lost */
	TASKRT_ETIMEDOUT = -4,
	TASKRT_EAUTH = -5,
	TASKRT_ERACE = -32, /* two tasks wrote the same byte */
	TASKRT_ETASK = -33, /* a task failed */
	TASKRT_ECANCELED = -34,
};

/* How a task failed. */
enum taskrt_kind {
	TASKRT_CRASH = 1, /* signal, see taskrt_failure.signal */
	TASKRT_FORBIDDEN, /* a call that a task may not make */
	TASKRT_TIMEOUT,   /* ran longer than options.timeout_ms */
	TASKRT_LOST,      /* its slots or workers were lost, retries used up */
	TASKRT_CANCELLED, /* keep_partial: the run ended before it was finished */
};

struct taskrt_task {
	void (*fn)(void *arg);
	void *arg;
};

/* Zero means default. */
struct taskrt_options {
	size_t chunk;       /* iterations a slot takes at a time; 0: adaptive */
	unsigned max_slots; /* slots used at most; 0: all there are */
	unsigned timeout_ms; /* per task; 0: none */
	unsigned retries;    /* of lost tasks; 0: 3 */
	/* Commit the tasks that succeeded: those that the report does not list,
	 * unless there are races. Of a loop, an entry's message has the
	 * iterations that it stands for. */
	int keep_partial;
	int fail_fast;    /* first failure cancels the rest */
	const char *name; /* shown in reports and statistics; borrowed */
	/* Tasks that run much longer than the others, at the end of a run when
	 * slots are idle, are started once more elsewhere, and the first answer
	 * counts. Not with this. */
	int no_copies;
};

struct taskrt_failure {
	size_t task; /* index; for loops the iteration, see report */
	int kind;    /* enum taskrt_kind */
	int signal;  /* SIGSEGV …, 0 when none */
	void *addr;  /* that the signal was about, or NULL */
	const char *message, *backtrace; /* backtrace may be "" */
};

/* The other writer was the program itself (asynchronous runs). */
#define TASKRT_CLIENT SIZE_MAX

struct taskrt_race {
	/* task_a < task_b, or task_b is TASKRT_CLIENT; of a loop's chunk it is
	 * the first iteration, unless TASKRT_CHECK=iterations */
	size_t task_a, task_b;
	void *addr; /* first byte both wrote */
	size_t len; /* bytes in a row */
	/* With the first 8 bytes that each wrote, in hexadecimal */
	const char *message;
};

/* Counters and cost breakdown of a run: `taskrt stat` shows the same. Times in
 * nanoseconds; exec, fetch, diff and reset are summed over all slots. */
struct taskrt_counters {
#define DSM_COUNTER(name, unit, help) uint64_t name;
#include <dsm/stats.def>
#undef DSM_COUNTER
};

struct taskrt_report {
	int error;           /* what the call returned */
	const char *message; /* one line for people; "" on success */
	size_t n_failures;
	const struct taskrt_failure *failures; /* root causes first */
	size_t n_races; /* found; races lists the first 100 */
	const struct taskrt_race *races;
	struct taskrt_counters counters;
};

/*
 * Launch n tasks in one bunch, wait, commit. Each task is isolated from the
 * others. tasks is read during the call only. n == 0 is fine.
 */
int taskrt_run(const struct taskrt_task *tasks, size_t n,
               const struct taskrt_options *opt);

struct taskrt_run;
/*
 * The same in steps. taskrt_start returns when the launch state is frozen;
 * tasks[] must stay as it is until then only. A later launch by any thread first
 * waits for this run's end and commits it. taskrt_wait commits (unless that
 * happened), fills the calling thread's report, and frees the run: call it
 * exactly once, also after a failure or cancel.
 */
int taskrt_start(const struct taskrt_task *tasks, size_t n,
                 const struct taskrt_options *opt, struct taskrt_run **run_p);
int taskrt_wait(struct taskrt_run *run);
/* End the run's tasks; taskrt_wait then gives TASKRT_ECANCELED. */
int taskrt_cancel(struct taskrt_run *run);

/* body(i, ctx) for i in [begin, end). An iteration is a task; those that one
 * slot runs as one chunk are checked for races as one writer. */
int taskrt_for(size_t begin, size_t end, void (*body)(size_t i, void *ctx),
               void *ctx, const struct taskrt_options *opt);
/* The same, one call a chunk: body(lo, hi, ctx) for parts of [begin, end). */
int taskrt_for_range(size_t begin, size_t end,
                     void (*body)(size_t lo, size_t hi, void *ctx), void *ctx,
                     const struct taskrt_options *opt);
/* body(elem, ctx) for the n elements of size bytes from base on, as taskrt_for over
 * their indices: reports name an element by its index. */
int taskrt_foreach(void *base, size_t n, size_t size,
                   void (*body)(void *elem, void *ctx), void *ctx,
                   const struct taskrt_options *opt);

/*
 * In a task: end it as failed, with this message (one line, up to 500 bytes) in the
 * report: a TASKRT_CRASH with signal SIGABRT, for whoever does not read messages. What
 * it has written is dropped. Outside of tasks the message goes to stderr and the
 * program aborts.
 */
void taskrt_fail(const char *message) __attribute__((noreturn));

/*
 * Keep memory out of tasks: pages of [p, p + len) never leave the program, and a task
 * that touches them fails with a message that says so. For keys, passwords, and what
 * else must not be seen on other machines. From the next launch on: call it before the
 * first one, workers may have pages by then. p and len must be whole pages
 * (aligned_alloc(4096, …), mmap) outside the heap of dsm_malloc; TASKRT_EINVAL
 * otherwise. Stays with the addresses: taskrt_share takes it back, before the memory
 * is unmapped or freed for other use. TASKRT_ENOMEM: more than 1024 such ranges.
 */
int taskrt_private(void *p, size_t len);
int taskrt_share(void *p, size_t len);

/* The calling thread's last run. Valid until its next launch or wait. Never
 * NULL: before any run an empty report. */
const struct taskrt_report *taskrt_report(void);
/* For people. Returns 0, or TASKRT_EINVAL when f is NULL. */
int taskrt_report_print(FILE *f);

/* Static text. Any thread, any time. */
const char *taskrt_strerror(int code);

/* Zero or NULL means: from the environment, else the default. */
struct taskrt_config {
	const char *coordinator; /* HOST:PORT; "" forces embedded mode */
	const char *token_file;
	const char *transport; /* auto, shm, tcp, verbs */
	unsigned slots;        /* embedded: processes; default: cores */
	size_t heap_size;      /* bytes of address space; default 256 GiB */
	unsigned wait_ms;      /* for a coordinator and a first worker; 10 s */
};
/* Optional: connect now, with this configuration. Once; TASKRT_EINVAL when the
 * library is in use already. */
int taskrt_init(const struct taskrt_config *config);
/* Optional: end the session, its slots and threads. Memory from dsm_malloc
 * stays. Waits for a run in flight. The next launch starts a new session. */
void taskrt_fini(void);

#ifdef __cplusplus
#pragma GCC diagnostic pop
}
#endif

#endif
