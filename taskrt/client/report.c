/*
 * Reports. A report is built in two passes over its source: entries first, with
 * each text's offset in one growing buffer, then offsets become pointers.
 */
#include "report.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "../slot/taskpage.h"
#include "taskpage.h"

static const struct taskrt_report empty = {.message = ""};

/*
 * The implicit context of taskrt_report(): one report a thread. The first is
 * used when memory for a real one is short, so an error is never lost.
 */
static _Thread_local struct taskrt_report plain;
static _Thread_local char plain_text[sizeof(((struct dsm_error *)0)->text)];
static _Thread_local const struct taskrt_report *last;
static _Thread_local struct taskrt__report *mine;

/* Frees a thread's report when the thread ends. */
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int have_key;

static void
free_at_thread_end(void *r)
{
	taskrt__report_free(r);
}

static void
make_key(void)
{
	have_key = pthread_key_create(&key, free_at_thread_end) == 0;
}

void
taskrt__report_free(struct taskrt__report *r)
{
	if (r == NULL)
		return;
	free((void *)r->pub.failures);
	free((void *)r->pub.races);
	free(r->name);
	free(r->texts);
	free(r);
}

void
taskrt__report_give(struct taskrt__report *r)
{
	pthread_once(&key_once, make_key);
	taskrt__report_free(mine);
	mine = r;
	if (have_key)
		pthread_setspecific(key, r);
	last = r != NULL ? &r->pub : &empty;
}

int
taskrt__public_code(int code)
{
	switch (code) {
	case DSM_OK:
	case DSM_EINVAL:
	case DSM_ENOMEM:
	case DSM_ECONN:
	case DSM_ETIMEDOUT:
	case DSM_EAUTH:
	case DSM_ERACE:
	case DSM_ETASK:
	case DSM_ECANCELED:
		return code;
	case DSM_ENOSPC:
		return TASKRT_ENOMEM;
	default: /* versions, protocol, system calls: no working connection */
		return TASKRT_ECONN;
	}
}

int
taskrt__report_error(const struct dsm_error *e)
{
	/* Inside a task nothing may be freed: it is the program's report. */
	if (!taskrt__in_task())
		taskrt__report_give(NULL);
	snprintf(plain_text, sizeof(plain_text), "%s", e->text);
	plain = (struct taskrt_report){
	    .error = taskrt__public_code(e->code),
	    .message = plain_text,
	};
	last = &plain;
	return plain.error;
}

int
taskrt__report_fail(int code, const char *fmt, ...)
{
	struct dsm_error e = {.code = code};
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e.text, sizeof(e.text), fmt, ap);
	va_end(ap);
	return taskrt__report_error(&e);
}

const struct taskrt_report *
taskrt_report(void)
{
	return last != NULL ? last : &empty;
}

/* --- texts --- */

/* Strings are kept as offset + 1 until the buffer stops moving. */
static int
put_text(struct dsm_wbuf *w, const char *s, size_t len, const char **slot)
{
	*slot = (const char *)(uintptr_t)(w->len + 1);
	int err = dsm__wbuf_put(w, s, len);
	return err != DSM_OK ? err : dsm__wbuf_put(w, "", 1);
}

static int
put_string(struct dsm_wbuf *w, const char *s, const char **slot)
{
	return put_text(w, s, strlen(s), slot);
}

static void
settle_text(const char **slot, const char *base)
{
	*slot = *slot == NULL ? "" : base + ((uintptr_t)*slot - 1);
}

static const char *
signal_name(int sig)
{
	const char *abbrev = sig > 0 ? sigabbrev_np(sig) : NULL;

	return abbrev != NULL ? abbrev : "?";
}

/* One line without the task's number: "SIGSEGV at 0x10". */
static void
describe_failure(const struct dsm_rec_failure *f, char *buf, size_t size)
{
	switch (f->kind) {
	case DSM_FAIL_CRASH:
		if (f->addr != 0)
			snprintf(buf, size, "crashed: SIG%s at 0x%" PRIx64,
			         signal_name((int)f->signal), f->addr);
		else
			snprintf(buf, size, "crashed: SIG%s",
			         signal_name((int)f->signal));
		break;
	case DSM_FAIL_FORBIDDEN:
		snprintf(buf, size, "made a call that a task may not make");
		break;
	case DSM_FAIL_TIMEOUT:
		snprintf(buf, size, "ran longer than its time-out");
		break;
	case DSM_FAIL_LOST:
		snprintf(buf, size,
		         "was lost with its workers, retries used up");
		break;
	case DSM_FAIL_CANCELLED:
		snprintf(buf, size, "was cancelled");
		break;
	default:
		snprintf(buf, size, "failed");
	}
}

static const char *
noun(int loop)
{
	return loop ? "iteration" : "task";
}

static void
describe_where(const struct taskrt__report_source *src, uint64_t addr,
               char *buf, size_t size)
{
	char block[200] = "";

	if (src->where != NULL)
		src->where(src->ctx, (const void *)(uintptr_t)addr, block,
		           sizeof(block));
	if (block[0] != '\0')
		snprintf(buf, size, "at 0x%" PRIx64 " (%s)", addr, block);
	else
		snprintf(buf, size, "at 0x%" PRIx64, addr);
}

/* --- entries --- */

/* Root causes first: a lost or cancelled task follows from something else. */
static int
rank(int kind)
{
	switch (kind) {
	case TASKRT_CANCELLED:
		return 2;
	case TASKRT_LOST:
		return 1;
	default:
		return 0;
	}
}

static int
compare_failures(const void *a, const void *b)
{
	const struct taskrt_failure *x = a, *y = b;
	int d = rank(x->kind) - rank(y->kind);

	if (d != 0)
		return d;
	return (x->task > y->task) - (x->task < y->task);
}

/* The calls that led to it, and its own place in them at the message's end. */
static int
add_backtrace(const struct taskrt__report_source *src, struct dsm_blob context,
              struct dsm_wbuf *w, struct taskrt_failure *f)
{
	struct dsm_wbuf lines = {0};
	size_t own = 0, n = 0;
	int err = DSM_OK;

	if (src->backtrace != NULL && context.len > 0)
		n = src->backtrace(src->ctx, context, &lines, &own);
	if (n > 0 && own < lines.len) {
		const char *line = (const char *)lines.ptr + own;
		const char *end = memchr(line, '\n', lines.len - own);

		w->len--; /* the message's NUL */
		err = dsm__wbuf_put(w, " (", 2);
		if (err == DSM_OK)
			err = dsm__wbuf_put(w, line, (size_t)(end - line));
		if (err == DSM_OK)
			err = dsm__wbuf_put(w, ")", 2);
	}
	if (err == DSM_OK)
		err = put_text(w, (const char *)lines.ptr,
		               n > 0 ? lines.len - 1 : 0, &f->backtrace);
	dsm__wbuf_fini(&lines);
	return err;
}

/* The wire's text is the message. */
static int
add_failure(const struct taskrt__report_source *src,
            const struct dsm_rec_failure *rec, struct taskrt_failure *f,
            struct dsm_wbuf *w)
{
	struct dsm_blob context = {NULL, rec->context_len};
	char made[120];
	const char *text = made;
	size_t len = rec->text_len;

	if (rec->text_off > src->texts.len ||
	    len > src->texts.len - rec->text_off ||
	    rec->context_len > src->texts.len - rec->text_off - len)
		return DSM_EPROTO;
	if (context.len > 0)
		context.ptr = src->texts.ptr + rec->text_off + len;
	if (len > 0) {
		text = (const char *)src->texts.ptr + rec->text_off;
	} else {
		describe_failure(rec, made, sizeof(made));
		len = strlen(made);
	}
	*f = (struct taskrt_failure){
	    .task = rec->task,
	    .kind = (int)rec->kind,
	    .signal = (int)rec->signal,
	    .addr = (void *)(uintptr_t)rec->addr,
	};
	int err = put_text(w, text, len, &f->message);
	return err == DSM_OK ? add_backtrace(src, context, w, f) : err;
}

static int
add_failures(const struct taskrt__report_source *src, struct taskrt__report *r,
             struct dsm_wbuf *w)
{
	const struct dsm_array *a = &src->failures;

	if (a->n == 0)
		return DSM_OK;
	struct taskrt_failure *v = calloc(a->n, sizeof(*v));
	if (v == NULL)
		return DSM_ENOMEM;
	r->pub.failures = v;
	r->pub.n_failures = a->n;
	for (uint32_t i = 0; i < a->n; i++) {
		struct dsm_rec_failure rec;
		int err = dsm__unpack_failure(a, i, &rec);

		if (err == DSM_OK)
			err = add_failure(src, &rec, &v[i], w);
		if (err != DSM_OK)
			return err;
	}
	qsort(v, a->n, sizeof(*v), compare_failures);
	return DSM_OK;
}

/* "00 00 f0 3f" */
static size_t
describe_value(const struct dsm_value *v, size_t len, char *buf, size_t size)
{
	size_t used = 0;

	for (uint32_t i = 0; i < v->n; i++)
		used += (size_t)snprintf(buf + used, size - used, "%s%02x",
		                         i > 0 ? " " : "", v->bytes[i]);
	if (len > v->n)
		used += (size_t)snprintf(buf + used, size - used, " ...");
	return used;
}

/* ": 00 f0 3f and 00 00 40", from the first byte on; "" when nothing is known. */
static void
describe_values(const struct taskrt__report_source *src,
                const struct taskrt_race *race, const struct dsm_value *v,
                char *buf, size_t size)
{
	const struct dsm_value *one = v[0].n > 0 ? &v[0] : &v[1];
	size_t used = 0;

	buf[0] = '\0';
	if (one->n == 0)
		return;
	used += (size_t)snprintf(buf, size, ": ");
	used += describe_value(one, race->len, buf + used, size - used);
	if (v[0].n > 0 && v[1].n > 0) {
		used += (size_t)snprintf(buf + used, size - used, " and ");
		describe_value(&v[1], race->len, buf + used, size - used);
	} else if (one == &v[1] && race->task_b == TASKRT_CLIENT) {
		snprintf(buf + used, size - used, " by the program");
	} else {
		snprintf(buf + used, size - used, " by %s %zu", noun(src->loop),
		         one == &v[0] ? race->task_a : race->task_b);
	}
}

static int
add_race(const struct taskrt__report_source *src, struct taskrt_race *race,
         const struct dsm_value *values, struct dsm_wbuf *w)
{
	char where[240], text[520];

	describe_where(src, (uintptr_t)race->addr, where, sizeof(where));
	if (race->task_b == TASKRT_CLIENT && race->task_a == TASKRT_CLIENT)
		snprintf(
		    text, sizeof(text),
		    "a task and the program itself both wrote %zu byte%s %s",
		    race->len, race->len == 1 ? "" : "s", where);
	else if (race->task_b == TASKRT_CLIENT)
		snprintf(text, sizeof(text),
		         "%s %zu and the program itself both wrote %zu byte%s "
		         "%s",
		         noun(src->loop), race->task_a, race->len,
		         race->len == 1 ? "" : "s", where);
	else
		snprintf(text, sizeof(text),
		         "%ss %zu and %zu both wrote %zu byte%s %s",
		         noun(src->loop), race->task_a, race->task_b, race->len,
		         race->len == 1 ? "" : "s", where);
	if (values != NULL)
		describe_values(src, race, values, text + strlen(text),
		                sizeof(text) - strlen(text));
	return put_string(w, text, &race->message);
}

static int
add_races(const struct taskrt__report_source *src, struct taskrt__report *r,
          struct dsm_wbuf *w)
{
	size_t n = src->races.n + src->n_client_races;

	r->pub.n_races = src->n_races + src->n_client_races;
	if (n == 0)
		return DSM_OK;
	struct taskrt_race *v = calloc(n, sizeof(*v));
	if (v == NULL)
		return DSM_ENOMEM;
	r->pub.races = v;
	for (size_t i = 0; i < n; i++) {
		struct dsm_rec_race rec;
		int err = DSM_OK;

		if (i >= src->races.n) {
			v[i] = src->client_races[i - src->races.n];
		} else {
			err = dsm__unpack_race(&src->races, (uint32_t)i, &rec);
			if (err == DSM_OK)
				v[i] = (struct taskrt_race){
				    .task_a = rec.task_a,
				    .task_b = rec.task_b,
				    .addr = (void *)(uintptr_t)rec.addr,
				    .len = rec.len,
				};
		}
		if (err == DSM_OK)
			err = add_race(src, &v[i],
			               src->values != NULL ? &src->values[2 * i]
			                                   : NULL,
			               w);
		if (err != DSM_OK)
			return err;
	}
	/* A reader takes min(n_races, 100) entries for listed: make it true. */
	if (n < DSM_MAX_RACES || r->pub.n_races < n)
		r->pub.n_races = n;
	return DSM_OK;
}

/* The one line: what the coordinator said, or the first cause. */
static int
add_message(const struct taskrt__report_source *src, struct taskrt__report *r,
            struct dsm_wbuf *w)
{
	const struct taskrt_report *p = &r->pub;
	char text[600] = "";
	const char *base = (const char *)w->ptr;

	if (src->error == DSM_OK)
		return put_string(w, "", &r->pub.message);
	/* Only here it is known what lies at the address. */
	if (src->error == TASKRT_ERACE && p->races != NULL) {
		const char *message = p->races[0].message;

		settle_text(&message, base);
		if (p->n_races > 1)
			snprintf(text, sizeof(text),
			         "%zu races; the first: ", p->n_races);
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s",
		         message);
	} else if (src->text != NULL && src->text[0] != '\0' &&
	           !(src->error == TASKRT_ETASK && p->n_failures > 0)) {
		return put_string(w, src->text, &r->pub.message);
	} else if (p->n_failures > 0) {
		const char *message = p->failures[0].message;

		settle_text(&message, base);
		snprintf(text, sizeof(text), "%s %zu: %s", noun(src->loop),
		         p->failures[0].task, message);
		if (p->n_failures > 1)
			snprintf(text + strlen(text),
			         sizeof(text) - strlen(text),
			         ", and %zu more failed", p->n_failures - 1);
	} else {
		snprintf(text, sizeof(text), "%s", taskrt_strerror(src->error));
	}
	return put_string(w, text, &r->pub.message);
}

static void
settle_texts(struct taskrt__report *r)
{
	struct taskrt_failure *failures = (void *)r->pub.failures;
	struct taskrt_race *races = (void *)r->pub.races;
	size_t n_races =
	    r->pub.n_races < DSM_MAX_RACES ? r->pub.n_races : DSM_MAX_RACES;

	for (size_t i = 0; i < r->pub.n_failures; i++) {
		settle_text(&failures[i].message, r->texts);
		settle_text(&failures[i].backtrace, r->texts);
	}
	for (size_t i = 0; i < n_races && races != NULL; i++)
		settle_text(&races[i].message, r->texts);
	settle_text(&r->pub.message, r->texts);
}

int
taskrt__report_make(const struct taskrt__report_source *src,
                    struct taskrt__report **r_p)
{
	struct taskrt__report *r = calloc(1, sizeof(*r));
	struct dsm_wbuf w = {0};
	int err = DSM_ENOMEM;

	_Static_assert(sizeof(struct taskrt_counters) ==
	                   sizeof(struct dsm_counters),
	               "both grow from stats.def");
	if (r == NULL)
		return DSM_ENOMEM;
	if (src->races.n + src->n_client_races > DSM_MAX_RACES) {
		err = DSM_EPROTO;
		goto fail;
	}
	r->pub.error = src->error;
	r->loop = src->loop;
	r->chunked = src->chunked;
	r->name = strdup(src->name != NULL ? src->name : "");
	if (r->name == NULL)
		goto fail;
	if (src->counters != NULL)
		memcpy(&r->pub.counters, src->counters,
		       sizeof(r->pub.counters));
	err = add_failures(src, r, &w);
	if (err == DSM_OK)
		err = add_races(src, r, &w);
	if (err == DSM_OK)
		err = add_message(src, r, &w);
	if (err != DSM_OK)
		goto fail;
	r->texts = (char *)w.ptr;
	settle_texts(r);
	*r_p = r;
	return DSM_OK;
fail:
	dsm__wbuf_fini(&w);
	taskrt__report_free(r);
	return err;
}

/* --- for people --- */

static void
print_backtrace(FILE *f, const char *text)
{
	while (*text != '\0') {
		const char *end = strchrnul(text, '\n');

		if (end > text)
			fprintf(f, "      %.*s\n", (int)(end - text), text);
		text = *end == '\0' ? end : end + 1;
	}
}

#define PRINT_MAX 20 /* failures, races: more are only counted */

/* Failures at one place are listed with it once: whole loops fail alike. */
static void
print_failures(FILE *f, const struct taskrt_report *r, const char *what)
{
	if (r->n_failures == 0)
		return;
	fprintf(f, "  %zu %s%s failed:\n", r->n_failures, what,
	        r->n_failures == 1 ? "" : "s");
	for (size_t i = 0; i < r->n_failures && i < PRINT_MAX; i++) {
		const struct taskrt_failure *x = &r->failures[i];

		fprintf(f, "    %s %zu: %s\n", what, x->task, x->message);
		if (i == 0 || strcmp(x->backtrace, x[-1].backtrace) != 0)
			print_backtrace(f, x->backtrace);
		else if (x->backtrace[0] != '\0')
			fprintf(f, "      at the same place\n");
	}
	if (r->n_failures > PRINT_MAX)
		fprintf(f, "    and %zu more\n", r->n_failures - PRINT_MAX);
}

static void
print_races(FILE *f, const struct taskrt_report *r, int chunked)
{
	size_t listed = r->n_races < PRINT_MAX ? r->n_races : PRINT_MAX;

	if (r->n_races == 0 || r->races == NULL)
		return;
	fprintf(f, "  %zu race%s, nothing was committed:\n", r->n_races,
	        r->n_races == 1 ? "" : "s");
	for (size_t i = 0; i < listed; i++)
		fprintf(f, "    %s\n", r->races[i].message);
	if (r->n_races > listed)
		fprintf(f, "    and %zu more\n", r->n_races - listed);
	fprintf(f, "  a task sees memory as it was at the launch: let each "
	           "write bytes of its own, and join them after the run\n");
	if (chunked)
		fprintf(f, "  the number is that of a chunk's first iteration; "
		           "TASKRT_CHECK=iterations finds the very ones\n");
}

int
taskrt_report_print(FILE *f)
{
	const struct taskrt_report *r = taskrt_report();

	if (f == NULL)
		return TASKRT_EINVAL;
	int is_mine = mine != NULL && r == &mine->pub;
	const char *name = is_mine ? mine->name : "";

	fprintf(f, "taskrt: ");
	if (name[0] != '\0')
		fprintf(f, "run \"%s\": ", name);
	if (r->error == 0)
		fprintf(f,
		        "%" PRIu64 " tasks in %.3f ms; %" PRIu64
		        " pages fetched, %" PRIu64 " bytes written\n",
		        r->counters.tasks, (double)r->counters.total_ns / 1e6,
		        r->counters.pages_fetched, r->counters.bytes_written);
	else
		fprintf(f, "%s: %s\n", taskrt_strerror(r->error), r->message);
	print_races(f, r, is_mine && mine->chunked);
	print_failures(f, r, noun(is_mine && mine->loop));
	return 0;
}

const char *
taskrt_strerror(int code)
{
	return dsm__strerror(code);
}
