/*
 * Levelled log on stderr, one line a call: "taskrt-worker: warn: …".
 * TASKRT_LOG = error|warn|info|debug|trace (default warn). Any thread; not in
 * signal handlers.
 */
#ifndef DSM_BASE_LOG_H
#define DSM_BASE_LOG_H

#include <stdint.h>

enum dsm_log_level {
	DSM_LOG_ERROR, /* cannot continue as asked */
	DSM_LOG_WARN,  /* can */
	DSM_LOG_INFO,  /* rare, operator-visible */
	DSM_LOG_DEBUG, /* per object: session, slot, run */
	DSM_LOG_TRACE, /* per task or frame */
};

/* Name shown in front of each line (borrowed, static) and level from the
 * environment. May be left out: then "taskrt" and TASKRT_LOG. */
void dsm__log_init(const char *program);
void dsm__log_level(enum dsm_log_level level);
/* 0, or -1 when text names no level. */
int dsm__log_level_parse(const char *text, enum dsm_log_level *level_p);
int dsm__log_enabled(enum dsm_log_level level);
/* Control characters are shown as "?": names and reasons are often a peer's words. */
void dsm__log(enum dsm_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* 1, once in 10 s: may it be said again? For what peers can make happen as often as
 * they like. *last_p: when it was said, 0: never; the caller's lock. */
int dsm__log_due(uint64_t *last_p);

#define log_error(...) dsm__log(DSM_LOG_ERROR, __VA_ARGS__)
#define log_warn(...) dsm__log(DSM_LOG_WARN, __VA_ARGS__)
#define log_info(...) dsm__log(DSM_LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                        \
	do {                                                  \
		if (dsm__log_enabled(DSM_LOG_DEBUG))          \
			dsm__log(DSM_LOG_DEBUG, __VA_ARGS__); \
	} while (0)

#endif
