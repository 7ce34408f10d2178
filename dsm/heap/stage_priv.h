/*
 * What a stage is made of, and the walk over its parts: for stage.c (memory,
 * staging, unpacking), stage_commit.c and stage_values.c.
 */
#ifndef DSM_HEAP_STAGE_PRIV_H
#define DSM_HEAP_STAGE_PRIV_H

#include <stddef.h>
#include <stdint.h>

#include "../wire/packdiff.h"
#include "../wire/wire.h"
#include "idtab.h"
#include "stage.h"

struct part {
	const uint8_t *bytes;
	size_t len;
	int borrowed;
	int has_heap, has_other; /* known after check */
	const struct dsm_rec_mark *marks;
	size_t n_marks;
	struct part *next;
};

struct attempt {
	uint64_t id;
	struct part *first, *last;
	uint32_t n_parts;
	int whole;
	int refused; /* dsm__stage_refuse */
};

struct chunk {
	struct chunk *next;
	size_t size, used; /* this header included */
};

struct dsm_stage {
	struct dsm_idtab attempts;
	struct chunk *chunks; /* the newest first; freed with the stage */
	size_t n_bytes;       /* packed, of live attempts */
};

/* Lives as long as the stage. NULL: no memory. */
void *dsm__stage_alloc(struct dsm_stage *s, size_t len);

/* Walks a part: pair by pair, in each run by run with its bytes. {0} at first. */
struct dsm_reader {
	const struct part *part;
	const uint8_t *p; /* of the part: pairs not yet unpacked */
	size_t left;
	size_t at;                          /* the pair's place in the part */
	struct dsm_wbuf mask_buf, data_buf; /* kept from pair to pair */
	const uint8_t *mask, *data;         /* the pair */
	size_t mask_len, data_len, pos;
	struct dsm_maskit it;
};

void dsm__reader_fini(struct dsm_reader *r);
void dsm__reader_open(struct dsm_reader *r, const struct part *part);
/* Next pair: 1, 0 at the end. Bytes of the pair before are gone then. */
int dsm__reader_pair(struct dsm_reader *r);
/* Next run of the pair: 1, 0 at the end. */
int dsm__reader_next(struct dsm_reader *r, struct dsm_write *w);
/* The same, a page with its bitmap where the write set has one. */
int dsm__reader_next_page(struct dsm_reader *r, struct dsm_write *w);
/* Whose the pair is that is being read; DSM_NO_TASK: not known. */
uint64_t dsm__reader_task(const struct dsm_reader *r);

#endif
