/* taskrt token: make tokens, and look at a file of them. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../dsm/base/secret.h"
#include "../dsm/transport/token.h"
#include "tool.h"
#include "toolopt.h"

#define SECRET_LEN 32 /* bytes: 256 bits */

static const char *file, *words;

static const struct opt opts[] = {
    {"--file", "-f", "FILE",
     "the file to add it to (default: NAME.token); made with mode 0600",
     OPT_TEXT, &file, 0, 0},
    {"--words", "-w", "WORDS",
     "what it may do, for the coordinator's file: client, worker, admin, "
     "slots=N, memory=SIZE, runs=N (default: client)",
     OPT_TEXT, &words, 0, 0},
    OPT_HELP_ROW,
    OPT_LAST_ROW,
};

static const struct opt_command command = {
    .name = "taskrt token",
    .usage = "[OPTIONS] new [NAME] | list",
    .about = "new makes a token of 256 random bits (NAME: default the user's) "
             "and adds\nits line to a file. list shows the names and words of "
             "a file, not the secrets.",
    .opts = opts,
    .takes_words = 1,
};

__attribute__((format(printf, 1, 2))) static int
complain(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", command.name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return 1;
}

/* The line, in memory for secrets; NULL: no randomness, no memory. */
static char *
make_line(const char *name)
{
	size_t room = strlen(name) + 2 * SECRET_LEN + 300;
	char *line = dsm__secret_alloc(room);
	uint8_t secret[SECRET_LEN];
	size_t n;

	if (line == NULL ||
	    getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret)) {
		dsm__secret_free(line);
		return NULL;
	}
	n = (size_t)snprintf(line, room, "%s:", name);
	for (size_t i = 0; i < sizeof(secret); i++)
		n += (size_t)snprintf(line + n, room - n, "%02x", secret[i]);
	dsm__wipe(secret, sizeof(secret));
	snprintf(line + n, room - n, "%s%.250s\n", words != NULL ? " " : "",
	         words != NULL ? words : "");
	return line;
}

/* What the file would be with the line must be one that can be read. */
static int
check_line(const char *name, const char *line)
{
	struct dsm_tokens *t;
	struct dsm_error e = {0};

	if (dsm__tokens_parse("the new one", line, strlen(line), &t, &e) !=
	    DSM_OK)
		return complain("--words: %s", e.text);
	dsm__tokens_free(t);
	if (access(file, F_OK) != 0)
		return 0;
	if (dsm__tokens_read(file, &t, &e) != DSM_OK)
		return complain("%s", e.text);
	int there = dsm__tokens_find(t, name) != NULL;
	dsm__tokens_free(t);
	return there ? complain("%s has a token %s already: take its line out "
	                        "first",
	                        file, name)
	             : 0;
}

static int
append(const char *line)
{
	int fd = open(
	    file, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat st;
	size_t done = 0, len = strlen(line);
	char last = '\n';

	if (fd < 0 || fstat(fd, &st) != 0)
		goto fail;
	/* One that an editor has left without its last newline. */
	if (st.st_size > 0 && pread(fd, &last, 1, st.st_size - 1) != 1)
		goto fail;
	if (last != '\n' && write(fd, "\n", 1) != 1)
		goto fail;
	while (done < len) {
		ssize_t n = write(fd, line + done, len - done);

		if (n < 0)
			goto fail;
		done += (size_t)n;
	}
	if (fsync(fd) == 0 && close(fd) == 0)
		return 0;
	return complain("%s: %s", file, strerror(errno));
fail:
	complain("%s: %s", file, strerror(errno));
	if (fd >= 0)
		close(fd);
	return 1;
}

static int
token_new(const char *name)
{
	char path[DSM_TOKEN_NAME_MAX + 8];
	char *line;
	int status;

	if (name == NULL)
		name = getenv("USER");
	if (name == NULL)
		return opt_wrong(&command, "for whom? new NAME");
	if (!dsm__token_name_ok(name))
		return opt_wrong(&command,
		                 "\"%.80s\": a name is made of up to %d "
		                 "letters, digits and ._-@",
		                 name, DSM_TOKEN_NAME_MAX - 1);
	if (file == NULL) {
		snprintf(path, sizeof(path), "%s.token", name);
		file = path;
	}
	line = make_line(name);
	if (line == NULL)
		return complain("no random bytes: %s", strerror(errno));
	status = check_line(name, line);
	if (status == 0)
		status = append(line);
	dsm__secret_free(line);
	if (status == 0)
		printf("%s\n", file);
	return status;
}

static void
print_token(const struct dsm_identity *who)
{
	const struct {
		const char *name;
		uint64_t value;
	} quotas[] = {{"slots", who->slots},
	              {"memory", who->memory},
	              {"runs", who->runs}};

	printf("%-24s%s%s", who->name,
	       (who->roles & DSM_TOKEN_ADMIN) != 0    ? " admin"
	       : (who->roles & DSM_TOKEN_CLIENT) != 0 ? " client"
	                                              : "",
	       (who->roles & DSM_TOKEN_WORKER) != 0 ? " worker" : "");
	for (unsigned i = 0; i < sizeof(quotas) / sizeof(*quotas); i++)
		if (quotas[i].value != 0)
			printf(" %s=%llu", quotas[i].name,
			       (unsigned long long)quotas[i].value);
	printf("\n");
}

static int
token_list(void)
{
	struct dsm_tokens *t;
	struct dsm_error e = {0};

	if (file == NULL)
		file = getenv("TASKRT_TOKEN_FILE");
	if (file == NULL || *file == '\0')
		return opt_wrong(&command, "which file? --file FILE");
	if (dsm__tokens_read(file, &t, &e) != DSM_OK)
		return complain("%s", e.text);
	for (size_t i = 0; i < t->n; i++)
		print_token(&t->v[i].who);
	dsm__tokens_free(t);
	return 0;
}

int
tool_token(int argc, char **argv)
{
	int status, i = opt_parse(&command, argc, argv, &status);
	const char *verb;

	if (i < 0)
		return status;
	verb = i < argc ? argv[i++] : "";
	if (strcmp(verb, "new") == 0) {
		const char *name = i < argc ? argv[i++] : NULL;

		if (i < argc)
			return opt_wrong(&command, "\"%.100s\" is too much",
			                 argv[i]);
		return token_new(name);
	}
	if (strcmp(verb, "list") == 0 && i == argc)
		return token_list();
	return opt_wrong(&command, "new or list?");
}
