/*
 * metrics/registry.h - what metrics.c fills and render.c reads; private to this folder.
 *
 * Lists only grow, and a node is complete before it is linked in with release order: readers walk
 * them without a lock.
 */
#ifndef MUSTER_METRICS_REGISTRY_H
#define MUSTER_METRICS_REGISTRY_H

#include <pthread.h>
#include <stdatomic.h>

#include "metrics/metrics.h"

enum {
    N_BUCKETS = 19,
    N_SLOTS = 2048, /* over twice METRICS_MAX_VALUES: a probe is short and always ends */
};

struct metric_bucket {
    int64_t up_to_ns; /* inclusive */
    const char *le;
};
extern const struct metric_bucket metric_buckets[N_BUCKETS]; /* 1-2-5 steps from 50 µs to 50 s */

/* One value of the varying label. */
struct series {
    _Atomic int64_t value;
    uint64_t hash;
    char label[];
};

struct label_table {
    atomic_size_t n; /* series in slots, and reservations */
    _Atomic int64_t other;
    atomic_bool other_used;
    struct series *_Atomic slots[N_SLOTS];
};

struct histogram {
    _Atomic uint64_t sum_ns;
    _Atomic uint64_t n[N_BUCKETS + 1]; /* not cumulative; the last is what is above all bounds */
};

struct metric {
    struct metric *_Atomic next; /* in its family */
    int type;
    char *constants; /* rendered: plugin="cdc",instance="main"; "" for none */
    metrics_read_fn read;
    void *arg;
    _Atomic int64_t value; /* of a counter or gauge without label */
    struct label_table *labels;
    struct histogram *histogram;
};

struct family {
    struct family *_Atomic next;
    int type;
    char *name, *help, *label; /* label NULL: none */
    struct metric *_Atomic first;
};

struct metrics {
    pthread_mutex_t lock; /* for making only: guards n and the ends of all lists */
    size_t n;
    struct family *_Atomic first;
};

/* Append name="value" with the value escaped as the format wants it. */
void metrics_put_label(struct buf *b, const struct metric_label *label);

#endif
