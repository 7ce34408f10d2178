#include "rdma.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../dsm/base/log.h"
#include "../dsm/transport/verbs.h"

enum kind {
	KIND_AUTO,
	KIND_TCP,
	KIND_VERBS,
	KIND_NONE,
};

static enum kind
parse_kind(const char *text, const char *where)
{
	if (strcmp(text, "auto") == 0)
		return KIND_AUTO;
	if (strcmp(text, "tcp") == 0)
		return KIND_TCP;
	if (strcmp(text, "verbs") == 0)
		return KIND_VERBS;
	fprintf(stderr,
	        "taskrt-worker: %s is auto, tcp or verbs, not \"%.100s\"; see "
	        "--help\n",
	        where, text);
	return KIND_NONE;
}

static enum kind
wanted_kind(const struct rdma_options *o)
{
	const char *env = getenv("TASKRT_TRANSPORT");

	if (o->transport != NULL)
		return parse_kind(o->transport, "--transport");
	if (env != NULL && *env != '\0')
		return parse_kind(env, "TASKRT_TRANSPORT of a worker");
	return KIND_AUTO;
}

/* Options over environment. */
static int
wanted_device(const struct rdma_options *o, struct dsm_verbs_choice *c,
              struct dsm_error *e)
{
	int err = dsm__verbs_choice_env(c, e);

	if (err != DSM_OK)
		return err;
	if (o->device != NULL && strlen(o->device) >= sizeof(c->device))
		return dsm__fail(e, DSM_EINVAL,
		                 "--device: the name is too long");
	if (o->device != NULL)
		snprintf(c->device, sizeof(c->device), "%s", o->device);
	if (o->port != 0)
		c->port = (uint32_t)o->port;
	if (o->gid_index != RDMA_ANY_GID)
		c->gid_index = 1 + (uint32_t)o->gid_index;
	return DSM_OK;
}

/* 0, or the exit status. */
static int
try_device(const struct dsm_verbs_choice *c, struct worker_verbs *v)
{
	struct dsm_error e = {0};
	struct dsm_verbs *verbs;
	int err = dsm__verbs_open(c, &verbs, &e);

	if (err == DSM_OK) {
		v->usable = 1;
		log_info("verbs: %s", dsm__verbs_text(verbs));
		/* Each slot opens it for itself. */
		dsm__verbs_close(verbs);
		return 0;
	}
	if (v->only) {
		log_error("verbs: %s", e.text);
		return 1;
	}
	snprintf(v->why_not, sizeof(v->why_not), "%s", e.text);
	if (err == DSM_ECONN)
		log_info("verbs: %s; using tcp", e.text);
	else
		log_warn("verbs: %s; using tcp", e.text);
	return 0;
}

int
rdma_probe(const struct rdma_options *o, struct worker_verbs *v_p)
{
	struct dsm_verbs_choice c = {0};
	struct dsm_error e = {0};
	struct worker_verbs v = {0};
	enum kind kind = wanted_kind(o);
	int status = 0;

	if (kind == KIND_NONE)
		return 2;
	v.only = kind == KIND_VERBS;
	if (kind != KIND_TCP) {
		if (wanted_device(o, &c, &e) != DSM_OK ||
		    dsm__verbs_choice_text(&c, v.choice, sizeof(v.choice)) !=
		        DSM_OK) {
			fprintf(stderr, "taskrt-worker: %s; see --help\n",
			        e.text[0] != '\0' ? e.text : "--device");
			return 2;
		}
		status = try_device(&c, &v);
	}
	if (status == 0)
		*v_p = v;
	return status;
}
