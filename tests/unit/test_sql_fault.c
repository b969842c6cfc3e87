/* sql/fault.c: PostgreSQL's refusals, with and without a SQLSTATE, and in another language than English. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "sql/fault.h"

#define AT "connection to server at \"127.0.0.1\", port 5432 failed: "

static void test_codes(void **state)
{
    static const struct {
        const char *sqlstate, *text, *code, *help;
    } table[] = {
        {"", AT "FATAL:  28P01: password authentication failed for user \"u\"", "authentication", "check postgres.dsn"},
        {"", AT "FATAL:  password authentication failed for user \"u\"", "authentication", "check postgres.dsn"},
        {"", AT "fe_sendauth: no password supplied", "authentication", "put the password into ~/.pgpass or MUSTER_POSTGRES_DSN"},
        {"", AT "FATAL:  28000: no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\"", "authentication",
         "add a line for this role and database to pg_hba.conf"},
        {"", AT "FATAL:  28000: role \"u\" does not exist", "authentication",
         "check the user in postgres.dsn; `muster migrate` makes the role"},
        {"", AT "FATAL:  28P01: Passwort-Authentifizierung fehlgeschlagen", "authentication", "check postgres.dsn and pg_hba.conf"},
        {"", AT "FATAL:  3D000: database \"d\" does not exist", "database_missing", "check postgres.dsn"},
        {"", AT "FATAL:  database \"d\" does not exist", "database_missing", "check postgres.dsn"},
        {"", AT "FATAL:  3D000: Datenbank »d« existiert nicht", "database_missing", "check postgres.dsn"},
        {"", AT "FATAL:  53300: sorry, too many clients already", "connections_exhausted", "raise max_connections"},
        {"", AT "FATAL:  57P03: the database system is starting up", "postgres_away", "wait for PostgreSQL, or start it"},
        {"", AT "Connection refused", "postgres_away", "start PostgreSQL, or correct postgres.dsn"},
        {"", AT "FATAL:  55000: database \"d\" is not currently accepting connections", "postgres_away",
         "ALTER DATABASE … ALLOW_CONNECTIONS true"},
        {"42P01", "relation \"muster.tenants\" does not exist", "migrations_pending", "run `muster migrate`"},
        {"42501", "permission denied for table tenants", "migrations_pending", "run `muster migrate`, which makes the grants"},
        {"57014", "canceling statement due to statement timeout", "postgres_error", "PostgreSQL's log may say more"},
        {"", "no answer within 4.5 s", "postgres_away", "start PostgreSQL, or correct postgres.dsn"},
        {"", "", "postgres_away", "start PostgreSQL, or correct postgres.dsn"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct sql_fault fault = sql_fault_of(table[i].sqlstate, table[i].text);

        assert_string_equal(fault.code, table[i].code);
        assert_string_equal(fault.help, table[i].help);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_codes)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
