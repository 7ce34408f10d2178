/*
 * The floor of RDMA: a plain verbs program that READs another process's memory.
 * The library comes as everywhere in taskrt (found at run time); after the set-up
 * nothing but ibv_post_send and ibv_poll_cq is called.
 */
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/page.h"
#include "../dsm/transport/verbs.h"
#include "../dsm/transport/verbs_lib.h"

/* How to stream best depends on the device; tried before the first stream. */
#define READ_BYTES_MAX (UINT64_C(256) << 10)
#define IN_FLIGHT_MAX 16u
#define TRIAL_BYTES (UINT64_C(2) << 20)
/* What is read, round and round: as much as the tasks' memory, so that it is in no
 * cache either. */
#define TARGET_BYTES (UINT64_C(128) << 20)

#define TARGET_PAGES (TARGET_BYTES / DSM_PAGE)

/* What an end tells the other one. */
struct card {
	uint64_t base;
	uint32_t rkey, qpn;
	uint32_t lid, mtu;
	union ibv_gid gid;
};

struct end {
	const struct verbs_lib *lib;
	struct ibv_context *context;
	struct ibv_cq *cq;
	struct ibv_qp *qp;
	struct ibv_mr *mr;
	char *mem;
	uint32_t port, gid_index, n_reads;
	struct card card;
};

/* --- the device --- */

static int
is_v4(const union ibv_gid *gid)
{
	static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};

	return memcmp(gid->raw, prefix, sizeof(prefix)) == 0;
}

/* The GID asked for; else, on Ethernet, one of an IPv4 address. */
static void
choose_gid(struct end *e, const struct dsm_verbs_choice *c,
           const struct ibv_port_attr *port)
{
	uint32_t first = 0, n = (uint32_t)port->gid_tbl_len;

	if (c->gid_index > 0) {
		first = c->gid_index - 1;
		n = first + 1;
	}
	for (uint32_t i = first; i < n; i++) {
		union ibv_gid gid;

		if (e->lib->query_gid(e->context, (uint8_t)e->port, (int)i,
		                      &gid) != 0)
			continue;
		if (i == first || is_v4(&gid)) {
			e->card.gid = gid;
			e->gid_index = i;
		}
		if (is_v4(&gid))
			break;
	}
}

static int
try_device(struct end *e, struct ibv_device *device,
           const struct dsm_verbs_choice *c)
{
	struct ibv_port_attr port = {0};

	if (c->device[0] != '\0' &&
	    strcmp(e->lib->get_device_name(device), c->device) != 0)
		return 0;
	e->port = c->port > 0 ? c->port : 1;
	e->context = e->lib->open_device(device);
	if (e->context == NULL)
		return 0;
	if (e->lib->query_port(e->context, (uint8_t)e->port,
	                       (struct _compat_ibv_port_attr *)&port) == 0 &&
	    port.state == IBV_PORT_ACTIVE) {
		e->card.lid = port.lid;
		e->card.mtu = port.active_mtu;
		choose_gid(e, c, &port);
		return 1;
	}
	e->lib->close_device(e->context);
	return 0;
}

/* Like taskrt: the device that `worker` says, or the client's. */
static int
open_device(struct end *e, int worker)
{
	struct dsm_verbs_choice choice = {.port = 0};
	const char *name = getenv("BENCH_WORKER_DEVICE");
	struct dsm_error err = {0};
	struct ibv_device **list;
	int n = 0, found = 0;

	if (dsm__verbs_choice_env(&choice, &err) != DSM_OK)
		bench_die("%s", err.text);
	if (worker && name != NULL)
		snprintf(choice.device, sizeof(choice.device), "%s", name);
	if (dsm__verbs_lib(&e->lib, &err) != DSM_OK)
		return 0;
	list = e->lib->get_device_list(&n);
	for (int i = 0; list != NULL && i < n && !found; i++)
		found = try_device(e, list[i], &choice);
	if (list != NULL)
		e->lib->free_device_list(list);
	return found;
}

static void
set_up(struct end *e, size_t len)
{
	struct ibv_qp_init_attr init = {.qp_type = IBV_QPT_RC, .sq_sig_all = 1};
	const int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ;
	struct ibv_device_attr device;
	struct ibv_pd *pd = e->lib->alloc_pd(e->context);

	e->cq = e->lib->create_cq(e->context, IN_FLIGHT_MAX * 2, NULL, NULL, 0);
	if (pd == NULL || e->cq == NULL ||
	    e->lib->query_device(e->context, &device) != 0)
		bench_die("verbs floor: no completion queue: %s",
		          strerror(errno));
	init.send_cq = init.recv_cq = e->cq;
	init.cap = (struct ibv_qp_cap){IN_FLIGHT_MAX, 1, 1, 1, 0};
	e->qp = e->lib->create_qp(pd, &init);
	e->mem = mmap(NULL, len, PROT_READ | PROT_WRITE,
	              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (e->qp == NULL || e->mem == MAP_FAILED)
		bench_die("verbs floor: no queue pair: %s", strerror(errno));
	memset(e->mem, 0x5a, len);
	/* In parentheses: verbs.h has a macro of that name. */
	e->mr = (e->lib->reg_mr)(pd, e->mem, len, access);
	if (e->mr == NULL)
		bench_die("verbs floor: cannot register %zu KiB: %s", len >> 10,
		          strerror(errno));
	e->n_reads = (uint32_t)device.max_qp_rd_atom;
	if (e->n_reads > IN_FLIGHT_MAX)
		e->n_reads = IN_FLIGHT_MAX;
	e->card.base = (uintptr_t)e->mem;
	e->card.rkey = e->mr->rkey;
	e->card.qpn = e->qp->qp_num;
}

static void
modify(struct end *e, struct ibv_qp_attr *a, int mask)
{
	int err = e->lib->modify_qp(e->qp, a, IBV_QP_STATE | mask);

	if (err != 0)
		bench_die("verbs floor: queue pair to state %d: %s",
		          (int)a->qp_state, strerror(err));
}

static void
connect_to(struct end *e, const struct card *peer)
{
	struct ibv_qp_attr a = {.qp_state = IBV_QPS_INIT,
	                        .port_num = (uint8_t)e->port,
	                        .qp_access_flags = IBV_ACCESS_REMOTE_READ};

	modify(e, &a, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
	a = (struct ibv_qp_attr){
	    .qp_state = IBV_QPS_RTR,
	    .path_mtu = peer->mtu < e->card.mtu ? peer->mtu : e->card.mtu,
	    .dest_qp_num = peer->qpn,
	    .max_dest_rd_atomic = (uint8_t)e->n_reads,
	    .min_rnr_timer = 12,
	    .ah_attr = {.grh = {.dgid = peer->gid,
	                        .sgid_index = (uint8_t)e->gid_index,
	                        .hop_limit = 64},
	                .dlid = (uint16_t)peer->lid,
	                .is_global = peer->lid == 0,
	                .port_num = (uint8_t)e->port}};
	modify(e, &a,
	       IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
	           IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
	a = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS,
	                         .timeout = 14,
	                         .retry_cnt = 7,
	                         .rnr_retry = 7,
	                         .max_rd_atomic = (uint8_t)e->n_reads};
	modify(e, &a,
	       IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
	           IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC);
}

/* --- the end that is read: it does nothing --- */

static int
exchange(int fd, const struct card *mine, struct card *theirs)
{
	struct pollfd p = {fd, POLLIN, 0};

	return write(fd, mine, sizeof(*mine)) == (ssize_t)sizeof(*mine) &&
	       poll(&p, 1, 10000) == 1 &&
	       read(fd, theirs, sizeof(*theirs)) == (ssize_t)sizeof(*theirs);
}

static void
serve_reads(int fd, void *ctx)
{
	struct pollfd p = {fd, 0, 0}; /* hung up: the reader has ended */
	struct end e = {0};
	struct card peer;

	(void)ctx;
	if (!open_device(&e, 0))
		return;
	set_up(&e, TARGET_BYTES);
	if (!exchange(fd, &e.card, &peer))
		return;
	connect_to(&e, &peer);
	if (write(fd, "", 1) == 1) /* it may read */
		poll(&p, 1, -1);
}

/* --- the end that reads --- */

static struct end reader;
static struct card target;

static void
start(void)
{
	struct pollfd p = {.events = POLLIN};
	char ready;

	p.fd = bench_peer_unix(serve_reads, NULL);
	if (!open_device(&reader, 1))
		bench_skip("no RDMA device with an active port");
	set_up(&reader, READ_BYTES_MAX * IN_FLIGHT_MAX);
	if (!exchange(p.fd, &reader.card, &target))
		bench_die("verbs floor: the other end is gone");
	connect_to(&reader, &target);
	if (poll(&p, 1, 10000) != 1 || read(p.fd, &ready, 1) != 1)
		bench_die("verbs floor: the other end is gone");
}

static void
post_read(size_t from, size_t to, size_t len)
{
	struct ibv_sge sge = {(uintptr_t)reader.mem + to, (uint32_t)len,
	                      reader.mr->lkey};
	struct ibv_send_wr wr = {.sg_list = &sge,
	                         .num_sge = 1,
	                         .opcode = IBV_WR_RDMA_READ,
	                         .send_flags = IBV_SEND_SIGNALED,
	                         .wr.rdma = {target.base + from, target.rkey}};
	struct ibv_send_wr *bad;
	int err = ibv_post_send(reader.qp, &wr, &bad);

	if (err != 0)
		bench_die("verbs floor: RDMA READ: %s", strerror(err));
}

static void
wait_read(void)
{
	uint64_t deadline = 0;
	struct ibv_wc wc;
	int n;

	while ((n = ibv_poll_cq(reader.cq, 1, &wc)) == 0) {
		if (deadline == 0)
			deadline = dsm__deadline_ms(10000);
		else if (dsm__now() > deadline)
			bench_die("verbs floor: no answer to a READ");
	}
	if (n < 0 || wc.status != IBV_WC_SUCCESS)
		bench_die("verbs floor: RDMA READ: %s",
		          reader.lib->wc_status_str(wc.status));
}

static double
read_pages(size_t n)
{
	double *ns = calloc(n, sizeof(*ns));

	if (ns == NULL)
		bench_die("out of memory");
	for (size_t i = 0; i < n; i++) {
		uint64_t start;

		/* As faults do, one comes before each. Emulated, a READ takes
		 * half as long again after it: what it needs of the
		 * emulator's caches is gone. */
		floor_trap();
		start = bench_ticks();
		post_read(bench_mix(i) % TARGET_PAGES * DSM_PAGE, 0, DSM_PAGE);
		wait_read();
		ns[i] = (double)(bench_ticks() - start) * bench_ns_per_tick();
	}
	double median = bench_median(ns, n);
	free(ns);
	return median;
}

/* n_reads of n bytes in flight. */
static double
stream(size_t len, size_t bytes, size_t n_reads)
{
	size_t n = len / bytes, posted = 0;
	uint64_t begin = dsm__now();

	for (size_t done = 0; done < n; done++) {
		while (posted < n && posted < done + n_reads) {
			post_read(posted * bytes % TARGET_BYTES,
			          posted % n_reads * bytes, bytes);
			posted++;
		}
		wait_read();
	}
	return (double)(dsm__now() - begin);
}

static double
read_stream(size_t len)
{
	static size_t bytes, n_reads;
	double best = 0;
	int chosen = bytes > 0;

	for (size_t b = DSM_PAGE; !chosen && b <= READ_BYTES_MAX; b *= 4) {
		for (size_t k = 1; k <= reader.n_reads; k *= 2) {
			double ns = stream(TRIAL_BYTES, b, k);

			if (best > 0 && ns >= best)
				continue;
			best = ns;
			bytes = b;
			n_reads = k;
		}
	}
	if (best > 0)
		bench_note("floor: %zu READs of %zu KiB in flight", n_reads,
		           bytes >> 10);
	return stream(len, bytes, n_reads);
}

const struct bench_wire bench_verbs = {start, read_pages, read_stream,
                                       bench_session_verbs, 0};
