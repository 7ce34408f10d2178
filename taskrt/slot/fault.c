#include "fault.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "arch.h"
#include "fetch.h"
#include "hold.h"
#include "space.h"
#include "syscalls.h"
#include "zone.h"

#define SIGNAL_STACK (UINT64_C(256) << 10)
/* Pages asked for besides the faulting one where nothing is known: code runs
 * on, data comes in small clusters, the heap is left to what it shows. */
#define MORE_CODE 15u
#define MORE_DATA 3u

static struct {
	struct fault_params p;
	struct fault_failure failure;
	uint64_t asked_page; /* last address asked for in vain */
} fa;

const struct fault_failure *
fault_last(void)
{
	return &fa.failure;
}

void
fault_new_run(void)
{
	fa.asked_page = 0;
}

static int
fail(uint32_t kind, uint32_t signal, uint64_t addr, const char *fmt, ...)
{
	va_list ap;

	fa.failure.kind = kind;
	fa.failure.signal = signal;
	fa.failure.addr = addr;
	va_start(ap, fmt);
	vsnprintf(fa.failure.text, sizeof(fa.failure.text), fmt, ap);
	va_end(ap);
	return FAULT_FAILED;
}

static uint64_t *
fetched_counter(const struct space_range *r, int write)
{
	struct dsm_counters *c = fa.p.counters;

	if (r->r.prot & PROT_EXEC)
		return &c->faults_code;
	if (r->r.kind == DSM_RANGE_HEAP)
		return write ? &c->faults_heap_write : &c->faults_heap_read;
	return write ? &c->faults_data_write : &c->faults_data_read;
}

static uint64_t *
present_counter(const struct space_range *r, int write)
{
	struct dsm_counters *c = fa.p.counters;

	if (r->r.prot & PROT_EXEC)
		return &c->present_code;
	if (r->r.kind == DSM_RANGE_HEAP)
		return write ? &c->present_heap_write : &c->present_heap_read;
	return write ? &c->present_data_write : &c->present_data_read;
}

/* Range of addr; asks the client when the table has none, or one that does not
 * allow `prot`: it may do so now. */
static struct space_range *
range_of(uint64_t addr, int prot, int *lost_p)
{
	struct space_range *r = space_find(addr);
	struct dsm_array table;
	struct dsm_error e = {0};

	*lost_p = 0;
	if ((r != NULL && (~r->r.prot & (uint32_t)prot) == 0) ||
	    zone_holds(addr) || addr < DSM_PAGE || addr >> 47 != 0 ||
	    dsm__page_down(addr) == fa.asked_page)
		return r;
	if (fetch_ask(addr, &table) != DSM_OK ||
	    space_set(&table, 1, &e) != DSM_OK) {
		*lost_p = 1;
		return NULL;
	}
	r = space_find(addr);
	if (r == NULL || (~r->r.prot & (uint32_t)prot) != 0)
		fa.asked_page = dsm__page_down(addr);
	return r;
}

static const char *
access_name(const ucontext_t *uc)
{
	if (arch_fault_exec(uc))
		return "jump to";
	return arch_fault_write(uc) ? "write to" : "read of";
}

static int
segfault(const ucontext_t *uc, uint64_t addr, const struct space_range *r)
{
	if (addr >= fa.p.guard_lo && addr < fa.p.stack_lo)
		return fail(
		    DSM_FAIL_CRASH, SIGSEGV, addr,
		    "stack overflow: a task's stack is %llu KiB",
		    (unsigned long long)(fa.p.stack_hi - fa.p.stack_lo) / 1024);
	if (r != NULL)
		return fail(DSM_FAIL_CRASH, SIGSEGV, addr,
		            "segmentation fault: %s read-only memory at 0x%llx",
		            access_name(uc), (unsigned long long)addr);
	return fail(
	    DSM_FAIL_CRASH, SIGSEGV, addr,
	    "segmentation fault: %s address 0x%llx, where nothing is mapped",
	    access_name(uc), (unsigned long long)addr);
}

static int
kept_back(const ucontext_t *uc, uint64_t addr)
{
	return fail(DSM_FAIL_CRASH, SIGSEGV, addr,
	            "%s 0x%llx, which the program keeps to itself "
	            "(taskrt_private)",
	            access_name(uc), (unsigned long long)addr);
}

/* Bring the page and make it accessible: FAULT_NONE to try the access again. */
static int
page_in(const ucontext_t *uc, struct space_range *r, uint64_t addr, int write)
{
	uint32_t more = 0;
	enum fetch_result got;

	if (r->present)
		goto open;
	if (r->r.prot & PROT_EXEC)
		more = MORE_CODE;
	else if (r->r.kind != DSM_RANGE_HEAP && r->r.kind != DSM_RANGE_ANON)
		more = MORE_DATA;
	got = fetch_page(r, addr, more);
	if (got == FETCH_LOST)
		return FAULT_LOST;
	if (got == FETCH_UNMAPPED)
		return fail(
		    DSM_FAIL_CRASH, SIGSEGV, addr,
		    "segmentation fault: %s address 0x%llx, which the program "
		    "has unmapped",
		    access_name(uc), (unsigned long long)addr);
	(*(got == FETCH_GOT ? fetched_counter(r, write)
	                    : present_counter(r, write)))++;
open:
	if (space_open(r, addr) >= 0)
		return FAULT_NONE;
	return fail(DSM_FAIL_CRASH, SIGBUS, addr, "cannot map 0x%llx: %s",
	            (unsigned long long)addr, strerror(errno));
}

static int
on_segv(const ucontext_t *uc, const siginfo_t *si)
{
	uint64_t addr = (uint64_t)si->si_addr;
	int write = arch_fault_write(uc);
	struct space_range *r;
	int lost;

	if (si->si_code == SI_KERNEL)
		return fail(
		    DSM_FAIL_CRASH, SIGSEGV, 0,
		    "segmentation fault: general protection (an address that "
		    "cannot exist, or a privileged instruction)");
	if (si->si_code <= 0)
		return fail(DSM_FAIL_CRASH, SIGSEGV, 0,
		            "SIGSEGV raised by kill or raise");
	r = range_of(addr,
	             arch_fault_exec(uc) ? PROT_EXEC
	             : write             ? PROT_WRITE
	                                 : PROT_READ,
	             &lost);
	if (lost)
		return FAULT_LOST;
	if (r == NULL)
		return segfault(uc, addr, NULL);
	if (r->r.kind == DSM_RANGE_KEPT)
		return kept_back(uc, addr);
	if (arch_fault_exec(uc) && !(r->r.prot & PROT_EXEC))
		return segfault(uc, addr, r);
	if (write) {
		int end;

		if (!(r->r.prot & PROT_WRITE))
			return segfault(uc, addr, r);
		/* uffd: the page may still be missing; then SIGBUS follows. */
		if (strcmp(space_backend(), "segv") == 0) {
			end = page_in(uc, r, addr, 1);
			if (end != FAULT_NONE)
				return end;
		}
		if (space_arm(r, addr)) {
			fa.p.counters->faults_arm++;
			return FAULT_NONE;
		}
		return fail(DSM_FAIL_CRASH, SIGSEGV, addr,
		            "cannot open 0x%llx for writing: %s",
		            (unsigned long long)addr, strerror(errno));
	}
	/* A range found by asking, or segv's closed page. */
	return page_in(uc, r, addr, 0);
}

static int
on_bus(const ucontext_t *uc, const siginfo_t *si)
{
	uint64_t addr = (uint64_t)si->si_addr;
	struct space_range *r = space_find(addr);

	if (r == NULL || si->si_code <= 0)
		return fail(DSM_FAIL_CRASH, SIGBUS, addr, "bus error at 0x%llx",
		            (unsigned long long)addr);
	return page_in(uc, r, addr, arch_fault_write(uc));
}

static int
on_other(const siginfo_t *si, int sig)
{
	uint64_t addr = (uint64_t)si->si_addr;

	switch (sig) {
	case SIGFPE:
		return fail(DSM_FAIL_CRASH, SIGFPE, addr,
		            si->si_code == FPE_INTDIV
		                ? "integer division by zero"
		                : "floating-point exception");
	case SIGILL:
		return fail(DSM_FAIL_CRASH, SIGILL, addr,
		            "illegal instruction at 0x%llx",
		            (unsigned long long)addr);
	default:
		return fail(DSM_FAIL_CRASH, (uint32_t)sig, addr, "%s",
		            strsignal(sig));
	}
}

/* For the backtrace, which the client makes. A stack that ran over has its newest
 * frames below its end: the others are there. */
static void
note_context(const ucontext_t *uc)
{
	struct fault_failure *f = &fa.failure;
	uint64_t sp = arch_sp(uc);

	arch_regs(uc, f->regs);
	if (sp >= fa.p.guard_lo && sp < fa.p.stack_lo)
		sp = fa.p.stack_lo;
	f->stack = sp;
	f->stack_len = 0;
	if (sp >= fa.p.stack_lo && sp < fa.p.stack_hi)
		f->stack_len = fa.p.stack_hi - sp;
}

extern char __executable_start[], etext[];

/* Is it the client's code that SLOT_SIGNAL_LATE interrupts, and still in that task?
 * There is nothing to leave before that or after. */
static int
is_late(const ucontext_t *uc)
{
	const struct slot_ctl *ctl = fa.p.ctl;
	uint64_t pc = arch_pc(uc);

	return atomic_load(&ctl->state) == SLOT_RUNNING &&
	       atomic_load(&ctl->attempt) == atomic_load(&ctl->late_attempt) &&
	       atomic_load(&ctl->current) == atomic_load(&ctl->late_current) &&
	       (pc < (uint64_t)__executable_start || pc >= (uint64_t)etext);
}

static void
on_late(ucontext_t *uc, uint64_t tp)
{
	if (!is_late(uc)) {
		atomic_store(&fa.p.ctl->late_waits, 1);
		arch_set_tp(tp);
		return;
	}
	fail(DSM_FAIL_TIMEOUT, 0, 0, "ran longer than %u ms",
	     (unsigned)atomic_load(&fa.p.ctl->late_ms));
	note_context(uc);
	arch_escape(uc, FAULT_FAILED);
}

static void
handler(int sig, siginfo_t *si, void *ucv)
{
	ucontext_t *uc = ucv;
	uint64_t tp = arch_get_tp();
	int end;

	arch_set_tp(fa.p.slot_tp);
	if (sig == SLOT_SIGNAL_LATE) {
		on_late(uc, tp);
		return;
	}
	if (atomic_load_explicit(&fa.p.ctl->state, memory_order_relaxed) !=
	    SLOT_RUNNING) {
		/* Not the client's code: a bug of ours. Say where, die of it.
		 * SIGSYS has no default here (sandbox.h). */
		snprintf(fa.p.ctl->message, sizeof(fa.p.ctl->message),
		         "slot: signal %d at pc 0x%llx, address %p", sig,
		         (unsigned long long)arch_pc(uc), si->si_addr);
		if (sig == SIGSYS) {
			snprintf(fa.p.ctl->message, sizeof(fa.p.ctl->message),
			         "slot: system call %d at pc 0x%llx is not on "
			         "the sandbox's list",
			         si->si_syscall,
			         (unsigned long long)arch_pc(uc));
			_exit(SLOT_EXIT_CRASHED);
		}
		signal(sig, SIG_DFL);
		arch_set_tp(tp);
		return;
	}
	switch (sig) {
	case SIGSEGV:
		end = on_segv(uc, si);
		break;
	case SIGBUS:
		end = on_bus(uc, si);
		break;
	case SIGSYS:
		/* It reads and writes what the call's pointers name. */
		hold_begin();
		end = syscalls_handle(uc, si, atomic_load(&fa.p.ctl->current),
		                      &fa.failure);
		hold_end();
		break;
	default:
		end = on_other(si, sig);
		break;
	}
	if (end == FAULT_NONE) {
		arch_set_tp(tp);
		return;
	}
	note_context(uc);
	arch_escape(uc, end);
}

int
fault_touch(uint64_t addr, uint64_t len, int write)
{
	uint64_t end = addr + len;

	if (end < addr)
		return -1;
	for (uint64_t a = dsm__page_down(addr); a < end; a += DSM_PAGE) {
		struct space_range *r;
		int lost;

		if (zone_holds(a))
			continue; /* the task's own stack */
		r = range_of(a, write ? PROT_WRITE : PROT_READ, &lost);
		if (r == NULL || r->r.kind == DSM_RANGE_KEPT ||
		    (write && !(r->r.prot & PROT_WRITE)))
			return -1;
		if (!r->present && fetch_page(r, a, 0) >= FETCH_UNMAPPED)
			return -1;
		space_open(r, a);
		if (write)
			space_arm(r, a);
	}
	return 0;
}

int
fault_init(const struct fault_params *p)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL,
	                              SIGTRAP, SIGSYS, SIGABRT};
	struct sigaction sa = {.sa_sigaction = handler};
	stack_t st = {0};
	sigset_t late;

	fa.p = *p;
	st.ss_sp = zone_stack(SIGNAL_STACK, DSM_PAGE);
	st.ss_size = SIGNAL_STACK;
	if (st.ss_sp == NULL || sigaltstack(&st, NULL) != 0)
		return DSM_ENOMEM;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigfillset(&sa.sa_mask);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (sigaction(signals[i], &sa, NULL) != 0)
			return DSM_ESYS;
	/* It comes at any time. What started the worker may have blocked it. */
	sa.sa_flags |= SA_RESTART;
	sigemptyset(&late);
	sigaddset(&late, SLOT_SIGNAL_LATE);
	if (sigaction(SLOT_SIGNAL_LATE, &sa, NULL) != 0 ||
	    sigprocmask(SIG_UNBLOCK, &late, NULL) != 0)
		return DSM_ESYS;
	return DSM_OK;
}
