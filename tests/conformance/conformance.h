/*
 * What every transport back-end must do. A back-end's test file says how to make a
 * connected pair, and NULL or why it cannot be tested here. Where a connection is
 * no more than a socket:
 *
 *   static int
 *   open_pair(uint32_t max_body, struct dsm_conn *c_p[2])
 *   {
 *           return conformance_sockets(&dsm__shm_ops, dsm__shm_pair,
 *                                      max_body, c_p);
 *   }
 *   CONFORMANCE(dsm_transport_shm, "dsm.transport.shm", &dsm__shm_ops,
 *               open_pair, NULL);
 *
 * Bytes that no connection would send are written with the operations of one
 * whose framing is left out.
 */
#ifndef TESTS_CONFORMANCE_H
#define TESTS_CONFORMANCE_H

#include "../../dsm/transport/conn.h"
#include "../test.h"

struct conformance {
	const struct dsm_conn_ops *ops;
	int (*open)(uint32_t max_body, struct dsm_conn *c_p[2]);
};
int conformance_sockets(const struct dsm_conn_ops *ops, int (*pair)(int *fds_p),
                        uint32_t max_body, struct dsm_conn *c_p[2]);

#define CONFORMANCE_CASES(X)                                 \
	X(frames_arrive_whole_and_in_order)                  \
	X(an_empty_body_is_a_frame)                          \
	X(a_body_of_many_pieces_arrives_as_one)              \
	X(large_bodies_both_ways_at_once_do_not_deadlock)    \
	X(frames_of_all_sizes_survive_any_interleaving)      \
	X(many_frames_in_one_read_are_handed_out_one_by_one) \
	X(a_frame_arrives_byte_by_byte)                      \
	X(a_large_frame_is_not_read_beyond_its_end)          \
	X(a_large_body_can_be_taken_in_parts)                \
	X(a_lost_peer_ends_the_wait_for_the_rest_of_a_body)  \
	X(a_body_over_the_limit_is_refused)                  \
	X(a_body_over_the_frame_limit_is_not_sent)           \
	X(garbage_is_a_protocol_error)                       \
	X(a_closed_peer_is_seen_after_its_last_frame)        \
	X(half_a_frame_and_a_close_is_a_lost_connection)     \
	X(a_failed_send_does_not_lose_what_came_before)      \
	X(waiting_for_a_frame_times_out)                     \
	X(waiting_for_a_frame_writes_what_is_queued)         \
	X(a_frame_that_comes_during_the_spin_says_so)        \
	X(draining_times_out_when_the_peer_does_not_read)    \
	X(backlog_counts_the_queued_bytes)                   \
	X(a_connection_names_its_peer)

#define CONFORMANCE_DECLARE_(fn) \
	void conformance_##fn(const struct conformance *);
CONFORMANCE_CASES(CONFORMANCE_DECLARE_)

#define CONFORMANCE_WRAP_(fn)                           \
	static void test_##fn(void)                     \
	{                                               \
		conformance_##fn(&conformance_backend); \
	}
#define CONFORMANCE_CASE_(fn) T(test_##fn),

#define CONFORMANCE(id, name, ops_, open_, skip_)                            \
	static const struct conformance conformance_backend = {ops_, open_}; \
	CONFORMANCE_CASES(CONFORMANCE_WRAP_)                                 \
	SUITE_UNLESS(id, name, skip_,                                        \
	             CONFORMANCE_CASES(CONFORMANCE_CASE_){NULL, NULL})

#endif
