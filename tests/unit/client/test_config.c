/* Settings from the environment and taskrt_init. */
#include "../../test.h"

#include <stdlib.h>

#include "../../../taskrt/client/config.h"
#include <taskrt/taskrt.h>

static int
load(struct taskrt__config *c, const struct taskrt_config *given,
     const char *entry, struct dsm_error *e)
{
	char *env[2] = {(char *)(uintptr_t)entry, NULL};

	memset(e, 0, sizeof(*e));
	return taskrt__config_load(c, given, env, e);
}

static void
test_without_anything_there_are_defaults(void)
{
	struct taskrt__config c;
	struct dsm_error e;

	MUST_OK(load(&c, NULL, NULL, &e));
	MUST(c.coordinator[0] == '\0');
	MUST(c.slots >= 1);
	MUST_BE(c.slots, taskrt__config_cpus());
	MUST_BE(c.wait_ms, 10000);
	MUST_BE(c.heap_size, TASKRT__HEAP_SIZE);
	MUST_BE(c.transport, TASKRT__TRANSPORT_AUTO);
	for (int i = 0; i < TASKRT__N_SETTINGS; i++)
		MUST_BE(c.origin[i], TASKRT__FROM_DEFAULT);
}

static void
test_environment_values_are_taken_and_remembered(void)
{
	struct taskrt__config c;
	struct dsm_error e;

	MUST_OK(load(&c, NULL, "TASKRT_COORDINATOR=node1:7070", &e));
	MUST(strcmp(c.coordinator, "node1:7070") == 0);
	MUST(strcmp(taskrt__config_origin(&c, TASKRT__SET_COORDINATOR),
	            "environment") == 0);
	MUST_OK(load(&c, NULL, "TASKRT_COORDINATOR=[::1]:7070", &e));
	MUST_OK(load(&c, NULL, "TASKRT_SLOTS=3", &e));
	MUST_BE(c.slots, 3);
	MUST_OK(load(&c, NULL, "TASKRT_WAIT=0.25", &e));
	MUST_BE(c.wait_ms, 250);
	MUST_OK(load(&c, NULL, "TASKRT_CHECK=iterations", &e));
	MUST(c.check_iterations);
	MUST_OK(load(&c, NULL, "TASKRT_STAT=1", &e));
	MUST(c.stat);
	MUST_OK(load(&c, NULL, "TASKRT_TRANSPORT=tcp", &e));
	MUST_BE(c.transport, TASKRT__TRANSPORT_TCP);
	MUST_OK(load(&c, NULL, "TASKRT_LOG=debug", &e));
	MUST(strcmp(c.log, "debug") == 0);
}

static void
test_bad_values_are_errors_that_name_variable_and_value(void)
{
	static const char *const bad[][2] = {
	    {"TASKRT_COORDINATOR=node1", "TASKRT_COORDINATOR"},
	    {"TASKRT_COORDINATOR=:7070", "TASKRT_COORDINATOR"},
	    {"TASKRT_COORDINATOR=node1:0", "TASKRT_COORDINATOR"},
	    {"TASKRT_COORDINATOR=node1:70707", "TASKRT_COORDINATOR"},
	    {"TASKRT_COORDINATOR=::1:7070", "TASKRT_COORDINATOR"},
	    {"TASKRT_SLOTS=0", "TASKRT_SLOTS"},
	    {"TASKRT_SLOTS=four", "TASKRT_SLOTS"},
	    {"TASKRT_SLOTS=-1", "TASKRT_SLOTS"},
	    {"TASKRT_SLOTS=4x", "TASKRT_SLOTS"},
	    {"TASKRT_SLOTS=99999999999999999999", "TASKRT_SLOTS"},
	    {"TASKRT_WAIT=soon", "TASKRT_WAIT"},
	    {"TASKRT_RECONNECT=never", "TASKRT_RECONNECT"},
	    {"TASKRT_WAIT=-1", "TASKRT_WAIT"},
	    {"TASKRT_WAIT=nan", "TASKRT_WAIT"},
	    {"TASKRT_TRANSPORT=pigeon", "TASKRT_TRANSPORT"},
	    {"TASKRT_VERBS_DEVICE=../mlx5", "TASKRT_VERBS_DEVICE"},
	    {"TASKRT_VERBS_PORT=0", "TASKRT_VERBS_PORT"},
	    {"TASKRT_VERBS_PORT=256", "TASKRT_VERBS_PORT"},
	    {"TASKRT_VERBS_GID_INDEX=-1", "TASKRT_VERBS_GID_INDEX"},
	    {"TASKRT_VERBS_DEPTH=3", "TASKRT_VERBS_DEPTH"},
	    {"TASKRT_CHECK=all", "TASKRT_CHECK"},
	    {"TASKRT_STAT=yes", "TASKRT_STAT"},
	    {"TASKRT_LOG=loud", "TASKRT_LOG"},
	    {"TASKRT_LISTEN=7071", "TASKRT_LISTEN"},
	    {"TASKRT_LISTEN=10.0.0.7:0", "TASKRT_LISTEN"},
	    {"TASKRT_ADVERTISE=gateway", "TASKRT_ADVERTISE"},
	};
	struct taskrt__config c;
	struct dsm_error e;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		const char *value = strchr(bad[i][0], '=') + 1;

		MUST_BE(load(&c, NULL, bad[i][0], &e), DSM_EINVAL);
		MUST_BE(e.code, DSM_EINVAL);
		MUST(strstr(e.text, bad[i][1]) != NULL);
		MUST(strstr(e.text, value) != NULL);
	}
}

static void
test_taskrt_init_beats_the_environment(void)
{
	const struct taskrt_config given = {
	    .coordinator = "node2:1",
	    .slots = 5,
	    .wait_ms = 7,
	    .heap_size = 1 << 30,
	};
	struct taskrt__config c;
	struct dsm_error e;

	MUST_OK(load(&c, &given, "TASKRT_COORDINATOR=node1:7070", &e));
	MUST(strcmp(c.coordinator, "node2:1") == 0);
	MUST_BE(c.origin[TASKRT__SET_COORDINATOR], TASKRT__FROM_INIT);
	MUST_BE(c.slots, 5);
	MUST_BE(c.wait_ms, 7);
	MUST_BE(c.heap_size, 1 << 30);
}

static void
test_empty_coordinator_forces_embedded_mode(void)
{
	const struct taskrt_config given = {.coordinator = ""};
	struct taskrt__config c;
	struct dsm_error e;

	MUST_OK(load(&c, &given, "TASKRT_COORDINATOR=node1:7070", &e));
	MUST(c.coordinator[0] == '\0');
	/* Other empty values count as not given. */
	MUST_OK(load(&c, NULL, "TASKRT_SLOTS=", &e));
	MUST_BE(c.origin[TASKRT__SET_SLOTS], TASKRT__FROM_DEFAULT);
}

static void
test_shared_memory_with_a_coordinator_is_refused(void)
{
	const struct taskrt_config given = {.transport = "shm"};
	struct taskrt__config c;
	struct dsm_error e;

	MUST_BE(load(&c, &given, "TASKRT_COORDINATOR=node1:7070", &e),
	        DSM_EINVAL);
	MUST(strstr(e.text, "node1:7070") != NULL);
	MUST_OK(load(&c, &given, NULL, &e));
}

static void
test_verbs_without_a_coordinator_is_refused(void)
{
	const struct taskrt_config given = {.transport = "verbs"};
	struct taskrt__config c;
	struct dsm_error e;

	MUST_BE(load(&c, &given, NULL, &e), DSM_EINVAL);
	MUST(strstr(e.text, "TASKRT_COORDINATOR") != NULL);
	MUST_OK(load(&c, &given, "TASKRT_COORDINATOR=node1:7070", &e));
	MUST_BE(c.transport, TASKRT__TRANSPORT_VERBS);
}

static void
test_the_rdma_device_can_be_chosen(void)
{
	struct taskrt__config c;
	struct dsm_error e;
	char buf[64];

	MUST_OK(load(&c, NULL, NULL, &e));
	MUST(c.verbs.device[0] == '\0');
	MUST(c.verbs.port == 0 && c.verbs.gid_index == 0 && c.verbs.depth == 0);
	MUST(taskrt__config_value(&c, TASKRT__SET_VERBS_GID_INDEX, buf,
	                          sizeof(buf))[0] == '\0');
	MUST_OK(load(&c, NULL, "TASKRT_VERBS_DEVICE=mlx5_bond-0.1", &e));
	MUST(strcmp(c.verbs.device, "mlx5_bond-0.1") == 0);
	MUST_BE(c.origin[TASKRT__SET_VERBS_DEVICE], TASKRT__FROM_ENVIRONMENT);
	MUST_OK(load(&c, NULL, "TASKRT_VERBS_PORT=2", &e));
	MUST_BE(c.verbs.port, 2);
	MUST_OK(load(&c, NULL, "TASKRT_VERBS_GID_INDEX=0", &e));
	MUST_BE(c.verbs.gid_index, 1); /* 0 is "not chosen" */
	MUST(strcmp(taskrt__config_value(&c, TASKRT__SET_VERBS_GID_INDEX, buf,
	                                 sizeof(buf)),
	            "0") == 0);
	MUST_OK(load(&c, NULL, "TASKRT_VERBS_DEPTH=16", &e));
	MUST_BE(c.verbs.depth, 16);
}

static void
test_an_advertised_address_needs_a_fixed_port_to_lead_to(void)
{
	char *env[3] = {(char[]){"TASKRT_ADVERTISE=gateway:7071"}, NULL, NULL};
	struct taskrt__config c;
	struct dsm_error e;

	MUST_BE(taskrt__config_load(&c, NULL, env, &e), DSM_EINVAL);
	MUST(strstr(e.text, "gateway:7071") != NULL);
	MUST(strstr(e.text, "TASKRT_LISTEN") != NULL);
	env[1] = (char[]){"TASKRT_LISTEN=*:7071"};
	MUST_OK(taskrt__config_load(&c, NULL, env, &e));
	MUST(strcmp(c.advertise, "gateway:7071") == 0);
	MUST(strcmp(c.listen, "*:7071") == 0);
}

static void
test_unknown_names_are_no_error(void)
{
	struct taskrt__config c;
	struct dsm_error e;

	MUST_OK(load(&c, NULL, "TASKRTX=1", &e));
	MUST_OK(load(&c, NULL, "NO_TASKRT_SLOTS=1", &e));
}

static void
test_values_are_shown_as_text(void)
{
	struct taskrt__config c;
	struct dsm_error e;
	char buf[64];

	MUST_OK(load(&c, NULL, "TASKRT_WAIT=2.5", &e));
	MUST(
	    strcmp(taskrt__config_value(&c, TASKRT__SET_WAIT, buf, sizeof(buf)),
	           "2.5") == 0);
	MUST(strcmp(taskrt__config_value(&c, TASKRT__SET_TRANSPORT, buf,
	                                 sizeof(buf)),
	            "auto") == 0);
	MUST(strcmp(taskrt__config_name(TASKRT__SET_SLOTS), "slots") == 0);
	MUST(strcmp(taskrt__config_env(TASKRT__SET_SLOTS), "TASKRT_SLOTS") ==
	     0);
	MUST(taskrt__config_env(TASKRT__SET_HEAP_SIZE) == NULL);
	for (int i = 0; i < TASKRT__N_SETTINGS; i++)
		MUST(taskrt__config_help((enum taskrt__setting)i)[0] != '\0');
}

SUITE(taskrt_client_config, "taskrt.client.config",
      T(test_without_anything_there_are_defaults),
      T(test_environment_values_are_taken_and_remembered),
      T(test_bad_values_are_errors_that_name_variable_and_value),
      T(test_taskrt_init_beats_the_environment),
      T(test_empty_coordinator_forces_embedded_mode),
      T(test_shared_memory_with_a_coordinator_is_refused),
      T(test_verbs_without_a_coordinator_is_refused),
      T(test_the_rdma_device_can_be_chosen),
      T(test_an_advertised_address_needs_a_fixed_port_to_lead_to),
      T(test_unknown_names_are_no_error), T(test_values_are_shown_as_text));
