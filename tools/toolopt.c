#include "toolopt.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../dsm/base/clock.h"
#include "../dsm/base/page.h"
#include "../dsm/transport/access.h"
#include "../dsm/wire/wire.h"

#define DEFAULT_ADDR "127.0.0.1:7070"

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#endif

static int
send_body(struct dsm_conn *conn, unsigned type, int err, struct dsm_wbuf *w,
          uint64_t deadline)
{
	const struct iovec iov = {w->ptr, w->len};

	if (err == DSM_OK)
		err = dsm__conn_send(conn, type, 0, 0, &iov, 1);
	if (err == DSM_OK)
		err = dsm__conn_drain(conn, deadline);
	dsm__wbuf_fini(w);
	return err;
}

/* The answer of that type; the coordinator's PINGs in between are answered. */
static int
wait_for(struct dsm_conn *conn, unsigned type, uint64_t deadline,
         struct dsm_frame *f, struct dsm_error *e)
{
	const char *peer = dsm__conn_peer(conn);

	for (;;) {
		struct dsm_msg_refuse refuse;
		int err = dsm__conn_recv_wait(conn, deadline, 0, f, NULL);

		if (err != DSM_OK)
			return dsm__fail(e, err, "no %s from %s: %s",
			                 dsm__msg_name(type), peer,
			                 dsm__strerror(err));
		if (f->type == type)
			return DSM_OK;
		if (f->type == DSM_MSG_PING) {
			const struct iovec iov = {(void *)(uintptr_t)f->body,
			                          f->len};

			/* Same body; what fails shows at the next recv. */
			dsm__conn_send(conn, DSM_MSG_PONG, 0, 0, &iov, 1);
			continue;
		}
		if (f->type == DSM_MSG_REFUSE &&
		    dsm__decode_refuse(f->body, f->len, &refuse) == DSM_OK)
			return dsm__fail(
			    e, -(int)refuse.code, "%s refuses: %.*s", peer,
			    refuse.text.len < 200 ? (int)refuse.text.len : 200,
			    refuse.text.ptr);
		return dsm__fail(e, DSM_EPROTO, "%s sent %s instead of %s",
		                 peer, dsm__msg_name(f->type),
		                 dsm__msg_name(type));
	}
}

static int
greet(struct dsm_conn *conn, uint64_t deadline, struct dsm_error *e)
{
	const struct dsm_msg_hello m = {
	    .magic = DSM_MAGIC,
	    .version = DSM_VERSION,
	    .role = DSM_ROLE_TOOL,
	    .page_size = DSM_PAGE,
	    .arch = OUR_MACHINE,
	    .pid = (uint32_t)getpid(),
	    .name = dsm__str("taskrt"),
	};
	struct dsm_wbuf w = {0};
	struct dsm_frame f;
	int err = send_body(conn, DSM_MSG_HELLO, dsm__encode_hello(&w, &m), &w,
	                    deadline);

	if (err != DSM_OK)
		return dsm__fail(e, err, "cannot send to %s: %s",
		                 dsm__conn_peer(conn), dsm__strerror(err));
	return wait_for(conn, DSM_MSG_WELCOME, deadline, &f, e);
}

static int
is_set(const char *name)
{
	const char *value = getenv(name);

	return value != NULL && strcmp(value, "1") == 0;
}

static int
connect_with(const struct dsm_access *access, const char *addr,
             uint64_t deadline, struct dsm_conn **conn_p, struct dsm_error *e)
{
	struct dsm_conn *conn;
	int fd;
	int err = dsm__tcp_connect(addr, deadline, &fd, e);

	if (err != DSM_OK)
		return err;
	err = dsm__access_conn(access, fd, addr, DSM_FRAME_MAX, &conn, e);
	if (err != DSM_OK)
		return err;
	err = greet(conn, deadline, e);
	if (err != DSM_OK) {
		if (dsm__access_denied(access, conn, addr, e))
			err = e->code;
		dsm__conn_close(conn);
		return err;
	}
	*conn_p = conn;
	return DSM_OK;
}

int
tool_connect(const struct tool_target *t, uint64_t wait_ms,
             struct dsm_conn **conn_p, struct dsm_error *e)
{
	const char *addr = t->addr, *file = t->token_file;
	struct dsm_access access;
	int err;

	if (addr == NULL)
		addr = getenv("TASKRT_COORDINATOR");
	if (addr == NULL || *addr == '\0')
		addr = DEFAULT_ADDR;
	if (file == NULL)
		file = getenv("TASKRT_TOKEN_FILE");
	err = dsm__access_init(&access, file,
	                       t->insecure || is_set("TASKRT_INSECURE"),
	                       DSM_TOKEN_ADMIN, e);
	if (err == DSM_OK)
		err = connect_with(&access, addr, dsm__deadline_ms(wait_ms),
		                   conn_p, e);
	dsm__access_fini(&access);
	return err;
}

int
tool_ask_stat(struct dsm_conn *conn, uint64_t wait_ms, char **json_p,
              struct dsm_error *e)
{
	uint64_t deadline = dsm__deadline_ms(wait_ms);
	const struct dsm_msg_stat ask = {0};
	struct dsm_msg_stat_reply reply;
	struct dsm_wbuf w = {0};
	struct dsm_frame f;
	int err = send_body(conn, DSM_MSG_STAT, dsm__encode_stat(&w, &ask), &w,
	                    deadline);

	if (err != DSM_OK)
		return dsm__fail(e, err, "cannot send to %s: %s",
		                 dsm__conn_peer(conn), dsm__strerror(err));
	err = wait_for(conn, DSM_MSG_STAT_REPLY, deadline, &f, e);
	if (err != DSM_OK)
		return err;
	if (dsm__decode_stat_reply(f.body, f.len, &reply) != DSM_OK)
		return dsm__fail(e, DSM_EPROTO, "malformed answer from %s",
		                 dsm__conn_peer(conn));
	*json_p = strndup(reply.text.ptr, reply.text.len);
	return *json_p != NULL ? DSM_OK
	                       : dsm__fail(e, DSM_ENOMEM, "out of memory");
}
