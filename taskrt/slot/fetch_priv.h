/*
 * Inside fetching: what is asked for when (fetch.c), and the two ways of getting
 * it (fetch_message.c, fetch_direct.c).
 *
 * At most two windows are under way, `now` and `ahead`. They are taken in the order
 * in which they were requested, so either way answers in order: frames do by
 * themselves, and so do READs. A large window is taken in steps, as the task comes
 * to its pages: then these are still in the processor's cache.
 */
#ifndef TASKRT_SLOT_FETCH_PRIV_H
#define TASKRT_SLOT_FETCH_PRIV_H

#include "../../dsm/base/clock.h"
#include "../../dsm/image/stream.h"
#include "fetch.h"
#include "keys.h"

#define STEP_PAGES 64u

/* Claimed pages that are asked for together. */
struct window {
	uint64_t addr, off;
	uint32_t n;    /* 0: none */
	uint32_t done; /* published */
	int open;      /* by message: the head of the reply was received */
	uint32_t rkey; /* 0: by message; else the rest is used */
	uint64_t remote;
	uint8_t *room; /* in the ring */
	uint32_t n_started;
};

struct fetch {
	struct fetch_params p; /* const after init */
	uint64_t run;
	struct window now, ahead;
	struct dsm_stream stream;
	struct dsm_wbuf w, table; /* scratch; answer to ASK */
	struct keys keys;
	unsigned half; /* of the ring: the next window's */
	/* A REGIONS is due, for that run; no window is under way by message. */
	int asking;
	uint64_t asking_run;
	struct dsm_rec_advice *advice; /* ascending */
	uint32_t n_advice;
};

/* --- fetch_message.c --- */

int message_request(struct fetch *ft, const struct window *w);
/* Publish w's pages until `upto` are done. Fewer may come than were asked for: n
 * is less then, perhaps 0. */
int message_take(struct fetch *ft, struct window *w,
                 const struct space_range *r, uint32_t upto);
/* Send ft->w; the answer, which must be of type `reply`, is the next frame. */
int message_send(struct fetch *ft, unsigned type);
int message_answer(struct fetch *ft, unsigned reply, struct dsm_frame *f_p);
/* Both; a REGIONS that is due is taken first. Nothing else that will be answered
 * may be under way by message. */
int message_ask(struct fetch *ft, unsigned type, unsigned reply,
                struct dsm_frame *f_p);

/* --- fetch_direct.c --- */

/*
 * How the w->n pages from w->addr (of the heap) come: sets rkey, and cuts n where
 * that ends. may_ask 0 and nothing known: n is 0.
 */
int direct_plan(struct fetch *ft, struct window *w, int may_ask);
/* Start reading; `before` is under way, too (NULL: nothing is). */
int direct_request(struct fetch *ft, struct window *w,
                   const struct window *before);
/*
 * w, a window of a sequential reader, comes near the end of what is registered
 * together: ask for what lies behind, without waiting, for the client takes
 * milliseconds to register it. end: of the heap. No window may be under way by
 * message.
 */
int direct_look_ahead(struct fetch *ft, const struct window *w, uint64_t end);
/* Take the REGIONS that is due, if there is one. */
int direct_hear(struct fetch *ft);
/* Publish w's pages until `upto` are done. next: the window after it, or NULL. */
int direct_take(struct fetch *ft, struct window *w, struct window *next,
                uint32_t upto);

#endif
