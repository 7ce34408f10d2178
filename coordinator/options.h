/*
 * Command lines of the daemons and of the `taskrt` verbs: a table of options, from
 * which parsing, --help and the error messages come.
 *
 * Forms: --name VALUE, --name=VALUE, -n VALUE, -nVALUE; "--" ends the options, and
 * so does the first word that is none. An option given twice: the last one counts.
 */
#ifndef COORDINATOR_OPTIONS_H
#define COORDINATOR_OPTIONS_H

#include <stdint.h>

enum opt_kind {
	OPT_FLAG,    /* int *: 1 when given */
	OPT_TEXT,    /* const char **: not empty; points into argv */
	OPT_NUMBER,  /* uint64_t *: within [min, max] */
	OPT_SIZE,    /* uint64_t *: bytes, at least min; "512M", "8G" */
	OPT_SECONDS, /* uint64_t *: milliseconds; "2.5" is 2500, up to 10^6 s */
	OPT_HELP,    /* prints help; value unused */
	OPT_VERSION, /* prints the version; value unused */
};

struct opt {
	const char *name;  /* "--listen" */
	const char *alias; /* "-l" or NULL */
	const char *arg;   /* "ADDR:PORT" as shown in the help; NULL: none */
	const char *help;  /* a line */
	enum opt_kind kind;
	void *value;       /* written only when the option is given */
	uint64_t min, max; /* OPT_NUMBER; OPT_SIZE: min */
};

struct opt_command {
	const char *name;       /* "taskrt-worker", "taskrt stat" */
	const char *usage;      /* what follows the name in the usage line */
	const char *about;      /* what it does; a sentence or a few lines */
	const struct opt *opts; /* ends with name NULL */
	int takes_words;        /* words after the options are allowed */
};

/*
 * Returns the index of the first word after the options, or -1: the program ends
 * now with *status_p (0: help or version was printed on stdout; 2: bad option, one
 * line on stderr).
 */
int opt_parse(const struct opt_command *c, int argc, char **argv,
              int *status_p);
/* Says "NAME: text; see --help" on stderr. Returns 2, the exit status for it. */
int opt_wrong(const struct opt_command *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
