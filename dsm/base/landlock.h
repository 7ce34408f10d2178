/*
 * Landlock: a process takes its own rights to files, ports and other processes away.
 * By number, for kernels and headers of any age.
 */
#ifndef DSM_BASE_LANDLOCK_H
#define DSM_BASE_LANDLOCK_H

/* Version of the kernel's interface, 0: it has none, or it is switched off. */
int dsm__landlock_abi(void);
/*
 * From now on this process opens no file, binds and connects no TCP port, and
 * signals nobody outside, as far as this kernel can see to it (all of it from ABI 6
 * on; 0, and nothing done, where there is no Landlock). Descriptors that are open
 * keep their rights. Needs no_new_privs. -1: errno. No way back.
 */
int dsm__landlock_deny_all(void);

#endif
