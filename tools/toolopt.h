/* What verbs share: rows of their option tables, and talking to a coordinator. */
#ifndef TOOLS_TOOLOPT_H
#define TOOLS_TOOLOPT_H

#include "../coordinator/options.h"
#include "../dsm/transport/conn.h"

#define OPT_HELP_ROW                                                     \
	{                                                                \
		"--help", "-h", NULL, "print this", OPT_HELP, NULL, 0, 0 \
	}
#define OPT_LAST_ROW                                         \
	{                                                    \
		NULL, NULL, NULL, NULL, OPT_FLAG, NULL, 0, 0 \
	}

/*
 * Connect to a coordinator and join it as a tool. addr NULL: TASKRT_COORDINATOR,
 * else 127.0.0.1:7070. Failure: e has the line for people.
 */
int tool_connect(const char *addr, uint64_t wait_ms, struct dsm_conn **conn_p,
                 struct dsm_error *e);
/* STAT: *json_p is malloc'ed. */
int tool_ask_stat(struct dsm_conn *conn, uint64_t wait_ms, char **json_p,
                  struct dsm_error *e);

#endif
