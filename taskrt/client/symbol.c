/*
 * Symbols: the file's own table, because dladdr knows exported names only, and
 * what tasks write and where they crash is mostly static. A file may be damaged or
 * another one by now: everything in it is checked, and a name is a hint.
 */
#include "symbol.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is looked for, and the file it is in. */
struct module {
	uintptr_t addr;
	uintptr_t base; /* what the file calls 0 */
	char path[PATH_MAX];
};

static int
find_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct module *m = arg;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		uintptr_t start = info->dlpi_addr + ph->p_vaddr;

		if (ph->p_type != PT_LOAD || m->addr < start ||
		    m->addr - start >= ph->p_memsz)
			continue;
		m->base = info->dlpi_addr;
		/* The program itself has no name here. */
		snprintf(m->path, sizeof(m->path), "%s",
		         info->dlpi_name[0] != '\0' ? info->dlpi_name
		                                    : "/proc/self/exe");
		return 1;
	}
	return 0;
}

/* --- the file --- */

struct file {
	const uint8_t *bytes;
	size_t len;
};

/* NULL: not all of it is in the file. */
static const void *
part(const struct file *f, uint64_t off, uint64_t len)
{
	return off <= f->len && len <= f->len - off ? f->bytes + off : NULL;
}

static const ElfW(Shdr) * sections(const struct file *f, size_t *n_p)
{
	const ElfW(Ehdr) *eh = part(f, 0, sizeof(*eh));

	if (eh == NULL || memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0 ||
	    eh->e_shentsize != sizeof(ElfW(Shdr)) ||
	    eh->e_shoff % _Alignof(ElfW(Shdr)) != 0)
		return NULL;
	*n_p = eh->e_shnum;
	return part(f, eh->e_shoff, (uint64_t)eh->e_shnum * eh->e_shentsize);
}

static const ElfW(Sym) *
    lookup(const ElfW(Sym) * syms, size_t n, uint64_t value)
{
	for (size_t i = 0; i < n; i++) {
		unsigned type = syms[i].st_info & 0xf;

		if ((type == STT_OBJECT || type == STT_FUNC) &&
		    syms[i].st_shndx != SHN_UNDEF &&
		    value >= syms[i].st_value &&
		    value - syms[i].st_value < syms[i].st_size)
			return &syms[i];
	}
	return NULL;
}

/* The name of what is at value, and how far into it: in a table of one type. */
static const char *
name_in(const struct file *f, uint32_t type, uint64_t value, uint64_t *off_p)
{
	size_t n;
	const ElfW(Shdr) *sh = sections(f, &n);

	for (size_t i = 0; sh != NULL && i < n; i++) {
		if (sh[i].sh_type != type || sh[i].sh_link >= n ||
		    sh[i].sh_offset % _Alignof(ElfW(Sym)) != 0)
			continue;
		const ElfW(Shdr) *str = &sh[sh[i].sh_link];
		const ElfW(Sym) *syms = part(f, sh[i].sh_offset, sh[i].sh_size);
		const char *names = part(f, str->sh_offset, str->sh_size);

		if (syms == NULL || names == NULL)
			continue;
		const ElfW(Sym) *s =
		    lookup(syms, sh[i].sh_size / sizeof(*syms), value);
		if (s == NULL || s->st_name >= str->sh_size ||
		    memchr(names + s->st_name, '\0',
		           str->sh_size - s->st_name) == NULL)
			continue;
		*off_p = value - s->st_value;
		return names + s->st_name;
	}
	return NULL;
}

static int
open_file(const char *path, struct file *f)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p = MAP_FAILED;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && st.st_size > 0)
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd,
		         0);
	close(fd);
	if (p == MAP_FAILED)
		return -1;
	f->bytes = p;
	f->len = (size_t)st.st_size;
	return 0;
}

/* --- for people --- */

/* The C++ library's, when the program has one. */
__attribute__((weak)) char *__cxa_demangle(const char *name, char *buf,
                                           size_t *size, int *status);

/* The name as the source has it, in C++ too; malloc'ed, or NULL: no memory. */
static char *
readable(const char *name)
{
	/* Of "_ZSt4cout@GLIBCXX_3.4" the part before the version. */
	char *plain = strndup(name, strcspn(name, "@"));
	char *cxx = NULL;
	int status;

	if (plain != NULL && strncmp(plain, "_Z", 2) == 0 &&
	    __cxa_demangle != NULL)
		cxx = __cxa_demangle(plain, NULL, NULL, &status);
	if (cxx == NULL)
		return plain;
	free(plain);
	return cxx;
}

static void
describe(const struct module *m, const struct file *f, const char *file,
         char *buf, size_t size)
{
	uint64_t value = m->addr - m->base, off;
	const char *name = NULL, *hint = "";
	char *text;

	if (f->bytes != NULL)
		name = name_in(f, SHT_SYMTAB, value, &off);
	if (f->bytes != NULL && name == NULL)
		name = name_in(f, SHT_DYNSYM, value, &off);
	text = name != NULL ? readable(name) : NULL;
	if (text == NULL) {
		snprintf(buf, size, "%s+0x%llx", file,
		         (unsigned long long)value);
		return;
	}
	if (strncmp(name, "_ZGV", 4) == 0)
		hint = "each task initialises it at its first use: use it once "
		       "before the launch; ";
	if (off == 0)
		snprintf(buf, size, "%s%s in %s", hint, text, file);
	else
		snprintf(buf, size, "%s%s+0x%llx in %s", hint, text,
		         (unsigned long long)off, file);
	free(text);
}

/* Of the calling thread, which launched the run. */
static int
is_on_stack(uintptr_t addr)
{
	pthread_attr_t attr;
	void *lo;
	size_t size;

	if (pthread_getattr_np(pthread_self(), &attr) != 0)
		return 0;
	int err = pthread_attr_getstack(&attr, &lo, &size);
	pthread_attr_destroy(&attr);
	return err == 0 && addr - (uintptr_t)lo < size;
}

void
taskrt__symbol_describe(const void *addr, char *buf, size_t size)
{
	struct module m = {.addr = (uintptr_t)addr};
	struct file f = {NULL, 0};

	buf[0] = '\0';
	if (dl_iterate_phdr(find_module, &m) == 0) {
		if (is_on_stack(m.addr))
			snprintf(buf, size, "on the launching thread's stack");
		return;
	}
	const char *slash = strrchr(m.path, '/');
	const char *file = slash != NULL ? slash + 1 : m.path;
	if (strcmp(m.path, "/proc/self/exe") == 0)
		file = program_invocation_short_name;
	open_file(m.path, &f);
	describe(&m, &f, file, buf, size);
	if (f.bytes != NULL)
		munmap((void *)(uintptr_t)f.bytes, f.len);
}
