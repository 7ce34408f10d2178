/*
 * Thread-local data is private to a task. That of modules which are there from the
 * start lies in one piece beside the thread's descriptor, and slots leave it out of
 * write sets (RUN.tls_start). A library that is loaded later has a block for each
 * thread, which the loader takes from malloc when the thread first uses it: committed
 * memory. As copied.c does, a task puts these blocks back at its end as they were at
 * the launch.
 *
 * The launching thread gets its blocks before the snapshot is made. Else the task's
 * first use would make one, in the task's arena: a block that nobody frees.
 */
#include "dyntls.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../dsm/base/status.h"
#include "../../dsm/heap/map.h"

struct tls_index {
	unsigned long module, offset;
};
/* The loader's __tls_get_addr; a static program has none, and no libraries. */
static void *(*tls_get_addr)(struct tls_index *index);
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
find_loader(void)
{
	*(void **)&tls_get_addr = dlsym(RTLD_DEFAULT, "__tls_get_addr");
}

struct block {
	uint64_t module;
	uint8_t *at, *saved;
	size_t size;
};

/* Of the last launch; launches wait for each other. */
static struct block *blocks;
static size_t n_blocks, cap_blocks;
static uint8_t *save_area;
static size_t save_len;

/* There was none when the loader had loaded and unloaded so many libraries: none
 * in any thread, and nothing to look for in the next launch. */
static int none;
static uint64_t none_adds, none_subs;

struct walk {
	uint64_t tls_start, tls_end; /* beside the descriptor */
	size_t n;                    /* found; those that fit are in blocks */
};

static int
note_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct walk *w = arg;
	uint64_t at = (uint64_t)(uintptr_t)info->dlpi_tls_data;

	(void)size;
	if (info->dlpi_tls_modid == 0 ||
	    (at >= w->tls_start && at < w->tls_end))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

		if (ph->p_type != PT_TLS || ph->p_memsz == 0)
			continue;
		/* No allocation under the loader's lock. */
		if (w->n++ < cap_blocks)
			blocks[n_blocks++] = (struct block){
			    .module = info->dlpi_tls_modid,
			    .size = ph->p_memsz,
			};
	}
	return 0;
}

static int
first_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	uint64_t *changes = arg;

	(void)size;
	changes[0] = info->dlpi_adds;
	changes[1] = info->dlpi_subs;
	return 1;
}

static int
find_blocks(void)
{
	struct walk w = {.n = 0};
	uint64_t changes[2] = {0, 0};

	dl_iterate_phdr(first_module, changes);
	if (none && changes[0] == none_adds && changes[1] == none_subs)
		return DSM_OK;
	none_adds = changes[0];
	none_subs = changes[1];
	dsm__map_tls(&w.tls_start, &w.tls_end);
	for (;;) {
		w.n = n_blocks = 0;
		dl_iterate_phdr(note_module, &w);
		none = w.n == 0;
		if (w.n <= cap_blocks)
			return DSM_OK;
		void *v = realloc(blocks, 2 * w.n * sizeof(*blocks));
		if (v == NULL)
			return DSM_ENOMEM;
		blocks = v;
		cap_blocks = 2 * w.n;
	}
}

int
taskrt__dyntls_save(void)
{
	size_t len = 0;

	pthread_once(&once, find_loader);
	if (tls_get_addr == NULL)
		return DSM_OK;
	if (find_blocks() != DSM_OK)
		return DSM_ENOMEM;
	for (size_t i = 0; i < n_blocks; i++)
		len += blocks[i].size;
	if (len > save_len) {
		void *p = realloc(save_area, len);

		if (p == NULL) {
			n_blocks = 0;
			return DSM_ENOMEM;
		}
		save_area = p;
		save_len = len;
	}
	len = 0;
	for (size_t i = 0; i < n_blocks; i++) {
		struct block *b = &blocks[i];
		struct tls_index first = {b->module, 0};

		b->at = tls_get_addr(&first);
		b->saved = save_area + len;
		memcpy(b->saved, b->at, b->size);
		len += b->size;
	}
	return DSM_OK;
}

/* Looking first: most tasks leave them alone, and need no copy of the page. */
void
taskrt__dyntls_restore(void)
{
	for (size_t i = 0; i < n_blocks; i++) {
		const struct block *b = &blocks[i];

		if (memcmp(b->at, b->saved, b->size) != 0)
			memcpy(b->at, b->saved, b->size);
	}
}
