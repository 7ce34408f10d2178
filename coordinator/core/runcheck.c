#include "runcheck.h"

#include "../../dsm/base/page.h"
#include "../../dsm/image/image.h"

#define MAX_TASKS (UINT64_C(1) << 40)
#define ADDRESS_END (UINT64_C(1) << 47)
#define KNOWN_FLAGS                                                  \
	(DSM_RUN_RANGES | DSM_RUN_KEEP_PARTIAL | DSM_RUN_FAIL_FAST | \
	 DSM_RUN_ISOLATE | DSM_RUN_FETCHED | DSM_RUN_NO_COPIES)

static int
ranges_are_sane(const struct dsm_array *v)
{
	struct dsm_rec_range r;
	uint64_t last = 0;

	for (uint32_t i = 0; i < v->n; i++) {
		if (dsm__unpack_range(v, i, &r) != DSM_OK || r.start < last ||
		    r.start >= r.end || r.end > ADDRESS_END ||
		    r.kind < DSM_RANGE_HEAP || r.kind > DSM_RANGE_KEPT ||
		    ((r.start | r.end | r.image_off) & DSM_PAGE_MASK) != 0 ||
		    r.image_off > DSM_IMAGE_SIZE ||
		    r.end - r.start > DSM_IMAGE_SIZE - r.image_off)
			return 0;
		last = r.end;
	}
	return 1;
}

static int
extent_is_sane(const struct dsm_rec_extent *x)
{
	return (x->start & DSM_PAGE_MASK) == 0 && x->n_pages > 0 &&
	       x->start < ADDRESS_END &&
	       x->n_pages <= (ADDRESS_END - x->start) / DSM_PAGE;
}

static int
drops_are_sane(const struct dsm_array *v)
{
	struct dsm_rec_extent x;
	uint64_t last = 0;

	for (uint32_t i = 0; i < v->n; i++) {
		if (dsm__unpack_extent(v, i, &x) != DSM_OK ||
		    !extent_is_sane(&x) || x.start < last)
			return 0;
		last = x.start + x.n_pages * DSM_PAGE;
	}
	return 1;
}

/* In any order: a page that is sent twice ends up as it was sent last. */
static int
updates_are_sane(const struct dsm_array *v, const struct dsm_blob *pages)
{
	struct dsm_rec_extent x;
	uint64_t left = pages->len / DSM_PAGE;

	for (uint32_t i = 0; i < v->n; i++) {
		if (dsm__unpack_extent(v, i, &x) != DSM_OK ||
		    !extent_is_sane(&x) || x.n_pages > left)
			return 0;
		left -= x.n_pages;
	}
	return left == 0 && pages->len % DSM_PAGE == 0;
}

static int
advice_is_sane(const struct dsm_array *v)
{
	struct dsm_rec_advice a;
	uint64_t last = 0;

	if (v->n > DSM_ADVICE_MAX)
		return 0;
	for (uint32_t i = 0; i < v->n; i++) {
		if (dsm__unpack_advice(v, i, &a) != DSM_OK || a.start < last ||
		    a.start >= a.end ||
		    ((a.start | a.end) & DSM_PAGE_MASK) != 0)
			return 0;
		last = a.end;
	}
	return 1;
}

const char *
coord__run_wrong(const struct dsm_msg_run *m)
{
	if (m->mode != DSM_MODE_TASKS && m->mode != DSM_MODE_FOR &&
	    m->mode != DSM_MODE_FOR_RANGE)
		return "of an unknown mode";
	if ((m->flags & ~KNOWN_FLAGS) != 0)
		return "with unknown flags";
	if (m->begin > m->end || m->end - m->begin > MAX_TASKS ||
	    (m->mode == DSM_MODE_TASKS && m->begin != 0))
		return "with bad bounds";
	if (((m->flags & DSM_RUN_RANGES) != 0) != (m->ranges.n > 0))
		return "whose table of ranges is not what its flags say";
	if (!ranges_are_sane(&m->ranges))
		return "with a bad range";
	if (!drops_are_sane(&m->drops) ||
	    !updates_are_sane(&m->updates, &m->pages))
		return "with bad drops or updates";
	if (!advice_is_sane(&m->advice))
		return "with bad advice";
	return NULL;
}
