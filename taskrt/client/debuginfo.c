#include "debuginfo.h"

#include <dlfcn.h>
#include <dwarf.h>
#include <elfutils/libdwfl.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../../dsm/base/log.h"

#define N_REGS 17 /* x86-64: DWARF numbers 0 to 15, then the pc */
#define CONTEXT_FIXED ((N_REGS + 1) * 8)
#define MAX_FRAMES 64
#define MAX_INLINED 16

/* libdw's functions that are used, as in its headers. */
#define LIBDW(X)                        \
	X(dwarf_attr)                   \
	X(dwarf_diename)                \
	X(dwarf_filesrc)                \
	X(dwarf_formudata)              \
	X(dwarf_dieoffset)              \
	X(dwarf_getscopes)              \
	X(dwarf_getscopes_die)          \
	X(dwarf_offdie)                 \
	X(dwfl_module_getdwarf)         \
	X(dwarf_getsrcfiles)            \
	X(dwarf_tag)                    \
	X(dwfl_addrmodule)              \
	X(dwfl_attach_state)            \
	X(dwfl_begin)                   \
	X(dwfl_build_id_find_debuginfo) \
	X(dwfl_end)                     \
	X(dwfl_frame_pc)                \
	X(dwfl_getthread_frames)        \
	X(dwfl_linux_proc_find_elf)     \
	X(dwfl_linux_proc_report)       \
	X(dwfl_lineinfo)                \
	X(dwfl_module_addrdie)          \
	X(dwfl_module_addrinfo)         \
	X(dwfl_module_getsrc)           \
	X(dwfl_module_info)             \
	X(dwfl_report_end)              \
	X(dwfl_thread_state_registers)

static struct {
	void *handle;
#define X(name) __typeof__(name) *name;
	LIBDW(X)
#undef X
} dw;
static pthread_once_t dw_once = PTHREAD_ONCE_INIT;

struct context {
	uint64_t regs[N_REGS];
	uint64_t stack_at;
	const uint8_t *stack;
	size_t stack_len;
};

struct taskrt__debuginfo {
	Dwfl *dwfl; /* NULL: no libdw */
	Dwfl_Callbacks callbacks;
	int attached;
	struct context context;      /* being unwound */
	uint64_t frames[MAX_FRAMES]; /* addresses within the calls */
	size_t n_frames;
};

/* --- libdw --- */

static void
load(void)
{
	static const struct {
		const char *name;
		void **to;
	} functions[] = {
#define X(name) {#name, (void **)&dw.name},
	    LIBDW(X)
#undef X
	};

	/* A static program would get a second C library with it. */
	if (getauxval(AT_BASE) == 0)
		return;
	dw.handle = dlopen("libdw.so.1", RTLD_NOW | RTLD_LOCAL);
	if (dw.handle == NULL) {
		log_info("no lines in reports: %s (package libdw1)", dlerror());
		return;
	}
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		*functions[i].to = dlsym(dw.handle, functions[i].name);
		if (*functions[i].to != NULL)
			continue;
		log_info("no lines in reports: libdw.so.1 has no %s",
		         functions[i].name);
		dlclose(dw.handle);
		dw.handle = NULL;
		return;
	}
}

struct taskrt__debuginfo *
taskrt__debuginfo_open(void)
{
	struct taskrt__debuginfo *d = calloc(1, sizeof(*d));

	if (d == NULL)
		return NULL;
	pthread_once(&dw_once, load);
	if (dw.handle == NULL)
		return d;
	/* Of this machine only: dwfl_standard_find_debuginfo may ask servers,
	 * and would make a report wait for them. */
	d->callbacks.find_elf = dw.dwfl_linux_proc_find_elf;
	d->callbacks.find_debuginfo = dw.dwfl_build_id_find_debuginfo;
	d->dwfl = dw.dwfl_begin(&d->callbacks);
	if (d->dwfl != NULL &&
	    (dw.dwfl_linux_proc_report(d->dwfl, getpid()) != 0 ||
	     dw.dwfl_report_end(d->dwfl, NULL, NULL) != 0)) {
		dw.dwfl_end(d->dwfl);
		d->dwfl = NULL;
	}
	return d;
}

void
taskrt__debuginfo_close(struct taskrt__debuginfo *d)
{
	if (d != NULL && d->dwfl != NULL)
		dw.dwfl_end(d->dwfl);
	free(d);
}

static const char *
base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

/* What the dynamic linker knows. */
static void
name_by_dladdr(uint64_t addr, char *buf, size_t size)
{
	Dl_info info;

	buf[0] = '\0';
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	if (dladdr((void *)(uintptr_t)addr, &info) == 0 ||
	    info.dli_fname == NULL)
		return;
	const char *file = base_name(info.dli_fname);
	unsigned long long off = addr - (uintptr_t)info.dli_saddr;
	if (info.dli_sname == NULL)
		snprintf(buf, size, "%s+0x%llx", file,
		         (unsigned long long)addr - (uintptr_t)info.dli_fbase);
	else if (off == 0)
		snprintf(buf, size, "%s in %s", info.dli_sname, file);
	else
		snprintf(buf, size, "%s+0x%llx in %s", info.dli_sname, off,
		         file);
}

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

/* The guard of a static variable that is made when it is first met. */
static const char *
hint_of(const char *name)
{
	return strncmp(name, "_ZGV", 4) == 0
	           ? "each task initialises it at its first use: use it once "
	             "before the launch; "
	           : "";
}

/* The symbol that addr is in, or its place in the file. */
static void
name_in_module(Dwfl_Module *m, uint64_t addr, char *buf, size_t size)
{
	const char *path = NULL;
	GElf_Off off = 0;
	GElf_Sym sym;
	Dwarf_Addr start = 0;
	const char *module =
	    dw.dwfl_module_info(m, NULL, &start, NULL, NULL, NULL, &path, NULL);
	const char *file = base_name(path != NULL ? path : module);
	const char *name =
	    dw.dwfl_module_addrinfo(m, addr, &off, &sym, NULL, NULL, NULL);

	char *text = NULL;

	/* A name from before addr, which does not reach it, says nothing. */
	if (name != NULL && (sym.st_size == 0 || off < sym.st_size))
		text = readable(name);
	if (text == NULL)
		snprintf(buf, size, "%s+0x%llx", file,
		         (unsigned long long)(addr - start));
	else if (off == 0)
		snprintf(buf, size, "%s%s in %s", hint_of(name), text, file);
	else
		snprintf(buf, size, "%s%s+0x%llx in %s", hint_of(name), text,
		         (unsigned long long)off, file);
	free(text);
}

/* Where modules end the dynamic linker knows better: libdw leaves out .bss, and
 * takes the last one to go on for ever. */
static Dwfl_Module *
module_of(struct taskrt__debuginfo *d, uint64_t addr)
{
	Dl_info info;

	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	if (d == NULL || d->dwfl == NULL ||
	    dladdr((void *)(uintptr_t)addr, &info) == 0)
		return NULL;
	return dw.dwfl_addrmodule(d->dwfl, (uintptr_t)info.dli_fbase);
}

static void
line_in_module(Dwfl_Module *m, uint64_t addr, char *buf, size_t size)
{
	Dwfl_Line *line = dw.dwfl_module_getsrc(m, addr);
	int number = 0;
	const char *file = line != NULL ? dw.dwfl_lineinfo(line, NULL, &number,
	                                                   NULL, NULL, NULL)
	                                : NULL;

	buf[0] = '\0';
	if (file != NULL && number > 0)
		snprintf(buf, size, "%s:%d", base_name(file), number);
}

void
taskrt__debuginfo_line(struct taskrt__debuginfo *d, uint64_t addr, char *buf,
                       size_t size)
{
	Dwfl_Module *m = module_of(d, addr);

	buf[0] = '\0';
	if (m != NULL)
		line_in_module(m, addr, buf, size);
}

/* Of the calling thread, which launched the run. */
static int
is_on_stack(uint64_t addr)
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
taskrt__debuginfo_data(struct taskrt__debuginfo *d, uint64_t addr, char *buf,
                       size_t size)
{
	Dwfl_Module *m = module_of(d, addr);

	if (m != NULL)
		name_in_module(m, addr, buf, size);
	else
		name_by_dladdr(addr, buf, size);
	if (buf[0] == '\0' && is_on_stack(addr))
		snprintf(buf, size, "on the launching thread's stack");
}

/* --- code --- */

/* A call, or an inlined one: its function and where it is at. */
struct place {
	char function[160];
	char line[100];
};

/* File and line of the call that die, an inlined subroutine, was made of. */
static void
call_line(Dwarf_Die *cu, Dwarf_Die *die, char *buf, size_t size)
{
	Dwarf_Attribute file_attr, line_attr;
	Dwarf_Word file, line;
	Dwarf_Files *files;
	size_t n;

	buf[0] = '\0';
	if (dw.dwarf_attr(die, DW_AT_call_file, &file_attr) == NULL ||
	    dw.dwarf_attr(die, DW_AT_call_line, &line_attr) == NULL ||
	    dw.dwarf_formudata(&file_attr, &file) != 0 ||
	    dw.dwarf_formudata(&line_attr, &line) != 0 ||
	    dw.dwarf_getsrcfiles(cu, &files, &n) != 0 || file >= n)
		return;
	const char *name = dw.dwarf_filesrc(files, file, NULL, NULL);
	if (name != NULL)
		snprintf(buf, size, "%s:%llu", base_name(name),
		         (unsigned long long)line);
}

/* The scopes of addr, innermost first, as they were inlined and not as they were
 * written: dwarf_getscopes alone leaves an inlined function for where its source
 * stands. */
static int
scopes_of(Dwfl_Module *m, uint64_t addr, Dwarf_Die **cu_p, Dwarf_Die **scopes_p)
{
	Dwarf_Addr bias = 0;
	Dwarf_Die *cu = dw.dwfl_module_addrdie(m, addr, &bias);
	Dwarf *dwarf = dw.dwfl_module_getdwarf(m, &bias);
	Dwarf_Die *scopes = NULL, innermost;
	int n;

	*cu_p = cu;
	*scopes_p = NULL;
	if (cu == NULL || dwarf == NULL ||
	    dw.dwarf_getscopes(cu, addr - bias, &scopes) <= 0)
		return 0;
	Dwarf_Die *found =
	    dw.dwarf_offdie(dwarf, dw.dwarf_dieoffset(&scopes[0]), &innermost);
	free(scopes);
	if (found == NULL)
		return 0;
	n = dw.dwarf_getscopes_die(found, scopes_p);
	return n > 0 ? n : 0;
}

/* The function at addr and those it is inlined into, innermost first: from debug
 * information only. */
static size_t
places_in_scopes(Dwfl_Module *m, uint64_t addr, struct place *v, size_t max)
{
	Dwarf_Die *cu, *scopes;
	int n = scopes_of(m, addr, &cu, &scopes);
	char at[sizeof(v->line)];
	size_t n_places = 0;

	line_in_module(m, addr, at, sizeof(at));
	for (int i = 0; i < n && n_places < max; i++) {
		int tag = dw.dwarf_tag(&scopes[i]);
		const char *name = dw.dwarf_diename(&scopes[i]);

		if (tag != DW_TAG_inlined_subroutine &&
		    tag != DW_TAG_subprogram)
			continue;
		snprintf(v[n_places].function, sizeof(v->function), "%s",
		         name != NULL ? name : "?");
		memcpy(v[n_places++].line, at, sizeof(at));
		if (tag == DW_TAG_subprogram)
			break;
		call_line(cu, &scopes[i], at, sizeof(at));
	}
	free(scopes);
	return n_places;
}

/* At least one, when addr lies in a file at all. */
static size_t
places_of(struct taskrt__debuginfo *d, uint64_t addr, struct place *v,
          size_t max)
{
	Dwfl_Module *m = module_of(d, addr);
	size_t n = m != NULL ? places_in_scopes(m, addr, v, max) : 0;

	if (n > 0)
		return n;
	v->line[0] = '\0';
	if (m != NULL)
		name_in_module(m, addr, v->function, sizeof(v->function));
	else
		name_by_dladdr(addr, v->function, sizeof(v->function));
	return v->function[0] != '\0';
}

static void
print_place(const struct place *p, char *buf, size_t size)
{
	if (p->line[0] != '\0')
		snprintf(buf, size, "%s, %s", p->function, p->line);
	else
		snprintf(buf, size, "%s", p->function);
}

void
taskrt__debuginfo_code(struct taskrt__debuginfo *d, uint64_t addr, char *buf,
                       size_t size)
{
	struct place p;

	buf[0] = '\0';
	if (places_of(d, addr, &p, 1) > 0)
		print_place(&p, buf, size);
}

/* --- unwinding --- */

static pid_t
next_thread(Dwfl *dwfl, void *arg, void **thread_arg_p)
{
	(void)dwfl;
	if (*thread_arg_p != NULL)
		return 0;
	*thread_arg_p = arg;
	return getpid();
}

/* The task's stack as it sent it; all else is the program's. */
static bool
read_word(Dwfl *dwfl, Dwarf_Addr addr, Dwarf_Word *word_p, void *arg)
{
	const struct context *c = &((struct taskrt__debuginfo *)arg)->context;
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	struct iovec from = {(void *)(uintptr_t)addr, sizeof(*word_p)};
	struct iovec to = {word_p, sizeof(*word_p)};

	(void)dwfl;
	if (addr >= c->stack_at && c->stack_len >= sizeof(*word_p) &&
	    addr - c->stack_at <= c->stack_len - sizeof(*word_p)) {
		memcpy(word_p, c->stack + (addr - c->stack_at),
		       sizeof(*word_p));
		return true;
	}
	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) ==
	       (ssize_t)sizeof(*word_p);
}

static bool
set_registers(Dwfl_Thread *thread, void *arg)
{
	const struct taskrt__debuginfo *d = arg;

	return dw.dwfl_thread_state_registers(thread, 0, N_REGS,
	                                      d->context.regs);
}

static int
note_frame(Dwfl_Frame *frame, void *arg)
{
	struct taskrt__debuginfo *d = arg;
	bool is_exact = false;
	Dwarf_Addr pc;

	if (!dw.dwfl_frame_pc(frame, &pc, &is_exact))
		return DWARF_CB_ABORT;
	/* A return address belongs to the call before it. */
	if (!is_exact && d->n_frames > 0)
		pc--;
	/* The slot's own code called the task. */
	if (d->n_frames > 0 && module_of(d, pc) == NULL)
		return DWARF_CB_ABORT;
	d->frames[d->n_frames++] = pc;
	return d->n_frames < MAX_FRAMES ? DWARF_CB_OK : DWARF_CB_ABORT;
}

static void
unwind(struct taskrt__debuginfo *d)
{
	static const Dwfl_Thread_Callbacks callbacks = {
	    .next_thread = next_thread,
	    .memory_read = read_word,
	    .set_initial_registers = set_registers,
	};

	d->n_frames = 0;
	if (d->dwfl != NULL && !d->attached)
		d->attached = dw.dwfl_attach_state(d->dwfl, NULL, getpid(),
		                                   &callbacks, d);
	/* It ends with an error where the slot begins. */
	if (d->attached)
		dw.dwfl_getthread_frames(d->dwfl, getpid(), note_frame, d);
	if (d->n_frames == 0)
		d->frames[d->n_frames++] = d->context.regs[N_REGS - 1];
	/* A call through a bad pointer: what called is on top of the stack. */
	if (d->n_frames == 1 && d->context.stack_len >= 8 &&
	    module_of(d, d->frames[0]) == NULL) {
		uint64_t ret;

		memcpy(&ret, d->context.stack, sizeof(ret));
		if (module_of(d, ret) != NULL)
			d->frames[0] = ret - 1;
	}
}

/* "taskrt_...", "taskrt::...", or, as templates are shown, "void taskrt::...<...". */
static int
is_ours(const char *function)
{
	const char *end = function + strcspn(function, "(<");
	const char *at = strstr(function, "taskrt::");

	if (strncmp(function, "taskrt_", 7) == 0)
		return 1;
	return at != NULL && at < end && (at == function || at[-1] == ' ');
}

/* The C and C++ libraries, and this one (which may be part of the program, as its
 * names show): not where a mistake is looked for. */
static int
is_own(struct taskrt__debuginfo *d, uint64_t addr, const struct place *p)
{
	static const char *const system[] = {
	    "libc.so",      "libc-",     "ld-linux",     "libpthread",
	    "libm.so",      "libm-",     "libstdc++.so", "libgcc_s.so",
	    "libtaskrt.so", "libdsm.so", "[vdso"};
	Dwfl_Module *m = module_of(d, addr);
	const char *path = NULL, *name;

	if (m == NULL || is_ours(p->function) ||
	    strncmp(p->line, "taskrt.hpp:", 11) == 0)
		return 0;
	name =
	    dw.dwfl_module_info(m, NULL, NULL, NULL, NULL, NULL, &path, NULL);
	name = base_name(path != NULL ? path : name);
	for (size_t i = 0; i < sizeof(system) / sizeof(system[0]); i++)
		if (strncmp(name, system[i], strlen(system[i])) == 0)
			return 0;
	return 1;
}

static int
take_context(struct taskrt__debuginfo *d, struct dsm_blob b)
{
	struct context *c = &d->context;

	if (b.len < CONTEXT_FIXED)
		return DSM_EPROTO;
	memcpy(c->regs, b.ptr, sizeof(c->regs));
	memcpy(&c->stack_at, b.ptr + sizeof(c->regs), sizeof(c->stack_at));
	c->stack = b.ptr + CONTEXT_FIXED;
	c->stack_len = b.len - CONTEXT_FIXED;
	return DSM_OK;
}

size_t
taskrt__debuginfo_backtrace(struct taskrt__debuginfo *d,
                            struct dsm_blob context, struct dsm_wbuf *w,
                            size_t *own_p)
{
	size_t n_lines = 0;

	*own_p = SIZE_MAX;
	if (d == NULL || take_context(d, context) != DSM_OK)
		return 0;
	unwind(d);
	for (size_t i = 0; i < d->n_frames; i++) {
		struct place places[MAX_INLINED];
		size_t n = places_of(d, d->frames[i], places, MAX_INLINED);

		if (*own_p == SIZE_MAX && n > 0 &&
		    is_own(d, d->frames[i], &places[0]))
			*own_p = w->len;
		for (size_t k = 0; k < n; k++) {
			char line[300];

			print_place(&places[k], line, sizeof(line));
			if (dsm__wbuf_put(w, line, strlen(line)) != DSM_OK ||
			    dsm__wbuf_put(w, "\n", 1) != DSM_OK)
				return n_lines;
			n_lines++;
		}
	}
	return n_lines;
}
