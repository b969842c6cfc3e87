/*
 * The registry and the hot path of metrics; see metrics.h.
 *
 * A value is one relaxed atomic: nobody orders other memory by it. A label's value is found in an
 * open-addressing table whose slots go from empty to a series once, by compare-and-swap, and never
 * change again; so a series that was found may be used for ever, and nothing is ever freed under a
 * thread that adds.
 *
 * Families and metrics are made under the lock and appended complete; nothing is removed before
 * metrics_free().
 */
#include "metrics/registry.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/hash.h"
#include "base/utf8.h"

const struct metric_bucket metric_buckets[N_BUCKETS] = {
    {50000, "0.00005"},  {100000, "0.0001"},  {200000, "0.0002"},  {500000, "0.0005"},
    {1000000, "0.001"},  {2000000, "0.002"},  {5000000, "0.005"},  {10000000, "0.01"},
    {20000000, "0.02"},  {50000000, "0.05"},  {100000000, "0.1"},  {200000000, "0.2"},
    {500000000, "0.5"},  {1000000000, "1"},   {2000000000, "2"},   {5000000000, "5"},
    {10000000000, "10"}, {20000000000, "20"}, {50000000000, "50"},
};

struct metrics *metrics_new(void)
{
    struct metrics *m = calloc(1, sizeof *m);

    if (m)
        (void)pthread_mutex_init(&m->lock, NULL); /* cannot fail with default attributes on Linux */
    return m;
}

static void labels_free(struct label_table *t)
{
    for (size_t i = 0; t && i < N_SLOTS; i++)
        free(atomic_load(&t->slots[i]));
    free(t);
}

static void metric_free(struct metric *metric)
{
    if (!metric)
        return;
    labels_free(metric->labels);
    free(metric->histogram);
    free(metric->constants);
    free(metric);
}

static void family_free(struct family *f)
{
    if (!f)
        return;
    for (struct metric *metric = atomic_load(&f->first), *next; metric; metric = next) {
        next = atomic_load(&metric->next);
        metric_free(metric);
    }
    free(f->name);
    free(f->help);
    free(f->label);
    free(f);
}

void metrics_free(struct metrics *m)
{
    if (!m)
        return;
    for (struct family *f = atomic_load(&m->first), *next; f; f = next) {
        next = atomic_load(&f->next);
        family_free(f);
    }
    (void)pthread_mutex_destroy(&m->lock); /* nobody makes metrics any more */
    free(m);
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool name_ok(const char *s, bool colons)
{
    if (!s || !*s)
        return false;
    for (const char *p = s; *p; p++)
        if (!is_letter(*p) && !(colons && *p == ':') && !(p > s && *p >= '0' && *p <= '9'))
            return false;
    return true;
}

/* Two underscores in front are Prometheus's own, "le" is the histogram's. */
static bool label_ok(const char *s)
{
    return name_ok(s, false) && strncmp(s, "__", 2) != 0 && strcmp(s, "le") != 0;
}

static bool spec_ok(const struct metric_spec *spec)
{
    if (spec->type != MUSTER_COUNTER && spec->type != MUSTER_GAUGE &&
        spec->type != MUSTER_HISTOGRAM)
        return false;
    if (!name_ok(spec->name, true) || !spec->help || !utf8_is_valid(spec->help, strlen(spec->help)))
        return false;
    if (spec->label && (spec->type == MUSTER_HISTOGRAM || !label_ok(spec->label)))
        return false;
    for (size_t i = 0; i < METRICS_MAX_CONSTANTS && spec->constants[i].name; i++) {
        const struct metric_label *c = &spec->constants[i];

        if (!label_ok(c->name) || !c->value || !utf8_is_valid(c->value, strlen(c->value)))
            return false;
        if (spec->label && strcmp(c->name, spec->label) == 0)
            return false;
        for (size_t k = 0; k < i; k++)
            if (strcmp(c->name, spec->constants[k].name) == 0)
                return false;
    }
    return true;
}

/* True when a histogram called histogram writes samples called name: two families with one sample
 * name would make the whole page unreadable, not just these two. */
static bool is_sample_of(const char *name, const char *histogram)
{
    size_t len = strlen(histogram);

    if (strncmp(name, histogram, len) != 0)
        return false;
    name += len;
    return strcmp(name, "_bucket") == 0 || strcmp(name, "_sum") == 0 || strcmp(name, "_count") == 0;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* Find spec's family: 0 with *ret_family NULL when there is none yet, MUSTER_EEXIST when what there
 * is forbids it. Locked. */
static int find_family(struct metrics *m, const struct metric_spec *spec,
                       struct family **ret_family)
{
    struct family *found = NULL;

    for (struct family *f = atomic_load(&m->first); f; f = atomic_load(&f->next)) {
        if (strcmp(f->name, spec->name) == 0)
            found = f;
        else if (f->type == MUSTER_HISTOGRAM && is_sample_of(spec->name, f->name))
            return MUSTER_EEXIST;
        else if (spec->type == MUSTER_HISTOGRAM && is_sample_of(f->name, spec->name))
            return MUSTER_EEXIST;
    }
    if (found && (found->type != spec->type || !same_text(found->label, spec->label)))
        return MUSTER_EEXIST;
    *ret_family = found;
    return 0;
}

static struct family *family_new(const struct metric_spec *spec)
{
    struct family *f = calloc(1, sizeof *f);

    if (!f)
        return NULL;
    f->type = spec->type;
    f->name = strdup(spec->name);
    f->help = strdup(spec->help);
    f->label = spec->label ? strdup(spec->label) : NULL;
    if (f->name && f->help && (f->label || !spec->label))
        return f;
    family_free(f);
    return NULL;
}

static char *render_constants(const struct metric_spec *spec)
{
    struct buf b = {0};

    buf_put_lit(&b, ""); /* so that no constants give "" and not NULL */
    for (size_t i = 0; i < METRICS_MAX_CONSTANTS && spec->constants[i].name; i++) {
        if (i)
            buf_putc(&b, ',');
        metrics_put_label(&b, &spec->constants[i]);
    }
    return buf_take(&b);
}

static struct metric *metric_new(const struct metric_spec *spec, metrics_read_fn fn, void *arg)
{
    struct metric *metric = calloc(1, sizeof *metric);
    bool ok;

    if (!metric)
        return NULL;
    metric->type = spec->type;
    metric->read = fn;
    metric->arg = arg;
    metric->constants = render_constants(spec);
    ok = metric->constants != NULL;
    if (ok && spec->label)
        ok = (metric->labels = calloc(1, sizeof *metric->labels)) != NULL;
    if (ok && spec->type == MUSTER_HISTOGRAM)
        ok = (metric->histogram = calloc(1, sizeof *metric->histogram)) != NULL;
    if (ok)
        return metric;
    metric_free(metric);
    return NULL;
}

static struct metric *find_metric(struct family *f, const char *constants)
{
    struct metric *metric = atomic_load(&f->first);

    while (metric && strcmp(metric->constants, constants) != 0)
        metric = atomic_load(&metric->next);
    return metric;
}

/* Link metric in at the end, in a family made for it where there is none. Locked. */
static int link_metric(struct metrics *m, struct family *f, const struct metric_spec *spec,
                       struct metric *metric)
{
    struct metric *_Atomic *metric_end;
    struct family *_Atomic *family_end = &m->first;

    if (m->n == METRICS_MAX)
        return MUSTER_EAGAIN;
    if (f) {
        for (metric_end = &f->first; atomic_load(metric_end);)
            metric_end = &atomic_load(metric_end)->next;
        atomic_store_explicit(metric_end, metric, memory_order_release);
    } else {
        f = family_new(spec);
        if (!f)
            return MUSTER_ENOMEM;
        atomic_init(&f->first, metric);
        while (atomic_load(family_end))
            family_end = &atomic_load(family_end)->next;
        atomic_store_explicit(family_end, f, memory_order_release);
    }
    m->n++;
    return 0;
}

/* Use fresh, or find what there is in its place. Locked. */
static int make(struct metrics *m, const struct metric_spec *spec, struct metric *fresh,
                struct metric **ret_metric)
{
    struct family *f = NULL;
    struct metric *old;
    int err = find_family(m, spec, &f);

    if (err)
        return err;
    old = f ? find_metric(f, fresh->constants) : NULL;
    if (old && (old->read || fresh->read))
        return MUSTER_EEXIST; /* with a reader there, the same sample would be written twice */
    err = old ? 0 : link_metric(m, f, spec, fresh);
    if (!err)
        *ret_metric = old ? old : fresh;
    return err;
}

/* Takes fresh, which is built before the lock is taken; NULL: there was no memory for it. */
static int add_metric(struct metrics *m, const struct metric_spec *spec, struct metric *fresh,
                      struct metric **ret_metric)
{
    int err;

    if (!fresh)
        return MUSTER_ENOMEM;
    pthread_mutex_lock(&m->lock);
    err = make(m, spec, fresh, ret_metric);
    pthread_mutex_unlock(&m->lock);
    if (err || *ret_metric != fresh)
        metric_free(fresh);
    return err;
}

int metrics_make(struct metrics *m, const struct metric_spec *spec, struct metric **ret_metric)
{
    if (!spec_ok(spec))
        return MUSTER_EINVAL;
    if (m)
        return add_metric(m, spec, metric_new(spec, NULL, NULL), ret_metric);
    *ret_metric = NULL;
    return 0;
}

int metrics_watch(struct metrics *m, const struct metric_spec *spec, metrics_read_fn fn, void *arg)
{
    struct metric *made;

    if (!spec_ok(spec) || spec->type == MUSTER_HISTOGRAM || spec->label)
        return MUSTER_EINVAL;
    return m ? add_metric(m, spec, metric_new(spec, fn, arg), &made) : 0;
}

int metric_type(const struct metric *metric)
{
    return metric->type;
}

/* "other" shows up on the page from its first use on: a page without it says that nothing was left
 * out. */
static _Atomic int64_t *other_of(struct label_table *t)
{
    atomic_store_explicit(&t->other_used, true, memory_order_relaxed);
    return &t->other;
}

/* Put fresh in, or free it and take the series that another thread put in first. */
static struct series *insert(struct label_table *t, struct series *fresh)
{
    for (size_t i = fresh->hash;; i++) {
        struct series *there = NULL;

        if (atomic_compare_exchange_strong(&t->slots[i % N_SLOTS], &there, fresh))
            return fresh;
        if (there->hash != fresh->hash || strcmp(there->label, fresh->label) != 0)
            continue;
        free(fresh);
        atomic_fetch_sub(&t->n, 1);
        return there;
    }
}

static _Atomic int64_t *add_value(struct label_table *t, const char *value, size_t len,
                                  uint64_t hash)
{
    struct series *s;

    if (!utf8_is_valid(value, len) || strcmp(value, "other") == 0)
        return other_of(t);
    /* Reserved before it is put in: together no threads can fill the table past its bound. */
    if (atomic_fetch_add(&t->n, 1) >= METRICS_MAX_VALUES) {
        atomic_fetch_sub(&t->n, 1);
        return other_of(t);
    }
    s = calloc(1, sizeof *s + len + 1);
    if (!s) {
        atomic_fetch_sub(&t->n, 1);
        return other_of(t);
    }
    s->hash = hash;
    memcpy(s->label, value, len + 1);
    return &insert(t, s)->value;
}

/* The value to change: without lock, and without memory once the label's value has been seen. */
static _Atomic int64_t *value_of(struct metric *metric, const char *value)
{
    struct label_table *t = metric->labels;
    size_t len = value ? strnlen(value, METRICS_MAX_VALUE_LEN + 1) : 0;
    uint64_t hash;

    if (!t)
        return &metric->value;
    if (len == 0 || len > METRICS_MAX_VALUE_LEN)
        return other_of(t); /* an empty label is no label to Prometheus */
    hash = hash_bytes(value, len);
    for (size_t i = hash;; i++) {
        struct series *s = atomic_load_explicit(&t->slots[i % N_SLOTS], memory_order_acquire);

        if (!s)
            return add_value(t, value, len, hash);
        if (s->hash == hash && strcmp(s->label, value) == 0)
            return &s->value;
    }
}

void metric_add(struct metric *metric, const char *value, int64_t by)
{
    if (!metric)
        return;
    ASSERT(!metric->read &&
           (metric->type == MUSTER_GAUGE || (metric->type == MUSTER_COUNTER && by >= 0)));
    atomic_fetch_add_explicit(value_of(metric, value), by, memory_order_relaxed);
}

void metric_set(struct metric *metric, const char *value, int64_t to)
{
    if (!metric)
        return;
    ASSERT(!metric->read && metric->type == MUSTER_GAUGE);
    atomic_store_explicit(value_of(metric, value), to, memory_order_relaxed);
}

void metric_observe(struct metric *metric, int64_t ns)
{
    size_t i = 0;

    if (!metric)
        return;
    ASSERT(metric->type == MUSTER_HISTOGRAM);
    if (ns < 0)
        ns = 0; /* two clocks of two machines may disagree */
    while (i < N_BUCKETS && ns > metric_buckets[i].up_to_ns)
        i++;
    atomic_fetch_add_explicit(&metric->histogram->n[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric->histogram->sum_ns, (uint64_t)ns, memory_order_relaxed);
}
