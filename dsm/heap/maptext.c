/* See maptext.h; dsm__map_classify of map.h is here too. */
#include "maptext.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../base/status.h"
#include "../wire/wire.h"
#include "map.h"

/* --- reading --- */

#define ROOM 16384 /* for one read: more than the kernel gives at a time */

static int
make_room(struct dsm_maptext *t)
{
	size_t cap = t->cap == 0 ? 4 * ROOM : 2 * t->cap;
	char *p;

	if (t->cap - t->len > ROOM)
		return DSM_OK;
	p = realloc(t->ptr, cap);
	if (p == NULL)
		return DSM_ENOMEM;
	t->ptr = p;
	t->cap = cap;
	return DSM_OK;
}

int
dsm__maptext_read(struct dsm_maptext *t)
{
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	ssize_t k = 1;
	int err = fd < 0 ? DSM_ESYS : DSM_OK, saved;

	t->len = 0;
	while (err == DSM_OK && k != 0) {
		err = make_room(t);
		if (err != DSM_OK)
			break;
		k = read(fd, t->ptr + t->len, t->cap - t->len - 1);
		if (k > 0)
			t->len += (size_t)k;
		else if (k < 0 && errno != EINTR)
			err = DSM_ESYS;
	}
	saved = errno;
	if (fd >= 0)
		close(fd);
	errno = saved;
	if (err == DSM_OK)
		t->ptr[t->len] = '\0';
	return err;
}

void
dsm__maptext_fini(struct dsm_maptext *t)
{
	free(t->ptr);
	*t = (struct dsm_maptext){0};
}

/* --- lines --- */

/* A number that ends with `stop`: what follows that, or NULL. */
static char *
number(char *p, unsigned base, char stop, uint64_t *v_p)
{
	uint64_t v = 0;
	char *start = p;

	for (; *p != '\0' && *p != stop; p++) {
		unsigned d = *p >= 'a' ? (unsigned)(*p - 'a' + 10)
		                       : (unsigned)(*p - '0');

		if (d >= base)
			return NULL;
		v = v * base + d;
	}
	if (*p != stop || p == start)
		return NULL;
	*v_p = v;
	return p + 1;
}

static char *
permissions(char *p, struct dsm_mapline *l)
{
	if (strlen(p) < 5)
		return NULL;
	l->prot = (p[0] == 'r' ? PROT_READ : 0) |
	          (p[1] == 'w' ? PROT_WRITE : 0) |
	          (p[2] == 'x' ? PROT_EXEC : 0);
	l->shared = p[3] == 's';
	return p + 5;
}

static int
parse(char *p, struct dsm_mapline *l)
{
	uint64_t major, minor;

	if ((p = number(p, 16, '-', &l->start)) == NULL ||
	    (p = number(p, 16, ' ', &l->end)) == NULL ||
	    (p = permissions(p, l)) == NULL ||
	    (p = number(p, 16, ' ', &l->off)) == NULL ||
	    (p = number(p, 16, ':', &major)) == NULL ||
	    (p = number(p, 16, ' ', &minor)) == NULL ||
	    (p = number(p, 10, ' ', &l->ino)) == NULL)
		return 0;
	l->dev = major << 32 | minor;
	while (*p == ' ')
		p++;
	l->path = p;
	return l->start < l->end;
}

int
dsm__maptext_line(char **p_p, struct dsm_mapline *l)
{
	char *line, *end;

	while (**p_p != '\0') {
		line = *p_p;
		end = strchr(line, '\n');
		if (end == NULL)
			end = line + strlen(line);
		*p_p = *end == '\0' ? end : end + 1;
		*end = '\0';
		if (parse(line, l))
			return 1;
	}
	return 0;
}

/* --- kinds --- */

/*
 * Basenames up to ".so" or a version ("libc.so.6", "libc-2.31.so"); those that
 * end with * are prefixes of families.
 */
static const char *const system_libraries[] = {
    "ld",           "ld-linux*",  "ld64",        "ld-musl*",      "libc",
    "libm",         "libmvec",    "libstdc++",   "libc++",        "libc++abi",
    "libgcc_s",     "libunwind",  "libpthread",  "libdl",         "librt",
    "libutil",      "libresolv",  "libanl",      "libgomp",       "libomp",
    "libomp5",      "libiomp5",   "libgfortran", "libquadmath",   "libatomic",
    "libtaskrt",    "libdsm",     "libuv",       "liblz4",        "liburcu*",
    "libasan",      "libtsan",    "libubsan",    "liblsan",       "libnss_*",
    "libthread_db", "libibverbs", "libmlx4",     "libmlx5",       "libefa",
    "libhns",       "libmana",    "libnl-3",     "libnl-route-3",
};

static int
is_named(const char *base, const char *name)
{
	size_t n = strlen(name);

	if (name[n - 1] == '*')
		return strncmp(base, name, n - 1) == 0 &&
		       strstr(base, ".so") != NULL;
	return strncmp(base, name, n) == 0 &&
	       (strncmp(base + n, ".so", 3) == 0 ||
	        (base[n] == '-' && base[n + 1] >= '0' && base[n + 1] <= '9' &&
	         strstr(base + n, ".so") != NULL));
}

int
dsm__is_system_library(const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *base = slash == NULL ? path : slash + 1;
	size_t n = sizeof(system_libraries) / sizeof(system_libraries[0]);

	for (size_t i = 0; i < n; i++)
		if (is_named(base, system_libraries[i]))
			return 1;
	/* libibverbs' drivers: "librxe-rdmav34.so" */
	return strstr(base, "-rdmav") != NULL && strstr(base, ".so") != NULL;
}

static int
starts(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

static uint32_t
kind_of_special(const char *path)
{
	if (starts(path, "[stack"))
		return DSM_RANGE_STACK;
	if (starts(path, "[vdso]"))
		return DSM_RANGE_VDSO;
	if (starts(path, "[heap]") || starts(path, "[anon"))
		return DSM_RANGE_ANON;
	return 0; /* [vvar], [vsyscall], [uprobes], what comes next */
}

/* Reading a device's registers could change its state. dsm-verbs are the message
 * buffers of our own queue pairs: nobody's data, and always changing. */
static int
is_device(const char *path)
{
	return starts(path, "/memfd:dsm-verbs") ||
	       (starts(path, "/dev/") && !starts(path, "/dev/shm/") &&
	        !starts(path, "/dev/zero")) ||
	       starts(path, "anon_inode:");
}

uint32_t
dsm__map_classify(const char *path, uint32_t prot, int shared,
                  const char *main_exe)
{
	if ((prot & PROT_READ) == 0 || is_device(path))
		return 0;
	if (path[0] == '\0')
		return DSM_RANGE_ANON;
	if (path[0] == '[')
		return kind_of_special(path);
	if (shared)
		return DSM_RANGE_ANON;
	if ((prot & PROT_WRITE) == 0)
		return DSM_RANGE_CODE;
	if (main_exe != NULL && strcmp(path, main_exe) == 0)
		return DSM_RANGE_DATA;
	return dsm__is_system_library(path) ? DSM_RANGE_SYS : DSM_RANGE_DATA;
}
