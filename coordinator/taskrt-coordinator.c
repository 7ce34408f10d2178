/* taskrt-coordinator: the coordinator as a daemon. */
#include <stdio.h>
#include <stdlib.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/log.h"
#include "daemon.h"
#include "options.h"
#include "server.h"

static const char *listen_addr = "127.0.0.1:7070";
static const char *token_file;
static uint64_t no_worker_ms = 10000, heartbeat_ms = 1000, stopped_ms = 3600000;
static int insecure, no_copies;

static const struct opt opts[] = {
    {"--listen", "-l", "ADDR:PORT",
     "where clients and workers connect to "
     "(default 127.0.0.1:7070)",
     OPT_TEXT, &listen_addr, 0, 0},
    {"--token-file", NULL, "FILE",
     "who may connect, over TLS: NAME:SECRET lines; read again on SIGHUP "
     "(default: TASKRT_TOKEN_FILE)",
     OPT_TEXT, &token_file, 0, 0},
    {"--insecure", NULL, NULL,
     "without a token file: listen beyond loopback, not encrypted", OPT_FLAG,
     &insecure, 0, 0},
    {"--wait", NULL, "SECONDS",
     "how long a run waits for a first worker "
     "(default 10)",
     OPT_SECONDS, &no_worker_ms, 0, 0},
    {"--heartbeat", NULL, "MS",
     "between signs of life of a peer; 0: none "
     "(default 1000)",
     OPT_NUMBER, &heartbeat_ms, 0, 3600000},
    {"--stopped", NULL, "SECONDS",
     "how long a program may be stopped (Ctrl-Z, a debugger) and keep its "
     "session (default 3600)",
     OPT_SECONDS, &stopped_ms, 0, 0},
    {"--no-copies", NULL, NULL,
     "no second copies of tasks that run much longer than others", OPT_FLAG,
     &no_copies, 0, 0},
    {"--version", "-V", NULL, "print the version", OPT_VERSION, NULL, 0, 0},
    {"--help", "-h", NULL, "print this", OPT_HELP, NULL, 0, 0},
    {NULL, NULL, NULL, NULL, OPT_FLAG, NULL, 0, 0},
};

static const struct opt_command command = {
    .name = "taskrt-coordinator",
    .usage = "[OPTIONS]",
    .about = "Admits programs and workers, hands out tasks, checks for races.",
    .opts = opts,
};

/* Plain TCP only on loopback or on demand. 0, or the exit status. */
static int
check_listen(void)
{
	struct dsm_error e = {0};
	int loopback = dsm__tcp_is_loopback(listen_addr, &e);

	if (loopback < 0) {
		fprintf(stderr, "%s: --listen: %s\n", command.name, e.text);
		return loopback == DSM_EINVAL ? 2 : 1;
	}
	if (loopback || insecure || token_file != NULL)
		return 0;
	fprintf(stderr,
	        "%s: --listen %s: other machines can reach that address, and "
	        "connections are not encrypted: give a --token-file, or add "
	        "--insecure if the network is trusted\n",
	        command.name, listen_addr);
	return 2;
}

static void
on_hangup(void *arg)
{
	server_reload(arg);
}

static int
serve(void)
{
	const struct server_params p = {
	    .listen = listen_addr,
	    .token_file = token_file,
	    .core =
	        {
	            .no_worker_ms = no_worker_ms,
	            .heartbeat_ms = (uint32_t)heartbeat_ms,
	            .stopped_ms = stopped_ms,
	            .no_copies = no_copies,
	            .welcome_flags = insecure ? DSM_WELCOME_INSECURE : 0,
	        },
	};
	char addr[DSM_ADDR_MAX];
	struct dsm_error e = {0};
	struct dsm_loop *loop;
	struct server *s;
	int err;

	err = daemon_start(command.name, &loop);
	if (err != DSM_OK) {
		log_error("cannot start: %s", dsm__strerror(err));
		return 1;
	}
	if (server_create(loop, &p, addr, &s, &e) != DSM_OK) {
		log_error("%s", e.text);
		dsm__loop_destroy(loop);
		return 1;
	}
	if (token_file != NULL &&
	    daemon_on_hangup(loop, on_hangup, s) != DSM_OK)
		log_warn("SIGHUP cannot be watched: tokens are not read again");
	fprintf(stderr, "%s: listening on %s\n", command.name, addr);
	dsm__loop_run(loop);
	server_destroy(s);
	return 0;
}

int
main(int argc, char **argv)
{
	int status;

	if (opt_parse(&command, argc, argv, &status) < 0)
		return status;
	if (token_file == NULL)
		token_file = getenv("TASKRT_TOKEN_FILE");
	if (token_file != NULL && *token_file == '\0')
		token_file = NULL;
	if (token_file != NULL && insecure)
		return opt_wrong(&command, "--insecure is for no token file");
	status = check_listen();
	return status != 0 ? status : serve();
}
