/*
 * From one registry to another, as from a plugin's child to its broker: what has gathered is taken out of a counter or a histogram at once,
 * or given back where it could not be told; nothing is counted twice or lost. See metrics.h.
 */
#include "metrics/registry.h"

/* Of a counter what was added; of a gauge what it is. */
static bool drain_value(const struct metric *metric, _Atomic int64_t *at, const char *value, const struct metrics_sink *sink)
{
    bool is_counter = metric->type == MUSTER_COUNTER;
    int64_t number = is_counter ? atomic_exchange(at, 0) : atomic_load(at);

    if ((is_counter && number == 0) || sink->number(sink->arg, value, number))
        return true;
    if (is_counter)
        atomic_fetch_add(at, number);
    return false;
}

static bool drain_labels(const struct metric *metric, const struct metrics_sink *sink)
{
    struct label_table *t = metric->labels;
    bool all = true;

    for (size_t i = 0; i < N_SLOTS && all; i++) {
        struct series *s = atomic_load_explicit(&t->slots[i], memory_order_acquire);

        all = !s || drain_value(metric, &s->value, s->label, sink);
    }
    return all && (!atomic_load(&t->other_used) || drain_value(metric, &t->other, "other", sink));
}

static bool drain_histogram(struct histogram *h, const struct metrics_sink *sink)
{
    uint64_t counts[N_BUCKETS + 1], sum, n = 0;

    sum = atomic_exchange(&h->sum_ns, 0);
    for (size_t i = 0; i <= N_BUCKETS; i++)
        n += counts[i] = atomic_exchange(&h->n[i], 0);
    if ((n == 0 && sum == 0) || sink->histogram(sink->arg, counts, N_BUCKETS + 1, (int64_t)sum))
        return true;
    atomic_fetch_add(&h->sum_ns, sum);
    for (size_t i = 0; i <= N_BUCKETS; i++)
        atomic_fetch_add(&h->n[i], counts[i]);
    return false;
}

bool metric_drain(struct metric *metric, const struct metrics_sink *sink)
{
    if (metric->type == MUSTER_HISTOGRAM)
        return drain_histogram(metric->histogram, sink);
    return metric->labels ? drain_labels(metric, sink) : drain_value(metric, &metric->value, NULL, sink);
}

int metric_merge(struct metric *metric, const uint64_t *counts, size_t n_counts, int64_t sum_ns)
{
    if (!metric)
        return 0;
    if (metric->type != MUSTER_HISTOGRAM || n_counts != N_BUCKETS + 1 || sum_ns < 0)
        return MUSTER_EINVAL;
    for (size_t i = 0; i < n_counts; i++)
        atomic_fetch_add_explicit(&metric->histogram->n[i], counts[i], memory_order_relaxed);
    atomic_fetch_add_explicit(&metric->histogram->sum_ns, (uint64_t)sum_ns, memory_order_relaxed);
    return 0;
}
