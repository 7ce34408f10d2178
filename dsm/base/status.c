#include "status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

const char *
dsm__strerror(int code)
{
	switch (code) {
	case DSM_OK:
		return "success";
#define E(name, number, text) \
	case DSM_##name:      \
		return text;
#include "errors.def"
#undef E
	default:
		return "unknown status";
	}
}

const char *
dsm__errname(int code)
{
	switch (code) {
	case DSM_OK:
		return "DSM_OK";
#define E(name, number, text) \
	case DSM_##name:      \
		return "DSM_" #name;
#include "errors.def"
#undef E
	default:
		return "DSM_?";
	}
}

int
dsm__fail(struct dsm_error *e, int code, const char *fmt, ...)
{
	int saved = errno;
	va_list ap;

	if (e != NULL) {
		e->code = code;
		va_start(ap, fmt);
		vsnprintf(e->text, sizeof(e->text), fmt, ap);
		va_end(ap);
	}
	errno = saved;
	return code;
}
