/* A socket that takes and gives a few bytes at a time: what the kernel may do at any
 * time, and seldom does. */
#ifndef TESTS_CONFORMANCE_PIECES_H
#define TESTS_CONFORMANCE_PIECES_H

#include "../../dsm/transport/conn.h"

extern const struct dsm_conn_ops pieces_ops;

/* Over a unix socket pair. */
int pieces_pair(uint32_t max_body, struct dsm_conn *c_p[2]);

#endif
