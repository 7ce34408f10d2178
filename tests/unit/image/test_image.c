/* The image: page states, claims, publication, drops. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../../dsm/image/image.h"
#include "../../test.h"

static struct dsm_image im;

static void
open_image(void)
{
	struct dsm_error e = {0};
	int err = dsm__image_create(&im, &e);

	if (err != DSM_OK)
		printf("    %s\n", e.text);
	MUST_OK(err);
}

static void
fill(uint8_t *pages, unsigned n, uint8_t first)
{
	for (unsigned i = 0; i < n; i++)
		memset(pages + i * DSM_PAGE, first + i, DSM_PAGE);
}

static uint8_t
first_byte(uint64_t off)
{
	uint8_t b = 0xee;

	MUST_BE(pread(im.pages_fd, &b, 1, (off_t)off), 1);
	return b;
}

static void
test_pages_that_find_no_room_are_told_why(void)
{
	static const uint8_t page[DSM_PAGE];
	uint32_t state;
	int full = open("/dev/full", O_RDWR | O_CLOEXEC), kept;

	MUST(full >= 0);
	open_image();
	MUST_BE(im.write_errno, 0);
	MUST_BE(dsm__image_claim(&im, 0, 1, 7, &state), 1);
	kept = im.pages_fd;
	im.pages_fd = full;
	MUST_BE(dsm__image_publish(&im, 0, 1, page), DSM_ENOMEM);
	MUST_BE(im.write_errno, ENOSPC);
	im.pages_fd = kept;
	close(full);
	dsm__image_fini(&im);
}

static void
test_claim_takes_absent_neighbours_only(void)
{
	uint32_t state = 99;

	open_image();
	MUST_BE(dsm__image_claim(&im, 0, 4, 7, &state), 4);
	/* 4..7 are free, 0..3 are not. */
	MUST_BE(dsm__image_claim(&im, 2 * DSM_PAGE, 8, 8, &state), 0);
	MUST_BE(state, DSM_PG_FETCHING | 7 << 8);
	MUST_BE(dsm__image_claim(&im, 6 * DSM_PAGE, 2, 8, &state), 2);
	MUST_BE(dsm__image_claim(&im, 4 * DSM_PAGE, 8, 9, &state), 2);
	dsm__image_fini(&im);
}

static void
test_published_pages_are_present_with_their_bytes(void)
{
	static uint8_t pages[3 * DSM_PAGE];
	uint64_t off = UINT64_C(5) << 40;
	uint32_t state;

	open_image();
	fill(pages, 3, 10);
	MUST_BE(dsm__image_claim(&im, off, 3, 1, &state), 3);
	MUST_OK(dsm__image_publish(&im, off, 3, pages));
	MUST_BE(first_byte(off + 2 * DSM_PAGE), 12);
	MUST_BE(dsm__image_claim(&im, off, 1, 1, &state), 0);
	MUST_BE(state & DSM_PG_STATE, DSM_PG_PRESENT);
	dsm__image_fini(&im);
}

static void
test_abandoned_pages_can_be_claimed_again(void)
{
	uint32_t state;

	open_image();
	MUST_BE(dsm__image_claim(&im, 0, 2, 1, &state), 2);
	dsm__image_abandon(&im, 0, 2);
	MUST_BE(dsm__image_claim(&im, 0, 2, 2, &state), 2);
	dsm__image_fini(&im);
}

static void
test_run_before_counts_present_pages_up_to_a_gap(void)
{
	static uint8_t pages[8 * DSM_PAGE];
	uint32_t state;

	open_image();
	MUST_BE(dsm__image_claim(&im, DSM_PAGE, 8, 1, &state), 8);
	MUST_OK(dsm__image_publish(&im, DSM_PAGE, 8, pages));
	MUST_BE(dsm__image_run_before(&im, 9 * DSM_PAGE, 100), 8);
	MUST_BE(dsm__image_run_before(&im, 9 * DSM_PAGE, 5), 5);
	MUST_BE(dsm__image_run_before(&im, DSM_PAGE, 5), 0);
	MUST_BE(dsm__image_run_before(&im, 0, 5), 0);
	dsm__image_fini(&im);
}

static void
test_dropped_page_is_absent_and_leaves_a_hole(void)
{
	static uint8_t pages[4 * DSM_PAGE];
	uint32_t state;

	open_image();
	fill(pages, 4, 1);
	MUST_BE(dsm__image_claim(&im, 0, 4, 1, &state), 4);
	MUST_OK(dsm__image_publish(&im, 0, 4, pages));
	MUST_OK(dsm__image_drop(&im, DSM_PAGE, 2));
	MUST_BE(lseek(im.pages_fd, 0, SEEK_HOLE), DSM_PAGE);
	MUST_BE(lseek(im.pages_fd, DSM_PAGE, SEEK_DATA), 3 * DSM_PAGE);
	MUST_BE(dsm__image_claim(&im, 0, 1, 1, &state), 0);
	MUST_BE(dsm__image_claim(&im, DSM_PAGE, 9, 1, &state), 2);
	dsm__image_fini(&im);
}

static uint32_t
state_of(uint64_t off)
{
	return atomic_load(dsm__image_state(&im, off));
}

static void
test_kept_page_is_absent_but_its_bytes_stay_until_it_is_published(void)
{
	static uint8_t pages[4 * DSM_PAGE];
	uint32_t state;

	open_image();
	fill(pages, 4, 1);
	MUST_BE(dsm__image_claim(&im, 0, 4, 1, &state), 4);
	MUST_OK(dsm__image_publish(&im, 0, 4, pages));
	dsm__image_keep(&im, DSM_PAGE, 5);
	MUST_BE(state_of(0), DSM_PG_PRESENT);
	MUST_BE(state_of(DSM_PAGE), DSM_PG_ABSENT | DSM_PG_KEPT);
	/* Never there: nothing to keep. */
	MUST_BE(state_of(4 * DSM_PAGE), DSM_PG_ABSENT);
	MUST_BE(first_byte(2 * DSM_PAGE), 3);
	/* A claim, whatever becomes of it, does not forget that. */
	MUST_BE(dsm__image_claim(&im, DSM_PAGE, 9, 6, &state), 9);
	MUST_BE(state_of(DSM_PAGE), DSM_PG_FETCHING | DSM_PG_KEPT | 6 << 8);
	dsm__image_abandon(&im, DSM_PAGE, 1);
	MUST_BE(state_of(DSM_PAGE), DSM_PG_ABSENT | DSM_PG_KEPT);
	dsm__image_reclaim(&im, 0, 20, 6);
	MUST_BE(state_of(2 * DSM_PAGE), DSM_PG_ABSENT | DSM_PG_KEPT);
	MUST_BE(state_of(4 * DSM_PAGE), DSM_PG_ABSENT);
	dsm__image_keep(&im, DSM_PAGE, 2);
	MUST_BE(dsm__image_claim(&im, DSM_PAGE, 1, 6, &state), 1);
	MUST_OK(dsm__image_publish(&im, DSM_PAGE, 1, pages));
	MUST_BE(state_of(DSM_PAGE), DSM_PG_PRESENT);
	MUST_OK(dsm__image_drop(&im, 2 * DSM_PAGE, 2));
	MUST_BE(state_of(2 * DSM_PAGE), DSM_PG_ABSENT);
	MUST_BE(lseek(im.pages_fd, 2 * DSM_PAGE, SEEK_DATA), -1);
	dsm__image_fini(&im);
}

/* A whole address space may be dropped: states that nobody has touched must not
 * become memory. */
static void
test_a_large_drop_finds_what_is_there_and_makes_nothing(void)
{
	static uint8_t pages[DSM_PAGE];
	const uint64_t far = DSM_IMAGE_SIZE - DSM_PAGE;
	struct stat st;
	uint32_t state;

	open_image();
	fill(pages, 1, 1);
	MUST_OK(dsm__image_update(&im, 5 * DSM_PAGE, pages));
	MUST_OK(dsm__image_update(&im, far, pages));
	MUST_OK(dsm__image_drop(&im, 0, DSM_IMAGE_SIZE / DSM_PAGE));
	MUST_BE(dsm__image_claim(&im, 5 * DSM_PAGE, 1, 1, &state), 1);
	MUST_BE(dsm__image_claim(&im, far, 1, 1, &state), 1);
	MUST(fstat(im.states_fd, &st) == 0);
	MUST(st.st_blocks <= 64); /* of 512 bytes */
	dsm__image_fini(&im);
}

/* Slots have the descriptors: a shorter file would be SIGBUS for the worker. */
static void
test_the_files_cannot_be_cut_off(void)
{
	open_image();
	MUST(ftruncate(im.states_fd, 0) != 0);
	MUST(ftruncate(im.pages_fd, 0) != 0);
	dsm__image_fini(&im);
}

static void
test_updated_page_is_present_with_new_bytes(void)
{
	static uint8_t page[DSM_PAGE];
	uint32_t state;

	open_image();
	fill(page, 1, 77);
	MUST_OK(dsm__image_update(&im, 3 * DSM_PAGE, page));
	MUST_BE(first_byte(3 * DSM_PAGE), 77);
	MUST_BE(dsm__image_claim(&im, 3 * DSM_PAGE, 1, 1, &state), 0);
	dsm__image_fini(&im);
}

static void
test_reclaim_frees_only_claims_of_that_slot(void)
{
	static uint8_t page[DSM_PAGE];
	uint32_t state;

	open_image();
	MUST_BE(dsm__image_claim(&im, 0, 1, 1, &state), 1);
	MUST_BE(dsm__image_claim(&im, DSM_PAGE, 1, 2, &state), 1);
	MUST_BE(dsm__image_claim(&im, 2 * DSM_PAGE, 1, 1, &state), 1);
	MUST_OK(dsm__image_publish(&im, 2 * DSM_PAGE, 1, page));
	dsm__image_reclaim(&im, 0, 3, 1);
	MUST_BE(dsm__image_claim(&im, 0, 1, 3, &state), 1);
	MUST_BE(dsm__image_claim(&im, DSM_PAGE, 1, 3, &state), 0);
	MUST_BE(dsm__image_claim(&im, 2 * DSM_PAGE, 1, 3, &state), 0);
	dsm__image_fini(&im);
}

static void
test_evicted_pages_leave_the_file_and_those_at_work_stay(void)
{
	static uint8_t pages[8 * DSM_PAGE];
	uint64_t off;
	uint32_t state;

	memset(pages, 7, sizeof(pages));
	open_image();
	MUST_BE(dsm__image_next(&im, 0, &off), 0);
	MUST_BE(dsm__image_claim(&im, 4 * DSM_PAGE, 6, 1, &state), 6);
	MUST_OK(dsm__image_publish(&im, 4 * DSM_PAGE, 5, pages));
	dsm__image_keep(&im, 4 * DSM_PAGE, 1);
	MUST_BE(dsm__image_next(&im, 0, &off), 5);
	MUST_BE(off, 4 * DSM_PAGE);
	/* A kept one, four that are there; one is being fetched. */
	MUST_BE(dsm__image_evict(&im, 0, 12), 5);
	MUST_BE(dsm__image_next(&im, 0, &off), 0);
	MUST_BE(state_of(4 * DSM_PAGE), DSM_PG_ABSENT);
	MUST_BE(state_of(8 * DSM_PAGE), DSM_PG_ABSENT);
	MUST_BE(state_of(9 * DSM_PAGE), DSM_PG_FETCHING | 1 << 8);
	/* And they come again. */
	MUST_BE(dsm__image_claim(&im, 5 * DSM_PAGE, 1, 2, &state), 1);
	MUST_OK(dsm__image_publish(&im, 5 * DSM_PAGE, 1, pages));
	MUST_BE(state_of(5 * DSM_PAGE), DSM_PG_PRESENT);
	dsm__image_fini(&im);
}

static void
test_wait_for_a_page_nobody_brings_times_out(void)
{
	uint32_t state;

	open_image();
	MUST_BE(dsm__image_claim(&im, 0, 1, 1, &state), 1);
	MUST_BE(dsm__image_wait(&im, 0, 0, dsm__deadline_ms(20)),
	        DSM_ETIMEDOUT);
	dsm__image_fini(&im);
}

#define RACE_PAGES 2000u

static void *
racer(void *arg)
{
	static uint8_t page[DSM_PAGE];
	uint32_t slot = (uint32_t)(uintptr_t)arg;
	uintptr_t got = 0;

	for (uint64_t i = 0; i < RACE_PAGES; i++) {
		uint64_t off = i * DSM_PAGE;
		uint32_t state;

		if (dsm__image_claim(&im, off, 1, slot, &state) == 1) {
			got++;
			dsm__image_publish(&im, off, 1, page);
		} else if (dsm__image_wait(&im, off, 1000,
		                           dsm__deadline_ms(20000)) != DSM_OK) {
			return (void *)UINTPTR_MAX;
		}
	}
	return (void *)got;
}

static void
test_every_page_is_fetched_once_whoever_races_for_it(void)
{
	pthread_t t[4];
	uintptr_t total = 0;

	open_image();
	for (uintptr_t i = 0; i < 4; i++)
		MUST_BE(pthread_create(&t[i], NULL, racer, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++) {
		void *got;

		MUST_BE(pthread_join(t[i], &got), 0);
		MUST(got != (void *)UINTPTR_MAX);
		total += (uintptr_t)got;
	}
	MUST_BE(total, RACE_PAGES);
	dsm__image_fini(&im);
}

SUITE(dsm_image_image, "dsm.image",
      T(test_pages_that_find_no_room_are_told_why),
      T(test_claim_takes_absent_neighbours_only),
      T(test_published_pages_are_present_with_their_bytes),
      T(test_abandoned_pages_can_be_claimed_again),
      T(test_run_before_counts_present_pages_up_to_a_gap),
      T(test_dropped_page_is_absent_and_leaves_a_hole),
      T(test_kept_page_is_absent_but_its_bytes_stay_until_it_is_published),
      T(test_a_large_drop_finds_what_is_there_and_makes_nothing),
      T(test_the_files_cannot_be_cut_off),
      T(test_updated_page_is_present_with_new_bytes),
      T(test_reclaim_frees_only_claims_of_that_slot),
      T(test_evicted_pages_leave_the_file_and_those_at_work_stay),
      T(test_wait_for_a_page_nobody_brings_times_out),
      T(test_every_page_is_fetched_once_whoever_races_for_it));
