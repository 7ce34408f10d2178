/*
 * A process that behaves like a slot, well or badly, without running anything:
 * for the worker's tests. Static, as the real one.
 *
 *   fakeslot report STATUS      tell on descriptor 3 how it was started, wait
 *                               for its end, exit with STATUS
 *   fakeslot NUMBER SESSION TRANSPORT [DEVICE]   a slot; how it behaves says the
 *                               DEVICE (FAKE_GOES_OVER …), the RUN's `fn`
 *                               at start (enum start) and an EXEC's `lo`
 *                               (enum act)
 *
 * Its DONE carries struct fake_facts as counters.
 */
#include "fakeslot.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/transport/conn.h"
#include "../../dsm/wire/wire.h"
#include "../../taskrt/slot/slotctl.h"

/* The tests patch the last character: two programs out of one. */
static const volatile char variant_mark[] = FAKE_MARK;

static struct fake_facts facts;
static struct slot_ctl *ctl;
static struct dsm_conn *control;
static uint64_t start_act, session;

/* --- report --- */

static int
report(int argc, char **argv)
{
	FILE *f = fdopen(3, "r+");
	struct sigaction sa;
	sigset_t set;
	int fds = 0, blocked = 0, handled = 0;

	for (int fd = 3; fd < 256; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			fds |= fd < 30 ? 1 << fd : 1 << 30;
	sigprocmask(SIG_SETMASK, NULL, &set);
	for (int sig = 1; sig < 65; sig++) {
		blocked += sigismember(&set, sig) == 1;
		if (sigaction(sig, NULL, &sa) == 0 && sa.sa_handler != SIG_DFL)
			handled++;
	}
	fprintf(f, "args %d fds %#x env %d blocked %d handled %d implies %d\n",
	        argc, fds, environ != NULL && environ[0] != NULL, blocked,
	        handled, (personality(0xffffffff) & READ_IMPLIES_EXEC) != 0);
	fflush(f);
	while (fgetc(f) != EOF)
		;
	return atoi(argv[2]);
}

/* --- slot --- */

static void
send_done(const struct dsm_msg_exec *x, const char *crash)
{
	struct dsm_msg_done m = {
	    .session = x->session,
	    .run = x->run,
	    .attempt = x->attempt,
	    .n_bytes = x->lo & 1 ? 8 : 0,
	    .counters = {(const uint8_t *)&facts, sizeof(facts)}};
	struct dsm_rec_failure failure = {
	    .task = x->lo, .kind = DSM_FAIL_CRASH, .signal = SIGSEGV};
	struct dsm_wbuf body = {0}, packed = {0};
	struct iovec iov;

	if (crash != NULL) {
		dsm__pack_failure(&packed, &failure);
		m.failures = (struct dsm_array){packed.ptr, 1};
	}
	dsm__encode_done(&body, &m);
	iov = (struct iovec){body.ptr, body.len};
	dsm__conn_send(control, DSM_MSG_DONE, 0, 0, &iov, 1);
	dsm__conn_drain(control, dsm__deadline_ms(5000));
	dsm__wbuf_fini(&body);
	dsm__wbuf_fini(&packed);
}

static void
fabric_failed(void)
{
	ctl->fabric_failed = 1;
	snprintf(ctl->message, sizeof(ctl->message), FAKE_FABRIC_TEXT);
	exit(SLOT_EXIT_DATA);
}

static void
send_link(const char *transport, const char *text)
{
	const struct dsm_msg_link m = {session, dsm__str(transport),
	                               dsm__str(text)};
	struct dsm_wbuf body = {0};
	struct iovec iov;

	dsm__encode_link(&body, &m);
	iov = (struct iovec){body.ptr, body.len};
	dsm__conn_send(control, DSM_MSG_LINK, 0, 0, &iov, 1);
	dsm__conn_drain(control, dsm__deadline_ms(5000));
	dsm__wbuf_fini(&body);
}

static void
go_over(const char *device)
{
	if (strcmp(device, FAKE_GOES_OVER) == 0) {
		send_link("verbs", FAKE_DEVICE_TEXT);
	} else if (strcmp(device, FAKE_STAYS) == 0) {
		if (facts.transport == 'V') {
			snprintf(ctl->message, sizeof(ctl->message),
			         "cannot use verbs: " FAKE_STAYS_TEXT);
			exit(SLOT_EXIT_SETUP);
		}
		send_link("tcp", FAKE_STAYS_TEXT);
	} else if (strcmp(device, FAKE_LOSES_LINK) == 0) {
		fabric_failed();
	} else if (strcmp(device, FAKE_DRIVER_CRASHES) == 0) {
		signal(SIGSEGV, SIG_DFL);
		raise(SIGSEGV);
	} else {
		exit(SLOT_EXIT_PROTO);
	}
}

static void
on_run(const struct dsm_frame *f)
{
	struct dsm_msg_run m;

	if (dsm__decode_run(f->body, f->len, &m) != DSM_OK || m.drops.n != 0 ||
	    m.updates.n != 0)
		exit(SLOT_EXIT_PROTO);
	facts.n_runs++;
	facts.n_tables += (m.flags & DSM_RUN_RANGES) != 0;
	facts.n_ranges = m.flags & DSM_RUN_RANGES ? m.ranges.n : facts.n_ranges;
	start_act = m.fn;
	if (start_act == FAKE_COLLIDES ||
	    (start_act == FAKE_COLLIDES_IN_A && facts.variant == 'a'))
		exit(SLOT_EXIT_COLLIDES);
	if (start_act == FAKE_SETUP_FAILS) {
		snprintf(ctl->message, sizeof(ctl->message),
		         "no userfaultfd here");
		exit(SLOT_EXIT_SETUP);
	}
}

static void
hang(void)
{
	for (;;)
		pause();
}

/* One byte on the data stream, from the test. */
static void
wait_for_go(void)
{
	char c;

	while (read(SLOT_FD_DATA, &c, 1) < 0)
		if (errno == EAGAIN)
			usleep(200);
		else if (errno != EINTR)
			exit(SLOT_EXIT_DATA);
}

static void
act(const struct dsm_msg_exec *x)
{
	uint64_t last = x->hi - 1;

	switch ((enum fake_act)(x->lo / FAKE_ACT_STEP * FAKE_ACT_STEP)) {
	case FAKE_CRASH:
		send_done(x, "crash");
		exit(SLOT_EXIT_CRASHED);
	case FAKE_HANG:
		atomic_store(&ctl->current, last);
		hang();
		break;
	case FAKE_EXIT:
		exit(7);
	case FAKE_KILLED:
		raise(SIGKILL);
		break;
	case FAKE_ABORT:
		signal(SIGABRT, SIG_DFL);
		raise(SIGABRT);
		break;
	case FAKE_DATA_LOST:
		exit(SLOT_EXIT_DATA);
	case FAKE_NO_ROOM:
		snprintf(ctl->message, sizeof(ctl->message),
		         "no room, said the slot");
		exit(SLOT_EXIT_MEMORY);
	case FAKE_WAIT:
		wait_for_go();
		break;
	case FAKE_CLAIM:
		atomic_store(&ctl->claim_off[0], 0);
		atomic_store(&ctl->claim_n[0], 2);
		exit(SLOT_EXIT_DATA);
	case FAKE_DAMAGE:
		snprintf(ctl->message, sizeof(ctl->message), "damaged");
		exit(SLOT_EXIT_CRASHED);
	case FAKE_FABRIC:
		fabric_failed();
		break;
	case FAKE_SIGSYS:
		atomic_store(&ctl->state, SLOT_IDLE);
		signal(SIGSYS, SIG_DFL);
		raise(SIGSYS);
		break;
	case FAKE_DENIES:
		atomic_store(&ctl->attempt, UINT64_MAX);
		exit(SLOT_EXIT_DATA);
	case FAKE_IDLES:
		atomic_store(&ctl->state, SLOT_IDLE);
		hang();
		break;
	case FAKE_SPOILS:
		memset(ctl->message, 0x1b, sizeof(ctl->message));
		exit(SLOT_EXIT_CRASHED);
	case FAKE_SLOW:
		for (; atomic_load(&ctl->current) < last;
		     atomic_fetch_add(&ctl->current, 1))
			usleep(20000);
		break;
	default:
		break;
	}
}

static void
on_exec(const struct dsm_frame *f)
{
	struct dsm_msg_exec x;

	if (facts.n_runs == 0 ||
	    dsm__decode_exec(f->body, f->len, &x) != DSM_OK)
		exit(SLOT_EXIT_PROTO);
	facts.n_execs++;
	atomic_store(&ctl->current, x.lo);
	atomic_store(&ctl->attempt, x.attempt);
	atomic_store(&ctl->state, SLOT_RUNNING);
	act(&x);
	atomic_store(&ctl->state, SLOT_PACKING);
	send_done(&x, NULL);
	atomic_store(&ctl->state, SLOT_IDLE);
}

int
main(int argc, char **argv)
{
	struct dsm_frame f;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc == 3 && strcmp(argv[1], "report") == 0)
		return report(argc, argv);
	if (argc < 4 || argc > 5 || strcmp(argv[0], "taskrt-slot") != 0)
		return SLOT_EXIT_PROTO;
	signal(SLOT_SIGNAL_LATE, SIG_IGN); /* FAKE_HANG answers nothing */
	facts.variant = (uint64_t)variant_mark[sizeof(FAKE_MARK) - 2];
	facts.pid = (uint64_t)getpid();
	facts.number = strtoull(argv[1], NULL, 10);
	facts.has_heap = fcntl(SLOT_FD_HEAP, F_GETFD) >= 0;
	facts.has_stage = fcntl(SLOT_FD_STAGE, F_GETFD) >= 0;
	facts.transport =
	    strcmp(argv[3], "verbs-only") == 0 ? 'V' : (uint64_t)argv[3][0];
	session = strtoull(argv[2], NULL, 10);
	ctl = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, SLOT_FD_CTL,
	           0);
	if (ctl == MAP_FAILED ||
	    dsm__conn_create(&dsm__shm_ops, SLOT_FD_CONTROL, DSM_FRAME_MAX,
	                     &control) != DSM_OK)
		return SLOT_EXIT_SETUP;
	if (argc == 5)
		go_over(argv[4]);
	while (dsm__conn_recv_wait(control, DSM_FOREVER, 0, &f, NULL) ==
	       DSM_OK) {
		if (f.type == DSM_MSG_RUN)
			on_run(&f);
		else if (f.type == DSM_MSG_EXEC)
			on_exec(&f);
		else
			return SLOT_EXIT_PROTO;
	}
	return SLOT_EXIT_OK;
}
