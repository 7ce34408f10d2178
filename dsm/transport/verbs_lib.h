/*
 * The functions of libibverbs that we use, as a table: found at run time in
 * programs and daemons (verbs_lib.c), linked into the static slot
 * (verbs_static.c). A program has one of the two files.
 *
 * What verbs.h defines inline (posting, polling) goes through the device's own
 * table and needs no entry.
 */
#ifndef DSM_TRANSPORT_VERBS_LIB_H
#define DSM_TRANSPORT_VERBS_LIB_H

#include <infiniband/verbs.h>

#include "../base/status.h"

#define VERBS_FUNCTIONS(X)      \
	X(get_device_list)      \
	X(free_device_list)     \
	X(get_device_name)      \
	X(open_device)          \
	X(close_device)         \
	X(query_device)         \
	X(query_port)           \
	X(query_gid)            \
	X(alloc_pd)             \
	X(dealloc_pd)           \
	X(reg_mr)               \
	X(dereg_mr)             \
	X(create_comp_channel)  \
	X(destroy_comp_channel) \
	X(create_cq)            \
	X(destroy_cq)           \
	X(get_cq_event)         \
	X(ack_cq_events)        \
	X(create_qp)            \
	X(modify_qp)            \
	X(destroy_qp)           \
	X(get_async_event)      \
	X(ack_async_event)      \
	X(event_type_str)       \
	X(wc_status_str)

/* query_port here is the old one, of struct _compat_ibv_port_attr. */
struct verbs_lib {
#define X(name) __typeof__(ibv_##name) *name;
	VERBS_FUNCTIONS(X)
#undef X
};

/* The table; DSM_ECONN: there is no library, e says what to install. Threads may
 * call it at the same time. */
int dsm__verbs_lib(const struct verbs_lib **lib_p, struct dsm_error *e);

#endif
