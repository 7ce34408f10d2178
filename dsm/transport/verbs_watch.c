/*
 * What no completion tells of.
 *
 * What the device says (asynchronous events): its link went down, its address has
 * changed, it failed, or a queue pair did. Without that an idle queue pair on a dead
 * port looks well until somebody needs it. A descriptor for all queue pairs of the
 * device, which is in the epoll set of each: whoever is woken first takes the events,
 * notes in every queue pair concerned what was said (cut), and stops it. Its receives
 * come back unused then, which wakes its owner; the owner makes it FAILED. A link that
 * is down for less than the retries take costs its queue pairs that way, too: the
 * tasks are run again over TCP, rather than wait for whether it comes back.
 *
 * A queue pair that has stopped. Whatever is posted ends after the adapter's
 * retries, well or not: that is the promise of a reliable queue pair, and nobody
 * would wait for its end otherwise. Soft-RoCE has been seen to break it (a retry that
 * it forgot), firmware may, too. So requests that will be heard of (signalled) and of
 * which none has come back for VERBS_STALL_MS fail the connection. Time is looked at
 * only before a sleep and once a second in it, never while spinning: a request that
 * was under way at two looks, with none come back in between, has been so all the time.
 */
#include "verbs_queue.h"

#include "../base/clock.h"

/* --- the device --- */

static void
cut(struct verbs_queue *q, enum ibv_event_type why)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	int none = 0;

	if (atomic_compare_exchange_strong(&q->cut, &none, 1 + (int)why))
		q->lib->modify_qp(q->qp, &attr, IBV_QP_STATE);
}

/* mutex held. qp, cq: one of them, or NULL: all. */
static void
cut_those(struct dsm_verbs *v, const struct ibv_qp *qp, const struct ibv_cq *cq,
          enum ibv_event_type why)
{
	struct verbs_queue *q;

	TAILQ_FOREACH(q, &v->queues, link)
	{
		if ((qp == NULL || q->qp == qp) && (cq == NULL || q->cq == cq))
			cut(q, why);
	}
}

/* mutex held. */
static void
on_event(struct dsm_verbs *v, const struct ibv_async_event *ev)
{
	switch (ev->event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		cut_those(v, ev->element.qp, NULL, ev->event_type);
		break;
	case IBV_EVENT_CQ_ERR:
		cut_those(v, NULL, ev->element.cq, ev->event_type);
		break;
	case IBV_EVENT_PORT_ERR:
	case IBV_EVENT_LID_CHANGE:
		if ((uint32_t)ev->element.port_num == v->port)
			cut_those(v, NULL, NULL, ev->event_type);
		break;
	case IBV_EVENT_DEVICE_FATAL:
		cut_those(v, NULL, NULL, ev->event_type);
		break;
	default: /* nothing that ends a connection */
		break;
	}
}

void
dsm__verbs_hear(struct dsm_verbs *v)
{
	struct ibv_async_event ev;

	while (v->lib->get_async_event(v->ctx, &ev) == 0) {
		pthread_mutex_lock(&v->mutex);
		on_event(v, &ev);
		pthread_mutex_unlock(&v->mutex);
		/* Until then no queue pair that it names can be destroyed. */
		v->lib->ack_async_event(&ev);
	}
}

int
dsm__queue_is_cut(struct verbs_queue *q)
{
	int said = atomic_load(&q->cut);
	const char *what;

	if (said == 0)
		return 0;
	switch (said - 1) {
	case IBV_EVENT_PORT_ERR:
		what = "its link went down";
		break;
	case IBV_EVENT_LID_CHANGE:
		what = "its LID has changed";
		break;
	default:
		what = q->lib->event_type_str((enum ibv_event_type)(said - 1));
	}
	dsm__queue_fail(q, DSM_ECONN, "%s: %s", q->domain->v->name, what);
	return 1;
}

void
dsm__verbs_join(struct verbs_queue *q)
{
	struct dsm_verbs *v = q->domain->v;

	pthread_mutex_lock(&v->mutex);
	TAILQ_INSERT_TAIL(&v->queues, q, link);
	pthread_mutex_unlock(&v->mutex);
}

void
dsm__verbs_leave(struct verbs_queue *q)
{
	struct dsm_verbs *v = q->domain->v;

	pthread_mutex_lock(&v->mutex);
	TAILQ_REMOVE(&v->queues, q, link);
	pthread_mutex_unlock(&v->mutex);
}

/* --- a queue pair that has stopped --- */

void
dsm__queue_watch(struct verbs_queue *q)
{
	uint64_t now;

	if (q->err != DSM_OK || q->retired >= q->signalled) {
		q->watched_since = 0;
		return;
	}
	now = dsm__now();
	if (q->watched_since == 0 || q->watched != q->retired) {
		q->watched = q->retired;
		q->watched_since = now;
		return;
	}
	if (now - q->watched_since >= q->domain->v->stall_ms * DSM_MS)
		dsm__queue_fail(
		    q, DSM_ECONN,
		    "%s: the queue pair has stopped: nothing came back for "
		    "%u s, %llu requests are under way",
		    q->domain->v->name, q->domain->v->stall_ms / 1000,
		    (unsigned long long)(q->posted - q->retired));
}
