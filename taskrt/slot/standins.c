/*
 * What libraries in the slot call that would not work there, or not lie where it
 * must: mappings outside the zone; time by way of the vDSO, which is unmapped;
 * name services, which load libraries. The linker puts these functions in the
 * place of libc's: --wrap (Makefile), or by being there first.
 */
#include <errno.h>
#include <netdb.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "zone.h"

void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd,
                  off_t off);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd,
                  off_t off);
time_t __wrap_time(time_t *t);
int __wrap_gettimeofday(struct timeval *tv, void *tz);

/*
 * A place that the caller leaves to the kernel is one of the zone: drivers map
 * doorbells and queues. What is unmapped leaves its place unused, the zone is
 * large.
 */
void *
__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
	if (addr == NULL && !(flags & MAP_FIXED)) {
		addr = zone_reserve(len);
		if (addr == NULL) {
			errno = ENOMEM;
			return MAP_FAILED;
		}
		flags |= MAP_FIXED_NOREPLACE;
	}
	return __real_mmap(addr, len, prot, flags, fd, off);
}

time_t
__wrap_time(time_t *t)
{
	struct timespec ts = {0};

	syscall(SYS_clock_gettime, CLOCK_REALTIME, &ts);
	if (t != NULL)
		*t = ts.tv_sec;
	return ts.tv_sec;
}

int
__wrap_gettimeofday(struct timeval *tv, void *tz)
{
	struct timespec ts = {0};

	(void)tz;
	syscall(SYS_clock_gettime, CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
            struct addrinfo **res)
{
	(void)node;
	(void)service;
	(void)hints;
	(void)res;
	return EAI_FAIL;
}

void
freeaddrinfo(struct addrinfo *res)
{
	(void)res;
}

struct protoent *
getprotobyname(const char *name)
{
	(void)name;
	return NULL;
}

struct protoent *
getprotobynumber(int proto)
{
	(void)proto;
	return NULL;
}
