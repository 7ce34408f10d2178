#include "callnames.h"

#include <stddef.h>
#include <string.h>

/* filter_blob.S: a string for each number, "" where there is none. */
extern const char call_names[], call_names_end[];

const char *
call_name(int nr)
{
	const char *p = call_names;

	for (int i = 0; i < nr && p < call_names_end; i++)
		p += strlen(p) + 1;
	return nr >= 0 && p < call_names_end && *p != '\0' ? p : NULL;
}
