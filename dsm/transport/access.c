#include "access.h"

#include <string.h>
#include <unistd.h>

#include "../base/secret.h"

static int
take_token(struct dsm_access *a, const struct dsm_tokens *t, unsigned role,
           struct dsm_error *e)
{
	const struct dsm_token *mine = dsm__tokens_for(t, role);

	if (mine == NULL)
		mine = &t->v[0];
	memcpy(a->name, mine->who.name, sizeof(mine->who.name));
	a->psk = dsm__secret_alloc(DSM_PSK_LEN);
	if (a->psk != NULL && dsm__tls_psk_of_token(mine, a->psk) == DSM_OK)
		return DSM_OK;
	dsm__access_fini(a);
	return dsm__fail(e, DSM_ENOMEM, "no memory for the token");
}

int
dsm__access_init(struct dsm_access *a, const char *file, int insecure,
                 unsigned role, struct dsm_error *e)
{
	struct dsm_tokens *t;
	int err;

	*a = (struct dsm_access){.insecure = insecure};
	if (file == NULL || *file == '\0')
		return DSM_OK;
	a->file = file;
	err = dsm__tokens_read(file, &t, e);
	if (err != DSM_OK)
		return err == DSM_ENOMEM ? err : (e->code = DSM_EAUTH);
	err = take_token(a, t, role, e);
	dsm__tokens_free(t);
	return err;
}

void
dsm__access_fini(struct dsm_access *a)
{
	dsm__secret_free(a->psk);
	a->psk = NULL;
}

int
dsm__tcp_peer_is_loopback(int fd)
{
	char peer[DSM_ADDR_MAX];

	if (dsm__tcp_peer(fd, peer) != DSM_OK)
		return DSM_ECONN;
	return strncmp(peer, "127.", 4) == 0 || strncmp(peer, "[::1]", 5) == 0;
}

int
dsm__access_conn(const struct dsm_access *a, int fd, const char *addr,
                 uint32_t max_body, struct dsm_conn **conn_p,
                 struct dsm_error *e)
{
	struct dsm_conn *conn;
	int err, loopback = 1;

	if (a->psk == NULL && !a->insecure)
		loopback = dsm__tcp_peer_is_loopback(fd);
	if (loopback < 0) {
		close(fd);
		return dsm__fail(e, DSM_ECONN,
		                 "%.100s closed the connection at once", addr);
	}
	if (!loopback) {
		close(fd);
		return dsm__fail(
		    e, DSM_EAUTH,
		    "the connection to %.100s would not be encrypted: give a "
		    "token file (--token-file, TASKRT_TOKEN_FILE), or say that "
		    "the network is trusted (--insecure, TASKRT_INSECURE=1)",
		    addr);
	}
	err = dsm__conn_create(&dsm__tcp_ops, fd, max_body, &conn);
	if (err == DSM_OK && a->psk != NULL) {
		err = dsm__conn_tls_connect(conn, a->name, a->psk);
		if (err != DSM_OK)
			dsm__conn_close(conn);
	}
	if (err != DSM_OK)
		return dsm__fail(e, err,
		                 "cannot use the connection to %.100s: %s",
		                 addr, dsm__strerror(err));
	*conn_p = conn;
	return DSM_OK;
}

int
dsm__access_denied(const struct dsm_access *a, const struct dsm_conn *conn,
                   const char *addr, struct dsm_error *e)
{
	if (a->psk == NULL || !dsm__conn_is_shaking(conn))
		return 0;
	switch (dsm__conn_error(conn)) {
	case DSM_EAUTH:
		dsm__fail(e, DSM_EAUTH,
		          "the coordinator at %.100s does not accept token %s "
		          "of %.100s: it knows no such name, or another secret "
		          "goes with it; compare with its token file (after a "
		          "change there: SIGHUP)",
		          addr, a->name, a->file);
		return 1;
	case DSM_EPROTO:
		dsm__fail(e, DSM_EAUTH,
		          "%.100s does not answer with TLS, and this end has "
		          "token file %.100s: start the coordinator with "
		          "--token-file, or leave it out here",
		          addr, a->file);
		return 1;
	default:
		return 0;
	}
}

int
dsm__access_session(struct dsm_conn *c, uint64_t session, const uint8_t *key,
                    size_t key_len)
{
	char name[DSM_TLS_NAME_MAX];
	uint8_t *psk = dsm__secret_alloc(DSM_PSK_LEN);
	int err = DSM_ENOMEM;

	if (psk == NULL)
		return DSM_ENOMEM;
	dsm__tls_session_name(session, name);
	err = dsm__tls_psk_of_session(session, key, key_len, psk);
	if (err == DSM_OK)
		err = dsm__conn_tls_connect(c, name, psk);
	dsm__secret_free(psk);
	return err;
}
