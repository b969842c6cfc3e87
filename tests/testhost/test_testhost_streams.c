/* Streams of the test host: heard elsewhere, bounded, attached and followed, with gaps that the test makes. */
#include <muster/testhost.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

const struct muster_plugin *reader_entry(void);

static struct muster_test *begin(void)
{
    const struct muster_test_options options = {.size = sizeof options, .entry = reader_entry, .tenants = "acme zeta"};

    return muster_test_begin(&options);
}

static void end(struct muster_test *t)
{
    muster_test_destroy(t);
    if (muster_test_failures(t))
        fail_msg("%s", muster_test_failure(t, 0));
    assert_int_equal(muster_test_free(t), 0);
}

static void have(struct muster_test *t, const char *what)
{
    muster_test_tell(t, "all.ann.do", what);
}

static void keep(struct muster_test *t, const char *subject)
{
    (void)muster_test_store(t, "KEPT", NULL, subject, (struct muster_bytes){"{}", 2});
}

/* What the plugin was told, in order: "1 -3 2 ". */
static const char *told(struct muster_test *t)
{
    static char out[500];
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < muster_test_n_lines(t); i++) {
        const char *text = strstr(muster_test_line(t, i)->text, "told ");

        if (text)
            n += (size_t)snprintf(out + n, sizeof out - n, "%d ", atoi(text + (strncmp(text, "told of ", 8) == 0 ? 8 : 5)));
    }
    return out;
}

static void test_heard_elsewhere(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    have(t, "append shelf.3.join.a1");
    assert_int_equal(muster_test_logged(t, "acked 0 1"), 1);
    assert_int_equal(muster_test_logged(t, "heard evt.reader.join.a1@1"), 1);
    end(t);
}

static void test_bounds(void **state)
{
    struct muster_test *t = begin();
    struct muster_stream_info info;

    (void)state;
    for (int i = 0; i < 3; i++)
        have(t, "append shelf.3.join.a1");
    assert_int_equal(muster_test_stream(t, "OWN", &info), 0);
    assert_int_equal(info.n_msgs, 2);
    assert_int_equal(info.first_seq, 2);
    have(t, "append shelf.3.join.a2");
    have(t, "append shelf.3.join.a3");
    assert_int_equal(muster_test_stream(t, "OWN", &info), 0);
    assert_int_equal(info.n_msgs, 3);
    assert_int_equal(info.last_seq, 5);
    end(t);
}

static void test_attached(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    assert_int_equal(muster_test_logged(t, "stream -8 with -1"), 1);
    keep(t, "kept.x");
    have(t, "meddle kept.x");
    end(t);
}

static void test_followed(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    keep(t, "kept.x");
    keep(t, "kept.some");
    have(t, "follow 1");
    assert_string_equal(told(t), "1 2 -3 ");
    keep(t, "kept.x");
    muster_test_run(t);
    have(t, "unfollow 0");
    keep(t, "kept.x");
    have(t, "some 2");
    keep(t, "kept.some");
    muster_test_run(t);
    assert_string_equal(told(t), "1 2 -3 3 2 -3 5 ");
    have(t, "follow 0");
    keep(t, "kept.x");
    muster_test_run(t);
    assert_string_equal(told(t), "1 2 -3 3 2 -3 5 -3 6 ");
    assert_int_equal(muster_test_logged(t, "never"), 0);
    end(t);
}

static void test_gaps(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    for (int i = 0; i < 4; i++)
        keep(t, i == 1 ? "kept.some" : "kept.x");
    have(t, "follow 1");
    have(t, "hold 1");
    for (int i = 0; i < 4; i++)
        keep(t, "kept.x");
    assert_int_equal(muster_test_drop(t, "KEPT", 6), 0);
    assert_string_equal(told(t), "1 2 3 4 -3 ");
    have(t, "hold 0");
    assert_string_equal(told(t), "1 2 3 4 -3 -7 7 8 ");
    have(t, "some 1"); /* who begins before the first there is may have missed something */
    assert_string_equal(told(t), "1 2 3 4 -3 -7 7 8 -7 -3 ");
    assert_int_equal(muster_test_drop(t, "KEPT", 8), 0);
    keep(t, "kept.some");
    muster_test_run(t);
    assert_string_equal(told(t), "1 2 3 4 -3 -7 7 8 -7 -3 9 ");
    end(t);
}

static void test_link_away(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    keep(t, "kept.x");
    have(t, "follow 1");
    muster_test_link(t, 0);
    keep(t, "kept.x");
    muster_test_advance(t, MUSTER_TEST_S);
    assert_string_equal(told(t), "1 -3 -10 ");
    muster_test_link(t, 1);
    assert_string_equal(told(t), "1 -3 -10 2 -3 ");
    muster_test_fault(t, "stream.follow:callback", MUSTER_ELINK, 1, 1);
    keep(t, "kept.x");
    muster_test_run(t);
    assert_string_equal(told(t), "1 -3 -10 2 -3 -10 ");
    muster_test_advance(t, MUSTER_TEST_S);
    assert_string_equal(told(t), "1 -3 -10 2 -3 -10 3 -3 ");
    end(t);
}

static void test_stream_gone(void **state)
{
    struct muster_test *t = begin();

    (void)state;
    have(t, "follow 1");
    assert_string_equal(told(t), "-8 ");
    keep(t, "kept.x");
    have(t, "follow 1");
    have(t, "hold 1");
    assert_int_equal(muster_test_remove_stream(t, "KEPT"), 0);
    keep(t, "kept.x");
    have(t, "hold 0");
    assert_string_equal(told(t), "-8 1 -3 -8 ");
    end(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heard_elsewhere), cmocka_unit_test(test_bounds),    cmocka_unit_test(test_attached),
        cmocka_unit_test(test_followed),        cmocka_unit_test(test_gaps),      cmocka_unit_test(test_link_away),
        cmocka_unit_test(test_stream_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
