/* A plugin whose service has a definition of a verb that it does not list. */
#include "bad.h"

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service),
     .name = "bad",
     .verbs = "one two",
     .schema = "{\"service\":\"bad\",\"doc\":\"x\",\"verbs\":{\"one\":{\"doc\":\"x\"},\"three\":{"
               "\"doc\":\"x\"}}}"},
};

BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR,
           .abi_minor = MUSTER_ABI_MINOR, .start = bad_start, .services = services,
           .n_services = 1);
