/* The task page's one object. */
#include "taskpage.h"

/* Page-aligned and whole pages, so that no other object shares its pages. */
struct taskrt_task_page taskrt__task_page __attribute__((aligned(4096)));
