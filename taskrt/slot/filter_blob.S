/* What taskrt/filter/mkfilter.c has written: filters, names of system calls. */
	.macro	blob name, file
	.balign	8
	.global	\name
\name:
	.incbin	"\file"
	.global	\name\()_end
\name\()_end:
	.byte	0
	.endm

	.section .rodata
	blob	filter_early, "early.bpf"
	blob	filter_tcp, "tcp.bpf"
	blob	filter_verbs, "verbs.bpf"
	blob	call_names, "names.txt"
	.section .note.GNU-stack, "", @progbits
