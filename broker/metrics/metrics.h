/*
 * metrics/metrics.h - the broker's counters, gauges and histograms, and their Prometheus text
 * (exposition format 0.0.4).
 *
 * Shape    A family is a name with a type and a help text; a metric is one family with one set of
 *          constant labels (plugin, instance). A metric has one value, or one value for each value
 *          of its one varying label, or buckets. What somebody else already counts is not copied:
 *          metrics_watch() has it read at each scrape.
 * Threads  Making is for the start; it takes a lock. metric_*() and metrics_render() take none,
 *          from any thread.
 * Bounds   METRICS_MAX metrics; METRICS_MAX_VALUES values of a label, what comes later is counted
 *          as "other".
 * Memory   metrics_free() frees all metrics; it comes last. A NULL registry makes NULL metrics, and
 *          a NULL metric may be added to: a module works without metrics as it does with them.
 * Units    Durations go in as nanoseconds and come out as seconds.
 */
#ifndef MUSTER_METRICS_METRICS_H
#define MUSTER_METRICS_METRICS_H

#include <muster/plugin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct metrics;     /* the registry */
struct metric;      /* borrowed from the registry */
struct metrics_out; /* where a read function puts its samples */

enum {
    METRICS_MAX = 2048,
    METRICS_MAX_CONSTANTS = 4,
    METRICS_MAX_VALUES = 1000,
    METRICS_MAX_VALUE_LEN = 128, /* bytes; longer label values are "other", and what is not UTF-8 */
};

struct metric_label {
    const char *name, *value;
};

struct metric_spec {
    int type;          /* MUSTER_COUNTER, MUSTER_GAUGE or MUSTER_HISTOGRAM */
    const char *name;  /* of the family: "muster_cdc_published_total" */
    const char *help;  /* one sentence */
    const char *label; /* name of the varying label, NULL for none; not for histograms */
    struct metric_label constants[METRICS_MAX_CONSTANTS]; /* the first without a name ends them */
};

/* Called at each scrape on the scraping thread; hands its samples to metrics_emit(). May lock, may
 * not wait for long. */
typedef void (*metrics_read_fn)(void *arg, struct metrics_out *out);

struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);

/* Make a metric, or find the one that there is with the same family, label and constants.
 * MUSTER_EINVAL: a name or a label that Prometheus does not take. MUSTER_EEXIST: the family has
 * another type or label, or its samples would be named like another family's. MUSTER_EAGAIN:
 * METRICS_MAX is reached. */
int metrics_make(struct metrics *m, const struct metric_spec *spec, struct metric **ret_metric);
/* Have fn read at each scrape. It may emit any number of samples that differ in their labels;
 * spec->label is not used and must be NULL. Errors as above, MUSTER_EEXIST also when there is this
 * metric already. */
int metrics_watch(struct metrics *m, const struct metric_spec *spec, metrics_read_fn fn, void *arg);
/* Watch this process: memory, CPU time, open files, start, version, and the lines that the log has
 * written. */
int metrics_watch_process(struct metrics *m);

/* What a metric is, for who must check before one of the calls below. */
int metric_type(const struct metric *metric);
/* Add to a counter (by >= 0) or a gauge. value chooses the label's value; it is not looked at when
 * there is no label. */
void metric_add(struct metric *metric, const char *value, int64_t by);
void metric_set(struct metric *metric, const char *value, int64_t to); /* of a gauge */
/* Of a histogram; below zero counts as zero. */
void metric_observe(struct metric *metric, int64_t ns);

/* Where metric_drain() hands what has gathered. value NULL: the metric has no label, "other" is what did not fit. False: it cannot be taken
 * now, and stays. */
struct metrics_sink {
    bool (*number)(void *arg, const char *value, int64_t number);
    bool (*histogram)(void *arg, const uint64_t *counts, size_t n_counts, int64_t sum_ns);
    void *arg;
};
/* Hand over what was added to a counter or observed since the last time, or each value of a gauge, so that it can be told to another
 * registry. False: not all of it was taken. One thread at a time; others may add meanwhile. */
bool metric_drain(struct metric *metric, const struct metrics_sink *sink);
/* Add what metric_drain() told of a histogram. MUSTER_EINVAL: it is none, or has other buckets. */
int metric_merge(struct metric *metric, const uint64_t *counts, size_t n_counts, int64_t sum_ns);

/* Append the whole page. */
void metrics_render(const struct metrics *m, struct buf *out);
#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Write one sample of the family that is being read; a label value that is not UTF-8 is mended. */
void metrics_emit(struct metrics_out *out, const struct metric_label *labels, size_t n_labels,
                  double value);

#endif
