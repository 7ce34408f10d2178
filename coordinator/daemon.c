#include "daemon.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/log.h"

static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
#define N_ENDING (sizeof(ending) / sizeof(*ending))

/* In static memory: the loop closes them when it is destroyed. */
static uv_signal_t signals[N_ENDING];

static int (*term_fn)(void *arg);
static void *term_arg;

void
daemon_on_term(int (*fn)(void *arg), void *arg)
{
	term_fn = fn;
	term_arg = arg;
}

/* SIGHUP does this instead. */
static void (*hangup_fn)(void *arg);
static void *hangup_arg;

static void
on_signal(uv_signal_t *h, int signum)
{
	int (*fn)(void *arg) = term_fn;

	if (signum == SIGHUP && hangup_fn != NULL) {
		hangup_fn(hangup_arg);
		return;
	}
	if (signum == SIGTERM && fn != NULL) {
		term_fn = NULL;
		if (fn(term_arg))
			return;
	}
	log_info("ends: %s", strsignal(signum));
	dsm__loop_stop(h->data);
}

static void
on_sigpipe(int signum)
{
	(void)signum;
}

static int
watch_signals(struct dsm_loop *loop)
{
	/* stderr may be a pipe that nobody reads any more. Not SIG_IGN: that
	 * would be handed down to slots. */
	struct sigaction pipe = {.sa_handler = on_sigpipe};
	struct sigaction was;

	sigaction(SIGPIPE, &pipe, NULL);
	for (unsigned i = 0; i < N_ENDING; i++) {
		/* nohup: it is to outlive its terminal. */
		if (sigaction(ending[i], NULL, &was) == 0 &&
		    was.sa_handler == SIG_IGN && ending[i] == SIGHUP)
			continue;
		signals[i].data = loop;
		if (uv_signal_init(dsm__loop_uv(loop), &signals[i]) != 0 ||
		    uv_signal_start(&signals[i], on_signal, ending[i]) != 0)
			return DSM_ESYS;
	}
	return DSM_OK;
}

int
daemon_start(const char *program, struct dsm_loop **loop_p)
{
	const struct dsm_loop_params p = {.spin_ns = DAEMON_SPIN_NS};
	const char *level = getenv("TASKRT_LOG");
	struct dsm_loop *loop;
	int err;

	dsm__log_init(program);
	if (level == NULL || *level == '\0')
		dsm__log_level(DSM_LOG_INFO);
	err = dsm__loop_create(&p, &loop);
	if (err != DSM_OK)
		return err;
	err = watch_signals(loop);
	if (err != DSM_OK) {
		dsm__loop_destroy(loop);
		return err;
	}
	*loop_p = loop;
	return DSM_OK;
}

int
daemon_on_hangup(struct dsm_loop *loop, void (*fn)(void *arg), void *arg)
{
	uv_signal_t *h = NULL;

	for (unsigned i = 0; i < N_ENDING; i++)
		if (ending[i] == SIGHUP)
			h = &signals[i];
	hangup_fn = fn;
	hangup_arg = arg;
	/* Under nohup it was left alone until now. */
	if (h->data == NULL) {
		h->data = loop;
		if (uv_signal_init(dsm__loop_uv(loop), h) != 0 ||
		    uv_signal_start(h, on_signal, SIGHUP) != 0)
			return DSM_ESYS;
	}
	return DSM_OK;
}
