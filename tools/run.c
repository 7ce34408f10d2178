/* taskrt run: a program with its settings in the environment. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"
#include "toolopt.h"

static uint64_t n_slots;
static const char *coordinator, *token_file, *transport, *check, *level;
static int stat_at_exit, insecure;

static const struct opt opts[] = {
    {"--slots", "-n", "SLOTS", "processes to use on this machine", OPT_NUMBER,
     &n_slots, 1, 4096},
    {"--coordinator", "-c", "HOST:PORT", "run on the workers that joined there",
     OPT_TEXT, &coordinator, 0, 0},
    {"--token-file", NULL, "FILE", "NAME:SECRET to join with, over TLS",
     OPT_TEXT, &token_file, 0, 0},
    {"--insecure", NULL, NULL,
     "without a token file: connect beyond loopback, not encrypted", OPT_FLAG,
     &insecure, 0, 0},
    {"--transport", NULL, "NAME", "auto, shm, tcp, verbs", OPT_TEXT, &transport,
     0, 0},
    {"--check", NULL, "WHAT", "who is one writer: chunks, iterations", OPT_TEXT,
     &check, 0, 0},
    {"--stat", NULL, NULL, "counters on stderr at exit", OPT_FLAG,
     &stat_at_exit, 0, 0},
    {"--log", NULL, "LEVEL", "error, warn, info, debug, trace", OPT_TEXT,
     &level, 0, 0},
    OPT_HELP_ROW,
    OPT_LAST_ROW,
};

static const struct opt_command command = {
    .name = "taskrt run",
    .usage = "[OPTIONS] PROGRAM [ARGUMENTS]",
    .about = "Runs a program with these settings; its exit status is the "
             "program's.",
    .opts = opts,
    .takes_words = 1,
};

/* 0, or the exit status. NULL: not given, the environment stays as it is. */
static int
put(const char *name, const char *value)
{
	if (value == NULL || setenv(name, value, 1) == 0)
		return 0;
	fprintf(stderr, "%s: cannot set %s: %s\n", command.name, name,
	        strerror(errno));
	return 1;
}

/* Is the program anywhere on PATH? A folder that may not be searched makes
 * execvp() say "Permission denied" of a program that is nowhere. */
static int
is_on_path(const char *name)
{
	const char *path = getenv("PATH");
	char file[4096];

	while (path != NULL) {
		size_t len = strcspn(path, ":");

		snprintf(file, sizeof(file), "%.*s/%s", (int)len,
		         len > 0 ? path : ".", name);
		if (access(file, F_OK) == 0)
			return 1;
		path = path[len] == ':' ? path + len + 1 : NULL;
	}
	return 0;
}

int
tool_run(int argc, char **argv)
{
	char number[24];
	int status, i = opt_parse(&command, argc, argv, &status);

	if (i < 0)
		return status;
	if (i == argc)
		return opt_wrong(&command, "which program?");
	snprintf(number, sizeof(number), "%llu", (unsigned long long)n_slots);
	if (put("TASKRT_SLOTS", n_slots > 0 ? number : NULL) != 0 ||
	    put("TASKRT_COORDINATOR", coordinator) != 0 ||
	    put("TASKRT_TOKEN_FILE", token_file) != 0 ||
	    put("TASKRT_INSECURE", insecure ? "1" : NULL) != 0 ||
	    put("TASKRT_TRANSPORT", transport) != 0 ||
	    put("TASKRT_CHECK", check) != 0 ||
	    put("TASKRT_STAT", stat_at_exit ? "1" : NULL) != 0 ||
	    put("TASKRT_LOG", level) != 0)
		return 1;
	execvp(argv[i], argv + i);
	if (errno == EACCES && strchr(argv[i], '/') == NULL &&
	    !is_on_path(argv[i]))
		errno = ENOENT;
	status = errno == ENOENT ? 127 : 126; /* as env(1) */
	fprintf(stderr, "%s: %s: %s\n", command.name, argv[i], strerror(errno));
	return status;
}
