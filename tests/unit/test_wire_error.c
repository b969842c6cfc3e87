/* wire/error: codes, numbers and answers in both encodings; the answers fit their own definition.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "wire/error.h"
#include "wire/schema.h"
#include "wire_same.h"

static void test_codes(void **state)
{
    static const struct {
        const char *name;
        int number;
    } codes[] = {
        {"invalid_argument", 400},
        {"not_found", 404},
        {"already_exists", 409},
        {"permission_denied", 403},
        {"failed_precondition", 412},
        {"aborted", 409},
        {"resource_exhausted", 429},
        {"unavailable", 503},
        {"deadline_exceeded", 504},
        {"unauthenticated", 401},
        {"internal", 500},
    };

    (void)state;
    assert_int_equal(sizeof codes / sizeof *codes, N_ERRORS);
    for (int i = 0; i < N_ERRORS; i++) {
        assert_string_equal(error_name(i), codes[i].name);
        assert_int_equal(error_number(i), codes[i].number);
        assert_int_equal(error_find(codes[i].name), i);
    }
    assert_int_equal(error_find("nope"), MUSTER_ENOTFOUND);
    assert_int_equal(error_of_result(MUSTER_ENOTFOUND), ERROR_NOT_FOUND);
    assert_int_equal(error_of_result(MUSTER_ESTALE), ERROR_ABORTED);
    assert_int_equal(error_of_result(-99), ERROR_INTERNAL);
}

static void test_json(void **state)
{
    struct buf out = {0};

    (void)state;
    error_write(&(struct error_answer){.code = ERROR_NOT_FOUND, .message = "no such task"},
                MUSTER_JSON, &out);
    assert_string_equal(out.data,
                        "{\"error\":{\"code\":\"not_found\",\"message\":\"no such task\"}}");
    buf_clear(&out);
    error_write(&(struct error_answer){.code = ERROR_RESOURCE_EXHAUSTED,
                                       .message = "x",
                                       .field = "a[1].b",
                                       .retry_after_ms = 20},
                MUSTER_JSON, &out);
    assert_string_equal(
        out.data,
        "{\"error\":{\"code\":\"resource_exhausted\",\"message\":\"x\",\"field\":\"a[1].b\","
        "\"retry_after_ms\":20}}");
    buf_done(&out);
}

/* A message may quote anything; the answer is valid in both encodings all the same, and as its
 * definition says. */
static void test_foreign_message(void **state)
{
    const struct schema_type *type = &schema_find(&schema_core()->messages, "error")->body;
    char message[2000];

    (void)state;
    memset(message, 0xff, sizeof message - 1);
    memcpy(message, "bad\r\nX: \xe2\x82\xac\x01", 12);
    message[sizeof message - 1] = '\0';
    for (uint32_t encoding = MUSTER_JSON; encoding <= MUSTER_MSGPACK; encoding++) {
        struct muster_value *doc = NULL;
        struct wire_error err;
        struct buf out = {0};

        error_write(
            &(struct error_answer){.code = ERROR_INTERNAL, .message = message, .field = "\x80"},
            encoding, &out);
        assert_int_equal(value_decode(encoding, bytes_of(&out), &doc, &err), 0);
        assert_int_equal(schema_check(type, doc, SCHEMA_STRICT, &err), 0);
        assert_string_equal(value_str(value_get(value_get(doc, "error"), "field"), NULL), "?");
        value_free(doc);
        buf_done(&out);
    }
}

static void test_header(void **state)
{
    char out[ERROR_TEXT_SIZE], longer[ERROR_TEXT_SIZE + 100];

    (void)state;
    assert_string_equal(error_header("a\r\nNats-X: 1\xe2\x82\xac\xff", out),
                        "a??Nats-X: 1\xe2\x82\xac?");
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    memcpy(longer + ERROR_TEXT_SIZE - 2, "\xe2\x82\xac", 3); /* would be cut in the middle */
    assert_int_equal(strlen(error_header(longer, out)), ERROR_TEXT_SIZE - 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_foreign_message),
        cmocka_unit_test(test_header),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
