/* arch_call, arch_move: see arch.h. System V ABI: rbx, rbp, r12-r15 survive. */
	.text

	.globl	arch_call
	.type	arch_call, @function
arch_call:				/* rdi stack_top, rsi fn, rdx arg */
	.cfi_startproc
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, arch_saved_sp(%rip)
	mov	%rdi, %rsp
	and	$-16, %rsp
	/* The end of the frame chain: debuggers and unwinders stop here. */
	xor	%ebp, %ebp
	mov	%rdx, %rdi
	call	*%rsi
	mov	arch_saved_sp(%rip), %rsp
	xor	%eax, %eax
	.globl	arch_call_out
arch_call_out:				/* arch_escape comes here, eax = value */
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret
	.cfi_endproc
	.size	arch_call, . - arch_call

	.globl	arch_move
	.type	arch_move, @function
arch_move:				/* rdi stack_top, rsi fn, rdx arg */
	.cfi_startproc
	mov	%rdi, %rsp
	and	$-16, %rsp
	xor	%ebp, %ebp
	mov	%rdx, %rdi
	call	*%rsi
	ud2
	.cfi_endproc
	.size	arch_move, . - arch_move

	.bss
	.balign	8
	.globl	arch_saved_sp
arch_saved_sp:
	.skip	8

	.section .note.GNU-stack, "", @progbits
