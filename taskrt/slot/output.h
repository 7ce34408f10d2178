/*
 * Text that tasks write to stdout and stderr. Kept until the task's end (or until
 * there is much of it: then cut after a line), sent to the client, which writes it to
 * its own stdout or stderr. So lines of several tasks do not mix, and a task's
 * text comes in order. Text of a task that fails, or whose run does, is shown too.
 */
#ifndef TASKRT_SLOT_OUTPUT_H
#define TASKRT_SLOT_OUTPUT_H

#include <stddef.h>
#include <stdint.h>

#include "../../dsm/transport/conn.h"

int output_init(struct dsm_conn *data);
/* A new attempt: nothing sent for it yet. */
void output_begin(uint64_t run, uint64_t attempt);
/* Append text (the slot's or accessible client memory) for fd 1 or 2. DSM_OK,
 * DSM_ENOMEM or the link's error. */
int output_write(uint64_t task, unsigned fd, const void *text, size_t len);
/* The end of what the task at work has written to stderr, as one line: what C
 * libraries and C++ runtimes say before they abort. "" when there is nothing. */
void output_last_words(uint64_t task, char *buf, size_t size);
/* Send what is kept. */
int output_flush(void);
/* 1 when text of this attempt has been sent. */
int output_sent(void);

#endif
