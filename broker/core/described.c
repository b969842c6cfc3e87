/* Plugins known by what their children said; see described.h. */
#include "core/described.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "child/ask.h"
#include "core/isolated.h"
#include "core/told.h"
#include "core/walls.h"
#include "roster/roster.h"

struct known {
    struct known *next;
    struct described *described;
};
static struct known *all_known;

static int why_not(char why[LOADER_WHY_SIZE], int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static int why_not(char why[LOADER_WHY_SIZE], int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, LOADER_WHY_SIZE, fmt, ap);
    va_end(ap);
    return code;
}

/* ---- what it asks for ----------------------------------------------------------------------------------------------------------- */

static bool is_allowed(const struct config_plugin *how, const char *word, size_t len)
{
    for (size_t i = 0; i < how->allow.capabilities.n; i++)
        if (strlen(how->allow.capabilities.items[i]) == len && memcmp(how->allow.capabilities.items[i], word, len) == 0)
            return true;
    return false;
}

static bool is_word(const char *word, size_t len, const char *expected)
{
    return strlen(expected) == len && memcmp(word, expected, len) == 0;
}

/* A capability that Muster does not know opens nothing, and is refused by service() in a broker too. */
static int check_ask(const struct config_plugin *how, const struct muster_plugin *p, const char *path, const char *word, size_t len,
                     char why[LOADER_WHY_SIZE])
{
    bool sql = is_word(word, len, "sql") || is_word(word, len, "postgres");

    if (sql && !how->postgres.dsn && !how->postgres.dsn_file)
        return why_not(why, MUSTER_EACCES,
                       "%s: plugin %s %s asks for the capability %.*s, which needs a role of its own: plugins.%s.postgres.dsn or dsn_file (muster "
                       "plugin role makes one)",
                       path, p->name, p->version, (int)len, word, how->instance);
    if (is_word(word, len, "login") || is_word(word, len, ROSTER_KEEPER))
        return why_not(why, MUSTER_EACCES, "%s: plugin %s %s asks for the capability %.*s, which a plugin in the broker alone may have (isolation: none)",
                       path, p->name, p->version, (int)len, word);
    if ((is_word(word, len, "cross_tenant") || is_word(word, len, "stream") || is_word(word, len, "system")) && !is_allowed(how, word, len))
        return why_not(why, MUSTER_EACCES, "%s: plugin %s %s asks for the capability %.*s, which plugins.%s.allow.capabilities does not list", path,
                       p->name, p->version, (int)len, word, how->instance);
    return 0;
}

static int check_asks(const struct config_plugin *how, const struct muster_plugin *p, const char *path, char why[LOADER_WHY_SIZE])
{
    int err = 0;

    for (const char *at = p->capabilities ? p->capabilities : ""; *(at += strspn(at, " ")) && !err; at += strcspn(at, " "))
        err = check_ask(how, p, path, at, strcspn(at, " "), why);
    return err;
}

/* ---- asking --------------------------------------------------------------------------------------------------------------------- */

/* Once for each that is missing: it is the machine's, not the plugin's. */
static void tell_lacks(uint32_t lacks)
{
    static uint32_t told;

    for (unsigned int i = 0; i < SANDBOX_N_LACKS; i++)
        if (lacks & ~told & (1u << i))
            log_warn("core", "a plugin in a child is not held in all here: %s", sandbox_lack_text(1u << i));
    told |= lacks;
}

/* The descriptor that says the same and was here before, or this one. NULL without memory; d is gone then. */
static const struct muster_plugin *keep(struct described *d)
{
    struct known *k;

    for (k = all_known; k; k = k->next)
        if (k->described->said.len == d->said.len && memcmp(k->described->said.data, d->said.data, d->said.len) == 0)
            break;
    if (k) {
        k->described->lacks = d->lacks;
        describe_free(d);
        return &k->described->plugin;
    }
    k = calloc(1, sizeof *k);
    if (!k) {
        describe_free(d);
        return NULL;
    }
    isolated_equip(d);
    *k = (struct known){all_known, d};
    all_known = k;
    return &d->plugin;
}

/* What a child says of its file begins with the file, as it would in a broker. */
static void tell_fault(char why[LOADER_WHY_SIZE], const char *path, const char *file, const char *fault)
{
    if (strncmp(fault, file, strlen(file)) == 0)
        (void)why_not(why, 0, "%s", fault);
    else
        (void)why_not(why, 0, "%s: %s", path, fault);
}

int described_load(const struct config_plugin *how, const char *path, const struct muster_plugin **ret_plugin, char why[LOADER_WHY_SIZE])
{
    char fault[ASK_WHY_SIZE], full[PATH_MAX];
    struct arena memory = {0};
    struct described *d = NULL;
    struct sandbox walls;
    struct ask ask = {.instance = how->instance, .file = realpath(path, full) ? full : path, .walls = &walls};
    int err = walls_to_ask(how, NULL, NULL, &memory, &walls, fault);

    if (err)
        (void)why_not(why, err, "plugins.%s.%s", how->instance, fault);
    else if ((err = ask_describe(&ask, &d, fault)) != 0)
        tell_fault(why, path, ask.file, fault);
    else
        err = check_asks(how, &d->plugin, path, why);
    arena_done(&memory);
    if (err) {
        describe_free(d);
        return err;
    }
    tell_lacks(d->lacks);
    *ret_plugin = keep(d);
    return *ret_plugin ? 0 : why_not(why, MUSTER_ENOMEM, "%s: no memory for its descriptor", path);
}

static void log_text(void *arg, int level, const char *text)
{
    const struct config_plugin *how = arg;

    log_line(level, how->instance, "%s", text);
}

static int check_with(const struct told *told, const struct ask *ask, bool *ret_asked, char why[ASK_WHY_SIZE])
{
    struct buf settings = {0};
    struct frame f = frame_begin(&settings, FRAME_SETTINGS, 0);
    int err;

    told_put(&f, told);
    err = frame_end(&f);
    if (err)
        (void)snprintf(why, ASK_WHY_SIZE, "has more settings than can be told to it");
    else
        err = ask_check(ask, (struct muster_bytes){settings.data, settings.len}, ret_asked, why);
    buf_done(&settings);
    return err;
}

int described_check(const struct config *config, const struct config_plugin *how, const struct muster_plugin *plugin, const void *values,
                    bool *ret_asked, char why[LOADER_WHY_SIZE])
{
    const struct described *d = (const struct described *)plugin;
    struct told told = {.config = config, .how = how, .plugin = plugin, .values = values, .broker_id = config->broker.id};
    char path[PATH_MAX + 80], full[PATH_MAX], fault[ASK_WHY_SIZE];
    struct arena memory = {0};
    struct sandbox walls;
    struct ask ask = {.instance = how->instance, .walls = &walls, .log = log_text, .arg = (void *)how};
    int err = walls_to_ask(how, plugin, values, &memory, &walls, fault);

    *ret_asked = false;
    ask.file = realpath(loader_path(how, path, sizeof path), full) ? full : path;
    if (err)
        (void)why_not(why, err, "plugins.%s.%s", how->instance, fault);
    if (!err && d->has & DESCRIBE_CHECK) {
        err = walls_dsn(how, &memory, &told.postgres_dsn, fault);
        if (!err)
            err = check_with(&told, &ask, ret_asked, fault);
        if (err && *ret_asked)
            (void)why_not(why, err, "%s", fault);
        else if (err)
            (void)why_not(why, err, "plugin %s %s (%s): %s", plugin->name, plugin->version, path, fault);
    }
    arena_done(&memory);
    return err;
}
