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

/* Whom to ask, and how to get in. NULL and 0: as the environment says. */
struct tool_target {
	const char *addr; /* else TASKRT_COORDINATOR, else 127.0.0.1:7070 */
	const char *token_file; /* else TASKRT_TOKEN_FILE */
	int insecure;           /* else TASKRT_INSECURE */
};
#define OPT_TARGET_ROWS(t)                                                     \
	{"--coordinator",                                                      \
	 "-c",                                                                 \
	 "HOST:PORT",                                                          \
	 "whom to ask (default: TASKRT_COORDINATOR, else 127.0.0.1:7070)",     \
	 OPT_TEXT,                                                             \
	 &(t).addr,                                                            \
	 0,                                                                    \
	 0},                                                                   \
	    {"--token-file",                                                   \
	     NULL,                                                             \
	     "FILE",                                                           \
	     "NAME:SECRET to ask with, over TLS (default: TASKRT_TOKEN_FILE)", \
	     OPT_TEXT,                                                         \
	     &(t).token_file,                                                  \
	     0,                                                                \
	     0},                                                               \
	{                                                                      \
		"--insecure", NULL, NULL,                                      \
		    "without a token file: ask beyond loopback, not "          \
		    "encrypted",                                               \
		    OPT_FLAG, &(t).insecure, 0, 0                              \
	}

/* Connect to a coordinator and join it as a tool. Failure: e has the line for
 * people. */
int tool_connect(const struct tool_target *t, uint64_t wait_ms,
                 struct dsm_conn **conn_p, struct dsm_error *e);
/* STAT: *json_p is malloc'ed. */
int tool_ask_stat(struct dsm_conn *conn, uint64_t wait_ms, char **json_p,
                  struct dsm_error *e);

#endif
