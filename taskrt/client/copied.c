/*
 * Data of system libraries are private to a task, but some lie in the program: for
 * std::cout, optind, environ and others that its code uses by a fixed address, the
 * linker makes room in the program's .bss, the loader copies the object there
 * (R_…_COPY), and from then on the library, too, uses that copy. Two tasks that
 * print through std::cout would race.
 *
 * So a task puts them back at its end as they were at the launch; it then has
 * changed nothing there. The program writes its save area before the snapshot is
 * made. A store by another thread of the program between the two is seen by tasks
 * at first and undone at their end: a difference that is committed. Who has other
 * threads print while one launches has that race without tasks, too.
 */
#include "copied.h"

#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "../../dsm/heap/maptext.h"

#define OBJECTS_MAX 64u /* some six are usual */
#define BYTES_MAX 16384u

#if defined(__x86_64__)
#define COPY_RELOCATION R_X86_64_COPY
#elif defined(__aarch64__)
#define COPY_RELOCATION R_AARCH64_COPY
#endif

struct object {
	uint8_t *at, *saved;
	size_t size;
};

/* Per process, as the program's .bss is: filled in once, saved by launches, which
 * wait for each other. */
static struct object objects[OBJECTS_MAX];
static size_t n_objects;
static uint8_t save_area[BYTES_MAX];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The program's dynamic section; pointers into the program. */
struct dynamic {
	const ElfW(Rela) * rela;
	size_t n_rela;
	const ElfW(Sym) * syms;
	const char *names;
	const ElfW(Versym) * versions;
	const ElfW(Verneed) * needs;
	size_t n_needs;
};

static void
read_dynamic(const struct dl_phdr_info *info, const ElfW(Dyn) * dyn,
             struct dynamic *d)
{
	for (; dyn->d_tag != DT_NULL; dyn++) {
		uintptr_t at = dyn->d_un.d_ptr;

		/* glibc has relocated d_ptr, other loaders have not. */
		if (at < info->dlpi_addr)
			at += info->dlpi_addr;
		/* NOLINTBEGIN(performance-no-int-to-ptr) */
		if (dyn->d_tag == DT_RELA)
			d->rela = (const void *)at;
		else if (dyn->d_tag == DT_RELASZ)
			d->n_rela = dyn->d_un.d_val / sizeof(ElfW(Rela));
		else if (dyn->d_tag == DT_SYMTAB)
			d->syms = (const void *)at;
		else if (dyn->d_tag == DT_STRTAB)
			d->names = (const void *)at;
		else if (dyn->d_tag == DT_VERSYM)
			d->versions = (const void *)at;
		else if (dyn->d_tag == DT_VERNEED)
			d->needs = (const void *)at;
		else if (dyn->d_tag == DT_VERNEEDNUM)
			d->n_needs = dyn->d_un.d_val;
		/* NOLINTEND(performance-no-int-to-ptr) */
	}
}

/* File name of the library that the symbol's version is of; "": none. */
static const char *
library_of(const struct dynamic *d, size_t sym)
{
	const ElfW(Verneed) *need = d->needs;
	unsigned version = d->versions[sym] & 0x7fff;

	for (size_t i = 0; i < d->n_needs; i++) {
		const ElfW(Vernaux) *aux =
		    (const void *)((const char *)need + need->vn_aux);

		for (unsigned k = 0; k < need->vn_cnt; k++) {
			if (aux->vna_other == version)
				return d->names + need->vn_file;
			aux = (const void *)((const char *)aux + aux->vna_next);
		}
		need = (const void *)((const char *)need + need->vn_next);
	}
	return "";
}

static void
add_object(void *at, size_t size, size_t *used)
{
	if (n_objects == OBJECTS_MAX || size > BYTES_MAX - *used)
		return;
	objects[n_objects++] = (struct object){at, save_area + *used, size};
	*used += size;
}

/* The first one is the program. */
static int
find_in_program(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct dynamic d = {0};
	size_t used = 0;

	(void)size, (void)arg;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

		if (ph->p_type == PT_DYNAMIC)
			read_dynamic(
			    info,
			    /* NOLINTNEXTLINE(performance-no-int-to-ptr) */
			    (const void *)(info->dlpi_addr + ph->p_vaddr), &d);
	}
	if (d.rela == NULL || d.syms == NULL || d.names == NULL ||
	    d.versions == NULL || d.needs == NULL)
		return 1;
	for (size_t i = 0; i < d.n_rela; i++) {
		size_t sym = ELF64_R_SYM(d.rela[i].r_info);

		if (ELF64_R_TYPE(d.rela[i].r_info) == COPY_RELOCATION &&
		    dsm__is_system_library(library_of(&d, sym)))
			/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
			add_object(
			    (void *)(info->dlpi_addr + d.rela[i].r_offset),
			    d.syms[sym].st_size, &used);
	}
	return 1;
}

static void
find(void)
{
	dl_iterate_phdr(find_in_program, NULL);
}

void
taskrt__copied_save(void)
{
	pthread_once(&once, find);
	for (size_t i = 0; i < n_objects; i++)
		memcpy(objects[i].saved, objects[i].at, objects[i].size);
}

/* Looking first: most tasks leave them alone, and need no copy of the page. */
void
taskrt__copied_restore(void)
{
	for (size_t i = 0; i < n_objects; i++) {
		const struct object *o = &objects[i];

		if (memcmp(o->at, o->saved, o->size) != 0)
			memcpy(o->at, o->saved, o->size);
	}
}
