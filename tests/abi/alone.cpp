// The header compiles alone as C++17, and its symbols keep their C names.
#include <muster/plugin.h>

extern "C" MUSTER_EXPORT const struct muster_plugin *muster_plugin_entry_v0(void);

static int start(void *self)
{
    return self ? 0 : MUSTER_EINVAL;
}

const struct muster_plugin *muster_plugin_entry_v0(void)
{
    static struct muster_plugin plugin = {};

    plugin.size = sizeof plugin;
    plugin.abi_major = MUSTER_ABI_MAJOR;
    plugin.abi_minor = MUSTER_ABI_MINOR;
    plugin.start = start;
    return MUSTER_HAS(&plugin, destroy) ? &plugin : nullptr;
}
