#include "memlimit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
/* cgroup v1 says "no limit" with a number near 2^63. */
#define NONE (UINT64_C(1) << 60)

struct least {
	uint64_t bytes; /* 0: none yet */
	const char *of;
};

static void
take(struct least *l, uint64_t bytes, const char *of)
{
	if (bytes == 0 || bytes >= NONE)
		return;
	if (l->bytes == 0 || bytes < l->bytes)
		*l = (struct least){bytes, of};
}

/* The number that the file begins with; 0: no file, "max", or no number. */
static uint64_t
number_in(const char *root, const char *folder, const char *name)
{
	char path[1200];
	unsigned long long n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s%s%s", root, folder, name);
	f = fopen(path, "re");
	if (f == NULL)
		return 0;
	if (fscanf(f, "%llu", &n) != 1)
		n = 0;
	fclose(f);
	return n;
}

/* A cgroup and those above it: each may have a limit. In a container the path that
 * /proc says may not be there, but the root is ours. */
static void
take_cgroups(struct least *l, const char *root, const char *mount, char *path,
             const char *name)
{
	char folder[1100];

	for (;;) {
		char *slash;

		snprintf(folder, sizeof(folder), "%s%s", mount,
		         strcmp(path, "/") == 0 ? "" : path);
		take(l, number_in(root, folder, name),
		     "the limit of its cgroup");
		slash = strrchr(path, '/');
		if (slash == NULL || path[1] == '\0')
			return;
		slash[slash == path] = '\0';
	}
}

static void
look_at_cgroups(struct least *l, const char *root)
{
	char file[300], line[1024];
	FILE *f;

	snprintf(file, sizeof(file), "%s/proc/self/cgroup", root);
	f = fopen(file, "re");
	if (f == NULL)
		return;
	/* "0::/path" or "7:cpu,memory:/path" */
	while (fgets(line, sizeof(line), f) != NULL) {
		char *names = strchr(line, ':');
		char *path = names != NULL ? strchr(names + 1, ':') : NULL;

		if (path == NULL)
			continue;
		*names++ = '\0';
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (path[0] != '/')
			continue;
		if (*names == '\0')
			take_cgroups(l, root, "/sys/fs/cgroup", path,
			             "/memory.max");
		else if (strstr(names, "memory") != NULL)
			take_cgroups(l, root, "/sys/fs/cgroup/memory", path,
			             "/memory.limit_in_bytes");
	}
	fclose(f);
}

static uint64_t
number_of(const struct memlimit_source *src, const char *name)
{
	const char *text = src->env(name);

	return text != NULL ? strtoull(text, NULL, 10) : 0;
}

static void
look_at_machine(struct least *l, const char *root)
{
	char file[300];
	unsigned long long kib = 0;
	FILE *f;

	snprintf(file, sizeof(file), "%s/proc/meminfo", root);
	f = fopen(file, "re");
	if (f == NULL)
		return;
	if (fscanf(f, "MemTotal: %llu", &kib) == 1)
		take(l, kib * 1024, "the machine's memory");
	fclose(f);
}

uint64_t
memlimit_default(const struct memlimit_source *src, char *text, size_t size)
{
	struct least l = {0};

	look_at_cgroups(&l, src->root);
	/* Slurm's are MiB. */
	take(&l, number_of(src, "SLURM_MEM_PER_NODE") * MIB,
	     "the memory of its Slurm job");
	take(&l,
	     number_of(src, "SLURM_MEM_PER_CPU") *
	         number_of(src, "SLURM_CPUS_ON_NODE") * MIB,
	     "the memory of its Slurm job");
	look_at_machine(&l, src->root);
	snprintf(text, size, "nine tenths of %llu MiB, %s",
	         (unsigned long long)(l.bytes / MIB),
	         l.of != NULL ? l.of : "not known");
	return l.bytes / 10 * 9;
}
