/*
 * Our own memory by system call: a page that is not there, or not writable, is
 * an answer instead of a signal. process_vm_readv/writev on this process, or
 * /proc/self/mem where those are refused (seccomp, containers); only the latter
 * also reaches pages without access rights.
 */
#ifndef DSM_HEAP_SELFMEM_H
#define DSM_HEAP_SELFMEM_H

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#define DSM_SELFMEM_IOV 1024 /* pairs in one call */

/*
 * Copy remote[i] to local[i] (read) or local[i] to remote[i] (write), i < n <=
 * DSM_SELFMEM_IOV, iov_len equal in pairs, 1 GiB in all at most. Returns bytes
 * copied, in order: fewer than asked when it came to a bad page. Never fails
 * otherwise (a system call that fails copies 0 bytes).
 */
size_t dsm__self_read(const struct iovec *local, const struct iovec *remote,
                      size_t n);
size_t dsm__self_write(const struct iovec *local, const struct iovec *remote,
                       size_t n);

#endif
