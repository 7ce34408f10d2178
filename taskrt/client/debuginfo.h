/*
 * What the program's debug information says of its addresses: names, lines, call
 * chains. The addresses in a task are the program's own, so is what describes them.
 *
 * elfutils' libdw, found at run time (dlopen of libdw.so.1): a program that never
 * fails needs none. Without it, or in a static program, names are those that the
 * dynamic linker knows.
 *
 * One object describes the process as it is when it is opened. Not for tasks.
 */
#ifndef TASKRT_CLIENT_DEBUGINFO_H
#define TASKRT_CLIENT_DEBUGINFO_H

#include <stddef.h>
#include <stdint.h>

#include "../../dsm/wire/wire.h"

struct taskrt__debuginfo;

/* Never NULL but for lack of memory; then the functions below say less. */
struct taskrt__debuginfo *taskrt__debuginfo_open(void);
void taskrt__debuginfo_close(struct taskrt__debuginfo *d); /* NULL is fine */

/*
 * Code: "step, heat.c:88", "step+0x1c in prog", "prog+0x40b0", or "" when addr lies in
 * no file. The address of an instruction, not a return address.
 */
void taskrt__debuginfo_code(struct taskrt__debuginfo *d, uint64_t addr,
                            char *buf, size_t size);
/* "heat.c:42", or "" */
void taskrt__debuginfo_line(struct taskrt__debuginfo *d, uint64_t addr,
                            char *buf, size_t size);
/* Data: "total in prog", "prog+0x40b0", "on the launching thread's stack", "". */
void taskrt__debuginfo_data(struct taskrt__debuginfo *d, uint64_t addr,
                            char *buf, size_t size);

/*
 * The calls that led to a failure, from its context (doc/PROTOCOL.md), innermost
 * first, one a line ("step, heat.c:88\n"), inlined ones too; appended to w, which
 * is not terminated. *own_p: offset in w of the first that is the program's own,
 * or SIZE_MAX. Returns how many; 0: nothing is known.
 */
size_t taskrt__debuginfo_backtrace(struct taskrt__debuginfo *d,
                                   struct dsm_blob context, struct dsm_wbuf *w,
                                   size_t *own_p);

#endif
