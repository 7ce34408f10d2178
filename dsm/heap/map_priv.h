/* What a map is made of, for map.c and map_modules.c. */
#ifndef DSM_HEAP_MAP_PRIV_H
#define DSM_HEAP_MAP_PRIV_H

#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "advice.h"
#include "map.h"
#include "maptext.h"

struct backing {
	uint64_t dev, ino; /* 0, 0: anonymous */
	uint64_t delta;    /* file offset - address; 0 for anonymous */
};

struct entry {
	struct dsm_range r;
	struct backing b;
};
struct entries {
	struct entry *v;
	size_t n, cap;
};

/* Part of the address space. kind: of anonymous memory there. */
struct span {
	uint64_t start, end;
	uint32_t kind;
};
struct spans {
	struct span *v;
	size_t n, cap;
};

struct table {
	uint64_t version;
	size_t n;
	struct dsm_range v[];
};

struct dsm_map {
	pthread_mutex_t lock;
	struct table *table;     /* RCU; replaced under lock */
	struct entries now;      /* lock */
	struct entries pieces;   /* lock; work space of a refresh */
	struct entries next;     /* lock; the same */
	struct spans excluded;   /* lock */
	struct spans own;        /* lock; where anonymous memory has an owner */
	struct spans plt;        /* lock; PLT words, a span a module */
	struct dsm_advices kept; /* lock; spans that are never served, kind 1 */
	struct dsm_maptext text; /* lock */
	uint64_t heap_start, heap_end; /* lock; equal: none */
	uint64_t next_off;             /* lock */
	struct span main_tls;          /* lock; whole pages, empty: not known */
	uint64_t adds, subs; /* lock; of dl_iterate_phdr at last refresh */
	int current;         /* lock; 0: refresh is due anyway */
	char exe[PATH_MAX];  /* const after create */
};

/* Sorted by start. DSM_ENOMEM. */
int dsm__spans_reserve(struct spans *x, size_t cap);
int dsm__spans_insert(struct spans *x, struct span s);

/*
 * Lock: fill m->own and m->plt in. Who owns which anonymous memory: a module its
 * .bss (the kernel may have joined it with a mapping of the program that follows,
 * so the line of maps alone does not tell), the loader the main thread's TLS.
 */
int dsm__map_owners(struct dsm_map *m, uint64_t *adds_p, uint64_t *subs_p);

#endif
