#include "json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 32

static const char *
skip_space(const char *p)
{
	return p + strspn(p, " \t\r\n");
}

/* Behind the string that begins at p; NULL: it does not end. */
static const char *
skip_string(const char *p)
{
	for (p++; *p != '"'; p++) {
		if (*p == '\\')
			p++;
		if (*p == '\0')
			return NULL;
	}
	return p + 1;
}

/* Behind the value at p; NULL: it is none. */
static const char *
skip_value(const char *p, int depth)
{
	size_t len;
	char end;

	p = skip_space(p);
	if (*p == '"')
		return skip_string(p);
	if (*p != '{' && *p != '[') {
		len = strspn(p, "+-.0123456789abcdefghijklmnopqrstuvwxyzE");
		return len > 0 ? p + len : NULL;
	}
	if (depth == MAX_DEPTH)
		return NULL;
	end = *p == '{' ? '}' : ']';
	p = skip_space(p + 1);
	if (*p == end)
		return p + 1;
	for (;;) {
		if (end == '}') {
			if (*p != '"' || (p = skip_string(p)) == NULL)
				return NULL;
			p = skip_space(p);
			if (*p++ != ':')
				return NULL;
		}
		p = skip_value(p, depth + 1);
		if (p == NULL)
			return NULL;
		p = skip_space(p);
		if (*p == end)
			return p + 1;
		if (*p != ',')
			return NULL;
		p = skip_space(p + 1);
	}
}

const char *
json_member(const char *object, const char *name)
{
	size_t len = strlen(name);
	const char *p;

	if (!json_is_object(object))
		return NULL;
	p = skip_space(object + 1);
	while (*p == '"') {
		const char *key = p + 1;

		p = skip_string(p);
		if (p == NULL)
			return NULL;
		int found =
		    (size_t)(p - 1 - key) == len && memcmp(key, name, len) == 0;
		p = skip_space(p);
		if (*p++ != ':')
			return NULL;
		if (found)
			return skip_space(p);
		p = skip_value(p, 0);
		if (p == NULL)
			return NULL;
		p = skip_space(p);
		if (*p != ',')
			return NULL;
		p = skip_space(p + 1);
	}
	return NULL;
}

const char *
json_first(const char *array)
{
	const char *p;

	if (array == NULL || *array != '[')
		return NULL;
	p = skip_space(array + 1);
	return *p != ']' && *p != '\0' ? p : NULL;
}

const char *
json_next(const char *element)
{
	const char *p = element != NULL ? skip_value(element, 0) : NULL;

	if (p == NULL)
		return NULL;
	p = skip_space(p);
	return *p == ',' ? skip_space(p + 1) : NULL;
}

uint64_t
json_number(const char *value)
{
	if (value == NULL || *value < '0' || *value > '9')
		return 0;
	return strtoull(value, NULL, 10);
}

char *
json_text(const char *value, char *buf, size_t size)
{
	size_t n = 0;

	if (value != NULL && *value == '"') {
		for (value++; *value != '"' && *value != '\0'; value++) {
			char c = *value;

			if (c == '\\' && value[1] != '\0') {
				c = *++value;
				/* Names with control characters are rare. */
				if (c == 'u' && strlen(value) > 4)
					value += 4;
				if (c != '"' && c != '\\' && c != '/')
					c = '?';
			}
			if ((unsigned char)c < 0x20 || c == 0x7f)
				c = '?';
			if (n + 1 < size)
				buf[n++] = c;
		}
	}
	buf[n] = '\0';
	return buf;
}

int
json_is_object(const char *value)
{
	return value != NULL && *value == '{';
}

int
json_is_true(const char *value)
{
	return value != NULL && strncmp(value, "true", 4) == 0;
}

int
json_is_whole(const char *text)
{
	const char *p = skip_value(text, 0);

	return p != NULL && *skip_space(p) == '\0';
}
