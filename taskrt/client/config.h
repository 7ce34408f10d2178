/*
 * What the client library is told from outside: the environment's TASKRT_… names
 * and taskrt_init's arguments. taskrt_init beats the environment beats the
 * default; every value remembers where it came from, for `taskrt info` and for
 * error messages.
 */
#ifndef TASKRT_CLIENT_CONFIG_H
#define TASKRT_CLIENT_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "../../dsm/base/status.h"
#include "../../dsm/transport/conn.h"
#include "../../dsm/transport/verbs.h"

/* X(KEY, name, environment name or NULL, help) */
#define TASKRT__SETTINGS(X)                                                    \
	X(COORDINATOR, "coordinator", "TASKRT_COORDINATOR",                    \
	  "HOST:PORT of the coordinator; empty: this machine alone")           \
	X(TOKEN_FILE, "token_file", "TASKRT_TOKEN_FILE",                       \
	  "NAME:SECRET for the coordinator, over TLS; empty: plain TCP")       \
	X(INSECURE, "insecure", "TASKRT_INSECURE",                             \
	  "1: without a token file, plain TCP to other machines is wanted")    \
	X(SLOTS, "slots", "TASKRT_SLOTS",                                      \
	  "processes used without a coordinator")                              \
	X(TRANSPORT, "transport", "TASKRT_TRANSPORT", "auto, shm, tcp, verbs") \
	X(CHECK, "check", "TASKRT_CHECK",                                      \
	  "chunks: a chunk of a loop is one writer; iterations: each is")      \
	X(CHECK_LOG, "check_log", "TASKRT_CHECK_LOG",                          \
	  "file that races are appended to: for taskrt check")                 \
	X(STAT, "stat", "TASKRT_STAT", "1: counters on stderr at exit")        \
	X(LOG, "log", "TASKRT_LOG", "error, warn, info, debug, trace")         \
	X(WAIT, "wait", "TASKRT_WAIT",                                         \
	  "seconds to wait for the coordinator and a first worker")            \
	X(LISTEN, "listen", "TASKRT_LISTEN",                                   \
	  "ADDR:PORT for data links; empty: a free port beside the "           \
	  "coordinator's link")                                                \
	X(ADVERTISE, "advertise", "TASKRT_ADVERTISE",                          \
	  "HOST:PORT that workers reach it by, when that is another one")      \
	X(RECONNECT, "reconnect", "TASKRT_RECONNECT",                          \
	  "seconds to look for a coordinator that is gone while a run is on")  \
	X(COPIES, "copies", "TASKRT_COPIES",                                   \
	  "0: no second copies of tasks that run much longer than others")     \
	X(FAULTS, "faults", "TASKRT_FAULTS",                                   \
	  "auto, segv: how slots without a coordinator trap missing pages")    \
	X(SANDBOX, "sandbox", "TASKRT_SANDBOX",                                \
	  "on, off: for slots without a coordinator; off to debug them")       \
	X(VERBS_DEVICE, "verbs_device", "TASKRT_VERBS_DEVICE",                 \
	  "RDMA device, such as mlx5_0; empty: one that works")                \
	X(VERBS_PORT, "verbs_port", "TASKRT_VERBS_PORT",                       \
	  "its port; empty: one that is active")                               \
	X(VERBS_GID_INDEX, "verbs_gid_index", "TASKRT_VERBS_GID_INDEX",        \
	  "its address (RoCE: show_gids); empty: the best one")                \
	X(VERBS_DEPTH, "verbs_depth", "TASKRT_VERBS_DEPTH",                    \
	  "receive buffers of a data link over verbs")                         \
	X(HEAP_SIZE, "heap_size", NULL, "bytes of address space for dsm_malloc")

enum taskrt__setting {
#define X(key, name, env, help) TASKRT__SET_##key,
	TASKRT__SETTINGS(X)
#undef X
	    TASKRT__N_SETTINGS,
};

enum taskrt__origin {
	TASKRT__FROM_DEFAULT,
	TASKRT__FROM_ENVIRONMENT,
	TASKRT__FROM_INIT, /* taskrt_init */
};

enum taskrt__transport {
	TASKRT__TRANSPORT_AUTO,
	TASKRT__TRANSPORT_SHM,
	TASKRT__TRANSPORT_TCP,
	TASKRT__TRANSPORT_VERBS,
};

#define TASKRT__HEAP_SIZE (UINT64_C(256) << 30)
#define TASKRT__SLOTS_MAX 4096u

struct taskrt__config {
	char coordinator[320];        /* "": embedded */
	char listen[DSM_ADDR_MAX];    /* "": beside the control link */
	char advertise[DSM_ADDR_MAX]; /* "": where we listen */
	char token_file[4096];        /* "": none */
	int insecure;
	unsigned slots;
	enum taskrt__transport transport;
	struct dsm_verbs_choice verbs;
	int force_segv;
	int copies;
	int no_sandbox;
	int check_iterations;
	char check_log[4096]; /* "": none */
	int stat;
	char log[16];
	uint64_t wait_ms;
	uint64_t reconnect_ms; /* 0: not at all */
	uint64_t heap_size;
	enum taskrt__origin origin[TASKRT__N_SETTINGS];
};

struct taskrt_config;

/*
 * Fill in *c. given may be NULL; env as environ. Unknown TASKRT_… names get one
 * warning line. DSM_EINVAL with e: a value that means nothing, named with its
 * origin and what was expected; *c is then unspecified.
 */
int taskrt__config_load(struct taskrt__config *c,
                        const struct taskrt_config *given, char *const *env,
                        struct dsm_error *e);

/* For `taskrt info`. */
const char *taskrt__config_name(enum taskrt__setting key); /* "slots" */
const char *taskrt__config_env(enum taskrt__setting key);  /* NULL: none */
const char *taskrt__config_help(enum taskrt__setting key);
/* The value as text, cut at size - 1. Returns buf. */
char *taskrt__config_value(const struct taskrt__config *c,
                           enum taskrt__setting key, char *buf, size_t size);
const char *taskrt__config_origin(
    const struct taskrt__config *c,
    enum taskrt__setting key); /* "default", "environment", "taskrt_init" */

/* CPUs this process may use: at least 1. */
unsigned taskrt__config_cpus(void);

#endif
