/* Inside TLS: records (tls.c, also in slots) and the handshake. */
#ifndef DSM_TRANSPORT_TLS_PRIV_H
#define DSM_TRANSPORT_TLS_PRIV_H

#include <openssl/evp.h>

#include "conn_priv.h"
#include "tls.h"

#define TLS_HEADER 5
#define TLS_TAG 16
#define TLS_SECRET 32
#define TLS_IV 12
#define TLS_PLAIN_MAX 16384
/* What a record's body may have (RFC 8446, 5.2). */
#define TLS_BODY_MAX (TLS_PLAIN_MAX + 256)

enum tls_content {
	TLS_CCS = 20,
	TLS_ALERT = 21,
	TLS_HANDSHAKE = 22,
	TLS_DATA = 23,
};

/* One direction. */
struct tls_way {
	EVP_CIPHER_CTX *cipher; /* has the key */
	uint8_t secret[TLS_SECRET];
	uint8_t iv[TLS_IV];
	uint64_t seq;
};

/* Bytes as they are on the wire: [off, len) of cap. */
struct tls_bytes {
	uint8_t *p;
	size_t off, len, cap;
};

struct tls_shake; /* tls_handshake.c's */

/* In memory for secrets, but for its buffers. */
struct dsm_tls {
	/* SHAKING: one step of it: DSM_OK (done: both are NULL now), DSM_EAGAIN
	 * or why it failed. */
	int (*step)(struct dsm_conn *c);
	void (*step_free)(struct dsm_tls *t);
	struct tls_shake *shake;

	int err;        /* FAILED */
	int update_due; /* the peer asked for another key of what we write */
	struct tls_way in, out;
	struct tls_bytes rx, tx;
	/* Of a record that the reader had no room for. */
	struct tls_bytes plain;
	char name[DSM_TLS_NAME_MAX];
};

/* tls.c */
int tls_create(struct dsm_conn *c);
/* Have keys of these traffic secrets. */
int tls_way_init(struct tls_way *w, const uint8_t secret[TLS_SECRET],
                 int encrypt);
/* HKDF-Expand-Label(secret, label, "", len), RFC 8446, 7.1; len <= 32. */
int tls_expand(const uint8_t *secret, const char *label, uint8_t *out,
               size_t len);
/* HMAC-SHA-256 of the bytes. */
int tls_hmac(const void *key, size_t key_len, const void *p, size_t len,
             uint8_t out[32]);
/* More bytes from the socket: DSM_OK, DSM_EAGAIN, DSM_ECONN, DSM_ENOMEM. */
int tls_fill(struct dsm_conn *c);
/* Length of the whole record at the front of rx, with its header; 0: there is
 * none yet; DSM_EPROTO: not one. */
ssize_t tls_record(const struct dsm_tls *t);
/* Append to tx. */
int tls_put(struct dsm_tls *t, const void *p, size_t len);
/* Write tx out: DSM_OK, DSM_EAGAIN, or an error. */
int tls_flush(struct dsm_conn *c);
/* What runs work on secrets: dsm__secret_call and dsm__secret_run, or in a slot a
 * plain call. */
extern void (*tls_call)(void (*fn)(void *arg), void *arg);
extern void (*tls_run)(void (*fn)(void *arg), void *arg);

#endif
