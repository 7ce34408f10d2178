/*
 * The handshake: OpenSSL, fed by hand.
 *
 * It gets one record at a time, so that what comes behind its last one stays with
 * us. What it wants to say goes into tx. When it is done, its traffic secrets are
 * taken from what it tells a key log (an interface of OpenSSL's, made for
 * programs that look into connections), records are ours from there on, and the
 * SSL object is gone.
 *
 * All of it runs on the stack for secrets, and OpenSSL's memory is that for
 * secrets: in libtaskrt this OpenSSL is our own copy, whose names nobody sees, so
 * that the program's is none of our business (Makefile).
 *
 * Who does not know the key: the peer's name is looked up, and one that is not
 * there has a key that nobody knows. So there is one way to fail: the binder does
 * not verify.
 */
#include "tls_priv.h"

#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../base/secret.h"
#include "../wire/wire.h"

/* A stranger's messages: more is no handshake with a PSK. */
#define SHAKE_MAX ((size_t)16 << 10)
#define PSK_SALT "taskrt psk 1"

struct tls_shake {
	SSL *ssl;
	BIO *to_ssl, *from_ssl; /* the SSL's */
	int is_server;
	uint8_t psk[DSM_PSK_LEN]; /* client */
	struct dsm_tls_finder finder;
	size_t n_read; /* bytes of its records so far */
	int alert;     /* the peer has sent one */
	/* From the key log: of the client's records, of the server's. */
	uint8_t secret[2][TLS_SECRET];
	unsigned have; /* bits: which of them */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static SSL_CTX *context; /* const after once; NULL: no memory */

/* --- OpenSSL's memory and callbacks --- */

static void *
crypto_malloc(size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	return dsm__secret_alloc(n);
}

static void *
crypto_realloc(void *p, size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	return dsm__secret_realloc(p, n);
}

static void
crypto_free(void *p, const char *file, int line)
{
	(void)file;
	(void)line;
	dsm__secret_free(p);
}

static struct dsm_tls *
tls_of(const SSL *ssl)
{
	return SSL_get_app_data(ssl);
}

/* OpenSSL writes nothing but digits. */
static unsigned
hex_digit(char c)
{
	if (c <= '9')
		return (unsigned)(c - '0') & 15;
	return ((unsigned)(c | 0x20) - 'a' + 10) & 15;
}

/* "LABEL RANDOM SECRET" */
static void
on_key(const SSL *ssl, const char *line)
{
	static const char *const labels[] = {"CLIENT_TRAFFIC_SECRET_0 ",
	                                     "SERVER_TRAFFIC_SECRET_0 "};
	struct tls_shake *s = tls_of(ssl)->shake;
	const char *hex = strrchr(line, ' ');

	for (unsigned i = 0; i < 2; i++) {
		if (strncmp(line, labels[i], strlen(labels[i])) != 0 ||
		    hex == NULL || strlen(hex + 1) != 2 * TLS_SECRET)
			continue;
		for (size_t k = 0; k < TLS_SECRET; k++)
			s->secret[i][k] =
			    (uint8_t)(hex_digit(hex[1 + 2 * k]) << 4 |
			              hex_digit(hex[2 + 2 * k]));
		s->have |= 1u << i;
	}
}

/* A session that exists only to carry the key. */
static SSL_SESSION *
make_session(SSL *ssl, const uint8_t psk[DSM_PSK_LEN])
{
	static const unsigned char suite[] = {0x13, 0x01};
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
	SSL_SESSION *ss = SSL_SESSION_new();

	if (ss != NULL && cipher != NULL &&
	    SSL_SESSION_set1_master_key(ss, psk, DSM_PSK_LEN) == 1 &&
	    SSL_SESSION_set_cipher(ss, cipher) == 1 &&
	    SSL_SESSION_set_protocol_version(ss, TLS1_3_VERSION) == 1)
		return ss;
	SSL_SESSION_free(ss);
	return NULL;
}

static int
give_psk(SSL *ssl, const EVP_MD *md, const unsigned char **id_p,
         size_t *id_len_p, SSL_SESSION **ss_p)
{
	struct dsm_tls *t = tls_of(ssl);

	*ss_p = NULL;
	if (md != NULL && EVP_MD_get_type(md) != NID_sha256)
		return 1;
	*ss_p = make_session(ssl, t->shake->psk);
	*id_p = (const unsigned char *)t->name;
	*id_len_p = strlen(t->name);
	return *ss_p != NULL;
}

static int
find_psk(SSL *ssl, const unsigned char *id, size_t id_len, SSL_SESSION **ss_p)
{
	struct dsm_tls *t = tls_of(ssl);
	const struct dsm_tls_finder *f = &t->shake->finder;
	uint8_t psk[DSM_PSK_LEN];
	int known = 0;

	/* In any case: the time must not tell. */
	if (RAND_bytes(psk, sizeof(psk)) != 1)
		return 0;
	if (id_len > 0 && id_len < sizeof(t->name) &&
	    memchr(id, '\0', id_len) == NULL) {
		memcpy(t->name, id, id_len);
		t->name[id_len] = '\0';
		known = f->find(f->ctx, t->name, psk);
	}
	if (!known && RAND_bytes(psk, sizeof(psk)) != 1)
		return 0;
	*ss_p = make_session(ssl, psk);
	dsm__wipe(psk, sizeof(psk));
	return *ss_p != NULL;
}

static void
on_state(const SSL *ssl, int where, int ret)
{
	(void)ret;
	if ((where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT)
		tls_of(ssl)->shake->alert = 1;
}

static void
make_context(void *arg)
{
	SSL_CTX *ctx;

	(void)arg;
	/* Too late where the program's own use of the same OpenSSL came first:
	 * only in daemons and tests, which serve no memory. */
	CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free);
	/* No file of the machine's changes what we agreed on. */
	OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT,
	                 NULL);
	ctx = SSL_CTX_new(TLS_method());
	if (ctx == NULL)
		return;
	SSL_CTX_clear_options(ctx, SSL_OP_ENABLE_MIDDLEBOX_COMPAT);
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
	                             SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_keylog_callback(ctx, on_key);
	SSL_CTX_set_info_callback(ctx, on_state);
	SSL_CTX_set_psk_use_session_callback(ctx, give_psk);
	SSL_CTX_set_psk_find_session_callback(ctx, find_psk);
	if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1 &&
	    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") == 1 &&
	    SSL_CTX_set1_groups_list(ctx, "X25519") == 1 &&
	    SSL_CTX_set_num_tickets(ctx, 0) == 1)
		context = ctx;
	else
		SSL_CTX_free(ctx);
}

static void
init(void)
{
	tls_call = dsm__secret_call;
	tls_run = dsm__secret_run;
	tls_call(make_context, NULL);
}

/* --- keys --- */

struct derive {
	const void *key;
	size_t key_len;
	const char *what, *name;
	uint8_t *psk;
	int err;
};

/* HKDF (RFC 5869) of the secret; what it is for, and whose, is its context. */
static void
derive(void *arg)
{
	struct derive *d = arg;
	uint8_t prk[32];
	char info[160];
	int n = snprintf(info, sizeof(info), "%s %s%c", d->what, d->name, 1);

	d->err = n > 0 && (size_t)n < sizeof(info) ? DSM_OK : DSM_EINVAL;
	if (d->err == DSM_OK)
		d->err = tls_hmac(PSK_SALT, strlen(PSK_SALT), d->key,
		                  d->key_len, prk);
	if (d->err == DSM_OK)
		d->err = tls_hmac(prk, sizeof(prk), info, (size_t)n, d->psk);
}

static int
derive_psk(const void *key, size_t key_len, const char *what, const char *name,
           uint8_t *psk_p)
{
	struct derive d = {key, key_len, what, name, psk_p, DSM_OK};

	pthread_once(&once, init);
	tls_call(derive, &d);
	return d.err;
}

int
dsm__tls_psk_of_token(const struct dsm_token *t, uint8_t psk_p[DSM_PSK_LEN])
{
	return derive_psk(t->secret, t->secret_len, "token", t->who.name,
	                  psk_p);
}

int
dsm__tls_psk_of_session(uint64_t session, const uint8_t *key, size_t key_len,
                        uint8_t psk_p[DSM_PSK_LEN])
{
	char name[DSM_TLS_NAME_MAX];

	dsm__tls_session_name(session, name);
	return derive_psk(key, key_len, "data link", name, psk_p);
}

void
dsm__tls_session_name(uint64_t session, char name_p[DSM_TLS_NAME_MAX])
{
	snprintf(name_p, DSM_TLS_NAME_MAX, "session:%llu",
	         (unsigned long long)session);
}

int
dsm__tls_is_session(const char *name, uint64_t *session_p)
{
	char again[DSM_TLS_NAME_MAX];
	unsigned long long n;

	if (sscanf(name, "session:%20llu", &n) != 1)
		return 0;
	dsm__tls_session_name(n, again);
	if (strcmp(name, again) != 0)
		return 0;
	*session_p = n;
	return 1;
}

/* --- a step --- */

static void
set_why(struct dsm_conn *c, const char *why)
{
	if (c->why[0] == '\0')
		snprintf(c->why, sizeof(c->why), "%s", why);
}

/* What OpenSSL has to say. */
static int
take_output(struct dsm_tls *t)
{
	char *p;
	long n = BIO_get_mem_data(t->shake->from_ssl, &p);
	int err = n > 0 ? tls_put(t, p, (size_t)n) : DSM_OK;

	(void)BIO_reset(t->shake->from_ssl);
	return err;
}

static void
shake_free(struct dsm_tls *t)
{
	struct tls_shake *s = t->shake;

	if (s != NULL)
		SSL_free(s->ssl); /* and its BIOs */
	OPENSSL_clear_free(s, sizeof(*s));
	t->shake = NULL;
	t->step = NULL;
	t->step_free = NULL;
}

static int
finish(struct dsm_conn *c)
{
	struct dsm_tls *t = c->tls;
	struct tls_shake *s = t->shake;
	int err;

	/* What it has read beyond would be lost. */
	if (s->have != 3 || !SSL_session_reused(s->ssl) ||
	    BIO_pending(s->to_ssl) > 0) {
		set_why(c, "TLS: not the handshake that was agreed on");
		return DSM_EPROTO;
	}
	err = tls_way_init(&t->in, s->secret[!s->is_server], 0);
	if (err == DSM_OK)
		err = tls_way_init(&t->out, s->secret[s->is_server], 1);
	return err;
}

/* Why SSL_do_handshake failed. */
static int
failed(struct dsm_conn *c)
{
	struct tls_shake *s = c->tls->shake;

	ERR_clear_error();
	if (s->alert && !s->is_server) {
		set_why(c, "the peer knows no such name, or another secret "
		           "goes with it");
		return DSM_EAUTH;
	}
	if (s->is_server) {
		set_why(c, s->alert ? "the TLS handshake was broken off"
		                    : "an unknown name, a wrong secret, or "
		                      "not the TLS of a taskrt peer");
		return DSM_EAUTH;
	}
	set_why(c, "the peer does not know the secret that goes with the name");
	return DSM_EAUTH;
}

/* Go on as far as what is there allows. */
static int
advance(struct dsm_conn *c)
{
	struct dsm_tls *t = c->tls;
	struct tls_shake *s = t->shake;
	int done = SSL_do_handshake(s->ssl);
	int err = take_output(t);

	if (err != DSM_OK)
		return err;
	if (done == 1) {
		err = finish(c);
		if (err == DSM_OK)
			shake_free(t);
		return err;
	}
	if (SSL_get_error(s->ssl, done) == SSL_ERROR_WANT_READ)
		return DSM_EAGAIN;
	return failed(c);
}

/* REFUSE as a peer without TLS understands it. */
static void
refuse_plainly(struct dsm_conn *c)
{
	const struct dsm_msg_refuse m = {
	    -DSM_EAUTH, dsm__str(c->tls->shake->finder.refusal)};
	struct dsm_wbuf w = {0};

	if (dsm__encode_refuse(&w, &m) == DSM_OK)
		dsm__conn_last_words(c, DSM_MSG_REFUSE, w.ptr, w.len);
	dsm__wbuf_fini(&w);
}

/* The next of the peer's records, to OpenSSL. DSM_EAGAIN: there is none. */
static int
feed(struct dsm_conn *c)
{
	struct dsm_tls *t = c->tls;
	struct tls_shake *s = t->shake;
	ssize_t len = tls_record(t);

	if (len == 0) {
		int err = tls_fill(c);

		if (err == DSM_ECONN)
			set_why(c, s->is_server
			               ? "closed in the TLS handshake"
			               : "it closed the connection in the TLS "
			                 "handshake");
		return err;
	}
	if (len < 0 || t->rx.p[t->rx.off] == TLS_DATA) {
		/* Of ours only what is encrypted is of this type, later. */
		if (len > 0 && s->n_read > 0)
			goto take;
		if (s->is_server)
			refuse_plainly(c);
		set_why(c, s->is_server ? "it does not use TLS"
		                        : "the peer does not answer with TLS: "
		                          "it has no token file, or is no "
		                          "taskrt peer");
		return DSM_EPROTO;
	}
take:
	s->n_read += (size_t)len;
	if (s->n_read > SHAKE_MAX) {
		set_why(c, "too much for a TLS handshake");
		return DSM_EPROTO;
	}
	if (BIO_write(s->to_ssl, t->rx.p + t->rx.off, (int)len) != (int)len)
		return DSM_ENOMEM;
	t->rx.off += (size_t)len;
	if (t->rx.off == t->rx.len)
		t->rx.off = t->rx.len = 0;
	return DSM_OK;
}

struct stepping {
	struct dsm_conn *c;
	int err;
};

static void
go_on(void *arg)
{
	struct stepping *x = arg;
	struct dsm_conn *c = x->c;

	/* The client speaks first. */
	if (!c->tls->shake->is_server && c->tls->shake->n_read == 0 &&
	    SSL_in_before(c->tls->shake->ssl)) {
		x->err = advance(c);
		if (x->err != DSM_EAGAIN)
			return;
	}
	do {
		x->err = feed(c);
		if (x->err == DSM_OK)
			x->err = advance(c);
		/* What has come may begin no record at all. */
	} while (x->err == DSM_EAGAIN && tls_record(c->tls) != 0);
}

static int
step(struct dsm_conn *c)
{
	struct stepping x = {c, DSM_OK};
	int err;

	tls_call(go_on, &x);
	/* The alert of a failure waits for the end of the conn. */
	if (x.err != DSM_OK && x.err != DSM_EAGAIN)
		return x.err;
	err = tls_flush(c);
	return err == DSM_OK || err == DSM_EAGAIN ? x.err : err;
}

/* --- begin --- */

struct beginning {
	struct dsm_conn *c;
	const struct dsm_tls_finder *finder; /* NULL: a client */
	const char *name;
	const uint8_t *psk;
	int err;
};

static int
make_ssl(struct dsm_tls *t, const struct beginning *b)
{
	struct tls_shake *s = OPENSSL_zalloc(sizeof(*s));

	t->shake = s;
	if (s == NULL)
		return DSM_ENOMEM;
	s->ssl = SSL_new(context);
	s->to_ssl = BIO_new(BIO_s_mem());
	s->from_ssl = BIO_new(BIO_s_mem());
	if (s->ssl == NULL || s->to_ssl == NULL || s->from_ssl == NULL) {
		BIO_free(s->to_ssl);
		BIO_free(s->from_ssl);
		return DSM_ENOMEM;
	}
	/* "No more yet", not the end. */
	BIO_set_mem_eof_return(s->to_ssl, -1);
	SSL_set_bio(s->ssl, s->to_ssl, s->from_ssl);
	SSL_set_app_data(s->ssl, t);
	s->is_server = b->finder != NULL;
	if (s->is_server) {
		s->finder = *b->finder;
		SSL_set_accept_state(s->ssl);
		return DSM_OK;
	}
	memcpy(s->psk, b->psk, DSM_PSK_LEN);
	snprintf(t->name, sizeof(t->name), "%s", b->name);
	SSL_set_connect_state(s->ssl);
	/* It takes no certificate for the key. */
	SSL_set_verify(s->ssl, SSL_VERIFY_PEER, NULL);
	return DSM_OK;
}

static void
begin(void *arg)
{
	struct beginning *b = arg;

	b->err = context != NULL ? tls_create(b->c) : DSM_ENOMEM;
	if (b->err != DSM_OK)
		return;
	b->err = make_ssl(b->c->tls, b);
	if (b->err != DSM_OK) {
		shake_free(b->c->tls);
		b->c->tls->err = b->err;
		return;
	}
	b->c->tls->step = step;
	b->c->tls->step_free = shake_free;
}

int
dsm__conn_tls_connect(struct dsm_conn *c, const char *name,
                      const uint8_t psk[DSM_PSK_LEN])
{
	struct beginning b = {c, NULL, name, psk, DSM_OK};

	if (strlen(name) >= DSM_TLS_NAME_MAX)
		return DSM_EINVAL;
	pthread_once(&once, init);
	tls_call(begin, &b);
	return b.err;
}

int
dsm__conn_tls_accept(struct dsm_conn *c, const struct dsm_tls_finder *f)
{
	struct beginning b = {c, f, NULL, NULL, DSM_OK};

	pthread_once(&once, init);
	tls_call(begin, &b);
	return b.err;
}
