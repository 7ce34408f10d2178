/*
 * What the program's arrays cost, for TASKRT_STAT: pages fetched and faults from
 * slots' FETCHED, pages and bytes written from write sets, added up by the block of
 * the heap that they lie in.
 *
 * The block that is at the address when the news comes counts. Small blocks share
 * pages, so one row is for all of them. Bounded: blocks beyond ROWS are one row, too.
 */
#ifndef TASKRT_CLIENT_COSTS_H
#define TASKRT_CLIENT_COSTS_H

#include <stdint.h>
#include <stdio.h>

#include "../../dsm/heap/alloc.h"
#include "../../dsm/wire/wire.h"

#define TASKRT__COST_ROWS 512u

struct taskrt__cost {
	uint64_t faults, wait_ns, fetched; /* fetched: pages */
	uint64_t written, bytes;           /* written: pages, once a task */
	uint64_t last_page; /* counted in written last; 0: none */
};

struct taskrt__cost_row {
	struct taskrt__cost cost;
	const void *base;
	size_t size;
	const void *return_address;
	char label[DSM_LABEL_MAX];
	int named;    /* by was looked for */
	char by[160]; /* function and line that allocated it, or "" */
};

enum taskrt__cost_kind {
	TASKRT__COST_SMALL, /* blocks that share pages */
	TASKRT__COST_FREE,  /* of the heap, but in no block by now, or never */
	TASKRT__COST_OUTSIDE, /* globals, stacks, code */
	TASKRT__COST_OTHERS,  /* blocks for which there was no row */
	TASKRT__N_COSTS,
};

struct taskrt__costs {
	struct taskrt__cost_row rows[TASKRT__COST_ROWS]; /* hashed by base */
	uint32_t n_rows;
	struct taskrt__cost sums[TASKRT__N_COSTS];
	uint64_t told_at; /* to the coordinator; 0: never */
};

/* The places of a FETCHED that dsm__places_check has passed. */
void taskrt__costs_fetched(struct taskrt__costs *c,
                           const struct dsm_array *places);
/* A task wrote len bytes at addr. costs: as dsm__stage_each wants it. */
void taskrt__costs_written(void *costs, uint64_t addr, uint64_t len);
/*
 * The same as a COSTS of the run: DSM_OK, DSM_ENOMEM, or DSM_EAGAIN: the last one was
 * told a moment ago. Looks into debug information for blocks that are new among the
 * dearest, which may take a tenth of a second.
 */
int taskrt__costs_encode(struct taskrt__costs *c, uint64_t run,
                         struct dsm_wbuf *w);
/* The dearest, and the sum of the rest. heap_shared: slots have the heap itself.
 * Nothing when there was nothing. */
void taskrt__costs_print(FILE *f, struct taskrt__costs *c, int heap_shared);

#endif
