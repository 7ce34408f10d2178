#include "verbs_pair.h"

#include <stdio.h>

#include "../../conformance/conformance.h"

static struct dsm_verbs *device;
static struct dsm_verbs_domain *domain;

const char *
verbs_missing(void)
{
	static struct dsm_error e;
	struct dsm_verbs_choice c = {.port = 0};

	if (domain != NULL)
		return NULL;
	if (dsm__verbs_choice_env(&c, &e) != DSM_OK ||
	    dsm__verbs_open(&c, &device, &e) != DSM_OK ||
	    dsm__verbs_domain_create(device, &domain, &e) != DSM_OK)
		return e.text;
	printf("verbs: %s\n", dsm__verbs_text(device));
	return NULL;
}

struct dsm_verbs *
verbs_device(void)
{
	return device;
}

struct dsm_verbs_domain *
verbs_domain(void)
{
	return domain;
}

int
verbs_tcp_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	return conformance_sockets(&dsm__tcp_ops, dsm__shm_pair, max_body, c_p);
}

int
verbs_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	struct dsm_msg_qp qp[2];
	struct dsm_error e = {0};

	MUST_OK(verbs_tcp_pair(max_body, c_p));
	for (int i = 0; i < 2; i++)
		MUST_OK(dsm__conn_verbs_offer(c_p[i], domain, &qp[i], &e));
	for (int i = 0; i < 2; i++)
		MUST_OK(dsm__conn_verbs_connect(c_p[i], &qp[1 - i], &e));
	for (int i = 0; i < 2; i++)
		MUST_OK(dsm__conn_verbs_go(c_p[i], &e));
	return DSM_OK;
}
