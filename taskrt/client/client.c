/* The default client: taskrt_init, taskrt_fini, the ends of the process, fork. */
#include "client.h"

#include "checklog.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../dsm/base/log.h"
#include "../../dsm/base/secret.h"
#include "../../dsm/heap/heap.h"
#include "malloc.h"
#include "report.h"
#include "run.h"
#include "stat.h"
#include "taskpage.h"

static struct taskrt__client client = {
    .run_lock = PTHREAD_MUTEX_INITIALIZER,
    .session_lock = PTHREAD_MUTEX_INITIALIZER,
};
static pthread_once_t hooks_once = PTHREAD_ONCE_INIT;

struct taskrt__client *
taskrt__client_default(void)
{
	return &client;
}

/* --- end of the process, fork --- */

static void
on_exit_process(void)
{
	struct taskrt__client *c = &client;

	/* Another thread may be in the middle of a run: then nobody waits for it, and
	 * its slots end when their connections do. */
	if (taskrt__in_task() || pthread_mutex_trylock(&c->run_lock) != 0)
		return;
	if (c->session != NULL)
		taskrt__client_end_session(c);
	if (c->run != NULL)
		taskrt__run_forget(c->run, "the program has ended");
	c->run = NULL;
	if (c->configured && c->config.stat)
		taskrt__stat_print(stderr, c->sums);
	pthread_mutex_unlock(&c->run_lock);
}

/* exit() in a task runs the program's handlers in the task: go on to the call
 * that is to be reported, before a library's destructor makes another one. */
static void
on_exit_task(int status, void *arg)
{
	(void)arg;
	if (taskrt__in_task())
		_exit(status);
}

/*
 * The drive lock, so that the child sees whole lists. The run lock is not waited
 * for: a thread that forks need not wait for another's run.
 */
static void
before_fork(void)
{
	pthread_mutex_lock(&client.session_lock);
	if (client.session != NULL)
		dsm__loop_lock(client.session->loop);
	dsm__secret_before_fork();
}

static void
after_fork_parent(void)
{
	dsm__secret_after_fork(0);
	if (client.session != NULL)
		dsm__loop_unlock(client.session->loop);
	pthread_mutex_unlock(&client.session_lock);
}

/* The session is the parent's: forget it without a word to anyone. Its memory is
 * lost to the child; its loop may be in any state. */
static void
after_fork_child(void)
{
	static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

	dsm__secret_after_fork(1);
	if (client.session != NULL)
		taskrt__session_forget(client.session);
	client.session = NULL;
	if (client.run != NULL)
		taskrt__run_forget(
		    client.run,
		    "the run was launched before fork(): only the parent can "
		    "wait for it");
	client.run = NULL;
	if (client.have_threads)
		taskrt__threads_fini(&client.threads);
	client.have_threads = 0;
	memcpy(&client.run_lock, &fresh, sizeof(fresh));
	memcpy(&client.session_lock, &fresh, sizeof(fresh));
}

static void
install_hooks(void)
{
	/* After the heap's own: then ours come first before a fork, and the
	 * drive lock is taken before the heap's. */
	pthread_atfork(before_fork, after_fork_parent, after_fork_child);
	atexit(on_exit_process);
	on_exit(on_exit_task, NULL);
}

/* --- session --- */

static int
configure(struct taskrt__client *c, const struct taskrt_config *given,
          struct dsm_error *e)
{
	enum dsm_log_level level;

	if (c->configured)
		return DSM_OK;
	int err = taskrt__config_load(&c->config, given, environ, e);
	if (err != DSM_OK)
		return err;
	if (c->config.origin[TASKRT__SET_HEAP_SIZE] != TASKRT__FROM_DEFAULT) {
		err = dsm__heap_set_size(c->config.heap_size);
		if (err != DSM_OK)
			return dsm__fail(
			    e, DSM_EINVAL,
			    "taskrt_init: heap_size comes too late, dsm_malloc "
			    "was called already; call taskrt_init first");
	}
	if (dsm__log_level_parse(c->config.log, &level) == 0)
		dsm__log_level(level);
	c->configured = 1;
	return DSM_OK;
}

void
taskrt__client_end_session(struct taskrt__client *c)
{
	struct taskrt__session *s = c->session;

	pthread_mutex_lock(&c->session_lock);
	c->session = NULL;
	pthread_mutex_unlock(&c->session_lock);
	/* Its links are counted under the drive lock. */
	dsm__loop_lock(s->loop);
	taskrt__links_add(&c->sums->links, &s->links);
	dsm__loop_unlock(s->loop);
	taskrt__session_destroy(s);
}

int
taskrt__client_session(struct taskrt__client *c, struct taskrt__session **s_p,
                       struct dsm_error *e)
{
	struct taskrt__session *s;
	int err = configure(c, NULL, e);

	if (err != DSM_OK)
		return err;
	if (c->session != NULL) {
		if (c->session->state != TASKRT__LOST) {
			*s_p = c->session;
			return DSM_OK;
		}
		taskrt__client_end_session(c);
	}
	struct dsm_heap *heap = dsm__heap_default();
	if (heap == NULL)
		return dsm__fail(e, DSM_ENOMEM, "%s", dsm__heap_error()->text);
	if (c->sums == NULL)
		c->sums = calloc(1, sizeof(*c->sums));
	if (c->sums == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	if (c->config.stat && c->sums->costs == NULL)
		c->sums->costs = calloc(1, sizeof(*c->sums->costs));
	if (c->config.stat && c->sums->costs == NULL)
		return dsm__fail(e, DSM_ENOMEM, "out of memory");
	pthread_once(&hooks_once, install_hooks);
	taskrt__malloc_check();
	if (!c->have_threads)
		taskrt__threads_init(&c->threads);
	c->have_threads = 1;
	err = taskrt__session_create(&c->config, heap, &s, e);
	if (err != DSM_OK)
		return err;
	taskrt__checklog_session(c->config.check_log);
	pthread_mutex_lock(&c->session_lock);
	c->session = s;
	pthread_mutex_unlock(&c->session_lock);
	*s_p = s;
	return DSM_OK;
}

/* --- taskrt.h --- */

int
taskrt_init(const struct taskrt_config *config)
{
	struct taskrt__client *c = &client;
	struct taskrt__session *s;
	struct dsm_error e = {0};

	if (taskrt__in_task())
		return taskrt__report_fail(
		    TASKRT_EINVAL, "taskrt_init was called inside a task");
	pthread_mutex_lock(&c->run_lock);
	int err = DSM_OK;
	if (c->configured)
		err = dsm__fail(
		    &e, DSM_EINVAL,
		    "taskrt_init: the library is in use already; call it once, "
		    "before anything else of taskrt");
	if (err == DSM_OK)
		err = configure(c, config, &e);
	if (err == DSM_OK)
		err = taskrt__client_session(c, &s, &e);
	pthread_mutex_unlock(&c->run_lock);
	if (err != DSM_OK)
		return taskrt__report_error(&e);
	taskrt__report_give(NULL);
	return TASKRT_OK;
}

void
taskrt_fini(void)
{
	struct taskrt__client *c = &client;

	if (taskrt__in_task())
		return;
	pthread_mutex_lock(&c->run_lock);
	if (c->run != NULL)
		taskrt__run_finish(c);
	if (c->session != NULL)
		taskrt__client_end_session(c);
	pthread_mutex_unlock(&c->run_lock);
}
