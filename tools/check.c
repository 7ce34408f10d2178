/*
 * taskrt check: a program on this machine, each iteration of its loops isolated, so
 * that every race is found and the very iterations are named. The library tells of
 * races in a file (taskrt/client/checklog.h), whatever the program does about them.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tool.h"
#include "toolopt.h"

#define STATUS_RACES 66

static uint64_t n_slots;

static const struct opt opts[] = {
    {"--slots", "-n", "SLOTS", "processes to use on this machine", OPT_NUMBER,
     &n_slots, 1, 4096},
    OPT_HELP_ROW,
    OPT_LAST_ROW,
};

static const struct opt_command command = {
    .name = "taskrt check",
    .usage = "[OPTIONS] PROGRAM [ARGUMENTS]",
    .about = "Runs a program on this machine, each iteration of its loops "
             "isolated, and\nshows all races; exit status 66 if there were "
             "any, else the program's.",
    .opts = opts,
    .takes_words = 1,
};

/* --- the program --- */

static void __attribute__((noreturn)) become(char **argv, const char *log)
{
	char number[24];

	snprintf(number, sizeof(number), "%llu", (unsigned long long)n_slots);
	if ((n_slots > 0 && setenv("TASKRT_SLOTS", number, 1) != 0) ||
	    setenv("TASKRT_COORDINATOR", "", 1) != 0 ||
	    setenv("TASKRT_CHECK", "iterations", 1) != 0 ||
	    setenv("TASKRT_CHECK_LOG", log, 1) != 0) {
		fprintf(stderr, "%s: cannot set the environment: %s\n",
		        command.name, strerror(errno));
		_exit(1);
	}
	execvp(argv[0], argv);
	int status = errno == ENOENT ? 127 : 126; /* as env(1) */
	fprintf(stderr, "%s: %s: %s\n", command.name, argv[0], strerror(errno));
	_exit(status);
}

/* Its exit status; 128 + n when signal n ended it. As system(3), signals from the
 * terminal are the program's business. */
static int
run_program(char **argv, const char *log)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN}, was_int, was_quit;
	int status = 0;

	sigaction(SIGINT, &ignore, &was_int);
	sigaction(SIGQUIT, &ignore, &was_quit);
	pid_t pid = fork();
	if (pid == 0) {
		sigaction(SIGINT, &was_int, NULL);
		sigaction(SIGQUIT, &was_quit, NULL);
		become(argv, log);
	}
	if (pid < 0) {
		fprintf(stderr, "%s: cannot fork: %s\n", command.name,
		        strerror(errno));
		return 1;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	sigaction(SIGINT, &was_int, NULL);
	sigaction(SIGQUIT, &was_quit, NULL);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status)
	                           : WEXITSTATUS(status);
}

/* --- what it did --- */

struct findings {
	unsigned long long n_sessions, n_runs, n_races;
};

/* Counts; the races themselves go to stderr on the way. */
static int
read_log(const char *path, struct findings *x)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t cap = 0;

	if (f == NULL) {
		fprintf(stderr, "%s: %s: %s\n", command.name, path,
		        strerror(errno));
		return -1;
	}
	while (getline(&line, &cap, f) > 0) {
		unsigned long long n;
		int used = 0;

		if (line[0] == ' ') {
			fputs(line, stderr);
		} else if (sscanf(line, "races %llu %n", &n, &used) == 1) {
			x->n_runs++;
			x->n_races += n;
			if (line[used] != '\0' && line[used] != '\n')
				fprintf(stderr, "%s: in run %s", command.name,
				        line + used);
			else
				fprintf(stderr, "%s:\n", command.name);
		} else {
			x->n_sessions++;
		}
	}
	int bad = ferror(f);
	free(line);
	fclose(f);
	if (bad)
		fprintf(stderr, "%s: cannot read %s\n", command.name, path);
	return bad ? -1 : 0;
}

static int
judge(const char *program, const char *log, int status)
{
	struct findings x = {0};

	if (read_log(log, &x) != 0)
		return 1;
	if (x.n_races > 0) {
		fprintf(stderr, "%s: %llu race%s in %llu run%s of %s\n",
		        command.name, x.n_races, x.n_races == 1 ? "" : "s",
		        x.n_runs, x.n_runs == 1 ? "" : "s", program);
		return STATUS_RACES;
	}
	if (x.n_sessions == 0 && status != 126 && status != 127)
		fprintf(stderr,
		        "%s: %s launched no tasks: nothing was checked\n",
		        command.name, program);
	return status;
}

int
tool_check(int argc, char **argv)
{
	const char *dir = getenv("TMPDIR");
	char log[4096];
	int status, i = opt_parse(&command, argc, argv, &status);

	if (i < 0)
		return status;
	if (i == argc)
		return opt_wrong(&command, "which program?");
	snprintf(log, sizeof(log), "%s/taskrt-check-XXXXXX",
	         dir != NULL && dir[0] != '\0' ? dir : "/tmp");
	int fd = mkstemp(log);
	if (fd < 0) {
		fprintf(stderr, "%s: cannot make a file %s: %s\n", command.name,
		        log, strerror(errno));
		return 1;
	}
	close(fd);
	status = judge(argv[i], log, run_program(argv + i, log));
	unlink(log);
	return status;
}
