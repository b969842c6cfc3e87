/* sql/dsn: what connection strings need of the machine, for the walls of a child that has one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <muster/plugin.h>
#include <string.h>

#include "sql/dsn.h"

static const struct {
    const char *dsn;
    uint32_t port, n_ports;
    bool by_name, local;
} taken[] = {
    {"postgresql://u@127.0.0.1/d", 5432, 1, false, false},
    {"postgresql://u@[::1]:6000/d", 6000, 1, false, false},
    {"postgresql://u@localhost/d", 5432, 1, false, false},
    {"postgresql://u@db.acme.com:6432/d", 6432, 1, true, false},
    {"postgresql://u@10.0.0.1:1,10.0.0.2:2/d", 1, 2, false, false},
    {"host=/run/postgresql dbname=d", 5432, 1, false, true},
    {"dbname=d user=u", 5432, 1, false, true},
    {"host=db.acme.com hostaddr=10.0.0.1 port=7", 7, 1, false, false},
    {"host=10.0.0.1,/run port=1,", 1, 2, false, true},
    {"host=10.0.0.1, port=,9", 5432, 2, false, true},
};

static void test_strings_that_are_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        struct dsn_needs n;

        assert_int_equal(dsn_needs(taken[i].dsn, &n), 0);
        assert_int_equal(n.ports[0], taken[i].port);
        assert_int_equal(n.n_ports, taken[i].n_ports);
        assert_int_equal(n.by_name, taken[i].by_name);
        assert_int_equal(n.local, taken[i].local);
        assert_int_equal(n.n_files, 0);
    }
}

static void test_files_are_read(void **state)
{
    struct dsn_needs n;

    (void)state;
    assert_int_equal(dsn_needs("host=10.0.0.1 sslrootcert=/etc/ca.pem sslkey=/k passfile=/p sslcert=relative", &n), 0);
    assert_int_equal(n.n_files, 3);
}

static void test_what_is_refused(void **state)
{
    struct dsn_needs n;
    char many[512] = "host=10.0.0.1 port=1";

    (void)state;
    for (int i = 0; i < DSN_MAX_PORTS; i++)
        strcat(many, ",1");
    assert_int_equal(dsn_needs(many, &n), MUSTER_EINVAL);
    assert_int_equal(dsn_needs("service=main", &n), MUSTER_EINVAL);
    assert_int_equal(dsn_needs("postgresql://u:p w@h/d=%", &n), MUSTER_EINVAL);
}

static void test_certificates_by_their_names(void **state)
{
    struct dsn_certificates c;

    (void)state;
    dsn_certificates("postgresql://u@h/d?sslrootcert=/etc/ca.pem&sslcert=/c.pem&sslkey=/c.key", &c);
    assert_string_equal(c.ca, "/etc/ca.pem");
    assert_string_equal(c.cert, "/c.pem");
    assert_string_equal(c.key, "/c.key");
    dsn_certificates("host=h sslrootcert=system", &c);
    assert_string_equal(c.ca, "");
    dsn_certificates("postgresql://u:p w@h/d=%", &c);
    assert_string_equal(c.cert, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings_that_are_taken),
        cmocka_unit_test(test_files_are_read),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_certificates_by_their_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
