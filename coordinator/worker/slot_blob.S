/*
 * The two slot programs (same code, two addresses) as data: whoever starts
 * slots carries them along, so there is nothing to install on a worker.
 */
	.macro	blob name, file
	.balign	64
	.hidden	taskrt__\name\()_start
	.global	taskrt__\name\()_start
taskrt__\name\()_start:
	.incbin	"\file"
	.hidden	taskrt__\name\()_end
	.global	taskrt__\name\()_end
taskrt__\name\()_end:
	.byte	0
	.endm

	.section .rodata
	blob	slot_a, "slot-a.bin"
	blob	slot_b, "slot-b.bin"
	.section .note.GNU-stack, "", @progbits
