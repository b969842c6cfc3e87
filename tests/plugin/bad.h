/* What the plugins that go wrong at loading share: three functions that are never called, and a descriptor with one fault. */
#ifndef MUSTER_TESTS_BAD_H
#define MUSTER_TESTS_BAD_H

#include <muster/plugin.h>
#include <stdlib.h>

#ifndef BAD_NAME
#define BAD_NAME "bad"
#endif

static int bad_create(const struct muster_host *host, const void *config, void **ret_self)
{
    (void)config;
    *ret_self = NULL;
    return host->fail(host, MUSTER_EINVAL, "must not be called");
}

static inline int bad_start(void *self)
{
    (void)self;
    return MUSTER_EINVAL;
}

static void bad_destroy(void *self)
{
    (void)self;
}

/* As MUSTER_PLUGIN(), without .size, the numbers of the ABI and .start. */
#define BAD_PLUGIN(...)                                                                            \
    MUSTER_EXPORT const struct muster_plugin *muster_plugin_entry_v0(void);                        \
    const struct muster_plugin *muster_plugin_entry_v0(void)                                       \
    {                                                                                              \
        static const struct muster_plugin plugin = {.name = BAD_NAME,                              \
                                                    .version = "4.5.6",                            \
                                                    .option_size = sizeof(struct muster_option),   \
                                                    .service_size = sizeof(struct muster_service), \
                                                    .create = bad_create,                          \
                                                    .destroy = bad_destroy,                        \
                                                    __VA_ARGS__};                                  \
        return &plugin;                                                                            \
    }                                                                                              \
    _Static_assert(MUSTER_ABI_MAJOR == 0, "muster_plugin_entry_v0 is major 0")

#endif
