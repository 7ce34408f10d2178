/*
 * Build-time only: writes the seccomp filters that slots install, as BPF, and the
 * names of the system calls. libseccomp is needed here and nowhere else: no
 * program of ours is linked to it.
 *
 *   early   from a slot's first line on, while it still opens devices and files:
 *           all is allowed but what no slot ever does. That kills.
 *   tcp     before client code runs: only what `allowed` lists; the rest is a
 *           SIGSYS, which the slot's handler reports with the call's name. What
 *           would disarm that handler kills, and so does what early forbids.
 *   verbs   the same for a slot whose data link is a queue pair.
 *   names   the calls' names by number, each with a NUL, "" where there is none
 *
 * A killed slot is reported by its worker, which needs nothing of the slot for it.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../slot/slotctl.h"

/* linux/fs.h of 6.7, rdma/rdma_user_ioctl_cmds.h. */
#define PAGEMAP_SCAN_CMD _IOC(_IOC_READ | _IOC_WRITE, 'f', 16, 96)
#define RDMA_VERBS_CMD _IOC(_IOC_READ | _IOC_WRITE, 0x1b, 1, 24)

#define MAX_CALL 512
/* Of clocks that are nobody else's; what is negative is a process's CPU time. */
#define CLOCKS 16
/* Mappings that a slot has no use for once it is set up; shared ones are the image's
 * (which it may write to anyway). */
#define MAP_ODD (MAP_GROWSDOWN | MAP_LOCKED | MAP_HUGETLB | MAP_POPULATE)
#define MAP_NEVER (MAP_SHARED | MAP_ODD)
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

struct rule {
	const char *name;
	struct scmp_arg_cmp args[2]; /* must all hold; op 0: none */
};

#define CALL(label)            \
	{                      \
		.name = #label \
	}
#define CALL_IF(label, ...)                             \
	{                                               \
		.name = #label, .args = { __VA_ARGS__ } \
	}
/* All 64 bits of the register are compared: what has more in it than the kernel
 * looks at is not allowed. */
#define IS(n, value)                                 \
	{                                            \
		n, SCMP_CMP_EQ, (uint32_t)(value), 0 \
	}
#define BELOW(n, value)                  \
	{                                \
		n, SCMP_CMP_LT, value, 0 \
	}
#define NONE_OF(n, mask)                       \
	{                                      \
		n, SCMP_CMP_MASKED_EQ, mask, 0 \
	}

/* What a slot does between a task's first instruction and its own end, for itself
 * or for the task (taskrt/slot/syscalls.c). Descriptors: those it holds. */
static const struct rule allowed[] = {
    /* memory */
    CALL_IF(mmap, NONE_OF(3, MAP_NEVER)),
    CALL_IF(mmap, NONE_OF(3, MAP_ODD), IS(4, SLOT_FD_PAGES)),
    CALL(munmap),
    CALL_IF(mprotect,
            NONE_OF(2, ~(unsigned)(PROT_READ | PROT_WRITE | PROT_EXEC))),
    CALL_IF(madvise, IS(2, MADV_DONTNEED)),
    CALL_IF(madvise, IS(2, MADV_POPULATE_READ)),
    CALL(brk),
    /* links, the image, the staging file */
    CALL(read),
    CALL(write),
    CALL(pread64),
    CALL(pwrite64),
    CALL(recvfrom),
    CALL(recvmsg),
    CALL(sendto),
    CALL(sendmsg),
    CALL(splice),
    CALL(poll),
    CALL(close),
    CALL_IF(getsockopt, IS(1, IPPROTO_TCP), IS(2, TCP_INFO)),
    CALL_IF(ioctl, IS(1, UFFDIO_REGISTER)),
    CALL_IF(ioctl, IS(1, UFFDIO_CONTINUE)),
    CALL_IF(ioctl, IS(1, PAGEMAP_SCAN_CMD)),
    /* time, waiting */
    CALL_IF(clock_gettime, BELOW(0, CLOCKS)),
    CALL_IF(clock_getres, BELOW(0, CLOCKS)),
    CALL_IF(clock_nanosleep, BELOW(0, CLOCKS)),
    CALL(nanosleep),
    CALL(gettimeofday),
    CALL(time),
    CALL(futex),
    CALL(sched_yield),
    CALL(restart_syscall),
    /* facts about itself and the machine */
    CALL(getpid),
    CALL(gettid),
    CALL(getcpu),
    CALL(getrandom),
    CALL(getrusage),
    CALL_IF(sched_getaffinity, IS(0, 0)),
    CALL(sysinfo),
    CALL(times),
    CALL(uname),
    /* signals; the thread pointer where FSGSBASE is missing */
    CALL(rt_sigreturn),
    CALL(rt_sigprocmask),
    CALL_IF(rt_sigaction, IS(0, SIGSEGV)), /* to die of it */
    CALL_IF(rt_sigaction, IS(0, SIGBUS)),
    CALL_IF(rt_sigaction, IS(0, SIGFPE)),
    CALL_IF(rt_sigaction, IS(0, SIGILL)),
    CALL_IF(rt_sigaction, IS(0, SIGTRAP)),
    CALL_IF(rt_sigaction, IS(0, SIGABRT)),
    CALL_IF(arch_prctl, IS(0, ARCH_SET_FS)),
    CALL_IF(arch_prctl, IS(0, ARCH_GET_FS)),
    CALL(exit),
    CALL(exit_group),
};

static const struct rule allowed_verbs[] = {
    CALL_IF(ioctl, IS(1, RDMA_VERBS_CMD)),
};

/* They would take the reporting handler out of the way, or need nobody's trap. */
static const struct rule disarming[] = {
    CALL(prctl),
    CALL(seccomp),
    CALL_IF(rt_sigaction, IS(0, SIGSYS)),
    CALL(userfaultfd),
};

/* No slot does these at any time, its set-up included, and what has them done is
 * not a mistake. */
static const struct rule never[] = {
    /* into other processes */
    CALL(ptrace),
    CALL(process_vm_readv),
    CALL(process_vm_writev),
    CALL(process_madvise),
    CALL(process_mrelease),
    CALL(pidfd_open),
    CALL(pidfd_getfd),
    CALL(pidfd_send_signal),
    CALL(kcmp),
    CALL(kill),
    CALL(tkill),
    CALL(rt_sigqueueinfo),
    CALL(rt_tgsigqueueinfo),
    CALL(move_pages),
    CALL(migrate_pages),
    /* other programs */
    CALL(execve),
    CALL(execveat),
    CALL(fork),
    CALL(vfork),
    /* what the kernel keeps for users */
    CALL(add_key),
    CALL(request_key),
    CALL(keyctl),
    CALL(io_uring_setup),
    CALL(io_uring_enter),
    CALL(io_uring_register),
    CALL(bpf),
    CALL(perf_event_open),
    CALL(shmget),
    CALL(shmat),
    CALL(semget),
    CALL(msgget),
    CALL(mq_open),
    /* the machine */
    CALL(mount),
    CALL(umount2),
    CALL(mount_setattr),
    CALL(move_mount),
    CALL(open_tree),
    CALL(fsopen),
    CALL(fsconfig),
    CALL(fsmount),
    CALL(fspick),
    CALL(pivot_root),
    CALL(chroot),
    CALL(setns),
    CALL(unshare),
    CALL(init_module),
    CALL(finit_module),
    CALL(delete_module),
    CALL(kexec_load),
    CALL(kexec_file_load),
    CALL(reboot),
    CALL(swapon),
    CALL(swapoff),
    CALL(syslog),
    CALL(sethostname),
    CALL(setdomainname),
    CALL(settimeofday),
    CALL(clock_settime),
    CALL(clock_adjtime),
    CALL(adjtimex),
    CALL(acct),
    CALL(quotactl),
    CALL(vhangup),
    CALL(iopl),
    CALL(ioperm),
    CALL(modify_ldt),
    CALL(open_by_handle_at),
    CALL(name_to_handle_at),
    CALL(fanotify_init),
    /* who it is */
    CALL(setuid),
    CALL(setgid),
    CALL(setreuid),
    CALL(setregid),
    CALL(setresuid),
    CALL(setresgid),
    CALL(setgroups),
    CALL(setfsuid),
    CALL(setfsgid),
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static int
add(scmp_filter_ctx ctx, uint32_t action, const struct rule *rules, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct rule *r = &rules[i];
		unsigned n_args = (r->args[0].op != 0) + (r->args[1].op != 0);
		int nr = seccomp_syscall_resolve_name(r->name);
		int err = nr < 0 ? -ENOSYS
		                 : seccomp_rule_add_exact_array(
		                       ctx, action, nr, n_args, r->args);

		if (err != 0) {
			fprintf(stderr, "mkfilter: %s: %s\n", r->name,
			        strerror(-err));
			return err;
		}
	}
	return 0;
}

static int
write_filter(int early, int verbs)
{
	uint32_t rest = early ? SCMP_ACT_ALLOW : SCMP_ACT_TRAP;
	uint32_t kill = SCMP_ACT_KILL_PROCESS;
	scmp_filter_ctx ctx = seccomp_init(rest);
	int err;

	if (ctx == NULL) {
		fprintf(stderr, "mkfilter: libseccomp has no filter for us\n");
		return 1;
	}
	/* 32-bit calls: there is no such code in a slot. */
	err = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, kill);
	if (err == 0) /* a binary tree */
		err = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (err == 0)
		err = add(ctx, kill, never, COUNT(never));
	if (err == 0 && !early)
		err = add(ctx, SCMP_ACT_ALLOW, allowed, COUNT(allowed));
	if (err == 0 && !early)
		err = add(ctx, kill, disarming, COUNT(disarming));
	if (err == 0 && verbs)
		err = add(ctx, SCMP_ACT_ALLOW, allowed_verbs,
		          COUNT(allowed_verbs));
	if (err == 0)
		err = seccomp_export_bpf(ctx, STDOUT_FILENO);
	seccomp_release(ctx);
	if (err != 0)
		fprintf(stderr, "mkfilter: %s\n", strerror(-err));
	return err != 0;
}

static int
write_names(void)
{
	for (int nr = 0; nr < MAX_CALL; nr++) {
		char *name =
		    seccomp_syscall_resolve_num_arch(seccomp_arch_native(), nr);

		fputs(name != NULL ? name : "", stdout);
		putchar('\0');
		free(name);
	}
	return fflush(stdout) != 0;
}

int
main(int argc, char **argv)
{
	const char *what = argc == 2 ? argv[1] : "";

	if (strcmp(what, "early") == 0)
		return write_filter(1, 0);
	if (strcmp(what, "tcp") == 0)
		return write_filter(0, 0);
	if (strcmp(what, "verbs") == 0)
		return write_filter(0, 1);
	if (strcmp(what, "names") == 0)
		return write_names();
	fprintf(stderr, "usage: mkfilter early|tcp|verbs|names >FILE\n");
	return 2;
}
