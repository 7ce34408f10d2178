/* Thread-local data that does not lie beside the thread's descriptor. */
#ifndef TASKRT_CLIENT_DYNTLS_H
#define TASKRT_CLIENT_DYNTLS_H

/* At a launch, by the launching thread: remember what is in it. DSM_ENOMEM. */
int taskrt__dyntls_save(void);
/* At a task's end, in the task: what was in it at the launch is there again. */
void taskrt__dyntls_restore(void);

#endif
