/*
 * factor - factorise products of two large primes, one task a number.
 *
 * Long tasks and next to no data: what remains is the price of distributing.
 */
#include <inttypes.h>
#include <string.h>

#include <taskrt/taskrt.h>

#include "common/example.h"

struct number {
	uint64_t n;    /* to factorise */
	uint64_t p, q; /* the result */
};

static uint64_t n_numbers = 100;
static struct number *numbers; /* shared: tasks write their results here */

/* The task: trial division. */
static void
factorise(size_t i, void *ctx)
{
	struct number *x = (struct number *)ctx + i;
	uint64_t d = 2;

	while (d * d <= x->n && x->n % d != 0)
		d++;
	x->p = d * d <= x->n ? d : 1;
	x->q = x->n / x->p;
}

static int
run(enum example_mode mode)
{
	if (mode != EXAMPLE_TASKRT)
		return example_loop(mode, 0, n_numbers, 1, factorise, numbers);
	return taskrt_for(0, n_numbers, factorise, numbers,
	                  &(struct taskrt_options){.name = "factor"});
}

static int
is_prime(uint64_t n)
{
	if (n < 4 || n % 2 == 0)
		return n == 2 || n == 3;
	for (uint64_t d = 3; d * d <= n; d += 2) {
		if (n % d == 0)
			return 0;
	}
	return 1;
}

static uint64_t
next_prime(uint64_t n)
{
	while (!is_prime(n))
		n++;
	return n;
}

/* Both primes lie between 3.0 and 3.4 million, so every task is about as long. */
static int
setup(void)
{
	numbers = dsm_calloc(n_numbers, sizeof(*numbers));
	if (numbers == NULL) {
		perror("factor");
		return -1;
	}
	dsm_name(numbers, "numbers");
	for (size_t i = 0; i < n_numbers; i++) {
		uint64_t p = next_prime(3000000 + example_mix(i) % 150000);

		numbers[i].n = p * next_prime(10000000000000 / p);
	}
	return 0;
}

static void
reset(void)
{
	for (size_t i = 0; i < n_numbers; i++)
		numbers[i].p = numbers[i].q = 0;
}

static int
check(char *text, size_t size)
{
	size_t n_right = 0;
	uint64_t sum = 0;

	for (size_t i = 0; i < n_numbers; i++) {
		const struct number *x = &numbers[i];

		n_right +=
		    x->p * x->q == x->n && is_prime(x->p) && is_prime(x->q);
		sum += x->p;
	}
	snprintf(text, size,
	         "%zu of %" PRIu64 " factorised, sum of factors %" PRIu64,
	         n_right, n_numbers, sum);
	return n_right == n_numbers ? 0 : -1;
}

static int
finish(void)
{
	dsm_free(numbers);
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct example_option options[] = {
	    {"numbers", "N", "how many numbers", .number = &n_numbers, .min = 1,
	     .max = 1000000},
	    {0},
	};
	static const struct example factor = {
	    .name = "factor",
	    .summary = "Factorise products of two primes near 10^13.",
	    .options = options,
	    .setup = setup,
	    .reset = reset,
	    .run = run,
	    .check = check,
	    .finish = finish,
	};

	return example_main(&factor, argc, argv);
}
