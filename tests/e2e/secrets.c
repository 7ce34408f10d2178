/*
 * For tls.sh: do a program's secrets get out of it?
 *
 * What is secret is not asked for by name. All that lies in the memory for secrets
 * (dsm/base/secret.h) and looks like random bytes is taken: tokens, PSKs, session
 * and traffic keys, their key schedules, what the random generator holds. None of
 * it may occur in memory that tasks or workers can read.
 *
 *   secrets program FILE [plant]   run tasks on the cluster, then let a task search
 *        all of the program's memory that there is for tasks. Writes the secrets
 *        to FILE.keys, then waits for FILE.done. plant: with a copy of a secret
 *        in an ordinary place, which must be found
 *   secrets worker ADDR FILE PID   join as a worker, as a slot read every page that
 *        the program PID has mapped, and search them
 *
 * The program holds secrets in its registers only, and hands them on masked.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <taskrt/taskrt.h>

#include <elf.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/base/page.h"
#include "../../dsm/base/secret.h"
#include "../../dsm/heap/heap.h"
#include "../../dsm/transport/access.h"
#include "../../dsm/wire/wire.h"
#include "../helpers/must.h"

#define MASK UINT64_C(0xa5c3965ae10f783c)
#define SLOTS_LOG2 18
#define N_SLOTS (1u << SLOTS_LOG2)
#define HEAP_SEARCHED (UINT64_C(16) << 20)
#define WAIT_MS 60000
#define N_TASKS 64

/* Masked pairs of words. */
struct table {
	uint64_t n;
	uint64_t pairs[N_SLOTS][2]; /* 0, 0: none */
};

struct search {
	struct table *keys;
	struct dsm_range *ranges;
	size_t n_ranges;
	uint64_t skip, skip_end; /* the table itself */
	uint64_t n_bytes, n_found, found_at;
};

/* --- what is looked for --- */

/* Eight bytes that are neither text nor a number, an address or a pattern (such as
 * 00 01 02 …, a constant of the random generator's). */
static int
looks_random(uint64_t word)
{
	uint64_t seen[4] = {0};
	int distinct = 0, printable = 0, steps = 0;

	for (int i = 0; i < 8; i++) {
		unsigned b = (uint8_t)(word >> (8 * i));

		if ((seen[b / 64] >> b % 64 & 1) == 0)
			distinct++;
		seen[b / 64] |= UINT64_C(1) << b % 64;
		printable += b >= ' ' && b <= '~';
		steps += b == (uint8_t)((uint8_t)word + i);
	}
	return distinct >= 7 && printable < 8 && steps < 8 && word >> 48 != 0 &&
	       (uint16_t)word != 0;
}

static unsigned
slot_of(uint64_t masked)
{
	return (unsigned)(masked * UINT64_C(0x9e3779b97f4a7c15) >>
	                  (64 - SLOTS_LOG2));
}

static void
add_pair(struct table *t, uint64_t a, uint64_t b)
{
	unsigned i = slot_of(a);

	if (t->n > N_SLOTS / 2)
		return;
	while (t->pairs[i][0] != 0) {
		if (t->pairs[i][0] == a && t->pairs[i][1] == b)
			return;
		i = (i + 1) % N_SLOTS;
	}
	t->pairs[i][0] = a;
	t->pairs[i][1] = b;
	t->n++;
}

static int
has_pair(const struct table *t, uint64_t a, uint64_t b)
{
	for (unsigned i = slot_of(a); t->pairs[i][0] != 0;
	     i = (i + 1) % N_SLOTS)
		if (t->pairs[i][0] == a && t->pairs[i][1] == b)
			return 1;
	return 0;
}

/* Is the page there? The region is mostly reserved. */
static int
is_mapped_in(int pagemap, uint64_t addr)
{
	uint64_t entry = 0;

	MUST(pread(pagemap, &entry, sizeof(entry),
	           (off_t)(addr / DSM_PAGE * sizeof(entry))) ==
	     (ssize_t)sizeof(entry));
	return (entry >> 62) != 0; /* present or swapped */
}

static void
collect(struct table *t)
{
	uint64_t start, end;
	FILE *f = fopen("/proc/self/pagemap", "re");

	MUST(f != NULL);
	dsm__secret_span(&start, &end);
	MUST(start < end);
	for (uint64_t page = start + DSM_PAGE; page < end; page += DSM_PAGE) {
		const volatile uint64_t *w = (const void *)(uintptr_t)page;

		if (!is_mapped_in(fileno(f), page))
			continue;
		for (size_t i = 0; i + 1 < DSM_PAGE / sizeof(*w); i++)
			if (looks_random(w[i]) && looks_random(w[i + 1]))
				add_pair(t, w[i] ^ MASK, w[i + 1] ^ MASK);
	}
	fclose(f);
}

/* n whole pages: where, 0: not there. */
static uint64_t
search_pages(const struct table *t, const void *p, size_t n)
{
	const volatile uint64_t *w = p;

	for (size_t i = 0; i + 1 < n * DSM_PAGE / sizeof(*w); i++)
		if (has_pair(t, w[i] ^ MASK, w[i + 1] ^ MASK))
			return (uintptr_t)&w[i];
	return 0;
}

/* --- in a task --- */

static void
search_all(void *arg)
{
	struct search *s = arg;
	uint64_t n_bytes = 0, n_found = 0, found_at = 0;

	for (size_t i = 0; i < s->n_ranges; i++) {
		const struct dsm_range *r = &s->ranges[i];
		uint64_t end = r->end;

		if (r->kind == DSM_RANGE_KEPT || r->kind == DSM_RANGE_VDSO)
			continue;
		if (r->kind == DSM_RANGE_HEAP && end > r->start + HEAP_SEARCHED)
			end = r->start + HEAP_SEARCHED;
		for (uint64_t at = r->start; at < end; at += DSM_PAGE) {
			uint64_t found;

			if (at >= s->skip && at < s->skip_end)
				continue;
			found = search_pages(s->keys,
			                     (const void *)(uintptr_t)at, 1);
			n_found += found != 0;
			found_at = found != 0 ? found : found_at;
			n_bytes += DSM_PAGE;
		}
	}
	s->n_bytes = n_bytes;
	s->n_found = n_found;
	s->found_at = found_at;
}

static void
touch_secret(void *arg)
{
	*(volatile uint64_t *)arg += *(volatile uint64_t *)*(void **)arg;
}

static void
count(size_t i, void *ctx)
{
	((uint64_t *)ctx)[i] = i + 1;
}

static void
await(const char *path, const char *suffix)
{
	uint64_t deadline = dsm__deadline_ms(WAIT_MS);
	char name[500];

	snprintf(name, sizeof(name), "%s%s", path, suffix);
	while (access(name, F_OK) != 0 && dsm__now() < deadline)
		poll(NULL, 0, 20);
	MUST(access(name, F_OK) == 0);
}

static void
write_keys(const char *path, const struct table *t)
{
	char name[500], new_name[500];
	FILE *f;

	snprintf(name, sizeof(name), "%s.keys", path);
	snprintf(new_name, sizeof(new_name), "%s.new", path);
	f = fopen(new_name, "we");
	MUST(f != NULL && fwrite(t, sizeof(*t), 1, f) == 1 && fclose(f) == 0);
	MUST(rename(new_name, name) == 0);
}

static int
program(const char *path, int plant)
{
	size_t size = (sizeof(struct table) + DSM_PAGE) & ~DSM_PAGE_MASK;
	struct table *t = dsm_aligned_alloc(DSM_PAGE, size);
	struct search *s = dsm_calloc(1, sizeof(*s));
	uint64_t *v = dsm_calloc(N_TASKS, sizeof(*v));
	uint64_t *copy = dsm_calloc(2, sizeof(*copy));
	struct dsm_range *ranges;
	uint64_t version, start, end;

	MUST(t != NULL && s != NULL && v != NULL && copy != NULL);
	memset(t, 0, size);
	MUST(taskrt_for(0, N_TASKS, count, v, NULL) == 0);
	collect(t);
	printf("secrets: %" PRIu64 " pairs of words\n", t->n);
	MUST(t->n >= 16); /* keys of two links at least */
	if (plant)
		for (unsigned i = 0; i < N_SLOTS; i++)
			if (t->pairs[i][0] != 0) {
				copy[0] = t->pairs[i][0] ^ MASK;
				copy[1] = t->pairs[i][1] ^ MASK;
				break;
			}
	MUST(dsm__map_table(dsm__heap_default()->map, &ranges, &s->n_ranges,
	                    &version) == DSM_OK);
	s->ranges = ranges;
	s->keys = t;
	s->skip = (uintptr_t)t;
	s->skip_end = s->skip + size;
	dsm__secret_span(&start, &end);
	for (size_t i = 0; i < s->n_ranges; i++)
		MUST(ranges[i].end <= start || ranges[i].start >= end);
	if (taskrt_run(&(struct taskrt_task){search_all, s}, 1, NULL) != 0) {
		taskrt_report_print(stdout);
		return 1;
	}
	printf("a task: %" PRIu64 " found in %" PRIu64 " KiB, at 0x%" PRIx64
	       "\n",
	       s->n_found, s->n_bytes >> 10, s->found_at);
	v[0] = start + DSM_PAGE;
	MUST(taskrt_run(&(struct taskrt_task){touch_secret, v}, 1, NULL) ==
	     TASKRT_ETASK);
	MUST(taskrt_report()->failures[0].kind == TASKRT_CRASH);
	printf("a task that reads there crashes\n");
	fflush(stdout);
	write_keys(path, t);
	await(path, ".done");
	return 0;
}

/* --- a worker that is somebody else's --- */

static void
send_body(struct dsm_conn *c, unsigned type, int err, struct dsm_wbuf *w)
{
	const struct iovec iov = {w->ptr, w->len};

	MUST(err == DSM_OK);
	MUST(dsm__conn_send(c, type, 0, 0, &iov, 1) == DSM_OK);
	MUST(dsm__conn_drain(c, dsm__deadline_ms(WAIT_MS)) == DSM_OK);
	dsm__wbuf_fini(w);
}

/* The next frame of that type; others are of no use. */
static struct dsm_frame
next(struct dsm_conn *c, unsigned type)
{
	struct dsm_frame f = {0};
	int err;

	do
		err = dsm__conn_recv_wait(c, dsm__deadline_ms(WAIT_MS), 0, &f,
		                          NULL);
	while (err == DSM_OK && f.type != type);
	if (err != DSM_OK)
		printf("no %s: %s %s\n", dsm__msg_name(type),
		       dsm__strerror(err), dsm__conn_why(c));
	MUST(err == DSM_OK);
	return f;
}

static void
say_hello(struct dsm_conn *c, unsigned role, uint64_t session)
{
	const struct dsm_msg_hello m = {
	    .magic = DSM_MAGIC,
	    .version = DSM_VERSION,
	    .role = (uint16_t)role,
	    .page_size = DSM_PAGE,
	    .arch = EM_X86_64,
	    .n_slots = 1,
	    .session = session,
	    .name = dsm__str("somebody"),
	};
	struct dsm_wbuf w = {0};

	send_body(c, DSM_MSG_HELLO, dsm__encode_hello(&w, &m), &w);
	next(c, DSM_MSG_WELCOME);
}

static struct dsm_conn *
connect_to(const char *addr, const struct dsm_access *access)
{
	struct dsm_error e = {0};
	struct dsm_conn *c;
	int fd, err;

	err = dsm__tcp_connect(addr, dsm__deadline_ms(WAIT_MS), &fd, &e);
	if (err == DSM_OK && access != NULL)
		err = dsm__access_conn(access, fd, addr, DSM_FRAME_MAX, &c, &e);
	else if (err == DSM_OK)
		err = dsm__conn_create(&dsm__tcp_ops, fd, DSM_FRAME_MAX, &c);
	if (err != DSM_OK)
		printf("%s: %s\n", addr, e.text);
	MUST(err == DSM_OK);
	return c;
}

/* The data link of a slot of the session that the coordinator tells of. */
static struct dsm_conn *
become_slot(const char *addr)
{
	struct dsm_access access;
	struct dsm_error e = {0};
	struct dsm_msg_session m;
	char data_addr[DSM_ADDR_MAX];
	struct dsm_conn *control, *c;
	struct dsm_frame f;

	MUST(dsm__access_init(&access, getenv("TASKRT_TOKEN_FILE"), 0,
	                      DSM_TOKEN_WORKER, &e) == DSM_OK);
	control = connect_to(addr, &access);
	say_hello(control, DSM_ROLE_WORKER, 0);
	f = next(control, DSM_MSG_SESSION);
	MUST(dsm__decode_session(f.body, f.len, &m) == DSM_OK);
	dsm__str_copy(data_addr, sizeof(data_addr), m.addr);
	c = connect_to(data_addr, NULL);
	MUST(dsm__access_session(c, m.session, m.key.ptr, m.key.len) == DSM_OK);
	say_hello(c, DSM_ROLE_DATA, m.session);
	return c;
}

/* READ of up to 256 pages: how many came, into *p_p. */
static uint32_t
read_pages(struct dsm_conn *c, uint64_t addr, uint32_t n, const void **p_p)
{
	const struct dsm_msg_read m = {.run = 1, .addr = addr, .n_pages = n};
	struct dsm_msg_pages reply;
	struct dsm_wbuf w = {0};
	struct dsm_frame f;

	send_body(c, DSM_MSG_READ, dsm__encode_read(&w, &m), &w);
	f = next(c, DSM_MSG_PAGES);
	MUST(dsm__decode_pages(f.body, DSM_PAGES_FIXED, &reply) == DSM_OK);
	*p_p = f.body + DSM_PAGES_FIXED;
	return reply.n_pages;
}

struct tally {
	const struct table *keys;
	uint64_t served, refused, found;
};

static void
read_span(struct dsm_conn *c, uint64_t start, uint64_t end, struct tally *t)
{
	static uint8_t bytes[DSM_READ_MAX * DSM_PAGE]
	    __attribute__((aligned(8)));

	for (uint64_t at = start; at < end;) {
		uint64_t left = (end - at) / DSM_PAGE;
		const void *p;
		uint32_t n = read_pages(
		    c, at, left < DSM_READ_MAX ? (uint32_t)left : DSM_READ_MAX,
		    &p);

		memcpy(bytes, p, n * DSM_PAGE);
		t->found += search_pages(t->keys, bytes, n) != 0;
		t->served += n;
		t->refused += n == 0;
		at += (n > 0 ? n : 1) * DSM_PAGE;
	}
}

/* What is only reserved is not read to its end. */
static uint64_t
end_of(uint64_t start, uint64_t end)
{
	return end - start > HEAP_SEARCHED ? start + HEAP_SEARCHED : end;
}

static int
worker(const char *addr, const char *path, const char *pid)
{
	static struct table keys;
	struct tally t = {.keys = &keys};
	struct dsm_conn *c = become_slot(addr);
	uint64_t start, end;
	char name[500], line[500], perms[8];
	FILE *f;

	await(path, ".keys");
	snprintf(name, sizeof(name), "%s.keys", path);
	f = fopen(name, "re");
	MUST(f != NULL && fread(&keys, sizeof(keys), 1, f) == 1);
	fclose(f);
	snprintf(name, sizeof(name), "/proc/%s/maps", pid);
	f = fopen(name, "re");
	MUST(f != NULL);
	/* The table itself is in the program's heap, but masked. */
	while (fgets(line, sizeof(line), f) != NULL)
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &start, &end,
		           perms) == 3 &&
		    start < UINT64_C(1) << 47)
			read_span(c, start, end_of(start, end), &t);
	fclose(f);
	printf("a worker: %" PRIu64 " found in %" PRIu64 " KiB, %" PRIu64
	       " pages refused\n",
	       t.found, t.served * 4, t.refused);
	dsm__conn_close(c);
	return t.served > 100 && t.refused > 100 ? 0 : 1;
}

int
main(int argc, char **argv)
{
	if (argc >= 3 && strcmp(argv[1], "program") == 0)
		return program(argv[2], argc > 3);
	if (argc == 5 && strcmp(argv[1], "worker") == 0)
		return worker(argv[2], argv[3], argv[4]);
	fprintf(stderr,
	        "usage: secrets program FILE [plant] | worker ADDR FILE "
	        "PID\n");
	return 2;
}
