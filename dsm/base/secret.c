/*
 * One mapping:
 *
 *   [ guard page | stack of dsm__secret_call | blocks ... ]
 *   base                                      blocks
 *
 * A block has a header with its size and lies in a class (a power of two); freed
 * ones are kept in a list for each class and never given back. The region is only
 * reserved: what was never used costs nothing.
 */
#include "secret.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include "page.h"

#define REGION_SIZE (UINT64_C(256) << 20)
#define STACK_SIZE ((size_t)256 << 10)
/* Cryptography stays well within this; the rest is for the program's signal
 * handlers, which may run on any stack. */
#define STACK_WIPED ((size_t)64 << 10)
#define MIN_SHIFT 6
#define MAX_SHIFT 26

struct header {
	uint32_t shift; /* the block's class: 1 << shift bytes, this included */
	uint32_t pad;
	size_t size; /* asked for */
};
_Static_assert(sizeof(struct header) == 16, "keeps blocks aligned to 16");

struct free_block {
	struct header header;
	struct free_block *next;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t stack_lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *base;     /* const after once; NULL: no memory */
static int reserve_errno; /* const after once */
static size_t used;       /* blocks_lock: bytes of the region */
static struct free_block *free_lists[MAX_SHIFT + 1]; /* blocks_lock */

static void
reserve(void)
{
	void *p = mmap(NULL, REGION_SIZE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED) {
		reserve_errno = errno;
		return;
	}
	mprotect(p, DSM_PAGE, PROT_NONE);
	madvise(p, REGION_SIZE, MADV_DONTDUMP);
	used = DSM_PAGE + STACK_SIZE;
	base = p;
}

int
dsm__secret_init(void)
{
	pthread_once(&once, reserve);
	if (base == NULL)
		errno = reserve_errno;
	return base != NULL ? 0 : -1;
}

void
dsm__secret_span(uint64_t *start_p, uint64_t *end_p)
{
	*start_p = *end_p = 0;
	if (dsm__secret_init() != 0)
		return;
	*start_p = (uintptr_t)base;
	*end_p = *start_p + REGION_SIZE;
}

void
dsm__wipe(void *p, size_t len)
{
	explicit_bzero(p, len);
}

int
dsm__secret_equal(const void *a, const void *b, size_t len)
{
	const uint8_t *x = a, *y = b;
	uint8_t differ = 0;

	for (size_t i = 0; i < len; i++)
		differ |= x[i] ^ y[i];
	return differ == 0;
}

/* --- blocks --- */

/* blocks_lock held: a block of that class. */
static struct free_block *
take_block(uint32_t shift)
{
	struct free_block *b = free_lists[shift];

	if (b != NULL) {
		free_lists[shift] = b->next;
		b->next = NULL;
		return b;
	}
	if (((size_t)1 << shift) > REGION_SIZE - used)
		return NULL;
	b = (void *)(base + used);
	used += (size_t)1 << shift;
	return b;
}

void *
dsm__secret_alloc(size_t size)
{
	struct free_block *b;
	uint32_t shift = MIN_SHIFT;

	while (shift <= MAX_SHIFT &&
	       ((size_t)1 << shift) - sizeof(struct header) < size)
		shift++;
	if (shift > MAX_SHIFT || dsm__secret_init() != 0) {
		errno = ENOMEM;
		return NULL;
	}
	pthread_mutex_lock(&blocks_lock);
	b = take_block(shift);
	pthread_mutex_unlock(&blocks_lock);
	if (b == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	b->header = (struct header){shift, 0, size};
	return &b->header + 1;
}

void
dsm__secret_free(void *p)
{
	struct header *h;
	struct free_block *b;

	if (p == NULL)
		return;
	h = (struct header *)p - 1;
	b = (void *)h;
	dsm__wipe(p, h->size);
	pthread_mutex_lock(&blocks_lock);
	b->next = free_lists[h->shift];
	free_lists[h->shift] = b;
	pthread_mutex_unlock(&blocks_lock);
}

void *
dsm__secret_realloc(void *p, size_t size)
{
	struct header *h;
	void *to;

	if (p == NULL)
		return dsm__secret_alloc(size);
	h = (struct header *)p - 1;
	if (size <= ((size_t)1 << h->shift) - sizeof(*h)) {
		if (size < h->size)
			dsm__wipe((uint8_t *)p + size, h->size - size);
		h->size = size;
		return p;
	}
	to = dsm__secret_alloc(size);
	if (to == NULL)
		return NULL;
	memcpy(to, p, h->size);
	dsm__secret_free(p);
	return to;
}

/* --- the stack --- */

/* fn(arg) with the stack pointer at top, which is a multiple of 16. */
#if defined(__x86_64__)

static void
call_on(void *top, void (*fn)(void *arg), void *arg)
{
	/* What a call may change, but for what it must keep: rbx is kept. The
	 * vector registers are emptied, or the next one to save them would do it
	 * on the other stack: a signal, the loader that binds a function. */
	__asm__ volatile("movq %%rsp, %%rbx\n\t"
	                 "movq %[top], %%rsp\n\t"
	                 "callq *%[fn]\n\t"
	                 "movq %%rbx, %%rsp\n\t"
	                 "pxor %%xmm0, %%xmm0\n\t"
	                 "pxor %%xmm1, %%xmm1\n\t"
	                 "pxor %%xmm2, %%xmm2\n\t"
	                 "pxor %%xmm3, %%xmm3\n\t"
	                 "pxor %%xmm4, %%xmm4\n\t"
	                 "pxor %%xmm5, %%xmm5\n\t"
	                 "pxor %%xmm6, %%xmm6\n\t"
	                 "pxor %%xmm7, %%xmm7\n\t"
	                 "pxor %%xmm8, %%xmm8\n\t"
	                 "pxor %%xmm9, %%xmm9\n\t"
	                 "pxor %%xmm10, %%xmm10\n\t"
	                 "pxor %%xmm11, %%xmm11\n\t"
	                 "pxor %%xmm12, %%xmm12\n\t"
	                 "pxor %%xmm13, %%xmm13\n\t"
	                 "pxor %%xmm14, %%xmm14\n\t"
	                 "pxor %%xmm15, %%xmm15"
	                 : "+D"(arg)
	                 : [top] "r"(top), [fn] "a"(fn)
	                 : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11",
	                   "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5",
	                   "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
	                   "xmm12", "xmm13", "xmm14", "xmm15", "memory", "cc");
}

#else

/* stack_lock held, by whoever is on the stack. */
static struct {
	ucontext_t caller, callee;
	void (*fn)(void *arg);
	void *arg;
} call;

static void
enter(void)
{
	call.fn(call.arg);
}

static void
call_on(void *top, void (*fn)(void *arg), void *arg)
{
	call.fn = fn;
	call.arg = arg;
	getcontext(&call.callee);
	call.callee.uc_stack.ss_sp = (uint8_t *)top - STACK_SIZE;
	call.callee.uc_stack.ss_size = STACK_SIZE;
	call.callee.uc_link = &call.caller;
	makecontext(&call.callee, enter, 0);
	swapcontext(&call.caller, &call.callee);
}

#endif

static int
is_on_stack(void)
{
	uint8_t here;

	return base != NULL && &here > base &&
	       &here < base + DSM_PAGE + STACK_SIZE;
}

static void
call_inside(void (*fn)(void *arg), void *arg, size_t wiped)
{
	if (dsm__secret_init() != 0 || is_on_stack()) {
		fn(arg);
		return;
	}
	pthread_mutex_lock(&stack_lock);
	call_on(base + DSM_PAGE + STACK_SIZE, fn, arg);
	dsm__wipe(base + DSM_PAGE + STACK_SIZE - wiped, wiped);
	pthread_mutex_unlock(&stack_lock);
}

void
dsm__secret_call(void (*fn)(void *arg), void *arg)
{
	call_inside(fn, arg, STACK_WIPED);
}

void
dsm__secret_run(void (*fn)(void *arg), void *arg)
{
	call_inside(fn, arg, 0);
}

/* --- fork --- */

void
dsm__secret_before_fork(void)
{
	pthread_mutex_lock(&stack_lock);
	pthread_mutex_lock(&blocks_lock);
}

void
dsm__secret_after_fork(int in_child)
{
	static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

	if (in_child) {
		memcpy(&blocks_lock, &fresh, sizeof(fresh));
		memcpy(&stack_lock, &fresh, sizeof(fresh));
		return;
	}
	pthread_mutex_unlock(&blocks_lock);
	pthread_mutex_unlock(&stack_lock);
}
