/*
 * The client's vDSO cannot run here: it reads a [vvar] page that only the
 * client's kernel fills. Each __vdso_* function of the image is overwritten with
 * the plain system call, in the image of this machine only.
 */
#ifndef TASKRT_SLOT_VDSO_H
#define TASKRT_SLOT_VDSO_H

#include <stddef.h>
#include <stdint.h>

/* Patch a whole vDSO image in place. Anything that does not look like one is
 * left alone. Reads nothing outside [image, image + len). Returns the number of
 * functions patched. */
unsigned vdso_patch(uint8_t *image, size_t len);

#endif
