#include "fakeelf.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../../dsm/base/status.h"
#include "../../helpers/fakeslot.h"

static int
load(const char *path, char **p, size_t *len)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int ok;

	if (fd < 0)
		return DSM_ESYS;
	ok = fstat(fd, &st) == 0 && (*p = malloc((size_t)st.st_size)) != NULL &&
	     read(fd, *p, (size_t)st.st_size) == st.st_size;
	*len = ok ? (size_t)st.st_size : 0;
	close(fd);
	return ok ? DSM_OK : DSM_ESYS;
}

/* Once for the test program, never freed: reachable. */
static char *images[2];
static size_t image_len;

int
fake_elf(unsigned variant, const void **p, size_t *len)
{
	char path[PATH_MAX] = "";
	char *mark, *slash;

	if (images[variant] == NULL) {
		if (readlink("/proc/self/exe", path, sizeof(path) - 16) < 0)
			return DSM_ESYS;
		slash = strrchr(path, '/');
		memcpy(slash + 1, "fakeslot", sizeof("fakeslot"));
		if (load(path, &images[variant], &image_len) != DSM_OK) {
			printf("    cannot read %s\n", path);
			return DSM_ESYS;
		}
		mark = memmem(images[variant], image_len, FAKE_MARK,
		              strlen(FAKE_MARK));
		if (mark == NULL)
			return DSM_EINVAL;
		mark[strlen(FAKE_MARK) - 1] = (char)('a' + (int)variant);
	}
	*p = images[variant];
	*len = image_len;
	return DSM_OK;
}
