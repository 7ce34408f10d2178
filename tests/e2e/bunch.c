/*
 * bunch N [KEEP-PRINTING] - a bunch of N tasks, few of which write something; then its
 * own peak memory: for bunch.sh.
 *
 *   bunch: code 0, 1000000 tasks, 123 chunks, peak 45 MiB
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <taskrt/taskrt.h>

#define EVERY 1000u /* of them writes */

static uint64_t *out;

static void
work(void *arg)
{
	size_t i = (size_t)(uintptr_t)arg;

	if (i % EVERY == 0)
		out[i / EVERY] = i + 1;
}

/* VmHWM, in MiB. */
static long
peak(void)
{
	char line[128];
	long kib = -1;
	FILE *f = fopen("/proc/self/status", "re");

	if (f == NULL)
		return -1;
	while (fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, "VmHWM:", 6) == 0)
			kib = strtol(line + 6, NULL, 10);
	fclose(f);
	return kib / 1024;
}

int
main(int argc, char **argv)
{
	size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
	const struct taskrt_options opt = {
	    .chunk = argc > 2 ? strtoul(argv[2], NULL, 10) : 0};
	struct taskrt_task *t = malloc((n + 1) * sizeof(*t));
	long before;
	int code, wrong = 0;

	out = dsm_calloc(n / EVERY + 1, sizeof(*out));
	if (t == NULL || out == NULL)
		return 2;
	for (size_t i = 0; i < n; i++)
		t[i] = (struct taskrt_task){work, (void *)(uintptr_t)i};
	before = peak();
	code = taskrt_run(t, n, &opt);
	for (size_t i = 0; i < n; i += EVERY)
		wrong |= out[i / EVERY] != i + 1;
	printf("bunch: code %d %s, %llu tasks, %llu chunks, peak %ld MiB, "
	       "%ld before: %s\n",
	       code, wrong ? "WRONG" : "right",
	       (unsigned long long)taskrt_report()->counters.tasks,
	       (unsigned long long)taskrt_report()->counters.chunks, peak(),
	       before, taskrt_report()->message);
	return code != 0 || wrong;
}
