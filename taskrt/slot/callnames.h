/* Names of system calls, for reports. */
#ifndef TASKRT_SLOT_CALLNAMES_H
#define TASKRT_SLOT_CALLNAMES_H

/* NULL: no kernel that we know has it. */
const char *call_name(int nr);

#endif
