/*
 * Reading JSON of our own making (and rejecting any other without harm): values are
 * found by walking the text, nothing is built.
 */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <stddef.h>
#include <stdint.h>

/*
 * A value is a pointer to its first character; NULL: there is none, and every
 * function below then answers as for a missing one.
 */

/* A member of an object. */
const char *json_member(const char *object, const char *name);
/* The first element of an array, and the one after; NULL: no more. */
const char *json_first(const char *array);
const char *json_next(const char *element);
/* A number without sign and fraction; 0 for anything else. */
uint64_t json_number(const char *value);
/* A string, fit for a terminal (control characters are "?"), cut at size - 1;
 * "" for anything else. Returns buf. */
char *json_text(const char *value, char *buf, size_t size);
int json_is_object(const char *value);
int json_is_true(const char *value);
/* 1 when the text is one whole value and nothing more. */
int json_is_whole(const char *text);

#endif
