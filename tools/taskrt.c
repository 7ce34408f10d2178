/* taskrt: the command for people. */
#include <stdio.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "tool.h"

static const struct {
	const char *name, *help;
	int (*fn)(int argc, char **argv);
} verbs[] = {
    {"run", "run a program with the settings given as options", tool_run},
    {"check", "run a program and look for races between all iterations",
     tool_check},
    {"stat", "show the workers and programs of a coordinator", tool_stat},
    {"token", "make a token that lets a user or a worker in", tool_token},
    {"info", "show each setting and where it comes from", tool_info},
};
#define N_VERBS (sizeof(verbs) / sizeof(*verbs))

static void
usage(FILE *out)
{
	fprintf(out, "usage: taskrt VERB [OPTIONS]\n\n");
	for (unsigned i = 0; i < N_VERBS; i++)
		fprintf(out, "  %-8s %s\n", verbs[i].name, verbs[i].help);
	fprintf(out, "\n\"taskrt VERB --help\" has the options of a verb.\n");
}

int
main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0) {
		usage(stdout);
		return 0;
	}
	if (strcmp(verb, "--version") == 0 || strcmp(verb, "-V") == 0) {
		printf("taskrt %s\n", TASKRT_VERSION);
		return 0;
	}
	for (unsigned i = 0; i < N_VERBS; i++)
		if (strcmp(verb, verbs[i].name) == 0)
			return verbs[i].fn(argc - 1, argv + 1);
	if (argc < 2)
		usage(stderr);
	else
		fprintf(stderr, "taskrt: no verb \"%.100s\"; see --help\n",
		        verb);
	return 2;
}
