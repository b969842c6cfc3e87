/* All instances; see instances.h. */
#include "core/instances.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "core/check.h"
#include "core/health.h"
#include "core/instance.h"
#include "core/links.h"

struct instances {
    struct broker *broker;
    struct instance **list;
    size_t n;
};

struct instance *const *instances_list(const struct instances *is, size_t *ret_n)
{
    *ret_n = is->n;
    return is->list;
}

int instances_new(struct broker *broker, struct instances **ret_instances)
{
    struct instances *is = calloc(1, sizeof *is);

    if (!is)
        return MUSTER_ENOMEM;
    is->broker = broker;
    *ret_instances = is;
    return 0;
}

static int add_instance(struct instances *is, const struct muster_plugin *plugin, const struct config_plugin *how, uint32_t lane)
{
    struct instance **more = realloc(is->list, (is->n + 1) * sizeof(struct instance *));
    int err;

    if (!more)
        return MUSTER_ENOMEM;
    is->list = more;
    err = instance_new(is->broker, plugin, how, lane, &more[is->n]);
    if (!err)
        is->n++;
    return err;
}

static void tell_not_loaded(struct instances *is, const struct config_plugin *how, const char *why)
{
    struct health_component *component;

    if (health_add(broker_health(is->broker), HEALTH_PLUGIN, how->instance, how->required, &component) == 0)
        health_set(component, MUSTER_HEALTH_DOWN, "not_loaded", "%s", why);
    else
        log_error("loader", "%s", why);
}

/* A plugin that is not required may be missing; what it said stays in /readyz. */
static int load_plugin(struct instances *is, const struct config_plugin *how)
{
    const struct muster_plugin *plugin;
    struct config_error why;
    int err = check_load(broker_config(is->broker), how, &plugin, &why);

    if (err) {
        tell_not_loaded(is, how, why.text);
        return err;
    }
    for (uint32_t lane = 0; !err && lane < (uint32_t)how->lanes; lane++)
        err = add_instance(is, plugin, how, lane);
    return err;
}

int instances_load(struct instances *is)
{
    const struct config *config = broker_config(is->broker);

    for (size_t i = 0; i < config->n_plugins; i++) {
        const struct config_plugin *how = &config->plugins[i];
        int err = load_plugin(is, how);

        if (err && how->required)
            return err;
    }
    return 0;
}

int instances_start(struct instances *is)
{
    for (size_t i = 0; i < is->n; i++) {
        int err = instance_start(is->list[i]);

        if (err && is->list[i]->how->required)
            return err;
        /* The links may have come up before it could be told. Told twice does no harm. */
        if (!err && links_are_up(broker_links(is->broker)))
            instance_tell_link(is->list[i], true);
    }
    return 0;
}

/* A plugin that has used up the time of all leaves the others a little. */
static int64_t no_less_than(int64_t deadline_ns, int64_t ns)
{
    int64_t least = clock_now_ns() + ns;

    return deadline_ns > least ? deadline_ns : least;
}

void instances_drain(struct instances *is, int64_t deadline_ns)
{
    for (size_t i = 0; i < is->n; i++)
        (void)instance_drain(is->list[i], no_less_than(deadline_ns, CLOCK_S / 2)); /* what hangs is told at its end */
}

int instances_end(struct instances *is, int64_t each_ns)
{
    int result = 0;

    links_silence(broker_links(is->broker));
    for (size_t i = 0; i < is->n; i++) {
        struct instance *in = is->list[i];
        struct lane_crumb who = {.callback = ""};
        int err = instance_end(in, no_less_than(0, each_ns));

        if (!err)
            continue;
        result = err;
        (void)lane_busy(in->lane, &who);
        log_error(in->area, "plugin %s %s does not end: it hangs in its callback \"%s\"%s%s", in->plugin->name, in->plugin->version,
                  who.callback, who.subject[0] ? " on " : "", who.subject);
    }
    return result;
}

void instances_clear(struct instances *is)
{
    for (size_t i = 0; is && i < is->n; i++)
        instance_free(is->list[i]);
}

void instances_free(struct instances *is)
{
    if (!is)
        return;
    free(is->list);
    free(is);
}
