/*
 * The Prometheus text page, exposition format 0.0.4, from the registry; see metrics.h. Runs on the
 * scraping thread.
 *
 * One HELP and one TYPE line a family, then its samples together. Values change while they are
 * read: a histogram's count is the sum of the buckets that were read, so that the page agrees with
 * itself.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "metrics/registry.h"

struct metrics_out {
    struct buf *page;
    const struct family *family;
    const struct metric *metric;
};

/* Append s with backslash and line feed escaped, and the double quote where the text stands in
 * quotes. */
static void put_escaped(struct buf *b, const char *s, bool quoted)
{
    for (; *s; s++) {
        if (*s == '\\')
            buf_put_lit(b, "\\\\");
        else if (*s == '\n')
            buf_put_lit(b, "\\n");
        else if (*s == '"' && quoted)
            buf_put_lit(b, "\\\"");
        else
            buf_putc(b, *s);
    }
}

void metrics_put_label(struct buf *b, const struct metric_label *label)
{
    buf_puts(b, label->name);
    buf_put_lit(b, "=\"");
    put_escaped(b, label->value, true);
    buf_putc(b, '"');
}

/* Append name{constants,label="value"} and a blank; label may be NULL. */
static void put_name(const struct metrics_out *out, const char *suffix,
                     const struct metric_label *label)
{
    struct buf *b = out->page;
    const char *constants = out->metric->constants;

    buf_puts(b, out->family->name);
    buf_puts(b, suffix);
    if (*constants || label) {
        buf_putc(b, '{');
        buf_puts(b, constants);
        if (*constants && label)
            buf_putc(b, ',');
        if (label)
            metrics_put_label(b, label);
        buf_putc(b, '}');
    }
    buf_putc(b, ' ');
}

static void put_value(const struct metrics_out *out, const char *label_value, int64_t value)
{
    struct metric_label label = {out->family->label, label_value};

    put_name(out, "", label_value ? &label : NULL);
    buf_put_i64(out->page, value);
    buf_putc(out->page, '\n');
}

/* Series come in the order of their slots: it is the same at each scrape, which is all that
 * matters. */
static void put_labels(const struct metrics_out *out, const struct label_table *t)
{
    for (size_t i = 0; i < N_SLOTS; i++) {
        const struct series *s = atomic_load_explicit(&t->slots[i], memory_order_acquire);

        if (s)
            put_value(out, s->label, atomic_load_explicit(&s->value, memory_order_relaxed));
    }
    if (atomic_load_explicit(&t->other_used, memory_order_relaxed))
        put_value(out, "other", atomic_load_explicit(&t->other, memory_order_relaxed));
}

static void put_histogram(const struct metrics_out *out, const struct histogram *h)
{
    struct metric_label le = {"le", NULL};
    uint64_t sum = atomic_load_explicit(&h->sum_ns, memory_order_relaxed);
    uint64_t count = 0;

    for (size_t i = 0; i <= N_BUCKETS; i++) {
        count += atomic_load_explicit(&h->n[i], memory_order_relaxed);
        le.value = i < N_BUCKETS ? metric_buckets[i].le : "+Inf";
        put_name(out, "_bucket", &le);
        buf_printf(out->page, "%" PRIu64 "\n", count);
    }
    put_name(out, "_sum", NULL);
    buf_printf(out->page, "%" PRIu64 ".%09" PRIu64 "\n", sum / 1000000000, sum % 1000000000);
    put_name(out, "_count", NULL);
    buf_printf(out->page, "%" PRIu64 "\n", count);
}

/* The shortest of two forms that reads back as v. The decimal point is a point: nobody sets a
 * locale in this process. */
static void put_double(struct buf *b, double v)
{
    char text[32];

    if (isnan(v)) {
        buf_put_lit(b, "NaN");
        return;
    }
    if (isinf(v)) {
        buf_puts(b, v > 0 ? "+Inf" : "-Inf");
        return;
    }
    (void)snprintf(text, sizeof text, "%.15g", v); /* 24 characters at most */
    if (strtod(text, NULL) != v)
        (void)snprintf(text, sizeof text, "%.17g", v);
    buf_puts(b, text);
}

static void put_mended_label(struct buf *b, const struct metric_label *label)
{
    struct buf value = {0};

    utf8_put(&value, label->value, strlen(label->value));
    metrics_put_label(b, &(struct metric_label){label->name, value.data ? value.data : ""});
    buf_done(&value);
}

void metrics_emit(struct metrics_out *out, const struct metric_label *labels, size_t n_labels,
                  double value)
{
    struct buf *b = out->page;
    const char *constants = out->metric->constants;

    buf_puts(b, out->family->name);
    if (*constants || n_labels) {
        buf_putc(b, '{');
        buf_puts(b, constants);
        for (size_t i = 0; i < n_labels; i++) {
            if (i || *constants)
                buf_putc(b, ',');
            put_mended_label(b, &labels[i]);
        }
        buf_putc(b, '}');
    }
    buf_putc(b, ' ');
    put_double(b, value);
    buf_putc(b, '\n');
}

static void put_metric(struct metrics_out *out)
{
    const struct metric *metric = out->metric;

    if (metric->read)
        metric->read(metric->arg, out);
    else if (metric->histogram)
        put_histogram(out, metric->histogram);
    else if (metric->labels)
        put_labels(out, metric->labels);
    else
        put_value(out, NULL, atomic_load_explicit(&metric->value, memory_order_relaxed));
}

void metrics_render(const struct metrics *m, struct buf *out)
{
    static const char *const types[] = {
        [MUSTER_COUNTER] = "counter", [MUSTER_GAUGE] = "gauge", [MUSTER_HISTOGRAM] = "histogram"};
    const struct family *f = atomic_load_explicit(&m->first, memory_order_acquire);

    for (; f; f = atomic_load_explicit(&f->next, memory_order_acquire)) {
        const struct metric *metric = atomic_load_explicit(&f->first, memory_order_acquire);

        buf_printf(out, "# HELP %s ", f->name);
        put_escaped(out, f->help, false);
        buf_printf(out, "\n# TYPE %s %s\n", f->name, types[f->type]);
        for (; metric; metric = atomic_load_explicit(&metric->next, memory_order_acquire))
            put_metric(&(struct metrics_out){.page = out, .family = f, .metric = metric});
    }
}
