/* Results are in place, tasks see the launch state, races are found. */
#include "behaviour.h"

#include <math.h>
#include <sys/mman.h>

static double a_table[1000];

static void
loop_results_are_in_place(void)
{
	size_t n = 100000;
	double *a = dsm_malloc(n * sizeof(*a));

	CHECK(a != NULL);
	for (size_t i = 0; i < n; i++)
		a[i] = -1;
	CHECK(taskrt_for(0, n, square, a, NULL) == 0);
	for (size_t i = 0; i < n; i++)
		CHECK(a[i] == (double)i * (double)i);
	dsm_free(a);
}

struct spots {
	int *local, *heap, *mapped;
};

static void
write_everywhere(void *arg)
{
	struct spots *s = arg;

	a_global = 6;
	a_table[17] = sin(1.0);
	*s->local = 1;
	*s->heap = 2;
	*s->mapped = 3;
}

static void
globals_stack_malloc_and_mmap_are_committed(void)
{
	int local = 0;
	int *heap = malloc(sizeof(int));
	int *mapped = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
	                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct spots s = {&local, heap, mapped};
	struct taskrt_task t = {write_everywhere, &s};

	*heap = *mapped = 0;
	a_global = 5;
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(a_global == 6);
	CHECK(a_table[17] == sin(1.0));
	CHECK(local == 1 && *heap == 2 && *mapped == 3);
	free(heap);
	munmap(mapped, PAGE);
}

static void
sum_range(size_t lo, size_t hi, void *ctx)
{
	uint64_t *parts = ctx;
	uint64_t s = 0;

	for (size_t i = lo; i < hi; i++)
		s += i;
	parts[lo] = s;
}

static void
for_range_covers_every_index_once(void)
{
	size_t n = 5000;
	uint64_t *parts = dsm_calloc(n, sizeof(*parts)), total = 0;

	CHECK(taskrt_for_range(0, n, sum_range, parts, NULL) == 0);
	for (size_t i = 0; i < n; i++)
		total += parts[i];
	CHECK(total == (uint64_t)n * (n - 1) / 2);
	dsm_free(parts);
}

struct particle {
	char odd[5];
	short weight;
	double place;
};

static void
move_particle(void *elem, void *ctx)
{
	struct particle *p = elem;

	p->place += *(double *)ctx * p->weight;
	if (p->weight == 4321)
		abort();
}

static void
foreach_calls_the_body_with_every_element_once(void)
{
	enum { N = 3000 };
	struct particle *p = dsm_calloc(N, sizeof(*p));
	static double step = 0.5;

	for (int i = 0; i < N; i++)
		p[i].weight = (short)i;
	CHECK(taskrt_foreach(p, N, sizeof(*p), move_particle, &step, NULL) ==
	      0);
	for (int i = 0; i < N; i++)
		CHECK(p[i].weight == i && p[i].place == 0.5 * i);
	p[1234].weight = 4321;
	CHECK(taskrt_foreach(p, N, sizeof(*p), move_particle, &step, NULL) ==
	      TASKRT_ETASK);
	CHECK(taskrt_report()->n_failures == 1);
	CHECK(taskrt_report()->failures[0].task == 1234);
	CHECK(p[5].place == 2.5);
	dsm_free(p);
}

static void
empty_runs_are_fine(void)
{
	CHECK(taskrt_run(NULL, 0, NULL) == 0);
	CHECK(taskrt_for(3, 3, square, NULL, NULL) == 0);
	CHECK(taskrt_foreach(NULL, 0, 8, move_particle, NULL, NULL) == 0);
}

static void
bad_arguments_are_refused(void)
{
	struct taskrt_task t = {NULL, NULL};

	CHECK(taskrt_for(4, 3, square, NULL, NULL) == TASKRT_EINVAL);
	CHECK(taskrt_for(0, 3, NULL, NULL, NULL) == TASKRT_EINVAL);
	CHECK(taskrt_run(NULL, 2, NULL) == TASKRT_EINVAL);
	CHECK(taskrt_foreach(NULL, 2, 8, move_particle, NULL, NULL) ==
	      TASKRT_EINVAL);
	CHECK(taskrt_foreach(&t, 2, 0, move_particle, NULL, NULL) ==
	      TASKRT_EINVAL);
	CHECK(taskrt_foreach(&t, 2, SIZE_MAX, move_particle, NULL, NULL) ==
	      TASKRT_EINVAL);
	CHECK(taskrt_foreach(&t, 1, 8, NULL, NULL, NULL) == TASKRT_EINVAL);
	CHECK(taskrt_run(&t, 1, NULL) != 0);
	CHECK(strlen(taskrt_report()->message) > 0);
}

/* --- isolation and races --- */

static void
two_writers_of_one_byte_are_a_race_and_change_nothing(void)
{
	int *p = dsm_calloc(100, sizeof(*p));
	struct taskrt_task t[2] = {{increment_shared, p},
	                           {increment_shared, p}};
	const struct taskrt_report *r;

	p[50] = 7;
	CHECK(taskrt_run(t, 2, NULL) == TASKRT_ERACE);
	r = taskrt_report();
	CHECK(r->n_races == 1);
	CHECK(r->races[0].task_a == 0 && r->races[0].task_b == 1);
	CHECK(r->races[0].addr == (void *)p);
	CHECK(r->races[0].len == 1);
	CHECK(strstr(r->races[0].message, ": 01 and 01") != NULL);
	CHECK(p[0] == 0 && p[50] == 7);
	dsm_free(p);
}

static void
set_byte(size_t i, void *ctx)
{
	((unsigned char *)ctx)[i] = (unsigned char)(i * 7 + 1);
}

static void
neighbouring_bytes_are_no_race(void)
{
	size_t n = 3 * PAGE;
	unsigned char *p = dsm_calloc(n, 1);
	struct taskrt_options one = {.chunk = 1};

	CHECK(taskrt_for(0, n, set_byte, p, &one) == 0);
	for (size_t i = 0; i < n; i++)
		CHECK(p[i] == (unsigned char)(i * 7 + 1));
	dsm_free(p);
}

static void
see_and_set(size_t i, void *ctx)
{
	int *p = ctx;

	p[i] = p[(i + 1) % 64] + 1;
}

static void
tasks_see_the_launch_state_only(void)
{
	int *p = dsm_calloc(64, sizeof(*p));
	struct taskrt_options one = {.chunk = 1};

	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 64; i++)
			p[i] = i * 3 + round;
		CHECK(taskrt_for(0, 64, see_and_set, p, &one) == 0);
		for (int i = 0; i < 64; i++)
			CHECK(p[i] == ((i + 1) % 64) * 3 + round + 1);
	}
	dsm_free(p);
}

const struct cases_one results_cases[] = {
    CASE(loop_results_are_in_place),
    CASE(globals_stack_malloc_and_mmap_are_committed),
    CASE(for_range_covers_every_index_once),
    CASE(foreach_calls_the_body_with_every_element_once),
    CASE(empty_runs_are_fine),
    CASE(bad_arguments_are_refused),
    CASE(two_writers_of_one_byte_are_a_race_and_change_nothing),
    CASE(neighbouring_bytes_are_no_race),
    CASE(tasks_see_the_launch_state_only),
    {0},
};
