/*
 * libibverbs by dlopen: a machine without RDMA need not have it, and a program
 * that does not ask for it is not made bigger by it. Never closed: providers leave
 * things behind.
 */
#include "verbs_lib.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#define LIBRARY "libibverbs.so.1"

static pthread_once_t once = PTHREAD_ONCE_INIT;
/* Written once, under once. */
static struct verbs_lib lib;
static struct dsm_error lib_error;

static int
find(void *so, const char *name, void *fn_p)
{
	void *p = dlsym(so, name);

	if (p == NULL)
		return dsm__fail(&lib_error, DSM_ECONN,
		                 LIBRARY " has no %s: install a newer "
		                         "rdma-core",
		                 name);
	memcpy(fn_p, &p, sizeof(p));
	return DSM_OK;
}

static void
load(void)
{
	int (*fork_init)(void) = NULL;
	void *so = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);

	if (so == NULL) {
		dsm__fail(&lib_error, DSM_ECONN,
		          LIBRARY " is not installed (Debian: apt install "
		                  "libibverbs1 ibverbs-providers)");
		return;
	}
#define X(name)                                                  \
	if (find(so, "ibv_" #name, (void *)&lib.name) != DSM_OK) \
		return;
	VERBS_FUNCTIONS(X)
#undef X
	/* Before 5.12 a fork moved our pinned pages away from under the device.
	 * Too late when the program itself has registered memory already: then
	 * it is its own choice. */
	find(so, "ibv_fork_init", (void *)&fork_init);
	if (fork_init != NULL)
		fork_init();
}

int
dsm__verbs_lib(const struct verbs_lib **lib_p, struct dsm_error *e)
{
	pthread_once(&once, load);
	if (lib_error.code != DSM_OK)
		return dsm__fail(e, lib_error.code, "%s", lib_error.text);
	*lib_p = &lib;
	return DSM_OK;
}
