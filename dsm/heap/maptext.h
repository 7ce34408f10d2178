/*
 * /proc/self/maps as text: reading it whole, taking it apart line by line, and
 * what kind of range a line is. No stdio, no allocation but the text buffer.
 */
#ifndef DSM_HEAP_MAPTEXT_H
#define DSM_HEAP_MAPTEXT_H

#include <stddef.h>
#include <stdint.h>

struct dsm_maptext {
	char *ptr; /* NUL-terminated */
	size_t len, cap;
};

/*
 * Read the file into t, whose buffer is kept from call to call. DSM_ENOMEM, or
 * DSM_ESYS with errno.
 *
 * The kernel hands out a page of lines at a time and looks up each next mapping
 * by address, so a mapping that is there all the time is never missed, but one
 * that grows meanwhile may be shown twice, overlapping: readers clip lines to
 * the end of the one before.
 */
int dsm__maptext_read(struct dsm_maptext *t);
void dsm__maptext_fini(struct dsm_maptext *t);

struct dsm_mapline {
	uint64_t start, end, off, dev, ino;
	uint32_t prot;
	int shared;
	const char *path; /* "": anonymous; in the text */
};
/* Take the line at *p_p apart (its newline becomes a NUL) and step over it: 1,
 * or 0 at the end. Lines that make no sense are skipped. */
int dsm__maptext_line(char **p_p, struct dsm_mapline *l);

/* 1 for a library of the system (and ours), whose data is private to a task. */
int dsm__is_system_library(const char *path);

#endif
