#include "oom.h"

#include <stdio.h>
#include <string.h>

/* "oom_kill N" in one of the kernel's files; 0: no file, or none in it. */
static uint64_t
count_in(const char *path)
{
	char word[64];
	unsigned long long n;
	uint64_t found = 0;
	FILE *f = fopen(path, "re");

	if (f == NULL)
		return 0;
	while (fscanf(f, "%63s %llu", word, &n) == 2)
		if (strcmp(word, "oom_kill") == 0)
			found = n;
	fclose(f);
	return found;
}

uint64_t
oom_kills(const char *root)
{
	char file[300], line[1024], path[1400];
	uint64_t sum;
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/vmstat", root);
	sum = count_in(path);
	snprintf(file, sizeof(file), "%s/proc/self/cgroup", root);
	f = fopen(file, "re");
	if (f == NULL)
		return sum;
	/* "0::/path" (v2), "4:memory:/path" (v1) */
	while (fgets(line, sizeof(line), f) != NULL) {
		char *names = strchr(line, ':');
		char *at = names != NULL ? strchr(names + 1, ':') : NULL;

		if (at == NULL)
			continue;
		*at++ = '\0';
		at[strcspn(at, "\n")] = '\0';
		if (names[1] == '\0')
			snprintf(path, sizeof(path),
			         "%s/sys/fs/cgroup%s/memory.events", root, at);
		else if (strstr(names + 1, "memory") != NULL)
			snprintf(path, sizeof(path),
			         "%s/sys/fs/cgroup/memory%s/memory.oom_control",
			         root, at);
		else
			continue;
		sum += count_in(path);
	}
	fclose(f);
	return sum;
}
