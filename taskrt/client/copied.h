/* System libraries' objects that lie in the program. */
#ifndef TASKRT_CLIENT_COPIED_H
#define TASKRT_CLIENT_COPIED_H

/* At a launch, by the launching thread: remember what is in them. */
void taskrt__copied_save(void);
/* At a task's end, in the task: what was in them at the launch is there again. */
void taskrt__copied_restore(void);

#endif
