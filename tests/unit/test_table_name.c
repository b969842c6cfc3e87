/* [schema.]table is read as PostgreSQL reads it, and what PostgreSQL would read otherwise is
 * refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "cli/table_name.h"

#define LONGEST "a123456789b123456789c123456789d123456789e123456789f123456789abc"

static void reads(const char *text, const char *schema, const char *table)
{
    struct table_name name;

    memset(&name, 'x', sizeof name);
    assert_null(table_name_parse(text, &name));
    assert_string_equal(name.schema, schema);
    assert_string_equal(name.table, table);
}

static void refuses(const char *text, const char *expected)
{
    struct table_name name, before;
    const char *why;

    memset(&name, 'x', sizeof name);
    before = name;
    why = table_name_parse(text, &name);
    assert_non_null(why);
    assert_non_null(strstr(why, expected));
    assert_memory_equal(&name, &before, sizeof name);
}

static void test_plain(void **state)
{
    (void)state;
    reads("orders", "public", "orders");
    reads("app.orders", "app", "orders");
    reads("App.Orders_2$", "app", "orders_2$");
    reads("_x", "public", "_x");
    reads("k\xc3\xa4se", "public", "k\xc3\xa4se");
    reads(LONGEST "." LONGEST, LONGEST, LONGEST);
}

static void test_quoted(void **state)
{
    (void)state;
    reads("\"Orders\"", "public", "Orders");
    reads("\"a.b\".\"c d\"", "a.b", "c d");
    reads("app.\"O\"", "app", "O");
    reads("\"App\".o", "App", "o");
    reads("\"a\"\"b\"", "public", "a\"b");
    reads("\"\"\"\"", "public", "\"");
    reads("\"1\"", "public", "1");
    reads("\"" LONGEST "\"", "public", LONGEST);
}

static void test_refused(void **state)
{
    (void)state;
    refuses("", "letter");
    refuses(".t", "letter");
    refuses("s.", "letter");
    refuses("1t", "letter");
    refuses("$t", "letter");
    refuses(" t", "letter");
    refuses("t ", "[schema.]table");
    refuses("a.b.c", "[schema.]table");
    refuses("t;drop", "[schema.]table");
    refuses("a-b", "[schema.]table");
    refuses("\"a\"b", "[schema.]table");
    refuses("\"a", "closing");
    refuses("\"a\"\"", "closing");
    refuses("\"", "closing");
    refuses("\"\"", "between the quotes");
    refuses(LONGEST "d", "63 bytes");
    refuses("s." LONGEST "d", "63 bytes");
    refuses("\"" LONGEST "d\"", "63 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_quoted),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
