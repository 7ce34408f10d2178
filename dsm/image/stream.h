/*
 * Pages from a connection into the image without passing through this process: the
 * kernel moves the socket's buffers into a pipe and copies them from there to the
 * image's file, one copy where recv and write make two.
 *
 * A page is there for every slot as soon as the file has it, so the file must
 * only ever get whole ones. The kernel fills a page of the file, locked, from as
 * many of the pipe's buffers as it takes; what would tear a page is a pipe that
 * ends in the middle of one. Hence the rule: only whole pages are moved out of the
 * pipe, and only when all their bytes are in it.
 *
 * Pages that the file has already (kept ones) need no kernel for that: they are
 * received right into it, through a view. Nobody has them mapped, so nobody sees them
 * half written.
 *
 * The pipe holds a bounded number of buffers, each with as many bytes as the network
 * made it: when it is full before a batch is whole, what is whole goes out first.
 */
#ifndef DSM_IMAGE_STREAM_H
#define DSM_IMAGE_STREAM_H

#include "../transport/conn.h"
#include "image.h"
#include "view.h"

#define DSM_STREAM_COPY 8u /* pages copied at a time where copying it is */

/* {0} is a valid one. */
struct dsm_stream {
	int made;         /* 1: fds are there; -1: they cannot be had */
	int fds[2];       /* non-blocking */
	uint64_t n_piped; /* pages that came that way */
	uint64_t n_viewed;
	struct dsm_view view;
	uint8_t buf[DSM_STREAM_COPY * DSM_PAGE];
};

/*
 * The next n pages of the rest of c's frame are the claimed pages from off on:
 * write them to the file, mark them PRESENT. DSM_ENOMEM (no room for the image),
 * DSM_ESYS, or the connection's error; the frame is then not taken whole.
 */
int dsm__image_stream(struct dsm_image *im, uint64_t off, uint32_t n,
                      struct dsm_conn *c, struct dsm_stream *st,
                      uint64_t deadline, uint64_t spin_ns);
/* Open the pipe now, for a process that may not later; without it (DSM_ESYS) pages
 * are copied. */
int dsm__stream_prepare(struct dsm_stream *st);
void dsm__stream_fini(struct dsm_stream *st);

#endif
