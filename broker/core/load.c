/* Loading of a plugin, wherever it runs: here, or in a child that describes it. At start, and in commands that look at plugins. */
#include <limits.h>

#include "core/described.h"
#include "core/loader.h"

int loader_load(const struct config_plugin *how, const struct muster_plugin **ret_plugin, char why[LOADER_WHY_SIZE])
{
    const struct muster_plugin *plugin;
    char path[PATH_MAX + 80];
    int err = loader_check_file(how, loader_path(how, path, sizeof path), why);

    if (!err)
        err = how->isolation == CONFIG_ISOLATION_PROCESS ? described_load(how, path, &plugin, why) : loader_open(path, &plugin, why);
    if (!err)
        err = loader_check_names(how, plugin, path, why);
    if (!err)
        *ret_plugin = plugin;
    return err;
}
