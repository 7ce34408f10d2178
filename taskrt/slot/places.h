/*
 * Which pages an attempt has fetched, for a run that asks for it (DSM_RUN_FETCHED).
 * A small table; when it is full it goes to the worker, and what was in it is
 * forgotten: nothing is left out, and nothing grows.
 */
#ifndef TASKRT_SLOT_PLACES_H
#define TASKRT_SLOT_PLACES_H

#include "../../dsm/transport/conn.h"
#include "../../dsm/wire/wire.h"

struct places {
	struct dsm_conn *control; /* const after init, as the next */
	uint64_t session;
	int asked; /* in this run; 0: nothing is noted */
	uint64_t run, attempt;
	uint32_t n;
	int err; /* the first that a message met */
	struct dsm_rec_place v[DSM_FETCHED_MAX];
	struct dsm_wbuf records, frame; /* scratch */
};

void places_begin(struct places *p, uint64_t run, uint64_t attempt);
/* n pages from addr on are there now. */
void places_pages(struct places *p, uint64_t addr, uint32_t n);
/* A task waited for the page of addr. */
void places_fault(struct places *p, uint64_t addr, uint64_t wait_ns);
/* Send what is noted. The error of this or of an earlier one since begin. */
int places_send(struct places *p);

#endif
