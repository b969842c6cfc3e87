/* A plugin whose descriptor says another major than its entry. */
#include "bad.h"

BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = 9, .abi_minor = MUSTER_ABI_MINOR,
           .start = bad_start);
