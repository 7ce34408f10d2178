/*
 * Status codes and error texts.
 *
 * A function that can fail returns DSM_OK or a negative code of errors.def. One
 * whose failure a person must understand also fills a struct dsm_error: what
 * failed, what was expected, what to do.
 */
#ifndef DSM_BASE_STATUS_H
#define DSM_BASE_STATUS_H

#ifndef DSM_DSM_H /* the public header spells the same enum out */
enum dsm_status {
	DSM_OK = 0,
#define E(name, number, text) DSM_##name = number,
#include "errors.def"
#undef E
};
#endif

struct dsm_error {
	int code;       /* DSM_OK or DSM_E… */
	char text[400]; /* one line, no newline; "" when code is DSM_OK */
};

/* The text of a code; "unknown status" for others. Any thread, any time. */
const char *dsm__strerror(int code);
/* Its name ("DSM_EPROTO"), for logs and tests. */
const char *dsm__errname(int code);

/* Fill e (may be NULL) and return code. Never allocates. errno is kept. */
int dsm__fail(struct dsm_error *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
