#include <stdio.h>

#include "verbs.h"

enum verbs_end
verbs_go_over(struct dsm_conn *data, const char *choice,
              struct fetch_direct *direct_p, char text[VERBS_TEXT_MAX])
{
	(void)data;
	(void)choice;
	(void)direct_p;
	snprintf(text, VERBS_TEXT_MAX,
	         "the slot program was built without verbs");
	return VERBS_STAYED;
}
