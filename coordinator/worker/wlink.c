/*
 * Which transport the slots of a session use, and what the coordinator is told of
 * it.
 *
 * A slot begins on TCP and goes over to verbs when worker and client both offer
 * it. When a queue pair fails, the slot ends and its tasks go back, as with any
 * lost connection; what is started within VERBS_OFF_MS after it stays on TCP, for
 * a fabric that has broken down is not there again at once. Who insists on verbs
 * (worker or client) gets new attempts instead, as many as any slot that does not
 * start.
 */
#include "worker_priv.h"

#include <stdio.h>
#include <string.h>

#define VERBS_OFF_MS 30000

int
link_insists(const struct wsession *ss)
{
	return ss->w->p.verbs.only || ss->way.client_insists;
}

static int
is_off(const struct wsession *ss)
{
	return !link_insists(ss) && dsm__now() < ss->way.off_until;
}

int
link_offers_verbs(const struct wsession *ss)
{
	return ss->w->p.verbs.usable && !is_off(ss);
}

const char *
link_why_tcp(const struct wsession *ss, char *buf, size_t size)
{
	const struct worker_verbs *v = &ss->w->p.verbs;

	if (!v->usable)
		snprintf(buf, size, "%s", v->why_not);
	else if (is_off(ss))
		snprintf(buf, size, "%s", ss->way.failure);
	else if (ss->use_relay)
		snprintf(buf, size, "the coordinator's relay is in between");
	else
		snprintf(buf, size, "the program does not offer verbs");
	return buf;
}

void
link_is(struct wsession *ss, const char *transport, const char *text, int warn)
{
	struct wlink *l = &ss->way;

	if (strcmp(l->transport, transport) == 0 && strcmp(l->text, text) == 0)
		return;
	snprintf(l->transport, sizeof(l->transport), "%s", transport);
	snprintf(l->text, sizeof(l->text), "%s", text);
	if (warn)
		log_warn("session %llu: slots use %s: %s", ULL(ss->id),
		         l->transport, l->text);
	else
		log_debug("session %llu: slots use %s: %s", ULL(ss->id),
		          l->transport, l->text);
	worker_send_link(ss, l->transport, l->text);
}

void
link_failed(struct wsession *ss, const char *why)
{
	struct wlink *l = &ss->way;
	int told = dsm__now() < l->off_until;

	/* Its other slots say the same: once is enough. */
	if (told)
		log_debug("session %llu: %s", ULL(ss->id), why);
	else if (link_insists(ss))
		log_warn("session %llu: %s; it is tried again, as nothing but "
		         "verbs is wanted",
		         ULL(ss->id), why);
	else
		log_warn("session %llu: %s; its slots use tcp for %d s",
		         ULL(ss->id), why, VERBS_OFF_MS / 1000);
	snprintf(l->failure, sizeof(l->failure), "%s", why);
	l->off_until = dsm__deadline_ms(VERBS_OFF_MS);
}
