/* The metrics of a plugin as a list; see metric_list.h. */
#include "common/metric_list.h"

int metric_list_make(const struct muster_host *host, const struct muster_metrics *metrics, const struct wanted_metric *wanted, size_t n)
{
    int err = 0;

    for (size_t i = 0; i < n && !err; i++)
        err = metrics->make(host, wanted[i].type, wanted[i].name, wanted[i].help, wanted[i].label, wanted[i].metric);
    return err;
}
