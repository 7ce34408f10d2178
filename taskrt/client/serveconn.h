/*
 * The data links of a session: each serves one slot with pages and tables of
 * ranges, and takes its write sets.
 */
#ifndef TASKRT_CLIENT_SERVECONN_H
#define TASKRT_CLIENT_SERVECONN_H

#include <sys/queue.h>

#include "session.h"

/*
 * A slot's staging file, mapped for reading: write sets are taken from it where
 * they lie. Outlives the slot: kept until no run needs its bytes.
 */
struct taskrt__stagemap {
	TAILQ_ENTRY(taskrt__stagemap) link;
	const uint8_t *base;
	uint64_t file_len; /* as of the last look */
	int fd;
	int in_use; /* a link writes to it */
};

/* dup of fd is kept. DSM_ENOMEM, DSM_ESYS. */
int taskrt__stagemap_create(struct taskrt__session *s, int fd,
                            struct taskrt__stagemap **m_p);
/* Unmap those whose link is gone; no run is in flight. */
void taskrt__stagemap_trim(struct taskrt__session *s);
/* Give memory of the others back, where a large run has been. The same. */
void taskrt__stagemap_shrink(struct taskrt__session *s);

enum taskrt__link_kind {
	TASKRT__LINK_OWN,     /* made by ourselves, needs no HELLO */
	TASKRT__LINK_DIRECT,  /* a slot has connected to us */
	TASKRT__LINK_RELAYED, /* through the coordinator */
};

/*
 * Serve conn, which is taken over also on failure. stage: NULL or the slot's.
 * Drive lock held, as for all here.
 */
int taskrt__serveconn_start(struct taskrt__session *s, struct dsm_conn *conn,
                            struct taskrt__stagemap *stage,
                            enum taskrt__link_kind kind,
                            struct taskrt__serveconn **c_p);
/* Send a frame of its owner on it (relay: our HELLO). */
int taskrt__serveconn_send(struct taskrt__serveconn *c, unsigned type,
                           uint64_t tag, const struct dsm_wbuf *w);
void taskrt__serveconn_close(struct taskrt__serveconn *c);
void taskrt__serveconn_close_all(struct taskrt__session *s);
/* Close links that have not said who they are for too long. Returns how many may
 * still do it. */
unsigned taskrt__serveconn_sweep(struct taskrt__session *s);
/* taskrt__session_forget's part. */
void taskrt__serveconn_forget_all(struct taskrt__session *s);

#endif
