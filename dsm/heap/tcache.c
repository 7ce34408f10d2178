/*
 * Thread caches: which thread has which cache, and what happens to them when a
 * thread or an allocator ends.
 *
 * A thread has one cache for each allocator that it used, the last used one at
 * the head of its list (a process has one allocator as a rule; tests have
 * more). Caches come from a pool that the process keeps. One lock guards the
 * pool, owner and the allocators' lists: taken when a thread uses an allocator
 * for the first time, when a thread ends, and when an allocator goes.
 */
#include "alloc_priv.h"

#include <string.h>
#include <sys/mman.h>

__thread struct dsm_tcache *dsm__tcache_mine;

static pthread_mutex_t pool_lock;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int key_status = DSM_ESYS;
static struct dsm_tcache *pool; /* pool_lock; by of_owner */

static void
put_in_pool(struct dsm_tcache *tc)
{
	tc->of_owner = pool;
	pool = tc;
}

static void
remove_from_owner(struct dsm_alloc *a, struct dsm_tcache *tc)
{
	struct dsm_tcache **link = &a->caches;

	while (*link != tc)
		link = &(*link)->of_owner;
	*link = tc->of_owner;
}

/* Runs when a thread ends; a later destructor that allocates makes a new cache
 * and has this called again. */
static void
end_of_thread(void *head)
{
	struct dsm_tcache *tc = dsm__tcache_mine;

	(void)head;
	dsm__tcache_mine = NULL;
	dsm__tcache_lock();
	while (tc != NULL) {
		struct dsm_tcache *next = tc->of_thread;
		struct dsm_alloc *a = tc->owner;

		if (a != NULL) {
			for (unsigned c = 0; c < DSM_N_CLASSES; c++)
				dsm__alloc_flush(a, c, &tc->bins[c],
				                 tc->bins[c].n);
			a->gone_bytes += tc->bytes;
			a->gone_blocks += tc->blocks;
			remove_from_owner(a, tc);
			tc->owner = NULL;
		}
		put_in_pool(tc);
		tc = next;
	}
	dsm__tcache_unlock();
}

static void
init_once(void)
{
	dsm__tcache_reinit();
	if (pthread_key_create(&key, end_of_thread) == 0)
		key_status = DSM_OK;
}

int
dsm__tcache_init(void)
{
	pthread_once(&once, init_once);
	return key_status;
}

void
dsm__tcache_lock(void)
{
	pthread_mutex_lock(&pool_lock);
}

void
dsm__tcache_unlock(void)
{
	pthread_mutex_unlock(&pool_lock);
}

void
dsm__tcache_reinit(void)
{
	pthread_mutexattr_t attr;

	/* Recursive: every allocator's fork handler takes it. */
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&pool_lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

static struct dsm_tcache *
make(void)
{
	struct dsm_tcache *tc = pool;

	if (tc != NULL) {
		pool = tc->of_owner;
		return tc;
	}
	tc = mmap(NULL, sizeof(*tc), PROT_READ | PROT_WRITE,
	          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return tc != MAP_FAILED ? tc : NULL;
}

static void
reset(struct dsm_tcache *tc, struct dsm_alloc *a)
{
	for (unsigned c = 0; c < DSM_N_CLASSES; c++) {
		uint32_t cap = 16384 / dsm__class_size(c);

		tc->bins[c].n = 0;
		tc->bins[c].cap = cap < DSM_CACHE_SLOTS ? cap : DSM_CACHE_SLOTS;
	}
	tc->bytes = 0;
	tc->blocks = 0;
	tc->of_owner = a->caches;
	a->caches = tc;
	tc->owner = a;
}

/* Take the thread's cache for a out of its list, and drop orphans on the way.
 */
static struct dsm_tcache *
unlink_mine(struct dsm_alloc *a)
{
	struct dsm_tcache **link = &dsm__tcache_mine;
	struct dsm_tcache *found = NULL;

	while (*link != NULL) {
		struct dsm_tcache *tc = *link;
		struct dsm_alloc *owner = tc->owner;

		if (owner != NULL && owner != a) {
			link = &tc->of_thread;
			continue;
		}
		*link = tc->of_thread;
		if (owner == a)
			found = tc;
		else
			put_in_pool(tc);
	}
	return found;
}

struct dsm_tcache *
dsm__tcache_attach(struct dsm_alloc *a)
{
	struct dsm_tcache *tc;
	bool first = dsm__tcache_mine == NULL;

	dsm__tcache_lock();
	tc = unlink_mine(a);
	if (tc == NULL) {
		tc = make();
		if (tc != NULL)
			reset(tc, a);
	}
	if (tc != NULL) {
		tc->of_thread = dsm__tcache_mine;
		dsm__tcache_mine = tc;
	}
	dsm__tcache_unlock();
	/* Last: setting a key may call malloc, hence us. */
	if (first && tc != NULL)
		pthread_setspecific(key, tc);
	return tc;
}

void
dsm__tcache_orphan(struct dsm_alloc *a)
{
	dsm__tcache_lock();
	for (struct dsm_tcache *tc = a->caches; tc != NULL; tc = tc->of_owner)
		tc->owner = NULL;
	a->caches = NULL;
	dsm__tcache_unlock();
}

void
dsm__tcache_stats(struct dsm_alloc *a, int64_t *bytes_p, int64_t *blocks_p)
{
	dsm__tcache_lock();
	*bytes_p = a->gone_bytes;
	*blocks_p = a->gone_blocks;
	for (struct dsm_tcache *tc = a->caches; tc != NULL; tc = tc->of_owner) {
		*bytes_p += tc->bytes;
		*blocks_p += tc->blocks;
	}
	dsm__tcache_unlock();
}
