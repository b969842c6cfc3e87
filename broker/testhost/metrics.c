/* muster.metrics/1 and muster.config/1 of the test host. Metrics are [any]: under the lock. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "testhost/inside.h"

static bool is_metric_name(const char *s)
{
    if (!s || !*s)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && *s != '_')
            return false;
    return true;
}

static struct metric *named(struct muster_test *t, const char *name)
{
    for (size_t i = 0; i < t->metrics.n; i++) {
        struct metric *m = t->metrics.items[i];

        if (strcmp(m->name, name) == 0)
            return m;
    }
    return NULL;
}

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static int metrics_make(const struct muster_host *host, int type, const char *name, const char *help, const char *label,
                        uint64_t *ret_metric)
{
    const int call = CALL_METRICS_MAKE;
    struct muster_test *t = test_of(host, call);
    int err = call_begin(t, call);
    struct metric *m;

    if (err)
        return err;
    if (type < MUSTER_COUNTER || type > MUSTER_HISTOGRAM || !ret_metric)
        return breach(t, call, "type %d: expected MUSTER_COUNTER, MUSTER_GAUGE or MUSTER_HISTOGRAM, and ret_metric", type);
    if (!is_metric_name(name) || (label && !is_metric_name(label)))
        return breach(t, call, "name \"%s\", label %s: expected letters, digits and _", name ? name : "NULL", label ? label : "none");
    if (!help || !*help || (type == MUSTER_HISTOGRAM && label))
        return breach(t, call, "%s: %s", name, !help || !*help ? "help is missing" : "a histogram has no label of its own");
    m = named(t, name);
    if (m && (m->type != type || !same(m->label, label)))
        return test_fail(t, MUSTER_EEXIST, "metric %s is there with another type or label", name);
    if (!m) {
        m = must_alloc(sizeof *m);
        *m = (struct metric){.name = must_copy(name), .label = must_copy(label), .type = type};
        list_add(&t->metrics, m);
    }
    *ret_metric = (uint64_t)(uintptr_t)m;
    return 0;
}

/* The lock is held. */
static struct metric *metric_of(struct muster_test *t, uint64_t metric)
{
    for (size_t i = 0; i < t->metrics.n; i++)
        if ((uint64_t)(uintptr_t)t->metrics.items[i] == metric)
            return t->metrics.items[i];
    return NULL;
}

static struct metric_value *value_of(struct metric *m, const char *label)
{
    struct metric_value *v;

    for (size_t i = 0; i < m->values.n; i++) {
        v = m->values.items[i];
        if (same(v->label, label))
            return v;
    }
    v = must_alloc(sizeof *v);
    v->label = must_copy(label);
    list_add(&m->values, v);
    return v;
}

/* NULL: it cannot be done to this metric, which has been told. Otherwise the lock is held. */
static struct metric *begin(struct muster_test *t, int call, uint64_t metric, unsigned int types)
{
    struct metric *m;

    if (call_begin(t, call) != 0)
        return NULL;
    pthread_mutex_lock(&t->lock);
    m = metric_of(t, metric);
    if (m && (types & 1u << m->type))
        return m;
    pthread_mutex_unlock(&t->lock);
    (void)breach(t, call, m ? "%s: its type does not take this" : "a metric that make() did not give%s", m ? m->name : "");
    return NULL;
}

static void metrics_add(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t by)
{
    struct muster_test *t = test_of(host, CALL_METRICS_ADD);
    struct metric *m = begin(t, CALL_METRICS_ADD, metric, 1u << MUSTER_COUNTER | 1u << MUSTER_GAUGE);
    bool falls;

    if (!m)
        return;
    falls = m->type == MUSTER_COUNTER && by < 0;
    if (!falls)
        value_of(m, m->label ? label_value : NULL)->value += by;
    pthread_mutex_unlock(&t->lock);
    if (falls)
        (void)breach(t, CALL_METRICS_ADD, "%s: %lld: a counter does not fall", m->name, (long long)by);
}

static void metrics_set(const struct muster_host *host, uint64_t metric, const char *label_value, int64_t to)
{
    struct muster_test *t = test_of(host, CALL_METRICS_SET);
    struct metric *m = begin(t, CALL_METRICS_SET, metric, 1u << MUSTER_GAUGE);

    if (!m)
        return;
    value_of(m, m->label ? label_value : NULL)->value = to;
    pthread_mutex_unlock(&t->lock);
}

static void metrics_observe(const struct muster_host *host, uint64_t metric, int64_t ns)
{
    struct muster_test *t = test_of(host, CALL_METRICS_OBSERVE);
    struct metric *m = begin(t, CALL_METRICS_OBSERVE, metric, 1u << MUSTER_HISTOGRAM);

    if (!m)
        return;
    value_of(m, NULL)->value++;
    m->sum_ns += ns > 0 ? ns : 0;
    pthread_mutex_unlock(&t->lock);
}

const struct muster_metrics test_metrics = {
    .size = sizeof test_metrics, .make = metrics_make, .add = metrics_add, .set = metrics_set, .observe = metrics_observe};

static int64_t read_metric(const struct metric *m, const char *label)
{
    int64_t sum = 0;

    for (size_t i = 0; i < m->values.n; i++) {
        const struct metric_value *v = m->values.items[i];

        if (!label || same(v->label, label))
            sum += v->value;
    }
    return sum;
}

int64_t muster_test_metric(struct muster_test *t, const char *name, const char *label_value)
{
    struct metric *m = named(t, name);
    int64_t value = -1;

    if (!m) {
        fail_test(t, "muster_test_metric(): the plugin has made no metric \"%s\"", name);
        return -1;
    }
    pthread_mutex_lock(&t->lock);
    value = read_metric(m, label_value);
    pthread_mutex_unlock(&t->lock);
    return value;
}

int64_t muster_test_metric_sum_ns(struct muster_test *t, const char *name)
{
    const struct metric *m = named(t, name);

    return m ? m->sum_ns : -1;
}

/* ---- muster.config/1 ----------------------------------------------------------------------------------------------------------- */

/* What it gives lives as long as the settings that it is about. */
static const char *position(const struct muster_host *host, const char *key)
{
    struct muster_test *t = test_of(host, CALL_CONFIG_POSITION);
    char text[256];

    if (call_begin(t, CALL_CONFIG_POSITION) != 0)
        return NULL;
    if (!key) {
        (void)breach(t, CALL_CONFIG_POSITION, "key is NULL");
        return NULL;
    }
    if (!test_settings_position(&t->settings, key, text))
        return NULL;
    list_add(&t->positions, must_copy(text));
    return t->positions.items[t->positions.n - 1];
}

const struct muster_config test_config = {.size = sizeof test_config, .position = position};

void misc_free(struct muster_test *t)
{
    for (size_t i = 0; i < t->metrics.n; i++) {
        struct metric *m = t->metrics.items[i];

        for (size_t j = 0; j < m->values.n; j++) {
            struct metric_value *v = m->values.items[j];

            free(v->label);
            free(v);
        }
        list_done(&m->values);
        free(m->name);
        free(m->label);
        free(m);
    }
    for (size_t i = 0; i < t->lines.n; i++) {
        struct muster_test_line *line = t->lines.items[i];

        free((char *)(uintptr_t)line->text);
        free(line);
    }
    for (size_t i = 0; i < t->positions.n; i++)
        free(t->positions.items[i]);
    list_done(&t->metrics);
    list_done(&t->lines);
    list_done(&t->positions);
    buf_done(&t->body);
}
