/* muster.config/1 and muster.metrics/1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "core/instance.h"
#include "metrics/metrics.h"

static const char *config_position_of(const struct muster_host *host, const char *key)
{
    struct instance *in = instance_of(host);
    const struct plugin_settings *s = &in->in_force; /* nobody else writes it */
    char text[256], *copy;

    if (!ON_LANE(in)) /* create() counts: the caller is the lane then */
        return NULL;
    if (!config_position(s->config, s->how, key, text))
        return NULL;
    copy = map_get(&in->positions, text, strlen(text));
    if (copy)
        return copy;
    copy = strdup(text);
    if (copy && map_put(&in->positions, text, strlen(text), copy))
        return copy;
    free(copy);
    return NULL;
}

const struct muster_config host_config = {.size = sizeof host_config, .position = config_position_of};

int instance_make_metric(struct instance *in, int type, const char *name, const char *help, const char *label, uint64_t *ret_metric)
{
    const struct muster_host *host = &in->host;
    struct metric_spec spec = {.type = type,
                               .help = help,
                               .label = label,
                               .constants = {{"plugin", in->plugin->name}, {"instance", in->how->instance}}};
    struct metric *metric;
    char full[128], lane[12];
    int err;

    if ((size_t)snprintf(full, sizeof full, "muster_%s_%s", in->plugin->name, name) >= sizeof full)
        return host->fail(host, MUSTER_EINVAL, "metric %s: the name is too long", name);
    for (char *p = full; *p; p++)
        if (*p == '-') /* legal in a plugin's name, not in a metric's */
            *p = '_';
    spec.name = full;
    if (host->n_lanes > 1) { /* each lane's instance has its own */
        (void)snprintf(lane, sizeof lane, "%u", host->lane);
        spec.constants[2] = (struct metric_label){"lane", lane};
    }
    err = metrics_make(broker_metrics(in->broker), &spec, &metric);
    if (err)
        return host->fail(host, err, "metric %s cannot be made: its name, type or label do not fit (error %d)", full, err);
    *ret_metric = (uint64_t)(uintptr_t)metric;
    return 0;
}

static int metrics_make_of(const struct muster_host *host, int type, const char *name, const char *help, const char *label,
                           uint64_t *ret_metric)
{
    struct instance *in = instance_of(host);

    return IN_CREATE(in) ? instance_make_metric(in, type, name, help, label, ret_metric) : MUSTER_EINVAL;
}

static struct metric *metric_of(uint64_t metric)
{
    return (struct metric *)(uintptr_t)metric;
}

/* A plugin's mistake must not be the broker's end: a call that does not fit its metric is said and dropped. */
static bool fits(const struct muster_host *host, uint64_t metric, bool ok)
{
    if (!ok)
        host->log(host, MUSTER_LOG_ERROR, "metric %#llx: this call does not fit its type, or a counter was to fall",
                  (unsigned long long)metric);
    return ok;
}

static void metrics_add_to(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t by)
{
    int type = metric_type(metric_of(metric));

    if (fits(host, metric, type == MUSTER_GAUGE || (type == MUSTER_COUNTER && by >= 0)))
        metric_add(metric_of(metric), label_value, by);
}

static void metrics_set_to(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t to)
{
    if (fits(host, metric, metric_type(metric_of(metric)) == MUSTER_GAUGE))
        metric_set(metric_of(metric), label_value, to);
}

static void metrics_observe_in(const struct muster_host *host, uint64_t metric, int64_t ns)
{
    if (fits(host, metric, metric_type(metric_of(metric)) == MUSTER_HISTOGRAM))
        metric_observe(metric_of(metric), ns);
}

const struct muster_metrics host_metrics = {.size = sizeof host_metrics,
                                            .make = metrics_make_of,
                                            .add = metrics_add_to,
                                            .set = metrics_set_to,
                                            .observe = metrics_observe_in};
