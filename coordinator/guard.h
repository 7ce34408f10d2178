/*
 * Who may connect to a coordinator with a token file. The keys are worked out when
 * the file is read: looking one up takes the same time whoever asks.
 *
 * Belongs to the loop's one thread.
 */
#ifndef COORDINATOR_GUARD_H
#define COORDINATOR_GUARD_H

#include "../dsm/transport/tls.h"
#include "core/coord.h"

struct guard;

/* path is borrowed. Failure: e has the line for people. */
int guard_create(const char *path, struct guard **g_p, struct dsm_error *e);
void guard_destroy(struct guard *g); /* NULL is fine */
/* Sessions of this coordinator have keys, too. */
void guard_set_core(struct guard *g, struct coord *core);

const struct dsm_tls_finder *guard_finder(const struct guard *g);
/* NULL: no such token (any more). */
const struct dsm_identity *guard_who(const struct guard *g, const char *name);
/* Does a name mean the same to both: same secret, same roles? */
int guard_agrees(const struct guard *a, const struct guard *b,
                 const char *name);
/* g gets the tokens of `fresh`, which is gone. Handshakes under way go on. */
void guard_replace(struct guard *g, struct guard *fresh);
size_t guard_count(const struct guard *g);

#endif
