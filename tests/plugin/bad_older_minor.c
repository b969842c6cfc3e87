/* A plugin that was compiled against a minor that brokers do not load any more. */
#include "bad.h"

BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR,
           .abi_minor = MUSTER_ABI_OLDEST - 1, .start = bad_start);
