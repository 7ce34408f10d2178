/* What a task must find as its launching thread left it, besides memory. */
#ifndef TASKRT_CLIENT_CONTEXT_H
#define TASKRT_CLIENT_CONTEXT_H

#include <stdint.h>

struct taskrt__context {
	uint32_t mxcsr; /* SSE control word: rounding, denormals */
	uint32_t fpucw; /* x87 control word */
	uint64_t tp;    /* thread pointer */
	uint64_t tls_start, tls_end;
	uint64_t out_start, out_end; /* stdout's buffer */
	uint64_t stack_size;         /* for a task's own stack */
};

/* Of the calling thread. */
void taskrt__context_capture(struct taskrt__context *c);

#endif
