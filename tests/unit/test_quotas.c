/* Unit tests of tenant/: limits beyond the rate of requests - bytes, agents, requests that wait, other brokers, counts of objects. Run them
 * under TSan, too. */
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

static struct tenants *t;

static void set_up(void)
{
    assert_int_equal(tenants_new(&t), 0);
}

/* acme, with these limits and no others. */
static struct muster_tenant *acme_with(size_t n, const int limits[][2])
{
    struct tenant_row row = {.name = "acme", .name_len = 4, .encoding = MUSTER_JSON};

    for (int i = 0; i < TENANT_N_LIMITS + LIMITS_MAX_OBJECTS; i++)
        row.limits[i] = -1;
    for (size_t i = 0; i < n; i++)
        row.limits[limits[i][0]] = limits[i][1];
    assert_int_equal(tenants_set(t, &row, 1), 0);
    return tenants_find(t, "acme", 4);
}
#define ACME(...) acme_with(sizeof((const int[][2]){__VA_ARGS__}) / sizeof(int[2]), (const int[][2]){__VA_ARGS__})

static int charge(struct muster_tenant *acme, const char *agent, size_t n_bytes, int64_t now, struct tenant_over *over)
{
    return tenant_charge(t, acme, &(struct tenant_asker){.agent = agent, .agent_len = strlen(agent), .n_bytes = n_bytes, .now_ns = now}, over);
}

static int enter(struct muster_tenant *acme, const char *agent, struct tenant_place *place, struct tenant_over *over)
{
    return tenant_enter(t, acme, &(struct tenant_asker){.agent = agent, .agent_len = strlen(agent), .n_bytes = 100, .now_ns = CLOCK_S}, place, over);
}

/* A body larger than a second's worth gets through, and is paid for afterwards. */
static void bytes_are_held_on_average(void **state)
{
    struct tenant_over over = {0};
    struct muster_tenant *acme;
    size_t passed = 0;
    int64_t now = 50 * CLOCK_S;

    (void)state;
    set_up();
    acme = ACME({TENANT_BYTES_PER_S, 10000});
    assert_int_equal(charge(acme, "a1", 50000, now, &over), TENANT_OK);
    assert_int_equal(charge(acme, "a1", 1, now, &over), TENANT_OVER_ANSWER);
    assert_int_equal(over.limit, TENANT_BYTES_PER_S);
    assert_int_equal(over.value, 10000);
    assert_in_range(over.retry_ms, 4000, 4001);
    assert_int_equal(charge(acme, "a2", 1, now + 4001 * CLOCK_MS, &over), TENANT_OK);
    now += 3600 * CLOCK_S;
    for (int ms = 0; ms < 20000; ms++)
        passed += charge(acme, "a1", 700, now + ms * CLOCK_MS, &over) == TENANT_OK ? 700 : 0;
    assert_in_range(passed, 200000, 211400);
    tenants_free(t);
}

/* Who may not send its bytes keeps its token. */
static void a_refusal_takes_from_no_bucket(void **state)
{
    struct tenant_over over = {0};
    struct muster_tenant *acme;

    (void)state;
    set_up();
    acme = ACME({TENANT_REQUESTS_PER_S, 5}, {TENANT_BYTES_PER_S, 1024});
    assert_int_equal(charge(acme, "a1", 1 << 20, CLOCK_S, &over), TENANT_OK);
    for (int i = 0; i < 50; i++)
        assert_int_not_equal(charge(acme, "a1", 10, CLOCK_S, &over), TENANT_OK);
    assert_int_equal(over.limit, TENANT_BYTES_PER_S);
    acme = ACME({TENANT_REQUESTS_PER_S, 5}, {TENANT_BYTES_PER_S, 1 << 30}); /* its bucket is full again */
    for (int i = 0; i < 4; i++)
        assert_int_equal(charge(acme, "a1", 10, CLOCK_S, &over), TENANT_OK);
    assert_int_equal(charge(acme, "a1", 10, CLOCK_S, &over), TENANT_OVER_ANSWER);
    assert_int_equal(over.limit, TENANT_REQUESTS_PER_S);
    tenants_free(t);
}

static void an_agent_over_its_limit_leaves_the_others_theirs(void **state)
{
    struct tenant_over over = {0};
    struct muster_tenant *acme;
    int greedy = 0;

    (void)state;
    set_up();
    acme = ACME({TENANT_REQUESTS_PER_S, 100}, {TENANT_AGENT_REQUESTS_PER_S, 10});
    for (int i = 0; i < 1000; i++)
        greedy += charge(acme, "greedy", 10, CLOCK_S, &over) == TENANT_OK;
    assert_int_equal(greedy, 10);
    assert_int_equal(over.limit, TENANT_AGENT_REQUESTS_PER_S);
    assert_int_equal(over.value, 10);
    for (int a = 0; a < 9; a++) {
        char name[8];

        (void)snprintf(name, sizeof name, "a%d", a);
        for (int i = 0; i < 10; i++)
            assert_int_equal(charge(acme, name, 10, CLOCK_S, &over), TENANT_OK);
    }
    assert_int_not_equal(charge(acme, "last", 10, CLOCK_S, &over), TENANT_OK);
    assert_int_equal(over.limit, TENANT_REQUESTS_PER_S);
    for (int i = 0; i < 100; i++) /* what no agent can be called is none */
        (void)charge(acme, "_p_echo", 10, CLOCK_S, &over);
    assert_int_equal(over.limit, TENANT_REQUESTS_PER_S);
    acme = ACME({TENANT_AGENT_BYTES_PER_S, 1024});
    assert_int_equal(charge(acme, "greedy", 100000, CLOCK_S, &over), TENANT_OK);
    assert_int_not_equal(charge(acme, "greedy", 1, CLOCK_S, &over), TENANT_OK);
    assert_int_equal(over.limit, TENANT_AGENT_BYTES_PER_S);
    assert_int_equal(charge(acme, "a1", 1, CLOCK_S, &over), TENANT_OK);
    acme = ACME({TENANT_AGENT_BYTES_PER_S, 2048}); /* another rate begins anew */
    assert_int_equal(charge(acme, "greedy", 1, CLOCK_S, &over), TENANT_OK);
    tenants_free(t);
}

static void requests_that_wait_are_counted(void **state)
{
    struct tenant_place places[4] = {{0}}, none = {0};
    struct tenant_over over = {0};
    struct muster_tenant *acme;

    (void)state;
    set_up();
    acme = ACME({TENANT_IN_FLIGHT, 3}, {TENANT_AGENT_IN_FLIGHT, 2});
    assert_int_equal(enter(acme, "a1", &places[0], &over), TENANT_OK);
    assert_int_equal(enter(acme, "a1", &places[1], &over), TENANT_OK);
    assert_int_equal(enter(acme, "a1", &none, &over), TENANT_OVER_ANSWER);
    assert_int_equal(over.limit, TENANT_AGENT_IN_FLIGHT);
    assert_int_equal(over.value, 2);
    assert_true(over.retry_ms > 0);
    assert_int_equal(enter(acme, "a2", &places[2], &over), TENANT_OK); /* what was refused holds no place of the tenant's */
    assert_int_equal(enter(acme, "a3", &none, &over), TENANT_OVER_ANSWER);
    assert_int_equal(over.limit, TENANT_IN_FLIGHT);
    tenant_leave(t, &places[0]);
    assert_int_equal(enter(acme, "a3", &places[0], &over), TENANT_OK);
    for (int i = 0; i < 3; i++)
        tenant_leave(t, &places[i]);
    assert_int_equal(atomic_load(&acme->n_in_flight), 0);
    acme = ACME({TENANT_REQUESTS_PER_S, 3});
    for (int i = 0; i < 100; i++) { /* without a limit nothing is counted, so that one that comes later begins at none */
        assert_int_equal(enter(acme, "a1", &none, &over), TENANT_OK);
        assert_null(none.tenant);
        assert_null(none.agent);
    }
    tenants_free(t);
}

/* Those who rest go from the table; the table is bounded. */
static void the_table_of_agents_is_bounded(void **state)
{
    struct tenant_over over = {0};
    struct muster_tenant *acme;
    char name[16];
    int refused = 0;

    (void)state;
    set_up();
    acme = ACME({TENANT_AGENT_REQUESTS_PER_S, 1});
    for (int i = 0; i < USAGE_MAX + 1000; i++) {
        (void)snprintf(name, sizeof name, "a%d", i);
        refused += charge(acme, name, 10, CLOCK_S, &over) != TENANT_OK;
    }
    assert_int_equal(refused, 1000);
    assert_int_equal(usage_count(tenants_usage(t)), USAGE_MAX);
    assert_int_equal(usage_full(tenants_usage(t)), 1000);
    for (int i = 0; i < USAGE_MAX / 2; i++) {
        (void)snprintf(name, sizeof name, "b%d", i);
        assert_int_equal(charge(acme, name, 10, 3 * CLOCK_S, &over), TENANT_OK);
    }
    assert_int_equal(usage_count(tenants_usage(t)) <= USAGE_MAX, 1);
    tenants_free(t);
}

/* Three brokers that tell each other each 250 ms let as much pass together as one would. */
static void rates_are_those_of_all_brokers(void **state)
{
    enum { N = 3, SECONDS = 20 };
    struct tenants *brokers[N];
    struct muster_tenant *acme[N];
    struct tenant_over over;
    uint64_t spent[N][TENANT_N_BUCKETS];
    int passed = 0;

    (void)state;
    for (int b = 0; b < N; b++) {
        set_up();
        brokers[b] = t;
        acme[b] = ACME({TENANT_REQUESTS_PER_S, 100}, {TENANT_BYTES_PER_S, 1 << 30});
    }
    for (int ms = 0; ms < SECONDS * 1000; ms++) {
        int64_t now = 9 * CLOCK_S + ms * CLOCK_MS;

        for (int b = 0; b < N; b++) {
            t = brokers[b];
            passed += charge(acme[b], "a1", 10, now, &over) == TENANT_OK;
        }
        for (int b = 0; ms % 250 == 249 && b < N; b++)
            if (!tenant_take_untold(acme[b], spent[b]))
                memset(spent[b], 0, sizeof spent[b]);
        for (int b = 0; ms % 250 == 249 && b < N; b++)
            for (int other = 0; other < N; other++)
                if (other != b)
                    tenant_charge_other(acme[b], now, spent[other]);
    }
    assert_in_range(passed, SECONDS * 100, SECONDS * 100 + 350); /* each had its burst before it heard of the others */
    for (int b = 0; b < N; b++)
        tenants_free(brokers[b]);
}

static void what_others_say_has_bounds(void **state)
{
    const uint64_t much[TENANT_N_BUCKETS] = {UINT64_MAX, UINT64_MAX};
    struct tenant_over over = {0};
    struct muster_tenant *acme;
    uint64_t spent[TENANT_N_BUCKETS];

    (void)state;
    set_up();
    acme = ACME({TENANT_REQUESTS_PER_S, 100}, {TENANT_BYTES_PER_S, 100000});
    tenant_charge_other(acme, CLOCK_S, much);
    tenant_charge_other(acme, CLOCK_S, much);
    assert_int_equal(charge(acme, "a1", 10, CLOCK_S, &over), TENANT_OVER_ANSWER);
    assert_in_range(over.retry_ms, 1, 10100);
    assert_int_equal(charge(acme, "a1", 10, 13 * CLOCK_S, &over), TENANT_OK);
    assert_false(tenant_take_untold(acme, spent)); /* one of a hundred is too little to tell */
    assert_int_equal(charge(acme, "a1", 10, 13 * CLOCK_S, &over), TENANT_OK);
    assert_true(tenant_take_untold(acme, spent));
    assert_int_equal(spent[TENANT_REQUESTS], 2);
    assert_int_equal(spent[TENANT_BYTES], 0);
    tenants_free(t);
}

static void services_declare_what_they_count(void **state)
{
    struct tenant_row row = {.name = "acme", .name_len = 4, .encoding = MUSTER_JSON};
    const struct muster_tenant *acme;
    char name[32];

    (void)state;
    set_up();
    assert_int_equal(tenants_declare(t, "task.open"), 0);
    assert_int_equal(tenants_declare(t, "task.open"), 0);
    assert_int_equal(tenants_declare(t, "watches"), MUSTER_EINVAL);
    assert_int_equal(tenants_declare(t, "a.b.c"), MUSTER_EINVAL);
    acme = ACME({TENANT_WATCHES, 7});
    assert_int_equal(tenants_limit_named(t, acme, "task.open"), -1);
    assert_int_equal(tenants_limit_named(t, acme, "watches"), 7);
    assert_int_equal(tenants_limit_named(t, acme, "nothing"), -1);
    for (int i = 0; i < TENANT_N_LIMITS + LIMITS_MAX_OBJECTS; i++)
        row.limits[i] = -1;
    row.limits[TENANT_N_LIMITS] = 12;
    assert_int_equal(tenants_set(t, &row, 1), 0);
    assert_int_equal(tenants_limit_named(t, acme, "task.open"), 12);
    for (int i = 1; i < LIMITS_MAX_OBJECTS; i++) {
        (void)snprintf(name, sizeof name, "task.n%d", i);
        assert_int_equal(tenants_declare(t, name), 0);
    }
    assert_int_equal(tenants_declare(t, "one.more"), MUSTER_EAGAIN);
    assert_int_equal(tenants_declare(t, "task.n3"), 0);
    tenants_free(t);
}

struct race {
    struct muster_tenant *acme;
    int passed;
};

static void *run_race(void *arg)
{
    struct race *race = arg;
    struct tenant_over over;

    for (int i = 0; i < 20000; i++) {
        struct tenant_place place;

        if (enter(race->acme, i % 2 ? "a1" : "a2", &place, &over) != TENANT_OK)
            continue;
        race->passed += charge(race->acme, "a1", 10, CLOCK_S, &over) == TENANT_OK;
        tenant_leave(t, &place);
    }
    return NULL;
}

static void threads_share_the_counts(void **state)
{
    struct race races[4];
    pthread_t threads[4];
    int passed = 0;

    (void)state;
    set_up();
    races[0].acme = ACME({TENANT_AGENT_REQUESTS_PER_S, 5000}, {TENANT_IN_FLIGHT, 100}, {TENANT_AGENT_IN_FLIGHT, 100});
    for (int i = 0; i < 4; i++) {
        races[i] = (struct race){races[0].acme, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, run_race, &races[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        passed += races[i].passed;
    }
    assert_int_equal(passed, 5000);
    assert_int_equal(atomic_load(&races[0].acme->n_in_flight), 0);
    tenants_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_held_on_average),
        cmocka_unit_test(a_refusal_takes_from_no_bucket),
        cmocka_unit_test(an_agent_over_its_limit_leaves_the_others_theirs),
        cmocka_unit_test(requests_that_wait_are_counted),
        cmocka_unit_test(the_table_of_agents_is_bounded),
        cmocka_unit_test(rates_are_those_of_all_brokers),
        cmocka_unit_test(what_others_say_has_bounds),
        cmocka_unit_test(services_declare_what_they_count),
        cmocka_unit_test(threads_share_the_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
