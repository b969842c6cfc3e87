/* The configuration against what it names; see check.h. */
#include "core/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/notify.h"
#include "bus/bus.h"
#include "core/loader.h"
#include "core/services.h"
#include "core/settings.h"
#include "http/http.h"

struct checking {
    const struct config *config;
    struct services *services;
    check_tell_fn tell;
    void *arg;
    size_t n_faults;
};

static void tell_fault(struct checking *c, const struct config_error *err)
{
    c->n_faults++;
    c->tell(c->arg, MUSTER_LOG_ERROR, err->text);
}

/* ---- files ---------------------------------------------------------------------------------------------------------------------- */

/* A file that is named must be there to be read. 0, or errno. */
static int try_file(const char *path)
{
    struct stat st;

    if (access(path, R_OK) != 0 || stat(path, &st) != 0)
        return errno;
    return S_ISDIR(st.st_mode) ? EISDIR : 0;
}

static int check_file(const struct config *config, const char *key, const char *path, struct config_error *err)
{
    int error = path ? try_file(path) : 0;

    return error ? config_fault(config, key, err, "%s: %s, expected a readable file", path, strerror(error)) : 0;
}

struct named_file {
    const char *key, *path;
    bool is_ours; /* the broker reads it; the others are for the commands */
};
enum { N_FILES = 13 };

static void list_files(const struct config *c, struct named_file out[N_FILES])
{
    const struct named_file files[N_FILES] = {
        {"nats.creds", c->nats.creds, true},
        {"nats.system_creds", c->nats.system_creds, false},
        {"nats.password_file", c->nats.password_file, true},
        {"nats.system_password_file", c->nats.system_password_file, false},
        {"nats.callout_creds", c->nats.callout_creds, false},
        {"nats.callout_password_file", c->nats.callout_password_file, false},
        {"nats.callout_key_file", c->nats.callout_key_file, false},
        {"nats.tls.ca", c->nats.tls_ca, true},
        {"nats.tls.cert", c->nats.tls_cert, true},
        {"nats.tls.key", c->nats.tls_key, true},
        {"broker.tls.cert", c->broker.tls_cert, true},
        {"broker.tls.key", c->broker.tls_key, true},
        {"broker.tls.client_ca", c->broker.tls_client_ca, true},
    };

    memcpy(out, files, sizeof files);
}

/* The listener's part of check_tls(). */
static int check_listener(const struct config *config, struct config_error *err)
{
    const struct http_files files = {config->broker.tls_cert, config->broker.tls_key, config->broker.tls_client_ca};
    char why[HTTP_WHY_SIZE];
    const char *file;
    int code = files.cert ? http_check_files(&files, &file, why) : 0;

    if (!code)
        return 0;
    return config_fault(config, file == files.cert ? "broker.tls.cert" : "broker.tls.client_ca", err, "%s", why);
}

/* Whether files that can be read are certificates. */
static int check_tls(const struct config *config, struct config_error *err)
{
    const struct bus_options options = {.tls_ca = config->nats.tls_ca, .tls_cert = config->nats.tls_cert, .tls_key = config->nats.tls_key};
    char why[BUS_WHY_SIZE];
    const char *key;
    int code = bus_check_tls(&options, &key, why);

    if (code == MUSTER_EINVAL)
        return config_fault(config, key, err, "%s", why);
    return code ? config_fault(config, "nats.tls", err, "no memory") : check_listener(config, err);
}

int check_files(const struct config *config, struct config_error *err)
{
    struct named_file files[N_FILES];
    int code = 0;

    list_files(config, files);
    for (size_t i = 0; i < N_FILES && !code; i++)
        code = files[i].is_ours ? check_file(config, files[i].key, files[i].path, err) : 0;
    return code ? code : check_tls(config, err);
}

static void check_all_files(struct checking *c)
{
    struct named_file files[N_FILES];
    struct config_error err;
    size_t before = c->n_faults;

    list_files(c->config, files);
    for (size_t i = 0; i < N_FILES; i++)
        if (check_file(c->config, files[i].key, files[i].path, &err) != 0)
            tell_fault(c, &err);
    if (c->n_faults == before && check_tls(c->config, &err) != 0)
        tell_fault(c, &err);
}

/* ---- plugins -------------------------------------------------------------------------------------------------------------------- */

int check_load(const struct config *config, const struct config_plugin *how, const struct muster_plugin **ret_plugin,
               struct config_error *err)
{
    char why[LOADER_WHY_SIZE];
    int code = loader_load(how, ret_plugin, why);

    if (code)
        (void)config_fault_entry(config, how, how->path ? "path" : "name", err, "%s", why); /* the loader's code says more */
    return code;
}

/* A start goes on without a plugin that does not load, unless it is required. */
static void tell_not_loaded(struct checking *c, const struct config_plugin *how, const struct config_error *err)
{
    if (how->required)
        tell_fault(c, err);
    else
        c->tell(c->arg, MUSTER_LOG_WARN, err->text);
}

static void check_plugin(struct checking *c, const struct config_plugin *how)
{
    const struct muster_plugin *plugin;
    char why[SERVICES_WHY_SIZE];
    struct config_error err;
    struct plugin_settings settings;

    if (check_load(c->config, how, &plugin, &err) != 0) {
        tell_not_loaded(c, how, &err);
        return;
    }
    if (services_add(c->services, plugin, why) != 0) {
        (void)config_fault_entry(c->config, how, how->path ? "path" : "name", &err, "%s", why);
        tell_fault(c, &err);
    }
    if (settings_new(c->config, how, plugin, &settings, &err) == 0)
        settings_done(&settings);
    else
        tell_fault(c, &err);
}

size_t check_config(const struct config *config, check_tell_fn tell, void *arg)
{
    struct checking c = {.config = config, .tell = tell, .arg = arg};

    check_all_files(&c);
    if (services_new(NULL, &c.services) != 0) {
        tell(arg, MUSTER_LOG_ERROR, "no memory to check the plugins");
        return c.n_faults + 1;
    }
    for (size_t i = 0; i < config->n_plugins; i++) {
        check_plugin(&c, &config->plugins[i]);
        (void)notify_watchdog(); /* at a reload: what a child does not answer costs many seconds each */
    }
    services_free(c.services);
    return c.n_faults;
}
