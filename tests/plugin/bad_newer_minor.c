/* A plugin that was compiled against a newer minor than the broker's. */
#include "bad.h"

BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR,
           .abi_minor = MUSTER_ABI_MINOR + 1, .start = bad_start);
