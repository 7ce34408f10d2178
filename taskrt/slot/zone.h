/*
 * The slot's own part of the address space.
 *
 * Everything the slot maps for itself lies between its ELF image (linked at an
 * unusual address) and zone_end: brk heap below 4 GiB, then what zone_map gives
 * out. The kernel's own mappings (stack, vdso, vvar) are left behind and
 * unmapped by zone_leave_kernel_mappings, so that a client range overlaps either
 * this zone or nothing.
 */
#ifndef TASKRT_SLOT_ZONE_H
#define TASKRT_SLOT_ZONE_H

#include <stddef.h>
#include <stdint.h>

#define ZONE_SIZE (UINT64_C(1) << 40)

uint64_t zone_start(void);
uint64_t zone_end(void);
int zone_holds(uint64_t addr);
/* Address range set aside, nothing mapped; never given back. Page multiple. */
void *zone_reserve(uint64_t len);
/* The same with anonymous memory; NULL when there is none. */
void *zone_map(uint64_t len);
/* A stack of len usable bytes with `guard` inaccessible ones below. Returns its
 * lowest usable address, or NULL. */
void *zone_stack(uint64_t len, uint64_t guard);
/* Unmap what the kernel mapped outside the zone. Runs on a zone stack. Returns 0
 * or -1 (no /proc). */
int zone_leave_kernel_mappings(void);

#endif
