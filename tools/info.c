/* taskrt info: every setting, its value, and where that comes from; RDMA. */
#include <stdio.h>
#include <unistd.h>

#include "../dsm/transport/verbs.h"
#include "../taskrt/client/config.h"
#include "tool.h"
#include "toolopt.h"

static const struct opt opts[] = {OPT_HELP_ROW, OPT_LAST_ROW};

static const struct opt_command command = {
    .name = "taskrt info",
    .usage = "",
    .about = "Shows the settings that a program started here would have.",
    .opts = opts,
};

static void
print_setting(const struct taskrt__config *c, enum taskrt__setting key)
{
	const char *env = taskrt__config_env(key);
	char value[4200];

	taskrt__config_value(c, key, value, sizeof(value));
	printf("%-15s %-16s %-12s %-23s %s\n", taskrt__config_name(key),
	       value[0] != '\0' ? value : "-", taskrt__config_origin(c, key),
	       env != NULL ? env : "-", taskrt__config_help(key));
}

/* What data links of a program with a coordinator would use. */
static void
print_verbs(const struct taskrt__config *c)
{
	struct dsm_error e = {0};
	struct dsm_verbs *v;

	if (c->transport != TASKRT__TRANSPORT_AUTO &&
	    c->transport != TASKRT__TRANSPORT_VERBS) {
		printf("RDMA: not wanted by this transport\n");
	} else if (dsm__verbs_open(&c->verbs, &v, &e) != DSM_OK) {
		printf("RDMA: not usable: %s\n", e.text);
	} else {
		printf("RDMA: %s%s\n", dsm__verbs_text(v),
		       c->coordinator[0] != '\0'
		           ? ""
		           : " (not used without a coordinator)");
		dsm__verbs_close(v);
	}
}

int
tool_info(int argc, char **argv)
{
	static struct taskrt__config c;
	struct dsm_error e = {0};
	int status;

	if (opt_parse(&command, argc, argv, &status) < 0)
		return status;
	if (taskrt__config_load(&c, NULL, environ, &e) != DSM_OK) {
		fprintf(stderr, "%s: %s\n", command.name, e.text);
		return 1;
	}
	printf("%-15s %-16s %-12s %-23s %s\n", "SETTING", "VALUE", "FROM",
	       "ENVIRONMENT", "MEANING");
	for (int i = 0; i < TASKRT__N_SETTINGS; i++)
		print_setting(&c, (enum taskrt__setting)i);
	print_verbs(&c);
	return 0;
}
