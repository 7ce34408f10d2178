#include "vdso.h"

#include <elf.h>
#include <string.h>
#include <sys/syscall.h>

#include "arch.h"

static const struct {
	const char *name;
	unsigned nr;
} functions[] = {
    {"__vdso_clock_gettime", SYS_clock_gettime},
    {"__vdso_gettimeofday", SYS_gettimeofday},
    {"__vdso_time", SYS_time},
    {"__vdso_clock_getres", SYS_clock_getres},
    {"__vdso_getcpu", SYS_getcpu},
    {"__vdso_getrandom", SYS_getrandom},
};

/* Bounds-checked view of part of the image; NULL when it is not inside. */
static void *
part(uint8_t *image, size_t len, uint64_t off, uint64_t want)
{
	return off <= len && want <= len - off ? image + off : NULL;
}

/* Copy size bytes at off out: a damaged image need not be aligned. */
static int
load(uint8_t *image, size_t len, uint64_t off, void *to, size_t size)
{
	const void *from = part(image, len, off, size);

	if (from == NULL)
		return 0;
	memcpy(to, from, size);
	return 1;
}

static int
section(uint8_t *image, size_t len, const Elf64_Ehdr *eh, unsigned type,
        Elf64_Shdr *sh)
{
	for (unsigned i = 0; i < eh->e_shnum; i++)
		if (load(image, len, eh->e_shoff + (uint64_t)i * sizeof(*sh),
		         sh, sizeof(*sh)) &&
		    sh->sh_type == type)
			return 1;
	return 0;
}

static unsigned
patch_symbol(uint8_t *image, size_t len, const Elf64_Sym *sym, const char *name)
{
	uint8_t stub[ARCH_STUB_MAX];

	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		unsigned n;
		uint8_t *at;

		if (strcmp(name, functions[i].name) != 0)
			continue;
		n = arch_syscall_stub(stub, functions[i].nr);
		at = part(image, len, sym->st_value, n);
		if (at == NULL)
			return 0;
		memcpy(at, stub, n);
		return 1;
	}
	return 0;
}

unsigned
vdso_patch(uint8_t *image, size_t len)
{
	Elf64_Ehdr eh;
	Elf64_Shdr syms, strs;
	const char *names;
	unsigned patched = 0;

	if (!load(image, len, 0, &eh, sizeof(eh)) ||
	    memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 ||
	    eh.e_ident[EI_CLASS] != ELFCLASS64)
		return 0;
	if (!section(image, len, &eh, SHT_DYNSYM, &syms) ||
	    syms.sh_link >= eh.e_shnum ||
	    !load(image, len,
	          eh.e_shoff + (uint64_t)syms.sh_link * sizeof(strs), &strs,
	          sizeof(strs)))
		return 0;
	names = part(image, len, strs.sh_offset, strs.sh_size);
	/* Names must end inside their section. */
	if (names == NULL || strs.sh_size == 0 ||
	    names[strs.sh_size - 1] != '\0')
		return 0;
	for (uint64_t i = 0; i < syms.sh_size / sizeof(Elf64_Sym); i++) {
		Elf64_Sym sym;

		if (!load(image, len, syms.sh_offset + i * sizeof(sym), &sym,
		          sizeof(sym)))
			break;
		if (sym.st_name < strs.sh_size)
			patched +=
			    patch_symbol(image, len, &sym, names + sym.st_name);
	}
	return patched;
}
