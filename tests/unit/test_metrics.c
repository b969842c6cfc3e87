/* metrics: the page byte by byte, what is refused, the bounds, and many threads at once (run under
 * TSan as well). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "metrics/metrics.h"

static int setup(void **state)
{
    *state = metrics_new();
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    metrics_free(*state);
    return 0;
}

static struct metric *make(struct metrics *m, struct metric_spec spec)
{
    struct metric *metric = NULL;

    spec.help = spec.help ? spec.help : "Help.";
    assert_int_equal(metrics_make(m, &spec, &metric), 0);
    assert_non_null(metric);
    return metric;
}

static char *page_of(struct metrics *m)
{
    struct buf b = {0};

    metrics_render(m, &b);
    assert_false(buf_failed(&b));
    return buf_take(&b);
}

static void assert_page(struct metrics *m, const char *expected)
{
    char *page = page_of(m);

    assert_string_equal(page, expected);
    free(page);
}

/* The value of a sample, written as it stands on the page before its blank; NAN when there is none.
 * */
static double sample(struct metrics *m, const char *name)
{
    char *page = page_of(m);
    size_t len = strlen(name);
    double value = NAN;

    for (char *line = page; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, len) == 0 && line[len] == ' ')
            value = strtod(line + len + 1, NULL);
    }
    free(page);
    return value;
}

static void test_counter_and_gauge(void **state)
{
    struct metric *n =
        make(*state,
             (struct metric_spec){.type = MUSTER_COUNTER, .name = "muster_n_total", .help = "N."});
    struct metric *g = make(
        *state, (struct metric_spec){.type = MUSTER_GAUGE, .name = "muster:level", .help = "L."});

    metric_add(n, NULL, 2);
    metric_add(n, "not looked at", 3);
    metric_set(g, NULL, 7);
    metric_add(g, NULL, -10);
    assert_page(*state,
                "# HELP muster_n_total N.\n# TYPE muster_n_total counter\nmuster_n_total 5\n"
                "# HELP muster:level L.\n# TYPE muster:level gauge\nmuster:level -3\n");
    assert_int_equal(metric_type(n), MUSTER_COUNTER);
    assert_int_equal(metric_type(g), MUSTER_GAUGE);
}

static void test_one_header_a_family(void **state)
{
    struct metric_spec spec = {.type = MUSTER_COUNTER, .name = "muster_x_total", .label = "reason"};
    struct metric *a, *b;

    spec.constants[0] = (struct metric_label){"plugin", "cdc"};
    spec.constants[1] = (struct metric_label){"instance", "main"};
    a = make(*state, spec);
    (void)make(*state, (struct metric_spec){.type = MUSTER_GAUGE, .name = "muster_between"});
    spec.constants[1].value = "evt";
    b = make(*state, spec);
    assert_ptr_not_equal(a, b);
    metric_add(b, "full", 1);
    metric_add(a, "full", 2);
    metric_add(a, "full", 2);
    assert_page(*state,
                "# HELP muster_x_total Help.\n# TYPE muster_x_total counter\n"
                "muster_x_total{plugin=\"cdc\",instance=\"main\",reason=\"full\"} 4\n"
                "muster_x_total{plugin=\"cdc\",instance=\"evt\",reason=\"full\"} 1\n"
                "# HELP muster_between Help.\n# TYPE muster_between gauge\nmuster_between 0\n");
}

static void test_the_same_again_is_the_same(void **state)
{
    struct metric_spec spec = {
        .type = MUSTER_COUNTER, .name = "a_total", .constants = {{"lane", "1"}}};

    assert_ptr_equal(make(*state, spec), make(*state, spec));
}

static void test_escapes(void **state)
{
    struct metric *n = make(*state, (struct metric_spec){.type = MUSTER_COUNTER,
                                                         .name = "n_total",
                                                         .help = "A \"b\"\\c\nd.",
                                                         .label = "v",
                                                         .constants = {{"k", "\"\\\n"}}});

    metric_add(n, "a\"b\\c\nd z\xc3\xbc", 1);
    assert_page(*state, "# HELP n_total A \"b\"\\\\c\\nd.\n# TYPE n_total counter\n"
                        "n_total{k=\"\\\"\\\\\\n\",v=\"a\\\"b\\\\c\\nd z\xc3\xbc\"} 1\n");
}

static void test_histogram(void **state)
{
    struct metric *h = make(*state, (struct metric_spec){.type = MUSTER_HISTOGRAM,
                                                         .name = "wait_seconds",
                                                         .constants = {{"plugin", "cdc"}}});

    metric_observe(h, -5);
    metric_observe(h, 50000); /* a bound belongs to its bucket */
    metric_observe(h, 50001);
    metric_observe(h, 1500000000);
    metric_observe(h, 50000000000);
    metric_observe(h, 50000000001);
    assert_page(*state, "# HELP wait_seconds Help.\n# TYPE wait_seconds histogram\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.00005\"} 2\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.0001\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.0002\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.0005\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.001\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.002\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.005\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.01\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.02\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.05\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.1\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.2\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"0.5\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"1\"} 3\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"2\"} 4\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"5\"} 4\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"10\"} 4\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"20\"} 4\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"50\"} 5\n"
                        "wait_seconds_bucket{plugin=\"cdc\",le=\"+Inf\"} 6\n"
                        "wait_seconds_sum{plugin=\"cdc\"} 101.500100002\n"
                        "wait_seconds_count{plugin=\"cdc\"} 6\n");
}

static double numbers[] = {1.5, 0.1, 1e300, 123456789012345678.0, -0.25};

static void read_numbers(void *arg, struct metrics_out *out)
{
    const double *values = arg;

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char text[8];

        (void)snprintf(text, sizeof text, "%zu", i);
        metrics_emit(out, (struct metric_label[]){{"i", text}, {"odd", "a\xff\"b"}}, 2, values[i]);
    }
    metrics_emit(out, NULL, 0, NAN);
    metrics_emit(out, &(struct metric_label){"sign", "+"}, 1, INFINITY);
    metrics_emit(out, &(struct metric_label){"sign", "-"}, 1, -INFINITY);
}

static void test_watch(void **state)
{
    struct metric_spec spec = {
        .type = MUSTER_GAUGE, .name = "now", .help = "N.", .constants = {{"lane", "1"}}};

    assert_int_equal(metrics_watch(*state, &spec, read_numbers, numbers), 0);
    assert_page(
        *state,
        "# HELP now N.\n# TYPE now gauge\n"
        "now{lane=\"1\",i=\"0\",odd=\"a\xef\xbf\xbd\\\"b\"} 1.5\n"
        "now{lane=\"1\",i=\"1\",odd=\"a\xef\xbf\xbd\\\"b\"} 0.1\n"
        "now{lane=\"1\",i=\"2\",odd=\"a\xef\xbf\xbd\\\"b\"} 1e+300\n"
        "now{lane=\"1\",i=\"3\",odd=\"a\xef\xbf\xbd\\\"b\"} 1.2345678901234568e+17\n"
        "now{lane=\"1\",i=\"4\",odd=\"a\xef\xbf\xbd\\\"b\"} -0.25\n"
        "now{lane=\"1\"} NaN\nnow{lane=\"1\",sign=\"+\"} +Inf\nnow{lane=\"1\",sign=\"-\"} -Inf\n");
    assert_int_equal(metrics_watch(*state, &spec, read_numbers, numbers), MUSTER_EEXIST);
    spec.constants[0].value = "2";
    assert_int_equal(metrics_watch(*state, &spec, read_numbers, numbers), 0);
    spec.label = "x";
    assert_int_equal(metrics_watch(*state, &spec, read_numbers, numbers), MUSTER_EINVAL);
    spec = (struct metric_spec){.type = MUSTER_HISTOGRAM, .name = "h", .help = "H."};
    assert_int_equal(metrics_watch(*state, &spec, read_numbers, numbers), MUSTER_EINVAL);
}

static void test_refused_specs(void **state)
{
    static const struct metric_spec bad[] = {
        {.type = 3, .name = "n", .help = "H."},
        {.type = MUSTER_GAUGE, .name = NULL, .help = "H."},
        {.type = MUSTER_GAUGE, .name = "", .help = "H."},
        {.type = MUSTER_GAUGE, .name = "1n", .help = "H."},
        {.type = MUSTER_GAUGE, .name = "n-1", .help = "H."},
        {.type = MUSTER_GAUGE, .name = "z\xc3\xbc", .help = "H."},
        {.type = MUSTER_GAUGE, .name = "n", .help = NULL},
        {.type = MUSTER_GAUGE, .name = "n", .help = "\xff"},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .label = ""},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .label = "a:b"},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .label = "__name__"},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .label = "le"},
        {.type = MUSTER_HISTOGRAM, .name = "n", .help = "H.", .label = "a"},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .constants = {{"le", "1"}}},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .constants = {{"a", NULL}}},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .constants = {{"a", "\xff"}}},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .constants = {{"a", "1"}, {"a", "2"}}},
        {.type = MUSTER_GAUGE, .name = "n", .help = "H.", .label = "a", .constants = {{"a", "1"}}},
    };
    struct metric *metric = NULL;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(metrics_make(*state, &bad[i], &metric), MUSTER_EINVAL);
        assert_int_equal(metrics_make(NULL, &bad[i], &metric), MUSTER_EINVAL);
    }
    assert_null(metric);
    assert_null(page_of(*state)); /* none of them left anything */
}

static int try_make(struct metrics *m, struct metric_spec spec)
{
    struct metric *metric;

    spec.help = "H.";
    return metrics_make(m, &spec, &metric);
}

static void test_clashes(void **state)
{
    (void)make(*state, (struct metric_spec){.type = MUSTER_COUNTER, .name = "c", .label = "a"});
    (void)make(*state, (struct metric_spec){.type = MUSTER_HISTOGRAM, .name = "h"});
    (void)make(*state, (struct metric_spec){.type = MUSTER_GAUGE, .name = "g_sum"});
    assert_int_equal(
        try_make(*state, (struct metric_spec){.type = MUSTER_GAUGE, .name = "c", .label = "a"}),
        MUSTER_EEXIST);
    assert_int_equal(try_make(*state, (struct metric_spec){.type = MUSTER_COUNTER, .name = "c"}),
                     MUSTER_EEXIST);
    assert_int_equal(
        try_make(*state, (struct metric_spec){.type = MUSTER_COUNTER, .name = "c", .label = "b"}),
        MUSTER_EEXIST);
    assert_int_equal(
        try_make(*state, (struct metric_spec){.type = MUSTER_COUNTER, .name = "h_count"}),
        MUSTER_EEXIST);
    assert_int_equal(
        try_make(*state, (struct metric_spec){.type = MUSTER_COUNTER, .name = "h_bucket"}),
        MUSTER_EEXIST);
    assert_int_equal(try_make(*state, (struct metric_spec){.type = MUSTER_HISTOGRAM, .name = "g"}),
                     MUSTER_EEXIST);
    assert_int_equal(
        try_make(*state, (struct metric_spec){.type = MUSTER_COUNTER, .name = "h_total"}), 0);
}

static void test_label_values_are_bounded(void **state)
{
    struct metric *n = make(
        *state, (struct metric_spec){.type = MUSTER_COUNTER, .name = "n_total", .label = "tenant"});
    char value[16];

    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 1500; i++) {
            (void)snprintf(value, sizeof value, "t%d", i);
            metric_add(n, value, 1);
        }
    }
    assert_true(sample(*state, "n_total{tenant=\"t0\"}") == 2);
    assert_true(sample(*state, "n_total{tenant=\"t999\"}") == 2);
    assert_true(isnan(sample(*state, "n_total{tenant=\"t1000\"}")));
    assert_true(sample(*state, "n_total{tenant=\"other\"}") == 1000);
}

static void test_odd_label_values_are_other(void **state)
{
    struct metric *g =
        make(*state, (struct metric_spec){.type = MUSTER_GAUGE, .name = "g", .label = "v"});
    char longest[METRICS_MAX_VALUE_LEN + 2];

    assert_true(isnan(sample(*state, "g{v=\"other\"}"))); /* not before there is one */
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    metric_add(g, longest, 1);
    metric_add(g, NULL, 10);
    metric_add(g, "", 100);
    metric_add(g, "\xff", 1000);
    metric_add(g, "other", 10000);
    assert_true(sample(*state, "g{v=\"other\"}") == 11111);
    longest[sizeof longest - 2] = '\0';
    metric_add(g, longest, 5);
    assert_true(sample(*state, "g{v=\"other\"}") == 11111);
}

static void test_metrics_are_bounded(void **state)
{
    char text[16];
    struct metric_spec spec = {.type = MUSTER_GAUGE, .name = text};

    for (int i = 0; i < METRICS_MAX; i++) { /* half of them families, half metrics of one family */
        (void)snprintf(text, sizeof text, "n%d", i);
        spec.name = i % 2 ? "odd" : text;
        spec.constants[0] = (struct metric_label){"i", text};
        assert_int_equal(try_make(*state, spec), 0);
    }
    assert_int_equal(try_make(*state, spec), 0); /* it is there already */
    spec.constants[0].value = "one more";
    assert_int_equal(try_make(*state, spec), MUSTER_EAGAIN);
    spec.name = "one_more";
    assert_int_equal(try_make(*state, spec), MUSTER_EAGAIN);
}

static void test_without_a_registry(void **state)
{
    struct metric_spec spec = {.type = MUSTER_COUNTER, .name = "n", .help = "H."};
    struct metric *metric = *state;

    assert_int_equal(metrics_make(NULL, &spec, &metric), 0);
    assert_null(metric);
    metric_add(metric, "a", 1);
    metric_set(metric, "a", 1);
    metric_observe(metric, 1);
    assert_int_equal(metrics_watch(NULL, &spec, read_numbers, NULL), 0);
    assert_int_equal(metrics_watch_process(NULL), 0);
    metrics_free(NULL);
}

static void test_process(void **state)
{
    double before = (double)time(NULL), errors;

    assert_int_equal(metrics_watch_process(*state), 0);
    assert_int_equal(metrics_watch_process(*state), MUSTER_EEXIST);
    assert_true(sample(*state, "process_resident_memory_bytes") > 1e5);
    assert_true(sample(*state, "process_cpu_seconds_total") >= 0);
    assert_true(sample(*state, "process_open_fds") >= 3 &&
                sample(*state, "process_open_fds") < 1000);
    assert_true(sample(*state, "process_max_fds") >= 64);
    assert_true(sample(*state, "process_start_time_seconds") <= before + 1);
    assert_true(sample(*state, "process_start_time_seconds") > before - 300);
    assert_true(sample(*state, "muster_build_info{version=\"" MUSTER_VERSION "\"}") == 1);
    errors = sample(*state, "muster_log_lines_total{level=\"error\"}");
    log_error("test", "a line that is counted");
    assert_true(sample(*state, "muster_log_lines_total{level=\"error\"}") == errors + 1);
    assert_true(sample(*state, "muster_log_lines_total{level=\"debug\"}") == 0);
}

static void test_open_files_are_counted(void **state)
{
    int fds[2];
    double before;

    assert_int_equal(metrics_watch_process(*state), 0);
    before = sample(*state, "process_open_fds");
    assert_int_equal(pipe(fds), 0);
    assert_true(sample(*state, "process_open_fds") == before + 2);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

enum { N_THREADS = 4, N_ADDS = 20000 };

struct worker {
    struct metrics *m;
    struct metric *labelled, *histogram;
    atomic_int *n_running;
    int err;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    char value[16];

    for (int i = 0; i < N_ADDS; i++) {
        struct metric_spec spec = {
            .type = MUSTER_COUNTER, .name = "made", .help = "H.", .constants = {{"i", value}}};
        struct metric *made;

        (void)snprintf(value, sizeof value, "%d", i % 1200);
        metric_add(w->labelled, value, 1);
        metric_observe(w->histogram, i * 1000);
        if (i % 200 == 0 && metrics_make(w->m, &spec, &made) == 0)
            metric_add(made, NULL, 1);
        else
            w->err |= i % 200 == 0;
    }
    atomic_fetch_sub(w->n_running, 1);
    return NULL;
}

static double sum_of(struct metrics *m, const char *family)
{
    char *page = page_of(m);
    size_t len = strlen(family);
    double sum = 0;

    for (char *line = page; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, family, len) == 0 && line[len] == '{')
            sum += strtod(strchr(line, '}') + 2, NULL);
    }
    free(page);
    return sum;
}

static void test_threads(void **state)
{
    atomic_int n_running = N_THREADS;
    struct worker w[N_THREADS];
    pthread_t threads[N_THREADS];
    double last = 0;

    for (int i = 0; i < N_THREADS; i++) {
        w[i] = (struct worker){.m = *state, .n_running = &n_running};
        w[i].labelled = make(
            *state, (struct metric_spec){.type = MUSTER_COUNTER, .name = "n_total", .label = "v"});
        w[i].histogram = make(*state, (struct metric_spec){.type = MUSTER_HISTOGRAM, .name = "h"});
        assert_int_equal(pthread_create(&threads[i], NULL, work, &w[i]), 0);
    }
    while (atomic_load(&n_running)) { /* a counter never goes back, however the scrape falls */
        double now = sum_of(*state, "n_total");

        assert_true(now >= last);
        last = now;
    }
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(w[i].err, 0);
    }
    assert_true(sum_of(*state, "n_total") == (double)N_THREADS * N_ADDS);
    assert_true(sum_of(*state, "made") == (double)N_THREADS * N_ADDS / 200);
    assert_true(sample(*state, "h_count") == (double)N_THREADS * N_ADDS);
    assert_true(sample(*state, "n_total{v=\"other\"}") > 0);
}

/* ---- from one registry to another ------------------------------------------------------------- */

struct other {
    struct metric *metric;
    unsigned int n_told, refuse; /* the next so many are refused */
};

static bool take_number(void *arg, const char *value, int64_t number)
{
    struct other *o = arg;

    if (o->refuse) {
        o->refuse--;
        return false;
    }
    o->n_told++;
    if (metric_type(o->metric) == MUSTER_GAUGE)
        metric_set(o->metric, value, number);
    else
        metric_add(o->metric, value, number);
    return true;
}

static bool take_histogram(void *arg, const uint64_t *counts, size_t n_counts, int64_t sum_ns)
{
    struct other *o = arg;

    if (o->refuse) {
        o->refuse--;
        return false;
    }
    o->n_told++;
    assert_int_equal(metric_merge(o->metric, counts, n_counts, sum_ns), 0);
    return true;
}

static bool drain_to(struct metric *from, struct other *to)
{
    const struct metrics_sink sink = {take_number, take_histogram, to};

    return metric_drain(from, &sink);
}

/* What is refused stays, and what was told is not told again. */
static void test_what_has_gathered_goes_over(void **state)
{
    const struct metric_spec specs[] = {{.type = MUSTER_COUNTER, .name = "n_total", .label = "v"},
                                        {.type = MUSTER_GAUGE, .name = "g"},
                                        {.type = MUSTER_HISTOGRAM, .name = "h_seconds"}};
    struct metrics *far = metrics_new();
    struct metric *near[3];
    struct other others[3] = {0};
    char *page;

    for (size_t i = 0; i < 3; i++) {
        near[i] = make(*state, specs[i]);
        others[i].metric = make(far, specs[i]);
    }
    for (int round = 0; round < 3; round++) {
        metric_add(near[0], "a", 2);
        metric_add(near[0], "b", 3);
        metric_add(near[0], "", 4);
        metric_set(near[1], NULL, -7 + round);
        metric_observe(near[2], 3000000);
        metric_observe(near[2], INT64_C(90000000000));
        for (size_t i = 0; i < 3; i++) {
            others[i].refuse = round == 1;
            assert_true(drain_to(near[i], &others[i]) == (round != 1));
        }
    }
    assert_int_equal(others[2].n_told, 2);
    assert_true(drain_to(near[0], &others[0]) && drain_to(near[2], &others[2]));
    assert_int_equal(others[2].n_told, 2);
    page = page_of(far);
    assert_non_null(strstr(page, "n_total{v=\"a\"} 6\n"));
    assert_non_null(strstr(page, "n_total{v=\"b\"} 9\n"));
    assert_non_null(strstr(page, "n_total{v=\"other\"} 12\n"));
    assert_non_null(strstr(page, "g -5\n"));
    assert_non_null(strstr(page, "h_seconds_bucket{le=\"0.005\"} 3\n"));
    assert_non_null(strstr(page, "h_seconds_count 6\n"));
    assert_true(fabs(sample(far, "h_seconds_sum") - 270.009) < 1e-9);
    free(page);
    assert_int_equal(metric_merge(others[0].metric, (const uint64_t[]){1}, 1, 0), MUSTER_EINVAL);
    assert_int_equal(metric_merge(others[2].metric, (const uint64_t[]){1}, 1, 0), MUSTER_EINVAL);
    metrics_free(far);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counter_and_gauge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_header_a_family, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_same_again_is_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escapes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_histogram, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_specs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clashes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_label_values_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_odd_label_values_are_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metrics_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_a_registry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_process, setup, teardown),
        cmocka_unit_test_setup_teardown(test_open_files_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_has_gathered_goes_over, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
