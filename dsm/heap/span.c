#include "span.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
dsm__span_small(struct dsm_span *s, unsigned cls, dsm_slot_word *words)
{
	uint32_t size = dsm__class_size(cls);

	s->words = words;
	s->n_slots = (uint16_t)dsm__span_slots_of(cls);
	s->limit = s->n_slots * size;
	s->reciprocal = UINT32_MAX / size + 1;
	s->slot_size = (uint16_t)size;
	s->cls = (uint8_t)cls;
	s->n_used = 0;
	s->free_head = 0;
	s->bump = 0;
	s->kind = DSM_SPAN_SMALL;
}

uint64_t
dsm__word_make(uint64_t slot_size, uint64_t size, uint64_t elem_size,
               const void *return_address)
{
	uint64_t slack = slot_size - size;
	uint64_t code = 0;

	/* A calloc'ed block has its natural class, hence a slack below 256;
	 * elements of 128 bytes and more are at most 16. */
	if (slack > 0xff)
		code = 0xa0 | slack >> 8;
	else if (elem_size != 0 && size != 0)
		code = elem_size < 128 ? elem_size : 0x80 | size / elem_size;
	return dsm__word_plain(slack & 0xff, return_address) | code << 56;
}

uint64_t
dsm__word_elem(uint64_t word, uint64_t slot_size)
{
	uint64_t code = word >> 56;

	if (code < 128)
		return code;
	if (code > 0x80 && code < 0xa0)
		return dsm__word_size(word, slot_size) / (code & 0x1f);
	return 0;
}

void
dsm__heap_die(const char *what, const void *p)
{
	char line[160];
	size_t n = 0;
	int digit = 60;

	/* Not printf: it may allocate, and this may run with a lock held. */
	for (const char *c = "dsm: "; *c != '\0'; c++)
		line[n++] = *c;
	for (const char *c = what; *c != '\0' && n < 120; c++)
		line[n++] = *c;
	line[n++] = ' ';
	line[n++] = '0';
	line[n++] = 'x';
	while (digit > 0 && ((uintptr_t)p >> digit & 0xf) == 0)
		digit -= 4;
	for (; digit >= 0; digit -= 4)
		line[n++] = "0123456789abcdef"[(uintptr_t)p >> digit & 0xf];
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0)
		abort();
	abort();
}
