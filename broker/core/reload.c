/* SIGHUP; see reload.h. */
#include "core/reload.h"

#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "config/config.h"
#include "core/check.h"

/* The next line of *text, without its end. */
static bool next_line(const char **text, const char **ret_line, size_t *ret_len)
{
    if (!**text)
        return false;
    *ret_line = *text;
    *ret_len = strcspn(*text, "\n");
    *text += *ret_len + ((*text)[*ret_len] == '\n');
    return true;
}

static bool has_line(const char *text, const char *line, size_t len)
{
    const char *at;
    size_t n;

    while (next_line(&text, &at, &n))
        if (n == len && memcmp(at, line, len) == 0)
            return true;
    return false;
}

/* Log takes effect by itself; every other line that the running configuration does not have waits. */
static void name_changes(const char *now, const char *next)
{
    const char *line;
    size_t len, n = 0;

    while (next_line(&next, &line, &len)) {
        if (has_line(now, line, len) || memmem(line, len, "format:", 7) || memmem(line, len, "level:", 6))
            continue;
        n++;
        log_warn("config", "reload: waits for a restart: %.*s", (int)len, line + strspn(line, " "));
    }
    log_info("config", "reload: done; %zu settings wait for a restart", n);
}

void reload_config(const struct config *running, const char *file)
{
    struct buf now = {0}, next = {0};
    struct config_error err;
    struct config *config;

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
    config_print(running, &now);
    config_print(config, &next);
    if (now.data && next.data)
        name_changes(now.data, next.data);
    buf_done(&now);
    buf_done(&next);
    config_free(config);
}
