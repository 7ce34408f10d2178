/*
 * RDMA devices: which one, whether it can be used and if not why; protection
 * domains and registered memory. Queue pairs: verbs_conn.c.
 *
 * Opening goes through devices and ports in the library's order and takes the
 * first that passes every check; when none does, the first complaint is the
 * answer. What the checks cannot see (limits of a container, a broken provider) is
 * found by making a queue pair with its buffers and throwing it away.
 */
#include "verbs_priv.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SYSFS "/sys/class/infiniband"
#define CURE_MEMLOCK                                                     \
	"raise it: \"ulimit -l unlimited\", memlock in limits.conf, or " \
	"LimitMEMLOCK=infinity in the systemd unit"

/* --- what the user chose --- */

struct number {
	const char *key;  /* in the text */
	const char *name; /* in the environment */
	uint32_t min, max;
	size_t off; /* in struct dsm_verbs_choice */
	int plus;   /* what is stored is this much more */
};
static const struct number numbers[] = {
    {"port", "TASKRT_VERBS_PORT", 1, 255,
     offsetof(struct dsm_verbs_choice, port), 0},
    {"gid", "TASKRT_VERBS_GID_INDEX", 0, 255,
     offsetof(struct dsm_verbs_choice, gid_index), 1},
    {"depth", "TASKRT_VERBS_DEPTH", VERBS_DEPTH_MIN, VERBS_DEPTH_MAX,
     offsetof(struct dsm_verbs_choice, depth), 0},
};
#define N_NUMBERS (sizeof(numbers) / sizeof(*numbers))

static uint32_t *
number_of(struct dsm_verbs_choice *c, const struct number *n)
{
	return (uint32_t *)((char *)c + n->off);
}

static int
set_number(struct dsm_verbs_choice *c, const struct number *n, const char *text,
           size_t len)
{
	uint32_t value = 0;

	if (len == 0 || len > 9)
		return DSM_EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return DSM_EINVAL;
		value = value * 10 + (uint32_t)(text[i] - '0');
	}
	if (value < n->min || value > n->max)
		return DSM_EINVAL;
	*number_of(c, n) = value + (uint32_t)n->plus;
	return DSM_OK;
}

/* Device names go into paths and lists: no separators. */
static int
set_device(struct dsm_verbs_choice *c, const char *text, size_t len)
{
	if (len == 0 || len >= sizeof(c->device) ||
	    memchr(text, '/', len) != NULL || memchr(text, ',', len) != NULL)
		return DSM_EINVAL;
	memcpy(c->device, text, len);
	c->device[len] = '\0';
	return DSM_OK;
}

int
dsm__verbs_choice_env(struct dsm_verbs_choice *c, struct dsm_error *e)
{
	const char *device = getenv("TASKRT_VERBS_DEVICE");

	if (device != NULL && set_device(c, device, strlen(device)) != DSM_OK)
		return dsm__fail(e, DSM_EINVAL,
		                 "TASKRT_VERBS_DEVICE: \"%.80s\" is no name of "
		                 "a device (see ibv_devices)",
		                 device);
	for (size_t i = 0; i < N_NUMBERS; i++) {
		const struct number *n = &numbers[i];
		const char *text = getenv(n->name);

		if (text != NULL &&
		    set_number(c, n, text, strlen(text)) != DSM_OK)
			return dsm__fail(e, DSM_EINVAL,
			                 "%s: \"%.40s\" is not a number from "
			                 "%u to %u",
			                 n->name, text, n->min, n->max);
	}
	return DSM_OK;
}

int
dsm__verbs_choice_text(const struct dsm_verbs_choice *c, char *buf, size_t size)
{
	struct dsm_verbs_choice copy = *c;
	size_t len = 0;

	if (size == 0)
		return DSM_EINVAL;
	buf[0] = '\0';
	if (c->device[0] != '\0')
		len = (size_t)snprintf(buf, size, "device=%s", c->device);
	for (size_t i = 0; i < N_NUMBERS && len < size; i++) {
		uint32_t value = *number_of(&copy, &numbers[i]);

		if (value != 0)
			len +=
			    (size_t)snprintf(buf + len, size - len, "%s%s=%u",
			                     len > 0 ? "," : "", numbers[i].key,
			                     value - (uint32_t)numbers[i].plus);
	}
	return len < size ? DSM_OK : DSM_ENOSPC;
}

/* "key=value" of len bytes. */
static int
parse_part(struct dsm_verbs_choice *c, const char *part, size_t len)
{
	const char *eq = memchr(part, '=', len);
	size_t key_len;

	if (eq == NULL)
		return DSM_EINVAL;
	key_len = (size_t)(eq - part);
	len -= key_len + 1;
	if (key_len == 6 && memcmp(part, "device", 6) == 0)
		return set_device(c, eq + 1, len);
	for (size_t i = 0; i < N_NUMBERS; i++)
		if (strlen(numbers[i].key) == key_len &&
		    memcmp(numbers[i].key, part, key_len) == 0)
			return set_number(c, &numbers[i], eq + 1, len);
	return DSM_EINVAL;
}

int
dsm__verbs_choice_parse(const char *text, struct dsm_verbs_choice *c_p)
{
	struct dsm_verbs_choice c = {.port = 0};

	while (*text != '\0') {
		size_t len = strcspn(text, ",");

		if (parse_part(&c, text, len) != DSM_OK)
			return DSM_EINVAL;
		text += len;
		if (*text == ',' && *++text == '\0')
			return DSM_EINVAL;
	}
	*c_p = c;
	return DSM_OK;
}

/* --- what may be locked --- */

static int
may_lock_all(void)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{0, 0, 0}, {0, 0, 0}};

	return syscall(SYS_capget, &h, data) == 0 &&
	       (data[0].effective & (1u << CAP_IPC_LOCK)) != 0;
}

/* RLIMIT_MEMLOCK in bytes; RLIM_INFINITY when it does not bind us. */
static rlim_t
lock_limit(void)
{
	struct rlimit r;

	if (may_lock_all() || getrlimit(RLIMIT_MEMLOCK, &r) != 0)
		return RLIM_INFINITY;
	return r.rlim_cur;
}

int
dsm__verbs_no_memory(const struct dsm_verbs *v, size_t len, int err,
                     struct dsm_error *e)
{
	rlim_t limit = lock_limit();

	if (err == ENOMEM && limit != RLIM_INFINITY)
		return dsm__fail(e, DSM_ENOMEM,
		                 "%s: cannot lock %zu KiB more, RLIMIT_MEMLOCK "
		                 "is %llu KiB: " CURE_MEMLOCK,
		                 v->name, (len + 1023) / 1024,
		                 (unsigned long long)limit / 1024);
	return dsm__fail(e, err == ENOMEM ? DSM_ENOMEM : DSM_ESYS,
	                 "%s: cannot register %zu KiB: %s", v->name,
	                 (len + 1023) / 1024, strerror(err));
}

static int
check_limit(const struct dsm_verbs *v, struct dsm_error *e)
{
	/* The buffers, the ring, and some heap. */
	size_t want = 4 * dsm__verbs_pinned(v->depth);
	rlim_t limit = lock_limit();

	if (limit == RLIM_INFINITY || limit >= want)
		return DSM_OK;
	return dsm__fail(e, DSM_ENOMEM,
	                 "%s: RLIMIT_MEMLOCK is %llu KiB, RDMA needs at least "
	                 "%zu KiB: " CURE_MEMLOCK,
	                 v->name, (unsigned long long)limit / 1024,
	                 (want + 1023) / 1024);
}

/* --- addresses --- */

static int
is_zero(const union ibv_gid *g)
{
	return g->global.subnet_prefix == 0 && g->global.interface_id == 0;
}

static int
is_ipv4(const union ibv_gid *g)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	return memcmp(g->raw, mapped, sizeof(mapped)) == 0;
}

static int
is_link_local(const union ibv_gid *g)
{
	return g->raw[0] == 0xfe && (g->raw[1] & 0xc0) == 0x80;
}

/* 2 for RoCE v2; 1 for what is older, or unknown. libibverbs tells since 2020
 * only, sysfs for longer. */
static int
roce_version(const struct dsm_verbs *v, const char *device, uint32_t index)
{
	char path[200], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), SYSFS "/%s/ports/%u/gid_attrs/types/%u",
	         device, v->port, index);
	f = fopen(path, "re");
	if (f == NULL)
		return 1;
	if (fgets(text, sizeof(text), f) == NULL)
		text[0] = '\0';
	fclose(f);
	return strncmp(text, "RoCE v2", 7) == 0 ? 2 : 1;
}

static int
get_gid(const struct dsm_verbs *v, uint32_t index, union ibv_gid *g)
{
	return v->lib->query_gid(v->ctx, (uint8_t)v->port, (int)index, g) ==
	           0 &&
	       !is_zero(g);
}

/* The better the larger; 0: not to be taken unasked. */
static int
gid_rank(const struct dsm_verbs *v, const char *device, uint32_t index,
         const union ibv_gid *g)
{
	if (!v->is_ethernet)
		return 3;
	if (roce_version(v, device, index) != 2)
		return 0;
	if (is_ipv4(g))
		return 3;
	return is_link_local(g) ? 1 : 2;
}

static int
find_gid(struct dsm_verbs *v, const char *device, uint32_t n, uint32_t wanted,
         struct dsm_error *e)
{
	int best = 0, seen = 0;
	union ibv_gid g;

	if (wanted > 0) {
		v->gid_index = wanted - 1;
		if (v->gid_index < n && get_gid(v, v->gid_index, &v->gid))
			return DSM_OK;
		return dsm__fail(e, DSM_EINVAL,
		                 "%s has no GID %u: see show_gids, or "
		                 "ibv_devinfo -v",
		                 v->name, v->gid_index);
	}
	for (uint32_t i = 0; i < n && best < 3; i++) {
		int rank;

		if (!get_gid(v, i, &g))
			continue;
		seen++;
		rank = gid_rank(v, device, i, &g);
		if (rank <= best)
			continue;
		best = rank;
		v->gid_index = i;
		v->gid = g;
	}
	if (best > 0)
		return DSM_OK;
	if (seen > 0)
		return dsm__fail(e, DSM_ESYS,
		                 "%s has no RoCE v2 GID: give its network "
		                 "interface an address, or name a GID of "
		                 "RoCE v1",
		                 v->name);
	return dsm__fail(e, DSM_ESYS,
	                 "%s has no GID: give its network interface an "
	                 "address, and wait for the subnet manager on "
	                 "InfiniBand",
	                 v->name);
}

static void
describe(struct dsm_verbs *v, const char *device)
{
	char address[INET6_ADDRSTRLEN] = "?";

	if (!v->is_ethernet) {
		snprintf(v->text, sizeof(v->text),
		         "%s, InfiniBand, LID %u, MTU %u", v->name, v->lid,
		         128u << v->mtu);
		return;
	}
	if (is_ipv4(&v->gid))
		inet_ntop(AF_INET, v->gid.raw + 12, address, sizeof(address));
	else
		inet_ntop(AF_INET6, v->gid.raw, address, sizeof(address));
	snprintf(v->text, sizeof(v->text), "%s, RoCE v%d, GID %u (%s), MTU %u",
	         v->name, roce_version(v, device, v->gid_index), v->gid_index,
	         address, 128u << v->mtu);
}

/* --- devices and ports --- */

static int
query_port(const struct dsm_verbs *v, struct ibv_port_attr *a)
{
	struct verbs_context *vctx = verbs_get_ctx_op(v->ctx, query_port);

	memset(a, 0, sizeof(*a));
	if (vctx != NULL)
		return vctx->query_port(v->ctx, (uint8_t)v->port, a,
		                        sizeof(*a));
	return v->lib->query_port(v->ctx, (uint8_t)v->port,
	                          (struct _compat_ibv_port_attr *)a);
}

static int
port_is_not_active(const struct dsm_verbs *v, enum ibv_port_state state,
                   struct dsm_error *e)
{
	static const char *const names[] = {"NOP", "DOWN", "INIT", "ARMED"};
	const char *cure = "bring its link up";

	if (v->is_ethernet)
		cure = "bring its network interface up (ip link set … up)";
	else if (state == IBV_PORT_INIT || state == IBV_PORT_ARMED)
		cure = "the fabric needs a subnet manager (opensm)";
	return dsm__fail(e, DSM_ESYS, "%s is %s: %s", v->name,
	                 (unsigned)state < 4 ? names[state] : "not active",
	                 cure);
}

int
dsm__verbs_port_check(const struct dsm_verbs *v, struct dsm_error *e)
{
	struct ibv_port_attr a;
	int err = query_port(v, &a);

	if (err != 0)
		return dsm__fail(e, DSM_ESYS, "%s cannot be queried: %s",
		                 v->name, strerror(err));
	return a.state == IBV_PORT_ACTIVE ? DSM_OK
	                                  : port_is_not_active(v, a.state, e);
}

static int
try_port(struct dsm_verbs *v, const char *device,
         const struct dsm_verbs_choice *c, struct dsm_error *e)
{
	struct ibv_port_attr a;
	int err;

	snprintf(v->name, sizeof(v->name), "%.40s port %u", device, v->port);
	err = query_port(v, &a);
	if (err != 0)
		return dsm__fail(e, DSM_ESYS, "%s cannot be queried: %s",
		                 v->name, strerror(err));
	v->is_ethernet = a.link_layer == IBV_LINK_LAYER_ETHERNET;
	if (a.state != IBV_PORT_ACTIVE)
		return port_is_not_active(v, a.state, e);
	v->lid = v->is_ethernet ? 0 : a.lid;
	v->mtu = a.active_mtu;
	err = find_gid(v, device, (uint32_t)a.gid_tbl_len, c->gid_index, e);
	if (err != DSM_OK)
		return err;
	describe(v, device);
	err = check_limit(v, e);
	return err != DSM_OK ? err : dsm__verbs_probe(v, e);
}

static uint32_t
min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static int
read_limits(struct dsm_verbs *v, const char *device,
            const struct dsm_verbs_choice *c, uint32_t *n_ports_p,
            struct dsm_error *e)
{
	struct ibv_device_attr a;
	int err = v->lib->query_device(v->ctx, &a);

	if (err != 0)
		return dsm__fail(e, DSM_ESYS, "%.40s cannot be queried: %s",
		                 device, strerror(err));
	v->rd_atomic = min_u32((uint32_t)a.max_qp_rd_atom, VERBS_RD_ATOMIC);
	v->init_rd_atomic =
	    min_u32((uint32_t)a.max_qp_init_rd_atom, VERBS_RD_ATOMIC);
	v->depth = c->depth > 0 ? c->depth : VERBS_DEPTH;
	if ((uint32_t)a.max_qp_wr < VERBS_SQ ||
	    (uint32_t)a.max_qp_wr < v->depth + VERBS_EMPTIES)
		return dsm__fail(e, DSM_EINVAL,
		                 "%.40s takes %d work requests in a queue, "
		                 "depth %u needs %u: choose a smaller one",
		                 device, a.max_qp_wr, v->depth,
		                 v->depth + VERBS_EMPTIES);
	*n_ports_p = a.phys_port_cnt;
	return DSM_OK;
}

static int
try_ports(struct dsm_verbs *v, const char *device,
          const struct dsm_verbs_choice *c, struct dsm_error *e)
{
	uint32_t n_ports = 0, first = 1;
	int err = read_limits(v, device, c, &n_ports, e);

	if (err != DSM_OK)
		return err;
	if (c->port > n_ports)
		return dsm__fail(e, DSM_EINVAL, "%.40s has no port %u, but %u",
		                 device, c->port, n_ports);
	if (c->port > 0)
		first = n_ports = c->port;
	err = dsm__fail(e, DSM_ESYS, "%.40s has no ports", device);
	for (uint32_t port = first; port <= n_ports; port++) {
		struct dsm_error why = {0};
		int port_err;

		v->port = port;
		port_err = try_port(v, device, c, &why);
		if (port_err == DSM_OK)
			return DSM_OK;
		if (port == first)
			err = dsm__fail(e, port_err, "%s", why.text);
	}
	return err;
}

static int
try_device(const struct verbs_lib *lib, struct ibv_device *device,
           const struct dsm_verbs_choice *c, struct dsm_verbs **v_p,
           struct dsm_error *e)
{
	const char *name = lib->get_device_name(device);
	struct dsm_verbs *v;
	int flags, err;

	if (device->transport_type != IBV_TRANSPORT_IB)
		return dsm__fail(e, DSM_ESYS,
		                 "%.40s is neither InfiniBand nor RoCE: it "
		                 "cannot be used",
		                 name);
	v = calloc(1, sizeof(*v));
	if (v == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	v->lib = lib;
	v->stall_ms = VERBS_STALL_MS;
	pthread_mutex_init(&v->mutex, NULL);
	TAILQ_INIT(&v->queues);
	errno = 0;
	v->ctx = lib->open_device(device);
	if (v->ctx == NULL) {
		err = dsm__fail(e, DSM_ESYS,
		                "%.40s cannot be opened: %s (may this user "
		                "open /dev/infiniband/uverbs*?)",
		                name, strerror(errno));
		goto free_v;
	}
	flags = fcntl(v->ctx->async_fd, F_GETFL);
	if (flags < 0 ||
	    fcntl(v->ctx->async_fd, F_SETFL, flags | O_NONBLOCK) != 0) {
		err = dsm__fail(e, DSM_ESYS, "%.40s: fcntl: %s", name,
		                strerror(errno));
		goto close_device;
	}
	err = try_ports(v, name, c, e);
	if (err != DSM_OK)
		goto close_device;
	*v_p = v;
	return DSM_OK;
close_device:
	lib->close_device(v->ctx);
free_v:
	pthread_mutex_destroy(&v->mutex);
	free(v);
	return err;
}

/* The name of a device that the kernel has, whatever libibverbs says of it. */
static int
kernel_has_device(char *name, size_t size)
{
	DIR *dir = opendir(SYSFS);
	const struct dirent *d;

	if (dir == NULL)
		return 0;
	while ((d = readdir(dir)) != NULL && d->d_name[0] == '.')
		;
	if (d != NULL)
		snprintf(name, size, "%.60s", d->d_name);
	closedir(dir);
	return d != NULL;
}

/* There is no device to try. why: of the library, or "". */
static int
nothing_there(const struct dsm_verbs_choice *c, const char *why,
              struct dsm_error *e)
{
	char name[64];

	if (kernel_has_device(name, sizeof(name)))
		return dsm__fail(e, DSM_ESYS, "%s is there, but %s", name,
		                 *why != '\0'
		                     ? why
		                     : "programs cannot use it: load ib_uverbs "
		                       "(modprobe ib_uverbs) and install its "
		                       "driver (Debian: ibverbs-providers)");
	if (c->device[0] != '\0')
		return dsm__fail(e, DSM_EINVAL,
		                 "no RDMA device %s: this machine has none",
		                 c->device);
	return dsm__fail(e, DSM_ECONN, "no RDMA device");
}

static int
no_such_device(const struct verbs_lib *lib, struct ibv_device **list,
               const char *wanted, struct dsm_error *e)
{
	char names[200] = "";
	size_t len = 0;

	for (int i = 0; list[i] != NULL && len < sizeof(names); i++)
		len += (size_t)snprintf(names + len, sizeof(names) - len, " %s",
		                        lib->get_device_name(list[i]));
	return dsm__fail(e, DSM_EINVAL, "no RDMA device %s, there is:%s",
	                 wanted, names);
}

static int
try_devices(const struct verbs_lib *lib, struct ibv_device **list,
            const struct dsm_verbs_choice *c, struct dsm_verbs **v_p,
            struct dsm_error *e)
{
	struct dsm_error first = {0};

	for (int i = 0; list[i] != NULL; i++) {
		struct dsm_error why = {0};

		if (c->device[0] != '\0' &&
		    strcmp(c->device, lib->get_device_name(list[i])) != 0)
			continue;
		if (try_device(lib, list[i], c, v_p, &why) == DSM_OK)
			return DSM_OK;
		if (first.code == DSM_OK)
			first = why;
	}
	if (first.code != DSM_OK)
		return dsm__fail(e, first.code, "%s", first.text);
	return no_such_device(lib, list, c->device, e);
}

int
dsm__verbs_open(const struct dsm_verbs_choice *c, struct dsm_verbs **v_p,
                struct dsm_error *e)
{
	const struct verbs_lib *lib;
	struct ibv_device **list;
	struct dsm_error why = {0};
	char name[64];
	int err;

	/* Not for nothing: the library brings a dozen drivers with it, and
	 * their mappings into the program's table of ranges. */
	if (!kernel_has_device(name, sizeof(name)))
		return nothing_there(c, "", e);
	if (dsm__verbs_lib(&lib, &why) != DSM_OK)
		return nothing_there(c, why.text, e);
	list = lib->get_device_list(NULL);
	if (list != NULL && list[0] != NULL)
		err = try_devices(lib, list, c, v_p, e);
	else
		err = nothing_there(c, "", e);
	if (list != NULL)
		lib->free_device_list(list);
	return err;
}

void
dsm__verbs_close(struct dsm_verbs *v)
{
	if (v == NULL)
		return;
	v->lib->close_device(v->ctx);
	pthread_mutex_destroy(&v->mutex);
	free(v);
}

void
dsm__verbs_forget(struct dsm_verbs *v)
{
	if (v == NULL)
		return;
	close(v->ctx->cmd_fd);
	close(v->ctx->async_fd);
}

const char *
dsm__verbs_text(const struct dsm_verbs *v)
{
	return v->text;
}

/* --- domains and regions --- */

struct dsm_verbs_region {
	struct dsm_verbs_domain *domain;
	struct ibv_mr *mr;
};

int
dsm__verbs_domain_create(struct dsm_verbs *v, struct dsm_verbs_domain **d_p,
                         struct dsm_error *e)
{
	struct dsm_verbs_domain *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	d->v = v;
	d->pd = v->lib->alloc_pd(v->ctx);
	if (d->pd == NULL) {
		free(d);
		return dsm__fail(e, DSM_ESYS,
		                 "%s: cannot make a protection domain: %s",
		                 v->name, strerror(errno));
	}
	*d_p = d;
	return DSM_OK;
}

void
dsm__verbs_domain_destroy(struct dsm_verbs_domain *d)
{
	if (d == NULL)
		return;
	d->v->lib->dealloc_pd(d->pd);
	free(d);
}

int
dsm__verbs_register(struct dsm_verbs_domain *d, void *base, size_t len,
                    struct dsm_verbs_region **r_p, struct dsm_error *e)
{
	const struct verbs_lib *lib = d->v->lib;
	struct dsm_verbs_region *r = calloc(1, sizeof(*r));
	struct ibv_mr *zero = NULL;

	if (r == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	r->domain = d;
	r->mr = lib->reg_mr(d->pd, base, len, IBV_ACCESS_REMOTE_READ);
	if (r->mr != NULL && r->mr->rkey == 0) {
		/* 0 means "none" to our peers. Held while the next is made. */
		zero = r->mr;
		r->mr = lib->reg_mr(d->pd, base, len, IBV_ACCESS_REMOTE_READ);
		lib->dereg_mr(zero);
	}
	if (r->mr == NULL) {
		int err = errno;

		free(r);
		return dsm__verbs_no_memory(d->v, len, err, e);
	}
	*r_p = r;
	return DSM_OK;
}

void
dsm__verbs_unregister(struct dsm_verbs_region *r)
{
	if (r == NULL)
		return;
	r->domain->v->lib->dereg_mr(r->mr);
	free(r);
}

uint32_t
dsm__verbs_rkey(const struct dsm_verbs_region *r)
{
	return r->mr->rkey;
}
