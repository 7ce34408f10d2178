/*
 * A table from 64-bit ids (page addresses, attempts) to pointers: open
 * addressing, linear probing, deletion by moving back. {0} is an empty one.
 * One owner; no locks.
 */
#ifndef DSM_HEAP_IDTAB_H
#define DSM_HEAP_IDTAB_H

#include <stddef.h>
#include <stdint.h>

struct dsm_idtab {
	struct dsm_idslot {
		uint64_t id;
		void *p; /* NULL: free */
	} * v;
	size_t n, cap; /* cap: 0 or a power of two, at most 3/4 full */
};

/* NULL when there is none. */
void *dsm__idtab_get(const struct dsm_idtab *t, uint64_t id);
/* id is not there yet, p is not NULL. DSM_ENOMEM: table untouched. */
int dsm__idtab_put(struct dsm_idtab *t, uint64_t id, void *p);
/* What was there, or NULL. */
void *dsm__idtab_take(struct dsm_idtab *t, uint64_t id);
void dsm__idtab_fini(struct dsm_idtab *t);

#endif
