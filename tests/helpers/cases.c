/* The cases of a program, one after another. */
#include "cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#define CASE_SECONDS 120

static char why[600]; /* the case that runs failed; empty while it has not */

void
cases_fail(const char *file, int line, const char *what)
{
	const struct taskrt_report *r = taskrt_report();
	const char *base = strrchr(file, '/');
	char task[200] = "";

	if (why[0] != '\0')
		return;
	if (r->n_failures > 0)
		snprintf(task, sizeof(task), "; task %zu: %s",
		         r->failures[0].task, r->failures[0].message);
	snprintf(why, sizeof(why), "%s:%d: %s (report: %d %s%s)",
	         base != NULL ? base + 1 : file, line, what, r->error,
	         r->message, task);
}

int
cases_failed(void)
{
	return why[0] != '\0';
}

static int
wanted(const char *group, const char *name, int argc, char **argv)
{
	int named = 0, any = 0;
	char full[200];

	snprintf(full, sizeof(full), "%s/%s", group, name);
	for (int i = 1; i < argc; i++) {
		int without = argv[i][0] == '-';
		int has = strstr(full, argv[i] + without) != NULL;

		if (without && has)
			return 0;
		any |= !without;
		named |= !without && has;
	}
	return named || !any;
}

/* 1 when it failed. */
static int
run(const struct cases_one *c)
{
	const char *label = getenv("LABEL");

	why[0] = '\0';
	alarm(CASE_SECONDS); /* nothing may hang */
	c->fn();
	alarm(0);
	printf("  %s %s%s%s%s%s\n", cases_failed() ? "FAIL" : "ok",
	       label != NULL ? label : "", label != NULL ? ": " : "", c->name,
	       cases_failed() ? ": " : "", why);
	return cases_failed();
}

int
cases_main(const struct cases_group *groups, int argc, char **argv)
{
	int failed = 0, n = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (; groups->cases != NULL; groups++) {
		for (const struct cases_one *c = groups->cases; c->name != NULL;
		     c++) {
			if (!wanted(groups->name, c->name, argc, argv))
				continue;
			failed |= run(c);
			n++;
		}
	}
	if (n == 0) {
		fprintf(stderr, "%s: no case has that in its name\n", argv[0]);
		return 2;
	}
	return failed;
}
