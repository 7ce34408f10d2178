#include "guard.h"

#include <stdlib.h>
#include <string.h>

#include "../dsm/base/secret.h"

struct guard {
	struct dsm_tls_finder finder;
	struct coord *core;
	struct dsm_tokens *tokens;
	uint8_t (*psks)[DSM_PSK_LEN]; /* of tokens->v, in memory for secrets */
};

static const struct dsm_token *
token_of(const struct guard *g, const char *name, uint8_t psk_p[DSM_PSK_LEN])
{
	const struct dsm_token *t = dsm__tokens_find(g->tokens, name);

	if (t != NULL)
		memcpy(psk_p, g->psks[t - g->tokens->v], DSM_PSK_LEN);
	return t;
}

/* On the stack for secrets. */
static int
find(void *ctx, const char *name, uint8_t psk_p[DSM_PSK_LEN])
{
	const struct guard *g = ctx;
	uint8_t key[DSM_KEY_LEN];
	uint64_t session;
	int err;

	if (!dsm__tls_is_session(name, &session))
		return token_of(g, name, psk_p) != NULL;
	if (!coord_session_key(g->core, session, key))
		return 0;
	err = dsm__tls_psk_of_session(session, key, sizeof(key), psk_p);
	dsm__wipe(key, sizeof(key));
	return err == DSM_OK;
}

int
guard_create(const char *path, struct guard **g_p, struct dsm_error *e)
{
	struct guard *g = calloc(1, sizeof(*g));
	int err;

	if (g == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	g->finder = (struct dsm_tls_finder){
	    find, g,
	    "this coordinator wants a token: give a token file (--token-file, "
	    "TASKRT_TOKEN_FILE)"};
	err = dsm__tokens_read(path, &g->tokens, e);
	if (err != DSM_OK)
		goto fail;
	g->psks = dsm__secret_alloc(g->tokens->n * sizeof(*g->psks));
	if (g->psks == NULL)
		err = DSM_ENOMEM;
	for (size_t i = 0; i < g->tokens->n && err == DSM_OK; i++)
		err = dsm__tls_psk_of_token(&g->tokens->v[i], g->psks[i]);
	if (err != DSM_OK) {
		dsm__fail(e, err, "no memory for the tokens of %.150s", path);
		goto fail;
	}
	*g_p = g;
	return DSM_OK;
fail:
	guard_destroy(g);
	return err;
}

void
guard_destroy(struct guard *g)
{
	if (g == NULL)
		return;
	dsm__secret_free(g->psks);
	dsm__tokens_free(g->tokens);
	free(g);
}

void
guard_set_core(struct guard *g, struct coord *core)
{
	g->core = core;
}

const struct dsm_tls_finder *
guard_finder(const struct guard *g)
{
	return &g->finder;
}

const struct dsm_identity *
guard_who(const struct guard *g, const char *name)
{
	const struct dsm_token *t = dsm__tokens_find(g->tokens, name);

	return t != NULL ? &t->who : NULL;
}

int
guard_agrees(const struct guard *a, const struct guard *b, const char *name)
{
	uint8_t x[DSM_PSK_LEN], y[DSM_PSK_LEN];
	const struct dsm_token *ta = token_of(a, name, x);
	const struct dsm_token *tb = token_of(b, name, y);
	int same = ta != NULL && tb != NULL && ta->who.roles == tb->who.roles &&
	           dsm__secret_equal(x, y, DSM_PSK_LEN);

	dsm__wipe(x, sizeof(x));
	dsm__wipe(y, sizeof(y));
	return same;
}

void
guard_replace(struct guard *g, struct guard *fresh)
{
	dsm__secret_free(g->psks);
	dsm__tokens_free(g->tokens);
	g->tokens = fresh->tokens;
	g->psks = fresh->psks;
	free(fresh);
}

size_t
guard_count(const struct guard *g)
{
	return g->tokens->n;
}
