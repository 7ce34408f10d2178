/*
 * cases.h - what the end-to-end programs share that are lists of cases, in C and C++:
 * CHECK, the choice of cases, a line for each. A case is a function whose name is the
 * sentence that it proves.
 *
 *   PROGRAM [NAME…] [-NAME…]   all cases, or those whose GROUP/NAME contains a NAME,
 *                              without those that contain a -NAME
 * One line a case: "  ok NAME" or "  FAIL NAME: why", with the environment's LABEL in
 * front of the name if there is one.
 */
#ifndef TESTS_HELPERS_CASES_H
#define TESTS_HELPERS_CASES_H

#ifdef __cplusplus
extern "C" {
#endif

struct cases_one {
	const char *name;
	void (*fn)(void);
};

/* A group's cases end with {0}, a program's groups with one that has no cases. */
struct cases_group {
	const char *name;
	const struct cases_one *cases;
};

/* A row of a group. */
#define CASE(fn)        \
	{               \
#fn, fn \
	}

/* Ends the case that runs, or the helper of it that this is in: it has failed. */
#define CHECK(cond)                                            \
	do {                                                   \
		if (!(cond)) {                                 \
			cases_fail(__FILE__, __LINE__, #cond); \
			return;                                \
		}                                              \
	} while (0)

/* The case that runs has failed; its first reason is told, and the last run's report. */
void cases_fail(const char *file, int line, const char *what);

/* Whether it has. */
int cases_failed(void);

/* A program's main: its exit status, 1 when a case failed. A case has two minutes. */
int cases_main(const struct cases_group *groups, int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
