/* Choosing a device, and what is said when it cannot be used. */
#include "../../../dsm/transport/verbs.h"
#include "../../test.h"
#include "verbs_pair.h"

#include <arpa/inet.h>
#include <grp.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534

/* --- the choice --- */

static void
must_be_choice(const char *text, const char *device, uint32_t port,
               uint32_t gid_index, uint32_t depth)
{
	struct dsm_verbs_choice c;
	char buf[128];

	MUST_OK(dsm__verbs_choice_parse(text, &c));
	MUST(strcmp(c.device, device) == 0);
	MUST_BE(c.port, port);
	MUST_BE(c.gid_index, gid_index);
	MUST_BE(c.depth, depth);
	MUST_OK(dsm__verbs_choice_text(&c, buf, sizeof(buf)));
	MUST(strcmp(buf, text) == 0);
}

static void
test_a_choice_travels_as_text(void)
{
	must_be_choice("", "", 0, 0, 0);
	must_be_choice("device=mlx5_0", "mlx5_0", 0, 0, 0);
	must_be_choice("gid=0", "", 0, 1, 0);
	must_be_choice("device=mlx5_bond_0,port=2,gid=3,depth=64",
	               "mlx5_bond_0", 2, 4, 64);
}

static void
test_a_text_that_is_no_choice_is_refused(void)
{
	static const char *const bad[] = {
	    "device",        "device=", "device=a/b", "port=0",
	    "port=256",      "port=1x", "port=",      "port=-1",
	    "gid=256",       "depth=3", "depth=1025", "depth=99999999999",
	    "port=1,",       ",port=1", "speed=1",    "Port=1",
	    "port=1 ,gid=1", "port =1", "=1",         ",",
	};
	struct dsm_verbs_choice c = {.port = 77};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		MUST_BE(dsm__verbs_choice_parse(bad[i], &c), DSM_EINVAL);
	MUST_BE(c.port, 77);
}

static void
test_a_choice_that_does_not_fit_says_so(void)
{
	struct dsm_verbs_choice c = {.device = "mlx5_0", .port = 1};
	char buf[21];

	MUST_OK(dsm__verbs_choice_text(&c, buf, sizeof(buf)));
	c.depth = 100;
	MUST_BE(dsm__verbs_choice_text(&c, buf, sizeof(buf)), DSM_ENOSPC);
	MUST_BE(dsm__verbs_choice_text(&c, buf, 0), DSM_EINVAL);
}

/* Sets a variable, or not, and puts back what was there. */
static int
env_choice(const char *name, const char *value, struct dsm_verbs_choice *c,
           struct dsm_error *e)
{
	const char *old = getenv(name);
	char *kept = old != NULL ? strdup(old) : NULL;
	int err;

	setenv(name, value, 1);
	err = dsm__verbs_choice_env(c, e);
	unsetenv(name);
	if (kept != NULL)
		setenv(name, kept, 1);
	free(kept);
	return err;
}

static void
test_the_environment_beats_what_is_there(void)
{
	struct dsm_verbs_choice c = {.device = "a", .port = 1, .depth = 9};

	MUST_OK(env_choice("TASKRT_VERBS_DEVICE", "mlx5_1", &c, NULL));
	MUST_OK(env_choice("TASKRT_VERBS_PORT", "2", &c, NULL));
	MUST_OK(env_choice("TASKRT_VERBS_GID_INDEX", "5", &c, NULL));
	MUST(c.device[0] != 'a');
	MUST_BE(c.gid_index, 6);
	MUST_BE(c.depth, 9);
}

static void
test_a_bad_variable_is_named(void)
{
	static const char *const bad[][2] = {
	    {"TASKRT_VERBS_DEVICE", ""},  {"TASKRT_VERBS_DEVICE", "/dev/x"},
	    {"TASKRT_VERBS_PORT", "one"}, {"TASKRT_VERBS_GID_INDEX", "-1"},
	    {"TASKRT_VERBS_DEPTH", "2"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct dsm_verbs_choice c = {.port = 0};
		struct dsm_error e = {0};

		MUST_BE(env_choice(bad[i][0], bad[i][1], &c, &e), DSM_EINVAL);
		MUST(strncmp(e.text, bad[i][0], strlen(bad[i][0])) == 0);
	}
}

static void
test_a_device_that_is_not_there_is_named(void)
{
	struct dsm_verbs_choice c = {.device = "nosuch_7"};
	struct dsm_verbs *v;
	struct dsm_error e = {0};

	MUST_BE(dsm__verbs_open(&c, &v, &e), DSM_EINVAL);
	MUST(strstr(e.text, "nosuch_7") != NULL);
}

SUITE(dsm_transport_verbs_choice, "dsm.transport.verbs_choice",
      T(test_a_choice_travels_as_text),
      T(test_a_text_that_is_no_choice_is_refused),
      T(test_a_choice_that_does_not_fit_says_so),
      T(test_the_environment_beats_what_is_there),
      T(test_a_bad_variable_is_named),
      T(test_a_device_that_is_not_there_is_named));

/* --- two devices whose link can be set down --- */

static const char *
no_fabric(void)
{
	if (access("/sys/class/infiniband/rxa", F_OK) != 0 ||
	    access("/sys/class/infiniband/rxb", F_OK) != 0)
		return "needs the devices of tests/rdma/fabric.sh";
	return geteuid() == 0 ? NULL : "needs root to set a link down";
}

static void
must_run(const char *command)
{
	MUST_BE(system(command), 0);
}

static int
try_open(const char *choice, struct dsm_error *e)
{
	struct dsm_verbs_choice c;
	struct dsm_verbs *v;
	int err;

	memset(e, 0, sizeof(*e));
	MUST_OK(dsm__verbs_choice_parse(choice, &c));
	err = dsm__verbs_open(&c, &v, e);
	if (err == DSM_OK) {
		snprintf(e->text, sizeof(e->text), "%s", dsm__verbs_text(v));
		dsm__verbs_close(v);
	}
	return err;
}

static int
says(const struct dsm_error *e, const char *part)
{
	if (strstr(e->text, part) != NULL)
		return 1;
	printf("    \"%s\" has no \"%s\"\n", e->text, part);
	return 0;
}

static void
test_an_open_device_says_what_it_is(void)
{
	struct dsm_error e;

	MUST_OK(try_open("device=rxb", &e));
	MUST(says(&e, "rxb port 1, RoCE v2, GID "));
	MUST(says(&e, "(10.1.0.2), MTU 4096"));
	MUST_OK(try_open("device=rxb,gid=0", &e));
	MUST(says(&e, "GID 0 (fe80::"));
}

static void
test_a_wrong_choice_says_what_there_is(void)
{
	struct dsm_error e;

	MUST_BE(try_open("device=rxc", &e), DSM_EINVAL);
	MUST(says(&e, "no RDMA device rxc, there is: rx"));
	MUST_BE(try_open("device=rxb,port=2", &e), DSM_EINVAL);
	MUST(says(&e, "rxb has no port 2"));
	MUST_BE(try_open("device=rxb,gid=200", &e), DSM_EINVAL);
	MUST(says(&e, "rxb port 1 has no GID 200"));
}

static void
test_a_port_that_is_down_says_how_to_bring_it_up(void)
{
	struct dsm_error e;
	int one, any;

	must_run("ip link set vb down");
	one = try_open("device=rxb", &e);
	any = try_open("", &e);
	must_run("ip link set vb up");
	MUST_BE(one, DSM_ESYS);
	MUST_BE(any, DSM_ESYS); /* the other end has no link either */
	MUST(says(&e, " port 1 is DOWN: bring its network interface up"));
	MUST_WITHIN_MS(5000, try_open("device=rxb", &e) == DSM_OK);
	/* What setting it down took away. */
	must_run("ip route replace 10.1.0.1 dev vb src 10.1.0.2 table 102");
	must_run("ip neigh replace 10.1.0.1 dev vb lladdr "
	         "$(cat /sys/class/net/va/address)");
}

/* In a process without privileges that may lock so much. */
static int
open_as_nobody(rlim_t may_lock, size_t len, struct dsm_error *e)
{
	int out[2], err;
	pid_t pid;

	MUST_BE(pipe(out), 0);
	pid = fork();
	MUST(pid >= 0);
	if (pid == 0) {
		const struct rlimit r = {may_lock, may_lock};
		struct dsm_verbs_choice c = {.device = "rxb"};
		struct dsm_verbs_region *region;
		struct dsm_verbs_domain *d;
		struct dsm_verbs *v;
		void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		               MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		if (setrlimit(RLIMIT_MEMLOCK, &r) != 0 ||
		    setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 ||
		    setuid(NOBODY) != 0)
			_exit(1);
		err = dsm__verbs_open(&c, &v, e);
		if (err == DSM_OK)
			err = dsm__verbs_domain_create(v, &d, e);
		if (err == DSM_OK)
			err = dsm__verbs_register(d, p, len, &region, e);
		e->code = err;
		_exit(write(out[1], e, sizeof(*e)) != sizeof(*e));
	}
	close(out[1]);
	MUST_BE(read(out[0], e, sizeof(*e)), sizeof(*e));
	close(out[0]);
	MUST_BE(waitpid(pid, &err, 0), pid);
	MUST_BE(err, 0);
	return e->code;
}

static void
test_a_small_limit_of_locked_memory_says_how_to_raise_it(void)
{
	struct dsm_error e;

	memset(&e, 0, sizeof(e));
	MUST_BE(open_as_nobody(1 << 20, 4096, &e), DSM_ENOMEM);
	MUST(says(&e, "rxb port 1: RLIMIT_MEMLOCK is 1024 KiB, RDMA needs"));
	MUST(says(&e, "ulimit -l unlimited"));
	memset(&e, 0, sizeof(e));
	MUST_BE(open_as_nobody(8 << 20, 32 << 20, &e), DSM_ENOMEM);
	MUST(says(&e, "cannot lock 32768 KiB more, RLIMIT_MEMLOCK is 8192"));
	MUST(says(&e, "LimitMEMLOCK=infinity"));
	memset(&e, 0, sizeof(e));
	MUST_OK(open_as_nobody(64 << 20, 32 << 20, &e));
}

static void
open_across(struct verbs_across *x)
{
	MUST_OK(verbs_pair_across("rxa", "rxb", 1 << 20, x));
}

static void
must_answer(struct verbs_across *x)
{
	struct dsm_frame f;

	MUST_OK(dsm__conn_send(x->c[0], 7, 0, 1, NULL, 0));
	MUST_OK(
	    dsm__conn_recv_wait(x->c[1], dsm__deadline_ms(20000), 0, &f, NULL));
	MUST_OK(dsm__conn_send(x->c[1], 7, 0, 2, NULL, 0));
	MUST_OK(
	    dsm__conn_recv_wait(x->c[0], dsm__deadline_ms(20000), 0, &f, NULL));
}

static void
test_frames_cross_the_fabric(void)
{
	struct verbs_across x;

	open_across(&x);
	for (int i = 0; i < 20; i++)
		must_answer(&x);
	verbs_across_close(&x);
}

/* At once, unlike a program that had to be started. */
static void
set_neighbour_of_va(const char *mac)
{
	struct arpreq r = {.arp_flags = ATF_PERM | ATF_COM, .arp_dev = "va"};
	struct sockaddr_in *to = (struct sockaddr_in *)&r.arp_pa;
	uint8_t *hw = (uint8_t *)r.arp_ha.sa_data;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	to->sin_family = AF_INET;
	MUST_BE(inet_pton(AF_INET, "10.1.0.2", &to->sin_addr), 1);
	r.arp_ha.sa_family = ARPHRD_ETHER;
	MUST_BE(sscanf(mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &hw[0], &hw[1],
	               &hw[2], &hw[3], &hw[4], &hw[5]),
	        6);
	MUST_BE(ioctl(fd, SIOCSARP, &r), 0);
	close(fd);
}

/* Packets to rxb go to nobody: lost, though no link goes down. */
static void
lose_packets(void)
{
	set_neighbour_of_va("02:00:00:00:00:99");
}

static void
find_rxb(void)
{
	char mac[32] = "";
	FILE *f = fopen("/sys/class/net/vb/address", "r");

	MUST(f != NULL);
	MUST(fgets(mac, sizeof(mac), f) != NULL);
	fclose(f);
	set_neighbour_of_va(mac);
}

static void
test_a_dead_fabric_fails_a_sender_within_seconds(void)
{
	struct verbs_across x;
	struct dsm_frame f;
	uint64_t start, took;
	int err;

	open_across(&x);
	must_answer(&x);
	lose_packets();
	start = dsm__now();
	dsm__conn_send(x.c[0], 7, 0, 3, NULL, 0);
	err = dsm__conn_recv_wait(x.c[0], dsm__deadline_ms(20000), 0, &f, NULL);
	took = dsm__now() - start;
	find_rxb();
	MUST_BE(err, DSM_ECONN);
	MUST(strstr(dsm__conn_why(x.c[0]), "SEND: transport retry") != NULL);
	MUST(took < 10 * DSM_SEC);
	MUST(took > 300 * DSM_MS);
	verbs_across_close(&x);
	/* Over again. */
	open_across(&x);
	must_answer(&x);
	verbs_across_close(&x);
}

static void
test_a_dead_fabric_fails_a_read_within_seconds(void)
{
	const size_t len = 1 << 20;
	void *heap = mmap(NULL, 2 * len, PROT_READ | PROT_WRITE,
	                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t *ring = (uint8_t *)heap + len;
	struct dsm_verbs_region *r;
	struct verbs_across x;
	uint64_t start, took;
	int err;

	open_across(&x);
	MUST_OK(dsm__verbs_register(x.d[1], heap, len, &r, NULL));
	MUST_OK(dsm__conn_read_ring(x.c[0], ring, len, NULL));
	memset(heap, 5, len);
	MUST_OK(dsm__conn_read_start(x.c[0], (uintptr_t)heap,
	                             dsm__verbs_rkey(r), ring, len));
	MUST_OK(dsm__conn_read_wait(x.c[0], dsm__deadline_ms(20000), 0, NULL));
	MUST(memcmp(heap, ring, len) == 0);
	lose_packets();
	start = dsm__now();
	MUST_OK(dsm__conn_read_start(x.c[0], (uintptr_t)heap,
	                             dsm__verbs_rkey(r), ring, 4096));
	err = dsm__conn_read_wait(x.c[0], dsm__deadline_ms(50), 0, NULL);
	MUST_BE(err, DSM_ETIMEDOUT);
	err = dsm__conn_read_wait(x.c[0], dsm__deadline_ms(20000), 0, NULL);
	took = dsm__now() - start;
	find_rxb();
	MUST_BE(err, DSM_ECONN);
	MUST(strstr(dsm__conn_why(x.c[0]), "READ: transport retry") != NULL);
	MUST(took < 10 * DSM_SEC);
	dsm__verbs_unregister(r);
	verbs_across_close(&x);
	munmap(heap, 2 * len);
}

/* A frame that is sent while packets are lost: 1 when it has come all the same. */
static int
survives_a_loss(void)
{
	struct verbs_across x;
	struct dsm_frame f;
	uint64_t lost, found;
	int err;

	open_across(&x);
	must_answer(&x);
	lost = dsm__now();
	lose_packets();
	MUST_OK(dsm__conn_send(x.c[0], 7, 0, 3, NULL, 0));
	err = dsm__conn_recv_wait(x.c[1], dsm__deadline_ms(100), 0, &f, NULL);
	find_rxb();
	found = dsm__now();
	MUST_BE(err, DSM_ETIMEDOUT);
	err = dsm__conn_recv_wait(x.c[1], dsm__deadline_ms(5000), 0, &f, NULL);
	/* A busy machine may have kept us for longer than the retries last. */
	MUST(err == DSM_OK || found - lost > 300 * DSM_MS ||
	     dsm__conn_recv(x.c[0], &f) == DSM_ECONN);
	if (err == DSM_OK) {
		MUST_BE(f.tag, 3);
		must_answer(&x);
	}
	verbs_across_close(&x);
	return err == DSM_OK;
}

static void
test_a_short_loss_of_the_fabric_is_made_up_for(void)
{
	int tries = 1;

	while (!survives_a_loss())
		MUST(tries++ < 5);
}

SUITE_UNLESS(dsm_transport_verbs_fabric, "dsm.transport.verbs_fabric",
             no_fabric, T(test_an_open_device_says_what_it_is),
             T(test_a_wrong_choice_says_what_there_is),
             T(test_a_port_that_is_down_says_how_to_bring_it_up),
             T(test_a_small_limit_of_locked_memory_says_how_to_raise_it),
             T(test_frames_cross_the_fabric),
             T(test_a_dead_fabric_fails_a_sender_within_seconds),
             T(test_a_dead_fabric_fails_a_read_within_seconds),
             T(test_a_short_loss_of_the_fabric_is_made_up_for));
