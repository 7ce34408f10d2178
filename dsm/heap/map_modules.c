/* What the loader says of the program's modules: whose anonymous memory is, where
 * functions are bound, where thread-local storage lies. See map.h. */
#include "map_priv.h"

#include <link.h>
#include <stdlib.h>
#include <unistd.h>

#include "../base/page.h"
#include "../wire/wire.h"

#define TLS_REACH (UINT64_C(1) << 20) /* static TLS lies this near to the tp */
#define TCB_SIZE 0x900                /* struct pthread of glibc */

static uint64_t
thread_pointer(void)
{
	return (uint64_t)(uintptr_t)__builtin_thread_pointer();
}

struct tls_walk {
	uint64_t tp, start, end;
};

static int
tls_of_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct tls_walk *w = arg;
	uint64_t at;

	if (size < offsetof(struct dl_phdr_info, dlpi_tls_data) +
	               sizeof(info->dlpi_tls_data) ||
	    info->dlpi_tls_data == NULL)
		return 0;
	at = (uint64_t)(uintptr_t)info->dlpi_tls_data;
	if (at > w->tp || w->tp - at > TLS_REACH)
		return 0; /* allocated later, for a library loaded later */
	if (at < w->start)
		w->start = at;
	return 0;
}

void
dsm__map_tls(uint64_t *start_p, uint64_t *end_p)
{
	struct tls_walk w = {.tp = thread_pointer()};

	w.start = w.tp;
	dl_iterate_phdr(tls_of_module, &w);
	*start_p = w.start;
	*end_p = (w.tp + TCB_SIZE + 63) & ~UINT64_C(63);
}

struct module_walk {
	struct spans *spans, *plt;
	size_t n; /* writable segments seen; those that fit are in spans */
	uint64_t adds, subs;
	size_t n_modules;
};

/*
 * Where the loader writes when a function of another module is called for the
 * first time: from the lowest to the highest word of DT_JMPREL.
 */
static struct span
plt_words(const struct dl_phdr_info *info, const ElfW(Dyn) * dyn)
{
	struct span s = {UINT64_MAX, 0, 0};
	uint64_t table = 0, len = 0, entry = sizeof(ElfW(Rela));

	for (; dyn->d_tag != DT_NULL; dyn++) {
		if (dyn->d_tag == DT_JMPREL)
			table = dyn->d_un.d_ptr;
		else if (dyn->d_tag == DT_PLTRELSZ)
			len = dyn->d_un.d_val;
		else if (dyn->d_tag == DT_PLTREL && dyn->d_un.d_val == DT_REL)
			entry = sizeof(ElfW(Rel));
	}
	/* glibc has relocated d_ptr, other loaders have not. */
	if (table != 0 && table < info->dlpi_addr)
		table += info->dlpi_addr;
	for (uint64_t at = 0; table != 0 && at + entry <= len; at += entry) {
		const ElfW(Rel) *rel =
		    (const ElfW(Rel) *)(uintptr_t)(table + at);
		uint64_t word = info->dlpi_addr + rel->r_offset;

		if (word < s.start)
			s.start = word;
		if (word + sizeof(word) > s.end)
			s.end = word + sizeof(word);
	}
	return s;
}

static int
segments_of_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct module_walk *w = arg;
	int is_system = dsm__is_system_library(info->dlpi_name);

	(void)size;
	w->adds = info->dlpi_adds;
	w->subs = info->dlpi_subs;
	/* The program comes first and has no name; the vDSO writes nothing. */
	for (size_t i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uint64_t at = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type == PT_DYNAMIC && !is_system) {
			struct span s =
			    plt_words(info, (const ElfW(Dyn) *)(uintptr_t)at);

			if (s.start < s.end && w->plt->n < w->plt->cap)
				w->plt->v[w->plt->n++] = s;
		}
		if (ph->p_type != PT_LOAD || (ph->p_flags & PF_W) == 0)
			continue;
		if (w->n++ >= w->spans->cap)
			continue; /* no allocation under the loader's lock */
		w->spans->v[w->spans->n++] = (struct span){
		    dsm__page_down(at), dsm__page_up(at + ph->p_memsz),
		    is_system && w->n_modules > 0 ? DSM_RANGE_SYS
		                                  : DSM_RANGE_DATA};
	}
	w->n_modules++;
	return 0;
}

static int
by_start(const void *a, const void *b)
{
	const struct span *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

int
dsm__map_owners(struct dsm_map *m, uint64_t *adds_p, uint64_t *subs_p)
{
	struct module_walk w;
	int err = dsm__spans_reserve(&m->own, 64);

	if (err == DSM_OK)
		err = dsm__spans_reserve(&m->plt, m->own.cap);
	while (err == DSM_OK) {
		m->own.n = m->plt.n = 0;
		w = (struct module_walk){.spans = &m->own, .plt = &m->plt};
		dl_iterate_phdr(segments_of_module, &w);
		if (w.n <= m->own.cap)
			break;
		err = dsm__spans_reserve(&m->own, 2 * w.n);
		if (err == DSM_OK)
			err = dsm__spans_reserve(&m->plt, 2 * w.n);
	}
	if (err != DSM_OK)
		return err;
	qsort(m->own.v, m->own.n, sizeof(*m->own.v), by_start);
	*adds_p = w.adds;
	*subs_p = w.subs;

	/* Other threads' TLS shares pages with their stacks. */
	if (getpid() == gettid()) {
		dsm__map_tls(&m->main_tls.start, &m->main_tls.end);
		m->main_tls.start = dsm__page_down(m->main_tls.start);
		m->main_tls.end = dsm__page_up(m->main_tls.end);
		m->main_tls.kind = DSM_RANGE_SYS;
	}
	return m->main_tls.end > 0 ? dsm__spans_insert(&m->own, m->main_tls)
	                           : DSM_OK;
}

static int
first_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct module_walk *w = arg;

	(void)size;
	w->adds = info->dlpi_adds;
	w->subs = info->dlpi_subs;
	return 1;
}

int
dsm__map_stale(struct dsm_map *m)
{
	struct module_walk w = {0};
	int stale;

	dl_iterate_phdr(first_module, &w);
	pthread_mutex_lock(&m->lock);
	stale = !m->current || w.adds != m->adds || w.subs != m->subs;
	pthread_mutex_unlock(&m->lock);
	return stale;
}
