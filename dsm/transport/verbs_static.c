/*
 * libibverbs and every provider linked in, for the static slot: it cannot load
 * libraries. It never forks either, so ibv_fork_init has no place here.
 */
#define RDMA_STATIC_PROVIDERS all
#include "verbs_lib.h"

/* The header's macro puts the providers in front. */
static struct ibv_device **
list_devices(int *n_p)
{
	return ibv_get_device_list(n_p);
}

int
dsm__verbs_lib(const struct verbs_lib **lib_p, struct dsm_error *e)
{
	static struct verbs_lib lib = {
#define X(name) .name = ibv_##name,
	    VERBS_FUNCTIONS(X)
#undef X
	};

	(void)e;
	lib.get_device_list = list_devices;
	*lib_p = &lib;
	return DSM_OK;
}
