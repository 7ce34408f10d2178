#include "options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#define MAX_SECONDS 1e6

int
opt_wrong(const struct opt_command *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "%s: %s; see --help\n", c->name, text);
	return 2;
}

static void
print_help(const struct opt_command *c)
{
	char left[64];

	printf("usage: %s%s%s\n%s\n\n", c->name, c->usage[0] != '\0' ? " " : "",
	       c->usage, c->about);
	for (const struct opt *o = c->opts; o->name != NULL; o++) {
		snprintf(left, sizeof(left), "%s%s%s%s%s",
		         o->alias != NULL ? o->alias : "",
		         o->alias != NULL ? ", " : "", o->name,
		         o->arg != NULL ? " " : "",
		         o->arg != NULL ? o->arg : "");
		printf("  %-27s %s\n", left, o->help);
	}
}

/*
 * The value that is part of the word itself ("--name=V", "-nV"), "" for none, or
 * NULL when the word is not this option.
 */
static const char *
match(const struct opt *o, const char *word)
{
	size_t len = strlen(o->name);

	if (strncmp(word, o->name, len) == 0) {
		if (word[len] == '\0')
			return "";
		if (word[len] == '=' && o->arg != NULL)
			return word + len;
	}
	if (o->alias == NULL)
		return NULL;
	len = strlen(o->alias);
	if (strncmp(word, o->alias, len) != 0)
		return NULL;
	return word[len] == '\0' || o->arg != NULL ? word + len : NULL;
}

static int
set_number(const struct opt_command *c, const struct opt *o, const char *text)
{
	unsigned long long n;
	char *end;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 ||
	    n < o->min || n > o->max)
		return opt_wrong(c,
		                 "%s: \"%.100s\" is not a number from %llu "
		                 "to %llu",
		                 o->name, text, (unsigned long long)o->min,
		                 (unsigned long long)o->max);
	*(uint64_t *)o->value = n;
	return 0;
}

static int
set_size(const struct opt_command *c, const struct opt *o, const char *text)
{
	static const char units[] = "KMGT";
	unsigned long long n;
	const char *unit;
	unsigned shift = 0;
	char *end;

	errno = 0;
	n = strtoull(text, &end, 10);
	unit = *end != '\0' ? strchr(units, *end) : NULL;
	if (unit != NULL) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
	}
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 ||
	    n > UINT64_MAX >> shift || n << shift < o->min)
		return opt_wrong(
		    c,
		    "%s: \"%.100s\" is not a size of at least %llu "
		    "MiB, such as 512M or 8G",
		    o->name, text, (unsigned long long)o->min >> 20);
	*(uint64_t *)o->value = n << shift;
	return 0;
}

static int
set_seconds(const struct opt_command *c, const struct opt *o, const char *text)
{
	double s;
	char *end;

	s = strtod(text, &end);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' ||
	    !(s >= 0 && s <= MAX_SECONDS))
		return opt_wrong(c, "%s: \"%.100s\" is not a number of seconds",
		                 o->name, text);
	*(uint64_t *)o->value = (uint64_t)(s * 1000 + 0.5);
	return 0;
}

/* 0, or the exit status. */
static int
set(const struct opt_command *c, const struct opt *o, const char *text)
{
	switch (o->kind) {
	case OPT_FLAG:
		*(int *)o->value = 1;
		return 0;
	case OPT_TEXT:
		if (*text == '\0')
			return opt_wrong(c, "%s: an empty value", o->name);
		*(const char **)o->value = text;
		return 0;
	case OPT_NUMBER:
		return set_number(c, o, text);
	case OPT_SIZE:
		return set_size(c, o, text);
	case OPT_SECONDS:
		return set_seconds(c, o, text);
	case OPT_HELP:
	case OPT_VERSION:
		break;
	}
	return 0;
}

static const struct opt *
find(const struct opt_command *c, const char *word, const char **own_p)
{
	for (const struct opt *o = c->opts; o->name != NULL; o++) {
		*own_p = match(o, word);
		if (*own_p != NULL)
			return o;
	}
	return NULL;
}

int
opt_parse(const struct opt_command *c, int argc, char **argv, int *status_p)
{
	int i;

	for (i = 1; i < argc && argv[i][0] == '-' && argv[i][1] != '\0'; i++) {
		const struct opt *o;
		const char *value;

		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		o = find(c, argv[i], &value);
		if (o == NULL) {
			*status_p =
			    opt_wrong(c, "unknown option %.100s", argv[i]);
			return -1;
		}
		if (o->kind == OPT_HELP || o->kind == OPT_VERSION) {
			if (o->kind == OPT_HELP)
				print_help(c);
			else
				printf("%s %s\n", c->name, TASKRT_VERSION);
			*status_p = 0;
			return -1;
		}
		if (o->arg != NULL && *value == '=') {
			value++;
		} else if (o->arg != NULL && *value == '\0') {
			if (++i == argc) {
				*status_p = opt_wrong(c, "%s needs a value: %s",
				                      o->name, o->arg);
				return -1;
			}
			value = argv[i];
		}
		*status_p = set(c, o, value);
		if (*status_p != 0)
			return -1;
	}
	if (i < argc && !c->takes_words) {
		*status_p = opt_wrong(c, "\"%.100s\" is too much", argv[i]);
		return -1;
	}
	return i;
}
