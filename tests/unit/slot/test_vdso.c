/* Patching a client's vDSO: on this process's own, and on broken images. */
#include <elf.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <time.h>

#include "../../../taskrt/slot/arch.h"
#include "../../../taskrt/slot/vdso.h"
#include "../../test.h"

#define VDSO_MAX (4 * 4096)

/* Bytes of our own vDSO: the ELF's section table is its end. */
static size_t
own_vdso(uint8_t *copy)
{
	const uint8_t *image = (const uint8_t *)getauxval(AT_SYSINFO_EHDR);
	const Elf64_Ehdr *eh = (const Elf64_Ehdr *)image;
	size_t len;

	if (image == NULL)
		return 0;
	len = (size_t)eh->e_shoff + (size_t)eh->e_shnum * eh->e_shentsize;
	MUST(len <= VDSO_MAX);
	memcpy(copy, image, len);
	return len;
}

static void
test_patched_clock_gettime_works_without_vvar(void)
{
	uint8_t *copy = mmap(NULL, VDSO_MAX, PROT_READ | PROT_WRITE | PROT_EXEC,
	                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const uint8_t *own = (const uint8_t *)getauxval(AT_SYSINFO_EHDR);
	size_t len = own_vdso(copy);
	size_t changed = VDSO_MAX;
	int (*fn)(clockid_t, struct timespec *);
	struct timespec a, b;
	uint8_t stub[ARCH_STUB_MAX];
	unsigned n = arch_syscall_stub(stub, 228 /* clock_gettime */);

	MUST(len > 0);
	MUST(vdso_patch(copy, len) >= 3);
	for (size_t i = 0; i + n <= len && changed == VDSO_MAX; i++)
		if (memcmp(copy + i, stub, n) == 0 &&
		    memcmp(own + i, stub, n) != 0)
			changed = i;
	MUST(changed != VDSO_MAX);
	fn = (int (*)(clockid_t, struct timespec *))(uintptr_t)(copy + changed);
	clock_gettime(CLOCK_MONOTONIC, &a);
	MUST_BE(fn(CLOCK_MONOTONIC, &b), 0);
	MUST(b.tv_sec == a.tv_sec || b.tv_sec == a.tv_sec + 1);
	munmap(copy, VDSO_MAX);
}

static void
test_truncated_or_damaged_images_are_left_without_a_crash(void)
{
	static uint8_t whole[VDSO_MAX];
	size_t len = own_vdso(whole);
	uint64_t seed = test_seed();

	MUST(len > 0);
	for (size_t cut = 0; cut < len; cut += 7) {
		uint8_t *copy = malloc(cut + 1);

		memcpy(copy, whole, cut);
		vdso_patch(copy, cut);
		free(copy);
	}
	for (int round = 0; round < 2000; round++) {
		uint8_t *copy = malloc(len + 1);

		memcpy(copy, whole, len);
		for (int k = 0; k < 8; k++)
			copy[test_rand(&seed) % (k < 4 ? 64 : len)] =
			    (uint8_t)test_rand(&seed);
		vdso_patch(copy, len);
		free(copy);
	}
}

SUITE(taskrt_slot_vdso, "taskrt.slot.vdso",
      T(test_patched_clock_gettime_works_without_vvar),
      T(test_truncated_or_damaged_images_are_left_without_a_crash));
