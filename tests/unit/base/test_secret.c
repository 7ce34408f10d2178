/* Memory for secrets: blocks, wiping, the stack. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../dsm/base/secret.h"
#include "../../test.h"

static int
is_inside(const void *p)
{
	uint64_t start, end;

	dsm__secret_span(&start, &end);
	return (uintptr_t)p >= start && (uintptr_t)p < end;
}

static void
test_blocks_lie_in_the_region_apart_and_zero(void)
{
	static const size_t sizes[] = {0, 1, 48, 49, 4096, 100000, 1 << 20};
	enum { N = sizeof(sizes) / sizeof(*sizes) };
	uint8_t *v[N];

	for (int i = 0; i < N; i++) {
		v[i] = dsm__secret_alloc(sizes[i]);
		MUST(v[i] != NULL && is_inside(v[i]));
		MUST_BE((uintptr_t)v[i] % 16, 0);
		for (size_t k = 0; k < sizes[i]; k++)
			MUST_BE(v[i][k], 0);
		memset(v[i], i + 1, sizes[i]);
	}
	for (int i = 0; i < N; i++)
		for (size_t k = 0; k < sizes[i]; k++)
			MUST_BE(v[i][k], i + 1);
	for (int i = 0; i < N; i++)
		dsm__secret_free(v[i]);
	dsm__secret_free(NULL);
}

static void
test_a_freed_block_is_wiped_and_used_again(void)
{
	volatile uint8_t *p = dsm__secret_alloc(40);
	uint8_t *q;

	memset((void *)p, 0x5a, 40);
	dsm__secret_free((void *)p);
	for (int i = 8; i < 40; i++) /* the first word is the list's */
		MUST_BE(p[i], 0);
	q = dsm__secret_alloc(48);
	MUST(q == p);
	for (int i = 0; i < 48; i++)
		MUST_BE(q[i], 0);
	dsm__secret_free(q);
}

static void
test_a_block_that_grows_keeps_its_bytes(void)
{
	uint8_t *p = dsm__secret_realloc(NULL, 10);

	memset(p, 7, 10);
	for (size_t size = 20; size < 100000; size *= 3) {
		p = dsm__secret_realloc(p, size);
		MUST(p != NULL);
		for (int i = 0; i < 10; i++)
			MUST_BE(p[i], 7);
	}
	/* What is cut off is wiped, though the block stays where it is. */
	memset(p, 9, 100);
	p = dsm__secret_realloc(p, 10);
	MUST_BE(p[10], 0);
	dsm__secret_free(p);
}

static void
test_what_does_not_fit_is_refused(void)
{
	MUST(dsm__secret_alloc((size_t)1 << 40) == NULL);
}

static uint8_t *seen;

static void
leave_something(void *arg)
{
	uint8_t bytes[64];

	memset(bytes, 0xa7, sizeof(bytes));
	__asm__ volatile("" : : "r"(bytes) : "memory");
	seen = bytes; /* NOLINT: that it is gone afterwards is the test */
	++*(int *)arg;
}

static void
call_inside(void *arg)
{
	dsm__secret_call(leave_something, arg);
}

static void
test_a_call_runs_on_the_stack_in_the_region_which_is_wiped(void)
{
	const volatile uint8_t *p;
	int n = 0;

	dsm__secret_call(leave_something, &n);
	MUST_BE(n, 1);
	MUST(is_inside(seen));
	p = seen;
	for (int i = 0; i < 64; i++)
		MUST_BE(p[i], 0);
	dsm__secret_call(call_inside, &n);
	MUST_BE(n, 2);
}

static void *
call_often(void *arg)
{
	int n = 0;

	for (int i = 0; i < 200; i++) {
		void *p = dsm__secret_alloc(100);

		dsm__secret_call(call_inside, &n);
		dsm__secret_free(p);
	}
	*(int *)arg = n;
	return NULL;
}

static void
test_threads_take_turns(void)
{
	pthread_t threads[3];
	int n[3] = {0};

	for (int i = 0; i < 3; i++)
		MUST_BE(pthread_create(&threads[i], NULL, call_often, &n[i]),
		        0);
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		MUST_BE(n[i], 200);
	}
}

static void
test_a_forked_child_can_go_on(void)
{
	uint8_t *p = dsm__secret_alloc(100);
	int status;
	pid_t pid;

	p[0] = 3;
	dsm__secret_before_fork();
	pid = fork();
	dsm__secret_after_fork(pid == 0);
	if (pid == 0) {
		int n = 0;

		alarm(10);
		dsm__secret_call(call_inside, &n);
		_exit(p[0] == 3 && dsm__secret_alloc(10) != NULL && n == 1 ? 0
		                                                           : 1);
	}
	MUST(pid > 0);
	MUST_BE(waitpid(pid, &status, 0), pid);
	MUST_BE(status, 0);
	dsm__secret_free(p);
}

static void
test_equality_looks_at_every_byte(void)
{
	char a[] = "0123456789", b[] = "0123456789";

	MUST(dsm__secret_equal(a, b, 10));
	b[9] = 'x';
	MUST(!dsm__secret_equal(a, b, 10));
	MUST(dsm__secret_equal(a, b, 9));
	b[0] = 'x';
	MUST(!dsm__secret_equal(a, b, 9));
}

SUITE(dsm_base_secret, "dsm.base.secret",
      T(test_blocks_lie_in_the_region_apart_and_zero),
      T(test_a_freed_block_is_wiped_and_used_again),
      T(test_a_block_that_grows_keeps_its_bytes),
      T(test_what_does_not_fit_is_refused),
      T(test_a_call_runs_on_the_stack_in_the_region_which_is_wiped),
      T(test_threads_take_turns), T(test_a_forked_child_can_go_on),
      T(test_equality_looks_at_every_byte));
