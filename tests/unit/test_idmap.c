/* idmap: against a plain list, with ids that crowd, in every order of putting and taking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "child/idmap.h"

enum { N_IDS = 300, N_STEPS = 200000 };

static void empty_maps(void **state)
{
    struct idmap m = {0};
    size_t at = 0;

    (void)state;
    assert_null(idmap_get(&m, 1));
    assert_null(idmap_take(&m, 1));
    assert_null(idmap_first(&m));
    assert_null(idmap_next(&m, &at));
    idmap_done(&m);
}

static void id_0_is_none(void **state)
{
    struct idmap m = {0};
    int thing;

    (void)state;
    assert_true(idmap_put(&m, 5, &thing));
    assert_null(idmap_get(&m, 0));
    assert_null(idmap_take(&m, 0));
    assert_int_equal(m.n, 1);
    idmap_done(&m);
}

/* Multiples of a large number, so that homes meet and gaps must be closed. */
static uint64_t id_of(size_t i)
{
    return i % 3 ? i + 1 : (i + 1) << 32;
}

static size_t walk(const struct idmap *m)
{
    size_t n = 0;

    for (size_t at = 0; idmap_next(m, &at);)
        n++;
    return n;
}

static void as_a_list(void **state)
{
    static int things[N_IDS];
    void *list[N_IDS] = {0};
    struct idmap m = {0};
    size_t n = 0;

    (void)state;
    srand(7);
    for (int step = 0; step < N_STEPS; step++) {
        size_t i = (size_t)rand() % N_IDS;

        if (rand() % 2) {
            n += !list[i];
            list[i] = &things[rand() % N_IDS];
            assert_true(idmap_put(&m, id_of(i), list[i]));
        } else {
            assert_ptr_equal(idmap_take(&m, id_of(i)), list[i]);
            n -= list[i] != NULL;
            list[i] = NULL;
        }
        assert_int_equal(m.n, n);
        i = (size_t)rand() % N_IDS;
        assert_ptr_equal(idmap_get(&m, id_of(i)), list[i]);
    }
    for (size_t i = 0; i < N_IDS; i++)
        assert_ptr_equal(idmap_get(&m, id_of(i)), list[i]);
    assert_int_equal(walk(&m), n);
    idmap_done(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(empty_maps), cmocka_unit_test(id_0_is_none), cmocka_unit_test(as_a_list)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
