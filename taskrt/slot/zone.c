#include "zone.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../dsm/base/page.h"

extern char __executable_start[];

#define BRK_ROOM (UINT64_C(4) << 30) /* ELF image and brk heap */

static uint64_t next_free; /* 0: nothing given out yet */

uint64_t
zone_start(void)
{
	return (uint64_t)__executable_start;
}

uint64_t
zone_end(void)
{
	return zone_start() + ZONE_SIZE;
}

int
zone_holds(uint64_t addr)
{
	return addr >= zone_start() && addr < zone_end();
}

void *
zone_reserve(uint64_t len)
{
	uint64_t at;

	len = dsm__page_up(len);
	if (next_free == 0)
		next_free = zone_start() + BRK_ROOM;
	if (len > zone_end() - next_free)
		return NULL;
	at = next_free;
	next_free += len;
	return (void *)at;
}

void *
zone_map(uint64_t len)
{
	void *at = zone_reserve(len);
	void *p;

	if (at == NULL)
		return NULL;
	p = mmap(at, dsm__page_up(len), PROT_READ | PROT_WRITE,
	         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
	             MAP_FIXED_NOREPLACE,
	         -1, 0);
	return p == at ? p : NULL;
}

void *
zone_stack(uint64_t len, uint64_t guard)
{
	char *p;

	if (zone_reserve(guard) == NULL)
		return NULL;
	p = zone_map(len);
	/* Above it too: a stray read past the top must not meet the next
	 * mapping. */
	if (p == NULL || zone_reserve(DSM_PAGE) == NULL)
		return NULL;
	return p;
}

int
zone_leave_kernel_mappings(void)
{
	static char buf[16384];
	size_t len = 0;
	ssize_t n;
	char *line;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	while (len < sizeof(buf) - 1 &&
	       (n = read(fd, buf + len, sizeof(buf) - 1 - len)) > 0)
		len += (size_t)n;
	close(fd);
	buf[len] = '\0';
	for (line = buf; *line != '\0';) {
		char *end = strchr(line, '\n');
		unsigned long long lo, hi;

		if (end == NULL)
			break;
		if (sscanf(line, "%llx-%llx", &lo, &hi) == 2 &&
		    !zone_holds(lo) && lo < (UINT64_C(1) << 47))
			munmap((void *)(uintptr_t)lo, hi - lo);
		line = end + 1;
	}
	return 0;
}
