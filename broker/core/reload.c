/* SIGHUP; see reload.h. */
#include "core/reload.h"

#include <string.h>

#include "base/buf.h"
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

/* All that is wrong is one line of the log; warnings are lines of their own, since they keep nothing from being changed. */
static void on_told(void *arg, int level, const char *text)
{
    struct buf *faults = arg;

    if (level == MUSTER_LOG_WARN)
        log_warn("config", "reload: %s", text);
    else
        buf_printf(faults, "%s%s", faults->len ? "; " : "", text);
}

static bool is_good(const struct config *config)
{
    struct buf faults = {0};
    size_t n = check_config(config, on_told, &faults);

    if (n)
        log_error("config", "reload: %s; nothing was changed", faults.data ? faults.data : "no memory to check the plugins");
    buf_done(&faults);
    return n == 0;
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
    if (!is_good(config)) {
        config_free(config);
        return;
    }
    log_setup(config->broker.log_json, config->broker.log_level);
    config_changes(running, config, name_change, &n);
    log_info("config", "reload: done; %zu settings wait for a restart", n);
    config_free(config);
}
