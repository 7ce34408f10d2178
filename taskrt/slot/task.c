#include "task.h"

#include "../../dsm/base/clock.h"
#include "arch.h"
#include "zone.h"

/* Addresses cost nothing, and one frame may be large: what steps over the guard
 * ends up in memory of the slot's own. */
#define GUARD (UINT64_C(4) << 30)

static struct {
	struct task_params p;
	struct task_run run;
	uint8_t *stack;
	uint64_t stack_size;
	uint64_t lo, hi;
} tk;

int
task_init(const struct task_params *p, uint64_t stack_size)
{
	struct fault_params fp = {
	    .ctl = p->ctl,
	    .counters = p->counters,
	    .slot_tp = p->slot_tp,
	};

	tk.p = *p;
	tk.stack_size = stack_size;
	tk.stack = zone_stack(stack_size, GUARD);
	if (tk.stack == NULL)
		return DSM_ENOMEM;
	fp.stack_lo = (uint64_t)tk.stack;
	fp.stack_hi = fp.stack_lo + stack_size;
	fp.guard_lo = fp.stack_lo - GUARD;
	return fault_init(&fp);
}

void
task_set_run(const struct task_run *run)
{
	tk.run = *run;
}

/* A struct taskrt_task of the client. */
struct client_task {
	void (*fn)(void *arg);
	void *arg;
};

static void
show(uint64_t current)
{
	atomic_store_explicit(&tk.p.ctl->current, current,
	                      memory_order_relaxed);
}

/*
 * On the task's stack, with the client's thread pointer: nothing here may use
 * the slot's thread-local storage.
 */
static void
client_side(void *arg)
{
	uint64_t lo = tk.lo, hi = tk.hi;
	uint64_t ctx = tk.run.ctx;

	(void)arg;
	arch_set_tp(tk.run.tp);
	arch_set_fp(tk.run.mxcsr, tk.run.fpucw);
	switch (tk.run.mode) {
	case DSM_MODE_TASKS:
		for (uint64_t i = lo; i < hi; i++) {
			const struct client_task *t =
			    (const struct client_task *)ctx + i;

			show(i);
			t->fn(t->arg);
		}
		break;
	case DSM_MODE_FOR:
		for (uint64_t i = lo; i < hi; i++) {
			show(i);
			((void (*)(size_t, void *))tk.run.fn)(i, (void *)ctx);
		}
		break;
	default:
		show(lo);
		((void (*)(size_t, size_t, void *))tk.run.fn)(lo, hi,
		                                              (void *)ctx);
		break;
	}
	if (tk.run.at_end != NULL)
		tk.run.at_end();
	arch_set_tp(tk.p.slot_tp);
}

enum fault_end
task_call(uint64_t lo, uint64_t hi)
{
	uint64_t start = dsm__now();
	int end;

	tk.lo = lo;
	tk.hi = hi;
	show(lo);
	atomic_store_explicit(&tk.p.ctl->state, SLOT_RUNNING,
	                      memory_order_release);
	end = arch_call(tk.stack + tk.stack_size, client_side, NULL);
	atomic_store_explicit(&tk.p.ctl->state, SLOT_PACKING,
	                      memory_order_release);
	arch_reset_fp();
	tk.p.counters->exec_ns += dsm__now() - start;
	return (enum fault_end)end;
}
