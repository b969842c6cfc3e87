/* plugins/help/known: who is involved in what is open, compared with a plain table that cannot be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "help/known.h"

static void test_names_come_and_go(void **state)
{
    struct known k = {0};

    (void)state;
    assert_false(known_has(&k, "acme", "ann"));
    known_add(&k, "acme", "h1", (const char *const[]){"ann", "bob"}, 2);
    known_add(&k, "acme", "h2", (const char *const[]){"bob"}, 1);
    assert_true(known_has(&k, "acme", "ann"));
    assert_false(known_has(&k, "zeta", "ann"));
    known_forget(&k, "zeta", "h1");
    known_forget(&k, "acme", "h1");
    assert_false(known_has(&k, "acme", "ann"));
    assert_true(known_has(&k, "acme", "bob"));
    known_forget(&k, "acme", "h2");
    known_forget(&k, "acme", "h2");
    assert_false(known_has(&k, "acme", "bob"));
    known_done(&k);
}

static void test_what_comes_late_takes_nobody_away(void **state)
{
    struct known k = {0};

    (void)state;
    known_add(&k, "acme", "h1", (const char *const[]){"ann", "bob", "bob"}, 3);
    known_add(&k, "acme", "h1", (const char *const[]){"ann"}, 1);
    assert_true(known_has(&k, "acme", "bob"));
    known_done(&k);
}

static void test_what_nobody_tells_of_is_forgotten(void **state)
{
    struct known k = {0};

    (void)state;
    known_add(&k, "acme", "h1", (const char *const[]){"ann"}, 1);
    known_add(&k, "acme", "h2", (const char *const[]){"bob"}, 1);
    known_begin(&k);
    known_add(&k, "acme", "h3", (const char *const[]){"cid"}, 1); /* asked meanwhile */
    known_add(&k, "acme", "h2", (const char *const[]){"bob"}, 1);
    known_end(&k);
    assert_true(known_has(&k, "acme", "ann"));
    known_begin(&k);
    known_add(&k, "acme", "h2", (const char *const[]){"bob"}, 1);
    known_end(&k);
    assert_false(known_has(&k, "acme", "ann"));
    assert_true(known_has(&k, "acme", "bob"));
    assert_true(known_has(&k, "acme", "cid"));
    known_done(&k);
}

static void test_bounds(void **state)
{
    struct known k = {0};
    char long_name[300], id[16];

    (void)state;
    for (int i = 0; i < KNOWN_NAMES_MAX + 10; i++) {
        (void)snprintf(id, sizeof id, "a%d", i);
        known_add(&k, "acme", "h", (const char *const[]){id}, 1);
    }
    assert_true(known_has(&k, "acme", "a255"));
    assert_false(known_has(&k, "acme", "a256"));
    for (int i = 0; i < KNOWN_REQUESTS_MAX + 10; i++) {
        (void)snprintf(id, sizeof id, "h%d", i);
        known_add(&k, "acme", id, (const char *const[]){id}, 1);
    }
    assert_true(known_has(&k, "acme", "h65534"));
    assert_false(known_has(&k, "acme", "h65536"));
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    known_add(&k, "acme", long_name, (const char *const[]){"ann"}, 1);
    known_forget(&k, "acme", long_name);
    assert_false(known_has(&k, "acme", "ann"));
    known_done(&k);
}

enum { REQUESTS = 20, NAMES = 8, STEPS = 20000 };

static void test_as_a_plain_table(void **state)
{
    static bool in[REQUESTS][NAMES];
    static const char *const names[NAMES] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    struct known k = {0};
    uint32_t random = 1;

    (void)state;
    for (int step = 0; step < STEPS; step++) {
        char id[16];
        int request, name;
        bool wanted = false;

        random = random * 1664525u + 1013904223u;
        request = (int)(random >> 16) % REQUESTS;
        name = (int)(random >> 8) % NAMES;
        (void)snprintf(id, sizeof id, "h%d", request);
        if (random % 5 == 0) {
            known_forget(&k, "t", id);
            memset(in[request], 0, sizeof in[request]);
        } else {
            known_add(&k, "t", id, &names[name], 1);
            in[request][name] = true;
        }
        for (int i = 0; i < REQUESTS; i++)
            wanted |= in[i][name];
        assert_int_equal(known_has(&k, "t", names[name]), wanted);
    }
    known_done(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_come_and_go),
        cmocka_unit_test(test_what_comes_late_takes_nobody_away),
        cmocka_unit_test(test_what_nobody_tells_of_is_forgotten),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_as_a_plain_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
