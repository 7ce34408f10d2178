#include "arena.h"

#include "../../dsm/base/page.h"
#include "fetch.h"
#include "taskpage.h"
#include "writeset.h"

/* A range each time twice as long, so that many surviving blocks cost few
 * messages and few ones little of the client's addresses. */
#define WANT_FIRST (UINT64_C(1) << 20)
#define WANT_MAX (UINT64_C(64) << 20)

static struct {
	struct taskrt_task_page *page;
	int unasked;
	uint64_t next, end; /* of the loan: what earlier tasks did not use */
	uint64_t stamp, want;
	/* Loans that the task has, the last one is the current one. */
	struct {
		uint64_t start, end;
	} used[WRITESET_ARENAS];
	unsigned n_used;
} ar = {.want = WANT_FIRST};

void
arena_set_page(struct taskrt_task_page *page)
{
	ar.page = page;
}

void
arena_unasked(void)
{
	ar.unasked = 1;
}

static void
show(void)
{
	ar.page->arena_base = ar.next;
	ar.page->arena_size = ar.end - ar.next;
	ar.page->arena_stamp = ar.stamp;
	ar.page->arena_used = 0;
}

/* The task may write to the current loan from `next` on. */
static void
use(void)
{
	ar.used[ar.n_used].start = ar.next;
	ar.used[ar.n_used++].end = ar.end;
}

int
arena_borrow(uint64_t least)
{
	uint64_t want = ar.want > 2 * least ? ar.want : 2 * least;
	struct dsm_msg_loan loan;

	if (ar.page == NULL || ar.n_used == WRITESET_ARENAS ||
	    least > UINT64_C(1) << 47)
		return 0;
	if (fetch_borrow(least, want, &loan) != DSM_OK)
		return -1;
	if (loan.len < least)
		return 0;
	ar.want = ar.want < WANT_MAX ? 2 * ar.want : WANT_MAX;
	ar.next = loan.base;
	ar.end = loan.base + loan.len;
	ar.stamp = loan.stamp;
	use();
	show();
	return 1;
}

int
arena_begin(void)
{
	ar.n_used = 0;
	if (ar.page == NULL)
		return 0;
	ar.page->arena_ready = 0;
	ar.page->arena_live = 0;
	if (ar.unasked && ar.next == ar.end)
		return arena_borrow(WANT_MAX) < 0 ? -1 : 0;
	if (ar.next < ar.end)
		use();
	show();
	return 0;
}

int
arena_settle(void)
{
	const struct taskrt_task_page *page = ar.page;
	int dead = page == NULL || !page->arena_ready || page->arena_live == 0;

	for (unsigned i = 0; i < WRITESET_ARENAS; i++) {
		int skip = dead && i < ar.n_used;

		writeset_private(PRIVATE_ARENA + i, skip ? ar.used[i].start : 0,
		                 skip ? ar.used[i].end : 0);
	}
	if (dead)
		return 0;
	if (page->arena_used > ar.end - ar.next)
		return -1;
	ar.next += dsm__page_up(page->arena_used);
	return 0;
}
