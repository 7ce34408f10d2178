/*
 * The slot: a bare process that becomes, task by task, an image of the client's.
 *
 *   start     ELF at an unusual address; leaves the kernel's stack, unmaps what
 *             the kernel mapped (zone.c)
 *   RUN       new ranges are reserved (space.c), the run's context is kept
 *   EXEC      for each task: task page written, client code called (task.c),
 *             private pages compared and dropped (writeset.c); then WRITES to
 *             the client, DONE to the worker
 *   before    the sandbox is entered (sandbox.h): no client code runs outside it
 *   end       control stream closed, or a task crashed, or the client is lost
 *
 * One thread, no locks. Errors that end the slot are left as a sentence in the
 * control page and as an exit status (slotctl.h); the worker reports them.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "arch.h"
#include "arena.h"
#include "fetch.h"
#include "hold.h"
#include "output.h"
#include "sandbox.h"
#include "slotctl.h"
#include "space.h"
#include "syscalls.h"
#include "task.h"
#include "taskpage.h"
#include "tls.h"
#include "verbs.h"
#include "writeset.h"
#include "zone.h"

#define MAIN_STACK (UINT64_C(1) << 20)
#define TASK_STACK (UINT64_C(8) << 20)
/* How long to spin for a page, and for the next work. */
#define SPIN_PAGE_NS (100 * DSM_US)
#define SPIN_WORK_NS (60 * DSM_US)
/* Of a failed task's stack, for its backtrace. */
#define CONTEXT_STACK (UINT64_C(32) << 10)
#define MAX_CONTROL (64u << 20)

static struct {
	uint32_t number;
	uint64_t session;
	int embedded;
	int verbs, verbs_only; /* go over to a queue pair */
	char choice[160];      /* of its device */
	struct fetch_direct direct;
	struct slot_ctl *ctl;
	struct dsm_image image;
	struct dsm_conn *control, *data;
	struct dsm_counters counters; /* of the attempt */
	struct places places;
	struct dsm_msg_run run; /* scalars only; pointers are cleared */
	int prepared;           /* for the tasks of this run */
	struct taskrt_task_page *page;
	struct dsm_wbuf done;
} sl;

static void __attribute__((noreturn, format(printf, 2, 3)))
stop(int status, const char *fmt, ...)
{
	va_list ap;

	if (fmt != NULL && sl.ctl != NULL) {
		va_start(ap, fmt);
		vsnprintf(sl.ctl->message, sizeof(sl.ctl->message), fmt, ap);
		va_end(ap);
	}
	_exit(status);
}

static int
is_over_verbs(void)
{
	return strcmp(dsm__conn_transport(sl.data), "verbs") == 0;
}

/* Nothing comes or goes over the data link any more; or what came could not be
 * kept. */
static void __attribute__((noreturn)) stop_lost(const char *what)
{
	const char *why = dsm__conn_why(sl.data);

	if (sl.image.write_errno != 0)
		stop(SLOT_EXIT_MEMORY,
		     "no room for the program's pages on the worker's machine: "
		     "%s; free memory there",
		     strerror(sl.image.write_errno));

	sl.ctl->fabric_failed = *why != '\0';
	stop(SLOT_EXIT_DATA, "%s", *why != '\0' ? why : what);
}

/* --- one attempt --- */

struct outcome {
	int failed;
	struct dsm_rec_failure failure;
	struct dsm_wbuf text; /* message, context */
};

/* Registers, then the address of the stack's bytes that follow. */
static int
put_context(struct dsm_wbuf *w, const struct fault_failure *f)
{
	uint64_t len =
	    f->stack_len < CONTEXT_STACK ? f->stack_len : CONTEXT_STACK;
	int err = dsm__wbuf_put(w, f->regs, sizeof(f->regs));

	if (err == DSM_OK)
		err = dsm__wbuf_put(w, &f->stack, sizeof(f->stack));
	if (err == DSM_OK)
		err = dsm__wbuf_put(w, (const void *)f->stack, len);
	return err;
}

static void
note_failure(struct outcome *out)
{
	const struct fault_failure *f = fault_last();
	struct dsm_rec_failure *rec = &out->failure;
	const char *text = f->text;
	size_t len = strlen(text);

	/* taskrt_fail leaves its message, then aborts. */
	if (f->signal == SIGABRT && sl.page != NULL && sl.page->failure[0]) {
		text = sl.page->failure;
		len = strnlen(text, sizeof(sl.page->failure));
	}
	out->failed = 1;
	rec->task = atomic_load(&sl.ctl->current);
	rec->addr = f->addr;
	rec->kind = f->kind;
	rec->signal = f->signal;
	rec->text_off = 0;
	rec->text_len = (uint32_t)len;
	/* Without memory for it there is just less to say. */
	if (dsm__wbuf_put(&out->text, text, len) != DSM_OK)
		rec->text_len = 0;
	else if (put_context(&out->text, f) == DSM_OK)
		rec->context_len = (uint32_t)out->text.len - rec->text_len;
}

/* Tasks [lo, hi) as one writer. Returns 0 to go on, 1 when it failed. */
static int
one_writer(uint64_t lo, uint64_t hi, struct outcome *out)
{
	enum fault_end end;
	int err;

	if (sl.page != NULL) {
		sl.page->in_task = 1;
		sl.page->failure[0] = '\0';
	}
	if (arena_begin() != 0)
		stop_lost("no answer from the program");
	end = task_call(lo, hi);
	if (end == FAULT_LOST)
		stop_lost("no answer from the program");
	if (output_flush() != DSM_OK)
		stop_lost("cannot send a task's output");
	if (end == FAULT_FAILED) {
		note_failure(out);
		if (fetch_settle() != DSM_OK)
			stop_lost("no answer from the program");
		writeset_discard();
		return 1;
	}
	if (arena_settle() != 0)
		stop(SLOT_EXIT_CRASHED, "a task damaged its allocator's state");
	/* No PAGES may be under way while WRITES fill the link. */
	err = fetch_settle();
	if (err == DSM_OK)
		err = writeset_collect(lo);
	if (err == DSM_ECONN || err == DSM_ETIMEDOUT || err == DSM_EPROTO)
		stop_lost("cannot send a write set");
	if (err != DSM_OK)
		stop(SLOT_EXIT_MEMORY, "cannot make a write set: %s",
		     dsm__strerror(err));
	sl.counters.tasks += hi - lo;
	return 0;
}

static void
send_done(const struct dsm_msg_exec *x, struct outcome *out)
{
	struct dsm_msg_done m = {
	    .session = x->session,
	    .run = x->run,
	    .attempt = x->attempt,
	};
	static struct dsm_wbuf failure, counters;
	struct iovec iov;
	int err;

	if (places_send(&sl.places) != DSM_OK)
		stop(SLOT_EXIT_OK, "the worker is gone");
	err = writeset_finish(&m.n_bytes, &m.sets, &m.masks);
	if (err == DSM_ENOMEM)
		stop(SLOT_EXIT_MEMORY, "cannot make a write set: %s",
		     dsm__strerror(err));
	if (err != DSM_OK)
		stop_lost("cannot send a write set");
	if (out->failed) {
		dsm__wbuf_reset(&failure);
		err = dsm__pack_failure(&failure, &out->failure);
		m.failures = (struct dsm_array){failure.ptr, 1};
		m.texts =
		    (struct dsm_blob){out->text.ptr, (uint32_t)out->text.len};
	}
	sl.counters.chunks++;
	dsm__wbuf_reset(&counters);
	if (err == DSM_OK)
		err = dsm__counters_pack(&counters, &sl.counters);
	m.counters = (struct dsm_blob){counters.ptr, (uint32_t)counters.len};
	dsm__wbuf_reset(&sl.done);
	if (err == DSM_OK)
		err = dsm__encode_done(&sl.done, &m);
	if (err != DSM_OK)
		stop(SLOT_EXIT_SETUP, "cannot encode DONE: %s",
		     dsm__strerror(err));
	iov = (struct iovec){sl.done.ptr, sl.done.len};
	err = dsm__conn_send(sl.control, DSM_MSG_DONE, 0, 0, &iov, 1);
	if (err == DSM_OK)
		err = dsm__conn_drain(sl.control, dsm__deadline_ms(30000));
	if (err != DSM_OK)
		stop(SLOT_EXIT_OK, "the worker is gone");
}

static void prepare_run(void);

static uint64_t
kernel_faults(void)
{
	struct rusage ru;

	return getrusage(RUSAGE_SELF, &ru) == 0 ? (uint64_t)ru.ru_minflt : 0;
}

static void
exec(const struct dsm_msg_exec *x)
{
	struct outcome out = {0};
	int isolate =
	    sl.run.mode == DSM_MODE_TASKS || (sl.run.flags & DSM_RUN_ISOLATE);
	uint64_t faults = kernel_faults();

	if (x->run != sl.run.run || x->hi <= x->lo || x->lo < sl.run.begin ||
	    x->hi > sl.run.end)
		stop(SLOT_EXIT_PROTO,
		     "EXEC of tasks %llu-%llu of run %llu, "
		     "which is not what RUN announced",
		     (unsigned long long)x->lo, (unsigned long long)x->hi,
		     (unsigned long long)x->run);
	dsm__ticks_calibrate();
	places_begin(&sl.places, x->run, x->attempt);
	if (!sl.prepared)
		prepare_run();
	atomic_store(&sl.ctl->attempt, x->attempt);
	writeset_begin(x->attempt);
	output_begin(x->run, x->attempt);
	if (isolate) {
		for (uint64_t i = x->lo; i < x->hi; i++)
			if (one_writer(i, i + 1, &out))
				break;
	} else {
		one_writer(x->lo, x->hi, &out);
	}
	sl.counters.faults_kernel += kernel_faults() - faults;
	send_done(x, &out);
	atomic_store_explicit(&sl.ctl->state, SLOT_IDLE, memory_order_release);
	memset(&sl.counters, 0, sizeof(sl.counters));
	if (out.failed)
		stop(SLOT_EXIT_CRASHED, NULL);
}

/* --- a new run --- */

static void
find_task_page(uint64_t addr)
{
	struct space_range *r = space_find(addr);

	sl.page = NULL;
	/* Its page is data and loses the right to be run: a task that got there would
	 * fault for ever. */
	if (addr == 0 || r == NULL || (addr & DSM_PAGE_MASK) ||
	    (r->r.prot & PROT_EXEC) != 0)
		return;
	/* Present and writable for the slot itself, whatever tasks do. From the
	 * first store on it is private, and cannot be evicted. */
	hold_begin();
	if (fetch_page(r, addr, 0) >= FETCH_UNMAPPED)
		stop_lost("cannot fetch the task page");
	space_open(r, addr);
	if (!space_arm_own(addr))
		stop(SLOT_EXIT_SETUP, "cannot open the task page: %s",
		     strerror(errno));
	sl.page = (struct taskrt_task_page *)addr;
	*(volatile char *)sl.page->failure = '\0';
	hold_end();
	writeset_private(PRIVATE_PAGE, addr, addr + sizeof(*sl.page));
}

/* What the worker has dropped from the image since the last RUN, but kept. */
static void
let_go(void)
{
	struct slot_ctl *ctl = sl.ctl;
	uint64_t n = atomic_load_explicit(&ctl->n_stale, memory_order_acquire);
	uint64_t i = atomic_load(&ctl->n_let_go);

	if (atomic_exchange(&ctl->all_stale, 0))
		space_let_go(0, UINT64_MAX / DSM_PAGE);
	for (; i < n; i++) {
		const struct slot_extent *x = &ctl->stale[i % SLOT_STALE];

		space_let_go(atomic_load(&x->start), atomic_load(&x->n_pages));
	}
	atomic_store_explicit(&ctl->n_let_go, n, memory_order_release);
}

static void
take_run(const struct dsm_frame *f)
{
	struct dsm_msg_run m;
	struct dsm_error e = {0};
	int err;

	if (dsm__decode_run(f->body, f->len, &m) != DSM_OK)
		stop(SLOT_EXIT_PROTO, "malformed RUN");
	if (m.flags & DSM_RUN_RANGES) {
		err = space_set(&m.ranges, 0, &e);
		if (err != DSM_OK)
			stop(err == DSM_EINVAL ? SLOT_EXIT_COLLIDES
			                       : SLOT_EXIT_SETUP,
			     "%s", e.text);
	}
	sl.run = m;
	sl.run.name = (struct dsm_str){0};
	sl.run.ranges = sl.run.drops = sl.run.updates = (struct dsm_array){0};
	sl.run.pages = (struct dsm_blob){0};
	sl.run.advice = (struct dsm_array){0};
	fetch_set_run(m.run);
	sl.places.asked = (m.flags & DSM_RUN_FETCHED) != 0;
	if (fetch_set_advice(&m.advice) != DSM_OK)
		stop(SLOT_EXIT_PROTO, "malformed advice in RUN");
	space_new_run();
	let_go();
	fault_new_run();
	writeset_new_run(m.run);
	writeset_private(PRIVATE_TLS, m.tls_start, m.tls_end);
	writeset_private(PRIVATE_STDOUT, m.out_start, m.out_end);
	sl.prepared = 0;
}

/*
 * At the first EXEC: the worker changes the image when no slot has one, so a slot
 * that is told of a run and has nothing to do must not fetch.
 */
static void
prepare_run(void)
{
	const struct dsm_msg_run *m = &sl.run;
	struct task_run t;

	find_task_page(m->task_page);
	arena_set_page(sl.page);
	t = (struct task_run){
	    .mode = m->mode,
	    .fn = m->fn,
	    .ctx = m->ctx,
	    .at_end = sl.page != NULL ? sl.page->at_end : NULL,
	    .tp = m->tp,
	    .mxcsr = m->mxcsr,
	    .fpucw = m->fpucw,
	};
	task_set_run(&t);
	sl.prepared = 1;
}

/* --- start and loop --- */

/*
 * Sleep until the worker says something. The data link is watched, too: what was sent
 * over it may not have arrived, and somebody waits for that. Only its end counts:
 * whatever else comes is read in time. Workers and clients that are alive may be silent
 * for any time.
 */
static void
sleep_for_work(void)
{
	int over = dsm__conn_is_polled(sl.data), events;
	struct pollfd p[2] = {{dsm__conn_fd(sl.control), POLLIN, 0},
	                      {SLOT_FD_DATA, POLLRDHUP, 0}};

	/* A queue pair has more ways to end than its socket's; not all of them wake
	 * its descriptor. */
	if (over) {
		p[1] = (struct pollfd){dsm__conn_fd(sl.data), POLLIN, 0};
		if (dsm__conn_arm(sl.data, 0, &events) == DSM_EAGAIN) {
			if (dsm__conn_error(sl.data) != DSM_OK)
				stop_lost("the connection was closed");
			return;
		}
	}
	if (poll(p, 2, over ? DSM_CHECK_MS : -1) > 0 && p[1].revents != 0 &&
	    !over)
		stop_lost("the connection was closed");
}

static void
serve(void)
{
	uint64_t idle_since = dsm__now();

	for (;;) {
		struct dsm_frame f;
		struct dsm_msg_exec x;
		int err =
		    dsm__conn_recv_wait(sl.control, dsm__now() + SPIN_WORK_NS,
		                        SPIN_WORK_NS, &f, NULL);

		if (err == DSM_ETIMEDOUT) {
			sleep_for_work();
			continue;
		}
		if (err == DSM_ECONN)
			stop(SLOT_EXIT_OK, NULL);
		if (err != DSM_OK)
			stop(SLOT_EXIT_PROTO, "control stream: %s",
			     dsm__strerror(err));
		switch (f.type) {
		case DSM_MSG_RUN:
			take_run(&f);
			idle_since = dsm__now();
			break;
		case DSM_MSG_EXEC:
			if (dsm__decode_exec(f.body, f.len, &x) != DSM_OK)
				stop(SLOT_EXIT_PROTO, "malformed EXEC");
			sl.counters.dispatch_ns += dsm__now() - idle_since;
			exec(&x);
			idle_since = dsm__now();
			break;
		default:
			stop(SLOT_EXIT_PROTO, "unexpected %s from the worker",
			     dsm__msg_name(f.type));
		}
	}
}

static void
connect_links(void)
{
	const struct dsm_conn_ops *data =
	    sl.embedded ? &dsm__shm_ops : &dsm__tcp_ops;

	if (dsm__conn_create(&dsm__shm_ops, SLOT_FD_CONTROL, MAX_CONTROL,
	                     &sl.control) != DSM_OK ||
	    dsm__conn_create(data, SLOT_FD_DATA, MAX_CONTROL, &sl.data) !=
	        DSM_OK)
		stop(SLOT_EXIT_SETUP, "no memory for the connections");
	if (sl.ctl->tls.on && tls_take_over(sl.data, &sl.ctl->tls) != DSM_OK)
		stop(SLOT_EXIT_SETUP, "cannot go on with TLS");
}

static void
send_link(const char *transport, const char *text)
{
	const struct dsm_msg_link m = {sl.session, dsm__str(transport),
	                               dsm__str(text)};
	struct dsm_wbuf w = {0};
	struct iovec iov;
	int err = dsm__encode_link(&w, &m);

	iov = (struct iovec){w.ptr, w.len};
	if (err == DSM_OK)
		err = dsm__conn_send(sl.control, DSM_MSG_LINK, 0, 0, &iov, 1);
	dsm__wbuf_fini(&w);
	if (err != DSM_OK)
		stop(SLOT_EXIT_OK, "the worker is gone");
}

static void
go_over(void)
{
	char text[VERBS_TEXT_MAX] = "";

	switch (verbs_go_over(sl.data, sl.choice, &sl.direct, text)) {
	case VERBS_OVER:
		send_link("verbs", text);
		return;
	case VERBS_STAYED:
		if (sl.verbs_only)
			stop(SLOT_EXIT_SETUP, "cannot use verbs: %s", text);
		send_link(dsm__conn_transport(sl.data), text);
		return;
	case VERBS_LOST:
		break;
	}
	sl.ctl->fabric_failed = 1;
	stop(SLOT_EXIT_DATA, "%s", text);
}

static void
slot_main(void *arg)
{
	struct dsm_error e = {0};
	struct space_params space = {.image = &sl.image, .heap_fd = -1};
	struct fetch_params fetch = {.spin_ns = SPIN_PAGE_NS};
	struct task_params task = {0};
	struct writeset_params ws = {.stage_fd = -1};
	void *states;

	(void)arg;
	if (zone_leave_kernel_mappings() != 0)
		stop(SLOT_EXIT_SETUP, "cannot read /proc/self/maps: %s",
		     strerror(errno));
	states = zone_reserve(DSM_IMAGE_STATES);
	if (dsm__image_open(&sl.image, SLOT_FD_PAGES, SLOT_FD_STATES, states) !=
	    DSM_OK)
		stop(SLOT_EXIT_SETUP, "cannot map the image's states: %s",
		     strerror(errno));
	connect_links();
	if (sl.verbs)
		go_over();
	if (sl.embedded) {
		space.heap_fd = SLOT_FD_HEAP;
		ws.stage_fd = SLOT_FD_STAGE;
	}
	space.force_segv = (int)sl.ctl->force_segv;
	space.must_keep = (int)sl.ctl->must_keep;
	if (space_init(&space, &e) != DSM_OK)
		stop(SLOT_EXIT_SETUP, "%s", e.text);
	atomic_store(&sl.ctl->can_keep, (uint32_t)space_can_keep());
	atomic_store(&sl.ctl->can_evict, (uint32_t)space_can_evict());
	hold_init(sl.ctl);
	fetch.image = &sl.image;
	fetch.view = zone_reserve(DSM_VIEW_SIZE);
	fetch.data = sl.data;
	fetch.ctl = sl.ctl;
	fetch.slot = sl.number;
	fetch.counters = &sl.counters;
	sl.places.control = sl.control;
	sl.places.session = sl.session;
	fetch.places = &sl.places;
	if (sl.direct.ring != NULL)
		fetch.direct = &sl.direct;
	fetch_init(&fetch);
	ws.data = sl.data;
	ws.control = sl.control;
	ws.session = sl.session;
	ws.counters = &sl.counters;
	ws.allow_lz4 = !sl.embedded &&
	               strcmp(dsm__conn_transport(sl.data), "verbs") != 0 &&
	               strncmp(dsm__conn_peer(sl.data), "127.", 4) != 0;
	writeset_init(&ws);
	output_init(sl.data);
	task.ctl = sl.ctl;
	task.counters = &sl.counters;
	task.slot_tp = arch_get_tp();
	if (task_init(&task, TASK_STACK) != DSM_OK)
		stop(SLOT_EXIT_SETUP, "cannot make the task's stack: %s",
		     strerror(errno));
	if (syscalls_init() != 0) {
		if (errno != EINVAL)
			stop(SLOT_EXIT_SETUP, "syscall user dispatch: %s",
			     strerror(errno));
		arena_unasked();
	}
	if (!sl.ctl->no_sandbox && sandbox_enter(is_over_verbs(), &e) != DSM_OK)
		stop(SLOT_EXIT_SETUP, "%s", e.text);
	serve();
}

int
main(int argc, char **argv)
{
	struct dsm_error e = {0};
	void *ctl, *stack;

	if (argc != 4 && argc != 5) {
		fprintf(stderr, "taskrt-slot: started by taskrt-worker or "
		                "libtaskrt only\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "taskrt-slot");
	/* malloc stays in the brk heap, inside the zone. */
	mallopt(M_MMAP_MAX, 0);
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
	mallopt(M_TOP_PAD, 1 << 20);
	arch_init();
	sl.number = (uint32_t)strtoul(argv[1], NULL, 10);
	sl.session = strtoull(argv[2], NULL, 10);
	sl.embedded = strcmp(argv[3], "shm") == 0;
	sl.verbs_only = strcmp(argv[3], "verbs-only") == 0;
	sl.verbs = sl.verbs_only || strcmp(argv[3], "verbs") == 0;
	if (argc == 5)
		snprintf(sl.choice, sizeof(sl.choice), "%s", argv[4]);
	ctl = zone_reserve(DSM_PAGE);
	sl.ctl = mmap(ctl, DSM_PAGE, PROT_READ | PROT_WRITE,
	              MAP_SHARED | MAP_FIXED_NOREPLACE, SLOT_FD_CTL, 0);
	if (sl.ctl == MAP_FAILED) {
		fprintf(stderr, "taskrt-slot: control page: %s\n",
		        strerror(errno));
		return SLOT_EXIT_SETUP;
	}
	if (!sl.ctl->no_sandbox && sandbox_early(&e) != DSM_OK)
		stop(SLOT_EXIT_SETUP, "%s", e.text);
	stack = zone_stack(MAIN_STACK, DSM_PAGE);
	if (stack == NULL)
		stop(SLOT_EXIT_SETUP, "no memory for the slot's stack");
	dsm__clock_no_vdso();
	clearenv(); /* it lies on the stack that goes: libibverbs would look */
	arch_move((char *)stack + MAIN_STACK, slot_main, NULL);
}
