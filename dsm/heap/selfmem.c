/* See selfmem.h. */
#include "selfmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

static size_t
copy_by_file(const struct iovec *local, const struct iovec *remote, size_t n,
             int write)
{
	int fd =
	    open("/proc/self/mem", (write ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
	size_t done = 0;

	for (size_t i = 0; fd >= 0 && i < n; i++) {
		off_t at = (off_t)(uintptr_t)remote[i].iov_base;
		size_t len = local[i].iov_len, got = 0;
		ssize_t k = 1;

		while (got < len && (k > 0 || errno == EINTR)) {
			char *p = (char *)local[i].iov_base + got;

			k = write ? pwrite(fd, p, len - got, at + (off_t)got)
			          : pread(fd, p, len - got, at + (off_t)got);
			got += k > 0 ? (size_t)k : 0;
			if (k == 0)
				break;
		}
		done += got;
		if (got < len)
			break;
	}
	if (fd >= 0)
		close(fd);
	return done;
}

static size_t
copy(const struct iovec *local, const struct iovec *remote, size_t n, int write)
{
	ssize_t k = write ? process_vm_writev(getpid(), local, n, remote, n, 0)
	                  : process_vm_readv(getpid(), local, n, remote, n, 0);

	if (k < 0 && errno != EFAULT)
		return copy_by_file(local, remote, n, write);
	return k < 0 ? 0 : (size_t)k;
}

size_t
dsm__self_read(const struct iovec *local, const struct iovec *remote, size_t n)
{
	return n == 0 ? 0 : copy(local, remote, n, 0);
}

size_t
dsm__self_write(const struct iovec *local, const struct iovec *remote, size_t n)
{
	return n == 0 ? 0 : copy(local, remote, n, 1);
}
