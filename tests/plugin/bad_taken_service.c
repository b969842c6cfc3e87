/* A plugin that wants to answer a service of those that come with Muster. */
#include "bad.h"

static const struct muster_service services[] = {
    {.size = sizeof(struct muster_service), .name = "fine", .verbs = "do"},
    {.size = sizeof(struct muster_service), .name = "task", .verbs = "submit"}};

BAD_PLUGIN(.size = sizeof(struct muster_plugin), .abi_major = MUSTER_ABI_MAJOR,
           .abi_minor = MUSTER_ABI_MINOR, .start = bad_start, .services = services,
           .n_services = 2);
