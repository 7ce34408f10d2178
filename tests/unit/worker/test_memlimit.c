/* What a worker's memory is by default (coordinator/worker/memlimit.c). */
#include "../../../coordinator/worker/memlimit.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../test.h"

static char root[] = "/tmp/memlimit-XXXXXX";
static const char *slurm_node, *slurm_cpu, *slurm_cpus;

static char *
env(const char *name)
{
	const char *v = strcmp(name, "SLURM_MEM_PER_NODE") == 0   ? slurm_node
	                : strcmp(name, "SLURM_MEM_PER_CPU") == 0  ? slurm_cpu
	                : strcmp(name, "SLURM_CPUS_ON_NODE") == 0 ? slurm_cpus
	                                                          : NULL;

	return (char *)(uintptr_t)v;
}

/* A file below root, its folders made. */
static void
put(const char *path, const char *text)
{
	char at[300];
	FILE *f;

	snprintf(at, sizeof(at), "%s%s", root, path);
	for (char *p = at + strlen(root) + 1; *p != '\0'; p++)
		if (*p == '/') {
			*p = '\0';
			mkdir(at, 0700);
			*p = '/';
		}
	f = fopen(at, "we");
	MUST(f != NULL);
	fputs(text, f);
	fclose(f);
}

static void
clean(void)
{
	char command[64];

	snprintf(command, sizeof(command), "rm -rf %s", root);
	MUST(system(command) == 0); /* NOLINT(cert-env33-c): our own folder */
	strcpy(root, "/tmp/memlimit-XXXXXX");
	slurm_node = slurm_cpu = slurm_cpus = NULL;
}

static uint64_t
mib(char *text, size_t size)
{
	const struct memlimit_source src = {root, env};

	return memlimit_default(&src, text, size) >> 20;
}

static void
test_the_least_of_machine_cgroup_and_job_counts(void)
{
	char text[200];

	MUST(mkdtemp(root) != NULL);
	MUST_BE(mib(text, sizeof(text)), 0);
	put("/proc/meminfo", "MemTotal:       1024000 kB\nMemFree: 1 kB\n");
	MUST_BE(mib(text, sizeof(text)), 900);
	MUST(strstr(text, "1000 MiB, the machine's memory") != NULL);
	put("/proc/self/cgroup", "0::/a/b\n");
	put("/sys/fs/cgroup/a/b/memory.max", "max\n");
	MUST_BE(mib(text, sizeof(text)), 900);
	put("/sys/fs/cgroup/a/memory.max", "524288000\n");
	MUST_BE(mib(text, sizeof(text)), 450);
	MUST(strstr(text, "its cgroup") != NULL);
	slurm_node = "200";
	MUST_BE(mib(text, sizeof(text)), 180);
	slurm_cpu = "50";
	slurm_cpus = "2";
	MUST_BE(mib(text, sizeof(text)), 90);
	MUST(strstr(text, "Slurm") != NULL);
	clean();
}

static void
test_a_cgroup_of_version_1_counts_and_its_no_limit_does_not(void)
{
	char text[200];

	MUST(mkdtemp(root) != NULL);
	put("/proc/meminfo", "MemTotal:       1024000 kB\n");
	put("/proc/self/cgroup", "7:cpu:/x\n5:memory:/job\n0::/\n");
	put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes",
	    "9223372036854771712\n");
	MUST_BE(mib(text, sizeof(text)), 900);
	put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "104857600\n");
	MUST_BE(mib(text, sizeof(text)), 90);
	clean();
}

/* The path is the host's, what is mounted is the container's own. */
static void
test_in_a_container_the_root_of_the_mount_is_ours(void)
{
	char text[200];

	MUST(mkdtemp(root) != NULL);
	put("/proc/meminfo", "MemTotal:       1024000 kB\n");
	put("/proc/self/cgroup", "0::/docker/0123456789\n");
	put("/sys/fs/cgroup/memory.max", "104857600\n");
	MUST_BE(mib(text, sizeof(text)), 90);
	clean();
}

SUITE(coordinator_worker_memlimit, "coordinator.worker.memlimit",
      T(test_the_least_of_machine_cgroup_and_job_counts),
      T(test_a_cgroup_of_version_1_counts_and_its_no_limit_does_not),
      T(test_in_a_container_the_root_of_the_mount_is_ours));
