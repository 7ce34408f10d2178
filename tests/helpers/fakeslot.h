/* What fakeslot and the worker's tests share. */
#ifndef TESTS_HELPERS_FAKESLOT_H
#define TESTS_HELPERS_FAKESLOT_H

#include <stdint.h>

#define FAKE_MARK "fakeslot-variant-?"

/* RUN.fn */
enum fake_start {
	FAKE_FINE,
	FAKE_COLLIDES,
	FAKE_COLLIDES_IN_A,
	FAKE_SETUP_FAILS,
};

/* What it says of its data link, if it was told to use verbs: by its DEVICE. */
#define FAKE_GOES_OVER "over"
#define FAKE_STAYS "stays"
#define FAKE_LOSES_LINK "loses"
#define FAKE_DRIVER_CRASHES "crashes"
#define FAKE_DEVICE_TEXT "fake0 port 1"
#define FAKE_STAYS_TEXT "fake0 is down"
#define FAKE_FABRIC_TEXT "RDMA READ: retry counter exceeded"

/* EXEC.lo / FAKE_ACT_STEP * FAKE_ACT_STEP; below 100: DONE at once. An odd lo: DONE
 * says that a write set was sent. */
#define FAKE_ACT_STEP 100
enum fake_act {
	FAKE_CRASH = 100, /* reported, then exit */
	FAKE_HANG = 200,  /* at the EXEC's last task */
	FAKE_EXIT = 300,
	FAKE_KILLED = 400,
	FAKE_ABORT = 500,
	FAKE_DATA_LOST = 600,
	FAKE_WAIT = 700,     /* until a byte comes on the data stream */
	FAKE_CLAIM = 800,    /* dies with two image pages claimed */
	FAKE_SLOW = 900,     /* 20 ms a task */
	FAKE_DAMAGE = 1000,  /* crash that is only told in the control page */
	FAKE_NO_ROOM = 1900, /* the machine's memory is short */
	FAKE_FABRIC = 1100,  /* its queue pair fails */
	FAKE_SIGSYS = 1200, /* as the sandbox ends it, in no task by its word */
	FAKE_DENIES = 1300, /* ends, and says that it had not begun */
	FAKE_IDLES = 1400,  /* says that it is idle, and no DONE */
	FAKE_SPOILS = 1500, /* ends, with control characters in its message */
};

struct fake_facts {
	uint64_t pid, number, variant;
	uint64_t n_runs, n_tables, n_ranges, n_execs;
	uint64_t has_heap, has_stage;
	uint64_t transport; /* first letter; verbs-only: 'V' */
};

#endif
