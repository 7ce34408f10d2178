/*
 * TLS 1.3 with a pre-shared key over a TCP connection.
 *
 * OpenSSL makes the handshake (tls_handshake.c): the one cipher suite is
 * TLS_AES_128_GCM_SHA256, the key exchange X25519 with an external PSK
 * (psk_dhe_ke), so that who learns a token later cannot read what was recorded.
 * Nobody has a certificate; both ends prove that they know the PSK. The records
 * after it are ours (tls.c): a slot starts in the middle of a connection whose
 * handshake its worker made, which OpenSSL has no way to hand over, and pages are
 * encrypted from, and decrypted to, where they are. It is TLS on the wire, and the
 * ciphers are OpenSSL's.
 *
 * States of a conn with TLS:
 *   SHAKING  reads and writes answer DSM_EAGAIN, and drive the handshake; frames
 *            that are sent wait in the out-queue. No frame is decoded
 *   OPEN     both ends have shown that they know the key
 *   FAILED   dsm__conn_error: DSM_EAUTH (another name or key), DSM_EPROTO (not
 *            TLS), DSM_ECONN; dsm__conn_why has the words
 *   SHAKING -> OPEN | FAILED, OPEN -> FAILED. No way back, no renegotiation.
 * The owner sees to the time: until OPEN a peer is a stranger.
 *
 * The alert that tells a client of its wrong key goes out when the conn is closed:
 * that is how the owner delays it. An unknown name and a wrong secret look and
 * take the same.
 *
 * Everything secret (keys, OpenSSL's objects) lies in dsm/base/secret.h's region
 * and is worked on by its stack, but for slots: those have no keys but their own
 * connection's.
 */
#ifndef DSM_TRANSPORT_TLS_H
#define DSM_TRANSPORT_TLS_H

#include <stdint.h>

#include "conn.h"
#include "token.h"

#define DSM_PSK_LEN 32
/* "session:" and a number, or a token's name; with its NUL. */
#define DSM_TLS_NAME_MAX 64

extern const struct dsm_conn_ops dsm__tls_ops;

/* --- keys --- */

/* Out of a token's secret; of a session's key, for its data links. psk_p must be
 * memory for secrets. DSM_ENOMEM. */
int dsm__tls_psk_of_token(const struct dsm_token *t,
                          uint8_t psk_p[DSM_PSK_LEN]);
int dsm__tls_psk_of_session(uint64_t session, const uint8_t *key,
                            size_t key_len, uint8_t psk_p[DSM_PSK_LEN]);
/* The name that goes with the latter: "session:17". */
void dsm__tls_session_name(uint64_t session, char name_p[DSM_TLS_NAME_MAX]);
/* 1 and the number, or 0: not such a name. */
int dsm__tls_is_session(const char *name, uint64_t *session_p);

/* --- connections --- */

/*
 * From here on the conn speaks TLS, as the end that connected. Call before
 * anything was sent or read. name, psk: copied. DSM_ENOMEM, DSM_EINVAL (not a
 * TCP conn, or in use already).
 */
int dsm__conn_tls_connect(struct dsm_conn *c, const char *name,
                          const uint8_t psk[DSM_PSK_LEN]);
/*
 * As the end that accepted. find(ctx, name, psk_p): 1 and the key of that name, or
 * 0: unknown; called from reads of the conn, on the stack for secrets. A peer that
 * does not begin with TLS is refused in words: `refusal`, borrowed.
 */
struct dsm_tls_finder {
	int (*find)(void *ctx, const char *name, uint8_t psk_p[DSM_PSK_LEN]);
	void *ctx;
	const char *refusal; /* the text of the REFUSE that it gets */
};
int dsm__conn_tls_accept(struct dsm_conn *c, const struct dsm_tls_finder *f);

/* Whose key the peer has shown: "" without TLS or before OPEN. */
const char *dsm__conn_identity(const struct dsm_conn *c);
/* The name that was shown or looked for, proven or not. */
const char *dsm__conn_tls_name(const struct dsm_conn *c);
int dsm__conn_is_tls(const struct dsm_conn *c);
/* With TLS, and SHAKING. */
int dsm__conn_is_shaking(const struct dsm_conn *c);

/* --- to another process, in the middle of a connection --- */

struct dsm_tls_state {
	uint32_t on;           /* 0: the rest means nothing */
	uint8_t secret[2][32]; /* of what is read, of what is written */
	uint64_t seq[2];
};
/* DSM_EAGAIN: not OPEN, or bytes are on their way in this process. The conn has
 * FAILED then, and closing it says nothing to the peer: dup its descriptor. */
int dsm__conn_tls_export(struct dsm_conn *c, struct dsm_tls_state *st);
/* c is new. Wipes *st. */
int dsm__conn_tls_import(struct dsm_conn *c, struct dsm_tls_state *st);

/* A key is changed (KeyUpdate) after so many records; for tests. */
extern uint64_t dsm__tls_records_per_key;

#endif
