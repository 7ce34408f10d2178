#include "said.h"

#include "../../dsm/base/status.h"

/* The table holds pointers that are not NULL. */
static uint64_t
shown(const struct taskrt__said *s, uint64_t key)
{
	return (uintptr_t)dsm__idtab_get(&s->shown, key);
}

static void
set_shown(struct taskrt__said *s, uint64_t key, uint64_t n)
{
	(void)dsm__idtab_take(&s->shown, key);
	/* Out of memory: it may be shown again. */
	(void)dsm__idtab_put(&s->shown, key, (void *)(uintptr_t)n);
}

size_t
taskrt__said_before(struct taskrt__said *s, struct taskrt__speaker *p,
                    const struct dsm_msg_output *m)
{
	uint64_t key = m->task * 2 + (m->fd - 1), was, at;

	if (m->run < s->run || m->text.len == 0)
		return 0;
	if (m->run > s->run) {
		dsm__idtab_fini(&s->shown);
		s->run = m->run;
	}
	if (p->run != m->run || p->attempt != m->attempt || p->task != m->task)
		*p = (struct taskrt__speaker){m->run, m->attempt, m->task, {0}};
	at = p->said[m->fd - 1];
	p->said[m->fd - 1] += m->text.len;
	was = shown(s, key);
	if (was < at + m->text.len)
		set_shown(s, key, at + m->text.len);
	if (was <= at)
		return 0;
	return was - at < m->text.len ? (size_t)(was - at) : m->text.len;
}

void
taskrt__said_fini(struct taskrt__said *s)
{
	dsm__idtab_fini(&s->shown);
}
