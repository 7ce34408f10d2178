/* The launching thread's registers that a task starts with; one place for what
 * differs between architectures. */
#include "context.h"

#include "taskpage.h"

#include <unistd.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <sys/resource.h>

#include "../../dsm/base/page.h"
#include "../../dsm/heap/map.h"

#define STACK_DEFAULT (UINT64_C(8) << 20)
#define STACK_MIN (UINT64_C(256) << 10)
#define STACK_MAX (UINT64_C(1) << 30)

#if defined(__x86_64__)

static void
capture_registers(struct taskrt__context *c)
{
	uint16_t cw;

	__asm__ volatile("stmxcsr %0" : "=m"(c->mxcsr));
	__asm__ volatile("fnstcw %0" : "=m"(cw));
	c->fpucw = cw;
	__asm__ volatile("mov %%fs:0, %0" : "=r"(c->tp));
}

#elif defined(__aarch64__)

static void
capture_registers(struct taskrt__context *c)
{
	uint64_t fpcr;

	__asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
	c->mxcsr = (uint32_t)fpcr;
	c->fpucw = 0;
	__asm__ volatile("mrs %0, tpidr_el0" : "=r"(c->tp));
}

#else
#error "taskrt: unknown architecture"
#endif

/* A task gets as much stack as the main thread may have, within reason. */
static uint64_t
stack_size(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_STACK, &limit) != 0 ||
	    limit.rlim_cur == RLIM_INFINITY)
		return STACK_DEFAULT;
	if (limit.rlim_cur < STACK_MIN)
		return STACK_MIN;
	if (limit.rlim_cur > STACK_MAX)
		return STACK_MAX;
	return dsm__page_up(limit.rlim_cur);
}

/*
 * Tasks that print fill their copies of stdout's buffer: no race, and nothing for
 * the program. One that the program has not used yet gets a buffer of ours, or
 * each task would allocate one. Reads glibc's struct _IO_FILE, whose layout is
 * part of its ABI.
 */
static void
stdout_buffer(struct taskrt__context *c)
{
	if (stdout->_IO_buf_base == NULL)
		setvbuf(stdout, taskrt__task_page.out,
		        /* It may have chosen lines and no buffer. */
		        __flbf(stdout) || isatty(STDOUT_FILENO) ? _IOLBF
		                                                : _IOFBF,
		        sizeof(taskrt__task_page.out));
	c->out_start = (uintptr_t)stdout->_IO_buf_base;
	c->out_end = (uintptr_t)stdout->_IO_buf_end;
}

void
taskrt__context_capture(struct taskrt__context *c)
{
	capture_registers(c);
	dsm__map_tls(&c->tls_start, &c->tls_end);
	stdout_buffer(c);
	c->stack_size = stack_size();
}
