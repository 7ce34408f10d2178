/*
 * What is shared with tasks and what is not, kind of memory by kind of memory: the
 * table of doc/MANUAL.md. Uses the library that OWNLIB names (tests/helpers/ownlib.c).
 * Arguments and output as in cases.h; run by shared.sh.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#include "../helpers/cases.h"

#define PAGE 4096u
#define N 24 /* tasks of a bunch */

/* The same function as N tasks, each with its own index. */
static int
bunch(void (*fn)(void *))
{
	struct taskrt_task t[N];

	for (size_t i = 0; i < N; i++)
		t[i] = (struct taskrt_task){fn, (void *)(uintptr_t)i};
	return taskrt_run(t, N, NULL);
}

static size_t
index_of(void *arg)
{
	return (size_t)(uintptr_t)arg;
}

/* --- globals --- */

static int data[N] = {1, 2, 3}; /* .data */
static int bss[N * 2000];       /* .bss */
static int *data_pointer = &data[2];
static char *volatile text_pointer = (char *)(uintptr_t) "before";

static void
write_globals(void *arg)
{
	size_t i = index_of(arg);

	data[i] += 10;
	bss[i * 2000] = data[i];
	if (i == 3) {
		data_pointer = &data[7];
		text_pointer = (char *)(uintptr_t) "after";
	}
}

static void
globals_are_committed(void)
{
	CHECK(bunch(write_globals) == 0);
	for (int i = 0; i < N; i++) {
		CHECK(data[i] == (i < 3 ? i + 1 : 0) + 10);
		CHECK(bss[i * 2000] == data[i]);
	}
	CHECK(data_pointer == &data[7]);
	CHECK(strcmp(text_pointer, "after") == 0);
}

/* --- a library of the program's own --- */

static struct {
	int *data, *bss, *tls;
	const int *constant;
	int (*count)(void);
	int *(*tls_address)(void);
} own;

static void
use_library(void *arg)
{
	size_t i = index_of(arg);

	if (i == 0)
		*own.data = own.count() + own.count();
	own.bss[i * 100] = *own.constant + (int)i;
}

static void
globals_of_the_program_s_libraries_are_committed(void)
{
	CHECK(own.data != NULL && *own.data == 5 && own.count() == 101);
	CHECK(bunch(use_library) == 0);
	CHECK(*own.data == 102 + 103);
	CHECK(own.count() == 104);
	for (int i = 0; i < N; i++)
		CHECK(own.bss[i * 100] == 9 + i);
}

static int seen_tls[N * 1024]; /* no two in a page */

static void
use_own_tls(void *arg)
{
	size_t i = index_of(arg);
	int *p = own.tls_address();

	*p += (int)i + 1;
	seen_tls[i * 1024] = *own.tls_address();
}

static void
thread_local_data_of_libraries_is_private(void)
{
	/* Whether or not this thread has used it before. */
	for (int round = 0; round < 3; round++) {
		memset(seen_tls, 0, sizeof(seen_tls));
		CHECK(bunch(use_own_tls) == 0);
		for (int i = 0; i < N; i++)
			CHECK(seen_tls[i * 1024] == 7 + round + i + 1);
		CHECK(*own.tls_address() == 7 + round);
		++*own.tls_address();
	}
}

/* --- the launching thread's stack --- */

struct on_stack {
	int small;
	char big[100000];
	int *into_heap;
};

static struct on_stack *the_frame;

static void
write_frame(void *arg)
{
	size_t i = index_of(arg);
	char room[20000]; /* of its own: below, and gone afterwards */

	memset(room, (int)i, sizeof(room));
	the_frame->big[i * 4000] = room[i] + 1;
	if (i == 5)
		the_frame->small = 55;
	if (i == 6)
		*the_frame->into_heap = 66;
}

static void *
launch_from_here(void *arg)
{
	struct on_stack frame = {.into_heap = malloc(sizeof(int))};
	int *result = arg;

	the_frame = &frame;
	*frame.into_heap = 0;
	int err = bunch(write_frame);
	*result = err == 0 && frame.small == 55 && *frame.into_heap == 66;
	for (int i = 0; i < N; i++)
		*result &= frame.big[i * 4000] == i + 1;
	free(frame.into_heap);
	return NULL;
}

static void
the_launching_thread_s_stack_is_committed(void)
{
	pthread_t th;
	int good = 0;

	launch_from_here(&good);
	CHECK(good);
	/* That of another thread as well. */
	good = 0;
	CHECK(pthread_create(&th, NULL, launch_from_here, &good) == 0);
	pthread_join(th, NULL);
	CHECK(good);
}

/* --- malloc and mmap --- */

static char *blocks[N], *mapped, *read_only, *of_file;

static void
write_blocks(void *arg)
{
	size_t i = index_of(arg);

	snprintf(blocks[i], 30, "block %zu", i);
	blocks[i][malloc_usable_size(blocks[i]) - 1] = 'z';
	snprintf(mapped + i * PAGE / 2, 30, "%c%c%zu", read_only[i], of_file[i],
	         i);
}

static void
malloced_and_mapped_memory_is_committed(void)
{
	char name[] = "/tmp/shared-XXXXXX", want[30];
	int fd = mkstemp(name);

	CHECK(fd >= 0 && unlink(name) == 0);
	CHECK(write(fd, "abcdefghijklmnopqrstuvwxyz", 26) == 26);
	for (size_t i = 0; i < N; i++) /* small, and mapped by themselves */
		blocks[i] = calloc(1, i % 3 == 0 ? 300000 : 30 + i * 100);
	mapped = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE,
	              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	read_only = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	of_file = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED && read_only != MAP_FAILED);
	CHECK(of_file != MAP_FAILED);
	memset(read_only, 'R', PAGE);
	CHECK(mprotect(read_only, PAGE, PROT_READ) == 0);
	CHECK(bunch(write_blocks) == 0);
	for (size_t i = 0; i < N; i++) {
		snprintf(want, sizeof(want), "block %zu", i);
		CHECK(strcmp(blocks[i], want) == 0);
		CHECK(blocks[i][malloc_usable_size(blocks[i]) - 1] == 'z');
		snprintf(want, sizeof(want), "R%c%zu", (int)('a' + i), i);
		CHECK(strcmp(mapped + i * PAGE / 2, want) == 0);
		free(blocks[i]);
	}
	munmap(mapped, N * PAGE);
	munmap(read_only, PAGE);
	munmap(of_file, PAGE);
	close(fd);
}

static void
write_read_only(void *arg)
{
	(void)arg;
	read_only[1] = 1;
}

static void
write_code(void *arg)
{
	(void)arg;
	*(volatile char *)(uintptr_t)write_code = 1;
}

static void
what_is_read_only_stays_so(void)
{
	struct taskrt_task t[2] = {{write_read_only, NULL}, {write_code, NULL}};

	read_only =
	    mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(read_only != MAP_FAILED);
	CHECK(taskrt_run(t, 2, NULL) == TASKRT_ETASK);
	CHECK(taskrt_report()->n_failures == 2);
	CHECK(taskrt_report()->failures[0].addr == read_only + 1);
	for (int i = 0; i < 2; i++)
		CHECK(strstr(taskrt_report()->failures[i].message,
		             "read-only") != NULL);
	munmap(read_only, PAGE);
}

/* --- system libraries, thread-local storage --- */

static _Thread_local int local_number = 3;
static int results[N];

static void
disturb_libc(void *arg)
{
	size_t i = index_of(arg);
	char text[] = "a,b;c", *save;

	errno = (int)i + 1000;
	local_number += (int)i;
	srand((unsigned)i);
	results[i] = rand() >= 0 && local_number == 3 + (int)i;
	results[i] += strcmp(strtok(text, ","), "a") == 0;
	results[i] += strcmp(strtok(NULL, ";"), "b") == 0;
	results[i] += strcmp(strtok_r(text + 4, ",", &save), "c") == 0;
	results[i] += setlocale(LC_ALL, "C") != NULL;
	results[i] += getenv("OWNLIB") != NULL;
}

static void
data_of_system_libraries_and_thread_local_data_are_private(void)
{
	char mine[] = "one two three";
	int first, second;

	srand(5);
	first = rand();
	second = rand();
	srand(5);
	CHECK(rand() == first);
	CHECK(strcmp(strtok(mine, " "), "one") == 0);
	errno = 77;
	int err = bunch(disturb_libc);
	int number = errno; /* of a call of the launch, perhaps */
	CHECK(err == 0);
	CHECK(number < 1000);
	CHECK(rand() == second);
	CHECK(strcmp(strtok(NULL, " "), "two") == 0);
	CHECK(local_number == 3);
	for (int i = 0; i < N; i++)
		CHECK(results[i] == 6);
}

/* --- malloc in tasks --- */

static char *born[N], *born_twice[N], *doomed[N];

static void
allocate(void *arg)
{
	size_t i = index_of(arg);

	born[i] = malloc(100 + i * 1000);
	memset(born[i], (int)i + 1, 100 + i * 1000);
	born_twice[i] = realloc(strdup("from strdup"), 5000);
	free(doomed[i]); /* the program's: takes effect at the commit */
	doomed[i] = NULL;
	free(malloc(50000));
}

static void
blocks_go_both_ways(void)
{
	for (int round = 0; round < 5; round++) {
		for (size_t i = 0; i < N; i++) {
			doomed[i] = i % 2 == 0 ? malloc(40) : dsm_malloc(40);
			born[i] = born_twice[i] = NULL;
		}
		CHECK(bunch(allocate) == 0);
		for (size_t i = 0; i < N; i++) {
			CHECK(doomed[i] == NULL);
			for (size_t k = 0; k < 100 + i * 1000; k++)
				CHECK(born[i][k] == (char)(i + 1));
			CHECK(strcmp(born_twice[i], "from strdup") == 0);
			born[i] = realloc(born[i], 200000);
			CHECK(born[i] != NULL && born[i][99] == (char)(i + 1));
			if (i % 2 == 0)
				dsm_free(born_twice[i]);
			else
				free(born_twice[i]);
			free(born[i]);
		}
	}
}

static void
free_and_fail(void *arg)
{
	free(doomed[index_of(arg)]);
	doomed[index_of(arg)] = NULL;
	if (index_of(arg) == 11)
		abort();
}

static void
a_failed_run_has_freed_nothing(void)
{
	for (size_t i = 0; i < N; i++) {
		doomed[i] = malloc(64);
		memset(doomed[i], 'd', 64);
	}
	CHECK(bunch(free_and_fail) == TASKRT_ETASK);
	for (size_t i = 0; i < N; i++) {
		/* Still ours: to write to and to free. */
		CHECK(doomed[i] != NULL && doomed[i][63] == 'd');
		memset(doomed[i], 'e', 64);
		free(doomed[i]);
	}
}

static void
use_much_and_keep_nothing(void *arg)
{
	char *p[40];

	(void)arg;
	for (int k = 0; k < 40; k++) {
		p[k] = malloc(50000);
		memset(p[k], k + 1, 50000);
	}
	for (int k = 0; k < 40; k++)
		free(p[k]);
}

static void
pages_with_nothing_alive_are_not_sent(void)
{
	CHECK(bunch(use_much_and_keep_nothing) == 0);
	CHECK(taskrt_report()->counters.bytes_written < 4096);
	CHECK(taskrt_report()->counters.bytes_sent < 4096);
}

/* --- the list --- */

static const struct cases_one cases[] = {
    CASE(what_is_read_only_stays_so),
    CASE(globals_are_committed),
    CASE(globals_of_the_program_s_libraries_are_committed),
    CASE(thread_local_data_of_libraries_is_private),
    CASE(the_launching_thread_s_stack_is_committed),
    CASE(malloced_and_mapped_memory_is_committed),
    CASE(data_of_system_libraries_and_thread_local_data_are_private),
    CASE(blocks_go_both_ways),
    CASE(a_failed_run_has_freed_nothing),
    CASE(pages_with_nothing_alive_are_not_sent),
    {0},
};

static int
load_library(void)
{
	const char *path = getenv("OWNLIB");
	void *lib = path != NULL ? dlopen(path, RTLD_NOW) : NULL;

	if (lib == NULL)
		return -1;
	own.data = dlsym(lib, "own_data");
	own.bss = dlsym(lib, "own_bss");
	own.constant = dlsym(lib, "own_constant");
	*(void **)&own.count = dlsym(lib, "own_count");
	*(void **)&own.tls_address = dlsym(lib, "own_tls_address");
	return 0;
}

int
main(int argc, char **argv)
{
	static const struct cases_group groups[] = {{"shared", cases}, {0}};

	if (load_library() != 0) {
		fprintf(stderr, "shared: OWNLIB names no library: %s\n",
		        dlerror());
		return 2;
	}
	return cases_main(groups, argc, argv);
}
