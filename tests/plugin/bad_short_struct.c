/* A plugin whose descriptor ends before the functions that every plugin has. */
#include "bad.h"

BAD_PLUGIN(.size = offsetof(struct muster_plugin, create), .abi_major = MUSTER_ABI_MAJOR,
           .abi_minor = MUSTER_ABI_MINOR, .start = bad_start);
