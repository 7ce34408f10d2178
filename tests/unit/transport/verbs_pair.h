/* Two connections over verbs, on one device, for tests. */
#ifndef TESTS_VERBS_PAIR_H
#define TESTS_VERBS_PAIR_H

#include "../../../dsm/transport/verbs.h"

/* NULL when there is a device that can be used, else why not. Opens it, once. */
const char *verbs_missing(void);
/* The device and the domain of all pairs; verbs_missing has been called. */
struct dsm_verbs *verbs_device(void);
struct dsm_verbs_domain *verbs_domain(void);
/* Two conns that began as TCP and have gone over. */
int verbs_pair(uint32_t max_body, struct dsm_conn *c_p[2]);
/* The same as far as TCP. */
int verbs_tcp_pair(uint32_t max_body, struct dsm_conn *c_p[2]);
/* The same on a device opened anew with that depth; verbs_pair_done closes it,
 * after its conns. */
int verbs_pair_of_depth(uint32_t depth, uint32_t max_body,
                        struct dsm_verbs **v_p, struct dsm_conn *c_p[2]);
void verbs_pair_done(struct dsm_verbs *v);
/* The same between two devices. */
struct verbs_across {
	struct dsm_verbs *v[2];
	struct dsm_verbs_domain *d[2];
	struct dsm_conn *c[2];
};
int verbs_pair_across(const char *a, const char *b, uint32_t max_body,
                      struct verbs_across *x_p);
void verbs_across_close(struct verbs_across *x);

#endif
