/* SIGHUP; see reload.h. */
#include "core/reload.h"

#include <string.h>

#include "base/log.h"
#include "config/config.h"
#include "core/check.h"

/* Log takes effect by itself; every other change waits. */
static void name_change(void *arg, const char *path, const char *change)
{
    size_t *n = arg;

    if (strncmp(path, "broker.log.", 11) == 0)
        return;
    (*n)++;
    log_warn("config", "reload: %s: %s; waits for a restart", path, change);
}

void reload_config(const struct config *running, const char *file)
{
    struct config_error err;
    struct config *config;
    size_t n = 0;

    if (config_load(file, &config, &err) != 0) {
        log_error("config", "reload: %s; nothing was changed", err.text);
        return;
    }
    if (check_config(config) != 0) {
        log_error("config", "reload: a plugin refuses its part; nothing was changed");
        config_free(config);
        return;
    }
    log_setup(config->broker.log_json, config->broker.log_level);
    config_changes(running, config, name_change, &n);
    log_info("config", "reload: done; %zu settings wait for a restart", n);
    config_free(config);
}
