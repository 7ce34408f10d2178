/* Settings from taskrt_init and the environment. */
#include "config.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/log.h"
#include <taskrt/taskrt.h>

static const struct {
	const char *name, *env, *help;
} settings[TASKRT__N_SETTINGS] = {
#define X(key, name, env, help) {name, env, help},
    TASKRT__SETTINGS(X)
#undef X
};

static const char *const transports[] = {"auto", "shm", "tcp", "verbs"};

/* Where a bad value came from, for its error message. */
static const char *
source(enum taskrt__setting key, enum taskrt__origin origin)
{
	if (origin == TASKRT__FROM_INIT || settings[key].env == NULL)
		return "taskrt_init";
	return settings[key].env;
}

static int
bad(struct dsm_error *e, enum taskrt__setting key, enum taskrt__origin origin,
    const char *text, const char *expected)
{
	return dsm__fail(e, DSM_EINVAL, "%s: \"%.100s\" is not %s",
	                 source(key, origin), text, expected);
}

static int
parse_number(const char *text, uint64_t max, uint64_t *value_p)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return DSM_EINVAL;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0' || value > max)
		return DSM_EINVAL;
	*value_p = value;
	return DSM_OK;
}

/* Seconds with an optional fraction, to milliseconds. */
static int
parse_seconds(const char *text, uint64_t *ms_p)
{
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return DSM_EINVAL;
	double seconds = strtod(text, &end);
	if (*end != '\0' || !(seconds >= 0 && seconds <= 1e6))
		return DSM_EINVAL;
	*ms_p = (uint64_t)(seconds * 1000 + 0.5);
	return DSM_OK;
}

static int
is_host_port(const char *text)
{
	const char *colon = strrchr(text, ':');
	uint64_t port;

	if (colon == NULL || colon == text)
		return 0;
	/* A bare IPv6 address has a last colon too. */
	if (text[0] != '[' && memchr(text, ':', (size_t)(colon - text)) != NULL)
		return 0;
	return parse_number(colon + 1, 65535, &port) == DSM_OK && port > 0;
}

/* Into room for cap bytes. */
static int
copy_text(char *to, size_t cap, const char *text)
{
	size_t len = strlen(text);

	if (len >= cap)
		return DSM_EINVAL;
	memcpy(to, text, len + 1);
	return DSM_OK;
}

static int
set_coordinator(struct taskrt__config *c, const char *text)
{
	if (text[0] != '\0' && !is_host_port(text))
		return DSM_EINVAL;
	return copy_text(c->coordinator, sizeof(c->coordinator), text);
}

/* Where we listen, or are reached: the words go to those who resolve them. */
static int
set_address(char *to, size_t cap, const char *text)
{
	return is_host_port(text) ? copy_text(to, cap, text) : DSM_EINVAL;
}

static int
set_transport(struct taskrt__config *c, const char *text)
{
	for (unsigned i = 0; i < sizeof(transports) / sizeof(*transports);
	     i++) {
		if (strcmp(text, transports[i]) == 0) {
			c->transport = (enum taskrt__transport)i;
			return DSM_OK;
		}
	}
	return DSM_EINVAL;
}

static int
set_device(struct taskrt__config *c, const char *text)
{
	static const char allowed[] =
	    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	    "0123456789_.-";

	if (text[strspn(text, allowed)] != '\0')
		return DSM_EINVAL;
	return copy_text(c->verbs.device, sizeof(c->verbs.device), text);
}

/* Set one value from text; what was expected goes into *expected_p on failure. */
static int
set_text(struct taskrt__config *c, enum taskrt__setting key, const char *text,
         const char **expected_p)
{
	uint64_t number;
	enum dsm_log_level level;

	switch (key) {
	case TASKRT__SET_COORDINATOR:
		*expected_p = "HOST:PORT, such as node1:7070";
		return set_coordinator(c, text);
	case TASKRT__SET_TOKEN_FILE:
		*expected_p = "a file name of less than 4096 bytes";
		return copy_text(c->token_file, sizeof(c->token_file), text);
	case TASKRT__SET_INSECURE:
		*expected_p = "0 or 1";
		if (parse_number(text, 1, &number) != DSM_OK)
			return DSM_EINVAL;
		c->insecure = (int)number;
		return DSM_OK;
	case TASKRT__SET_SLOTS:
		*expected_p = "a number from 1 to 4096";
		if (parse_number(text, TASKRT__SLOTS_MAX, &number) != DSM_OK ||
		    number == 0)
			return DSM_EINVAL;
		c->slots = (unsigned)number;
		return DSM_OK;
	case TASKRT__SET_TRANSPORT:
		*expected_p = "one of auto, shm, tcp, verbs";
		return set_transport(c, text);
	case TASKRT__SET_CHECK:
		*expected_p = "one of chunks, iterations";
		if (strcmp(text, "chunks") != 0 &&
		    strcmp(text, "iterations") != 0)
			return DSM_EINVAL;
		c->check_iterations = text[0] == 'i';
		return DSM_OK;
	case TASKRT__SET_CHECK_LOG:
		*expected_p = "a file name of less than 4096 bytes";
		return copy_text(c->check_log, sizeof(c->check_log), text);
	case TASKRT__SET_STAT:
		*expected_p = "0 or 1";
		if (parse_number(text, 1, &number) != DSM_OK)
			return DSM_EINVAL;
		c->stat = (int)number;
		return DSM_OK;
	case TASKRT__SET_LOG:
		*expected_p = "one of error, warn, info, debug, trace";
		if (dsm__log_level_parse(text, &level) != 0)
			return DSM_EINVAL;
		return copy_text(c->log, sizeof(c->log), text);
	case TASKRT__SET_WAIT:
		*expected_p = "a number of seconds";
		return parse_seconds(text, &c->wait_ms);
	case TASKRT__SET_LISTEN:
		*expected_p = "ADDR:PORT, such as 10.0.0.7:7071";
		return set_address(c->listen, sizeof(c->listen), text);
	case TASKRT__SET_ADVERTISE:
		*expected_p = "HOST:PORT, such as gateway:7071";
		return set_address(c->advertise, sizeof(c->advertise), text);
	case TASKRT__SET_RECONNECT:
		*expected_p = "a number of seconds";
		return parse_seconds(text, &c->reconnect_ms);
	case TASKRT__SET_COPIES:
		*expected_p = "0 or 1";
		if (parse_number(text, 1, &number) != DSM_OK)
			return DSM_EINVAL;
		c->copies = (int)number;
		return DSM_OK;
	case TASKRT__SET_FAULTS:
		*expected_p = "one of auto, segv";
		if (strcmp(text, "auto") != 0 && strcmp(text, "segv") != 0)
			return DSM_EINVAL;
		c->force_segv = text[0] == 's';
		return DSM_OK;
	case TASKRT__SET_SANDBOX:
		*expected_p = "one of on, off";
		if (strcmp(text, "on") != 0 && strcmp(text, "off") != 0)
			return DSM_EINVAL;
		c->no_sandbox = strcmp(text, "off") == 0;
		return DSM_OK;
	case TASKRT__SET_VERBS_DEVICE:
		*expected_p = "the name of an RDMA device, such as mlx5_0";
		return set_device(c, text);
	case TASKRT__SET_VERBS_PORT:
		*expected_p = "a number from 1 to 255";
		if (parse_number(text, 255, &number) != DSM_OK || number == 0)
			return DSM_EINVAL;
		c->verbs.port = (uint32_t)number;
		return DSM_OK;
	case TASKRT__SET_VERBS_GID_INDEX:
		*expected_p = "a number from 0 to 255";
		if (parse_number(text, 255, &number) != DSM_OK)
			return DSM_EINVAL;
		c->verbs.gid_index = (uint32_t)number + 1;
		return DSM_OK;
	case TASKRT__SET_VERBS_DEPTH:
		*expected_p = "a number from 4 to 1024";
		if (parse_number(text, 1024, &number) != DSM_OK || number < 4)
			return DSM_EINVAL;
		c->verbs.depth = (uint32_t)number;
		return DSM_OK;
	case TASKRT__SET_HEAP_SIZE: /* a number already: load_given */
	case TASKRT__N_SETTINGS:
		break;
	}
	return DSM_EINVAL;
}

/* An empty value in the environment is none, but for the coordinator. */
static int
load_one(struct taskrt__config *c, enum taskrt__setting key,
         enum taskrt__origin origin, const char *text, struct dsm_error *e)
{
	const char *expected = "valid";

	if (text == NULL)
		return DSM_OK;
	if (text[0] == '\0' && key != TASKRT__SET_COORDINATOR)
		return DSM_OK;
	if (set_text(c, key, text, &expected) != DSM_OK)
		return bad(e, key, origin, text, expected);
	c->origin[key] = origin;
	return DSM_OK;
}

/* Key of an environment entry "NAME=…", TASKRT__N_SETTINGS for none. */
static enum taskrt__setting
find_key(const char *entry, size_t name_len)
{
	for (unsigned i = 0; i < TASKRT__N_SETTINGS; i++) {
		const char *env = settings[i].env;

		if (env != NULL && strlen(env) == name_len &&
		    memcmp(env, entry, name_len) == 0)
			return (enum taskrt__setting)i;
	}
	return TASKRT__N_SETTINGS;
}

static int
load_environment(struct taskrt__config *c, char *const *env,
                 struct dsm_error *e)
{
	char unknown[200] = "";

	for (; env != NULL && *env != NULL; env++) {
		const char *equals = strchr(*env, '=');

		if (strncmp(*env, "TASKRT_", 7) != 0 || equals == NULL)
			continue;
		size_t len = (size_t)(equals - *env);
		enum taskrt__setting key = find_key(*env, len);
		if (key == TASKRT__N_SETTINGS) {
			size_t used = strlen(unknown);

			snprintf(unknown + used, sizeof(unknown) - used,
			         "%s%.*s", used > 0 ? ", " : "", (int)len,
			         *env);
			continue;
		}
		int err =
		    load_one(c, key, TASKRT__FROM_ENVIRONMENT, equals + 1, e);
		if (err != DSM_OK)
			return err;
	}
	if (unknown[0] != '\0')
		log_warn("unknown in the environment, ignored: %s", unknown);
	return DSM_OK;
}

static int
load_given(struct taskrt__config *c, const struct taskrt_config *g,
           struct dsm_error *e)
{
	int err = load_one(c, TASKRT__SET_COORDINATOR, TASKRT__FROM_INIT,
	                   g->coordinator, e);
	if (err != DSM_OK)
		return err;
	err = load_one(c, TASKRT__SET_TOKEN_FILE, TASKRT__FROM_INIT,
	               g->token_file, e);
	if (err != DSM_OK)
		return err;
	err = load_one(c, TASKRT__SET_TRANSPORT, TASKRT__FROM_INIT,
	               g->transport, e);
	if (err != DSM_OK)
		return err;
	if (g->slots > TASKRT__SLOTS_MAX)
		return dsm__fail(
		    e, DSM_EINVAL,
		    "taskrt_init: slots is %u, at most %u are possible",
		    g->slots, TASKRT__SLOTS_MAX);
	if (g->slots != 0) {
		c->slots = g->slots;
		c->origin[TASKRT__SET_SLOTS] = TASKRT__FROM_INIT;
	}
	if (g->wait_ms != 0) {
		c->wait_ms = g->wait_ms;
		c->origin[TASKRT__SET_WAIT] = TASKRT__FROM_INIT;
	}
	if (g->heap_size != 0) {
		c->heap_size = g->heap_size;
		c->origin[TASKRT__SET_HEAP_SIZE] = TASKRT__FROM_INIT;
	}
	return DSM_OK;
}

/* What each value allows by itself may not go together. */
static int
check_together(const struct taskrt__config *c, struct dsm_error *e)
{
	const enum taskrt__setting key = TASKRT__SET_TRANSPORT;

	if (c->transport == TASKRT__TRANSPORT_VERBS &&
	    c->coordinator[0] == '\0')
		return dsm__fail(
		    e, DSM_EINVAL,
		    "%s: transport verbs is for slots of a cluster, but no "
		    "coordinator is configured; set TASKRT_COORDINATOR, or use "
		    "auto",
		    source(key, c->origin[key]));
	if (c->transport == TASKRT__TRANSPORT_SHM && c->coordinator[0] != '\0')
		return dsm__fail(
		    e, DSM_EINVAL,
		    "%s: transport shm works on one machine only, but "
		    "coordinator %.200s is configured; use auto or tcp",
		    source(key, c->origin[key]), c->coordinator);
	if (c->advertise[0] != '\0' && c->listen[0] == '\0')
		return dsm__fail(
		    e, DSM_EINVAL,
		    "TASKRT_ADVERTISE is %.200s, but the port that it is to "
		    "lead to is another one in each session; set TASKRT_LISTEN "
		    "too",
		    c->advertise);
	if (c->heap_size > UINT64_C(1) << 46)
		return dsm__fail(
		    e, DSM_EINVAL,
		    "taskrt_init: heap_size is %llu bytes, more than 64 TiB "
		    "do not fit into the address space",
		    (unsigned long long)c->heap_size);
	return DSM_OK;
}

int
taskrt__config_load(struct taskrt__config *c, const struct taskrt_config *given,
                    char *const *env, struct dsm_error *e)
{
	*c = (struct taskrt__config){
	    .slots = taskrt__config_cpus(),
	    .copies = 1,
	    .log = "warn",
	    .wait_ms = 10000,
	    .reconnect_ms = 60000,
	    .heap_size = TASKRT__HEAP_SIZE,
	};
	int err = load_environment(c, env, e);
	if (err != DSM_OK)
		return err;
	if (given != NULL) {
		err = load_given(c, given, e);
		if (err != DSM_OK)
			return err;
	}
	return check_together(c, e);
}

const char *
taskrt__config_name(enum taskrt__setting key)
{
	return settings[key].name;
}

const char *
taskrt__config_env(enum taskrt__setting key)
{
	return settings[key].env;
}

const char *
taskrt__config_help(enum taskrt__setting key)
{
	return settings[key].help;
}

/* 0 stands for none, n for n - base. */
static const char *
number_text(char buf[32], uint32_t n, uint32_t base)
{
	snprintf(buf, 32, "%u", n - base);
	return n == 0 ? "" : buf;
}

char *
taskrt__config_value(const struct taskrt__config *c, enum taskrt__setting key,
                     char *buf, size_t size)
{
	const char *text = "";
	char number[32];

	switch (key) {
	case TASKRT__SET_COORDINATOR:
		text = c->coordinator;
		break;
	case TASKRT__SET_TOKEN_FILE:
		text = c->token_file;
		break;
	case TASKRT__SET_SLOTS:
		snprintf(number, sizeof(number), "%u", c->slots);
		text = number;
		break;
	case TASKRT__SET_TRANSPORT:
		text = transports[c->transport];
		break;
	case TASKRT__SET_CHECK:
		text = c->check_iterations ? "iterations" : "chunks";
		break;
	case TASKRT__SET_CHECK_LOG:
		text = c->check_log;
		break;
	case TASKRT__SET_INSECURE:
		text = c->insecure ? "1" : "0";
		break;
	case TASKRT__SET_STAT:
		text = c->stat ? "1" : "0";
		break;
	case TASKRT__SET_LOG:
		text = c->log;
		break;
	case TASKRT__SET_WAIT:
		snprintf(number, sizeof(number), "%g",
		         (double)c->wait_ms / 1000);
		text = number;
		break;
	case TASKRT__SET_LISTEN:
		text = c->listen;
		break;
	case TASKRT__SET_ADVERTISE:
		text = c->advertise;
		break;
	case TASKRT__SET_RECONNECT:
		snprintf(number, sizeof(number), "%g",
		         (double)c->reconnect_ms / 1000);
		text = number;
		break;
	case TASKRT__SET_COPIES:
		text = c->copies ? "1" : "0";
		break;
	case TASKRT__SET_FAULTS:
		text = c->force_segv ? "segv" : "auto";
		break;
	case TASKRT__SET_SANDBOX:
		text = c->no_sandbox ? "off" : "on";
		break;
	case TASKRT__SET_VERBS_DEVICE:
		text = c->verbs.device;
		break;
	case TASKRT__SET_VERBS_PORT:
		text = number_text(number, c->verbs.port, 0);
		break;
	case TASKRT__SET_VERBS_GID_INDEX:
		text = number_text(number, c->verbs.gid_index, 1);
		break;
	case TASKRT__SET_VERBS_DEPTH:
		text = number_text(number, c->verbs.depth, 0);
		break;
	case TASKRT__SET_HEAP_SIZE:
		snprintf(number, sizeof(number), "%llu",
		         (unsigned long long)c->heap_size);
		text = number;
		break;
	case TASKRT__N_SETTINGS:
		break;
	}
	snprintf(buf, size, "%s", text);
	return buf;
}

const char *
taskrt__config_origin(const struct taskrt__config *c, enum taskrt__setting key)
{
	switch (c->origin[key]) {
	case TASKRT__FROM_ENVIRONMENT:
		return "environment";
	case TASKRT__FROM_INIT:
		return "taskrt_init";
	case TASKRT__FROM_DEFAULT:
		break;
	}
	return "default";
}

unsigned
taskrt__config_cpus(void)
{
	/* cpu_set_t ends at 1024 CPUs; a larger machine says EINVAL. */
	for (int n = CPU_SETSIZE; n <= 1 << 16; n *= 2) {
		cpu_set_t *set = CPU_ALLOC((size_t)n);
		size_t size = CPU_ALLOC_SIZE((size_t)n);

		if (set == NULL)
			break;
		int rc = sched_getaffinity(0, size, set);
		int count = rc == 0 ? CPU_COUNT_S(size, set) : 0;
		CPU_FREE(set);
		if (count > 0)
			return (unsigned)count < TASKRT__SLOTS_MAX
			           ? (unsigned)count
			           : TASKRT__SLOTS_MAX;
		if (errno != EINVAL)
			break;
	}
	return 1;
}
