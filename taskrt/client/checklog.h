/*
 * The file of TASKRT_CHECK_LOG: how `taskrt check` learns of a program's races. Lines
 * are only appended, each run's with one write: several processes may share it.
 *
 *   session PID        a session has been joined: runs are being looked at
 *   races N NAME       a run had N of them; NAME may be empty
 *     MESSAGE          one for each that is listed
 */
#ifndef TASKRT_CLIENT_CHECKLOG_H
#define TASKRT_CLIENT_CHECKLOG_H

#include <taskrt/taskrt.h>

/* All: nothing when path is "". What cannot be written is said on stderr. */
void taskrt__checklog_session(const char *path);
/* Nothing when there are no races in it. */
void taskrt__checklog_races(const char *path, const char *name,
                            const struct taskrt_report *r);

#endif
