/*
 * Token files: who may connect, and as what.
 *
 *   # a comment; empty lines are skipped
 *   NAME:SECRET [WORD ...]
 *
 * NAME is 1 to 63 of A-Z a-z 0-9 . _ - @; each name occurs once. SECRET is printable
 * ASCII without spaces; 22 characters of base64 or 32 of hex are 128 bits, and a
 * shorter one gets a warning. The words, for the coordinator:
 *
 *   client         may run programs, and ask for the state of its own
 *   worker         may join as a worker
 *   admin          a client that sees and may ask about everybody's
 *   slots=N memory=SIZE runs=N     quotas (see doc/OPERATIONS.md); SIZE: 512M, 8G
 *
 * Without any of the first three words: client. A file is refused when somebody
 * else than its owner can read it, or when it is neither ours nor root's.
 *
 * What a file says lies in memory for secrets (dsm/base/secret.h).
 */
#ifndef DSM_TRANSPORT_TOKEN_H
#define DSM_TRANSPORT_TOKEN_H

#include <stddef.h>
#include <stdint.h>

#include "../base/status.h"

#define DSM_TOKEN_NAME_MAX 64
#define DSM_TOKEN_SECRET_MAX 256
#define DSM_TOKENS_MAX 10000

enum dsm_token_role {
	DSM_TOKEN_CLIENT = 1,
	DSM_TOKEN_WORKER = 2,
	DSM_TOKEN_ADMIN = 4, /* includes CLIENT */
};

/* Who a peer has shown to be. No secrets here. */
struct dsm_identity {
	char name[DSM_TOKEN_NAME_MAX];
	unsigned roles;               /* enum dsm_token_role, or'ed */
	uint64_t slots, memory, runs; /* quotas; memory in bytes; 0: none */
};

struct dsm_token {
	struct dsm_identity who;
	size_t secret_len;
	char secret[DSM_TOKEN_SECRET_MAX];
};

struct dsm_tokens {
	size_t n;
	struct dsm_token v[];
};

/*
 * Read and check a file. DSM_EINVAL (with the line's number), DSM_EAUTH (may be
 * read by others), DSM_ESYS, DSM_ENOMEM; e is one line that names the file. Logs a
 * warning for a short secret.
 */
int dsm__tokens_read(const char *path, struct dsm_tokens **t_p,
                     struct dsm_error *e);
/* The same for a text, which `path` names in errors. */
int dsm__tokens_parse(const char *path, const char *text, size_t len,
                      struct dsm_tokens **t_p, struct dsm_error *e);
void dsm__tokens_free(struct dsm_tokens *t); /* wipes; NULL is fine */

/* NULL: no such name. */
const struct dsm_token *dsm__tokens_find(const struct dsm_tokens *t,
                                         const char *name);
/* The first one that has the role; NULL: none has. */
const struct dsm_token *dsm__tokens_for(const struct dsm_tokens *t,
                                        unsigned role);
/* Is that a NAME? */
int dsm__token_name_ok(const char *name);

#endif
