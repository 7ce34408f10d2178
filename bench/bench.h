/*
 * bench - how far taskrt is from what the machine can do.
 *
 * Each benchmark answers one question and measures, in the same run, a floor:
 * the least that the hardware and the kernel would take for the same work. It
 * runs in a process of its own, so it may fork, start a session and die as it
 * likes; what it started ends with it.
 *
 * A new one: a line in BENCHMARKS and a function bench_NAME.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stddef.h>
#include <stdint.h>

/* X(name, question). The names are fixed: other people's scripts read them. */
#define BENCHMARKS(X)                                                     \
	X(fault_read_tcp, "a cold 4 KiB page at random, over TCP")        \
	X(fault_read_tls, "the same, encrypted")                          \
	X(fault_read_verbs, "the same over RDMA")                         \
	X(scan_tcp, "256 MiB cold, read in order, over TCP")              \
	X(scan_tls, "the same, encrypted")                                \
	X(scan_new_tcp, "the same where the worker never had pages")      \
	X(scan_verbs, "64 MiB cold, read in order, over RDMA")            \
	X(commit_dense, "launch to commit of 64 MiB written, over TCP")   \
	X(commit_sparse, "the same, one word in each of 10,000 pages")    \
	X(run_empty, "launch and join one empty task, embedded")          \
	X(sandbox, "the same in the sandbox, against without it")         \
	X(forks_per_s, "empty tasks a second, one bunch, embedded")       \
	X(for_empty, "10^6 iterations of an empty body, embedded")        \
	X(local_mandelbrot, "much output, all cores, against OpenMP")     \
	X(local_primes, "short tasks, all cores, against OpenMP")         \
	X(local_knights, "long tasks, all cores, against OpenMP")         \
	X(local_factor, "long loops, all cores, against OpenMP")          \
	X(race_check, "race check of a written page at the coordinator")  \
	X(slots_1000, "a task at the coordinator, 1000 slots against 10") \
	X(cold_first_task, "first task of a small program, over TCP")

struct bench_result {
	double value, floor; /* the ratio is value / floor, always */
	const char *unit;
};

/* A benchmark fills in its result and returns, or calls bench_die. */
#define X(name, question) void bench_##name(struct bench_result *r);
BENCHMARKS(X)
#undef X

/* --- bench.c: the frame --- */

/* One line on stderr, exit status 1 for this benchmark. */
void bench_die(const char *fmt, ...)
    __attribute__((noreturn, format(printf, 1, 2)));
/* One line on stderr, exit status 0: it cannot be measured here. */
void bench_skip(const char *fmt, ...)
    __attribute__((noreturn, format(printf, 1, 2)));
/* With -v: one line on stderr. */
void bench_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* What a taskrt call returned; dies with the run's report unless it is 0. */
void bench_ok(int err, const char *what);
/* With -v: where the calling thread's last run spent its time. */
void bench_note_costs(const char *what);

/* Sorts v. */
double bench_median(double *v, size_t n);
unsigned bench_cores(void); /* that this process may use */
/* Sleep: lets threads of the other side of a comparison stop spinning. */
void bench_pause_ms(unsigned ms);
/* A bijective mix: data that does not compress, order that nobody foresees. */
uint64_t bench_mix(uint64_t x);

/* Counts at a constant rate, readable in tasks, where a clock_gettime would be
 * a trapped system call. */
static inline uint64_t
bench_ticks(void)
{
#if defined(__x86_64__)
	unsigned lo, hi;

	/* lfence: not before the loads that are measured. */
	__asm__ volatile("lfence; rdtsc; lfence"
	                 : "=a"(lo), "=d"(hi)
	                 :
	                 : "memory");
	return (uint64_t)hi << 32 | lo;
#elif defined(__aarch64__)
	uint64_t t;

	__asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(t) : : "memory");
	return t;
#endif
}
double bench_ns_per_tick(void); /* measured at the first call: 50 ms */

/* --- bench_peer.c: other processes --- */

/*
 * Fork a process that runs serve(fd, ctx) and ends; fd is its end of a
 * connected socket. Returns the caller's end. It ends with the caller.
 */
int bench_peer_tcp(void (*serve)(int fd, void *ctx), void *ctx);
int bench_peer_unix(void (*serve)(int fd, void *ctx), void *ctx);

/*
 * A function timed in a process of its own, for comparisons in turns: OpenMP's
 * threads would otherwise live in the program that launches runs. Call
 * bench_rival_start before any session starts.
 */
struct bench_rival {
	int fd;
};
void bench_rival_start(struct bench_rival *p, uint64_t (*fn)(uint64_t arg));
/* Nanoseconds that fn(arg) took; *result_p (may be NULL): what it returned. */
double bench_rival_run(struct bench_rival *p, uint64_t arg, uint64_t *result_p);

/* --- bench_cluster.c: sessions --- */

/* Start a coordinator and a worker of n_slots on 127.0.0.1, from BUILD/bin
 * (default: where this program lies). They end with this process. */
void bench_cluster_tokens(void); /* before it: the cluster has some */
void bench_cluster_start(unsigned n_slots);
void bench_cluster_stop(void); /* also without a start; bench_die does it */
/* taskrt_init: with that coordinator over TCP, or embedded on all cores. */
void bench_session_tcp(void);
void bench_session_verbs(void);
void bench_session_embedded(void);

/* --- bench_floor.c: what the machine can do; nanoseconds --- */

struct floor_tcp {
	int fd;
};
/* The other end in another process. Before any session starts. */
void floor_tcp_start(struct floor_tcp *f);
/* 16 B there, 4 KiB back, both ends spinning; median of n exchanges. */
double floor_tcp_page(struct floor_tcp *f, size_t n);
/* Receive len bytes that the other end sends in 1 MiB calls. */
double floor_tcp_stream(struct floor_tcp *f, size_t len);
/*
 * SIGSEGV on a page without access rights, mprotect in its handler, and back;
 * median of n. One page over and over: scattered pages would add the cost of
 * ever more mappings (half as much again), which is not the trap's.
 */
double floor_segv_pair(size_t n);
/* One of them, in ns. */
double floor_trap(void);
/* store(base, round) into a private mapping of a memfd of len bytes whose pages
 * have been read: one copy-on-write a page. */
double floor_stores(size_t len, void (*store)(uint64_t *base, uint64_t round),
                    uint64_t round);
double floor_memcpy(size_t len);

/* --- what fetches pages: sessions of a transport, and its floor --- */

struct bench_wire {
	/* The other end in another process. After bench_cluster_start (no fork
	 * once verbs are open) and before any session starts. */
	void (*start)(void);
	double (*page)(size_t n);     /* fetch 4 KiB; ns, median of n */
	double (*stream)(size_t len); /* ns for all */
	void (*session)(void);
	int tokens; /* the cluster is to have some: TLS */
};

extern const struct bench_wire bench_tcp; /* bench_floor.c */
/* The floor is plain TCP's: encryption is part of what is measured. */
extern const struct bench_wire bench_tls;
/*
 * bench_floor_verbs.c: RDMA READs, one after the other or several in flight. The
 * end that is read uses the client's device (TASKRT_VERBS_…), the reader the
 * workers' (BENCH_WORKER_DEVICE; without it the same). No device: the benchmark
 * is skipped.
 */
extern const struct bench_wire bench_verbs;

#endif
