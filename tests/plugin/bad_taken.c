/* A plugin that wants to answer a service that another plugin answers. */
#include "bad.h"

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "echo", .verbs = "say"}};

BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR,
           .abi_minor = MUSTER_ABI_MINOR, .start = bad_start, .services = services,
           .n_services = 1);
