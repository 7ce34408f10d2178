/* Reports: copies of everything, in good order, readable. */
#include "../../test.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "../../../taskrt/client/report.h"

static struct dsm_wbuf failures, texts, races;
static uint32_t n_failures, n_races;

static void
reset(void)
{
	dsm__wbuf_reset(&failures);
	dsm__wbuf_reset(&texts);
	dsm__wbuf_reset(&races);
	n_failures = n_races = 0;
}

static void
add_failure(uint64_t task, uint32_t kind, uint32_t sig, const char *text,
            const char *context)
{
	const struct dsm_rec_failure rec = {
	    .task = task,
	    .addr = sig != 0 ? 0x10 : 0,
	    .kind = kind,
	    .signal = sig,
	    .text_off = (uint32_t)texts.len,
	    .text_len = (uint32_t)strlen(text),
	    .context_len = (uint32_t)strlen(context),
	};

	MUST_OK(dsm__pack_failure(&failures, &rec));
	MUST_OK(dsm__wbuf_put(&texts, text, strlen(text)));
	MUST_OK(dsm__wbuf_put(&texts, context, strlen(context)));
	n_failures++;
}

/* The context is the lines; the second is the program's. */
static size_t
backtrace(void *ctx, struct dsm_blob context, struct dsm_wbuf *w, size_t *own_p)
{
	const uint8_t *newline = memchr(context.ptr, '\n', context.len);

	(void)ctx;
	*own_p = w->len + (size_t)(newline - context.ptr) + 1;
	MUST_OK(dsm__wbuf_put(w, context.ptr, context.len));
	return 2;
}

static void
add_race(uint64_t a, uint64_t b, uint64_t addr, uint64_t len)
{
	const struct dsm_rec_race rec = {a, b, addr, len};

	MUST_OK(dsm__pack_race(&races, &rec));
	n_races++;
}

static struct taskrt__report_source
source(int error)
{
	return (struct taskrt__report_source){
	    .error = error,
	    .text = "",
	    .failures = {failures.ptr, n_failures},
	    .texts = {texts.ptr, (uint32_t)texts.len},
	    .n_races = n_races,
	    .races = {races.ptr, n_races},
	};
}

static char *
printed(void)
{
	char *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	MUST(f != NULL);
	MUST_BE(taskrt_report_print(f), 0);
	fclose(f);
	return text;
}

static void
test_before_any_run_the_report_is_empty(void)
{
	taskrt__report_give(NULL);
	const struct taskrt_report *r = taskrt_report();

	MUST(r != NULL);
	MUST_BE(r->error, 0);
	MUST(r->message[0] == '\0');
	MUST_BE(r->n_failures, 0);
	MUST_BE(r->n_races, 0);
}

static void
test_failures_come_root_causes_first(void)
{
	struct taskrt__report *r;

	reset();
	add_failure(1, DSM_FAIL_CANCELLED, 0, "", "");
	add_failure(2, DSM_FAIL_LOST, 0, "", "");
	add_failure(9, DSM_FAIL_CRASH, SIGSEGV, "", "");
	add_failure(4, DSM_FAIL_TIMEOUT, 0, "too slow", "");
	struct taskrt__report_source src = source(TASKRT_ETASK);
	MUST_OK(taskrt__report_make(&src, &r));
	/* The source may go: everything is copied. */
	memset(failures.ptr, 0xff, failures.len);
	memset(texts.ptr, 0xff, texts.len);

	const struct taskrt_failure *f = r->pub.failures;
	MUST_BE(r->pub.n_failures, 4);
	MUST_BE(f[0].task, 4);
	MUST(strcmp(f[0].message, "too slow") == 0);
	MUST_BE(f[1].task, 9);
	MUST_BE(f[1].signal, SIGSEGV);
	MUST(strstr(f[1].message, "SIGSEGV at 0x10") != NULL);
	MUST(f[1].backtrace[0] == '\0');
	MUST_BE(f[2].kind, TASKRT_LOST);
	MUST_BE(f[3].kind, TASKRT_CANCELLED);
	MUST(strcmp(r->pub.message, "task 4: too slow, and 3 more failed") ==
	     0);
	taskrt__report_free(r);
}

static void
where(void *ctx, const void *addr, char *buf, size_t size)
{
	(void)ctx;
	snprintf(buf, size, "%s",
	         addr == (void *)0x5000 ? "temperatures[17]" : "");
}

static void
test_races_name_both_tasks_and_the_block(void)
{
	const struct taskrt_race by_client = {
	    .task_a = 3,
	    .task_b = TASKRT_CLIENT,
	    .addr = (void *)0x7000,
	    .len = 1,
	};
	struct taskrt__report *r;

	reset();
	add_race(1, 2, 0x5000, 8);
	struct taskrt__report_source src = source(TASKRT_ERACE);
	src.client_races = &by_client;
	src.n_client_races = 1;
	src.where = where;
	MUST_OK(taskrt__report_make(&src, &r));
	MUST_BE(r->pub.n_races, 2);
	MUST(strcmp(r->pub.races[0].message,
	            "tasks 1 and 2 both wrote 8 bytes at 0x5000 "
	            "(temperatures[17])") == 0);
	MUST(strcmp(
	         r->pub.races[1].message,
	         "task 3 and the program itself both wrote 1 byte at 0x7000") ==
	     0);
	MUST(strstr(r->pub.message, "2 races; the first: tasks 1 and 2 both") ==
	     r->pub.message);
	taskrt__report_free(r);
}

static void
test_races_show_what_each_side_wrote(void)
{
	const struct taskrt_race by_client = {
	    .task_a = 3,
	    .task_b = TASKRT_CLIENT,
	    .addr = (void *)0x7000,
	    .len = 1,
	};
	const struct dsm_value values[] = {
	    {.n = 2, .bytes = {0xf0, 0x3f}},
	    {.n = 2, .bytes = {0x00, 0x40}},
	    {.n = 8, .bytes = {1, 2, 3, 4, 5, 6, 7, 8}},
	    {.n = 0},
	    {.n = 0},
	    {.n = 0},
	    {.n = 0},
	    {.n = 1, .bytes = {0x2a}},
	};
	struct taskrt__report *r;

	reset();
	add_race(1, 2, 0x5000, 2);
	add_race(1, 4, 0x6000, 9);
	add_race(5, 6, 0x6100, 1);
	struct taskrt__report_source src = source(TASKRT_ERACE);
	src.client_races = &by_client;
	src.n_client_races = 1;
	src.values = values;
	src.where = where;
	MUST_OK(taskrt__report_make(&src, &r));
	const struct taskrt_race *v = r->pub.races;
	MUST(strcmp(v[0].message, "tasks 1 and 2 both wrote 2 bytes at 0x5000 "
	                          "(temperatures[17]): f0 3f and 00 40") == 0);
	/* What is not known is not made up. */
	MUST(strcmp(v[1].message,
	            "tasks 1 and 4 both wrote 9 bytes at 0x6000: "
	            "01 02 03 04 05 06 07 08 ... by task 1") == 0);
	MUST(strcmp(v[2].message,
	            "tasks 5 and 6 both wrote 1 byte at 0x6100") == 0);
	MUST(strcmp(v[3].message, "task 3 and the program itself both wrote 1 "
	                          "byte at 0x7000: 2a by the program") == 0);
	taskrt__report_free(r);
}

static void
test_races_of_chunks_say_how_to_find_the_iterations(void)
{
	struct taskrt__report *r;

	reset();
	add_race(10, 20, 0x5000, 8);
	struct taskrt__report_source src = source(TASKRT_ERACE);
	src.text = "iterations 10 and 20 both wrote 8 bytes at 0x5000";
	src.loop = src.chunked = 1;
	src.where = where;
	MUST_OK(taskrt__report_make(&src, &r));
	/* What is at the address only the program knows. */
	MUST(strcmp(r->pub.message,
	            "iterations 10 and 20 both wrote 8 bytes at 0x5000 "
	            "(temperatures[17])") == 0);
	taskrt__report_give(r);
	char *text = printed();
	MUST(strstr(text, "TASKRT_CHECK=iterations") != NULL);
	free(text);
	taskrt__report_give(NULL);
}

static void
test_a_failure_says_where_in_the_program_it_was(void)
{
	struct taskrt__report *r;

	reset();
	add_failure(7, DSM_FAIL_CRASH, SIGSEGV, "read of 0x8",
	            "memcpy in libc.so.6\nstep, heat.c:88\n");
	add_failure(8, DSM_FAIL_CRASH, SIGSEGV, "read of 0x9", "");
	struct taskrt__report_source src = source(TASKRT_ETASK);
	src.text = "2 of 9 tasks failed";
	src.backtrace = backtrace;
	MUST_OK(taskrt__report_make(&src, &r));
	const struct taskrt_failure *f = r->pub.failures;
	MUST(strcmp(f[0].message, "read of 0x8 (step, heat.c:88)") == 0);
	MUST(strcmp(f[0].backtrace, "memcpy in libc.so.6\nstep, heat.c:88") ==
	     0);
	MUST(strcmp(f[1].message, "read of 0x9") == 0);
	MUST(f[1].backtrace[0] == '\0');
	MUST(strcmp(r->pub.message, "task 7: read of 0x8 (step, heat.c:88), "
	                            "and 1 more failed") == 0);
	taskrt__report_free(r);
}

static void
test_all_races_are_counted_but_only_listed_ones_shown(void)
{
	struct taskrt__report *r;

	reset();
	for (unsigned i = 0; i < DSM_MAX_RACES; i++)
		add_race(i, i + 1, 0x1000 + i, 1);
	struct taskrt__report_source src = source(TASKRT_ERACE);
	src.n_races = 5000;
	MUST_OK(taskrt__report_make(&src, &r));
	MUST_BE(r->pub.n_races, 5000);
	taskrt__report_free(r);
	/* A list that is too short for its count: the count gives way. */
	src.races.n = 50;
	MUST_OK(taskrt__report_make(&src, &r));
	MUST_BE(r->pub.n_races, 50);
	taskrt__report_free(r);
}

static void
test_malformed_lists_are_refused(void)
{
	struct taskrt__report *r;

	reset();
	add_failure(1, DSM_FAIL_CRASH, SIGSEGV, "text", "");
	struct taskrt__report_source src = source(TASKRT_ETASK);
	src.texts.len = 2;
	MUST_BE(taskrt__report_make(&src, &r), DSM_EPROTO);
	reset();
	for (unsigned i = 0; i <= DSM_MAX_RACES; i++)
		add_race(i, i + 1, 0x1000 + i, 1);
	src = source(TASKRT_ERACE);
	MUST_BE(taskrt__report_make(&src, &r), DSM_EPROTO);
}

static void
test_print_shows_failures_with_backtraces(void)
{
	struct taskrt__report *r;

	reset();
	add_failure(7, DSM_FAIL_CRASH, SIGSEGV, "SIGSEGV at 0x10",
	            "memcpy in libc.so.6\nf, a.c:1\n");
	struct taskrt__report_source src = source(TASKRT_ETASK);
	src.name = "heat";
	src.backtrace = backtrace;
	MUST_OK(taskrt__report_make(&src, &r));
	taskrt__report_give(r);
	char *text = printed();
	MUST(strcmp(text, "taskrt: run \"heat\": a task failed: task 7: "
	                  "SIGSEGV at 0x10 (f, a.c:1)\n"
	                  "  1 task failed:\n"
	                  "    task 7: SIGSEGV at 0x10 (f, a.c:1)\n"
	                  "      memcpy in libc.so.6\n"
	                  "      f, a.c:1\n") == 0);
	free(text);
	taskrt__report_give(NULL);
	MUST_BE(taskrt_report_print(NULL), TASKRT_EINVAL);
}

static void
test_print_shows_a_place_once_for_all_that_failed_there(void)
{
	struct taskrt__report *r;

	reset();
	add_failure(1, DSM_FAIL_CRASH, SIGSEGV, "SIGSEGV at 0x10",
	            "libc\nf, a.c:1\n");
	add_failure(2, DSM_FAIL_CRASH, SIGSEGV, "SIGSEGV at 0x20",
	            "libc\nf, a.c:1\n");
	add_failure(3, DSM_FAIL_CRASH, SIGSEGV, "SIGSEGV at 0x10",
	            "libc\nf, a.c:2\n");
	add_failure(4, DSM_FAIL_TIMEOUT, 0, "too long", "");
	add_failure(5, DSM_FAIL_TIMEOUT, 0, "too long", "");
	struct taskrt__report_source src = source(TASKRT_ETASK);
	src.backtrace = backtrace;
	MUST_OK(taskrt__report_make(&src, &r));
	taskrt__report_give(r);
	char *text = printed();
	MUST(strstr(text, "    task 1: SIGSEGV at 0x10 (f, a.c:1)\n"
	                  "      libc\n"
	                  "      f, a.c:1\n"
	                  "    task 2: SIGSEGV at 0x20 (f, a.c:1)\n"
	                  "      at the same place\n"
	                  "    task 3: SIGSEGV at 0x10 (f, a.c:2)\n"
	                  "      libc\n"
	                  "      f, a.c:2\n"
	                  "    task 4: too long\n"
	                  "    task 5: too long\n") != NULL);
	free(text);
	taskrt__report_give(NULL);
}

static void
test_an_error_needs_no_memory_and_maps_to_a_public_code(void)
{
	MUST_BE(taskrt__report_fail(DSM_EVERSION, "peer speaks %d", 7),
	        TASKRT_ECONN);
	MUST_BE(taskrt_report()->error, TASKRT_ECONN);
	MUST(strcmp(taskrt_report()->message, "peer speaks 7") == 0);
	MUST_BE(taskrt__public_code(DSM_ENOSPC), TASKRT_ENOMEM);
	MUST_BE(taskrt__public_code(DSM_ERACE), TASKRT_ERACE);
	MUST_BE(taskrt__public_code(DSM_OK), TASKRT_OK);
	taskrt__report_give(NULL);
}

static void *
fail_here(void *arg)
{
	struct taskrt__report *r;

	reset();
	add_race(1, 2, 0x5000, 8);
	struct taskrt__report_source src = source(TASKRT_ERACE);
	MUST_OK(taskrt__report_make(&src, &r));
	taskrt__report_give(r);
	*(int *)arg = taskrt_report()->error;
	return NULL;
}

static void
test_each_thread_has_its_own_report(void)
{
	pthread_t t;
	int theirs = 0;

	taskrt__report_give(NULL);
	MUST_BE(pthread_create(&t, NULL, fail_here, &theirs), 0);
	MUST_BE(pthread_join(t, NULL), 0);
	MUST_BE(theirs, TASKRT_ERACE);
	MUST_BE(taskrt_report()->error, 0);
}

SUITE(taskrt_client_report, "taskrt.client.report",
      T(test_before_any_run_the_report_is_empty),
      T(test_failures_come_root_causes_first),
      T(test_races_name_both_tasks_and_the_block),
      T(test_races_show_what_each_side_wrote),
      T(test_races_of_chunks_say_how_to_find_the_iterations),
      T(test_a_failure_says_where_in_the_program_it_was),
      T(test_all_races_are_counted_but_only_listed_ones_shown),
      T(test_malformed_lists_are_refused),
      T(test_print_shows_failures_with_backtraces),
      T(test_print_shows_a_place_once_for_all_that_failed_there),
      T(test_an_error_needs_no_memory_and_maps_to_a_public_code),
      T(test_each_thread_has_its_own_report));
