/*
 * Reports: what the last run of a thread came to, with everything copied, so that
 * a report outlives its run, its session and the coordinator's message.
 */
#ifndef TASKRT_CLIENT_REPORT_H
#define TASKRT_CLIENT_REPORT_H

#include <stdint.h>

#include "../../dsm/base/counters.h"
#include "../../dsm/base/status.h"
#include "../../dsm/heap/stage.h"
#include "../../dsm/wire/wire.h"
#include <taskrt/taskrt.h>

struct taskrt__report {
	struct taskrt_report pub;
	char *name;        /* of the run, "" if it had none */
	char *texts;       /* all strings of pub, one after the other */
	int loop, chunked; /* as in the source */
};

/* What a report is made of; everything is borrowed. */
struct taskrt__report_source {
	int error;                 /* TASKRT_E… */
	const char *text;          /* "": one is made of failures and races */
	const char *name;          /* of the run; may be NULL */
	struct dsm_array failures; /* as in VERDICT */
	struct dsm_blob texts;
	uint64_t n_races;       /* found */
	struct dsm_array races; /* listed */
	/* Races with the program itself, after the listed ones. */
	const struct taskrt_race *client_races;
	size_t n_client_races;
	/* Two a race, listed ones first: what task_a and task_b wrote; n 0: that
	 * is not known. NULL: nothing is. */
	const struct dsm_value *values;
	const struct dsm_counters *counters; /* may be NULL */
	/* Says what an address is in: "temperatures[17]". "" if unknown. */
	void (*where)(void *ctx, const void *addr, char *buf, size_t size);
	/* As taskrt__debuginfo_backtrace. */
	size_t (*backtrace)(void *ctx, struct dsm_blob context,
	                    struct dsm_wbuf *w, size_t *own_p);
	void *ctx;   /* of both, which may be NULL */
	int loop;    /* its tasks are iterations */
	int chunked; /* races are told of chunks, by their first iterations */
};

/*
 * DSM_OK with *r_p the caller's, DSM_ENOMEM, or DSM_EPROTO when a list of the
 * source is malformed.
 */
int taskrt__report_make(const struct taskrt__report_source *src,
                        struct taskrt__report **r_p);
void taskrt__report_free(struct taskrt__report *r); /* NULL is fine */

/* Make r the calling thread's last report (NULL: an empty one). Takes r. */
void taskrt__report_give(struct taskrt__report *r);

/*
 * The calling thread's report becomes this one error, and its TASKRT_E… code is
 * returned: for failures before or besides a run. Never fails.
 */
int taskrt__report_error(const struct dsm_error *e);
int taskrt__report_fail(int code, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* The TASKRT_E… code that a user is told for a DSM_E… one. */
int taskrt__public_code(int code);

#endif
