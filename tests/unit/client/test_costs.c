/* Whose pages are fetched and written: costs by block of the heap. */
#include <stdlib.h>
#include <string.h>

#include "../../../dsm/base/page.h"
#include "../../../taskrt/client/costs.h"
#include "../../test.h"

#define PAGES 16u
#define LEN (PAGES * DSM_PAGE)

static struct taskrt__costs *costs;
static char *text;

static uint64_t
at(const void *block, uint64_t page)
{
	return (uintptr_t)block + page * DSM_PAGE;
}

static void
begin(void)
{
	costs = calloc(1, sizeof(*costs));
	MUST(costs != NULL);
}

static void
end(void)
{
	free(costs);
	free(text);
	text = NULL;
}

static void
fetch(uint64_t start, uint32_t n_pages, uint32_t faults)
{
	const struct dsm_rec_place r = {start, n_pages, faults,
	                                faults * UINT64_C(1000000)};
	struct dsm_wbuf w = {0};

	MUST_OK(dsm__pack_place(&w, &r));
	taskrt__costs_fetched(costs, &(struct dsm_array){w.ptr, 1});
	dsm__wbuf_fini(&w);
}

/* What people get. */
static const char *
print(int shared)
{
	size_t len;
	FILE *f;

	free(text);
	text = NULL;
	f = open_memstream(&text, &len);
	MUST(f != NULL);
	taskrt__costs_print(f, costs, shared);
	MUST_BE(fclose(f), 0);
	return text;
}

static int
has_line(const char *name, unsigned faults, unsigned n_fetched,
         unsigned n_written, unsigned n_bytes)
{
	char line[200];

	snprintf(line, sizeof(line), "  %8u %10.3f %8u %8u %12u  %s", faults,
	         (double)faults, n_fetched, n_written, n_bytes, name);
	if (strstr(text, line) == NULL)
		fprintf(stderr, "no \"%s\" in\n%s", line, text);
	return strstr(text, line) != NULL;
}

static void
test_pages_that_came_together_are_split_between_their_blocks(void)
{
	char *a = dsm_aligned_alloc(DSM_PAGE, 2 * LEN);
	char *b = dsm_malloc(LEN);

	begin();
	MUST_OK(dsm_name(a, "first"));
	MUST_OK(dsm_name(b, "second"));
	/* From the middle of the lower one on, as far as both reach. */
	fetch(at(a, PAGES), PAGES, 1);
	fetch(at(b, 0), PAGES / 2, 2);
	if (b == a + 2 * LEN)
		fetch(at(a, 2 * PAGES - 2), 4, 1);
	print(0);
	MUST(has_line("first of 131072 bytes, allocated in",
	              b == a + 2 * LEN ? 2 : 1,
	              b == a + 2 * LEN ? PAGES + 2 : PAGES, 0, 0));
	MUST(has_line("second of 65536 bytes, allocated in", 2,
	              b == a + 2 * LEN ? PAGES / 2 + 2 : PAGES / 2, 0, 0));
	dsm_free(a);
	dsm_free(b);
	end();
}

static void
test_written_bytes_count_where_they_are_and_a_page_once(void)
{
	char *a = dsm_malloc(LEN);

	begin();
	MUST_OK(dsm_name(a, "target"));
	taskrt__costs_written(costs, at(a, 1) + 8, 8);
	taskrt__costs_written(costs, at(a, 1) + 64, 1);
	taskrt__costs_written(costs, at(a, 3) - 4, 8);
	print(0);
	MUST(has_line("target of 65536 bytes", 0, 0, 3, 17));
	dsm_free(a);
	end();
}

/* A page is a block's to its end, but the block may end before. */
static void
test_what_lies_behind_the_end_of_a_block_is_gone_over(void)
{
	char *a = dsm_malloc(5000);

	begin();
	MUST_OK(dsm_name(a, "target"));
	taskrt__costs_written(costs, at(a, 0), 2 * DSM_PAGE);
	taskrt__costs_written(costs, at(a, 0) + 5000, 8);
	print(0);
	MUST(has_line("target of 5000 bytes", 0, 0, 2, 8200));
	dsm_free(a);
	end();
}

static void
test_small_blocks_share_a_row_and_so_does_what_is_in_none(void)
{
	static char global[2 * DSM_PAGE];
	char *small = dsm_malloc(100), *gone = dsm_malloc(LEN);
	uint64_t was = at(gone, 0);

	begin();
	dsm_free(gone);
	taskrt__costs_written(costs, (uintptr_t)small, 100);
	fetch(at(global, 0) & ~DSM_PAGE_MASK, 2, 1);
	fetch(was, 1, 1);
	print(1);
	MUST(has_line("blocks of up to 2048 bytes\n", 0, 0, 1, 100));
	MUST(has_line("globals, stacks, code\n", 1, 2, 0, 0));
	MUST(has_line("the heap outside blocks", 1, 1, 0, 0));
	MUST(strstr(text, "share the heap") != NULL);
	dsm_free(small);
	end();
}

static void
test_the_dearest_are_shown_and_the_rest_summed(void)
{
	char *v[TASKRT__COST_ROWS + 8];
	const unsigned n = sizeof(v) / sizeof(v[0]);
	unsigned shown = 0;

	begin();
	for (unsigned i = 0; i < n; i++) {
		v[i] = dsm_malloc(DSM_PAGE);
		fetch(at(v[i], 0), 1, i == 99 ? 5 : 1);
	}
	print(0);
	for (const char *p = text; (p = strstr(p, "block of 4096")) != NULL;
	     p++)
		shown++;
	MUST_BE(shown, 10);
	MUST(has_line("block of 4096 bytes", 5, 1, 0, 0));
	MUST(has_line("other blocks\n", n - 10, n - 10, 0, 0));
	for (unsigned i = 0; i < n; i++)
		dsm_free(v[i]);
	end();
}

static void
test_where_there_was_nothing_nothing_is_said(void)
{
	begin();
	MUST_BE(strlen(print(0)), 0);
	end();
}

SUITE(taskrt_client_costs, "taskrt.client.costs",
      T(test_pages_that_came_together_are_split_between_their_blocks),
      T(test_written_bytes_count_where_they_are_and_a_page_once),
      T(test_what_lies_behind_the_end_of_a_block_is_gone_over),
      T(test_small_blocks_share_a_row_and_so_does_what_is_in_none),
      T(test_the_dearest_are_shown_and_the_rest_summed),
      T(test_where_there_was_nothing_nothing_is_said));
