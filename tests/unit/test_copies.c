/* core/copies.h: which messages of the queue group every broker has by a plain subscription anyway. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>
#include <nats/nats.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "bus/bus.h"
#include "core/copies.h"
#include "core/inbox.h"

static bool is_superfluous(struct copies *c, const char *subject, const char *reply)
{
    natsMsg *msg;
    bool is;

    assert_int_equal(natsMsg_Create(&msg, subject, reply, "{}", 2), NATS_OK);
    is = copies_is_superfluous(c, (const struct bus_msg *)msg);
    bus_msg_free((struct bus_msg *)msg);
    return is;
}

static void test_what_a_plain_subscription_hears(void **state)
{
    static char all[] = "rpc.*.presence.*", one[] = "rpc.*.message.receipt.*", verb[] = "rpc.*.clock.tell";
    struct sub subs[] = {{.pattern = all, .next = &subs[1]}, {.pattern = one, .next = &subs[2]}, {.pattern = verb}};
    struct copies c;

    (void)state;
    copies_init(&c);
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.presence.beat", NULL));
    copies_list(&c, subs);
    assert_true(is_superfluous(&c, "mst.acme.rpc.ann.presence.beat", NULL));
    assert_true(is_superfluous(&c, "a.root.acme.rpc.ann.presence.beat", NULL));
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.presence.list", "_INBOX.1")); /* somebody waits */
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.message.send", NULL));
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.message.receipt.7", NULL));
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.presence.beat.7", NULL));
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.clock.tell", NULL));
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.presenc.beat", NULL));
    assert_false(is_superfluous(&c, "rpc.ann.presence.beat", NULL));
    assert_false(is_superfluous(&c, "x", NULL));
    copies_list(&c, NULL);
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.presence.beat", NULL));
    copies_done(&c);
}

static void test_what_a_group_hears_too_is_read(void **state)
{
    static char all[] = "rpc.*.presence.*", verb[] = "rpc.*.presence.hello";
    struct sub subs[] = {{.pattern = all, .next = &subs[1]}, {.pattern = verb, .queue = 1}};
    struct copies c;

    (void)state;
    copies_init(&c);
    copies_list(&c, subs);
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.presence.hello", NULL));
    copies_done(&c);
}

/* Of more services than there is room for some are read. */
static void test_many_services(void **state)
{
    char patterns[COPIES_SERVICES + 1][NAME_TOKEN_SIZE];
    struct sub subs[COPIES_SERVICES + 1] = {{0}};
    struct copies c;
    int n = 0;

    (void)state;
    for (int i = 0; i <= COPIES_SERVICES; i++) {
        (void)snprintf(patterns[i], sizeof patterns[i], "rpc.*.service%d.*", i);
        subs[i] = (struct sub){.pattern = patterns[i], .next = i < COPIES_SERVICES ? &subs[i + 1] : NULL};
    }
    copies_init(&c);
    copies_list(&c, subs);
    for (int i = 0; i <= COPIES_SERVICES; i++) {
        char subject[64];

        (void)snprintf(subject, sizeof subject, "mst.acme.rpc.ann.service%d.beat", i);
        n += is_superfluous(&c, subject, NULL);
    }
    assert_int_equal(n, COPIES_SERVICES);
    copies_done(&c);
}

static void test_in_doubt_all_are_read(void **state)
{
    static char all[] = "rpc.*.presence.*";
    struct sub sub = {.pattern = all};
    struct copies c;

    (void)state;
    copies_init(&c);
    copies_list(&c, &sub);
    copies_doubt(&c);
    assert_false(is_superfluous(&c, "mst.acme.rpc.ann.presence.beat", NULL));
    atomic_store(&c.doubt_until_ns, clock_now_ns()); /* as if a while had passed */
    assert_true(is_superfluous(&c, "mst.acme.rpc.ann.presence.beat", NULL));
    copies_done(&c);
}

static int open_library(void **state)
{
    (void)state;
    return nats_Open(-1) == NATS_OK ? 0 : -1;
}

static int close_library(void **state)
{
    (void)state;
    return nats_CloseAndWait(0) == NATS_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_plain_subscription_hears),
        cmocka_unit_test(test_what_a_group_hears_too_is_read),
        cmocka_unit_test(test_many_services),
        cmocka_unit_test(test_in_doubt_all_are_read),
    };

    return cmocka_run_group_tests(tests, open_library, close_library);
}
