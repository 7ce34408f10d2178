/* See checklog.h. */
#include "checklog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/log.h"
#include "../../dsm/wire/wire.h"

static void
append(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	ssize_t n = fd >= 0 ? write(fd, text, len) : -1;

	if (n != (ssize_t)len)
		log_error("cannot append to %s, which TASKRT_CHECK_LOG names: "
		          "%s",
		          path, n < 0 ? strerror(errno) : "no room");
	if (fd >= 0)
		close(fd);
}

void
taskrt__checklog_session(const char *path)
{
	char line[40];

	if (path[0] == '\0')
		return;
	snprintf(line, sizeof(line), "session %ld\n", (long)getpid());
	append(path, line, strlen(line));
}

void
taskrt__checklog_races(const char *path, const char *name,
                       const struct taskrt_report *r)
{
	size_t listed = r->n_races < DSM_MAX_RACES ? r->n_races : DSM_MAX_RACES;
	char *text = NULL;
	size_t len = 0;

	if (path[0] == '\0' || r->n_races == 0)
		return;
	FILE *f = open_memstream(&text, &len);
	if (f == NULL) {
		log_error("no memory for the races of TASKRT_CHECK_LOG");
		return;
	}
	fprintf(f, "races %zu %s\n", r->n_races, name);
	for (size_t i = 0; i < listed && r->races != NULL; i++)
		fprintf(f, "  %s\n", r->races[i].message);
	if (fclose(f) == 0)
		append(path, text, len);
	free(text);
}
