/* wire/subject: each row of INTERFACE 2, strictness, the reply rule, matching and overlap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "wire/subject.h"

static int parse(const char *s, struct subject *ret)
{
    return subject_parse("mst", s, strlen(s), ret);
}

static void put_part(char *out, size_t size, const char *name, struct text part)
{
    size_t n = strlen(out);

    if (part.s)
        (void)snprintf(out + n, size - n, " %s=%.*s", name, (int)part.len, part.s);
}

/* All parts in one line, so that what must not be filled is seen as well. */
static void parsed(const char *s, const char *expected)
{
    char line[400] = "";
    struct subject subject;

    if (parse(s, &subject))
        fail_msg("%s was refused", s);
    (void)snprintf(line, sizeof line, "%s", subject_kind_name(subject.kind));
    if (subject.kind == SUBJECT_LOG)
        put_part(line, sizeof line, "inner", text_of(subject_kind_name(subject.inner)));
    put_part(line, sizeof line, "tenant", subject.tenant);
    put_part(line, sizeof line, "agent", subject.agent);
    put_part(line, sizeof line, "target", subject.target);
    put_part(line, sizeof line, "service", subject.service);
    put_part(line, sizeof line, "schema", subject.schema);
    put_part(line, sizeof line, "table", subject.table);
    put_part(line, sizeof line, "verb", subject.verb);
    put_part(line, sizeof line, "ref", subject.ref);
    put_part(line, sizeof line, "rest", subject.rest);
    assert_string_equal(line, expected);
}

static void test_kinds(void **state)
{
    (void)state;
    parsed("mst.acme.rpc.a1.task.submit", "rpc tenant=acme agent=a1 service=task verb=submit");
    parsed("mst.acme.rpc.a1.task.accept.0198-x_7",
           "rpc tenant=acme agent=a1 service=task verb=accept ref=0198-x_7");
    parsed("mst.acme.box.a1.x.Y!.3", "box tenant=acme agent=a1 rest=x.Y!.3");
    parsed("mst.acme.all.a1.hi", "all tenant=acme agent=a1 verb=hi");
    parsed("mst.acme.rpc._p_cron.task.submit", "rpc tenant=acme agent=_p_cron service=task verb=submit");
    parsed("mst.acme.box._p_cron.1.2", "box tenant=acme agent=_p_cron rest=1.2");
    parsed("mst.acme.all._muster.roll_call", "all tenant=acme agent=_muster verb=roll_call");
    parsed("mst.acme.to.b.a1.hi", "to tenant=acme agent=a1 target=b verb=hi");
    parsed("mst.acme.to.b._muster.task_assignment",
           "to tenant=acme agent=_muster target=b verb=task_assignment");
    parsed("mst.acme.grp.g.a1.hi", "grp tenant=acme agent=a1 target=g verb=hi");
    parsed("mst.acme.msg.b", "msg tenant=acme target=b");
    parsed("mst.acme.evt.task.queued.t-1", "evt tenant=acme service=task verb=queued ref=t-1");
    parsed("mst.acme.evt.run.stuck.~abcdefghij234567",
           "evt tenant=acme service=run verb=stuck ref=~abcdefghij234567");
    parsed("mst.acme.evt._.head", "evt tenant=acme service=_ verb=head");
    parsed("mst.acme.cdc.main.public.orders.insert._",
           "cdc tenant=acme service=main schema=public table=orders verb=insert ref=_");
    parsed(
        "mst.acme.cdc.main.public.~abcdefghij234567.truncate._",
        "cdc tenant=acme service=main schema=public table=~abcdefghij234567 verb=truncate ref=_");
    parsed("mst.acme.audit.task.cancel.a1", "audit tenant=acme agent=a1 service=task verb=cancel");
    parsed("mst.acme.log.all.a1.hi", "log inner=all tenant=acme agent=a1 verb=hi");
    parsed("mst.acme.log.to.b.a1.hi", "log inner=to tenant=acme agent=a1 target=b verb=hi");
    parsed("mst.acme.log.grp.g.a1.hi", "log inner=grp tenant=acme agent=a1 target=g verb=hi");
    parsed("mst.acme.sub.b.7", "sub tenant=acme target=b ref=7");
    parsed("mst._in.acme.evt.task.queued.t-1", "_in tenant=acme rest=evt.task.queued.t-1");
}

static void test_foreign(void **state)
{
    static const char *const foreign[] = {"",         ".",  "mst2.acme.msg.b", "$JS.API.INFO",
                                          "_INBOX.x", "ms", "MST.acme.msg.b"};
    struct subject s;

    (void)state;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        assert_int_equal(parse(foreign[i], &s), MUSTER_ENOTFOUND);
}

static void test_malformed(void **state)
{
    static const char *const malformed[] = {
        "mst",
        "mst.",
        "mst.acme",
        "mst.acme.",
        "mst.acme.nope.a",
        "mst._acme.msg.b",
        "mst._in",
        "mst._in.acme",
        "mst._in._muster.evt.x",
        "mst._in.acme.evt..x",
        "mst.ac me.msg.b",
        "mst.acme.msg.b.c",
        "mst.acme.msg.*",
        "mst.acme.msg.>",
        "mst.acme.rpc.a1.task",
        "mst.acme.rpc._p_.task.submit",
        "mst.acme.rpc._p__x.task.submit",
        "mst.acme.rpc._q_cron.task.submit",
        "mst.acme.box._muster.x",
        "mst.acme.all._p_cron.x",
        "mst.acme.to._p_cron.a.x",
        "mst.acme.rpc._muster.task.submit",
        "mst.acme.rpc.a1.task.submit.r.s",
        "mst.acme.rpc.a1.task.submit.",
        "mst.acme.rpc.a1..submit",
        "mst.acme.rpc.a1.task.sub\tmit",
        "mst.acme.box.a1",
        "mst.acme.box.a1.",
        "mst.acme.box.a1.*",
        "mst.acme.box.a1.x.>",
        "mst.acme.box.a1.x y",
        "mst.acme.to.b._other.x",
        "mst.acme.to._muster.a.x",
        "mst.acme.to.b.a.b.c",
        "mst.acme.evt.task.queued",
        "mst.acme.evt._.head.x",
        "mst.acme.evt._muster.x.y",
        "mst.acme.evt.task.queued.~abc",
        "mst.acme.evt.task.queued.~ABCDEFGHIJ234567",
        "mst.acme.evt.task.queued.a~b",
        "mst.acme.cdc.main.public.orders.upsert._",
        "mst.acme.cdc.main.public.orders.insert",
        "mst.acme.log.msg.b",
        "mst.acme.log.all.a1",
        "mst.acme.sub.b.1.2",
        "mst.acme.msg.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    };
    struct subject s;

    (void)state;
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        if (parse(malformed[i], &s) != MUSTER_EINVAL)
            fail_msg("%s was not refused", malformed[i]);
    assert_int_equal(subject_parse("mst", "mst.acme.msg.b\0c", 16, &s), MUSTER_EINVAL);
}

static void test_long(void **state)
{
    char s[SUBJECT_MAX + 2];
    struct subject subject;

    (void)state;
    memset(s, 'x', sizeof s);
    memcpy(s, "mst.acme.box.a1.", 16);
    assert_int_equal(subject_parse("mst", s, SUBJECT_MAX, &subject), 0);
    assert_int_equal(subject_parse("mst", s, SUBJECT_MAX + 1, &subject), MUSTER_EINVAL);
}

static void test_reply(void **state)
{
    static const struct {
        const char *reply;
        bool own;
    } cases[] = {
        {"mst.acme.box.a1.Xy12.1", true},
        {"mst.acme.box._p_a1.x", false},
        {"mst.acme.to.a1._muster.reply", true},
        {"mst.acme.box.a1", false},
        {"mst.acme.box.a1.>", false},
        {"mst.acme.box.a1.*.x", false},
        {"mst.acme.box.a2.x", false},
        {"mst.acme.box.a11.x", false},
        {"mst.acme2.box.a1.x", false},
        {"mst.evil.to.a1._muster.reply", false},
        {"mst.acme.to.a1._muster.reply.x", false},
        {"mst.acme.to.a1._muster.other", false},
        {"mst.acme.to.a2._muster.reply", false},
        {"mst.acme.to.a1.a2.reply", false},
        {"mst.acme.rpc.a1.task.submit", false},
        {"mst._in.acme.box.a1.x", false},
        {"$JS.API.STREAM.PURGE.EVT", false},
        {"$KV.muster_x.a", false},
        {"_INBOX.abc", false},
        {"", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (subject_reply_is_own(cases[i].reply, "mst", "acme", "a1") != cases[i].own)
            fail_msg("%s: expected %d", cases[i].reply, cases[i].own);
}

static void test_match(void **state)
{
    static const struct {
        const char *pattern, *subject;
        bool match;
    } cases[] = {
        {"a.b", "a.b", true},
        {"a.b", "a.c", false},
        {"a.*", "a.b", true},
        {"a.*", "a", false},
        {"a.*", "a.b.c", false},
        {"a.>", "a.b.c", true},
        {"a.>", "a", false},
        {">", "a", true},
        {"*", "a", true},
        {"*.b", "a.b", true},
        {"a.*.c", "a.b.c", true},
        {"a.*.c", "a.b.d", false},
        {"a.b.c", "a.b", false},
        {"a*", "ab", false},
        {"*.*", "a.b", true},
        {"a.b>", "a.b>", true},
        {"", "", false},
        {"a..b", "a..b", false},
        {"rpc.*.presence.beat", "rpc.a1.presence.beat", true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (subject_match(cases[i].pattern, cases[i].subject) != cases[i].match)
            fail_msg("%s %s", cases[i].pattern, cases[i].subject);
}

static void test_overlap(void **state)
{
    static const struct {
        const char *a, *b;
        bool overlap;
    } cases[] = {
        {"a.b", "a.b", true},
        {"a.b", "a.c", false},
        {"a.*", "*.b", true},
        {"a.*", "b.*", false},
        {"a.>", "a", false},
        {"a.>", "a.*", true},
        {">", "a.b.c", true},
        {"a.*.c", "a.b.>", true},
        {"a.*.c", "a.b.d", false},
        {"a.*", "a.b.>", false},
        {"*.all.>", "acme.*.*.hi", true},
        {"mst.*.all.>", "mst.>", true},
        {"mst._in.>", "mst.*.evt.>", true},
        {"x.>", "mst.acme.>", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (subject_overlap(cases[i].a, cases[i].b) != cases[i].overlap)
            fail_msg("%s %s", cases[i].a, cases[i].b);
        if (subject_overlap(cases[i].b, cases[i].a) != cases[i].overlap)
            fail_msg("%s %s", cases[i].b, cases[i].a);
    }
}

static void test_covers(void **state)
{
    static const struct {
        const char *pattern, *covered;
        bool covers;
    } cases[] = {
        {"a.b", "a.b", true},     {"a.b", "a.c", false}, {"a.*", "a.b", true},   {"a.*", "a.*", true},       {"a.b", "a.*", false},
        {"a.>", "a.b.c", true},   {"a.>", "a.*", true},  {"a.>", "a.*.>", true}, {"a.>", "a.>", true},       {"a.>", "a", false},
        {"a.*", "a.>", false},    {"a.*.>", "a.>", false}, {"*.b", "a.*", false}, {">", "a.>", true},        {"a.*.c", "a.>", false},
        {"a.b.c", "a.b", false},  {"a.b", "a.b.c", false}, {"a.*.c", "a.b.c", true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (subject_covers(cases[i].pattern, cases[i].covered) != cases[i].covers)
            fail_msg("%s %s", cases[i].pattern, cases[i].covered);
}

static void test_responds(void **state)
{
    static const struct {
        const char *message, *reply;
        bool responds;
    } cases[] = {
        {"to.b.a.hi", "rpc.b.message.receipt.r1", true},
        {"to.b._muster.roll_call", "rpc.b.presence.here.~aaaaaaaaaaaaaaaa", true},
        {"to.b._p_acme.hi", "rpc.b.message.receipt.r1", true},
        {"to.b.a.hi", "rpc.c.message.receipt.r1", false}, /* another agent's */
        {"to.b.a.hi", "rpc.a.message.receipt.r1", false},
        {"to.b.a.hi", "rpc.b.message.receipt", false}, /* no ref */
        {"to.b.a.hi", "rpc.b.message.receipt.r1.r2", false},
        {"to.b.a.hi", "rpc.b.message.receipt.$JS", false},
        {"to.b.a.hi", "rpc.b.message.*.r1", false},
        {"to.b.a.hi", "box.b.r1", false},
        {"to.b.a.hi", "$JS.API.STREAM.PURGE.x", false},
        {"to.b.a.hi", "", false},
        {"to.b.a", "rpc.b.message.receipt.r1", false},
        {"all.b.hi", "rpc.b.message.receipt.r1", false},
        {"grp.b.a.hi", "rpc.b.message.receipt.r1", false},
        {"to._op_b.a.hi", "rpc._op_b.message.receipt.r1", false},
    };
    struct text service;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (subject_responds(cases[i].message, cases[i].reply, &service) != cases[i].responds)
            fail_msg("%s %s", cases[i].message, cases[i].reply);
    assert_true(subject_responds("to.b.a.hi", "rpc.b.message.receipt.r1", &service));
    assert_true(text_is(service, "message"));
}

static void test_patterns(void **state)
{
    (void)state;
    assert_true(subject_is_pattern("a.*.>", 5));
    assert_false(subject_is_pattern("a.>.b", 5));
    assert_false(subject_is_pattern("a.b*", 4));
    assert_false(subject_is_pattern("a.", 2));
    assert_false(subject_is_pattern("", 0));
    assert_false(subject_is_pattern("a b", 3));
    assert_true(subject_is_literal("a.b", 3));
    assert_false(subject_is_literal("a.*", 3));
    assert_false(subject_is_literal("a\x7f", 2));
}

static void test_asker(void **state)
{
    static const char *const told[] = {"mst.acme.rpc.a1.task.submit", "mst.acme.rpc.a1.s:y.x", "mst.acme.rpc.a1._x", "mst.acme.rpc.a1",
                                       "mst.acme.rpc.a1..", "mst.acme.rpc.a1.a.b.c.d"};
    static const char *const untold[] = {"mst.acme.rpc._muster.x.y", "mst._acme.rpc.a1.x.y", "mst.acme.all.a1.x", "mst.acme.rpc",
                                         "mst.acme.rpc..x", "nats.acme.rpc.a1.x.y", "mst._in.acme.rpc.a1", ""};
    struct subject s;

    (void)state;
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        assert_int_equal(subject_parse_asker("mst", told[i], strlen(told[i]), &s), 0);
        assert_int_equal(s.kind, SUBJECT_RPC);
        assert_true(text_is(s.tenant, "acme") && text_is(s.agent, "a1") && !s.service.s);
    }
    for (size_t i = 0; i < sizeof untold / sizeof *untold; i++)
        assert_int_equal(subject_parse_asker("mst", untold[i], strlen(untold[i]), &s), MUSTER_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),     cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_malformed), cmocka_unit_test(test_long),
        cmocka_unit_test(test_reply),     cmocka_unit_test(test_match),
        cmocka_unit_test(test_overlap),   cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_asker),     cmocka_unit_test(test_covers),
        cmocka_unit_test(test_responds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
