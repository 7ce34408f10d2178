/*
 * A proxy that passes TCP connections on, badly: what the network may do to the
 * links of a cluster, and what a test wants it to do. It stands in front of the
 * coordinator (for each program and each worker) and of the programs' data
 * listeners, so unmodified programs and daemons go through it, and it sees every
 * link: control, data and relayed.
 *
 * A connection is two *ways* of bytes. What befalls it is drawn when it is accepted,
 * from the seed, the door it came through and its number there; so it does not
 * depend on what other connections do:
 *
 *   short     a way reads and writes only a few bytes at a time
 *   delay     each piece of a way arrives so much later: connections overtake each
 *             other, a connection never itself
 *   cut       after so many bytes: reset, closed, or one way closed
 *   stall     after so many bytes nothing passes for a time, in neither way
 *   double    once the first frame has passed, a second connection says what the
 *             first one says: the same credentials, and to the end the same bytes, or
 *             nothing more
 *
 * Frames are counted as they are read, where bytes are frames (not under TLS: there
 * every piece counts as a frame of type 0).
 *
 * One thread; everything happens in proxy_step.
 */
#ifndef TESTS_CHAOS_PROXY_H
#define TESTS_CHAOS_PROXY_H

#include <stdint.h>

/* Who connects through a door. */
enum lane {
	LANE_CLIENT, /* programs to the coordinator: control and relay */
	LANE_WORKER, /* workers to the coordinator: control and relay */
	LANE_DATA,   /* slots to programs */
	N_LANES,
};

/* In percent of the connections. */
struct proxy_odds {
	unsigned shorts, delay, cut, stall, doubles;
	uint32_t delay_us; /* of a piece, at most */
	uint32_t stall_ms; /* at most */
};

/* What was done. */
struct proxy_counts {
	uint64_t links, bytes, frames, shorts, delayed, cut, stalled, doubled;
	uint64_t lane_links[N_LANES];
};

struct proxy_params {
	uint64_t seed;
	struct proxy_odds odds;
	/* A frame of a type begins; 0: a piece of what is no frame. back: from the
	 * end that was connected to. */
	void (*frame)(void *arg, enum lane lane, int back, unsigned type);
	void *arg;
	int verbose; /* say on stderr what is done */
};

struct proxy;

int proxy_create(const struct proxy_params *p, struct proxy **p_p);
void proxy_destroy(struct proxy *p);
/* Connections to `listen` go to `target`, both ADDR:PORT. 0, or -1 and a line on
 * stderr. */
int proxy_door(struct proxy *p, enum lane lane, const char *listen,
               const char *target);
/* Pass on what there is, for up to ms milliseconds. */
void proxy_step(struct proxy *p, int ms);
/* From now on nothing more is done to anybody; what is stalled goes on, doubles end. */
void proxy_calm(struct proxy *p);
/* Cut one of the connections of a lane now; `pick` says which. */
void proxy_cut_one(struct proxy *p, enum lane lane, uint64_t pick);
const struct proxy_counts *proxy_counts(const struct proxy *p);

#endif
