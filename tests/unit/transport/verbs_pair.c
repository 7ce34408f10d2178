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

static int
pair_in(struct dsm_verbs_domain *const d[2], uint32_t max_body,
        struct dsm_conn *c_p[2])
{
	struct dsm_msg_qp qp[2];

	MUST_OK(verbs_tcp_pair(max_body, c_p));
	for (int i = 0; i < 2; i++)
		MUST_OK(dsm__conn_verbs_offer(c_p[i], d[i], &qp[i], NULL));
	for (int i = 0; i < 2; i++)
		MUST_OK(dsm__conn_verbs_connect(c_p[i], &qp[1 - i], NULL));
	for (int i = 0; i < 2; i++)
		MUST_OK(dsm__conn_verbs_go(c_p[i], NULL));
	return DSM_OK;
}

int
verbs_pair(uint32_t max_body, struct dsm_conn *c_p[2])
{
	struct dsm_verbs_domain *const d[2] = {domain, domain};

	return pair_in(d, max_body, c_p);
}

static struct dsm_verbs_domain *small_domain;

int
verbs_pair_of_depth(uint32_t depth, uint32_t max_body, struct dsm_verbs **v_p,
                    struct dsm_conn *c_p[2])
{
	struct dsm_verbs_choice c = {.port = 0};
	struct dsm_verbs_domain *d[2];

	MUST_OK(dsm__verbs_choice_env(&c, NULL));
	c.depth = depth;
	MUST_OK(dsm__verbs_open(&c, v_p, NULL));
	MUST_OK(dsm__verbs_domain_create(*v_p, &small_domain, NULL));
	d[0] = d[1] = small_domain;
	return pair_in(d, max_body, c_p);
}

void
verbs_pair_done(struct dsm_verbs *v)
{
	dsm__verbs_domain_destroy(small_domain);
	dsm__verbs_close(v);
}

int
verbs_pair_across(const char *a, const char *b, uint32_t max_body,
                  struct verbs_across *x_p)
{
	const char *const names[2] = {a, b};

	for (int i = 0; i < 2; i++) {
		struct dsm_verbs_choice c = {.port = 0};

		snprintf(c.device, sizeof(c.device), "%s", names[i]);
		MUST_OK(dsm__verbs_open(&c, &x_p->v[i], NULL));
		MUST_OK(dsm__verbs_domain_create(x_p->v[i], &x_p->d[i], NULL));
	}
	return pair_in(x_p->d, max_body, x_p->c);
}

void
verbs_across_close(struct verbs_across *x)
{
	for (int i = 0; i < 2; i++) {
		dsm__conn_close(x->c[i]);
		dsm__verbs_domain_destroy(x->d[i]);
		dsm__verbs_close(x->v[i]);
	}
}
