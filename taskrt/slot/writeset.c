#include "writeset.h"

#include <errno.h>
#include <unistd.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/page.h"
#include "../../dsm/wire/packdiff.h"
#include "fetch.h"
#include "hold.h"
#include "output.h"
#include "space.h"

/* Changed bytes that make a part: bounds the memory of slot and link. */
#define PART_BYTES (4u << 20)
#define TWIN_PAGES 64u
#define SEND_MS 30000u
/* Masks, and tasks that have some, that wait for DONE. */
#define MASKS_BYTES (8u << 20)
#define MASKS_SETS (64u << 10)

static struct {
	struct writeset_params p;
	struct {
		uint64_t start, end;
	} private[N_PRIVATE];
	uint64_t run, attempt;
	uint32_t part;              /* parts sent */
	uint64_t n_bytes;           /* changed bytes of the attempt */
	uint64_t stage_used;        /* bytes of the staging file in this run */
	struct dsm_wbuf mask, data; /* the pair being filled */
	struct dsm_wbuf packed;     /* squeezed pairs of the part */
	struct dsm_wbuf masks;      /* of the attempt, raw, by task: not sent */
	struct dsm_wbuf sets, squeezed, frame;
	uint32_t n_sets;
	uint32_t set_off;      /* where those of the task at work begin */
	uint64_t task;         /* whose pairs are being filled */
	struct dsm_wbuf marks; /* of the part, as the next two */
	uint32_t n_marks;
	uint64_t marked;
	uint8_t *twin; /* TWIN_PAGES pages */
} ws;

static uint8_t twin_buf[TWIN_PAGES * DSM_PAGE] __attribute__((aligned(4096)));

int
writeset_init(const struct writeset_params *p)
{
	ws.p = *p;
	ws.twin = twin_buf;
	return DSM_OK;
}

void
writeset_private(unsigned which, uint64_t start, uint64_t end)
{
	ws.private[which].start = start;
	ws.private[which].end = end;
}

void
writeset_new_run(uint64_t run)
{
	ws.run = run;
	ws.stage_used = 0;
}

void
writeset_begin(uint64_t attempt)
{
	ws.attempt = attempt;
	ws.part = 0;
	ws.n_bytes = 0;
	ws.n_sets = ws.set_off = 0;
	dsm__wbuf_reset(&ws.mask);
	dsm__wbuf_reset(&ws.data);
	dsm__wbuf_reset(&ws.packed);
	dsm__wbuf_reset(&ws.masks);
	dsm__wbuf_reset(&ws.sets);
	dsm__wbuf_reset(&ws.marks);
	ws.n_marks = 0;
}

static int
stage(const struct dsm_wbuf *b)
{
	size_t done = 0;

	while (done < b->len) {
		ssize_t n = pwrite(ws.p.stage_fd, b->ptr + done, b->len - done,
		                   (off_t)(ws.stage_used + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return DSM_ENOMEM;
		done += (size_t)n;
	}
	return DSM_OK;
}

/* The part's next pair is of the task at work. */
static int
mark_task(void)
{
	const struct dsm_rec_mark mark = {ws.task, ws.packed.len};

	if (ws.n_marks > 0 && ws.marked == ws.task)
		return DSM_OK;
	ws.n_marks++;
	ws.marked = ws.task;
	return dsm__pack_mark(&ws.marks, &mark);
}

/* Move the pair being filled to the part, and its masks to the attempt's. */
static int
close_pair(void)
{
	int err;

	if (ws.mask.len == 0)
		return DSM_OK;
	err = mark_task();
	if (err == DSM_OK)
		err = dsm__wbuf_put(&ws.masks, ws.mask.ptr, ws.mask.len);
	if (err == DSM_OK)
		err = dsm__squeeze(&ws.packed, ws.mask.ptr, ws.mask.len,
		                   ws.p.allow_lz4);
	if (err == DSM_OK)
		err = dsm__squeeze(&ws.packed, ws.data.ptr, ws.data.len,
		                   ws.p.allow_lz4);
	dsm__wbuf_reset(&ws.mask);
	dsm__wbuf_reset(&ws.data);
	return err;
}

/* Send the pairs collected so far as one part. */
static int
send_part(int last)
{
	struct dsm_msg_writes m = {
	    .run = ws.run,
	    .attempt = ws.attempt,
	    .flags = last ? DSM_WRITES_LAST : 0,
	    .part = ws.part++,
	    .marks = {ws.marks.ptr, ws.n_marks},
	};
	struct iovec iov;
	int err;

	if (ws.p.stage_fd >= 0) {
		err = stage(&ws.packed);
		if (err != DSM_OK)
			return err;
		m.staged_off = ws.stage_used;
		m.staged_len = ws.packed.len;
		ws.stage_used += (ws.packed.len + 63) & ~UINT64_C(63);
	} else {
		m.packed =
		    (struct dsm_blob){ws.packed.ptr, (uint32_t)ws.packed.len};
	}
	ws.p.counters->bytes_sent += ws.packed.len;
	dsm__wbuf_reset(&ws.frame);
	err = dsm__encode_writes(&ws.frame, &m);
	if (err != DSM_OK)
		return err;
	iov = (struct iovec){ws.frame.ptr, ws.frame.len};
	err = dsm__conn_send(ws.p.data, DSM_MSG_WRITES, 0, 0, &iov, 1);
	if (err == DSM_OK)
		err = dsm__conn_drain(ws.p.data, dsm__deadline_ms(CLIENT_MS));
	dsm__wbuf_reset(&ws.packed);
	dsm__wbuf_reset(&ws.marks);
	ws.n_marks = 0;
	return err;
}

static void
clip(uint64_t addr, uint64_t start, uint64_t end, unsigned *lo, unsigned *hi)
{
	if (start >= addr + DSM_PAGE || end <= addr)
		return;
	*lo = start > addr ? (unsigned)(start - addr) : 0;
	*hi =
	    end < addr + DSM_PAGE ? (unsigned)(end - addr) : (unsigned)DSM_PAGE;
}

/* The bytes of the page at addr that are private. The spans are far apart: a
 * page meets at most one of them. */
static void
skip_range(const struct space_range *r, uint64_t addr, unsigned *lo,
           unsigned *hi)
{
	*lo = *hi = 0;
	for (unsigned i = 0; i < N_PRIVATE; i++)
		clip(addr, ws.private[i].start, ws.private[i].end, lo, hi);
	clip(addr, r->r.priv_start, r->r.priv_end, lo, hi);
}

static int
committed(const struct space_range *r)
{
	switch (r->r.kind) {
	case DSM_RANGE_HEAP:
	case DSM_RANGE_DATA:
	case DSM_RANGE_ANON:
	case DSM_RANGE_STACK:
		return 1;
	default:
		return 0;
	}
}

/* The masks of the task at work, so far, are a set. */
static int
close_set(void)
{
	const struct dsm_rec_taskset set = {
	    .task = ws.task,
	    .mask_off = ws.set_off,
	    .mask_len = (uint32_t)ws.masks.len - ws.set_off,
	};

	ws.set_off = (uint32_t)ws.masks.len;
	if (set.mask_len == 0)
		return DSM_OK;
	ws.n_sets++;
	return dsm__pack_taskset(&ws.sets, &set);
}

static int
send_masks(void)
{
	struct dsm_msg_masks m = {
	    .session = ws.p.session,
	    .run = ws.run,
	    .attempt = ws.attempt,
	};
	struct iovec iov;
	int err = close_set();

	dsm__wbuf_reset(&ws.squeezed);
	dsm__wbuf_reset(&ws.frame);
	if (err == DSM_OK)
		err = dsm__squeeze(&ws.squeezed, ws.masks.ptr, ws.masks.len,
		                   ws.p.allow_lz4);
	m.sets = (struct dsm_array){ws.sets.ptr, ws.n_sets};
	m.masks = (struct dsm_blob){ws.squeezed.ptr, (uint32_t)ws.squeezed.len};
	if (err == DSM_OK)
		err = dsm__encode_masks(&ws.frame, &m);
	if (err != DSM_OK)
		return err;
	iov = (struct iovec){ws.frame.ptr, ws.frame.len};
	err = dsm__conn_send(ws.p.control, DSM_MSG_MASKS, 0, 0, &iov, 1);
	if (err == DSM_OK)
		err = dsm__conn_drain(ws.p.control, dsm__deadline_ms(SEND_MS));
	dsm__wbuf_reset(&ws.masks);
	dsm__wbuf_reset(&ws.sets);
	ws.n_sets = ws.set_off = 0;
	return err;
}

/* Bound what one pair, one part and one message of masks can grow to. */
static int
spill(size_t pair_bytes)
{
	int err = DSM_OK;

	if (ws.data.len >= pair_bytes || ws.mask.len >= PART_BYTES)
		err = close_pair();
	if (err == DSM_OK && ws.packed.len >= PART_BYTES)
		err = send_part(0);
	if (err == DSM_OK &&
	    (ws.masks.len >= MASKS_BYTES || ws.n_sets >= MASKS_SETS))
		err = send_masks();
	return err;
}

static int
diff_pages(void *arg, struct space_range *r, uint64_t start, uint64_t n_pages)
{
	(void)arg;
	if (!committed(r))
		return DSM_OK;
	while (n_pages > 0) {
		uint32_t n =
		    n_pages < TWIN_PAGES ? (uint32_t)n_pages : TWIN_PAGES;
		int err;

		hold_begin();
		err = fetch_twins(r, start, n);
		if (err == DSM_OK)
			err = space_read_twin(r, start, ws.twin, n * DSM_PAGE);
		hold_end();
		if (err != DSM_OK)
			return err;
		for (uint32_t i = 0; i < n; i++) {
			uint64_t addr = start + i * DSM_PAGE;
			uint32_t changed;
			unsigned lo, hi;

			skip_range(r, addr, &lo, &hi);
			if (hi - lo == DSM_PAGE)
				continue;
			err = dsm__packdiff_page(
			    &ws.mask, &ws.data, addr, (const void *)addr,
			    ws.twin + i * DSM_PAGE, lo, hi, &changed);
			if (err != DSM_OK)
				return err;
			if (changed > 0) {
				ws.p.counters->pages_written++;
				ws.p.counters->bytes_written += changed;
				ws.n_bytes += changed;
			}
		}
		err = spill(PART_BYTES);
		if (err != DSM_OK)
			return err;
		start += n * DSM_PAGE;
		n_pages -= n;
	}
	return DSM_OK;
}

int
writeset_collect(uint64_t task)
{
	uint64_t start = dsm__now();

	ws.task = task;
	int err = space_collect(diff_pages, NULL);
	if (err == DSM_OK)
		err = spill(0);
	if (err == DSM_OK)
		err = close_set();
	ws.p.counters->diff_ns += dsm__now() - start;
	return err;
}

static int
drop_pages(void *arg, struct space_range *r, uint64_t start, uint64_t n_pages)
{
	(void)arg, (void)r, (void)start, (void)n_pages;
	return DSM_OK;
}

int
writeset_discard(void)
{
	return space_collect(drop_pages, NULL);
}

int
writeset_finish(uint64_t *n_bytes_p, struct dsm_array *sets_p,
                struct dsm_blob *masks_p)
{
	int err = DSM_OK;

	/* Text counts as something to be stored: the run must not be over
	 * before the client has it. */
	if (ws.n_bytes > 0 || output_sent())
		err = send_part(1);
	dsm__wbuf_reset(&ws.squeezed);
	if (err == DSM_OK)
		err = dsm__squeeze(&ws.squeezed, ws.masks.ptr, ws.masks.len,
		                   ws.p.allow_lz4);
	*n_bytes_p = ws.n_bytes > 0 ? ws.n_bytes : (uint64_t)output_sent();
	*sets_p = (struct dsm_array){ws.sets.ptr, ws.n_sets};
	*masks_p =
	    (struct dsm_blob){ws.squeezed.ptr, (uint32_t)ws.squeezed.len};
	return err;
}
