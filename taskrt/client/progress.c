/*
 * The progress bar. One line, drawn over with a carriage return and rubbed out at
 * the end, so that it needs no terminal codes; with colour where that is wanted
 * (NO_COLOR, TERM=dumb say no).
 */
#include "progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"

#define DELAY_NS DSM_SEC
#define REDRAW_NS (200 * DSM_MS)
#define BAR_WIDTH 30
#define LINE_WIDTH 79

static int
is_wanted(void)
{
	const char *term = getenv("TERM");

	return isatty(STDERR_FILENO) &&
	       (term == NULL || strcmp(term, "dumb") != 0);
}

static int
has_colour(void)
{
	const char *no = getenv("NO_COLOR");

	return no == NULL || no[0] == '\0';
}

/* Unbuffered and in one piece: the program's own stderr is left alone. */
static void
put_line(const char *text)
{
	size_t len = strlen(text);

	while (len > 0) {
		ssize_t n = write(STDERR_FILENO, text, len);

		if (n <= 0)
			return;
		text += n;
		len -= (size_t)n;
	}
}

void
taskrt__progress_start(struct taskrt__progress *p, uint64_t now)
{
	*p = (struct taskrt__progress){.started = now};
}

void
taskrt__progress_format(char *buf, size_t size, const char *name, uint64_t done,
                        uint64_t total, uint32_t slots, double seconds)
{
	double part = total > 0 ? (double)done / (double)total : 0;
	int filled = (int)(part * BAR_WIDTH);
	char bar[BAR_WIDTH + 1];

	memset(bar, '.', BAR_WIDTH);
	memset(bar, '#', (size_t)filled);
	bar[BAR_WIDTH] = '\0';
	snprintf(buf, size,
	         "%.20s [%s] %3d%% %" PRIu64 "/%" PRIu64 ", %u slot%s, %.0f s",
	         name[0] != '\0' ? name : "taskrt", bar, (int)(part * 100),
	         done, total, slots, slots == 1 ? "" : "s", seconds);
}

void
taskrt__progress_show(struct taskrt__progress *p, const char *name,
                      uint64_t done, uint64_t total, uint32_t slots)
{
	uint64_t now = dsm__now();
	char text[LINE_WIDTH + 1], line[LINE_WIDTH + 32];

	if (now - p->started < DELAY_NS || now - p->shown < REDRAW_NS ||
	    !is_wanted())
		return;
	p->shown = now;
	if (done > total)
		done = total;
	taskrt__progress_format(text, sizeof(text), name, done, total, slots,
	                        (double)(now - p->started) / 1e9);
	if (has_colour())
		snprintf(line, sizeof(line), "\r\033[36m%-*s\033[0m",
		         LINE_WIDTH, text);
	else
		snprintf(line, sizeof(line), "\r%-*s", LINE_WIDTH, text);
	put_line(line);
}

void
taskrt__progress_end(struct taskrt__progress *p)
{
	char line[LINE_WIDTH + 8];

	if (p->shown == 0)
		return;
	snprintf(line, sizeof(line), "\r%*s\r", LINE_WIDTH, "");
	put_line(line);
	p->shown = 0;
}
