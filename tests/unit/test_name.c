/* base/name: the names and key tokens of INTERFACE 1; tokens computed with Python's hashlib and
 * base64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/name.h"

#define X64 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

static void test_every_byte(void **state)
{
    static const char legal[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";

    (void)state;
    for (int i = 0; i < 256; i++) {
        char c = (char)i;

        assert_int_equal(name_is_legal(&c, 1), memchr(legal, i, sizeof legal - 1) != NULL);
    }
}

static void test_lengths(void **state)
{
    (void)state;
    assert_false(name_is_legal("", 0));
    assert_false(name_is_legal(NULL, 0));
    assert_true(name_is_legal(X64, 64));
    assert_false(name_is_legal(X64 "x", 65));
    assert_false(name_is_legal("a\0b", 3));
    assert_true(name_is_legal("a.b", 1)); /* the length counts, not a NUL */
}

static void test_keys(void **state)
{
    static const char *const keys[] = {"a", "a.b", "=/~-_.9"}, *const none[] = {"", ".a", "a.", "a..b", "a b", "a*", "a>", "\xc3\xa4", NULL};
    char longest[NAME_KEY_MAX + 2] = {0};

    (void)state;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_true(name_is_key(keys[i]) && name_is_key_prefix(keys[i]));
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_false(name_is_key(none[i]));
    assert_true(name_is_key_prefix("") && name_is_key_prefix("a."));
    assert_false(name_is_key_prefix(".a") || name_is_key_prefix("a..") || name_is_key_prefix("a b") || name_is_key_prefix(NULL));
    memset(longest, 'x', NAME_KEY_MAX);
    assert_true(name_is_key(longest));
    longest[NAME_KEY_MAX] = 'x';
    assert_false(name_is_key(longest) || name_is_key_prefix(longest));
}

static void test_public(void **state)
{
    (void)state;
    assert_true(name_is_public("acme", 4));
    assert_true(name_is_public("-a_", 3));
    assert_false(name_is_public("_muster", 7));
    assert_false(name_is_public("_", 1));
    assert_false(name_is_public("", 0));
    assert_false(name_is_public("a*", 2));
}

static void test_token_of_legal_ids(void **state)
{
    static const char *const ids[] = {"42", "_", "a-b_C", "550e8400-e29b-41d4-a716-446655440000",
                                      X64};
    char out[NAME_TOKEN_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        assert_int_equal(name_token(ids[i], strlen(ids[i]), out), strlen(ids[i]));
        assert_string_equal(out, ids[i]);
    }
}

static void test_token_of_other_ids(void **state)
{
    static const struct {
        const char *id;
        size_t len;
        const char *token;
    } vectors[] = {
        {"", 0, "~4oymiquy7qobjgx3"},
        {NULL, 0, "~4oymiquy7qobjgx3"},
        {"a.b", 3, "~fzztnxeoxkd66rzn"},
        {"a b", 3, "~zbuhucfklvxnebcd"},
        {"a*", 2, "~usuh2mpnda5sptd3"},
        {X64 "x", 65, "~su34l7prebec67ky"},
        {"z\xc3\xbcrich", 7, "~eaprbvowiumnq3jn"},
        {"[\"1\",\"2\"]", 9, "~zq7suh75mpcnwgpa"},
        {"\0", 1, "~ny2axhh7wn5jrhff"},
        {"\xff\xfe", 2, "~wpkrb3yee5okrzuy"},
        {"550e8400-e29b-41d4-a716-446655440000/1", 38, "~qkegrxgygagf67ul"},
    };
    char out[NAME_TOKEN_SIZE];

    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        assert_int_equal(name_token(vectors[i].id, vectors[i].len, out), 17);
        assert_string_equal(out, vectors[i].token);
        assert_int_equal(name_hash_token(vectors[i].id, vectors[i].len, out), 17);
        assert_string_equal(out, vectors[i].token);
    }
    assert_int_equal(name_hash_token("acme", 4, out), 17); /* a legal name has one as well */
    assert_string_equal(out, "~qivthlmhyfekbiqk");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_public),
        cmocka_unit_test(test_token_of_legal_ids),
        cmocka_unit_test(test_token_of_other_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
