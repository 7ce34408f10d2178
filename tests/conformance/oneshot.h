/*
 * A back-end over a socket pair whose descriptor tells of news once after it was
 * armed, and of room to write as something to read: what a queue pair asks of
 * conn.c and of the loop, without a device.
 */
#ifndef TESTS_ONESHOT_H
#define TESTS_ONESHOT_H

#include "../../dsm/transport/conn.h"

extern const struct dsm_conn_ops oneshot_ops;
int oneshot_pair(uint32_t max_body, struct dsm_conn *c_p[2]);

#endif
