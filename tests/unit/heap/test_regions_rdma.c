/*
 * What a peer reads of the heap by RDMA READs, on a device of this machine. The
 * peer is another queue pair of this process.
 */
#include "../../test.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../dsm/base/log.h"
#include "../../../dsm/base/page.h"
#include "../../../dsm/heap/regions.h"
#include "../../../dsm/wire/wire.h"
#include "../transport/verbs_pair.h"

#define MIB (UINT64_C(1) << 20)
#define RING (64 * DSM_PAGE)
#define WAIT_MS 20000

static const struct dsm_regions_ops ops = {
    dsm__verbs_register, dsm__verbs_unregister, dsm__verbs_rkey};

struct fixture {
	struct dsm_views *views;
	struct dsm_regions *r;
	struct dsm_extents changed;
	uint8_t *base, *ring;
	struct dsm_conn *conns[2]; /* the slot's and the client's */
};

static void
freeze(struct fixture *f, uint64_t used)
{
	const struct dsm_freeze z = {
	    .used = used, .exclusive = 1, .changed = &f->changed};
	struct dsm_error e = {0};

	f->changed.n = 0;
	MUST_OK(dsm__views_freeze(f->views, &z, &e));
}

/* 8 MiB of ones, frozen. */
static void
set_up(struct fixture *f)
{
	const struct dsm_views_params p = {.size = DSM_HEAP_CHUNK};
	struct dsm_error e = {0};

	*f = (struct fixture){0};
	MUST_OK(dsm__views_create(&p, &f->views, &e));
	f->base = dsm__views_base(f->views);
	memset(f->base, 1, 8 * MIB);
	freeze(f, 8 * MIB);
	MUST_OK(dsm__regions_create(f->views, &ops, verbs_domain(), &f->r));
	MUST_OK(verbs_pair(1 << 20, f->conns));
	f->ring = mmap(NULL, RING, PROT_READ | PROT_WRITE,
	               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(f->ring != MAP_FAILED);
	MUST_OK(dsm__conn_read_ring(f->conns[0], f->ring, RING, &e));
}

static void
tear_down(struct fixture *f)
{
	dsm__conn_close(f->conns[0]);
	dsm__conn_close(f->conns[1]);
	dsm__regions_destroy(f->r);
	dsm__extents_fini(&f->changed);
	dsm__views_destroy(f->views);
	munmap(f->ring, RING);
}

static struct dsm_rec_region
ask(struct fixture *f, uint64_t off)
{
	struct dsm_rec_region rec;

	MUST_OK(dsm__regions_ask(f->r, (uintptr_t)f->base + off, 0, &rec));
	MUST(rec.rkey != 0);
	return rec;
}

static int
read_page(struct fixture *f, const struct dsm_rec_region *rec, uint64_t off)
{
	uint64_t remote = rec->remote + ((uintptr_t)f->base + off - rec->start);
	int err;

	memset(f->ring, 0x5a, DSM_PAGE);
	err = dsm__conn_read_start(f->conns[0], remote, rec->rkey, f->ring,
	                           DSM_PAGE);
	if (err == DSM_OK)
		err = dsm__conn_read_wait(f->conns[0],
		                          dsm__deadline_ms(WAIT_MS), 0, NULL);
	return err;
}

/* Every byte of the page at off is `want`, says the peer. */
static void
must_read(struct fixture *f, const struct dsm_rec_region *rec, uint64_t off,
          uint8_t want)
{
	MUST_OK(read_page(f, rec, off));
	for (uint64_t i = 0; i < DSM_PAGE; i++)
		MUST_BE(f->ring[i], want);
}

static void
test_a_peer_reads_the_heap_as_it_was_frozen(void)
{
	struct dsm_rec_region rec;
	struct fixture f;

	set_up(&f);
	rec = ask(&f, 4 * MIB);
	must_read(&f, &rec, 4 * MIB, 1);
	memset(f.base + 4 * MIB, 2, DSM_PAGE);
	must_read(&f, &rec, 4 * MIB, 1);
	freeze(&f, 8 * MIB);
	must_read(&f, &rec, 4 * MIB, 2);
	MUST_BE(f.base[4 * MIB], 2);
	tear_down(&f);
}

static void
test_a_peer_reads_what_was_committed(void)
{
	struct dsm_rec_region rec;
	uint8_t bytes[DSM_PAGE];
	struct dsm_error e = {0};
	struct fixture f;

	set_up(&f);
	rec = ask(&f, 0);
	memset(bytes, 7, sizeof(bytes));
	const struct dsm_write w = {
	    .addr = (uintptr_t)f.base + DSM_PAGE,
	    .len = DSM_PAGE,
	    .bytes = bytes,
	};
	MUST_OK(dsm__views_apply(f.views, &w, 1, NULL, &e));
	must_read(&f, &rec, DSM_PAGE, 7);
	must_read(&f, &rec, 0, 1);
	tear_down(&f);
}

/* The device would go on reading the old page behind a hole. */
static void
test_a_peer_reads_zeros_where_memory_was_released(void)
{
	struct dsm_rec_region rec;
	struct fixture f;

	set_up(&f);
	rec = ask(&f, 2 * MIB);
	MUST_OK(dsm__views_release(f.views, (uintptr_t)f.base, 8 * MIB));
	must_read(&f, &rec, 2 * MIB, 0);
	/* And what is written there later. */
	memset(f.base + 2 * MIB, 3, DSM_PAGE);
	freeze(&f, 8 * MIB);
	must_read(&f, &rec, 2 * MIB, 3);
	tear_down(&f);
}

static void
test_a_forked_child_disturbs_nothing(void)
{
	struct dsm_rec_region rec;
	struct fixture f;
	int status;
	pid_t pid;

	set_up(&f);
	rec = ask(&f, 0);
	dsm__views_fork_prepare(f.views, 8 * MIB);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		int err = dsm__views_fork_child(f.views);

		dsm__conn_forget(f.conns[0]);
		dsm__conn_forget(f.conns[1]);
		dsm__verbs_forget(verbs_device());
		memset(f.base, 9, 8 * MIB);
		_exit(err != DSM_OK);
	}
	dsm__views_fork_parent(f.views);
	MUST_BE(waitpid(pid, &status, 0), pid);
	MUST_BE(status, 0);
	must_read(&f, &rec, 0, 1);
	memset(f.base, 2, DSM_PAGE);
	freeze(&f, 8 * MIB);
	must_read(&f, &rec, 0, 2);
	tear_down(&f);
}

static void
test_after_the_session_nothing_can_be_read(void)
{
	struct dsm_rec_region rec;
	struct fixture f;

	set_up(&f);
	rec = ask(&f, 0);
	must_read(&f, &rec, 0, 1);
	dsm__regions_destroy(f.r);
	f.r = NULL;
	MUST_BE(read_page(&f, &rec, 0), DSM_ECONN);
	tear_down(&f);
}

/* As an ordinary user with 16 MiB to lock: what fits is registered, the rest not.
 * In a process of its own, with a device of its own. */
static int
under_a_limit(void)
{
	const struct rlimit limit = {16 * MIB, 16 * MIB};
	const struct dsm_views_params p = {.size = DSM_HEAP_CHUNK};
	const struct dsm_verbs_choice choice = {.depth = 4};
	struct dsm_verbs_domain *domain;
	struct dsm_rec_region rec;
	struct dsm_views *views;
	struct dsm_regions *r;
	struct dsm_verbs *v;
	struct dsm_error e = {0};
	unsigned n = 0;
	uint8_t *base;

	if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || setgid(65534) != 0 ||
	    setuid(65534) != 0 || prctl(PR_SET_DUMPABLE, 1) != 0)
		return 1;
	if (dsm__verbs_open(&choice, &v, &e) != DSM_OK ||
	    dsm__verbs_domain_create(v, &domain, &e) != DSM_OK) {
		printf("    %s\n", e.text);
		return 2;
	}
	if (dsm__views_create(&p, &views, &e) != DSM_OK ||
	    dsm__regions_create(views, &ops, domain, &r) != DSM_OK)
		return 3;
	base = dsm__views_base(views);
	memset(base, 1, DSM_HEAP_CHUNK);
	struct dsm_extents changed = {0};
	const struct dsm_freeze z = {.used = DSM_HEAP_CHUNK,
	                             .changed = &changed};
	if (dsm__views_freeze(views, &z, &e) != DSM_OK)
		return 4;
	dsm__log_level(DSM_LOG_ERROR);
	/* Every other granule: they do not grow. */
	for (uint64_t off = 0; off < DSM_HEAP_CHUNK;
	     off += 2 * DSM_REGION_GRANULE) {
		if (dsm__regions_ask(r, (uintptr_t)base + off, 0, &rec) !=
		    DSM_OK)
			return 5;
		n += rec.rkey != 0;
	}
	if (n < 4 || n > 8 || dsm__regions_bytes(r) != n * DSM_REGION_GRANULE)
		return 6;
	dsm__regions_destroy(r);
	dsm__verbs_domain_destroy(domain);
	dsm__verbs_close(v);
	return 0;
}

static void
test_what_the_lock_limit_forbids_is_not_registered(void)
{
	pid_t pid = fork();
	int status;

	MUST(pid >= 0);
	if (pid == 0) {
		dsm__verbs_forget(verbs_device());
		_exit(geteuid() != 0 ? 0 : under_a_limit());
	}
	MUST_BE(waitpid(pid, &status, 0), pid);
	MUST_BE(status, 0);
}

SUITE_UNLESS(dsm_heap_regions_rdma, "dsm.heap.regions.rdma", verbs_missing,
             T(test_a_peer_reads_the_heap_as_it_was_frozen),
             T(test_a_peer_reads_what_was_committed),
             T(test_a_peer_reads_zeros_where_memory_was_released),
             T(test_a_forked_child_disturbs_nothing),
             T(test_after_the_session_nothing_can_be_read),
             T(test_what_the_lock_limit_forbids_is_not_registered));
