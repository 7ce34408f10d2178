/* What a program's arrays cost: kept for `taskrt stat`, as the client last said it. */
#include "core.h"

int
coord__session_costs(struct session *s, const struct dsm_frame *f)
{
	struct dsm_msg_costs m;

	if (dsm__decode_costs(f->body, f->len, &m) != DSM_OK ||
	    dsm__costs_check(&m) != DSM_OK)
		return DSM_EPROTO;
	dsm__wbuf_reset(&s->costs);
	/* Without memory for it there is nothing to show. */
	if (dsm__wbuf_put(&s->costs, f->body, f->len) != DSM_OK)
		dsm__wbuf_reset(&s->costs);
	return DSM_OK;
}

size_t
coord__session_cost(const struct session *s, size_t i, struct dsm_rec_cost *r_p,
                    char *what, size_t size)
{
	struct dsm_msg_costs m;
	struct dsm_str text;

	if (s->costs.len == 0 ||
	    dsm__decode_costs(s->costs.ptr, s->costs.len, &m) != DSM_OK ||
	    i >= m.costs.n)
		return 0;
	dsm__unpack_cost(&m.costs, (uint32_t)i, r_p);
	text.ptr = (const char *)m.texts.ptr + r_p->text_off;
	text.len =
	    r_p->text_len < UINT16_MAX ? (uint16_t)r_p->text_len : UINT16_MAX;
	dsm__str_copy(what, size, text);
	return m.costs.n - i;
}
