/* See rdma.h. */
#include "rdma.h"

#include <stdio.h>
#include <stdlib.h>

#include "../../dsm/base/log.h"

/* A commit may hold the heap for longer than a loop may wait. */
#define HEAP_WAIT_MS 50
/* Records of one REGIONS. */
#define REGIONS_MAX 256

struct taskrt__rdma {
	const struct taskrt__rdma_ops *ops; /* const, as the next four */
	struct dsm_heap *heap;
	struct dsm_verbs *verbs;
	struct dsm_verbs_domain *domain;
	struct dsm_regions *regions;
};

const struct taskrt__rdma_ops taskrt__rdma_verbs = {
    .open = dsm__verbs_open,
    .close = dsm__verbs_close,
    .forget = dsm__verbs_forget,
    .text = dsm__verbs_text,
    .domain_create = dsm__verbs_domain_create,
    .domain_destroy = dsm__verbs_domain_destroy,
    .offer = dsm__conn_verbs_offer,
    .connect = dsm__conn_verbs_connect,
    .go = dsm__conn_verbs_go,
    .regions =
        {
            .add = dsm__verbs_register,
            .remove = dsm__verbs_unregister,
            .rkey = dsm__verbs_rkey,
        },
};

/* --- life --- */

static int
open_all(struct taskrt__rdma *r, const struct dsm_verbs_choice *choice,
         struct dsm_error *e)
{
	int err = r->ops->open(choice, &r->verbs, e);

	if (err != DSM_OK)
		return err;
	err = r->ops->domain_create(r->verbs, &r->domain, e);
	/* What can be opened but not used is not "no device". */
	if (err == DSM_ECONN)
		err = e->code = DSM_ESYS;
	if (err != DSM_OK)
		goto close_device;
	err = dsm__regions_create(r->heap->views, &r->ops->regions, r->domain,
	                          &r->regions);
	if (err != DSM_OK) {
		dsm__fail(e, err, "out of memory");
		goto destroy_domain;
	}
	return DSM_OK;
destroy_domain:
	r->ops->domain_destroy(r->domain);
close_device:
	r->ops->close(r->verbs);
	return err;
}

/* Is that worth an error, a warning, or only mentioned? */
static int
cannot_open(const struct taskrt__config *config, int code,
            const struct dsm_error *why, struct dsm_error *e)
{
	if (config->transport == TASKRT__TRANSPORT_VERBS)
		return dsm__fail(
		    e, code, "transport verbs is asked for (%s), but: %s",
		    taskrt__config_origin(config, TASKRT__SET_TRANSPORT),
		    why->text);
	/* Who names a device expects one. */
	if (code == DSM_ECONN && config->verbs.device[0] == '\0')
		log_info("no RDMA: %s; data links use tcp", why->text);
	else
		log_warn("RDMA cannot be used: %s; data links use tcp "
		         "(TASKRT_TRANSPORT=tcp: no warning)",
		         why->text);
	return DSM_OK;
}

int
taskrt__rdma_open(const struct taskrt__config *config, struct dsm_heap *heap,
                  const struct taskrt__rdma_ops *ops, struct taskrt__rdma **r_p,
                  char *why, size_t why_size, struct dsm_error *e)
{
	struct dsm_error cause = {0};
	struct taskrt__rdma *r;

	*r_p = NULL;
	why[0] = '\0';
	if (config->coordinator[0] == '\0' ||
	    (config->transport != TASKRT__TRANSPORT_AUTO &&
	     config->transport != TASKRT__TRANSPORT_VERBS))
		return DSM_OK;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	r->ops = ops;
	r->heap = heap;
	int err = open_all(r, &config->verbs, &cause);
	if (err != DSM_OK) {
		free(r);
		snprintf(why, why_size, "%s", cause.text);
		return cannot_open(config, err, &cause, e);
	}
	log_info("data links may use %s", ops->text(r->verbs));
	*r_p = r;
	return DSM_OK;
}

void
taskrt__rdma_close(struct taskrt__rdma *r)
{
	if (r == NULL)
		return;
	dsm__heap_lock(r->heap);
	dsm__regions_destroy(r->regions);
	dsm__heap_unlock(r->heap);
	r->ops->domain_destroy(r->domain);
	r->ops->close(r->verbs);
	free(r);
}

void
taskrt__rdma_forget(struct taskrt__rdma *r)
{
	if (r != NULL)
		r->ops->forget(r->verbs);
}

const char *
taskrt__rdma_text(const struct taskrt__rdma *r)
{
	return r->ops->text(r->verbs);
}

/* --- links --- */

int
taskrt__rdma_connect(struct taskrt__rdma *r, struct dsm_conn *conn,
                     const struct dsm_msg_qp *theirs, struct dsm_msg_qp *mine,
                     struct dsm_error *e)
{
	int err = r->ops->offer(conn, r->domain, mine, e);

	return err == DSM_OK ? r->ops->connect(conn, theirs, e) : err;
}

int
taskrt__rdma_go(struct taskrt__rdma *r, struct dsm_conn *conn,
                struct dsm_error *e)
{
	return r->ops->go(conn, e);
}

/* --- regions --- */

/* What addr lies in; while a commit has the heap, the granule goes in messages. */
static int
ask(struct taskrt__rdma *r, const struct dsm_msg_ask_key *m,
    struct dsm_rec_region *rec_p)
{
	uint64_t off = m->addr - r->heap->base; /* huge when below */
	uint64_t at = r->heap->base + (off & ~(DSM_REGION_GRANULE - 1));

	if (off >= r->heap->size)
		return DSM_EPROTO;
	if (dsm__heap_lock_within(r->heap, HEAP_WAIT_MS) != DSM_OK) {
		*rec_p = (struct dsm_rec_region){
		    .start = at,
		    .end = at + DSM_REGION_GRANULE,
		};
		return DSM_OK;
	}
	int err = dsm__regions_ask(r->regions, m->addr, m->len, rec_p);
	dsm__heap_unlock(r->heap);
	return err;
}

int
taskrt__rdma_regions(struct taskrt__rdma *r, const struct dsm_msg_ask_key *m,
                     size_t *told_p, struct dsm_wbuf *w, uint32_t *n_p)
{
	struct dsm_rec_region first, rec;
	size_t told = *told_p;
	uint32_t n = 1;

	int err = ask(r, m, &first);
	if (err == DSM_OK)
		err = dsm__pack_region(w, &first);
	while (err == DSM_OK && n < REGIONS_MAX &&
	       told < dsm__regions_count(r->regions)) {
		dsm__regions_get(r->regions, told++, &rec);
		if (rec.start == first.start)
			continue;
		err = dsm__pack_region(w, &rec);
		n++;
	}
	if (err != DSM_OK)
		return err;
	*told_p = told;
	*n_p = n;
	return DSM_OK;
}
