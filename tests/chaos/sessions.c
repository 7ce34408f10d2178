/*
 * sessions - a small program's whole life with a cluster, many times over.
 *
 *   sessions N
 *
 * N times: join, run four tasks, end the session. Each result must be right, and after
 * the first tenth nothing may grow any more: descriptors, blocks, memory by more than
 * MOST_KIB. Prints "right: N sessions, …" or what grew.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#define N_TASKS 4
#define MOST_KIB 1024

struct use {
	long files, kib;
	uint64_t blocks;
};

static uint64_t results[N_TASKS];

static void
work(size_t i, void *ctx)
{
	results[i] += *(uint64_t *)ctx + i;
}

static struct use
look(void)
{
	DIR *dir = opendir("/proc/self/fd");
	FILE *f = fopen("/proc/self/status", "re");
	struct use u = {0, 0, 0};
	struct dsm_stats stats;
	char line[128];

	while (dir != NULL && readdir(dir) != NULL)
		u.files++;
	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "VmRSS: %ld", &u.kib) == 1)
			break;
	if (dir != NULL)
		closedir(dir);
	if (f != NULL)
		fclose(f);
	dsm_stats(&stats);
	u.blocks = stats.blocks;
	return u;
}

int
main(int argc, char **argv)
{
	unsigned long n = argc > 1 ? strtoul(argv[1], NULL, 10) : 100;
	uint64_t *add = dsm_malloc(sizeof(*add));
	uint64_t sum = 0;
	struct use before = {0, 0, 0}, after;

	if (add == NULL)
		return 2;
	for (unsigned long s = 0; s < n; s++) {
		if (s == n / 10)
			before = look();
		*add = s;
		sum += s;
		if (taskrt_for(0, N_TASKS, work, add, NULL) != TASKRT_OK) {
			printf("session %lu: %s\n", s,
			       taskrt_report()->message);
			return 1;
		}
		for (size_t i = 0; i < N_TASKS; i++)
			if (results[i] != sum + (s + 1) * i) {
				printf("session %lu: a wrong result\n", s);
				return 1;
			}
		taskrt_fini();
	}
	after = look();
	if (after.files != before.files || after.blocks != before.blocks ||
	    after.kib > before.kib + MOST_KIB) {
		printf("grown: %ld descriptors, %llu blocks, %ld KiB; were "
		       "%ld, %llu, %ld\n",
		       after.files, (unsigned long long)after.blocks, after.kib,
		       before.files, (unsigned long long)before.blocks,
		       before.kib);
		return 1;
	}
	printf("right: %lu sessions, %ld KiB more\n", n,
	       after.kib - before.kib);
	return 0;
}
