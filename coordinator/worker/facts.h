/* What this machine's kernel has for the sandbox of slots (taskrt/slot/sandbox.h). */
#ifndef COORDINATOR_WORKER_FACTS_H
#define COORDINATOR_WORKER_FACTS_H

struct sandbox_facts {
	int seccomp;  /* filters */
	int dispatch; /* syscall user dispatch: Linux 5.11 */
	int landlock; /* its ABI, 0: none */
};

/* Changes nothing. */
void sandbox_facts(struct sandbox_facts *f_p);

#endif
