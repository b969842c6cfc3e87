/* A plugin for an ABI of another major: its entry has another name. */
#include <muster/plugin.h>

MUSTER_EXPORT const struct muster_plugin *muster_plugin_entry_v7(void);
const struct muster_plugin *muster_plugin_entry_v7(void)
{
    return NULL; /* not called */
}
