/*
 * Tasks that try to get out of their slot. Each attempt must end in a failure that
 * the report names, or in an error that the task sees; the next run must be fine.
 *
 *   escape VICTIM [OWNER]   VICTIM: pid of the process that runs the slots, or "self"; must
 *                           live on. OWNER: of another one, for signals
 * With ESCAPE_ONLY=NAME in the environment only that trick, with its report.
 *
 * Two ways to a system call: the program's own `syscall` instruction (what a
 * mistaken program does, by way of libc), and one in the slot's text, found there
 * and jumped to: that is what hostile code does, and the kernel cannot tell it from
 * the slot's own. So what a slot may do itself can be done by that way; the list
 * below is written down once more, so that it does not grow by mistake.
 *
 * One line a case: "  ok NAME" or "  FAIL NAME: why"; last "escapes tried: N".
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#define N_CALLS 461 /* 0 … 460 */
#define SLOT_A 0x1a0000000000ul
#define SLOT_CTL (SLOT_A + (4ul << 30)) /* its control page: slotctl.h */
#define X32_BIT 0x40000000l

static long victim, owner;
static unsigned long n_tried;
static int bad;

static void
verdict(const char *name, const char *why)
{
	if (why != NULL)
		bad = 1;
	printf(why != NULL ? "  FAIL %s: %s\n" : "  ok %s\n", name, why);
	fflush(stdout);
}

/* --- two ways to a system call --- */

struct args {
	long v[6];
};

static long
own_call(long nr, const struct args *a)
{
	register long r10 __asm__("r10") = a->v[3];
	register long r8 __asm__("r8") = a->v[4];
	register long r9 __asm__("r9") = a->v[5];
	long ret;

	__asm__ volatile("syscall"
	                 : "=a"(ret)
	                 : "a"(nr), "D"(a->v[0]), "S"(a->v[1]), "d"(a->v[2]),
	                   "r"(r10), "r"(r8), "r"(r9)
	                 : "rcx", "r11", "memory");
	return ret;
}

/* In a task: libc's syscall() of the slot, from its `syscall` instruction on, which
 * returns at once when there is no error and after setting errno otherwise. */
static const uint8_t *
find_gadget(void)
{
	static const uint8_t code[] = {0x0f, 0x05, 0x48, 0x3d, 0x01,
	                               0xf0, 0xff, 0xff, 0x73};
	const Elf64_Ehdr *eh = (const void *)SLOT_A;
	const Elf64_Phdr *ph = (const void *)(SLOT_A + eh->e_phoff);

	for (unsigned i = 0; i < eh->e_phnum; i++) {
		const uint8_t *p = (const void *)ph[i].p_vaddr;
		size_t len = ph[i].p_memsz;

		if (ph[i].p_type != PT_LOAD || !(ph[i].p_flags & PF_X))
			continue;
		for (size_t at = 0; at + 16 < len; at++)
			if (memcmp(p + at, code, sizeof(code)) == 0 &&
			    p[at + sizeof(code) + 1] == 0xc3)
				return p + at;
	}
	return NULL;
}

static long
slot_call(long nr, const struct args *a)
{
	register long r10 __asm__("r10") = a->v[3];
	register long r8 __asm__("r8") = a->v[4];
	register long r9 __asm__("r9") = a->v[5];
	const uint8_t *gadget = find_gadget();
	long ret;

	if (gadget == NULL)
		taskrt_fail("no system call in the slot's text");
	/* Past the red zone: the call pushes. */
	__asm__ volatile("sub $128, %%rsp\n\t"
	                 "call *%[to]\n\t"
	                 "add $128, %%rsp"
	                 : "=a"(ret)
	                 : [to] "b"(gadget), "a"(nr), "D"(a->v[0]),
	                   "S"(a->v[1]), "d"(a->v[2]), "r"(r10), "r"(r8),
	                   "r"(r9)
	                 : "rcx", "r11", "memory", "cc");
	return ret;
}

#define SLOT(nr, ...) slot_call(nr, &(struct args){{__VA_ARGS__}})

/* --- every number --- */

static const struct args nonsense = {{-1, -1, -1, -1, -1, -1}};
static long
    returned[N_CALLS]; /* what a task that came back got; LONG_MAX: none */

static void
number_own(void *arg)
{
	long nr = (long)(intptr_t)arg;

	returned[nr] = own_call(nr, &nonsense);
}

static void
number_slot(void *arg)
{
	long nr = (long)(intptr_t)arg;

	returned[nr] = slot_call(nr, &nonsense);
}

/* Answered in the task, or carried out for it. */
static const int answered[] = {
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_time,
    SYS_getcpu,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_getpid,
    SYS_gettid,
    SYS_sched_yield,
    SYS_sysinfo,
    SYS_getrusage,
    SYS_times,
    SYS_uname,
    SYS_sched_getaffinity,
    SYS_rt_sigprocmask,
    SYS_rt_sigaction,
    SYS_sigaltstack,
    SYS_madvise,
    SYS_brk,
    SYS_mremap,
    SYS_munmap,
    SYS_getrandom,
};

/* What a slot needs, whatever the arguments. */
static const int slots_own[] = {
    SYS_munmap,
    SYS_brk,
    SYS_read,
    SYS_write,
    SYS_pread64,
    SYS_pwrite64,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sendto,
    SYS_sendmsg,
    SYS_splice,
    SYS_poll,
    SYS_close,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_time,
    SYS_futex,
    SYS_sched_yield,
    SYS_restart_syscall,
    SYS_getpid,
    SYS_gettid,
    SYS_getcpu,
    SYS_getrandom,
    SYS_getrusage,
    SYS_sysinfo,
    SYS_times,
    SYS_uname,
    SYS_rt_sigprocmask,
};

static int
is_in(const int *v, size_t n, int nr)
{
	for (size_t i = 0; i < n; i++)
		if (v[i] == nr)
			return 1;
	return 0;
}

static const struct taskrt_failure *
failure_of(size_t task)
{
	const struct taskrt_report *r = taskrt_report();

	for (size_t i = 0; i < r->n_failures; i++)
		if (r->failures[i].task == task)
			return &r->failures[i];
	return NULL;
}

/* NULL: as it must be. */
static const char *
judge_number(int nr, int may_return, int by_slot)
{
	static char text[300];
	const struct taskrt_failure *f = failure_of((size_t)nr);

	if (f == NULL &&
	    (may_return || (by_slot && nr == 336 && returned[nr] < 0)))
		return NULL;
	if (f == NULL) {
		snprintf(text, sizeof(text), "call %d came back with %ld", nr,
		         returned[nr]);
		return text;
	}
	/* Its frame is nonsense: the task ends somehow. Nor do those two come
	 * back (uretprobe, uprobe of Linux 6.11 and 6.18): the kernel filters
	 * them not, and ends who is not being probed. */
	if ((nr == SYS_rt_sigreturn || nr == 335 || nr == 336) && by_slot &&
	    f->kind == TASKRT_CRASH)
		return NULL;
	if (f->kind == TASKRT_FORBIDDEN && !may_return &&
	    (strstr(f->message, "allowed") != NULL ||
	     strstr(f->message, "ended its process") != NULL ||
	     (nr == SYS_futex && strstr(f->message, "waits") != NULL)))
		return NULL;
	snprintf(text, sizeof(text), "call %d: kind %d, %s", nr, f->kind,
	         f->message);
	return text;
}

static void
every_number(const char *name, void (*fn)(void *), const int *may, size_t n_may,
             int by_slot)
{
	static struct taskrt_task tasks[N_CALLS];
	const struct taskrt_options opt = {
	    .keep_partial = 1, .timeout_ms = 5000, .name = name};
	const char *why = NULL;

	for (int nr = 0; nr < N_CALLS; nr++) {
		tasks[nr] = (struct taskrt_task){fn, (void *)(intptr_t)nr};
		returned[nr] = INT64_MAX;
	}
	taskrt_run(tasks, N_CALLS, &opt);
	for (int nr = 0; nr < N_CALLS && why == NULL; nr++)
		why = judge_number(nr, is_in(may, n_may, nr), by_slot);
	n_tried += N_CALLS;
	verdict(name, why);
}

/* --- tricks --- */

static char buffer[4096];
static struct iovec local = {buffer, sizeof(buffer)};
static struct iovec remote = {(void *)SLOT_A, 4096};
static long result; /* of a trick whose task came back */

/* A system call by the slot's code with arguments that would do something. */
struct call_trick {
	const char *name;
	long nr;
	struct args a;
};
#define VICTIM (-77) /* in args: its pid */
#define OWNER (-78)

static char path_mem[64], path_shell[] = "/bin/sh",
                          path_passwd[] = "/etc/passwd";
static char *no_words[] = {NULL};
static uint64_t clone_args[11];
static char key_type[] = "user", key_name[] = "taskrt";
static char uring_params[120];
static struct kernel_action {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
} own_handler;
static struct {
	unsigned short len;
	void *filter;
} no_filter;

#define P(x) ((long)(intptr_t)(x))
#define SYS_landlock 444

static const struct call_trick call_tricks[] = {
    {"switch dispatch off", SYS_prctl, {{59, 0, 0, 0, 0}}},
    {"install another filter", SYS_prctl, {{PR_SET_SECCOMP, 2, P(&no_filter)}}},
    {"seccomp()", SYS_seccomp, {{1, 0, P(&no_filter)}}},
    {"become dumpable", SYS_prctl, {{PR_SET_DUMPABLE, 1}}},
    {"another handler for SIGSYS",
     SYS_rt_sigaction,
     {{SIGSYS, P(&own_handler), 0, 8}}},
    {"another handler, upper half of the register set",
     SYS_rt_sigaction,
     {{SIGSYS | 1l << 32, P(&own_handler), 0, 8}}},
    {"another signal stack", SYS_sigaltstack, {{P(buffer), 0}}},
    {"ptrace the worker", SYS_ptrace, {{PTRACE_ATTACH, VICTIM}}},
    {"seize the worker", SYS_ptrace, {{PTRACE_SEIZE, VICTIM}}},
    {"be traced", SYS_ptrace, {{PTRACE_TRACEME}}},
    {"read the worker's memory",
     SYS_process_vm_readv,
     {{VICTIM, P(&local), 1, P(&remote), 1, 0}}},
    {"write the worker's memory",
     SYS_process_vm_writev,
     {{VICTIM, P(&local), 1, P(&remote), 1, 0}}},
    {"open the worker's memory", SYS_openat, {{AT_FDCWD, P(path_mem), O_RDWR}}},
    {"open() it", SYS_open, {{P(path_mem), O_RDWR}}},
    {"openat2() it", SYS_openat2, {{AT_FDCWD, P(path_mem), P(buffer), 24}}},
    {"a pidfd of the worker", SYS_pidfd_open, {{VICTIM, 0}}},
    {"a descriptor of the worker", SYS_pidfd_getfd, {{3, 0, 0}}},
    {"compare with the worker", SYS_kcmp, {{VICTIM, VICTIM, 0, 0, 0}}},
    {"drop the worker's pages",
     SYS_process_madvise,
     {{3, P(&remote), 1, MADV_DONTNEED, 0}}},
    {"kill the worker", SYS_kill, {{VICTIM, SIGKILL}}},
    {"kill the keeper's group", SYS_kill, {{0, SIGKILL}}},
    {"kill everybody", SYS_kill, {{-1, SIGKILL}}},
    {"tkill the worker", SYS_tkill, {{VICTIM, SIGKILL}}},
    {"tgkill the worker", SYS_tgkill, {{VICTIM, VICTIM, SIGKILL}}},
    {"queue a signal to the worker",
     SYS_rt_sigqueueinfo,
     {{VICTIM, SIGKILL, P(buffer)}}},
    {"kill another process", SYS_kill, {{OWNER, SIGKILL}}},
    {"signals by a descriptor", SYS_fcntl, {{3, F_SETOWN, VICTIM}}},
    {"signals by a descriptor's flags", SYS_fcntl, {{3, F_SETFL, O_ASYNC}}},
    {"the worker's limits", SYS_prlimit64, {{VICTIM, 7, P(buffer), 0}}},
    {"the worker's priority", SYS_setpriority, {{0, VICTIM, 19}}},
    {"the worker's processors",
     SYS_sched_setaffinity,
     {{VICTIM, 8, P(buffer)}}},
    {"where the worker may run",
     SYS_sched_getaffinity,
     {{VICTIM, 8, P(buffer)}}},
    {"the worker's clock", SYS_clock_gettime, {{-8 | 2, P(buffer)}}},
    {"the worker's session", SYS_getsid, {{VICTIM}}},
    {"a file", SYS_openat, {{AT_FDCWD, P(path_passwd), O_RDONLY}}},
    {"a file's state", SYS_newfstatat, {{AT_FDCWD, P(path_passwd), P(buffer)}}},
    {"a link", SYS_readlink, {{P(path_passwd), P(buffer), 100}}},
    {"a new file", SYS_creat, {{P("/tmp/escaped"), 0644}}},
    {"a folder", SYS_mkdir, {{P("/tmp/escaped"), 0755}}},
    {"remove a file", SYS_unlink, {{P("/tmp/escaped")}}},
    {"another root", SYS_chroot, {{P("/tmp")}}},
    {"mount", SYS_mount, {{P("x"), P("/tmp"), P("tmpfs"), 0, 0}}},
    {"a memory file", SYS_memfd_create, {{P("x"), 0}}},
    {"a secret memory file", SYS_memfd_secret, {{0}}},
    {"a copy of a descriptor", SYS_dup, {{3}}},
    {"a pipe", SYS_pipe2, {{P(buffer), 0}}},
    {"a socket", SYS_socket, {{AF_INET, SOCK_STREAM, 0}}},
    {"a raw socket", SYS_socket, {{AF_PACKET, SOCK_RAW, 0}}},
    {"a netlink socket", SYS_socket, {{AF_NETLINK, SOCK_RAW, 0}}},
    {"a socket pair", SYS_socketpair, {{AF_UNIX, SOCK_STREAM, 0, P(buffer)}}},
    {"connect the data link elsewhere", SYS_connect, {{4, P(buffer), 16}}},
    {"listen on it", SYS_listen, {{4, 1}}},
    {"accept on it", SYS_accept4, {{4, 0, 0, 0}}},
    {"shut it down", SYS_shutdown, {{4, 2}}},
    {"options of it", SYS_setsockopt, {{4, SOL_SOCKET, 25, P("eth0"), 4}}},
    {"credentials of the worker",
     SYS_getsockopt,
     {{3, SOL_SOCKET, SO_PEERCRED, P(buffer), P(buffer + 64)}}},
    {"type into the terminal", SYS_ioctl, {{2, 0x5412, P("x")}}},
    {"ioctl on a link", SYS_ioctl, {{3, 0x5421, P(buffer)}}},
    {"shorten the image", SYS_ftruncate, {{5, 0}}},
    {"shorten the states", SYS_ftruncate, {{6, 0}}},
    {"shorten the control page", SYS_ftruncate, {{7, 0}}},
    {"punch the image", SYS_fallocate, {{5, 3, 0, 4096}}},
    {"map the states for all",
     SYS_mmap,
     {{0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 6, 0}}},
    {"map the heap for all",
     SYS_mmap,
     {{0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 8, 0}}},
    {"map it validated",
     SYS_mmap,
     {{0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE, 6, 0}}},
    {"move a mapping", SYS_mremap, {{(long)SLOT_A, 4096, 8192, 1}}},
    {"lock memory", SYS_mlockall, {{3}}},
    {"fork", SYS_fork, {{0}}},
    {"vfork", SYS_vfork, {{0}}},
    {"a thread", SYS_clone, {{CLONE_VM | SIGCHLD, 0, 0, 0, 0}}},
    {"clone3", SYS_clone3, {{P(clone_args), sizeof(clone_args)}}},
    {"another program",
     SYS_execve,
     {{P(path_shell), P(no_words), P(no_words)}}},
    {"one by a descriptor",
     SYS_execveat,
     {{5, P(""), P(no_words), P(no_words), AT_EMPTY_PATH}}},
    {"another user", SYS_setresuid, {{0, 0, 0}}},
    {"another group", SYS_setresgid, {{0, 0, 0}}},
    {"capabilities", SYS_capset, {{P(buffer), P(buffer + 64)}}},
    {"a namespace", SYS_unshare, {{CLONE_NEWUSER}}},
    {"another's namespace", SYS_setns, {{3, 0}}},
    {"a key", SYS_add_key, {{P(key_type), P(key_name), P("x"), 1, -2}}},
    {"ask for a key", SYS_request_key, {{P(key_type), P(key_name), 0, -2}}},
    {"a keyring", SYS_keyctl, {{0, -3, 1}}},
    {"io_uring", SYS_io_uring_setup, {{8, P(uring_params)}}},
    {"io_uring_enter", SYS_io_uring_enter, {{3, 1, 0, 0, 0, 0}}},
    {"old aio", SYS_io_setup, {{1, P(buffer)}}},
    {"userfaultfd", SYS_userfaultfd, {{1}}},
    {"bpf", SYS_bpf, {{5, P(buffer), 64}}},
    {"performance counters",
     SYS_perf_event_open,
     {{P(buffer), VICTIM, -1, -1, 0}}},
    {"shared memory", SYS_shmget, {{0x7461, 4096, 01777}}},
    {"a semaphore", SYS_semget, {{0x7461, 1, 01777}}},
    {"a message queue", SYS_msgget, {{0x7461, 01777}}},
    {"a posix queue", SYS_mq_open, {{P("x"), O_CREAT | O_RDWR, 0600, 0}}},
    {"a timer", SYS_timer_create, {{0, 0, P(buffer)}}},
    {"a module", SYS_finit_module, {{5, P(""), 0}}},
    {"another kernel", SYS_kexec_load, {{0, 0, 0, 0}}},
    {"reboot", SYS_reboot, {{0, 0, 0, 0}}},
    {"set the clock", SYS_settimeofday, {{P(buffer), 0}}},
    {"ports", SYS_iopl, {{3}}},
    {"watch files", SYS_inotify_init1, {{0}}},
    {"a file by its handle", SYS_open_by_handle_at, {{3, P(buffer), 0}}},
    {"the kernel's log", SYS_syslog, {{3, P(buffer), 100}}},
    {"more Landlock", SYS_landlock, {{0, 0, 1}}},
    {"another layout", SYS_personality, {{0x0040000}}},
    {"a 32-bit number", X32_BIT | SYS_getpid, {{0}}},
    {"a number that no kernel has", 100000, {{0}}},
    {"the slot's own call to its handler", 0x54524b, {{4096}}},
};

#define N_CALL_TRICKS (sizeof(call_tricks) / sizeof(call_tricks[0]))

static struct args
with_pids(const struct args *a)
{
	struct args b = *a;

	for (int i = 0; i < 6; i++) {
		if (b.v[i] == VICTIM)
			b.v[i] = victim;
		if (b.v[i] == OWNER)
			b.v[i] = owner;
	}
	return b;
}

static void
do_call(void *arg)
{
	const struct call_trick *t = arg;
	const struct args a = with_pids(&t->a);

	result = slot_call(t->nr, &a);
}

/* --- forged messages --- */

struct forged_header {
	uint32_t len;
	uint16_t type;
	uint8_t version, flags;
	uint64_t tag;
};

struct forgery {
	const char *name;
	int fd; /* 3: to the worker, 4: to the client or whoever relays */
	uint16_t type;
	uint8_t version;
	uint32_t len; /* as the header says */
	uint32_t sent;
	uint64_t words[8]; /* the body begins with them */
};

/* Sessions, runs and attempts that are not this slot's; messages that only others
 * may send; sizes that cannot be. */
static const struct forgery forgeries[] = {
    {"DONE of another session", 3, 10, 1, 64, 64, {99, 1, 1}},
    {"DONE of another attempt", 3, 10, 1, 64, 64, {1, 1, 1u << 30}},
    {"a DONE that ends too early", 3, 10, 1, 12, 12, {1, 1}},
    {"MASKS of another attempt", 3, 32, 1, 40, 40, {1, 1, 1u << 30}},
    {"FETCHED of another session", 3, 33, 1, 28, 28, {99, 1, 1}},
    {"LINK without having one", 3, 29, 1, 12, 12, {1}},
    {"RETURNED of another's attempt", 3, 11, 1, 26, 26, {99, 1, 1}},
    {"UNFIT for another session", 3, 12, 1, 10, 10, {99}},
    {"HELLO as a worker", 3, 1, 1, 64, 64, {0x54524b54}},
    {"HELLO as a client", 3, 1, 1, 64, 64, {0x154524b54}},
    {"RUN, as if it were the client", 3, 8, 1, 64, 64, {99, 1}},
    {"EXEC for another slot", 3, 9, 1, 40, 40, {99, 1, 1, 0, 1}},
    {"CANCEL of another's run", 3, 16, 1, 16, 16, {99, 1}},
    {"SESSION", 3, 6, 1, 64, 64, {99}},
    {"SESSION_END of another session", 3, 7, 1, 8, 8, {99}},
    {"STORED, as if it were the client", 3, 13, 1, 16, 16, {1, 1}},
    {"VERDICT", 3, 14, 1, 64, 64, {1}},
    {"STAT, as if it were a tool", 3, 23, 1, 4, 4, {0}},
    {"a message that does not exist", 3, 999, 1, 0, 0, {0}},
    {"a frame of another version", 3, 10, 9, 0, 0, {0}},
    {"a frame of 4 GiB", 3, 10, 1, UINT32_MAX, 64, {0}},
    {"a frame that never ends", 3, 10, 1, 4096, 16, {0}},
    {"HELLO on the data link", 4, 1, 1, 64, 64, {0x54524b54}},
    {"a write set of another attempt", 4, 21, 1, 52, 52, {1, 1u << 30}},
    {"a write set that ends too early", 4, 21, 1, 8, 8, {1}},
    {"a page of another program", 4, 17, 1, 24, 24, {1, 0x1000, 256}},
    {"a million pages", 4, 17, 1, 24, 24, {1, 0x1000, 1000000}},
    {"a loan of all addresses", 4, 30, 1, 16, 16, {~0ull, ~0ull}},
    {"a queue pair", 4, 26, 1, 64, 64, {1}},
    {"RELAY, as if it were the coordinator", 4, 22, 1, 8, 8, {1}},
    {"VERDICT on the data link", 4, 14, 1, 64, 64, {1}},
    {"another version on the data link", 4, 17, 9, 24, 24, {0}},
    {"a frame of 4 GiB on the data link", 4, 17, 1, UINT32_MAX, 64, {0}},
};

#define N_FORGERIES (sizeof(forgeries) / sizeof(forgeries[0]))

static void
forge(void *arg)
{
	const struct forgery *f = arg;
	struct {
		struct forged_header h;
		uint64_t words[8];
	} frame = {.h = {f->len, f->type, f->version, 0, 0}};

	memcpy(frame.words, f->words, sizeof(f->words));
	result = SLOT(SYS_sendto, f->fd, P(&frame),
	              (long)(sizeof(frame.h) + f->sent), MSG_NOSIGNAL, 0, 0);
	/* Its effect is looked for outside; this task does nothing more. */
	SLOT(SYS_nanosleep, P(((const long[]){0, 20000000})), 0);
}

/* --- other tricks --- */

static void
pass_descriptors(void *arg)
{
	union {
		struct cmsghdr h;
		char bytes[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct iovec iov = {buffer, 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	(void)arg;
	buffer[0] = 'x'; /* the kernel does not fetch pages */
	m.msg_control = &control;
	m.msg_controllen = sizeof(control);
	control.h.cmsg_len = CMSG_LEN(2 * sizeof(int));
	control.h.cmsg_level = SOL_SOCKET;
	control.h.cmsg_type = SCM_RIGHTS;
	((int *)CMSG_DATA(&control.h))[0] = 5;
	((int *)CMSG_DATA(&control.h))[1] = 6;
	result = SLOT(SYS_sendmsg, 3, P(&m), MSG_NOSIGNAL);
}

static void
close_links(void *arg)
{
	(void)arg;
	for (long fd = 3; fd < 12; fd++)
		SLOT(SYS_close, fd);
	result = 0;
}

static void
write_to_the_log(void *arg)
{
	static const char line[] = "taskrt-worker: error: ESCAPED\n";

	(void)arg;
	result = SLOT(SYS_write, 2, P(line), sizeof(line) - 1);
}

/* Everything that the worker reads of a slot's memory, then the end. */
static void
lie_in_the_control_page(void *arg)
{
	volatile uint8_t *page = (volatile uint8_t *)SLOT_CTL;

	(void)arg;
	for (int i = 0; i < 4096; i++)
		page[i] = i % 7 == 0 ? 0x1b : 0xff;
	SLOT(SYS_exit_group, 82);
}

static void
pretend_to_be_idle(void *arg)
{
	volatile uint32_t *state = (volatile uint32_t *)SLOT_CTL;

	(void)arg;
	state[0] = 0;
	SLOT(SYS_prctl, 59, 0, 0, 0, 0);
}

static void
pull_the_rug(void *arg)
{
	(void)arg;
	SLOT(SYS_munmap, (long)SLOT_A, 4l << 30);
}

static void
block_signals_and_stay(void *arg)
{
	static uint64_t all = ~0ull;

	(void)arg;
	SLOT(SYS_rt_sigprocmask, SIG_SETMASK, P(&all), 0, 8);
	for (;;)
		__asm__ volatile("pause");
}

static void
by_int_80(void *arg)
{
	(void)arg;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20 /* getpid */));
	result = result > 0 ? result : -1;
}

static const struct {
	const char *name;
	void (*fn)(void *);
	int harmless; /* may succeed: what comes of it is looked at outside */
} other_tricks[] = {
    {"pass descriptors to the worker", pass_descriptors, 0},
    {"close every link", close_links, 0},
    {"write to the worker's log", write_to_the_log, 1},
    {"lies in the control page", lie_in_the_control_page, 0},
    {"pretend to be idle", pretend_to_be_idle, 0},
    {"unmap the slot", pull_the_rug, 0},
    {"block all signals and stay", block_signals_and_stay, 0},
    {"a 32-bit system call", by_int_80, 0},
};

#define N_OTHER_TRICKS (sizeof(other_tricks) / sizeof(other_tricks[0]))

/* --- one by one, each followed by a run that must be fine --- */

static void
plain(size_t i, void *ctx)
{
	((long *)ctx)[i] = (long)(i * i);
}

static const char *
next_run_is_fine(void)
{
	long squares[50] = {0};

	if (taskrt_for(0, 50, plain, squares, NULL) != 0) {
		static char text[300];

		snprintf(text, sizeof(text), "the next run fails: %s",
		         taskrt_report()->message);
		return text;
	}
	return squares[49] == 49 * 49 ? NULL : "the next run is wrong";
}

static int
is_contained(int err, int harmless)
{
	const struct taskrt_failure *f = failure_of(0);

	n_tried++;
	if (err == 0)
		return harmless || result < 0;
	return f != NULL && f->message[0] != '\0';
}

static const char *
attempt(const char *name, void (*fn)(void *), const void *arg, int harmless)
{
	const struct taskrt_task t = {fn, (void *)(uintptr_t)arg};
	const struct taskrt_options opt = {.retries = 1, .timeout_ms = 500};
	const char *only = getenv("ESCAPE_ONLY");
	const char *why = NULL;
	int err;

	if (only != NULL && strcmp(only, name) != 0)
		return NULL;
	result = 0;
	err = taskrt_run(&t, 1, &opt);
	if (!is_contained(err, harmless))
		why = err == 0 ? "it came back" : "no report says why";
	if (only != NULL)
		taskrt_report_print(stdout);
	if (why == NULL)
		why = next_run_is_fine();
	if (why == NULL && kill((pid_t)victim, 0) != 0)
		why = "the worker is gone";
	return why;
}

static void
one_by_one(void)
{
	for (size_t i = 0; i < N_CALL_TRICKS; i++) {
		const char *why =
		    attempt(call_tricks[i].name, do_call, &call_tricks[i], 0);

		if (why != NULL)
			verdict(call_tricks[i].name, why);
	}
	verdict("calls by the slot's code that would do something", NULL);
	for (size_t i = 0; i < N_FORGERIES; i++) {
		/* What the slot sends by itself afterwards ends the link. */
		const char *why =
		    attempt(forgeries[i].name, forge, &forgeries[i], 1);

		if (why != NULL)
			verdict(forgeries[i].name, why);
	}
	verdict("forged messages", NULL);
	for (size_t i = 0; i < N_OTHER_TRICKS; i++)
		verdict(other_tricks[i].name,
		        attempt(other_tricks[i].name, other_tricks[i].fn, NULL,
		                other_tricks[i].harmless));
}

int
main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: escape VICTIM [OWNER]\n");
		return 2;
	}
	victim = strcmp(argv[1], "self") == 0 ? (long)getpid() : atol(argv[1]);
	owner = argc > 2 ? atol(argv[2]) : victim;
	snprintf(path_mem, sizeof(path_mem), "/proc/%ld/mem", victim);
	if (getenv("ESCAPE_ONLY") != NULL) {
		one_by_one();
		return bad;
	}
	every_number("every call by the program's code", number_own, answered,
	             sizeof(answered) / sizeof(answered[0]), 0);
	every_number("every call by the slot's code", number_slot, slots_own,
	             sizeof(slots_own) / sizeof(slots_own[0]), 1);
	verdict("the next run is fine", next_run_is_fine());
	one_by_one();
	printf("escapes tried: %lu\n", n_tried);
	return bad;
}
