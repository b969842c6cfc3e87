/* Muster's own tokens: the text, the stored hash, and what is no such token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <muster/plugin.h>
#include <string.h>

#include "auth/token.h"

static void test_round_trip(void **state)
{
    struct token made, again;
    char text[TOKEN_TEXT_SIZE], stored[TOKEN_HASH_SIZE];

    (void)state;
    assert_int_equal(token_generate(&made), 0);
    token_text(&made, text);
    assert_int_equal(strlen(text), TOKEN_TEXT_SIZE - 1);
    assert_true(token_is_ours(text, strlen(text)));
    assert_int_equal(token_read(text, strlen(text), &again), 0);
    assert_string_equal(again.id, made.id);
    assert_string_equal(again.secret, made.secret);
    assert_int_equal(token_hash(&made, stored), 0);
    assert_int_equal(strlen(stored), TOKEN_HASH_SIZE - 1);
    assert_int_equal(token_check(&again, stored), 0);
    assert_null(strstr(stored, made.secret));
    token_wipe(&made);
    assert_int_equal(made.secret[0], 0);
}

/* The hash of a known secret: salt of 32 zeros and the secret as text, by sha256sum. */
static void test_known_hash(void **state)
{
    const char *text = "mst_aaaaaaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    struct token t;

    (void)state;
    assert_int_equal(token_read(text, strlen(text), &t), 0);
    assert_int_equal(token_check(&t, "sha256:00000000000000000000000000000000:"
                                     "7cf8a8f7832ea6e0381b787993d0b62208b94c775505dd72ad14ac9d78dea510"),
                     0);
}

static void test_salts_differ(void **state)
{
    struct token t;
    char one[TOKEN_HASH_SIZE], two[TOKEN_HASH_SIZE];

    (void)state;
    assert_int_equal(token_generate(&t), 0);
    assert_int_equal(token_hash(&t, one), 0);
    assert_int_equal(token_hash(&t, two), 0);
    assert_string_not_equal(one, two);
    assert_int_equal(token_check(&t, one), 0);
    assert_int_equal(token_check(&t, two), 0);
}

static void test_another_secret(void **state)
{
    struct token t, other;
    char stored[TOKEN_HASH_SIZE];

    (void)state;
    assert_int_equal(token_generate(&t), 0);
    assert_int_equal(token_generate(&other), 0);
    assert_string_not_equal(t.id, other.id);
    assert_int_equal(token_hash(&t, stored), 0);
    assert_int_equal(token_check(&other, stored), MUSTER_EINVAL);
    assert_int_equal(token_check(&t, ""), MUSTER_EINVAL);
    stored[0] = 'S';
    assert_int_equal(token_check(&t, stored), MUSTER_EINVAL);
    stored[0] = 's';
    stored[TOKEN_HASH_SIZE - 2] ^= 1;
    assert_int_equal(token_check(&t, stored), MUSTER_EINVAL);
}

static void test_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "mst_",
        "mst",
        "mst_aaaaaaaaaaaaaaaa_",
        "mst_aaaaaaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "mst_aaaaaaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "mst_aaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "mst_aaaaaaaaaaaaaaa1_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "mst_AAAAAAAAAAAAAAAA_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        "mst_aaaaaaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n",
        "MST_aaaaaaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    };
    struct token t;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(token_read(texts[i], strlen(texts[i]), &t), MUSTER_EINVAL);
    assert_int_equal(token_read("mst_aaaaaaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbb\0bbbbbbbbbbbbbbbbbbbbbbbbbb", TOKEN_TEXT_SIZE - 1, &t),
                     MUSTER_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),     cmocka_unit_test(test_known_hash), cmocka_unit_test(test_salts_differ),
        cmocka_unit_test(test_another_secret), cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
