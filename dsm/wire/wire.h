/*
 * Messages: structs, encoders and decoders, all grown from messages.def.
 *
 * A message travels in one frame (dsm/transport/conn.h). Its body is its fields
 * in the order of messages.def, packed, little-endian. Decoders trust nothing:
 * every length and count is checked against the body before use, bytes left
 * over are an error (except for PAGES, whose page bytes follow the fields).
 *
 * Strings, blobs and arrays of a decoded message point into the frame's body:
 * they live as long as it does. A decoded STR is not NUL-terminated: use
 * %.*s or dsm__str_copy.
 *
 *   struct dsm_msg_read m;
 *   err = dsm__decode_read(body, len, &m);
 *
 *   struct dsm_wbuf w = {0};
 *   err = dsm__encode_read(&w, &m);   appends; dsm__wbuf_fini(&w) frees
 */
#ifndef DSM_WIRE_WIRE_H
#define DSM_WIRE_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "../base/status.h"

#define DSM_MAGIC UINT32_C(0x54524b54)
#define DSM_VERSION 1
#define DSM_READ_MAX 256          /* pages in one READ */
#define DSM_FRAME_MAX (64u << 20) /* body of any frame */
#define DSM_KEY_LEN 16
#define DSM_MAX_RACES 100 /* listed in a VERDICT */

enum dsm_role {
	DSM_ROLE_CLIENT = 1,
	DSM_ROLE_WORKER,
	DSM_ROLE_DATA,  /* slot (or the worker for it) -> client, or -> relay */
	DSM_ROLE_RELAY, /* client -> coordinator, in answer to RELAY */
	DSM_ROLE_TOOL,
};

enum dsm_range_kind {
	DSM_RANGE_HEAP = 1, /* dsm heap: strict snapshot, committed */
	DSM_RANGE_DATA,  /* globals of program and own libraries: committed */
	DSM_RANGE_ANON,  /* malloc, mmap: committed */
	DSM_RANGE_STACK, /* a thread's stack: committed */
	DSM_RANGE_CODE,  /* private read-only file mapping: never changes */
	DSM_RANGE_SYS,   /* data of system libraries: private to a task */
	DSM_RANGE_VDSO,  /* patched by the slot */
	DSM_RANGE_KEPT,  /* taskrt_private: never served, no rights */
};

/* The numbers of DSM_WILLNEED … in dsm.h. */
enum dsm_advice_kind {
	DSM_ADVICE_WILLNEED = 1, /* travels with the launch, in big windows */
	DSM_ADVICE_SEQUENTIAL,   /* big windows from the first page on, ahead */
	DSM_ADVICE_RANDOM,       /* just the page that is touched */
};

enum dsm_run_mode {
	DSM_MODE_TASKS = 1, /* array of {fn, arg} at ctx */
	DSM_MODE_FOR,       /* fn(i, ctx) */
	DSM_MODE_FOR_RANGE, /* fn(lo, hi, ctx) */
};

#define DSM_RUN_RANGES 1u /* the RUN brings a new table of ranges */
#define DSM_RUN_KEEP_PARTIAL 2u
#define DSM_RUN_FAIL_FAST 4u
#define DSM_RUN_ISOLATE 8u    /* each iteration its own writer */
#define DSM_RUN_FETCHED 16u   /* say FETCHED */
#define DSM_RUN_NO_COPIES 32u /* no second copies of tasks that are late */
#define DSM_FETCHED_MAX 512u  /* records in one FETCHED */
#define DSM_COSTS_MAX 16u     /* records in COSTS, and bytes of its texts */
#define DSM_COSTS_TEXT 4096u
#define DSM_ADVICE_MAX 1024u /* advice records in one RUN */
#define DSM_WRITES_LAST 1u
/* HELLO offers, WELCOME answers with those in use. */
#define DSM_FEATURE_VERBS UINT64_C(1) /* data link: QP may follow */
#define DSM_WELCOME_INSECURE 1u       /* client may listen beyond loopback */
#define DSM_WELCOME_VERBS_ONLY 2u     /* data link: over verbs or not at all */

/* Failure kinds, as in taskrt.h. */
enum dsm_failure_kind {
	DSM_FAIL_CRASH = 1,
	DSM_FAIL_FORBIDDEN,
	DSM_FAIL_TIMEOUT,
	DSM_FAIL_LOST,
	DSM_FAIL_CANCELLED,
};

struct dsm_str {
	const char *ptr;
	uint32_t len;
};
struct dsm_blob {
	const uint8_t *ptr;
	uint32_t len;
};
struct dsm_array {
	const uint8_t *ptr; /* packed records */
	uint32_t n;
};

/* Message numbers. */
enum dsm_msg_type {
#define MESSAGE(NAME, name, number) DSM_MSG_##NAME = number,
#include "messages.def"
};

/* struct dsm_msg_<name> and struct dsm_rec_<name>. */
#define MESSAGE(NAME, name, number) struct dsm_msg_##name {
#define RECORD(name) struct dsm_rec_##name {
#define U8(f) uint8_t f;
#define U16(f) uint16_t f;
#define U32(f) uint32_t f;
#define U64(f) uint64_t f;
#define STR(f) struct dsm_str f;
#define BLOB(f) struct dsm_blob f;
#define ARRAY(rec, f) struct dsm_array f;
#define END(name) \
	}         \
	;
#define END_RECORD(name) \
	}                \
	;
#include "messages.def"

/* Growing byte buffer of an encoder. {0} is a valid empty one. */
struct dsm_wbuf {
	uint8_t *ptr;
	size_t len, cap;
	size_t whole_end; /* packdiff.c: len after a WHOLE record, else old */
};
int dsm__wbuf_reserve(struct dsm_wbuf *w, size_t more); /* DSM_ENOMEM */
int dsm__wbuf_put(struct dsm_wbuf *w, const void *p, size_t n);
void dsm__wbuf_reset(struct dsm_wbuf *w); /* len = 0, memory kept */
void dsm__wbuf_fini(struct dsm_wbuf *w);

/*
 * int dsm__encode_<name>(w, m): append the body of m to w. DSM_ENOMEM, or
 * DSM_EINVAL (string longer than 65535, array pointer NULL with n > 0).
 * The records of an ARRAY field are packed with dsm__pack_<record> first.
 *
 * int dsm__decode_<name>(body, len, m_p): DSM_EPROTO when it is not exactly one
 * message of that kind; *m_p is then untouched. For `pages` trailing bytes are
 * allowed and found at body + DSM_PAGES_FIXED.
 *
 * int dsm__pack_<record>(w, r): append one record.
 * int dsm__unpack_<record>(array, i, r_p): record i; DSM_EPROTO when i >= n.
 * size_t dsm__sizeof_<record>(void): packed size.
 */
#define MESSAGE(NAME, name, number)                             \
	int dsm__encode_##name(struct dsm_wbuf *w,              \
	                       const struct dsm_msg_##name *m); \
	int dsm__decode_##name(const uint8_t *body, size_t len, \
	                       struct dsm_msg_##name *m_p);
#define RECORD(name)                                                  \
	int dsm__pack_##name(struct dsm_wbuf *w,                      \
	                     const struct dsm_rec_##name *r);         \
	int dsm__unpack_##name(const struct dsm_array *a, uint32_t i, \
	                       struct dsm_rec_##name *r_p);           \
	size_t dsm__sizeof_##name(void);
#include "messages.def"

#define DSM_PAGES_FIXED 24 /* bytes of the fields of PAGES */

/* Name of a message type ("RUN"), "?" for none. */
const char *dsm__msg_name(unsigned type);
/* Copy a STR into buf (NUL-terminated, cut at size - 1). Returns buf. */
char *dsm__str_copy(char *buf, size_t size, struct dsm_str s);
struct dsm_str dsm__str(const char *s);
/* The places of a FETCHED make sense: DSM_OK, or DSM_EPROTO. */
int dsm__places_check(const struct dsm_array *places);
/* The same of a COSTS. */
int dsm__costs_check(const struct dsm_msg_costs *m);
/* Counters <-> BLOB. Decoding accepts fewer counters than we know (0 for the
 * rest) and more (ignored): an older or newer peer. */
int dsm__counters_pack(struct dsm_wbuf *w, const void *counters);
void dsm__counters_unpack(struct dsm_blob b, void *counters);

#endif
