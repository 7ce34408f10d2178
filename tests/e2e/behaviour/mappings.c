/* Mappings that grow, shrink and split; writes far apart. */
#include "behaviour.h"

#include <sys/mman.h>
#include <time.h>

/* Inaccessible memory to be opened piece by piece, more of it on both sides; it
 * starts at a multiple of 2 MiB. */
static char *
lonely_memory(size_t reserve)
{
	const size_t align = (size_t)2 << 20;
	char *p = mmap(NULL, reserve + 2 * align, PROT_NONE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED
	           ? NULL
	           : (char *)(((uintptr_t)p + align) & ~(align - 1));
}

static void
add_one(void *arg)
{
	++*(char *)arg;
}

static void
a_mapping_that_has_grown_stays_writable(void)
{
	char *m = lonely_memory((size_t)2 << 20);
	const size_t step = 16 * PAGE;
	struct taskrt_task steady = {add_one, m + 4 * step};

	CHECK(m != NULL);
	/* The first steps may bring other new mappings, the next ones do not. */
	for (size_t len = step; len < 12 * step; len += step) {
		struct taskrt_task last = {add_one, m + len - PAGE};

		CHECK(mprotect(m, len, PROT_READ | PROT_WRITE) == 0);
		CHECK(taskrt_run(&last, 1, NULL) == 0);
		for (int round = 0; round < 6 && len > 4 * step; round++)
			CHECK(taskrt_run(&steady, 1, NULL) == 0);
		CHECK(m[len - PAGE] == 1);
	}
	CHECK(m[4 * step] == 7 * 6);
}

static void
memory_made_writable_between_runs_can_be_written(void)
{
	char *m = lonely_memory((size_t)2 << 20);
	struct taskrt_task t = {add_one, m + 5};
	struct taskrt_task u[2] = {{add_one, m + PAGE},
	                           {add_one, m + 9 * PAGE}};

	CHECK(m != NULL);
	CHECK(mprotect(m, 2 * PAGE, PROT_READ | PROT_WRITE) == 0);
	m[5] = 7;
	CHECK(taskrt_run(u, 1, NULL) == 0);
	CHECK(mprotect(m, PAGE, PROT_READ) == 0);
	CHECK(mprotect(m + 9 * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(taskrt_run(u, 2, NULL) == 0); /* asks: the table is read again */
	CHECK(mprotect(m, PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(m[5] == 8 && m[PAGE] == 2);
}

#define FAR ((size_t)2 << 20)
#define N_FAR 4100 /* more than a slot watches one by one */
#define N_SINGLE 60

struct far_apart {
	char *heap, *mapped;
};

static void
write_far_apart(void *arg)
{
	struct far_apart *f = arg;

	for (size_t k = 0; k < N_FAR; k++) {
		f->heap[k * FAR] = 1;
		if (N_FAR - k <= N_SINGLE / 2) {
			f->mapped[(N_FAR - k) * 4 * PAGE] = 1;
			f->mapped[(N_FAR - k) * 4 * PAGE - 2 * PAGE] = 1;
		}
	}
}

static void
writes_may_lie_far_apart(void)
{
	struct far_apart f = {dsm_malloc(N_FAR * FAR),
	                      lonely_memory((size_t)2 << 20)};
	struct taskrt_task t = {write_far_apart, &f};

	CHECK(f.heap != NULL && f.mapped != NULL);
	for (size_t k = 1; k <= N_SINGLE; k++)
		CHECK(mprotect(f.mapped + k * 2 * PAGE, PAGE,
		               PROT_READ | PROT_WRITE) == 0);
	for (int round = 0; round < 2; round++) {
		CHECK(taskrt_run(&t, 1, NULL) == 0);
		for (size_t k = 0; k < N_FAR; k++)
			CHECK(f.heap[k * FAR] == 1);
		for (size_t k = 1; k <= N_SINGLE; k++)
			CHECK(f.mapped[k * 2 * PAGE] == 1);
		for (size_t k = 0; k < N_FAR; k++)
			f.heap[k * FAR] = 0;
		for (size_t k = 1; k <= N_SINGLE; k++)
			f.mapped[k * 2 * PAGE] = 0;
	}
	dsm_free(f.heap);
}

struct shrunk {
	char *kept, *late;
	int seen;
};

static void
write_wait_and_look(void *arg)
{
	struct shrunk *s = arg;
	const struct timespec pause = {0, 300000000};

	s->kept[10] = 1;
	s->kept[3 * PAGE] = 1;
	nanosleep(&pause, NULL);
	s->seen =
	    (unsigned char)s->late[20]; /* asks for the table of mappings */
	s->kept[11] = s->kept[10];
}

static void
writes_survive_when_their_mapping_shrinks_or_splits(void)
{
	const struct timespec pause = {0, 100000000};
	char *m = lonely_memory((size_t)2 << 20);
	struct shrunk s = {m, m + 64 * PAGE, 0};
	struct taskrt_task t = {write_wait_and_look, &s};
	struct taskrt_run *run;

	CHECK(m != NULL);
	CHECK(mprotect(m, 16 * PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(taskrt_start(&t, 1, NULL, &run) == 0);
	nanosleep(&pause, NULL);
	CHECK(mprotect(m + 8 * PAGE, 8 * PAGE, PROT_NONE) == 0);
	CHECK(mprotect(m + 2 * PAGE, PAGE, PROT_READ) == 0);
	CHECK(mprotect(s.late, PAGE, PROT_READ | PROT_WRITE) == 0);
	s.late[20] = 9;
	CHECK(taskrt_wait(run) == 0);
	CHECK(s.seen == 9);
	CHECK(m[10] == 1 && m[11] == 1 && m[3 * PAGE] == 1);
	t = (struct taskrt_task){add_one, m + PAGE};
	CHECK(taskrt_run(&t, 1, NULL) == 0);
	CHECK(m[PAGE] == 1 && m[10] == 1);
}

const struct cases_one mappings_cases[] = {
    CASE(a_mapping_that_has_grown_stays_writable),
    CASE(memory_made_writable_between_runs_can_be_written),
    CASE(writes_may_lie_far_apart),
    CASE(writes_survive_when_their_mapping_shrinks_or_splits),
    {0},
};
