/*
 * Going over from TCP to a queue pair, at the slot's start. Two slot programs are
 * built: the worker daemon's has verbs.c and libibverbs in it, libtaskrt's, whose
 * slots share the program's memory, has verbs_none.c.
 */
#ifndef TASKRT_SLOT_VERBS_H
#define TASKRT_SLOT_VERBS_H

#include "fetch.h"

#define VERBS_TEXT_MAX 400

enum verbs_end {
	VERBS_OVER,   /* text: the device */
	VERBS_STAYED, /* the link is TCP as it was; text: why */
	VERBS_LOST,   /* the link cannot be used any more; text: why */
};

/*
 * Offer the client a queue pair on the data link, whose WELCOME had
 * DSM_FEATURE_VERBS, and go over when it accepts. Returns when a frame has gone to
 * the client and back over the fabric. choice: dsm__verbs_choice_text. direct_p is
 * for fetch_init when its ring is not NULL: else READs are not possible, and text
 * says why.
 */
enum verbs_end verbs_go_over(struct dsm_conn *data, const char *choice,
                             struct fetch_direct *direct_p,
                             char text[VERBS_TEXT_MAX]);

#endif
