/* A plugin that calls itself as one that comes with Muster. */
#define BAD_NAME "tasks"
#include "bad.h"

BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR,
           .abi_minor = MUSTER_ABI_MINOR, .start = bad_start);
