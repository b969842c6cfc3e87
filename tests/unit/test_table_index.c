/* plugins/fanout: the index of a table's watches finds what testing each of them finds, and looks at few. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fanout/table_index.h"

static struct filter_column columns[] = {
    {"a", "int4", CLASS_INT, true}, {"b", "text", CLASS_TEXT, true}, {"owner", "text", CLASS_TEXT, true}};

struct watch {
    struct index_entry entry;
    int told, outcome;
};

static uint64_t seed = 77;

static unsigned roll(unsigned n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(seed >> 33) % n;
}

static struct filter *parse(const char *text, const char *owner)
{
    char why[FILTER_WHY_SIZE];
    struct filter *f = filter_new((struct span){text, strlen(text)}, columns, 3, owner ? "owner" : NULL,
                                  owner ? (struct span){owner, strlen(owner)} : (struct span){NULL, 0}, why);

    if (!f)
        fail_msg("%s: %s", text, why);
    return f;
}

static void random_filter(char out[128])
{
    static const char *const forms[] = {"a=eq.%u", "a=gt.%u", "a=lte.%u", "a=in.(%u,7,7)", "a=not.eq.%u", "b=eq.t%u", "b=like.%%%u%%", "a=is.null",
                                        "a=gte.2,a=lt.%u", "b=eq.t1,a=neq.%u", "b=isdistinct.t%u", ""};

    (void)snprintf(out, 128, forms[roll(12)], roll(10));
}

/* A column in a hundred is one that the change does not tell. */
static size_t put_columns(char *out, size_t room)
{
    char a[24] = "", b[24] = "", owner[32] = "";

    (void)snprintf(a, sizeof a, roll(6) ? "\"a\":%u" : "\"a\":null", roll(10));
    if (roll(20))
        (void)snprintf(b, sizeof b, ",\"b\":\"t%u\"", roll(10));
    if (roll(20))
        (void)snprintf(owner, sizeof owner, ",\"owner\":\"o%u\"", roll(3));
    return (size_t)snprintf(out, room, "{%s%s%s}", a, b, owner);
}

static void random_change(char out[400])
{
    char new_row[128] = "null", old_row[128] = "null";
    static const char *const ops[] = {"insert", "update", "delete", "truncate"};
    unsigned op = roll(20) ? roll(3) : 3;

    if (op < 2)
        (void)put_columns(new_row, sizeof new_row);
    if (op == 2 || (op == 1 && roll(2)))
        (void)put_columns(old_row, sizeof old_row);
    (void)snprintf(out, 400, "{\"op\":\"%s\",\"new\":%s,\"old\":%s,\"unchanged\":[],\"omitted\":[]}", ops[op], new_row, old_row);
}

static void on_found(void *arg, struct index_entry *entry, int outcome)
{
    struct watch *w = (struct watch *)(void *)entry;

    (void)arg;
    w->told++;
    w->outcome = outcome;
}

static int expected(const struct watch *w, struct row *row)
{
    int is = FILTER_NO, was = FILTER_NO;

    if (!(w->entry.ops & row->op))
        return -1;
    if (row->op == ROW_TRUNCATE)
        return INDEX_MATCH;
    if (row->op != ROW_DELETE)
        is = filter_test(w->entry.filter, row, ROW_NEW);
    if (row->op != ROW_INSERT)
        was = filter_test(w->entry.filter, row, ROW_OLD);
    if (is != FILTER_NO)
        return is == FILTER_WITHHELD ? INDEX_WITHHELD : INDEX_MATCH;
    if (was != FILTER_NO)
        return was == FILTER_WITHHELD ? INDEX_WITHHELD : row->op == ROW_DELETE ? INDEX_MATCH : INDEX_LEFT;
    return -1;
}

static void check_change(struct table_index *t, struct watch *watches, const bool *in, size_t n)
{
    char body[400];
    struct row row = {0};

    random_change(body);
    assert_true(row_read(&row, (struct span){body, strlen(body)}));
    table_index_match(t, &row, on_found, NULL);
    for (size_t i = 0; i < n; i++) {
        int want = in[i] ? expected(&watches[i], &row) : -1;

        if (watches[i].told != (want >= 0) || (want >= 0 && watches[i].outcome != want))
            fail_msg("%s: watch %zu was told %d times, outcome %d, expected %d", body, i, watches[i].told, watches[i].outcome, want);
        watches[i].told = 0;
    }
    row_done(&row);
}

static void test_against_each(void **state)
{
    enum { N = 60 };
    static struct watch watches[N];
    bool in[N] = {false};
    struct table_index *t = table_index_new();

    (void)state;
    for (size_t i = 0; i < N; i++) {
        char text[128], owner[8];

        random_filter(text);
        (void)snprintf(owner, sizeof owner, "o%u", roll(3));
        watches[i].entry = (struct index_entry){.filter = parse(text, roll(4) ? NULL : owner), .ops = 1 + roll(15)};
    }
    for (int round = 0; round < 20000; round++) {
        size_t i = roll(N);

        if (in[i])
            table_index_remove(t, &watches[i].entry);
        else
            assert_true(table_index_add(t, &watches[i].entry));
        in[i] = !in[i];
        check_change(t, watches, in, N);
    }
    for (size_t i = 0; i < N; i++) {
        if (in[i])
            table_index_remove(t, &watches[i].entry);
        filter_free((struct filter *)(uintptr_t)watches[i].entry.filter);
    }
    assert_int_equal(table_index_n(t), 0);
    table_index_free(t);
}

static void test_cost(void **state)
{
    enum { N = 10000 };
    static struct watch watches[N];
    static const char body[] = "{\"op\":\"update\",\"new\":{\"a\":17,\"b\":\"t\"},\"old\":{\"a\":18,\"b\":\"t\"}}";
    struct table_index *t = table_index_new();
    struct row row = {0};

    (void)state;
    for (unsigned i = 0; i < N; i++) {
        char text[64];

        (void)snprintf(text, sizeof text, i % 2 ? "a=eq.%u" : "a=gt.%u", i % 2 ? i / 2 : i);
        watches[i].entry = (struct index_entry){.filter = parse(text, NULL), .ops = ROW_ANY};
        assert_true(table_index_add(t, &watches[i].entry));
    }
    assert_true(row_read(&row, (struct span){body, sizeof body - 1}));
    table_index_match(t, &row, on_found, NULL);
    assert_int_equal(table_index_looked_at(t), 2 + 10); /* equal to 17 and to 18; above 0, 2 … 16, of which all match, and 18 */
    row_done(&row);
    for (unsigned i = 0; i < N; i++)
        filter_free((struct filter *)(uintptr_t)watches[i].entry.filter);
    table_index_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_each), cmocka_unit_test(test_cost)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
