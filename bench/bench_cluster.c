/* Sessions: a coordinator and a worker of our own over TCP, or embedded. */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include "../dsm/transport/conn.h"
#include <taskrt/taskrt.h>

static struct {
	pid_t owner; /* process that started them */
	pid_t coordinator, worker;
	char addr[DSM_ADDR_MAX];
	char token_file[64]; /* "": none */
} cluster;

/* BUILD/bin/name; without BUILD this program is BUILD/bench/bench. */
static void
program_path(const char *name, char *path, size_t cap)
{
	const char *build = getenv("BUILD");
	char exe[1024];

	if (build == NULL) {
		ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

		exe[n > 0 ? n : 0] = '\0';
		for (int i = 0; i < 2; i++) {
			char *slash = strrchr(exe, '/');

			if (slash != NULL)
				*slash = '\0';
		}
		build = exe;
	}
	snprintf(path, cap, "%s/bin/%s", build, name);
}

/* device: of its own for RDMA, or NULL. */
static pid_t
start_program(const char *name, const char *const *args, const char *device)
{
	const char *argv[8] = {name};
	char path[1200];
	pid_t parent = getpid();

	for (int i = 0; i < 6 && args[i] != NULL; i++)
		argv[i + 1] = args[i];
	program_path(name, path, sizeof(path));
	if (access(path, X_OK) != 0)
		bench_die("%s: %s", path, strerror(errno));
	pid_t pid = fork();
	if (pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		/* stdout is for results, and they only say hello. */
		if (freopen("/dev/null", "w", stdout) == NULL)
			_exit(127);
		if (device != NULL)
			setenv("TASKRT_VERBS_DEVICE", device, 1);
		if (getppid() == parent)
			execv(path, (char *const *)argv);
		_exit(127);
	}
	return pid;
}

static void
stop_program(pid_t pid)
{
	uint64_t deadline = dsm__deadline_ms(3000);

	if (pid <= 0)
		return;
	kill(pid, SIGTERM);
	while (waitpid(pid, NULL, WNOHANG) == 0) {
		if (dsm__now() > deadline)
			kill(pid, SIGKILL);
		bench_pause_ms(5);
	}
}

static void
find_free_port(void)
{
	struct dsm_error e = {0};
	int fd;

	if (dsm__tcp_listen("127.0.0.1:0", cluster.addr, &fd, &e) != DSM_OK)
		bench_die("%s", e.text);
	close(fd);
}

static void
wait_for_coordinator(void)
{
	uint64_t deadline = dsm__deadline_ms(10000);
	struct dsm_error e = {0};
	int fd, status;

	while (dsm__tcp_connect(cluster.addr, deadline, &fd, &e) != DSM_OK) {
		if (waitpid(cluster.coordinator, &status, WNOHANG) != 0) {
			cluster.coordinator = 0;
			bench_die("taskrt-coordinator ended at once");
		}
		if (dsm__now() > deadline)
			bench_die("no coordinator: %s", e.text);
		bench_pause_ms(5);
	}
	close(fd);
}

void
bench_cluster_tokens(void)
{
	char *path = cluster.token_file;
	char line[100] = "bench:";
	size_t n = strlen(line);
	int fd;

	for (int i = 0; i < 4; i++)
		n += (size_t)snprintf(
		    line + n, sizeof(line) - n, "%016llx",
		    (unsigned long long)bench_mix(dsm__now() + (uint64_t)i));
	n += (size_t)snprintf(line + n, sizeof(line) - n, " client worker\n");
	snprintf(path, sizeof(cluster.token_file), "/tmp/taskrt-bench-XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0 || write(fd, line, n) != (ssize_t)n)
		bench_die("%s: %s", path, strerror(errno));
	close(fd);
	setenv("TASKRT_TOKEN_FILE", path, 1);
}

void
bench_cluster_start(unsigned n_slots)
{
	char slots[16];
	const char *coordinator_args[] = {"--listen", cluster.addr, NULL};
	const char *worker_args[] = {"--coordinator", cluster.addr, "--slots",
	                             slots, NULL};

	find_free_port();
	snprintf(slots, sizeof(slots), "%u", n_slots);
	cluster.owner = getpid();
	cluster.coordinator =
	    start_program("taskrt-coordinator", coordinator_args, NULL);
	wait_for_coordinator();
	cluster.worker = start_program("taskrt-worker", worker_args,
	                               getenv("BENCH_WORKER_DEVICE"));
}

void
bench_cluster_stop(void)
{
	if (cluster.owner != getpid())
		return;
	stop_program(cluster.worker);
	stop_program(cluster.coordinator);
	cluster.worker = cluster.coordinator = 0;
	if (cluster.token_file[0] != '\0')
		unlink(cluster.token_file);
}

void
bench_session_tcp(void)
{
	const struct taskrt_config config = {.coordinator = cluster.addr,
	                                     .transport = "tcp"};

	bench_ok(taskrt_init(&config), "taskrt_init");
}

void
bench_session_verbs(void)
{
	const struct taskrt_config config = {.coordinator = cluster.addr,
	                                     .transport = "verbs"};

	bench_ok(taskrt_init(&config), "taskrt_init");
}

void
bench_session_embedded(void)
{
	const struct taskrt_config config = {.coordinator = "",
	                                     .slots = bench_cores()};

	bench_ok(taskrt_init(&config), "taskrt_init");
}
