/*
 * TLS 1.3 records (RFC 8446, 5 and 7.3): what follows the handshake. Part of the
 * static slot.
 *
 *   {u8 type 23, u16 0x0303, u16 length} {plaintext, u8 content type} sealed, tag
 *
 * Reading: rx has whole and begun records as they came. A whole one is opened
 * straight into the reader's memory when that has room for it, else into `plain`,
 * from which it is copied. Nothing of a record whose tag is wrong is handed out:
 * the conn fails, and what the reader's memory got is not counted.
 *
 * Writing: records are sealed into tx and sent; a caller is told that its bytes are
 * taken when they are sealed. So the backlog of a conn has two parts: bytes in its
 * out-queue, and sealed ones in tx, which flush writes first.
 *
 * A record is cut before a large piece (the pages of a message), so that a reader
 * that takes these in multiples of a record's size needs no copy.
 */
#include "tls_priv.h"

#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "../base/secret.h"

#define RX_SMALL ((size_t)20 << 10) /* a record, and the start of the next */
#define RX_LARGE ((size_t)160 << 10)
#define TX_MAX ((size_t)128 << 10) /* plaintext sealed at a time */
#define CUT_BEFORE TLS_PLAIN_MAX   /* a piece as large begins a record */

#define KEY_UPDATE 24 /* handshake message */
#define CLOSE_NOTIFY 0

/* AES-GCM is safe for 2^24.5 records of full size with one key (5.5). */
uint64_t dsm__tls_records_per_key = UINT64_C(1) << 24;

static void
call_plainly(void (*fn)(void *arg), void *arg)
{
	fn(arg);
}

void (*tls_call)(void (*fn)(void *arg), void *arg) = call_plainly;
void (*tls_run)(void (*fn)(void *arg), void *arg) = call_plainly;

/* --- keys --- */

int
tls_hmac(const void *key, size_t key_len, const void *p, size_t len,
         uint8_t out[32])
{
	unsigned n = 32;

	return HMAC(EVP_sha256(), key, (int)key_len, p, len, out, &n) != NULL
	           ? DSM_OK
	           : DSM_ENOMEM;
}

int
tls_expand(const uint8_t *secret, const char *label, uint8_t *out, size_t len)
{
	static const char prefix[] = "tls13 ";
	uint8_t info[64], block[32];
	size_t n_label = strlen(prefix) + strlen(label), n = 0;
	int err;

	info[n++] = 0;
	info[n++] = (uint8_t)len;
	info[n++] = (uint8_t)n_label;
	memcpy(info + n, prefix, strlen(prefix));
	memcpy(info + n + strlen(prefix), label, strlen(label));
	n += n_label;
	info[n++] = 0; /* no context */
	info[n++] = 1; /* of HKDF-Expand: the first block is enough */
	err = tls_hmac(secret, TLS_SECRET, info, n, block);
	if (err == DSM_OK)
		memcpy(out, block, len);
	dsm__wipe(block, sizeof(block));
	return err;
}

int
tls_way_init(struct tls_way *w, const uint8_t secret[TLS_SECRET], int encrypt)
{
	uint8_t key[16];
	int err;

	if (w->cipher == NULL)
		w->cipher = EVP_CIPHER_CTX_new();
	if (w->cipher == NULL)
		return DSM_ENOMEM;
	memmove(w->secret, secret, TLS_SECRET);
	w->seq = 0;
	err = tls_expand(w->secret, "key", key, sizeof(key));
	if (err == DSM_OK)
		err = tls_expand(w->secret, "iv", w->iv, sizeof(w->iv));
	if (err == DSM_OK && EVP_CipherInit_ex(w->cipher, EVP_aes_128_gcm(),
	                                       NULL, key, NULL, encrypt) != 1)
		err = DSM_ENOMEM;
	dsm__wipe(key, sizeof(key));
	return err;
}

struct update {
	struct tls_way *w;
	int encrypt, err;
};

static void
update_key(void *arg)
{
	struct update *u = arg;
	uint8_t next[TLS_SECRET];

	u->err = tls_expand(u->w->secret, "traffic upd", next, sizeof(next));
	if (u->err == DSM_OK)
		u->err = tls_way_init(u->w, next, u->encrypt);
	dsm__wipe(next, sizeof(next));
}

static int
next_key(struct tls_way *w, int encrypt)
{
	struct update u = {w, encrypt, DSM_OK};

	tls_call(update_key, &u);
	return u.err;
}

/* The nonce of the next record. */
static int
begin_record(struct tls_way *w, const uint8_t header[TLS_HEADER])
{
	uint8_t nonce[TLS_IV];
	int n;

	memcpy(nonce, w->iv, sizeof(nonce));
	for (int i = 0; i < 8; i++)
		nonce[TLS_IV - 1 - i] ^= (uint8_t)(w->seq >> (8 * i));
	w->seq++;
	return EVP_CipherInit_ex(w->cipher, NULL, NULL, NULL, nonce, -1) == 1 &&
	       EVP_CipherUpdate(w->cipher, NULL, &n, header, TLS_HEADER) == 1;
}

/* --- buffers --- */

static size_t
bytes_left(const struct tls_bytes *b)
{
	return b->len - b->off;
}

/* Room for `more` behind what is there, in one of `cap` bytes if it must grow. */
static int
bytes_reserve(struct tls_bytes *b, size_t more, size_t cap)
{
	size_t left = bytes_left(b);
	uint8_t *p;

	if (b->cap - b->len >= more)
		return DSM_OK;
	if (b->cap >= left + more) {
		memmove(b->p, b->p + b->off, left);
	} else {
		if (cap < left + more)
			cap = left + more;
		p = malloc(cap);
		if (p == NULL)
			return DSM_ENOMEM;
		if (left > 0)
			memcpy(p, b->p + b->off, left);
		free(b->p);
		b->p = p;
		b->cap = cap;
	}
	b->off = 0;
	b->len = left;
	return DSM_OK;
}

static void
bytes_took(struct tls_bytes *b, size_t n)
{
	b->off += n;
	if (b->off == b->len)
		b->off = b->len = 0;
}

int
tls_put(struct dsm_tls *t, const void *p, size_t len)
{
	if (bytes_reserve(&t->tx, len, len) != DSM_OK)
		return DSM_ENOMEM;
	memcpy(t->tx.p + t->tx.len, p, len);
	t->tx.len += len;
	return DSM_OK;
}

int
tls_flush(struct dsm_conn *c)
{
	struct tls_bytes *tx = &c->tls->tx;

	while (bytes_left(tx) > 0) {
		struct iovec v = {tx->p + tx->off, bytes_left(tx)};
		ssize_t put = dsm__sock_writev(c, &v, 1);

		if (put < 0)
			return (int)put;
		if ((size_t)put == v.iov_len && tx->len >= TLS_TAG)
			memset(tx->p + tx->len - TLS_TAG, 0, TLS_TAG);
		bytes_took(tx, (size_t)put);
	}
	return DSM_OK;
}

int
tls_fill(struct dsm_conn *c)
{
	struct tls_bytes *rx = &c->tls->rx;
	size_t want = TLS_HEADER + TLS_BODY_MAX;
	struct iovec v;
	ssize_t got;

	/* The whole of the record that has begun must fit. */
	if (bytes_reserve(rx, want - bytes_left(rx), RX_SMALL) != DSM_OK)
		return DSM_ENOMEM;
	v.iov_base = rx->p + rx->len;
	v.iov_len = rx->cap - rx->len;
	got = dsm__sock_readv(c, &v, 1);
	if (got < 0)
		return (int)got;
	rx->len += (size_t)got;
	/* There is more than we take at a time. */
	if (rx->len == rx->cap && rx->cap < RX_LARGE && c->tls->step == NULL)
		bytes_reserve(rx, RX_LARGE - rx->len, RX_LARGE);
	return DSM_OK;
}

ssize_t
tls_record(const struct dsm_tls *t)
{
	const uint8_t *h = t->rx.p + t->rx.off;
	size_t have = bytes_left(&t->rx), len;

	if (have < TLS_HEADER)
		return 0;
	len = (size_t)h[3] << 8 | h[4];
	if (h[0] < TLS_CCS || h[0] > TLS_DATA || h[1] != 3 || len == 0 ||
	    len > TLS_BODY_MAX)
		return DSM_EPROTO;
	return have >= TLS_HEADER + len ? (ssize_t)(TLS_HEADER + len) : 0;
}

/* --- reading --- */

static int
fail(struct dsm_conn *c, int err, const char *why)
{
	if (c->why[0] == '\0' && why != NULL)
		snprintf(c->why, sizeof(c->why), "TLS: %s", why);
	return c->tls->err = err;
}

/* A record that is no data, opened: `len` bytes of that content type. */
static int
on_control(struct dsm_conn *c, unsigned type, const uint8_t *p, size_t len)
{
	struct dsm_tls *t = c->tls;

	if (type == TLS_ALERT && len == 2) {
		/* The end, whether it says so politely or not. */
		if (p[1] == CLOSE_NOTIFY)
			return fail(c, DSM_ECONN, NULL);
		return fail(c, DSM_ECONN, "the peer sent an alert");
	}
	if (type == TLS_HANDSHAKE && len == 5 && p[0] == KEY_UPDATE &&
	    p[1] == 0 && p[2] == 0 && p[3] == 1 && p[4] <= 1) {
		int err = next_key(&t->in, 0);

		if (err != DSM_OK)
			return fail(c, err, NULL);
		/* It may want a new one of ours: with the next record. */
		t->update_due |= p[4];
		return DSM_OK;
	}
	return fail(c, DSM_EPROTO, "an unexpected record");
}

/*
 * Open the record of len bytes at the front of rx into `to`, which has room for
 * what it may hold. Bytes of data, 0 (it was none), or an error.
 */
static ssize_t
open_record(struct dsm_conn *c, size_t len, uint8_t *to)
{
	struct dsm_tls *t = c->tls;
	uint8_t *rec = t->rx.p + t->rx.off;
	size_t body = len - TLS_HEADER;
	uint8_t type;
	int n = 0, rest;

	if (rec[0] != TLS_DATA || body < TLS_TAG + 1)
		return fail(c, DSM_EPROTO, "a record that is not encrypted");
	body -= TLS_TAG + 1; /* and the content type */
	if (body > TLS_PLAIN_MAX)
		return fail(c, DSM_EPROTO, "a record that is too long");
	if (!begin_record(&t->in, rec) ||
	    (body > 0 && EVP_CipherUpdate(t->in.cipher, to, &n,
	                                  rec + TLS_HEADER, (int)body) != 1) ||
	    EVP_CipherUpdate(t->in.cipher, &type, &rest,
	                     rec + TLS_HEADER + body, 1) != 1 ||
	    EVP_CIPHER_CTX_ctrl(t->in.cipher, EVP_CTRL_AEAD_SET_TAG, TLS_TAG,
	                        rec + len - TLS_TAG) != 1 ||
	    EVP_CipherFinal_ex(t->in.cipher, &type, &rest) != 1)
		return fail(c, DSM_EPROTO,
		            "a record that was changed on its way");
	/* It is no secret, but what searches memory for those (and OpenSSL
	 * keeps a copy among them) cannot tell. The same for what was sent. */
	memset(rec + len - TLS_TAG, 0, TLS_TAG);
	bytes_took(&t->rx, len);
	/* Zeros behind the content type are padding. */
	while (type == 0 && body > 0)
		type = to[--body];
	if (type == TLS_DATA)
		return (ssize_t)body;
	int err = on_control(c, type, to, body);
	return err != DSM_OK ? err : 0;
}

/* The next record with data, as much of it as fits: 0 when it was none. */
static ssize_t
take_record(struct dsm_conn *c, size_t len, uint8_t *to, size_t room)
{
	struct tls_bytes *plain = &c->tls->plain;
	ssize_t got;

	if (room >= len - TLS_HEADER - TLS_TAG)
		return open_record(c, len, to);
	if (plain->p == NULL) {
		plain->p = OPENSSL_malloc(TLS_BODY_MAX);
		if (plain->p == NULL)
			return DSM_ENOMEM;
	}
	got = open_record(c, len, plain->p);
	if (got <= 0)
		return got;
	plain->off = 0;
	plain->len = (size_t)got;
	return 0;
}

/* What `plain` has. */
static size_t
take_plain(struct tls_bytes *plain, uint8_t *to, size_t room)
{
	size_t n = bytes_left(plain);

	if (n > room)
		n = room;
	memcpy(to, plain->p + plain->off, n);
	/* Whoever wipes what it was given need not know of this copy. */
	dsm__wipe(plain->p + plain->off, n);
	plain->off += n;
	return n;
}

static int
shake(struct dsm_conn *c)
{
	struct dsm_tls *t = c->tls;
	int err;

	if (t->err != DSM_OK)
		return t->err;
	if (t->step == NULL)
		return DSM_OK;
	err = t->step(c);
	if (err != DSM_OK && err != DSM_EAGAIN)
		t->err = err;
	return err;
}

static ssize_t
read_into(struct dsm_conn *c, const struct iovec *iov)
{
	struct dsm_tls *t = c->tls;
	uint8_t *to = iov->iov_base;
	size_t got = 0;
	int shaking = t->step != NULL;
	int err = shake(c);

	if (err != DSM_OK)
		return err;
	/* What was to be sent has waited for this. */
	if (shaking)
		dsm__conn_flush(c);
	while (got < iov->iov_len) {
		size_t room = iov->iov_len - got;
		ssize_t r;

		if (bytes_left(&t->plain) > 0) {
			got += take_plain(&t->plain, to + got, room);
			continue;
		}
		r = tls_record(t);
		if (r > 0)
			r = take_record(c, (size_t)r, to + got, room);
		else if (r == 0 && got > 0)
			break;
		else if (r == 0)
			r = tls_fill(c);
		else
			r = fail(c, DSM_EPROTO, "not a record");
		if (r < 0) {
			/* After what came before it. */
			if (r != DSM_EAGAIN)
				t->err = (int)r;
			return got > 0 ? (ssize_t)got : r;
		}
		got += (size_t)r;
	}
	return (ssize_t)got;
}

/* --- writing --- */

/* Where in the caller's pieces we are. */
struct pieces {
	const struct iovec *iov;
	int n;
	size_t off;
};

/* The record at the end of tx, whose header and body of `body` bytes are known. */
static uint8_t *
open_tx(struct dsm_tls *t, size_t body)
{
	uint8_t *rec = t->tx.p + t->tx.len;

	body += 1 + TLS_TAG;
	rec[0] = TLS_DATA;
	rec[1] = rec[2] = 3;
	rec[3] = (uint8_t)(body >> 8);
	rec[4] = (uint8_t)body;
	return rec;
}

static int
close_record(struct dsm_tls *t, uint8_t *rec, size_t body, uint8_t type)
{
	EVP_CIPHER_CTX *cipher = t->out.cipher;
	uint8_t *p = rec + TLS_HEADER + body;
	int n;

	if (EVP_CipherUpdate(cipher, p, &n, &type, 1) != 1 ||
	    EVP_CipherFinal_ex(cipher, p + 1, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(cipher, EVP_CTRL_AEAD_GET_TAG, TLS_TAG,
	                        p + 1) != 1)
		return DSM_ENOMEM;
	t->tx.len += TLS_HEADER + body + 1 + TLS_TAG;
	return DSM_OK;
}

/* How long the next record is. */
static size_t
next_length(const struct pieces *p, size_t room)
{
	size_t len = 0, off = p->off;

	if (room > TLS_PLAIN_MAX)
		room = TLS_PLAIN_MAX;
	for (int i = 0; i < p->n && len < room; i++, off = 0) {
		size_t piece = p->iov[i].iov_len - off;

		if (len > 0 && piece >= CUT_BEFORE)
			break;
		len += piece;
	}
	return len < room ? len : room;
}

/* Seal `body` bytes of the pieces; there is room in tx. */
static int
seal_pieces(struct dsm_tls *t, struct pieces *p, size_t body)
{
	uint8_t *rec = open_tx(t, body);
	size_t done = 0;
	int n;

	if (!begin_record(&t->out, rec))
		return DSM_ENOMEM;
	while (done < body) {
		const uint8_t *from = p->iov->iov_base;
		size_t len = p->iov->iov_len - p->off;

		if (len > body - done)
			len = body - done;
		if (len > 0 &&
		    EVP_CipherUpdate(t->out.cipher, rec + TLS_HEADER + done, &n,
		                     from + p->off, (int)len) != 1)
			return DSM_ENOMEM;
		done += len;
		p->off += len;
		if (p->off == p->iov->iov_len) {
			p->iov++;
			p->n--;
			p->off = 0;
		}
	}
	return close_record(t, rec, body, TLS_DATA);
}

/* A record that is no data. */
static int
seal_control(struct dsm_tls *t, uint8_t type, const uint8_t *p, size_t len)
{
	uint8_t *rec;
	int n;

	if (bytes_reserve(&t->tx, TLS_HEADER + len + 1 + TLS_TAG, 64) != DSM_OK)
		return DSM_ENOMEM;
	rec = open_tx(t, len);
	if (!begin_record(&t->out, rec) ||
	    EVP_CipherUpdate(t->out.cipher, rec + TLS_HEADER, &n, p,
	                     (int)len) != 1)
		return DSM_ENOMEM;
	return close_record(t, rec, len, type);
}

/* Before a record: a new key when it is time. */
static int
keep_fresh(struct dsm_tls *t)
{
	static const uint8_t update[] = {KEY_UPDATE, 0, 0, 1, 0};
	int err;

	if (t->out.seq < dsm__tls_records_per_key && !t->update_due)
		return DSM_OK;
	t->update_due = 0;
	err = seal_control(t, TLS_HANDSHAKE, update, sizeof(update));
	return err == DSM_OK ? next_key(&t->out, 1) : err;
}

static ssize_t
write_from(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct dsm_tls *t = c->tls;
	struct pieces p = {iov, n, 0};
	size_t total = 0, sealed = 0, room;
	int err = shake(c);

	if (err == DSM_OK)
		err = tls_flush(c);
	if (err != DSM_OK)
		return err;
	for (int i = 0; i < n && total < TX_MAX; i++)
		total += iov[i].iov_len;
	if (total > TX_MAX)
		total = TX_MAX;
	/* Short records: one before each piece that begins one, a new key. */
	room = total + (total / TLS_PLAIN_MAX + 2 * (size_t)n + 4) *
	                   (TLS_HEADER + 1 + TLS_TAG + 8);
	if (bytes_reserve(&t->tx, room, room) != DSM_OK)
		return DSM_ENOMEM;
	while (sealed < total) {
		size_t body = next_length(&p, total - sealed);

		err = keep_fresh(t);
		if (err == DSM_OK)
			err = seal_pieces(t, &p, body);
		if (err != DSM_OK)
			return fail(c, err, "encryption failed");
		sealed += body;
	}
	err = tls_flush(c);
	if (err != DSM_OK && err != DSM_EAGAIN)
		return err;
	return (ssize_t)sealed;
}

/*
 * OpenSSL's code for AES-GCM leaves parts of the keys on its stack (powers of the
 * authentication key, among others): so it, too, runs on the stack for secrets.
 */
struct moving {
	struct dsm_conn *c;
	const struct iovec *iov;
	int n;
	ssize_t moved;
};

static void
do_read(void *arg)
{
	struct moving *m = arg;

	m->moved = read_into(m->c, m->iov);
}

static void
do_write(void *arg)
{
	struct moving *m = arg;

	m->moved = write_from(m->c, m->iov, m->n);
}

/* What comes may be one piece in several calls: the first one is enough. */
static ssize_t
tls_readv(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct moving m = {c, iov, n, 0};

	tls_run(do_read, &m);
	return m.moved;
}

static ssize_t
tls_writev(struct dsm_conn *c, const struct iovec *iov, int n)
{
	struct moving m = {c, iov, n, 0};

	tls_run(do_write, &m);
	return m.moved;
}

/* --- life --- */

static size_t
tls_pending(const struct dsm_conn *c)
{
	return bytes_left(&c->tls->tx);
}

static int
tls_needs_input(const struct dsm_conn *c)
{
	return c->tls->step != NULL && bytes_left(&c->tls->tx) == 0;
}

static void
way_fini(struct tls_way *w)
{
	EVP_CIPHER_CTX_free(w->cipher); /* wipes its key */
}

static void
tls_free(struct dsm_conn *c)
{
	struct dsm_tls *t = c->tls;

	if (t->step_free != NULL)
		t->step_free(t);
	way_fini(&t->in);
	way_fini(&t->out);
	free(t->rx.p);
	free(t->tx.p);
	OPENSSL_clear_free(t->plain.p, TLS_BODY_MAX);
	OPENSSL_clear_free(t, sizeof(*t));
	c->tls = NULL;
}

static void
say_farewell(void *arg)
{
	static const uint8_t farewell[] = {1, CLOSE_NOTIFY};

	seal_control(arg, TLS_ALERT, farewell, sizeof(farewell));
}

/* What is sealed, an alert of a handshake that failed, and a farewell: if the
 * socket takes it. */
static void
tls_close(struct dsm_conn *c)
{
	struct dsm_tls *t = c->tls;

	if (t->step == NULL && t->err == DSM_OK)
		tls_run(say_farewell, t);
	tls_flush(c);
	dsm__sock_close(c);
}

const struct dsm_conn_ops dsm__tls_ops = {
    .name = "tls",
    .readv = tls_readv,
    .writev = tls_writev,
    .flush = tls_flush,
    .pending = tls_pending,
    .needs_input = tls_needs_input,
    .close = tls_close,
    .forget = dsm__sock_close,
};

int
tls_create(struct dsm_conn *c)
{
	if (c->ops != &dsm__tcp_ops && c->ops != &dsm__shm_ops)
		return DSM_EINVAL;
	if (c->in_len > 0 || c->out_len > 0 || c->next_ops != NULL)
		return DSM_EINVAL;
	c->tls = OPENSSL_zalloc(sizeof(*c->tls));
	if (c->tls == NULL)
		return DSM_ENOMEM;
	c->tls_free = tls_free;
	c->ops = &dsm__tls_ops;
	return DSM_OK;
}

int
dsm__conn_is_tls(const struct dsm_conn *c)
{
	return c->tls != NULL;
}

int
dsm__conn_is_shaking(const struct dsm_conn *c)
{
	return c->tls != NULL && c->tls->step != NULL;
}

const char *
dsm__conn_tls_name(const struct dsm_conn *c)
{
	return c->tls != NULL ? c->tls->name : "";
}

const char *
dsm__conn_identity(const struct dsm_conn *c)
{
	return c->tls != NULL && c->tls->step == NULL ? c->tls->name : "";
}

/* --- to another process --- */

int
dsm__conn_tls_export(struct dsm_conn *c, struct dsm_tls_state *st)
{
	struct dsm_tls *t = c->tls;

	if (t == NULL || t->step != NULL || t->err != DSM_OK ||
	    dsm__conn_backlog(c) > 0 || bytes_left(&t->rx) > 0 ||
	    bytes_left(&t->plain) > 0 || c->in_off != c->in_len)
		return DSM_EAGAIN;
	memcpy(st->secret[0], t->in.secret, TLS_SECRET);
	memcpy(st->secret[1], t->out.secret, TLS_SECRET);
	st->seq[0] = t->in.seq;
	st->seq[1] = t->out.seq;
	st->on = 1;
	t->err = DSM_ECONN; /* and so its end says no farewell */
	return DSM_OK;
}

int
dsm__conn_tls_import(struct dsm_conn *c, struct dsm_tls_state *st)
{
	int err = tls_create(c);

	if (err == DSM_OK)
		err = tls_way_init(&c->tls->in, st->secret[0], 0);
	if (err == DSM_OK)
		err = tls_way_init(&c->tls->out, st->secret[1], 1);
	if (err == DSM_OK) {
		c->tls->in.seq = st->seq[0];
		c->tls->out.seq = st->seq[1];
	}
	dsm__wipe(st, sizeof(*st));
	return err;
}
