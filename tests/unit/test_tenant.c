/* Unit tests of tenant/: the token bucket, the registry, and both under threads (run them under TSan, too). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "tenant/tenant.h"

static struct tenant_row row(const char *name, int64_t rate, int64_t burst)
{
    struct tenant_row r = {.name = name, .name_len = strlen(name), .encoding = MUSTER_JSON};

    for (int i = 0; i < TENANT_N_LIMITS + LIMITS_MAX_OBJECTS; i++)
        r.limits[i] = -1;
    r.limits[TENANT_REQUESTS_PER_S] = rate;
    r.limits[TENANT_BURST] = burst;
    return r;
}

static struct tenants *all; /* of the test that runs: charging needs it */

/* One request of 100 bytes from an agent. */
static int charge_as(struct muster_tenant *t, const char *agent, int64_t now, struct tenant_over *over)
{
    const struct tenant_asker who = {.agent = agent, .agent_len = strlen(agent), .n_bytes = 100, .now_ns = now};

    return tenant_charge(all, t, &who, over);
}

static int charge(struct muster_tenant *t, int64_t now, uint32_t *ret_retry_ms)
{
    struct tenant_over over;
    int verdict = charge_as(t, "a1", now, &over);

    if (verdict != TENANT_OK)
        *ret_retry_ms = over.retry_ms;
    return verdict;
}

static struct tenants *registry(void)
{
    struct tenants *t = NULL;

    assert_int_equal(tenants_new(&t), 0);
    all = t;
    return t;
}

static struct muster_tenant *tenant_of(struct tenants *t, int64_t rate, int64_t burst)
{
    struct tenant_row r = row("acme", rate, burst);

    assert_int_equal(tenants_set(t, &r, 1), 0);
    return tenants_find(t, "acme", 4);
}

static void no_limit_is_never_over(void **state)
{
    struct tenants *t = registry();
    struct muster_tenant *acme = tenant_of(t, -1, -1);
    uint32_t retry = 0;

    (void)state;
    for (int i = 0; i < 10000; i++)
        assert_int_equal(charge(acme, 1, &retry), TENANT_OK);
    assert_int_equal(retry, 0);
    tenants_free(t);
}

/* What the configuration gives to tenants that have nothing of their own. */
static void defaults_stand_in(void **state)
{
    static const int64_t defaults[TENANT_N_LIMITS] = {
        [TENANT_REQUESTS_PER_S] = 2, [TENANT_BURST] = 7, [TENANT_QUEUED_MESSAGES] = 100, [TENANT_QUEUED_BYTES] = -1, [TENANT_WATCHES] = 1000};
    struct tenants *t = registry();
    struct tenant_row rows[] = {row("acme", -1, -1), row("big", 50, -1), row("bursts", -1, 9), row("free", 0, -1)};
    const struct muster_tenant *acme, *big;
    uint32_t retry = 0;

    (void)state;
    rows[1].limits[TENANT_QUEUED_MESSAGES] = 5;
    tenants_set_defaults(t, defaults);
    assert_int_equal(tenants_set(t, rows, 4), 0);
    acme = tenants_find(t, "acme", 4);
    for (int i = 0; i < TENANT_N_LIMITS; i++)
        assert_int_equal(tenants_limit(acme, i), defaults[i]);
    for (int i = 0; i < 8; i++)
        assert_int_equal(charge(tenants_find(t, "acme", 4), 1, &retry), i < 7 ? TENANT_OK : TENANT_OVER_ANSWER);
    big = tenants_find(t, "big", 3);
    assert_int_equal(tenants_limit(big, TENANT_REQUESTS_PER_S), 50);
    assert_int_equal(tenants_limit(big, TENANT_BURST), -1); /* that of another rate would be no burst of this one */
    assert_int_equal(tenants_limit(big, TENANT_QUEUED_MESSAGES), 5);
    assert_int_equal(tenants_limit(tenants_find(t, "bursts", 6), TENANT_BURST), 9);
    assert_int_equal(tenants_limit(tenants_find(t, "free", 4), TENANT_REQUESTS_PER_S), 0);
    tenants_free(t);
}

static void burst_then_rate(void **state)
{
    struct tenants *t = registry();
    struct muster_tenant *acme = tenant_of(t, 10, 5);
    int64_t now = 1000 * CLOCK_S;
    uint32_t retry = 0;

    (void)state;
    for (int i = 0; i < 5; i++)
        assert_int_equal(charge(acme, now, &retry), TENANT_OK);
    assert_int_equal(charge(acme, now, &retry), TENANT_OVER_ANSWER);
    assert_int_equal(retry, 100);
    now += 99 * CLOCK_MS;
    assert_int_equal(charge(acme, now, &retry), TENANT_OVER_ANSWER);
    assert_int_equal(retry, 1);
    now += CLOCK_MS;
    assert_int_equal(charge(acme, now, &retry), TENANT_OK);
    assert_int_equal(charge(acme, now, &retry), TENANT_OVER_ANSWER);
    now += 3600 * CLOCK_S; /* a long rest gives the burst back, and no more */
    for (int i = 0; i < 5; i++)
        assert_int_equal(charge(acme, now, &retry), TENANT_OK);
    assert_int_equal(charge(acme, now, &retry), TENANT_OVER_ANSWER);
    tenants_free(t);
}

static void rate_alone_allows_a_second_of_it(void **state)
{
    struct tenants *t = registry();
    struct muster_tenant *acme = tenant_of(t, 7, -1);
    uint32_t retry = 0;
    int passed = 0;

    (void)state;
    for (int ms = 0; ms < 10000; ms++)
        passed += charge(acme, 50 * CLOCK_S + ms * CLOCK_MS, &retry) == TENANT_OK;
    assert_in_range(passed, 7 + 69, 7 + 70);
    tenants_free(t);
}

static void limits_change_at_once(void **state)
{
    struct tenants *t = registry();
    struct muster_tenant *acme = tenant_of(t, 1, 1000);
    int64_t now = CLOCK_S;
    uint32_t retry = 0;

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(charge(acme, now, &retry), TENANT_OK);
    assert_int_equal(charge(acme, now, &retry), TENANT_OVER_ANSWER);
    assert_int_equal(retry, 1000);
    assert_ptr_equal(tenant_of(t, 100, 10), acme); /* a thousand seconds of debt must not outlive the limit */
    for (int i = 0; i < 10; i++)
        assert_int_equal(charge(acme, now, &retry), TENANT_OK);
    assert_int_equal(charge(acme, now, &retry), TENANT_OVER_ANSWER);
    assert_int_equal(retry, 10);
    assert_ptr_equal(tenant_of(t, 1, INT64_MAX), acme); /* the depth must not overflow */
    assert_int_equal(charge(acme, now, &retry), TENANT_OK);
    assert_ptr_equal(tenant_of(t, INT64_MAX, -1), acme);
    assert_int_equal(charge(acme, now, &retry), TENANT_OK);
    tenants_free(t);
}

/* In every window of a second at most 100 answers, and they begin again when the window has moved on. */
static void answers_are_bounded(void **state)
{
    enum { N = 40000 };
    struct tenants *t = registry();
    struct muster_tenant *acme = tenant_of(t, 1, 1);
    int64_t *answers = calloc(N, sizeof *answers);
    size_t n = 0;
    uint32_t retry = 0;

    (void)state;
    assert_non_null(answers);
    for (int i = 0; i < N; i++) {
        int64_t now = 77 * CLOCK_S + i * (CLOCK_MS / 10);

        if (charge(acme, now, &retry) == TENANT_OVER_ANSWER)
            answers[n++] = now;
    }
    assert_in_range(n, 390, 410); /* four seconds */
    for (size_t i = TENANT_ANSWERS_PER_S; i < n; i++)
        assert_true(answers[i] - answers[i - TENANT_ANSWERS_PER_S] >= 999 * CLOCK_MS);
    assert_int_equal(atomic_load(&acme->n_charged), N);
    assert_int_equal(atomic_load(&acme->n_over) - atomic_load(&acme->n_silent), n);
    free(answers);
    tenants_free(t);
}

static void collect(void *arg, const struct muster_tenant *tenant)
{
    char *text = arg;
    size_t len = strlen(text);

    snprintf(text + len, 256 - len, "%s ", tenants_name(tenant));
}

static void on_change(void *arg, unsigned int what)
{
    *(unsigned int *)arg = *(unsigned int *)arg * 10 + what;
}

static void registry_follows_what_it_is_given(void **state)
{
    struct tenants *t = registry();
    struct tenant_row rows[] = {row("zeta", 1, 1), row("acme", 5, 9), row("_in", -1, -1), row("a.b", -1, -1), row("", -1, -1)};
    struct muster_tenant *acme;
    struct muster_tenant_limits limits = {.size = sizeof limits};
    unsigned int changes = 0;
    char names[256] = "";

    (void)state;
    assert_int_equal(tenants_on_change(t, on_change, &changes), 0);
    assert_int_equal(tenants_count(t), 0);
    assert_int_equal(tenants_set(t, rows, 5), 0);
    tenants_each(t, collect, names);
    assert_string_equal(names, "acme zeta ");
    assert_null(tenants_find(t, "_in", 3));
    assert_null(tenants_find(t, "acmeX", 5));
    acme = tenants_find(t, "acmeX", 4);
    assert_non_null(acme);
    assert_int_equal(tenants_limits(acme, &limits), 0);
    assert_int_equal(limits.requests_per_s, 5);
    assert_int_equal(limits.burst, 9);
    limits.size = 8;
    assert_int_equal(tenants_limits(acme, &limits), MUSTER_EINVAL);

    assert_int_equal(tenants_set(t, rows, 5), 0);
    assert_int_equal(changes, 1); /* the same again is no change */

    assert_int_equal(tenants_set(t, rows, 1), 0);
    assert_int_equal(changes, 11);
    assert_null(tenants_find(t, "acme", 4));
    assert_false(tenants_is_live(acme));
    assert_int_equal(tenants_count(t), 1);

    assert_int_equal(tenants_put(t, &rows[1]), 0);
    assert_int_equal(changes, 111);
    assert_ptr_equal(tenants_find(t, "acme", 4), acme); /* its old handle */
    assert_int_equal(tenants_count(t), 2);
    tenants_free(t);
}

static void collect_table(void *arg, const struct muster_table *table)
{
    char *text = arg;
    size_t len = strlen(text);

    snprintf(text + len, 256 - len, "%s.%s:%s:%u ", table->schema, table->table, table->tenant ? table->tenant : "-",
             table->subject_key);
}

static void tables_have_a_serial(void **state)
{
    struct tenants *t = registry();
    struct muster_table rows[] = {{.size = sizeof rows[0], .schema = "public", .table = "orders", .tenant_column = "t"},
                                  {.size = sizeof rows[0], .schema = "public", .table = "prices", .tenant = "acme"}};
    unsigned int changes = 0;
    char text[256] = "";
    uint64_t serial = 99;

    (void)state;
    assert_int_equal(tenants_on_change(t, on_change, &changes), 0);
    tenants_tables(t, collect_table, text, &serial);
    assert_int_equal(serial, 0);
    assert_int_equal(tenants_set_tables(t, rows, 2), 0);
    assert_int_equal(tenants_set_tables(t, rows, 2), 0);
    tenants_tables(t, collect_table, text, &serial);
    assert_string_equal(text, "public.orders:-:0 public.prices:acme:0 ");
    assert_int_equal(serial, 1);
    rows[0].subject_key = 1;
    assert_int_equal(tenants_set_tables(t, rows, 2), 0);
    rows[0].tenant_column = NULL;
    assert_int_equal(tenants_set_tables(t, rows, 2), 0);
    assert_int_equal(tenants_set_tables(t, NULL, 0), 0);
    text[0] = '\0';
    tenants_tables(t, collect_table, text, &serial);
    assert_string_equal(text, "");
    assert_int_equal(serial, 4);
    assert_int_equal(changes, 2222);
    tenants_free(t);
}

enum { N_NAMES = 500, N_THREADS = 4, N_ROUNDS = 60 };

struct race {
    struct tenants *tenants;
    atomic_bool stop;
    _Atomic uint64_t found, listed;
};

static void count_live(void *arg, const struct muster_tenant *tenant)
{
    struct race *race = arg;

    if (tenants_name(tenant)[0] != 'n')
        abort(); /* assertions belong to the test's own thread */
    atomic_fetch_add(&race->listed, 1);
}

static void count_tables(void *arg, const struct muster_table *table)
{
    (void)arg;
    if (strcmp(table->schema, "public") != 0)
        abort();
}

static void *read_all(void *arg)
{
    struct race *race = arg;
    char name[16];

    while (!atomic_load(&race->stop)) {
        for (int i = 0; i < N_NAMES; i++) {
            int len = snprintf(name, sizeof name, "n%d", i);
            struct muster_tenant *tenant = tenants_find(race->tenants, name, (size_t)len);
            uint32_t retry;

            if (!tenant)
                continue;
            if (strcmp(tenants_name(tenant), name) != 0)
                abort();
            (void)charge(tenant, clock_now_ns(), &retry);
            atomic_fetch_add(&race->found, 1);
        }
        tenants_each(race->tenants, count_live, race);
        tenants_tables(race->tenants, count_tables, NULL, NULL);
    }
    return NULL;
}

/* One writer that adds, removes, changes and grows, while others read: nothing torn, nothing freed. */
static void readers_need_no_lock(void **state)
{
    static char names[N_NAMES][16];
    static struct tenant_row rows[N_NAMES];
    struct race race = {.tenants = registry()};
    struct muster_table table = {.size = sizeof table, .schema = "public", .table = "t"};
    pthread_t threads[N_THREADS];

    (void)state;
    for (int i = 0; i < N_NAMES; i++) {
        snprintf(names[i], sizeof names[i], "n%d", i);
        rows[i] = row(names[i], 10, 10);
    }
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_all, &race), 0);
    for (size_t round = 1; round <= N_ROUNDS; round++) {
        rows[0].limits[TENANT_REQUESTS_PER_S] = (int64_t)round;
        table.subject_key = round % 2;
        assert_int_equal(tenants_set(race.tenants, rows, round % 3 == 0 ? N_NAMES / 2 : N_NAMES * round / N_ROUNDS), 0);
        assert_int_equal(tenants_set_tables(race.tenants, &table, 1), 0);
    }
    while (atomic_load(&race.found) == 0 || atomic_load(&race.listed) == 0)
        sched_yield();
    atomic_store(&race.stop, true);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    tenants_free(race.tenants);
}

struct charge_race {
    struct muster_tenant *tenant;
    _Atomic uint64_t passed, answered, silent;
};

static void *charge_many(void *arg)
{
    struct charge_race *race = arg;
    uint32_t retry;

    for (int i = 0; i < 50000; i++) {
        int verdict = charge(race->tenant, 9 * CLOCK_S, &retry);

        atomic_fetch_add(verdict == TENANT_OK ? &race->passed : verdict == TENANT_OVER_ANSWER ? &race->answered : &race->silent, 1);
    }
    return NULL;
}

/* At one instant exactly the burst passes, however many threads ask. */
static void threads_share_one_bucket(void **state)
{
    struct tenants *t = registry();
    struct charge_race race = {.tenant = tenant_of(t, 1000, 12345)};
    pthread_t threads[N_THREADS];

    (void)state;
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, charge_many, &race), 0);
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&race.passed), 12345);
    assert_in_range(atomic_load(&race.answered), TENANT_ANSWERS_PER_S, TENANT_ANSWERS_PER_S + N_THREADS);
    assert_int_equal(atomic_load(&race.passed) + atomic_load(&race.answered) + atomic_load(&race.silent), N_THREADS * 50000);
    tenants_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_limit_is_never_over),
        cmocka_unit_test(defaults_stand_in), cmocka_unit_test(burst_then_rate),
        cmocka_unit_test(rate_alone_allows_a_second_of_it),
        cmocka_unit_test(limits_change_at_once),
        cmocka_unit_test(answers_are_bounded),
        cmocka_unit_test(registry_follows_what_it_is_given),
        cmocka_unit_test(tables_have_a_serial),
        cmocka_unit_test(readers_need_no_lock),
        cmocka_unit_test(threads_share_one_bucket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
