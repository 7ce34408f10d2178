/*
 * Fetching pages from the client into the image.
 *
 * A demand request asks for the page that faulted and, when the pages before it
 * are there already (a sequential reader), for twice as many, up to
 * DSM_READ_MAX; when pages around it are there (a pointer chaser), for more of
 * that block. When that grew to FETCH_AHEAD_MIN the next window is requested as
 * well, without waiting: its PAGES come while the task works. At most one
 * window is ahead. Replies come in the order of requests.
 *
 * Claims in flight are shown in the control page (slotctl.h), so that the worker
 * can take them back when this process dies.
 */
#ifndef TASKRT_SLOT_FETCH_H
#define TASKRT_SLOT_FETCH_H

#include "../../dsm/base/counters.h"
#include "../../dsm/image/image.h"
#include "../../dsm/transport/conn.h"
#include "slotctl.h"
#include "space.h"

struct fetch_params {
	struct dsm_image *image;
	struct dsm_conn *data;
	struct slot_ctl *ctl;
	uint32_t slot;
	struct dsm_counters *counters;
	uint64_t spin_ns;
};

int fetch_init(const struct fetch_params *p);
/* Epoch of the requests from now on. */
void fetch_set_run(uint64_t run);

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
/* Take what is still under way. Before WRITES and at the end of an attempt. */
int fetch_settle(void);

#endif
