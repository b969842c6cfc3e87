/* `musterd --check`; see check.h. */
#include "core/check.h"

#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "core/loader.h"

static int check_plugin(const struct config *config, const struct config_plugin *how)
{
    const struct muster_plugin *plugin;
    char why[LOADER_WHY_SIZE];
    struct config_error err;
    void *values;
    int code = loader_load(how, &plugin, why);

    if (code) {
        fprintf(stderr, "plugins.%s: %s\n", how->instance, why);
        return 1;
    }
    values = calloc(1, plugin->config_size + 1);
    if (!values || config_bind(config, how, plugin, values, &err) != 0) {
        fprintf(stderr, "%s\n", values ? err.text : "no memory");
        code = 1;
    }
    free(values);
    return code;
}

int check_config(const struct config *config)
{
    int code = 0;

    for (size_t i = 0; i < config->n_plugins; i++)
        code |= check_plugin(config, &config->plugins[i]);
    if (!code)
        printf("%s: ok\n", config->file ? config->file : "environment");
    return code;
}
