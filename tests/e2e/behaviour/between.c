/* From run to run: what changed, what came, what went. */
#include "behaviour.h"

#include <sys/mman.h>
#include <unistd.h>

static void
add_row(size_t row, void *ctx)
{
	const double *a = ((double **)ctx)[0];
	double *sums = ((double **)ctx)[1], s = 0;

	for (size_t k = 0; k < 512 * 16; k++)
		s += a[row * 512 * 16 + k];
	sums[row * 512] = s;
}

static void
clean_pages_are_not_fetched_again(void)
{
	enum { ROWS = 64 };
	double *a = dsm_malloc(ROWS * 16 * PAGE);
	double *sums = dsm_calloc(ROWS * 512, sizeof(*sums));
	double *ctx[2] = {a, sums};
	uint64_t first, later = 0;

	for (size_t i = 0; i < ROWS * 16 * 512; i++)
		a[i] = 1;
	CHECK(taskrt_for(0, ROWS, add_row, ctx, NULL) == 0);
	first = taskrt_report()->counters.pages_fetched;
	for (int round = 0; round < 10; round++) {
		a[5] = round; /* one page changes */
		CHECK(taskrt_for(0, ROWS, add_row, ctx, NULL) == 0);
		later += taskrt_report()->counters.pages_fetched;
		CHECK(sums[0] == 512 * 16 - 1 + round);
	}
	/* Embedded: the heap is shared, nothing of it is ever fetched. With
	 * workers a round may fetch the changed page and the sums written by
	 * others, not the ROWS * 16 clean ones. */
	CHECK(first < ROWS * 16 * 4 + 800);
	if (getenv("TASKRT_COORDINATOR") == NULL)
		CHECK(later < 200);
	else
		CHECK(later < 10 * (ROWS * 2 + 100));
	dsm_free(a);
	dsm_free(sums);
}

#define ADVISED_PAGES 600u

static void
read_pages(size_t i, void *ctx)
{
	const unsigned char *p = ((unsigned char **)ctx)[0];
	uint64_t *sum = (uint64_t *)((void **)ctx)[1];
	uint64_t s = 0;

	(void)i;
	for (size_t k = 0; k < ADVISED_PAGES; k++)
		s += p[k * PAGE];
	*sum = s;
}

/* Counters of one task that reads fresh pages with this advice. */
static struct taskrt_counters
read_with(int advice)
{
	unsigned char *p = dsm_aligned_alloc(PAGE, ADVISED_PAGES * PAGE);
	uint64_t *sum = dsm_calloc(1, sizeof(*sum));
	void *ctx[2] = {p, sum};
	struct taskrt_counters c = {0};

	/* Never 0: a page that stays as it was may be there already, brought
	 * by a window of an earlier task. */
	for (size_t k = 0; k < ADVISED_PAGES; k++)
		p[k * PAGE] = (unsigned char)(k % 255 + 1);
	if (dsm_advise(p, ADVISED_PAGES * PAGE, advice) == 0 &&
	    taskrt_for(0, 1, read_pages, ctx, NULL) == 0 &&
	    *sum == 2 * (255 * 128) + 90 * 91 / 2)
		c = taskrt_report()->counters;
	/* Memory is never freed: other advice must meet fresh addresses. */
	return c;
}

static void
advice_changes_how_pages_travel_and_no_result(void)
{
	int elsewhere = getenv("TASKRT_COORDINATOR") != NULL ||
	                (getenv("TASKRT_TRANSPORT") != NULL &&
	                 strcmp(getenv("TASKRT_TRANSPORT"), "tcp") == 0);
	struct taskrt_counters c;
	int local;

	/* Some pages may be there: they lie beside what other tasks used. The
	 * first run brings code and whatever else there is. */
	CHECK(read_with(DSM_NORMAL).tasks == 1);
	c = read_with(DSM_RANDOM);
	CHECK(c.tasks == 1);
	if (elsewhere)
		CHECK(c.faults_heap_read > ADVISED_PAGES * 9 / 10);
	c = read_with(DSM_SEQUENTIAL);
	CHECK(c.tasks == 1);
	if (elsewhere)
		CHECK(c.pages_fetched > ADVISED_PAGES * 9 / 10 &&
		      c.fetches < 20);
	c = read_with(DSM_WILLNEED);
	CHECK(c.tasks == 1);
	if (elsewhere)
		CHECK(c.pages_fetched < 50 &&
		      c.pages_updated > ADVISED_PAGES * 9 / 10);
	CHECK(dsm_advise(&local, 4, DSM_RANDOM) == DSM_EINVAL);
	CHECK(dsm_advise(NULL, 1, DSM_RANDOM) == DSM_EINVAL);
	void *p = dsm_malloc(10);
	CHECK(dsm_advise(p, 10, 4) == DSM_EINVAL);
	CHECK(dsm_advise(p, SIZE_MAX, DSM_RANDOM) == DSM_EINVAL);
	dsm_free(p);
}

/* Reads or writes at arg + 8, or hands it to a system call; notes that it lives. */
static void
peek(void *arg)
{
	int *p = arg;

	a_global = p[2];
}

static void
poke(void *arg)
{
	((int *)arg)[2] = 1;
}

static void
print_secret(void *arg)
{
	a_global = (int)write(STDOUT_FILENO, arg, 12) + 100;
}

static void
memory_that_the_program_keeps_is_out_of_reach(void)
{
	char *m = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct taskrt_task next_to[2] = {{poke, m}, {poke, m + 3 * PAGE}};
	void (*bad[2])(void *) = {peek, poke};

	CHECK(m != MAP_FAILED);
	memcpy(m + PAGE + 8, "the password", 13);
	CHECK(taskrt_private(m + PAGE, 2 * PAGE) == 0);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 2; i++) {
			struct taskrt_task t = {bad[i], m + PAGE};

			CHECK(taskrt_run(&t, 1, NULL) == TASKRT_ETASK);
			const struct taskrt_failure *f =
			    &taskrt_report()->failures[0];
			CHECK(f->kind == TASKRT_CRASH);
			CHECK(f->addr == m + PAGE + 8);
			CHECK(strstr(f->message, "taskrt_private") != NULL);
		}
		struct taskrt_task t = {print_secret, m + PAGE + 8};
		CHECK(taskrt_run(&t, 1, NULL) == 0);
		CHECK(a_global == 99); /* EFAULT */
		/* Pages beside it are shared as ever. */
		CHECK(taskrt_run(next_to, 2, NULL) == 0);
		CHECK(((int *)m)[2] == 1);
		((int *)m)[2] = ((int *)(m + 3 * PAGE))[2] = 0;
	}
	CHECK(strcmp(m + PAGE + 8, "the password") == 0);
	CHECK(taskrt_share(m + PAGE, 2 * PAGE) == 0);
	struct taskrt_task t = {peek, m + PAGE};
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(memcmp(&a_global, "the ", 4) == 0);
	void *heap = dsm_aligned_alloc(PAGE, PAGE);
	CHECK(taskrt_private(heap, PAGE) == TASKRT_EINVAL);
	CHECK(strstr(taskrt_report()->message, "dsm_malloc") != NULL);
	CHECK(taskrt_private(m + 1, PAGE) == TASKRT_EINVAL);
	CHECK(taskrt_private(m, 100) == TASKRT_EINVAL);
	CHECK(taskrt_private(NULL, PAGE) == TASKRT_EINVAL);
	dsm_free(heap);
	munmap(m, 4 * PAGE);
}

struct inputs {
	int *local, *out;
};

static void
add_inputs(size_t i, void *ctx)
{
	const struct inputs *in = ctx;

	in->out[i] = a_global + *in->local;
}

static void
changed_globals_and_locals_reach_the_next_run(void)
{
	int *out = dsm_calloc(8, sizeof(*out));

	for (int round = 0; round < 5; round++) {
		int local = round * 11;
		struct inputs in = {&local, out};

		a_global = round;
		CHECK(taskrt_for(0, 8, add_inputs, &in, NULL) == 0);
		for (int i = 0; i < 8; i++)
			CHECK(out[i] == round * 12);
	}
	dsm_free(out);
}

static void
sum_list(size_t i, void *ctx)
{
	struct node *n = ((struct node **)ctx)[0];
	size_t *sums = (size_t *)((void **)ctx)[1];
	size_t s = 0;

	for (; n != NULL; n = n->next)
		s += n->value;
	sums[i] = s + i;
}

static void
memory_mapped_between_runs_is_found(void)
{
	size_t *sums = dsm_calloc(4, sizeof(*sums));

	for (int round = 0; round < 4; round++) {
		size_t len = 300 * PAGE;
		char *m = mmap(NULL, len, PROT_READ | PROT_WRITE,
		               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		struct node *head = NULL;
		void *ctx[2];

		CHECK(m != MAP_FAILED);
		for (size_t k = 0; k < 300; k++) {
			struct node *n = (struct node *)(m + k * PAGE);

			n->value = k + (size_t)round;
			n->next = head;
			head = n;
		}
		ctx[0] = head;
		ctx[1] = sums;
		CHECK(taskrt_for(0, 4, sum_list, ctx, NULL) == 0);
		for (size_t i = 0; i < 4; i++)
			CHECK(sums[i] ==
			      300 * 299 / 2 + 300 * (size_t)round + i);
		munmap(m, len);
	}
	dsm_free(sums);
}

struct grown {
	char *first,
	    *second; /* neighbours; second is mapped after the launch */
	int seen;
};

static void
use_what_came_later(void *arg)
{
	struct grown *g = arg;

	g->first[10] = 1;
	for (volatile int k = 0; k < 60000000; k++)
		;
	g->seen = (unsigned char)g->second[20];
	g->first[11] = 2;
}

static void
memory_mapped_in_mid_run_is_found_and_no_write_is_lost(void)
{
	size_t len = 16 * PAGE, spare = (size_t)64 << 20;
	struct grown g = {0};
	struct taskrt_task t = {use_what_came_later, &g};
	struct taskrt_run *run;

	/* Room behind it: what the launch maps comes from its upper end. */
	g.first = mmap(NULL, 2 * len + spare, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(g.first != MAP_FAILED);
	g.second = g.first + len;
	munmap(g.second, len + spare);
	g.first[0] = 1;
	CHECK(taskrt_start(&t, 1, NULL, &run) == 0);
	CHECK(mmap(g.second, len, PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
	           0) == g.second);
	g.second[20] = 77;
	CHECK(taskrt_wait(run) == 0);
	CHECK(g.seen == 77);
	CHECK(g.first[10] == 1 && g.first[11] == 2);
	munmap(g.first, 2 * len);
}

static char *late;

static void
touch_late(void *arg)
{
	*(int *)arg = (unsigned char)late[5];
}

static void
an_address_that_was_unmapped_may_be_mapped_in_the_next_run(void)
{
	int seen = 0;
	struct taskrt_options one = {.max_slots = 1};
	struct taskrt_task t = {touch_late, &seen};

	/* Where no mapping is put that does not ask for it. */
	late = (char *)UINT64_C(0x123400000000);
	CHECK(taskrt_run(&t, 1, &one) == TASKRT_ETASK);
	CHECK(mmap(late, PAGE, PROT_READ | PROT_WRITE,
	           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
	           0) == late);
	late[5] = 9;
	CHECK(taskrt_run(&t, 1, &one) == 0);
	CHECK(seen == 9);
	munmap(late, PAGE);
}

const struct cases_one between_cases[] = {
    CASE(clean_pages_are_not_fetched_again),
    CASE(memory_that_the_program_keeps_is_out_of_reach),
    CASE(advice_changes_how_pages_travel_and_no_result),
    CASE(changed_globals_and_locals_reach_the_next_run),
    CASE(memory_mapped_between_runs_is_found),
    CASE(memory_mapped_in_mid_run_is_found_and_no_write_is_lost),
    CASE(an_address_that_was_unmapped_may_be_mapped_in_the_next_run),
    {0},
};
