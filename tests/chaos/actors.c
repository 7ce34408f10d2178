#include "actors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"

void
actor_init(struct actor *a, const char *dir, const char *fmt, ...)
{
	va_list ap;

	*a = (struct actor){.dir = dir, .in_fd = -1, .out_fd = -1};
	va_start(ap, fmt);
	vsnprintf(a->name, sizeof(a->name), fmt, ap);
	va_end(ap);
}

static void
add(struct actor *a, char **list, unsigned *n, const char *fmt, va_list ap)
{
	size_t room = sizeof(a->text) - a->text_len;
	int len = vsnprintf(a->text + a->text_len, room, fmt, ap);

	if (len < 0 || (size_t)len >= room || *n + 1 >= ACTOR_WORDS)
		abort();
	list[(*n)++] = a->text + a->text_len;
	a->text_len += (size_t)len + 1;
}

void
actor_word(struct actor *a, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(a, a->argv, &a->n_argv, fmt, ap);
	va_end(ap);
}

void
actor_env(struct actor *a, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	add(a, a->envp, &a->n_envp, fmt, ap);
	va_end(ap);
}

/* --- life --- */

static __attribute__((noreturn)) void
become(struct actor *a, int in, int out)
{
	char path[512];
	sigset_t none;
	int log;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(path, sizeof(path), "%s/%s.log", a->dir, a->name);
	log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
	dup2(in, 0);
	dup2(out >= 0 ? out : log, 1);
	dup2(log, 2);
	close_range(3, ~0u, 0);
	execve(a->argv[0], a->argv, a->envp);
	fprintf(stderr, "%s: %s\n", a->argv[0], strerror(errno));
	_exit(127);
}

int
actor_start(struct actor *a)
{
	int in[2] = {-1, -1}, out[2] = {-1, -1};

	actor_close(a);
	if (pipe2(in, O_CLOEXEC) != 0 ||
	    (a->talks && pipe2(out, O_CLOEXEC) != 0)) {
		fprintf(stderr, "pipe: %s\n", strerror(errno));
		return -1;
	}
	a->pid = fork();
	if (a->pid == 0)
		become(a, in[0], out[1]);
	close(in[0]);
	if (out[1] >= 0)
		close(out[1]);
	a->in_fd = in[1];
	a->out_fd = out[0];
	a->line_len = 0;
	if (a->out_fd >= 0)
		fcntl(a->out_fd, F_SETFL, O_NONBLOCK);
	if (a->pid < 0) {
		fprintf(stderr, "fork: %s\n", strerror(errno));
		return -1;
	}
	a->n_starts++;
	a->state = ACTOR_RUNNING;
	return 0;
}

void
actor_bring_back(struct actor *a)
{
	if (a->state == ACTOR_STOPPED) {
		kill(a->pid, SIGCONT);
		a->state = ACTOR_RUNNING;
	} else if (a->state == ACTOR_KILLED) {
		actor_start(a);
	}
}

void
actor_tick(struct actor *a, uint64_t now)
{
	if ((a->state == ACTOR_STOPPED || a->state == ACTOR_KILLED) &&
	    a->due != 0 && now >= a->due)
		actor_bring_back(a);
}

int
actor_stop(struct actor *a, unsigned ms)
{
	if (a->state != ACTOR_RUNNING)
		return 0;
	kill(a->pid, SIGSTOP);
	a->state = ACTOR_STOPPED;
	a->due = ms != 0 ? dsm__deadline_ms(ms) : 0;
	return 1;
}

int
actor_kill(struct actor *a, unsigned ms)
{
	if (a->state != ACTOR_RUNNING && a->state != ACTOR_STOPPED)
		return 0;
	kill(a->pid, SIGKILL);
	waitpid(a->pid, NULL, 0);
	actor_close(a);
	a->state = ACTOR_KILLED;
	a->due = ms != 0 ? dsm__deadline_ms(ms) : 0;
	return 1;
}

int
actor_reaped(struct actor *a, pid_t pid, int status)
{
	if (a->pid != pid ||
	    (a->state != ACTOR_RUNNING && a->state != ACTOR_STOPPED))
		return 0;
	a->state = ACTOR_ENDED;
	a->status = status;
	return 1;
}

void
actor_close(struct actor *a)
{
	if (a->in_fd >= 0)
		close(a->in_fd);
	if (a->out_fd >= 0)
		close(a->out_fd);
	a->in_fd = a->out_fd = -1;
}

/* --- words --- */

const char *
actor_line(struct actor *a)
{
	char *end = memchr(a->line, '\n', a->line_len);
	static char line[ACTOR_LINE];
	size_t len;
	ssize_t n;

	if (end == NULL && a->out_fd >= 0) {
		/* A longer line is cut. */
		if (a->line_len == sizeof(a->line))
			a->line_len = 0;
		n = read(a->out_fd, a->line + a->line_len,
		         sizeof(a->line) - a->line_len);
		if (n > 0)
			a->line_len += (size_t)n;
		end = memchr(a->line, '\n', a->line_len);
	}
	if (end == NULL)
		return NULL;
	len = (size_t)(end - a->line);
	memcpy(line, a->line, len);
	line[len] = '\0';
	a->line_len -= len + 1;
	memmove(a->line, end + 1, a->line_len);
	return line;
}

void
actor_say(struct actor *a, const char *text)
{
	if (a->in_fd >= 0 &&
	    write(a->in_fd, text, strlen(text)) != (ssize_t)strlen(text))
		fprintf(stderr, "%s: does not listen\n", a->name);
}

/* --- /proc --- */

size_t
children_of(pid_t pid, pid_t *pids, size_t cap)
{
	char path[64];
	size_t n = 0;
	FILE *f;
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid,
	         (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return 0;
	for (; fscanf(f, "%d", &child) == 1; n++)
		if (n < cap)
			pids[n] = child;
	fclose(f);
	return n < cap ? n : cap;
}

size_t
slots_of(pid_t pid, pid_t *pids, size_t cap)
{
	pid_t keepers[8];
	size_t n = children_of(pid, keepers, 8), n_slots = 0;

	for (size_t i = 0; i < n; i++)
		n_slots +=
		    children_of(keepers[i], pids + n_slots, cap - n_slots);
	return n_slots;
}

int
count_files(pid_t pid)
{
	char path[64];
	DIR *dir;
	int n = -2; /* ".", ".." */

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	if (dir == NULL)
		return -1;
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

uint64_t
resident_kib(pid_t pid)
{
	unsigned long long kib = 0;
	char path[64], line[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return 0;
	while (fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "VmRSS: %llu", &kib) == 1)
			break;
	fclose(f);
	return kib;
}
