/* core/inbox.h: fairness between tenants, the bounds and what happens at them, messages given back, and threads that push. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "core/inbox.h"
#include "core/lane.h"
#include "metrics/metrics.h"
#include "tenant/tenant.h"
#include "wire/error.h"

enum { MAX_DELIVERED = 100000, MAX_REFUSED = 64, SMALL = 1000 };

struct fixture {
    int limit; /* what inbox_push() said last */
    struct tenants *tenants;
    struct muster_tenant *acme, *zeta;
    struct metrics *metrics;
    struct lane *lane;
    struct inbox *inbox;
    struct sub *sub;
    /* Written on the lane, read when it has ended. */
    struct {
        const struct muster_tenant *tenant;
        uint64_t request; /* the tests number messages by it */
    } delivered[MAX_DELIVERED];
    size_t n_delivered;
    int n_again;                   /* give back that many times */
    uint64_t refused[MAX_REFUSED]; /* the first of them */
    int refused_with[MAX_REFUSED];
    size_t n_refused;
};

static struct fixture *the_fixture; /* for refuse(), which gets no argument */

static void deliver(void *arg, struct delivery *d)
{
    struct fixture *f = arg;

    if (f->n_again > 0 && d->tenant == f->acme) {
        f->n_again--;
        if (inbox_again(f->inbox, d))
            return;
    }
    f->delivered[f->n_delivered].tenant = d->tenant;
    f->delivered[f->n_delivered++].request = d->msg.request;
    delivery_unref(d);
}

static void refuse(struct delivery *d, int code, const char *message)
{
    struct fixture *f = the_fixture;

    assert_true(strlen(message) > 0);
    if (f->n_refused < MAX_REFUSED) {
        f->refused_with[f->n_refused] = code;
        f->refused[f->n_refused] = d->msg.request;
    }
    f->n_refused++;
}

static struct sub *sub_new(uint32_t overflow, uint32_t max_msgs, size_t max_bytes)
{
    struct sub *s = calloc(1, sizeof *s);

    assert_non_null(s);
    *s =
        (struct sub){.refs = 1, .overflow = overflow, .max_msgs = max_msgs, .max_bytes = max_bytes};
    return s;
}

static int setup(void **state)
{
    const struct tenant_row rows[] = {
        {.name = "acme", .name_len = 4, .encoding = MUSTER_JSON, .limits = {[TENANT_QUEUED_MESSAGES] = -1, [TENANT_QUEUED_BYTES] = -1}},
        {.name = "zeta",
         .name_len = 4,
         .encoding = MUSTER_JSON,
         .limits = {[TENANT_QUEUED_MESSAGES] = 5, [TENANT_QUEUED_BYTES] = 3 * SMALL}},
    };
    struct fixture *f = calloc(1, sizeof *f);
    struct inbox_options options = {
        .plugin = "echo", .instance = "main", .deliver = deliver, .refuse = refuse, .arg = f};

    if (!f || tenants_new(&f->tenants) || tenants_set(f->tenants, rows, 2) ||
        lane_new("inbox", &f->lane))
        return -1;
    f->metrics = metrics_new();
    f->acme = tenants_find(f->tenants, "acme", 4);
    f->zeta = tenants_find(f->tenants, "zeta", 4);
    f->sub = sub_new(MUSTER_OVERFLOW_REJECT, 1u << 20, 1u << 30);
    options.lane = f->lane;
    options.metrics = f->metrics;
    *state = the_fixture = f;
    return inbox_new(&options, &f->inbox);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    lane_free(f->lane);
    inbox_free(f->inbox);
    sub_unref(f->sub);
    metrics_free(f->metrics);
    tenants_free(f->tenants);
    free(f);
    return 0;
}

static struct delivery *delivery_new(struct sub *sub, const struct muster_tenant *tenant,
                                     size_t n_bytes, uint64_t request)
{
    struct delivery *d = calloc(1, sizeof *d);

    if (!d)
        abort();
    d->refs = 1;
    atomic_fetch_add(&sub->refs, 1);
    d->sub = sub;
    d->tenant = tenant;
    d->n_bytes = n_bytes;
    d->msg.request = request;
    d->msg.recv_ns = clock_now_ns();
    return d;
}

static int push_to(struct fixture *f, struct sub *sub, const struct muster_tenant *tenant,
                   size_t n_bytes, uint64_t request)
{
    struct delivery *d = delivery_new(sub, tenant, n_bytes, request);
    int err = inbox_push(f->inbox, d, &f->limit);

    if (err)
        delivery_unref(d);
    return err;
}

static int push(struct fixture *f, const struct muster_tenant *tenant, size_t n_bytes,
                uint64_t request)
{
    return push_to(f, f->sub, tenant, n_bytes, request);
}

/* Deliver what waits. */
static void run(struct fixture *f)
{
    assert_int_equal(lane_start(f->lane), 0);
    lane_stop(f->lane);
}

static void test_a_flood_does_not_starve_the_others(void **state)
{
    struct fixture *f = *state;
    uint64_t next[2] = {0, 0};
    size_t last_of_zeta = 0;

    for (uint64_t i = 0; i < 5000; i++)
        assert_int_equal(push(f, f->acme, SMALL, i), 0);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(push(f, f->zeta, SMALL, i), 0);
    run(f);
    assert_int_equal(f->n_delivered, 5003);
    for (size_t i = 0; i < f->n_delivered; i++) {
        bool zeta = f->delivered[i].tenant == f->zeta;

        assert_int_equal(f->delivered[i].request, next[zeta]++); /* in order of arrival */
        if (zeta)
            last_of_zeta = i;
    }
    assert_true(last_of_zeta < 20); /* one quantum of the flood, 16 KiB, came before it */
}

/* Shares are of bytes: whoever sends large messages gets fewer of them through. */
static void test_large_messages_get_no_larger_share(void **state)
{
    struct fixture *f = *state;
    struct sub *sub = sub_new(MUSTER_OVERFLOW_REJECT, 1u << 20, 1u << 30);
    const struct tenant_row more = {
        .name = "beta", .name_len = 4, .encoding = MUSTER_JSON, .limits = {[TENANT_QUEUED_MESSAGES] = -1, [TENANT_QUEUED_BYTES] = -1}};
    const struct muster_tenant *beta;
    size_t bytes[2] = {0, 0};

    assert_int_equal(tenants_put(f->tenants, &more), 0);
    beta = tenants_find(f->tenants, "beta", 4);
    for (int i = 0; i < 100; i++)
        assert_int_equal(push(f, f->acme, 100 * SMALL, 0), 0);
    for (int i = 0; i < 5000; i++)
        assert_int_equal(push_to(f, sub, beta, SMALL, 0), 0);
    run(f);
    for (size_t i = 0; i < f->n_delivered && bytes[1] < 4000 * SMALL; i++)
        bytes[f->delivered[i].tenant == beta] +=
            f->delivered[i].tenant == beta ? SMALL : 100 * SMALL;
    assert_true(bytes[0] > 3500 * SMALL && bytes[0] < 4500 * SMALL);
    sub_unref(sub);
}

static void test_bounds_of_a_subscription(void **state)
{
    struct fixture *f = *state;
    struct sub *few = sub_new(MUSTER_OVERFLOW_REJECT, 3, 1u << 20),
               *small = sub_new(MUSTER_OVERFLOW_DROP_NEW, 100, 2 * SMALL);

    for (uint64_t i = 1; i <= 5; i++)
        assert_int_equal(push_to(f, few, f->acme, SMALL, i), i <= 3 ? 0 : MUSTER_EAGAIN);
    for (uint64_t i = 1; i <= 3; i++)
        assert_int_equal(push_to(f, small, f->acme, SMALL, i), i <= 2 ? 0 : MUSTER_EAGAIN);
    assert_int_equal(inbox_dropped(f->inbox), 3);
    run(f);
    assert_int_equal(f->n_delivered, 5);
    assert_int_equal(few->n_msgs + small->n_msgs, 0);
    assert_int_equal(few->n_bytes + small->n_bytes, 0);
    assert_int_equal(push_to(f, few, f->acme, SMALL, 6), 0); /* room again */
    sub_unref(few);
    sub_unref(small);
}

/* zeta has limits of its own: 5 messages, 3000 bytes. */
static void test_bounds_of_a_tenant(void **state)
{
    struct fixture *f = *state;

    for (uint64_t i = 0; i < 7; i++)
        assert_int_equal(push(f, f->zeta, 10, i), i < 5 ? 0 : MUSTER_EAGAIN);
    assert_int_equal(push(f, f->acme, 10, 7), 0); /* another's is no matter */
    run(f);
    assert_int_equal(f->n_delivered, 6);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(push(f, f->zeta, SMALL, i), i < 3 ? 0 : MUSTER_EAGAIN);
}

static void test_the_bound_of_the_lane(void **state)
{
    struct fixture *f = *state;
    size_t n = 0;

    while (push(f, f->acme, 1u << 20, 0) == 0)
        n++;
    assert_int_equal(n, 16); /* the default of a tenant: 16 MiB */
    for (int i = 0; i < 20; i++) {
        char name[] = "t0";
        struct tenant_row row = {
            .name = name, .name_len = 2, .encoding = MUSTER_JSON, .limits = {[TENANT_QUEUED_MESSAGES] = -1, [TENANT_QUEUED_BYTES] = -1}};

        name[1] = (char)('a' + i);
        assert_int_equal(tenants_put(f->tenants, &row), 0);
        while (push(f, tenants_find(f->tenants, name, 2), 1u << 20, 0) == 0)
            n++;
    }
    /* Each newcomer took its share of the 128 MiB from those who had most. */
    assert_int_equal(n - f->n_refused, 128);
    assert_true(n > 128);
}

static void test_the_oldest_goes_and_who_waits_is_told(void **state)
{
    struct fixture *f = *state;
    struct sub *beats = sub_new(MUSTER_OVERFLOW_DROP_OLD, 3, 10 * SMALL);

    assert_int_equal(push(f, f->acme, SMALL, 100),
                     0); /* another subscription's stands before them */
    for (uint64_t i = 1; i <= 5; i++)
        assert_int_equal(push_to(f, beats, f->acme, SMALL, i), 0);
    assert_int_equal(push_to(f, beats, f->acme, 10 * SMALL, 6),
                     0); /* three small ones go for a large one */
    assert_int_equal(push_to(f, beats, f->acme, 11 * SMALL, 7),
                     MUSTER_EAGAIN); /* never fits: nothing goes for it */
    assert_int_equal(f->n_refused, 5);
    for (size_t i = 0; i < f->n_refused; i++)
        assert_int_equal(f->refused_with[i], ERROR_RESOURCE_EXHAUSTED);
    assert_int_equal(f->refused[0], 1);
    assert_int_equal(f->refused[1], 2);
    run(f);
    assert_int_equal(f->n_delivered, 2);
    assert_int_equal(f->delivered[0].request, 100);
    assert_int_equal(f->delivered[1].request, 6);
    assert_int_equal(beats->n_msgs, 0);
    sub_unref(beats);
}

/* Whose room it takes: the one's with most, and nobody's when all have alike. */
static void test_a_flood_keeps_nobody_out(void **state)
{
    static const uint32_t policies[] = {MUSTER_OVERFLOW_REJECT, MUSTER_OVERFLOW_DROP_OLD};

    for (size_t k = 0; k < 2; k++) {
        struct fixture *f = *state;
        struct sub *few = sub_new(policies[k], 4, 10 * SMALL);
        size_t before = f->n_refused;

        for (uint64_t i = 1; i <= 4; i++)
            assert_int_equal(push_to(f, few, f->acme, SMALL, i), 0);
        assert_int_equal(push_to(f, few, f->zeta, SMALL, 5), 0);
        assert_int_equal(push_to(f, few, f->zeta, SMALL, 6), 0);
        assert_int_equal(f->n_refused, before + 2);
        assert_int_equal(f->refused[before], 1);
        assert_int_equal(f->refused[before + 1], policies[k] == MUSTER_OVERFLOW_REJECT ? 2 : 5); /* its own oldest goes first there */
        if (policies[k] == MUSTER_OVERFLOW_REJECT) { /* both have two now */
            assert_int_equal(push_to(f, few, f->zeta, SMALL, 7), MUSTER_EAGAIN);
            assert_int_equal(push_to(f, few, f->acme, SMALL, 8), MUSTER_EAGAIN);
        }
        run(f);
        assert_int_equal(few->n_msgs, 0);
        sub_unref(few);
    }
}

static void run_until_none_waits(struct fixture *f)
{
    assert_int_equal(lane_start(f->lane), 0);
    for (int i = 0; i < 1000 && inbox_waiting(f->inbox); i++) {
        struct timespec ms = {.tv_nsec = 5 * CLOCK_MS};

        (void)nanosleep(&ms, NULL);
    }
    lane_stop(f->lane);
}

static void test_given_back_comes_again_in_order(void **state)
{
    struct fixture *f = *state;
    static const uint64_t expected[] = {10, 1, 2, 3}; /* zeta's does not wait for acme's */

    for (uint64_t i = 1; i <= 3; i++)
        assert_int_equal(push(f, f->acme, SMALL, i), 0);
    assert_int_equal(push(f, f->zeta, SMALL, 10), 0);
    f->n_again = 3;
    run_until_none_waits(f);
    assert_int_equal(f->n_again, 0);
    assert_int_equal(f->n_delivered, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(f->delivered[i].request, expected[i]);
}

static void test_given_back_for_too_long_ends(void **state)
{
    struct fixture *f = *state;
    struct delivery *d = delivery_new(f->sub, f->acme, SMALL, 1);

    d->msg.recv_ns = clock_now_ns() - 31 * CLOCK_S;
    assert_int_equal(inbox_push(f->inbox, d, &f->limit), 0);
    f->n_again = 1;
    run(f);
    assert_int_equal(f->n_delivered, 1); /* inbox_again() said no */
}

static void test_what_waited_for_the_end_of_a_pause_is_tried_as_long(void **state)
{
    struct fixture *f = *state;
    struct delivery *d = delivery_new(f->sub, f->acme, SMALL, 1);

    d->msg.recv_ns = clock_now_ns() - 31 * CLOCK_S;
    inbox_pause(f->inbox, true);
    assert_int_equal(inbox_push(f->inbox, d, &f->limit), 0);
    inbox_pause(f->inbox, false);
    f->n_again = 2;
    run_until_none_waits(f);
    assert_int_equal(f->n_again, 0);
    assert_int_equal(f->n_delivered, 1);
}

static void test_what_is_held_has_a_bound(void **state)
{
    struct fixture *f = *state;
    struct delivery *d = delivery_new(f->sub, f->acme, 1u << 20, 1);
    int n = 0;

    while (inbox_hold(f->inbox, d) == 0)
        n++;
    assert_int_equal(n, 32); /* of 64 MiB: as much as is left */
    inbox_release(f->inbox, d);
    assert_int_equal(inbox_hold(f->inbox, d), 0);
    assert_int_equal(inbox_hold(f->inbox, d), MUSTER_EAGAIN);
    delivery_unref(d);
}

static int hold_all(struct fixture *f, const struct delivery *d)
{
    int n = 0;

    while (inbox_hold(f->inbox, d) == 0)
        n++;
    return n;
}

static void test_one_tenant_does_not_hold_all(void **state)
{
    struct fixture *f = *state;
    struct delivery *acme = delivery_new(f->sub, f->acme, SMALL, 1), *zeta = delivery_new(f->sub, f->zeta, SMALL, 1);

    assert_int_equal(hold_all(f, acme), 8192);
    assert_int_equal(hold_all(f, zeta), 4096);
    assert_int_equal(hold_all(f, acme), 0);
    for (int i = 0; i < 8192; i++)
        inbox_release(f->inbox, acme);
    assert_int_equal(hold_all(f, zeta), 4096);
    for (int i = 0; i < 8192; i++)
        inbox_release(f->inbox, zeta);
    assert_int_equal(hold_all(f, acme), 8192); /* nothing of it all is left */
    delivery_unref(acme);
    delivery_unref(zeta);
}

/* As many requests of one tenant as a herd of ten thousand sends at once, and more; not without a bound. */
static void test_a_herd_of_one_tenant_waits(void **state)
{
    struct fixture *f = *state;
    int n = 0;

    while (push(f, f->acme, SMALL, (uint64_t)n) == 0)
        n++;
    assert_int_equal(n, 16384);
    assert_int_equal(f->limit, -1);
    assert_int_equal(push(f, f->zeta, SMALL, 1), 0);
    run(f);
    assert_int_equal(f->n_delivered, n + 1);
    assert_int_equal(f->n_refused, 0);
}

static void test_what_waits_at_the_end_is_told(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(push(f, f->acme, SMALL, 1), 0);
    assert_int_equal(push(f, f->zeta, SMALL, 2), 0);
    lane_free(f->lane);
    inbox_free(f->inbox);
    f->lane = NULL;
    f->inbox = NULL;
    assert_int_equal(f->n_refused, 2);
    assert_int_equal(f->refused_with[0], ERROR_UNAVAILABLE);
    assert_int_equal(atomic_load(&f->sub->refs), 1);
}

enum { THREADS = 3, EACH = 20000 };

static void *push_many(void *arg)
{
    struct fixture *f = arg;

    for (uint64_t i = 0; i < EACH; i++)
        while (push(f, f->acme, SMALL, i) != 0) {
            struct timespec ms = {.tv_nsec = CLOCK_MS};

            (void)nanosleep(&ms, NULL); /* full: the lane must have time to take */
        }
    return NULL;
}

static void test_many_threads_push_while_the_lane_takes(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[THREADS];

    assert_int_equal(lane_start(f->lane), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, push_many, f), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    lane_stop(f->lane);
    assert_int_equal(f->n_delivered, THREADS * EACH);
    assert_int_equal(f->sub->n_msgs, 0);
    assert_int_equal(atomic_load(&f->sub->refs), 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_flood_does_not_starve_the_others),
        TEST(test_large_messages_get_no_larger_share),
        TEST(test_bounds_of_a_subscription),
        TEST(test_bounds_of_a_tenant),
        TEST(test_the_bound_of_the_lane),
        TEST(test_the_oldest_goes_and_who_waits_is_told),
        TEST(test_a_flood_keeps_nobody_out),
        TEST(test_given_back_comes_again_in_order),
        TEST(test_what_waited_for_the_end_of_a_pause_is_tried_as_long),
        TEST(test_given_back_for_too_long_ends),
        TEST(test_what_is_held_has_a_bound),
        TEST(test_one_tenant_does_not_hold_all),
        TEST(test_a_herd_of_one_tenant_waits),
        TEST(test_what_waits_at_the_end_is_told),
        TEST(test_many_threads_push_while_the_lane_takes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
