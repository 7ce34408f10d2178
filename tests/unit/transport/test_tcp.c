/* TCP over loopback: the conformance suite, and addresses. */
#include "../../conformance/conformance.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static int
tcp_pair(int fds_p[2])
{
	char addr[DSM_ADDR_MAX];
	struct dsm_error e = {0};
	struct pollfd p = {.events = POLLIN};
	int err;

	err = dsm__tcp_listen(":0", addr, &p.fd, &e);
	if (err != DSM_OK)
		return err;
	err = dsm__tcp_connect(addr, dsm__deadline_ms(5000), &fds_p[0], &e);
	if (err == DSM_OK) {
		poll(&p, 1, 5000);
		err = dsm__tcp_accept(p.fd, &fds_p[1]);
	}
	close(p.fd);
	return err;
}

static int
open_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	return conformance_sockets(&dsm__tcp_ops, tcp_pair, max_body, c_p);
}

CONFORMANCE(dsm_transport_tcp, "dsm.transport.tcp", &dsm__tcp_ops, open_pair,
            NULL);

/* Listens, connects to what it says it listens on, closes. */
static void
must_listen(const char *text, const char *prefix)
{
	char addr[DSM_ADDR_MAX], local[DSM_ADDR_MAX], peer[DSM_ADDR_MAX];
	struct dsm_error e = {0};
	int listener, fd;

	MUST_OK(dsm__tcp_listen(text, addr, &listener, &e));
	MUST(strncmp(addr, prefix, strlen(prefix)) == 0);
	MUST(atoi(strrchr(addr, ':') + 1) > 0);
	MUST(fcntl(listener, F_GETFD) & FD_CLOEXEC);
	MUST_OK(dsm__tcp_local(listener, local));
	MUST(strcmp(local, addr) == 0);
	MUST_OK(dsm__tcp_connect(addr, dsm__deadline_ms(5000), &fd, &e));
	MUST_OK(dsm__tcp_peer(fd, peer));
	if (strncmp(addr, "0.0.0.0", 7) != 0)
		MUST(strcmp(peer, addr) == 0);
	close(fd);
	close(listener);
}

static void
test_no_host_means_loopback(void)
{
	must_listen(":0", "127.0.0.1:");
	must_listen("127.0.0.1:0", "127.0.0.1:");
	must_listen("localhost:0", "127.0.0.1:");
}

static void
test_a_star_listens_everywhere(void)
{
	must_listen("*:0", "0.0.0.0:");
}

static void
test_ipv6_addresses_are_in_brackets(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM, 0);

	if (fd < 0)
		return; /* no IPv6 here */
	close(fd);
	must_listen("[::1]:0", "[::1]:");
}

static void
test_bad_addresses_are_named_in_the_error(void)
{
	static const char *const bad[] = {
	    "",          "host",         "host:",   ":",     "1:2:3",
	    "::1:80",    "[::1]",        "[::1:80", "[]:80", "::1]:80",
	    ":-1",       ":65536",       ":123456", ":80x",  ": 80",
	    "host:http", "127.0.0.1:+80"};
	struct dsm_error e;
	int fd = -1;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(&e, 0, sizeof(e));
		MUST_BE(dsm__tcp_listen(bad[i], NULL, &fd, &e), DSM_EINVAL);
		MUST_BE(e.code, DSM_EINVAL);
		MUST(strstr(e.text, bad[i]) != NULL);
		MUST_BE(dsm__tcp_connect(bad[i], 0, &fd, NULL), DSM_EINVAL);
		MUST_BE(dsm__tcp_is_loopback(bad[i], NULL), DSM_EINVAL);
	}
	MUST_BE(dsm__tcp_connect("*:80", 0, &fd, &e), DSM_EINVAL);
	MUST_BE(fd, -1);
}

static void
test_a_port_in_use_is_said(void)
{
	char addr[DSM_ADDR_MAX], want[200];
	struct dsm_error e = {0};
	int first, second = -1;

	MUST_OK(dsm__tcp_listen(":0", addr, &first, &e));
	MUST_BE(dsm__tcp_listen(strrchr(addr, ':'), NULL, &second, &e),
	        DSM_ESYS);
	snprintf(want, sizeof(want),
	         "cannot listen on %s: Address already in use", addr);
	MUST(strcmp(e.text, want) == 0);
	MUST_BE(second, -1);
	close(first);
}

static void
test_is_loopback_tells_local_addresses(void)
{
	MUST_BE(dsm__tcp_is_loopback(":1", NULL), 1);
	MUST_BE(dsm__tcp_is_loopback("127.3.2.1:1", NULL), 1);
	MUST_BE(dsm__tcp_is_loopback("localhost:1", NULL), 1);
	MUST_BE(dsm__tcp_is_loopback("[::1]:1", NULL), 1);
	MUST_BE(dsm__tcp_is_loopback("[::ffff:127.0.0.1]:1", NULL), 1);
	MUST_BE(dsm__tcp_is_loopback("*:1", NULL), 0);
	MUST_BE(dsm__tcp_is_loopback("0.0.0.0:1", NULL), 0);
	MUST_BE(dsm__tcp_is_loopback("[::]:1", NULL), 0);
	MUST_BE(dsm__tcp_is_loopback("10.1.2.3:1", NULL), 0);
}

/* An address where nobody listens: a port that was ours a moment ago. */
static void
free_address(char addr[DSM_ADDR_MAX])
{
	int fd;

	MUST_OK(dsm__tcp_listen(":0", addr, &fd, NULL));
	close(fd);
}

static void
test_a_refused_connect_says_where_and_why(void)
{
	char addr[DSM_ADDR_MAX], want[200];
	struct dsm_error e = {0};
	int fd = -1;

	free_address(addr);
	MUST_BE(dsm__tcp_connect(addr, dsm__deadline_ms(5000), &fd, &e),
	        DSM_ECONN);
	snprintf(want, sizeof(want), "cannot connect to %s: Connection refused",
	         addr);
	MUST(strcmp(e.text, want) == 0);
	MUST_BE(fd, -1);
}

static void
test_a_connect_times_out(void)
{
	char addr[DSM_ADDR_MAX];
	uint64_t start = dsm__now();
	struct dsm_error e = {0};
	int fds[300];
	int listener, err = DSM_OK;
	int n = 0;

	/* Nobody accepts: once the backlog is full connects hang. */
	MUST_OK(dsm__tcp_listen(":0", addr, &listener, &e));
	MUST_BE(listen(listener, 0), 0);
	while (n < 300 && err == DSM_OK) {
		err = dsm__tcp_connect(addr, dsm__deadline_ms(30), &fds[n], &e);
		n += err == DSM_OK;
	}
	MUST_BE(err, DSM_ETIMEDOUT);
	MUST(strstr(e.text, "timed out") != NULL);
	MUST(dsm__now() - start >= 30 * DSM_MS);
	while (n > 0)
		close(fds[--n]);
	close(listener);
}

static void
test_a_started_connect_ends_in_a_result(void)
{
	char addr[DSM_ADDR_MAX];
	struct dsm_error e = {0};
	struct pollfd p = {.events = POLLOUT};
	int listener, fd = -1;

	MUST_OK(dsm__tcp_listen(":0", addr, &listener, &e));
	MUST_BE(dsm__tcp_accept(listener, &fd), DSM_EAGAIN);
	MUST_OK(dsm__tcp_connect_start(addr, &p.fd, &e));
	MUST_BE(poll(&p, 1, 5000), 1);
	MUST_OK(dsm__tcp_connect_result(p.fd, addr, &e));
	close(p.fd);
	close(listener);

	free_address(addr);
	MUST_OK(dsm__tcp_connect_start(addr, &p.fd, &e));
	MUST_BE(poll(&p, 1, 5000), 1);
	MUST_BE(dsm__tcp_connect_result(p.fd, addr, &e), DSM_ECONN);
	MUST(strstr(e.text, "Connection refused") != NULL);
	close(p.fd);
}

static void
test_a_numeric_address_needs_no_look_up_and_a_name_gets_one(void)
{
	struct dsm_error e;
	char addr[DSM_ADDR_MAX];

	MUST(dsm__tcp_is_numeric("10.0.0.1:80"));
	MUST(dsm__tcp_is_numeric("[fe80::1]:80"));
	MUST(!dsm__tcp_is_numeric("localhost:80"));
	MUST(!dsm__tcp_is_numeric("10.0.0.1"));
	MUST(!dsm__tcp_is_numeric("*:80"));
	MUST(!dsm__tcp_is_numeric(":80"));
	MUST_OK(dsm__tcp_numeric("localhost:80", addr, &e));
	MUST(strcmp(addr, "127.0.0.1:80") == 0);
	MUST_OK(dsm__tcp_numeric("[::1]:80", addr, &e));
	MUST(strcmp(addr, "[::1]:80") == 0);
	MUST_BE(dsm__tcp_numeric("no address", addr, &e), DSM_EINVAL);
}

SUITE(dsm_transport_address, "dsm.transport.address",
      T(test_a_numeric_address_needs_no_look_up_and_a_name_gets_one),
      T(test_no_host_means_loopback), T(test_a_star_listens_everywhere),
      T(test_ipv6_addresses_are_in_brackets),
      T(test_bad_addresses_are_named_in_the_error),
      T(test_a_port_in_use_is_said), T(test_is_loopback_tells_local_addresses),
      T(test_a_refused_connect_says_where_and_why), T(test_a_connect_times_out),
      T(test_a_started_connect_ends_in_a_result));
