/* js_parse_ack(): what servers answer to an append, as 2.9 to 2.15 write it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>
#include <string.h>

#include "bus/js.h"

static int parse(const char *text, uint64_t *seq)
{
    *seq = 99;
    return js_parse_ack((struct muster_bytes){text, strlen(text)}, seq);
}

static void test_what_is_stored(void **state)
{
    uint64_t seq;

    (void)state;
    assert_int_equal(parse("{\"stream\":\"MAIL\", \"seq\":12}", &seq), 0);
    assert_int_equal(seq, 12);
    assert_int_equal(parse("{\"stream\":\"MAIL\",\"domain\":\"hub\",\"seq\":18446744073709551615}", &seq), 0);
    assert_true(seq == UINT64_MAX);
    assert_int_equal(parse("{\"stream\":\"MAIL\", \"seq\":12,\"duplicate\": true}", &seq), 0);
    assert_int_equal(seq, 12);
}

/* In a cluster the first message with the id may still be on its way to the copies, and fail there. */
static void test_a_duplicate_of_what_is_being_stored(void **state)
{
    uint64_t seq;

    (void)state;
    assert_int_equal(parse("{\"stream\":\"MAIL\", \"seq\":0,\"duplicate\": true}", &seq), MUSTER_ELINK);
    assert_int_equal(parse("{\"error\":{\"code\":409,\"err_code\":10158,\"description\":\"duplicate message id is in process\"},"
                           "\"stream\":\"MAIL\",\"seq\":0}",
                           &seq),
                     MUSTER_ELINK);
}

static void test_refusals(void **state)
{
    uint64_t seq;

    (void)state;
    assert_int_equal(parse("{\"error\":{\"code\":400,\"err_code\":10071,\"description\":\"wrong last sequence: 7\"},\"stream\":\"E\",\"seq\":0}", &seq),
                     MUSTER_ESTALE);
    assert_int_equal(seq, 7);
    assert_int_equal(parse("{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"maximum messages exceeded\"}}", &seq), MUSTER_ENOMEM);
    assert_int_equal(parse("{\"error\":{\"code\":503,\"err_code\":10008,\"description\":\"not available\"}}", &seq), MUSTER_ELINK);
    assert_int_equal(parse("{\"stream\":\"MAIL\", \"seq\":0}", &seq), MUSTER_EINVAL);
    assert_int_equal(parse("{}", &seq), MUSTER_EINVAL);
    assert_int_equal(parse("", &seq), MUSTER_EINVAL);
    assert_int_equal(parse("seq", &seq), MUSTER_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_stored),
        cmocka_unit_test(test_a_duplicate_of_what_is_being_stored),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests_name("ack", tests, NULL, NULL);
}
