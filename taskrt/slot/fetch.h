/*
 * Fetching pages from the client into the image: by READ messages, or, what lies in
 * registered parts of the heap, one-sidedly.
 *
 * A demand request asks for the page that faulted and, when the pages before it
 * are there already (a sequential reader), for twice as many, up to
 * DSM_READ_MAX; when pages around it are there (a pointer chaser), for more of
 * that block. When that grew to FETCH_AHEAD_MIN the next window is requested as
 * well, without waiting: its PAGES come while the task works. At most one
 * window is ahead. Replies come in the order of requests. At the end of a part of
 * the heap that is registered by itself (or is not) a window ends, too.
 *
 * What the program advises (dsm_advise) comes before all that: nothing besides in
 * RANDOM parts, big windows and one ahead from the first page on in others, and none
 * goes beyond its part.
 *
 * Claims in flight are shown in the control page (slotctl.h), so that the worker
 * can take them back when this process dies.
 */
#ifndef TASKRT_SLOT_FETCH_H
#define TASKRT_SLOT_FETCH_H

#include "../../dsm/base/counters.h"
#include "../../dsm/image/image.h"
#include "../../dsm/image/view.h"
#include "../../dsm/transport/conn.h"
#include "places.h"
#include "slotctl.h"
#include "space.h"

/* Reading the client's memory one-sidedly: dsm__conn_read_start, _wait. */
struct fetch_direct {
	int (*start)(struct dsm_conn *c, uint64_t remote, uint32_t rkey,
	             void *to, size_t len);
	int (*wait)(struct dsm_conn *c, uint64_t deadline, uint64_t spin_ns,
	            int *spun_p);
	uint8_t *ring; /* where reads may land: FETCH_RING bytes */
	size_t ring_len;
};
#define FETCH_RING (2 * DSM_READ_MAX * DSM_PAGE)

/*
 * How long to wait for the client. It may be stopped (Ctrl-Z, a debugger): how long
 * is long enough is for the coordinator to say, who then ends the session. A client
 * whose machine is gone is found out about in DSM_REACH_MS.
 */
#define CLIENT_MS 86400000u

struct fetch_params {
	struct dsm_image *image;
	struct dsm_conn *data;
	struct slot_ctl *ctl;
	uint32_t slot;
	struct dsm_counters *counters;
	uint64_t spin_ns;
	const struct fetch_direct *direct; /* NULL: messages only */
	struct places *places;             /* asked, or not */
	void *view; /* DSM_VIEW_SIZE addresses set aside, or NULL */
};

/* DSM_EINVAL: the ring is too small. */
int fetch_init(const struct fetch_params *p);
/* Epoch of the requests from now on. */
void fetch_set_run(uint64_t run);

/* What the run says of how the heap will be used: copied. DSM_EPROTO: it makes no
 * sense; DSM_ENOMEM. */
int fetch_set_advice(const struct dsm_array *advice);

enum fetch_result {
	FETCH_GOT,      /* fetched by this call (or by a window ahead) */
	FETCH_PRESENT,  /* was there, or another slot brought it */
	FETCH_UNMAPPED, /* the client cannot read that page */
	FETCH_LOST,     /* connection or deadline: this slot is done for */
};
/* Bring the page of addr (in r) into the image. `more`: pages wanted besides
 * when nothing is known (0: just this one). */
enum fetch_result fetch_page(struct space_range *r, uint64_t addr,
                             uint32_t more);
/*
 * Ask the client what is mapped at addr. DSM_OK: *ranges_p is the table (valid
 * until the next call), else DSM_ECONN.
 */
int fetch_ask(uint64_t addr, struct dsm_array *ranges_p);
/* Ask the client for addresses that tasks may allocate at. DSM_OK: loan_p->len is
 * 0 when it has none left; else DSM_ECONN. */
int fetch_borrow(uint64_t least, uint64_t want, struct dsm_msg_loan *loan_p);
/*
 * The n pages from addr on were written by the task, so the image had them. Those that
 * were evicted since come back: the program's memory is frozen, they are what they
 * were. Called while holding the image. DSM_OK, or DSM_ECONN.
 */
int fetch_twins(struct space_range *r, uint64_t addr, uint32_t n);
/*
 * Take what is still under way. Before WRITES and at the end of an attempt: what is
 * read after DONE may be of a later run, and READs cannot be told to stop.
 */
int fetch_settle(void);

#endif
