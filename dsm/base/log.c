#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

#define SAY_AGAIN_NS (10 * DSM_SEC)

static const char *const names[] = {"error", "warn", "info", "debug", "trace"};
/* -1: not read from the environment yet. */
static _Atomic int current = -1;
static const char *program_name = "taskrt";

int
dsm__log_level_parse(const char *text, enum dsm_log_level *level_p)
{
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(text, names[i]) == 0) {
			*level_p = (enum dsm_log_level)i;
			return 0;
		}
	}
	return -1;
}

void
dsm__log_level(enum dsm_log_level level)
{
	atomic_store(&current, (int)level);
}

static int
level_now(void)
{
	int level = atomic_load_explicit(&current, memory_order_relaxed);
	enum dsm_log_level parsed = DSM_LOG_WARN;
	const char *text;

	if (level >= 0)
		return level;
	text = getenv("TASKRT_LOG");
	if (text != NULL && dsm__log_level_parse(text, &parsed) != 0)
		fprintf(stderr,
		        "%s: warn: TASKRT_LOG=%s is no level: use error, warn, "
		        "info, debug or trace\n",
		        program_name, text);
	dsm__log_level(parsed);
	return (int)parsed;
}

void
dsm__log_init(const char *program)
{
	program_name = program;
	level_now();
}

int
dsm__log_enabled(enum dsm_log_level level)
{
	return (int)level <= level_now();
}

void
dsm__log(enum dsm_log_level level, const char *fmt, ...)
{
	char line[1024];
	int saved = errno;
	int n, m;
	va_list ap;

	if (!dsm__log_enabled(level))
		return;
	n = snprintf(line, sizeof(line) - 1, "%s: %s: ", program_name,
	             names[level]);
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - 1 - (size_t)n, fmt, ap);
	va_end(ap);
	if (m > 0)
		n += m;
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	/* One write: lines of several processes do not mix. */
	if (write(STDERR_FILENO, line, (size_t)n) < 0) {
		/* Nowhere left to complain. */
	}
	errno = saved;
}

int
dsm__log_due(uint64_t *last_p)
{
	uint64_t now = dsm__now();

	if (*last_p != 0 && now - *last_p < SAY_AGAIN_NS)
		return 0;
	*last_p = now;
	return 1;
}
