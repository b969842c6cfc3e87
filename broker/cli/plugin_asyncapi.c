/*
 * muster plugin asyncapi - the AsyncAPI document of this installation.
 *
 * It holds what schemas/asyncapi.yaml holds, and the services of the configured plugins behind it. A service without a definition has no
 * bodies to tell of: it is left out, and said on stderr.
 */
#include <muster/plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/plugin.h"
#include "config/config.h"
#include "core/loader.h"
#include "wire/asyncapi.h"

struct definition {
    const char *file, *text;
};

#include "schemas/all.inc"

enum { N_BUILT_IN = sizeof definitions / sizeof *definitions };

static const char command[] = "plugin";

struct set {
    struct schema **schemas;
    size_t n;
};

/* Once a service, however many instances have it. */
static bool has(const struct set *set, const char *service)
{
    for (size_t i = 0; i < set->n; i++)
        if (strcmp(set->schemas[i]->service, service) == 0)
            return true;
    return false;
}

static int add(struct set *set, const char *text, struct wire_error *err)
{
    struct schema **more = realloc(set->schemas, (set->n + 1) * sizeof(struct schema *));
    int code;

    if (!more)
        return MUSTER_ENOMEM;
    set->schemas = more;
    code = schema_load(text, schema_core(), &more[set->n], err);
    if (!code)
        set->n++;
    return code;
}

static int add_service(struct set *set, const struct muster_plugin *p, const struct muster_service *service)
{
    struct wire_error err = {.text = "no memory"};

    if (has(set, service->name))
        return CLI_DONE;
    if (!service->schema) {
        fprintf(stderr, "muster plugin: service %s of plugin %s has no definition and is left out\n", service->name, p->name);
        return CLI_DONE;
    }
    if (add(set, service->schema, &err) != 0)
        return cli_fail(CLI_FAILED, command, "plugin %s: service %s: its definition: %s", p->name, service->name, err.text);
    return CLI_DONE;
}

/* By the plugin's own stride: it may know a longer struct. */
static int add_plugin(struct set *set, const struct config_plugin *how)
{
    const struct muster_plugin *p;
    char why[LOADER_WHY_SIZE];
    int code = CLI_DONE;

    if (loader_load(how, &p, why) != 0)
        return cli_fail(CLI_FAILED, command, "%s: %s", how->instance, why);
    for (uint32_t i = 0; i < p->n_services && code == CLI_DONE; i++)
        code = add_service(set, p, (const void *)((const char *)p->services + (size_t)i * p->service_size));
    return code;
}

static int add_all(struct set *set, const struct config *config)
{
    struct wire_error err = {.text = "no memory"};
    int code = CLI_DONE;

    for (size_t i = 0; i < N_BUILT_IN; i++)
        if (add(set, definitions[i].text, &err) != 0)
            return cli_fail(CLI_FAILED, command, "%s: %s", definitions[i].file, err.text);
    for (size_t i = 0; i < config->n_plugins && code == CLI_DONE; i++)
        code = add_plugin(set, &config->plugins[i]);
    return code;
}

int plugin_asyncapi(const struct cli *cli, int argc, char **argv)
{
    struct set set = {0};
    struct buf out = {0};
    int code;

    if (argc > 1)
        return cli_fail(CLI_USAGE, command, "asyncapi: %s came, nothing was expected", argv[1]);
    code = add_all(&set, cli->config);
    if (code == CLI_DONE)
        asyncapi_put(&out, (const struct schema *const *)set.schemas, set.n,
                     "Made by `muster plugin asyncapi`: the broker's services and those of the configured plugins.");
    if (buf_failed(&out))
        code = cli_fail(CLI_FAILED, command, "no memory");
    else if (code == CLI_DONE)
        fputs(out.data, stdout);
    buf_done(&out);
    for (size_t i = 0; i < set.n; i++)
        schema_free(set.schemas[i]);
    free(set.schemas);
    return code;
}
