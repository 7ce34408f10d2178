/*
 * How much memory a worker may use when nobody says: nine tenths of the least of what
 * its cgroups (v1, v2), its batch job and its machine have.
 */
#ifndef COORDINATOR_WORKER_MEMLIMIT_H
#define COORDINATOR_WORKER_MEMLIMIT_H

#include <stddef.h>
#include <stdint.h>

/* For tests: files are looked for below root; env as getenv. */
struct memlimit_source {
	const char *root; /* "" */
	char *(*env)(const char *name);
};

/* Bytes; 0: not known. text: "nine tenths of 512 MiB, the limit of its cgroup". */
uint64_t memlimit_default(const struct memlimit_source *src, char *text,
                          size_t size);

#endif
