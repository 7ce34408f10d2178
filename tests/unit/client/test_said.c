/* Text of tasks that run more than once (taskrt/client/said.c). */
#include "../../../taskrt/client/said.h"

#include "../../test.h"

/* The part of the text that is to be shown. */
static const char *
heard(struct taskrt__said *s, struct taskrt__speaker *p, uint64_t run,
      uint64_t attempt, uint64_t task, unsigned fd, const char *text)
{
	const struct dsm_msg_output m = {
	    .run = run,
	    .attempt = attempt,
	    .task = task,
	    .fd = fd,
	    .text = {(const uint8_t *)text, (uint32_t)strlen(text)},
	};

	return text + taskrt__said_before(s, p, &m);
}

static void
test_what_one_attempt_says_is_shown(void)
{
	struct taskrt__said s = {0};
	struct taskrt__speaker p = {0};

	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 0, 1, "one\n"), "one\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 0, 1, "two\n"), "two\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 0, 2, "err\n"), "err\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 1, 1, "one\n"), "one\n");
	taskrt__said_fini(&s);
}

static void
test_a_second_attempt_adds_only_what_is_new(void)
{
	struct taskrt__said s = {0};
	struct taskrt__speaker p = {0}, q = {0};

	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 7, 1, "one\n"), "one\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &q, 1, 2, 7, 1, "on"), "");
	CU_ASSERT_STRING_EQUAL(heard(&s, &q, 1, 2, 7, 1, "e\ntwo\n"), "two\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 7, 1, "two\nthree\n"),
	                       "three\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &q, 1, 2, 7, 1, "three\n"), "");
	taskrt__said_fini(&s);
}

static void
test_a_slot_that_runs_the_task_again_repeats_nothing(void)
{
	struct taskrt__said s = {0};
	struct taskrt__speaker p = {0};

	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 7, 1, "one\n"), "one\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 2, 7, 1, "one\n"), "");
	taskrt__said_fini(&s);
}

static void
test_the_next_run_says_it_all_again_and_late_words_are_shown(void)
{
	struct taskrt__said s = {0};
	struct taskrt__speaker p = {0}, q = {0};

	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 7, 1, "one\n"), "one\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &q, 2, 3, 7, 1, "one\n"), "one\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &p, 1, 1, 7, 1, "late\n"), "late\n");
	CU_ASSERT_STRING_EQUAL(heard(&s, &q, 2, 3, 7, 1, "two\n"), "two\n");
	taskrt__said_fini(&s);
}

SUITE(taskrt_client_said, "taskrt.client.said",
      T(test_what_one_attempt_says_is_shown),
      T(test_a_second_attempt_adds_only_what_is_new),
      T(test_a_slot_that_runs_the_task_again_repeats_nothing),
      T(test_the_next_run_says_it_all_again_and_late_words_are_shown));
