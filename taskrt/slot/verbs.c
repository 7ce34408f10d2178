#include "verbs.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "../../dsm/base/clock.h"
#include "../../dsm/transport/verbs.h"

/* As for pages: the client's thread may be stopped in a debugger. */
#define REPLY_MS 30000u
#define SPIN_NS (100 * DSM_US)
/* The fabric's own retries end sooner. */
#define PROVE_MS 10000u

/* Never closed once the link has gone over: they end with the process. */
struct over {
	struct dsm_conn *data;
	struct dsm_verbs *verbs;
	struct dsm_verbs_domain *domain;
	char *text;
};

static void __attribute__((format(printf, 2, 3)))
say(struct over *o, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(o->text, VERBS_TEXT_MAX, fmt, ap);
	va_end(ap);
}

static int
send_frame(struct over *o, unsigned type, int err, struct dsm_wbuf *w)
{
	struct iovec iov = {w->ptr, w->len};

	if (err == DSM_OK)
		err = dsm__conn_send(o->data, type, 0, 0, &iov, 1);
	if (err == DSM_OK)
		err = dsm__conn_drain(o->data, dsm__deadline_ms(REPLY_MS));
	dsm__wbuf_fini(w);
	return err;
}

static int
receive(struct over *o, unsigned type, uint32_t ms, struct dsm_frame *f)
{
	int err = dsm__conn_recv_wait(o->data, dsm__deadline_ms(ms), SPIN_NS, f,
	                              NULL);

	return err == DSM_OK && f->type != type ? DSM_EPROTO : err;
}

/* Swap descriptions of queue pairs: DSM_EAGAIN when the client declines. */
static int
swap(struct over *o, const struct dsm_msg_qp *mine)
{
	struct dsm_error e = {0};
	struct dsm_wbuf w = {0};
	struct dsm_msg_qp theirs;
	struct dsm_frame f;
	char text[VERBS_TEXT_MAX];
	int err;

	err = dsm__encode_qp(&w, mine);
	err = send_frame(o, DSM_MSG_QP, err, &w);
	if (err == DSM_OK)
		err = receive(o, DSM_MSG_QP, REPLY_MS, &f);
	if (err == DSM_OK)
		err = dsm__decode_qp(f.body, f.len, &theirs);
	if (err != DSM_OK) {
		say(o, "the program's answer to a queue pair: %s",
		    dsm__strerror(err));
		return err;
	}
	if (theirs.number == 0) {
		say(o, "the program: %s",
		    dsm__str_copy(text, sizeof(text), theirs.text));
		dsm__conn_verbs_withdraw(o->data);
		return DSM_EAGAIN;
	}
	err = dsm__conn_verbs_connect(o->data, &theirs, &e);
	if (err == DSM_OK)
		err = dsm__conn_verbs_go(o->data, &e);
	if (err != DSM_OK)
		say(o, "%s", e.text);
	return err;
}

/*
 * Here, not at the first page: a fabric that looks well and brings nothing (a
 * firewall, a route) then costs no task's time and no attempt.
 */
static int
prove(struct over *o)
{
	const struct dsm_msg_ping ping = {.seq = 1};
	struct dsm_wbuf w = {0};
	struct dsm_frame f;
	int err;

	err = dsm__encode_ping(&w, &ping);
	err = send_frame(o, DSM_MSG_PING, err, &w);
	if (err == DSM_OK)
		err = receive(o, DSM_MSG_PONG, PROVE_MS, &f);
	if (err == DSM_OK)
		return DSM_OK;
	say(o, "%s: nothing comes through: %s", dsm__verbs_text(o->verbs),
	    *dsm__conn_why(o->data) != '\0' ? dsm__conn_why(o->data)
	                                    : dsm__strerror(err));
	return err;
}

static void
open_ring(struct over *o, struct fetch_direct *direct)
{
	struct dsm_error e = {0};
	uint8_t *ring = mmap(NULL, FETCH_RING, PROT_READ | PROT_WRITE,
	                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int err = DSM_ENOMEM;

	if (ring != MAP_FAILED)
		err = dsm__conn_read_ring(o->data, ring, FETCH_RING, &e);
	if (err != DSM_OK) {
		say(o, "%s, without RDMA READs: %s", dsm__verbs_text(o->verbs),
		    e.text[0] != '\0' ? e.text : strerror(errno));
		return;
	}
	*direct = (struct fetch_direct){
	    .start = dsm__conn_read_start,
	    .wait = dsm__conn_read_wait,
	    .ring = ring,
	    .ring_len = FETCH_RING,
	};
}

enum verbs_end
verbs_go_over(struct dsm_conn *data, const char *choice,
              struct fetch_direct *direct_p, char text[VERBS_TEXT_MAX])
{
	struct over o = {.data = data, .text = text};
	struct dsm_verbs_choice c = {0};
	struct dsm_error e = {0};
	struct dsm_msg_qp mine;
	int err;

	*direct_p = (struct fetch_direct){0};
	err = dsm__verbs_choice_parse(choice, &c);
	if (err != DSM_OK)
		dsm__fail(&e, err, "\"%s\" is no choice of a device", choice);
	if (err == DSM_OK)
		err = dsm__verbs_open(&c, &o.verbs, &e);
	if (err == DSM_OK)
		err = dsm__verbs_domain_create(o.verbs, &o.domain, &e);
	if (err == DSM_OK)
		err = dsm__conn_verbs_offer(data, o.domain, &mine, &e);
	if (err != DSM_OK) {
		say(&o, "%s", e.text);
		goto stay;
	}
	err = swap(&o, &mine);
	if (err == DSM_EAGAIN)
		goto stay;
	if (err != DSM_OK)
		return VERBS_LOST;
	if (prove(&o) != DSM_OK)
		return VERBS_LOST;
	say(&o, "%s", dsm__verbs_text(o.verbs));
	open_ring(&o, direct_p);
	return VERBS_OVER;
stay:
	dsm__verbs_domain_destroy(o.domain);
	dsm__verbs_close(o.verbs);
	return VERBS_STAYED;
}
