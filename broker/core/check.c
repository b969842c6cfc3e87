/* `musterd --check`; see check.h. */
#include "core/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "core/loader.h"
#include "core/services.h"

static int refuse(const struct config_plugin *how, const char *why)
{
    fprintf(stderr, "plugins.%s: %s\n", how->instance, why);
    return 1;
}

static int check_plugin(const struct config *config, const struct config_plugin *how, struct services *services)
{
    const struct muster_plugin *plugin;
    char why[LOADER_WHY_SIZE], service_why[SERVICES_WHY_SIZE];
    struct config_error err;
    void *values;
    int code = 0;

    if (loader_load(how, &plugin, why) != 0)
        return refuse(how, why);
    if (services_add(services, plugin, service_why) != 0)
        code = refuse(how, service_why);
    values = calloc(1, plugin->config_size + 1);
    if (!values || config_bind(config, how, plugin, values, &err) != 0) {
        fprintf(stderr, "%s\n", values ? err.text : "no memory");
        code = 1;
    }
    free(values);
    return code;
}

/* A file that is named must be there to be read. */
static int check_file(const char *key, const char *path)
{
    if (!path || access(path, R_OK) == 0)
        return 0;
    fprintf(stderr, "%s: %s: %s\n", key, path, strerror(errno));
    return 1;
}

static int check_files(const struct config *c)
{
    return check_file("nats.creds", c->nats.creds) | check_file("nats.system_creds", c->nats.system_creds) |
           check_file("nats.password_file", c->nats.password_file) |
           check_file("nats.system_password_file", c->nats.system_password_file) | check_file("nats.tls.ca", c->nats.tls_ca) |
           check_file("nats.tls.cert", c->nats.tls_cert) | check_file("nats.tls.key", c->nats.tls_key);
}

int check_config(const struct config *config)
{
    struct services *services;
    int code = check_files(config);

    if (services_new(NULL, &services) != 0)
        return 1;
    for (size_t i = 0; i < config->n_plugins; i++)
        code |= check_plugin(config, &config->plugins[i], services);
    services_free(services);
    return code;
}
