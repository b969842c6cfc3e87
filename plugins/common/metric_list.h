/*
 * common/metric_list.h - the metrics of a plugin as a list.
 */
#ifndef MUSTER_COMMON_METRIC_LIST_H
#define MUSTER_COMMON_METRIC_LIST_H

#include <muster/plugin.h>
#include <stddef.h>
#include <stdint.h>

struct wanted_metric {
    int type;
    const char *name, *help, *label; /* as for muster.metrics/1 make() */
    uint64_t *metric;
};

/* Make them all, in order, until one cannot be made. In create(). */
int metric_list_make(const struct muster_host *host, const struct muster_metrics *metrics, const struct wanted_metric *wanted, size_t n);

#endif
