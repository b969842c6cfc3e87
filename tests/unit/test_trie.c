/* core/trie.h: what matches, in which order, and that removing leaves nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <muster/plugin.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/trie.h"

enum { MAX = 8 };

/* Values are their own pattern's text. */
static void add(struct trie *t, const char *pattern)
{
    assert_int_equal(trie_add(t, pattern, (void *)(uintptr_t)pattern), 0);
}

static void assert_matches(const struct trie *t, const char *subject, const char *const *expected,
                           size_t n)
{
    void *out[MAX];

    assert_int_equal(trie_match(t, subject, out, MAX), n);
    for (size_t i = 0; i < n; i++)
        assert_string_equal(out[i], expected[i]);
}

static void test_exact_before_star_before_rest(void **state)
{
    const char *const all[] = {"rpc.a.b", "rpc.a.*", "rpc.a.>", "rpc.*.b", "rpc.*.*", "rpc.>", ">"};
    struct trie *t = trie_new();

    (void)state;
    for (size_t i = sizeof all / sizeof *all; i > 0; i--)
        add(t, all[i - 1]);
    assert_matches(t, "rpc.a.b", all, sizeof all / sizeof *all);
    trie_free(t);
}

static void test_star_is_one_token_and_rest_at_least_one(void **state)
{
    struct trie *t = trie_new();

    (void)state;
    add(t, "a.*.c");
    add(t, "x.>");
    assert_matches(t, "a.b.c", (const char *[]){"a.*.c"}, 1);
    assert_matches(t, "a.c", NULL, 0);
    assert_matches(t, "a.b.b.c", NULL, 0);
    assert_matches(t, "a.b", NULL, 0);
    assert_matches(t, "x", NULL, 0);
    assert_matches(t, "x.y", (const char *[]){"x.>"}, 1);
    assert_matches(t, "x.y.z", (const char *[]){"x.>"}, 1);
    assert_matches(t, "", NULL, 0);
    trie_free(t);
}

static void test_a_token_that_begins_like_another_is_another(void **state)
{
    struct trie *t = trie_new();

    (void)state;
    add(t, "ab.c");
    assert_matches(t, "a.c", NULL, 0);
    assert_matches(t, "abc.c", NULL, 0);
    assert_matches(t, "ab.c.d", NULL, 0);
    trie_free(t);
}

static void test_a_pattern_has_several_values(void **state)
{
    struct trie *t = trie_new();
    int one, two;
    void *out[MAX];

    (void)state;
    assert_int_equal(trie_add(t, "a.b", &one), 0);
    assert_int_equal(trie_add(t, "a.b", &two), 0);
    assert_int_equal(trie_match(t, "a.b", out, MAX), 2);
    assert_int_equal(trie_match(t, "a.b", out, 1), 1);
    trie_remove(t, "a.b", &one);
    assert_int_equal(trie_match(t, "a.b", out, MAX), 1);
    assert_ptr_equal(out[0], &two);
    trie_free(t);
}

static void test_removing_leaves_the_others(void **state)
{
    static const char *const kept[] = {"a.b", "a.*", "a.>"};
    struct trie *t = trie_new();

    (void)state;
    for (size_t i = 0; i < 3; i++)
        add(t, kept[i]);
    for (int round = 0; round < 3; round++) {
        add(t, "a.b.c");
        add(t, "*.b");
        add(t, "a.*.>");
        trie_remove(t, "a.b.c", (void *)(uintptr_t) "a.b.c");
        trie_remove(t, "*.b", (void *)(uintptr_t) "*.b");
        trie_remove(t, "a.*.>", (void *)(uintptr_t) "a.*.>");
        trie_remove(t, "never.was", t);
        trie_remove(t, "a.b", t); /* the pattern is there, with another value */
        assert_matches(t, "a.b", kept, 3);
    }
    trie_free(t);
}

static void test_bad_patterns_are_refused(void **state)
{
    static const char *const bad[] = {"", ".", "a.", ".a", "a..b", "a.>.b", ">.a"};
    struct trie *t = trie_new();
    void *out[MAX];

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(trie_add(t, bad[i], t), MUSTER_EINVAL);
        trie_remove(t, bad[i], t);
    }
    assert_int_equal(trie_match(t, "a.b", out, MAX), 0);
    trie_free(t);
    trie_free(NULL);
}

/* Many subscriptions that come and go: what is left must be what a list would say. */
static void test_against_a_list(void **state)
{
    enum { N = 64, ROUNDS = 4000 };
    static char patterns[N][16];
    bool there[N] = {0};
    static const char *const tokens[] = {"a", "b", "*", ">"};
    struct trie *t = trie_new();
    unsigned int seed = 7;
    void *out[N];

    (void)state;
    for (int i = 0; i < N; i++) { /* three tokens of four kinds; '>' ends a pattern */
        for (int k = 0, n = i; k < 3; k++, n /= 4) {
            (void)strcat(strcat(patterns[i], k ? "." : ""), tokens[n % 4]);
            if (n % 4 == 3)
                break;
        }
    }
    for (int round = 0; round < ROUNDS; round++) {
        int i = rand_r(&seed) % N;
        size_t expected = 0;

        if (there[i])
            trie_remove(t, patterns[i], patterns[i]);
        else
            assert_int_equal(trie_add(t, patterns[i], patterns[i]), 0);
        there[i] = !there[i];
        for (int k = 0; k < N; k++) { /* "a.b.a" by hand */
            const char *p = patterns[k];

            expected += there[k] &&
                        (!strcmp(p, ">") ||
                         ((p[0] == 'a' || p[0] == '*') &&
                          (!strcmp(p + 1, ".>") || ((p[2] == 'b' || p[2] == '*') &&
                                                    (p[4] == 'a' || p[4] == '*' || p[4] == '>')))));
        }
        assert_int_equal(trie_match(t, "a.b.a", out, N), expected);
    }
    trie_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_before_star_before_rest),
        cmocka_unit_test(test_star_is_one_token_and_rest_at_least_one),
        cmocka_unit_test(test_a_token_that_begins_like_another_is_another),
        cmocka_unit_test(test_a_pattern_has_several_values),
        cmocka_unit_test(test_removing_leaves_the_others),
        cmocka_unit_test(test_bad_patterns_are_refused),
        cmocka_unit_test(test_against_a_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
