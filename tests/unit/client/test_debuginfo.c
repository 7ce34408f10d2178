/* Names, lines and call chains of this very program. */
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#include "../../../taskrt/client/debuginfo.h"
#include "../../../taskrt/slot/arch.h"
#include "../../test.h"

static volatile int a_static[10];
#define STACK_BYTES 8192u

static struct dsm_wbuf context;
static int line_of_trap;

/* A context as a slot makes one: registers, address of the stack, the stack. */
static void
on_trap(int sig, siginfo_t *si, void *ucv)
{
	static uint8_t stack[STACK_BYTES];
	struct iovec to = {NULL, sizeof(stack)}, from = to;
	uint64_t regs[ARCH_REGS], sp = arch_sp(ucv);

	(void)sig;
	(void)si;
	arch_regs(ucv, regs);
	dsm__wbuf_reset(&context);
	dsm__wbuf_put(&context, regs, sizeof(regs));
	dsm__wbuf_put(&context, &sp, sizeof(sp));
	/* By the kernel: a sanitizer minds who reads other frames. */
	to.iov_base = stack;
	from.iov_base = (void *)(uintptr_t)sp;
	if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) > 0)
		dsm__wbuf_put(&context, stack, sizeof(stack));
	/* Go on behind the instruction, which has two bytes. */
	((ucontext_t *)ucv)->uc_mcontext.gregs[REG_RIP] += 2;
}

static __attribute__((noinline)) void
trap_here(int depth)
{
	volatile char frame[100];

	frame[0] = (char)depth;
	if (depth > 0) {
		trap_here(depth - 1);
	} else {
		line_of_trap = __LINE__ + 1;
		__asm__ volatile("ud2");
	}
	frame[1] = frame[0];
}

static void
take_context(void)
{
	struct sigaction sa = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO},
	                 old;

	/* Not in the handler: malloc. */
	dsm__wbuf_reset(&context);
	MUST_OK(dsm__wbuf_reserve(&context, STACK_BYTES + 1024));
	MUST_BE(sigaction(SIGILL, &sa, &old), 0);
	trap_here(3);
	sigaction(SIGILL, &old, NULL);
	/* The stack is another one by now: what was sent must do. */
	volatile char over[2048];
	memset((char *)over, 0x5a, sizeof(over));
}

static void
test_a_failure_has_its_calls_and_lines(void)
{
	struct taskrt__debuginfo *d = taskrt__debuginfo_open();
	struct dsm_wbuf w = {0};
	size_t own, n;
	char at[100];

	take_context();
	n = taskrt__debuginfo_backtrace(
	    d, (struct dsm_blob){context.ptr, (uint32_t)context.len}, &w, &own);
	MUST_OK(dsm__wbuf_put(&w, "", 1));
	const char *text = (const char *)w.ptr;
	snprintf(at, sizeof(at), "trap_here, test_debuginfo.c:%d\n",
	         line_of_trap);
	MUST(n >= 6);
	MUST_BE(own, 0);
	MUST(strncmp(text, at, strlen(at)) == 0);
	for (int i = 0; i < 4; i++) {
		MUST(strncmp(text, "trap_here, test_debuginfo.c:", 28) == 0);
		text = strchr(text, '\n') + 1;
	}
	MUST(strncmp(text, "take_context, test_debuginfo.c:", 31) == 0);
	text = strchr(text, '\n') + 1;
	MUST(strncmp(text, "test_a_failure_has_its_calls_and_lines, ", 40) ==
	     0);
	dsm__wbuf_fini(&w);
	taskrt__debuginfo_close(d);
}

static void
test_a_damaged_context_is_no_backtrace_or_a_short_one(void)
{
	struct taskrt__debuginfo *d = taskrt__debuginfo_open();
	unsigned seed = 5;

	take_context();
	for (unsigned i = 0; i < 50; i++) {
		uint8_t *bytes = malloc(context.len);
		uint32_t len = (uint32_t)rand_r(&seed) % (context.len + 1);
		struct dsm_wbuf w = {0};
		size_t own;

		MUST(bytes != NULL);
		memcpy(bytes, context.ptr, context.len);
		for (unsigned k = 0; k < i; k++)
			bytes[(unsigned)rand_r(&seed) % context.len] ^=
			    (uint8_t)rand_r(&seed);
		taskrt__debuginfo_backtrace(d, (struct dsm_blob){bytes, len},
		                            &w, &own);
		MUST(own < w.len || own == SIZE_MAX);
		dsm__wbuf_fini(&w);
		free(bytes);
	}
	taskrt__debuginfo_close(d);
}

static void
test_data_of_the_program_has_names(void)
{
	struct taskrt__debuginfo *d = taskrt__debuginfo_open();
	char text[200];
	int local = 0;

	a_static[0] = 1;
	taskrt__debuginfo_data(d, (uintptr_t)&a_static, text, sizeof(text));
	MUST(strncmp(text, "a_static in ", 12) == 0);
	taskrt__debuginfo_data(d, (uintptr_t)&a_static[2], text, sizeof(text));
	MUST(strncmp(text, "a_static+0x8 in ", 16) == 0);
	taskrt__debuginfo_data(d, (uintptr_t)&local, text, sizeof(text));
	MUST(strcmp(text, "on the launching thread's stack") == 0);
	taskrt__debuginfo_data(d, 8, text, sizeof(text));
	MUST(text[0] == '\0');
	taskrt__debuginfo_code(d, 8, text, sizeof(text));
	MUST(text[0] == '\0');
	taskrt__debuginfo_close(d);
}

static const char *
no_libdw(void)
{
	struct taskrt__debuginfo *d = taskrt__debuginfo_open();
	char line[100];

	taskrt__debuginfo_line(d, (uintptr_t)no_libdw, line, sizeof(line));
	taskrt__debuginfo_close(d);
	return line[0] != '\0' ? NULL
	                       : "no libdw.so.1 (package libdw1), or built "
	                         "without debug information";
}

SUITE_UNLESS(taskrt_client_debuginfo, "taskrt.client.debuginfo", no_libdw,
             T(test_a_failure_has_its_calls_and_lines),
             T(test_a_damaged_context_is_no_backtrace_or_a_short_one),
             T(test_data_of_the_program_has_names));
