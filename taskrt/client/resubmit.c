/*
 * A run whose coordinator went: launched once more where its session has been
 * joined again.
 *
 * The tasks must see what they would have seen: the heap's serving view stands
 * still until the commit, and of other memory the page server has kept what it has
 * served. So nothing is frozen again; and since the new session's workers have no
 * page of it, there is nothing to drop or to update. Attempts of the first launch
 * cannot be mixed up with those of the second: the links that brought them are
 * closed, and what they brought is thrown away before there are new ones.
 */
#include "run_priv.h"

#include "../../dsm/heap/heap.h"

/* A run that takes its coordinator down each time must end, too. */
#define RESUBMIT_MAX 16

int
taskrt__run_may_resume(struct taskrt_run *run)
{
	struct taskrt__session *s = run->session;

	if (run->cancelled) {
		taskrt__session_lose(s, DSM_ECANCELED, "the run was cancelled");
		return 0;
	}
	if (run->n_resent == RESUBMIT_MAX) {
		taskrt__session_lose(s, DSM_ECONN,
		                     "the coordinator at %s was lost %d times "
		                     "in this run; look at its log",
		                     s->config->coordinator, RESUBMIT_MAX + 1);
		return 0;
	}
	dsm__stage_destroy(run->stage);
	run->stage = NULL;
	if (dsm__stage_create(&run->stage) == DSM_OK)
		return 1;
	taskrt__session_lose(s, DSM_ENOMEM, "out of memory for a run");
	return 0;
}

/* Workers may be as long in coming back as the coordinator. */
static uint32_t
wait_ms(const struct taskrt_run *run)
{
	const struct taskrt__config *c = run->session->config;
	uint64_t ms =
	    c->wait_ms > c->reconnect_ms ? c->wait_ms : c->reconnect_ms;

	return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

void
taskrt__run_resubmit(struct taskrt_run *run)
{
	struct taskrt__session *s = run->session;
	struct dsm_wbuf ranges = {0}, advice = {0};
	struct dsm_msg_run m = run->m;
	struct dsm_error e = {0};

	s->last_run = 1;
	run->id = m.run = 1;
	run->n_resent++;
	m.session = s->id;
	m.wait_ms = wait_ms(run);
	m.flags |= DSM_RUN_RANGES;
	dsm__heap_lock(s->heap);
	taskrt__launch_advice(s, &advice, &m.advice.n);
	dsm__heap_unlock(s->heap);
	m.advice.ptr = advice.ptr;
	int err = taskrt__session_pack_ranges(s, UINT64_MAX, &ranges,
	                                      &m.ranges.n, &s->sent_version);
	m.ranges.ptr = ranges.ptr;
	if (err == DSM_OK)
		taskrt__launch_send(run, &m, &e); /* or the session is lost */
	else
		taskrt__session_lose(s, err, "cannot describe the launch: %s",
		                     dsm__strerror(err));
	dsm__wbuf_fini(&ranges);
	dsm__wbuf_fini(&advice);
}
