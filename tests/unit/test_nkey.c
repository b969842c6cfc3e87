/*
 * nkeys against vectors of RFC 8032 (test 1's key), whose text forms and signature were made with
 * another implementation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <muster/plugin.h>
#include <stdio.h>
#include <string.h>

#include "auth/nkey.h"

static const struct vector {
    int kind;
    const char *seed, *public_text;
} vectors[] = {
    {NKEY_OPERATOR, "SOAJ2YNRTXX72WTAXKCEV5ES5QWMIRCJYVUXWMTJDFYDXLADDSXH6YFUVY",
     "ODLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRVH7S"},
    {NKEY_ACCOUNT, "SAAJ2YNRTXX72WTAXKCEV5ES5QWMIRCJYVUXWMTJDFYDXLADDSXH6YHY3Q",
     "ADLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRVRTU"},
    {NKEY_USER, "SUAJ2YNRTXX72WTAXKCEV5ES5QWMIRCJYVUXWMTJDFYDXLADDSXH6YALCA",
     "UDLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRUVAL"},
};

static const char signature[] = "72ce952bde3b8adbc3ffd80167e5295a483e1a9535af51e49719dbc8fb4596bd"
                                "ae6f514515f9c1aa7421482767ee6acda1a7c933cc3eb0de229ac1d6158c0609";

static void hex(const uint8_t *bytes, size_t len, char *out)
{
    for (size_t i = 0; i < len; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static void test_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        const struct vector *v = &vectors[i];
        struct nkey key;
        char seed[NKEY_SEED_SIZE];

        assert_int_equal(nkey_from_seed(v->seed, strlen(v->seed), &key), 0);
        assert_int_equal(key.kind, v->kind);
        assert_string_equal(key.text, v->public_text);
        nkey_seed_text(&key, seed);
        assert_string_equal(seed, v->seed);
    }
}

static void test_signature(void **state)
{
    struct nkey key;
    uint8_t sig[NKEY_SIG_LEN];
    char text[2 * NKEY_SIG_LEN + 1];

    (void)state;
    assert_int_equal(nkey_from_seed(vectors[2].seed, strlen(vectors[2].seed), &key), 0);
    assert_int_equal(nkey_sign(&key, "muster", 6, sig), 0);
    hex(sig, sizeof sig, text);
    assert_string_equal(text, signature);
    assert_true(nkey_verify(vectors[2].public_text, "muster", 6, sig));
    assert_false(nkey_verify(vectors[2].public_text, "Muster", 6, sig));
    sig[5] ^= 1;
    assert_false(nkey_verify(vectors[2].public_text, "muster", 6, sig));
}

static void test_public_decode(void **state)
{
    uint8_t raw[NKEY_RAW_LEN];
    char text[2 * NKEY_RAW_LEN + 1];
    int kind;

    (void)state;
    assert_int_equal(nkey_public_decode(vectors[1].public_text, 56, &kind, raw), 0);
    assert_int_equal(kind, NKEY_ACCOUNT);
    hex(raw, sizeof raw, text);
    assert_string_equal(text, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
}

/* One character changed anywhere is found by the CRC, or is no base32, or is another kind of key.
 */
static void test_every_character_counts(void **state)
{
    char text[NKEY_SEED_SIZE];
    struct nkey key;
    uint8_t raw[NKEY_RAW_LEN];
    int kind;

    (void)state;
    for (size_t i = 0; i < 58; i++) {
        memcpy(text, vectors[2].seed, sizeof text);
        text[i] = text[i] == 'A' ? 'B' : 'A';
        assert_int_equal(nkey_from_seed(text, 58, &key), MUSTER_EINVAL);
    }
    for (size_t i = 0; i < 56; i++) {
        memcpy(text, vectors[2].public_text, 57);
        text[i] = text[i] == 'A' ? 'B' : 'A';
        assert_int_equal(nkey_public_decode(text, 56, &kind, raw), MUSTER_EINVAL);
    }
}

static void test_refused_texts(void **state)
{
    static const char *const texts[] = {
        "",
        "S",
        "SUAJ2YNRTXX72WTAXKCEV5ES5QWMIRCJYVUXWMTJDFYDXLADDSXH6YALC",
        "SUAJ2YNRTXX72WTAXKCEV5ES5QWMIRCJYVUXWMTJDFYDXLADDSXH6YALCAA",
        "suaj2ynrtxx72wtaxkcev5es5qwmircjyvuxwmtjdfydxladdsxh6yalca",
        "UDLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRUVAL",
    };
    struct nkey key;

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(nkey_from_seed(texts[i], strlen(texts[i]), &key), MUSTER_EINVAL);
}

static void test_generate(void **state)
{
    static const struct {
        int kind;
        char first;
    } kinds[] = {{NKEY_OPERATOR, 'O'}, {NKEY_ACCOUNT, 'A'}, {NKEY_USER, 'U'}};
    struct nkey key, other, again;
    char seed[NKEY_SEED_SIZE];
    uint8_t sig[NKEY_SIG_LEN];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(nkey_generate(kinds[i].kind, &key), 0);
        assert_int_equal(nkey_generate(kinds[i].kind, &other), 0);
        assert_int_equal(key.text[0], kinds[i].first);
        assert_string_not_equal(key.text, other.text);
        nkey_seed_text(&key, seed);
        assert_int_equal(seed[0], 'S');
        assert_int_equal(seed[1], kinds[i].first);
        assert_int_equal(nkey_from_seed(seed, strlen(seed), &again), 0);
        assert_string_equal(again.text, key.text);
        assert_int_equal(nkey_sign(&again, "x", 1, sig), 0);
        assert_true(nkey_verify(key.text, "x", 1, sig));
        assert_false(nkey_verify(other.text, "x", 1, sig));
    }
}

static void test_wipe(void **state)
{
    static const uint8_t zero[NKEY_RAW_LEN];
    struct nkey key;

    (void)state;
    assert_int_equal(nkey_generate(NKEY_USER, &key), 0);
    assert_memory_not_equal(key.seed, zero, sizeof zero);
    nkey_wipe(&key);
    assert_memory_equal(key.seed, zero, sizeof zero);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),       cmocka_unit_test(test_signature),
        cmocka_unit_test(test_public_decode), cmocka_unit_test(test_every_character_counts),
        cmocka_unit_test(test_refused_texts), cmocka_unit_test(test_generate),
        cmocka_unit_test(test_wipe),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
