/* TLS: every transport's suite, and what is its own. */
#include <stdlib.h>
#include <unistd.h>

#include "../../../dsm/base/secret.h"
#include "../../../dsm/transport/tls.h"
#include "../../conformance/conformance.h"

static int
give_key(void *ctx, const char *name, uint8_t psk_p[DSM_PSK_LEN])
{
	(void)ctx;
	if (strcmp(name, "alice") != 0)
		return 0;
	memset(psk_p, 0x11, DSM_PSK_LEN);
	return 1;
}

static const struct dsm_tls_finder finder = {give_key, NULL,
                                             "this is for those with TLS"};

/* Two ends that have not spoken yet: 0 is the client. */
static int
open_strangers(const char *name, uint8_t key, uint32_t max_body,
               struct dsm_conn *c_p[2])
{
	uint8_t psk[DSM_PSK_LEN];
	int err =
	    conformance_sockets(&dsm__shm_ops, dsm__shm_pair, max_body, c_p);

	memset(psk, key, sizeof(psk));
	if (err == DSM_OK)
		err = dsm__conn_tls_connect(c_p[0], name, psk);
	if (err == DSM_OK)
		err = dsm__conn_tls_accept(c_p[1], &finder);
	return err;
}

/* Both ends read until the handshake is over or one of them has failed. */
static void
shake_hands(struct dsm_conn *c[2])
{
	uint64_t deadline = dsm__deadline_ms(10000);

	while ((dsm__conn_is_shaking(c[0]) || dsm__conn_is_shaking(c[1])) &&
	       dsm__now() < deadline) {
		struct dsm_frame f;

		for (int i = 0; i < 2; i++)
			if (dsm__conn_is_shaking(c[i]) &&
			    dsm__conn_error(c[i]) == DSM_OK)
				dsm__conn_recv(c[i], &f);
		if (dsm__conn_error(c[0]) != DSM_OK ||
		    dsm__conn_error(c[1]) != DSM_OK)
			return;
	}
}

static int
open_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	int err = open_strangers("alice", 0x11, max_body, c_p);

	if (err != DSM_OK)
		return err;
	shake_hands(c_p);
	return dsm__conn_is_shaking(c_p[0]) || dsm__conn_is_shaking(c_p[1])
	           ? DSM_EAUTH
	           : DSM_OK;
}

CONFORMANCE(dsm_transport_tls, "dsm.transport.tls", &dsm__tls_ops, open_pair,
            NULL);

/* --- its own --- */

static void
close_both(struct dsm_conn *c[2])
{
	dsm__conn_close(c[0]);
	dsm__conn_close(c[1]);
}

static void
send_text(struct dsm_conn *c, const char *text)
{
	const struct iovec v = {(void *)(uintptr_t)text, strlen(text)};

	MUST_OK(dsm__conn_send(c, 7, 0, 0, &v, 1));
}

static void
must_hear(struct dsm_conn *c, const char *text)
{
	struct dsm_frame f;

	MUST_OK(dsm__conn_recv_wait(c, dsm__deadline_ms(10000), 0, &f, NULL));
	MUST_BE(f.len, strlen(text));
	MUST(memcmp(f.body, text, f.len) == 0);
}

static void
test_the_server_learns_the_name(void)
{
	struct dsm_conn *c[2];
	struct dsm_frame f;
	int err = DSM_EAGAIN;

	MUST_OK(open_strangers("alice", 0x11, 4096, c));
	MUST(strcmp(dsm__conn_identity(c[1]), "") == 0);
	send_text(c[0], "early"); /* waits for the handshake */
	MUST(dsm__conn_backlog(c[0]) > 0);
	for (int i = 0; i < 10 && err == DSM_EAGAIN; i++) {
		MUST_BE(dsm__conn_recv(c[0], &f), DSM_EAGAIN);
		err = dsm__conn_recv(c[1], &f);
	}
	MUST_OK(err);
	MUST_BE(f.len, 5);
	MUST(memcmp(f.body, "early", 5) == 0);
	MUST(strcmp(dsm__conn_identity(c[1]), "alice") == 0);
	send_text(c[1], "late");
	must_hear(c[0], "late");
	close_both(c);
}

static void
must_be_turned_away(const char *name, uint8_t key)
{
	struct dsm_conn *c[2];
	struct dsm_frame f;

	MUST_OK(open_strangers(name, key, 4096, c));
	send_text(c[0], "let me in");
	shake_hands(c);
	MUST_BE(dsm__conn_error(c[1]), DSM_EAUTH);
	MUST(strstr(dsm__conn_why(c[1]), "wrong secret") != NULL);
	MUST(strcmp(dsm__conn_identity(c[1]), "") == 0);
	/* The client hears of it when the server closes. */
	MUST_BE(dsm__conn_recv(c[0], &f), DSM_EAGAIN);
	dsm__conn_close(c[1]);
	MUST_BE(dsm__conn_recv_wait(c[0], dsm__deadline_ms(10000), 0, &f, NULL),
	        DSM_EAUTH);
	MUST(strstr(dsm__conn_why(c[0]), "no such name, or another secret") !=
	     NULL);
	dsm__conn_close(c[0]);
}

static void
test_a_wrong_secret_and_an_unknown_name_fail_alike(void)
{
	must_be_turned_away("alice", 0x12);
	must_be_turned_away("bob", 0x11);
}

static void
test_a_peer_without_tls_is_refused_in_words(void)
{
	struct dsm_conn *c[2];
	struct dsm_frame f;

	MUST_OK(conformance_sockets(&dsm__shm_ops, dsm__shm_pair, 4096, c));
	MUST_OK(dsm__conn_tls_accept(c[1], &finder));
	send_text(c[0], "hello, it is me");
	MUST_BE(dsm__conn_recv(c[1], &f), DSM_EPROTO);
	MUST(strstr(dsm__conn_why(c[1]), "does not use TLS") != NULL);
	MUST_OK(
	    dsm__conn_recv_wait(c[0], dsm__deadline_ms(10000), 0, &f, NULL));
	MUST_BE(f.type, 3); /* REFUSE */
	MUST(memmem(f.body, f.len, finder.refusal, strlen(finder.refusal)) !=
	     NULL);
	close_both(c);
}

static void
test_an_answer_without_tls_is_an_error_in_words(void)
{
	uint8_t psk[DSM_PSK_LEN] = {0};
	struct dsm_conn *c[2];
	struct dsm_frame f;

	MUST_OK(conformance_sockets(&dsm__shm_ops, dsm__shm_pair, 4096, c));
	MUST_OK(dsm__conn_tls_connect(c[0], "alice", psk));
	MUST_BE(dsm__conn_recv(c[0], &f), DSM_EAGAIN);
	send_text(c[1], "what is that?");
	MUST_BE(dsm__conn_recv_wait(c[0], dsm__deadline_ms(10000), 0, &f, NULL),
	        DSM_EPROTO);
	MUST(strstr(dsm__conn_why(c[0]), "does not answer with TLS") != NULL);
	close_both(c);
}

static void
test_a_handshake_that_waits_does_not_ask_for_room_to_write(void)
{
	uint8_t psk[DSM_PSK_LEN] = {0};
	struct dsm_conn *c[2];

	MUST_OK(conformance_sockets(&dsm__shm_ops, dsm__shm_pair, 4096, c));
	MUST_OK(dsm__conn_tls_connect(c[0], "alice", psk));
	send_text(c[0], "waits");
	MUST(dsm__conn_backlog(c[0]) > 0);
	MUST(!dsm__conn_wants_out(c[0]));
	MUST_BE(dsm__conn_drain(c[0], dsm__deadline_ms(20)), DSM_ETIMEDOUT);
	close_both(c);
}

/* Whatever byte of a record is changed on its way: the tag does not fit. */
static void
test_a_changed_record_ends_the_connection(void)
{
	for (size_t at = 0; at < 40; at++) {
		struct dsm_conn *c[2];
		uint8_t wire[512];
		struct dsm_frame f;
		ssize_t n;
		int pair[2];

		MUST_OK(open_pair(4096, c));
		/* What 0 sends comes to us instead, and on to 1 from us. */
		send_text(c[0], "a page of somebody's");
		n = read(dsm__conn_fd(c[1]), wire, sizeof(wire));
		MUST(n > 40);
		wire[at] ^= 0x40;
		pair[0] = dup(dsm__conn_fd(c[0]));
		MUST_BE(write(pair[0], wire, (size_t)n), n);
		close(pair[0]);
		MUST_BE(dsm__conn_recv_wait(c[1], dsm__deadline_ms(100), 0, &f,
		                            NULL) == DSM_OK,
		        0);
		/* A longer length waits for more; the rest is known at once. */
		if (at != 3 && at != 4)
			MUST_BE(dsm__conn_error(c[1]), DSM_EPROTO);
		close_both(c);
	}
}

static void
test_a_record_that_comes_twice_ends_the_connection(void)
{
	struct dsm_conn *c[2];
	uint8_t wire[512];
	struct dsm_frame f;
	ssize_t n;
	int fd;

	MUST_OK(open_pair(4096, c));
	send_text(c[0], "again");
	n = read(dsm__conn_fd(c[1]), wire, sizeof(wire));
	MUST(n > 0);
	fd = dup(dsm__conn_fd(c[0]));
	MUST_BE(write(fd, wire, (size_t)n), n);
	MUST_BE(write(fd, wire, (size_t)n), n);
	close(fd);
	must_hear(c[1], "again");
	MUST_BE(dsm__conn_recv(c[1], &f), DSM_EPROTO);
	close_both(c);
}

static void
test_keys_are_changed_in_time_unnoticed(void)
{
	uint64_t usual = dsm__tls_records_per_key;
	struct dsm_tls_state st;
	struct dsm_conn *c[2];
	char text[20];

	MUST_OK(open_pair(4096, c));
	dsm__tls_records_per_key = 5;
	for (int i = 0; i < 40; i++) {
		snprintf(text, sizeof(text), "frame %d", i);
		send_text(c[0], text);
		must_hear(c[1], text);
		if (i % 3 == 0) {
			send_text(c[1], text);
			must_hear(c[0], text);
		}
	}
	dsm__tls_records_per_key = usual;
	MUST_OK(dsm__conn_tls_export(c[0], &st));
	MUST(st.seq[1] <= 6);
	close_both(c);
}

static void
test_another_process_goes_on_where_the_handshake_ended(void)
{
	struct dsm_tls_state st = {0};
	struct dsm_conn *c[2], *heir;
	int fd;

	MUST_OK(open_pair(1 << 20, c));
	send_text(c[0], "one");
	must_hear(c[1], "one");
	send_text(c[1], "two");
	must_hear(c[0], "two");
	fd = dup(dsm__conn_fd(c[0]));
	MUST(fd >= 0);
	MUST_OK(dsm__conn_tls_export(c[0], &st));
	dsm__conn_close(c[0]);
	MUST_OK(dsm__conn_create(&dsm__shm_ops, fd, 1 << 20, &heir));
	MUST_OK(dsm__conn_tls_import(heir, &st));
	for (size_t i = 0; i < sizeof(st); i++)
		MUST_BE(((uint8_t *)&st)[i], 0);
	send_text(heir, "three");
	must_hear(c[1], "three");
	send_text(c[1], "four");
	must_hear(heir, "four");
	dsm__conn_close(heir);
	dsm__conn_close(c[1]);
}

static void
test_keys_depend_on_secret_name_and_use(void)
{
	static struct dsm_token t = {
	    .who = {.name = "alice"}, .secret_len = 6, .secret = "secret"};
	uint8_t a[DSM_PSK_LEN], b[DSM_PSK_LEN];

	MUST_OK(dsm__tls_psk_of_token(&t, a));
	MUST_OK(dsm__tls_psk_of_token(&t, b));
	MUST(memcmp(a, b, sizeof(a)) == 0);
	t.secret[5] = 'T';
	MUST_OK(dsm__tls_psk_of_token(&t, b));
	MUST(memcmp(a, b, sizeof(a)) != 0);
	t.secret[5] = 't';
	t.who.name[0] = 'A';
	MUST_OK(dsm__tls_psk_of_token(&t, b));
	MUST(memcmp(a, b, sizeof(a)) != 0);
	MUST_OK(dsm__tls_psk_of_session(1, (const void *)"k", 1, a));
	MUST_OK(dsm__tls_psk_of_session(2, (const void *)"k", 1, b));
	MUST(memcmp(a, b, sizeof(a)) != 0);
}

/* Of HKDF-SHA-256 as others compute it:
 * openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt key:secret \
 *   -kdfopt salt:'taskrt psk 1' -kdfopt info:'token alice' HKDF */
static void
test_the_key_is_what_the_protocol_says(void)
{
	static const struct dsm_token t = {
	    .who = {.name = "alice"}, .secret_len = 6, .secret = "secret"};
	static const uint8_t want[DSM_PSK_LEN] = {
	    0x21, 0xf0, 0xac, 0x9f, 0xd5, 0x86, 0x66, 0x12, 0xdf, 0x63, 0x69,
	    0x84, 0x60, 0x18, 0xd3, 0x66, 0x13, 0xdb, 0x09, 0x15, 0x4e, 0x9f,
	    0x11, 0x2e, 0xfa, 0xd7, 0x3d, 0x67, 0x84, 0xe2, 0xe2, 0xed};
	uint8_t psk[DSM_PSK_LEN];

	MUST_OK(dsm__tls_psk_of_token(&t, psk));
	MUST(memcmp(psk, want, sizeof(want)) == 0);
}

static void
test_names_of_sessions_are_told_from_tokens(void)
{
	char name[DSM_TLS_NAME_MAX];
	uint64_t session = 0;

	dsm__tls_session_name(UINT64_MAX, name);
	MUST(dsm__tls_is_session(name, &session));
	MUST(session == UINT64_MAX);
	MUST(!dsm__token_name_ok(name));
	MUST(!dsm__tls_is_session("session:", &session));
	MUST(!dsm__tls_is_session("session:12x", &session));
	MUST(!dsm__tls_is_session("session:+12", &session));
	MUST(!dsm__tls_is_session("alice", &session));
}

SUITE(dsm_transport_tls_own, "dsm.transport.tls_own",
      T(test_the_server_learns_the_name),
      T(test_a_wrong_secret_and_an_unknown_name_fail_alike),
      T(test_a_peer_without_tls_is_refused_in_words),
      T(test_an_answer_without_tls_is_an_error_in_words),
      T(test_a_handshake_that_waits_does_not_ask_for_room_to_write),
      T(test_a_changed_record_ends_the_connection),
      T(test_a_record_that_comes_twice_ends_the_connection),
      T(test_keys_are_changed_in_time_unnoticed),
      T(test_another_process_goes_on_where_the_handshake_ended),
      T(test_keys_depend_on_secret_name_and_use),
      T(test_the_key_is_what_the_protocol_says),
      T(test_names_of_sessions_are_told_from_tokens));
