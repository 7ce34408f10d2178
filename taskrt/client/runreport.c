/* What the program is told of a run: its report, with names for addresses. */
#include "run_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "../../dsm/base/log.h"
#include "../../dsm/heap/heap.h"
#include "../../dsm/heap/selfmem.h"
#include "checklog.h"
#include "debuginfo.h"

/* "temperatures[17] of 800 bytes, allocated at heat.c:42" */
static void
where(void *ctx, const void *addr, char *buf, size_t size)
{
	struct dsm_alloc_info info;
	char place[40] = "", by[200];
	uint64_t call;

	if (!dsm__heap_find(addr, &info)) {
		taskrt__debuginfo_data(ctx, (uintptr_t)addr, buf, size);
		return;
	}
	size_t off = (size_t)((const char *)addr - (const char *)info.base);
	if (info.elem_size > 0)
		snprintf(place, sizeof(place), "[%zu]", off / info.elem_size);
	else if (off > 0)
		snprintf(place, sizeof(place), " + %zu", off);
	/* The return address belongs to the call before it. */
	call = (uintptr_t)info.return_address - 1;
	taskrt__debuginfo_code(ctx, call, by, sizeof(by));
	snprintf(buf, size, "%s%s of %zu bytes%s%s",
	         info.label[0] != '\0' ? info.label : "block", place, info.size,
	         by[0] != '\0' ? ", allocated in " : "", by);
}

static size_t
backtrace(void *ctx, struct dsm_blob context, struct dsm_wbuf *w, size_t *own_p)
{
	return taskrt__debuginfo_backtrace(ctx, context, w, own_p);
}

/* What the program has there, whatever that address is. */
static void
program_value(struct dsm_value *v)
{
	const struct iovec to = {v->bytes, v->len};
	const struct iovec from = {(void *)(uintptr_t)v->addr, v->len};

	v->n = dsm__self_read(&to, &from, 1) == v->len ? v->len : 0;
}

/* Both sides of each listed race; NULL: none, or no memory for them. */
static struct dsm_value *
race_values(struct taskrt_run *run, const struct outcome *o)
{
	const struct dsm_array *listed = &o->verdict.races;
	size_t n = listed->n + o->n_client_races;
	struct dsm_value *v;

	if (n == 0 || n > DSM_MAX_RACES)
		return NULL;
	v = calloc(2 * n, sizeof(*v));
	for (size_t i = 0; i < n && v != NULL; i++) {
		struct dsm_rec_race rec = {0};

		if (i < listed->n)
			(void)dsm__unpack_race(listed, (uint32_t)i, &rec);
		else
			rec = (struct dsm_rec_race){
			    o->client_races[i - listed->n].task_a,
			    TASKRT_CLIENT,
			    (uintptr_t)o->client_races[i - listed->n].addr,
			    o->client_races[i - listed->n].len,
			};
		v[2 * i] = v[2 * i + 1] = (struct dsm_value){
		    .task = rec.task_a,
		    .addr = rec.addr,
		    .len = rec.len < DSM_VALUE_MAX ? (uint32_t)rec.len
		                                   : DSM_VALUE_MAX,
		};
		v[2 * i + 1].task = rec.task_b;
	}
	if (v == NULL)
		return NULL;
	dsm__stage_values(run->stage, v, 2 * n);
	for (size_t i = listed->n; i < n; i++)
		program_value(&v[2 * i + 1]);
	return v;
}

void
taskrt__run_report(struct taskrt_run *run, const struct outcome *o)
{
	const struct dsm_msg_verdict *v = &o->verdict;
	struct taskrt__report_source src = {
	    .error = taskrt__public_code(o->error.code),
	    .text = o->error.text,
	    .name = run->name,
	    .failures = v->failures,
	    .texts = v->texts,
	    .n_races = v->n_races,
	    .races = v->races,
	    .client_races = o->client_races,
	    .n_client_races = o->n_client_races,
	    .counters = &run->counters,
	    .where = where,
	    .backtrace = backtrace,
	    .loop = run->job.mode != DSM_MODE_TASKS,
	    .chunked = run->job.mode != DSM_MODE_TASKS &&
	               !run->session->config->check_iterations,
	};

	run->error = o->error;
	if (src.n_races + src.n_client_races + src.failures.n > 0)
		src.ctx = taskrt__debuginfo_open();
	struct dsm_value *values = race_values(run, o);
	src.values = values;
	int err = taskrt__report_make(&src, &run->report);
	free(values);
	taskrt__debuginfo_close(src.ctx);
	if (err != DSM_OK && o->error.code == DSM_OK)
		log_warn("no report of a run: %s", dsm__strerror(err));
	if (err == DSM_OK)
		taskrt__checklog_races(run->session->config->check_log,
		                       run->name, &run->report->pub);
}
