/* short - a plugin of the oldest ABI that loads, whose descriptor ends behind destroy(). What lies behind it in memory is none of the
 * broker's business: every member that it has no size for would end the process. */
#include <muster/plugin.h>
#include <stdlib.h>

static const struct muster_host *the_host;

static int short_create(const struct muster_host *host, const void *config, void **ret_self)
{
    (void)config;
    the_host = host;
    *ret_self = &the_host;
    return 0;
}

static int short_start(void *none)
{
    (void)none;
    the_host->health(the_host, MUSTER_HEALTH_OK, "ok", "here");
    return 0;
}

static void short_destroy(void *none)
{
    (void)none;
}

static void never(void *none)
{
    (void)none;
    abort();
}

static void never_linked(void *none, int up)
{
    (void)none;
    (void)up;
    abort();
}

static int never_checked(const struct muster_host *host, const void *config)
{
    (void)host;
    (void)config;
    abort();
}

static int never_reloaded(void *none, const void *config)
{
    (void)none;
    (void)config;
    abort();
}

struct settings {
    int64_t number;
};

static const struct muster_option options[] = {{.key = "number",
                                                .help = "Any.",
                                                .type = MUSTER_T_INT,
                                                .flags = MUSTER_O_RELOADABLE,
                                                .def = "1",
                                                .offset = offsetof(struct settings, number)}};

MUSTER_EXPORT const struct muster_plugin *muster_plugin_entry_v0(void);
const struct muster_plugin *muster_plugin_entry_v0(void)
{
    static const struct muster_plugin plugin = {
        .size = offsetof(struct muster_plugin, destroy) + sizeof plugin.destroy,
        .abi_major = MUSTER_ABI_MAJOR,
        .abi_minor = MUSTER_ABI_OLDEST,
        .name = "short",
        .version = "0.0.1",
        .options = options,
        .n_options = 1,
        .option_size = sizeof(struct muster_option),
        .service_size = sizeof(struct muster_service),
        .config_size = sizeof(struct settings),
        .create = short_create,
        .start = short_start,
        .destroy = short_destroy,
        .on_writable = never,
        .on_link = never_linked,
        .on_tables = never,
        .check = never_checked,
        .reload = never_reloaded,
        .on_pause = never,
        .on_resume = never};

    return &plugin;
}
