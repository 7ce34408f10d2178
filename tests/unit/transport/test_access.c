/* Who may be spoken to without encryption. */
#include "../../../dsm/transport/access.h"

#include <sys/socket.h>
#include <unistd.h>

#include "../../test.h"

/* Connected; the other end is *peer_p. */
static int
connect_to_ourselves(int *peer_p)
{
	struct dsm_error e = {0};
	char addr[DSM_ADDR_MAX];
	int listener, fd;

	MUST_OK(dsm__tcp_listen(":0", addr, &listener, &e));
	MUST_OK(dsm__tcp_connect(addr, dsm__deadline_ms(5000), &fd, &e));
	*peer_p = -1;
	MUST_WITHIN_MS(5000, *peer_p >= 0 ||
	                         dsm__tcp_accept(listener, peer_p) == DSM_OK);
	close(listener);
	return fd;
}

static void
test_loopback_is_spoken_to_without_a_token(void)
{
	const struct dsm_access a = {0};
	struct dsm_error e = {0};
	struct dsm_conn *conn;
	int peer, fd = connect_to_ourselves(&peer);

	MUST_OK(dsm__access_conn(&a, fd, "here:1", 4096, &conn, &e));
	dsm__conn_close(conn);
	close(peer);
}

/* It may come back: a worker that took this for a wrong setting would end. */
static void
test_a_peer_that_is_gone_at_once_is_lost_and_not_refused(void)
{
	const struct linger hard = {1, 0};
	const struct dsm_access a = {0};
	struct dsm_error e = {0};
	struct dsm_conn *conn;
	char name[DSM_ADDR_MAX];
	int peer, fd = connect_to_ourselves(&peer);

	setsockopt(peer, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(peer);
	MUST_WITHIN_MS(5000, dsm__tcp_peer(fd, name) != DSM_OK);
	MUST_BE(dsm__access_conn(&a, fd, "there:1", 4096, &conn, &e),
	        DSM_ECONN);
	MUST(strstr(e.text, "there:1") != NULL);
}

SUITE(dsm_transport_access, "dsm.transport.access",
      T(test_loopback_is_spoken_to_without_a_token),
      T(test_a_peer_that_is_gone_at_once_is_lost_and_not_refused));
