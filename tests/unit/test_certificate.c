/* base/certificate: which end counts, and what is said of it. The certificates are made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <muster/plugin.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/certificate.h"

#define DAY_NS (INT64_C(86400) * 1000000000)

static char path[] = "/tmp/test_certificate.XXXXXX";

static int make_file(void **state)
{
    int fd = mkstemp(path);

    (void)state;
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void write_text(const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* Certificates that end at these times, as ASN.1 writes them. */
static void write_certificates(const char *const *ends, size_t n)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    for (size_t i = 0; i < n; i++) {
        X509 *x = X509_new();

        assert_int_equal(ASN1_TIME_set_string(X509_getm_notBefore(x), "20200101000000Z"), 1);
        assert_int_equal(ASN1_TIME_set_string(X509_getm_notAfter(x), ends[i]), 1);
        assert_int_equal(X509_set_pubkey(x, key), 1);
        assert_true(X509_sign(x, key, EVP_sha256()) > 0);
        assert_int_equal(PEM_write_X509(f, x), 1);
        X509_free(x);
    }
    EVP_PKEY_free(key);
    assert_int_equal(fclose(f), 0);
}

static void test_a_chain_ends_with_its_first(void **state)
{
    static const char *const ends[] = {"19700103000000Z", "19700102000000Z", "19700105000000Z"};
    char why[CERTIFICATE_WHY_SIZE];
    int64_t ns = 0;

    (void)state;
    write_certificates(ends, 3);
    assert_int_equal(certificate_ends(path, CERTIFICATE_CHAIN, &ns, why), 0);
    assert_int_equal(ns, DAY_NS);
    assert_int_equal(certificate_ends(path, CERTIFICATE_TRUST, &ns, why), 0);
    assert_int_equal(ns, 4 * DAY_NS);
}

static void test_never(void **state)
{
    static const char *const ends[] = {"99991231235959Z"};
    char why[CERTIFICATE_WHY_SIZE];
    int64_t ns = 0;

    (void)state;
    write_certificates(ends, 1);
    assert_int_equal(certificate_ends(path, CERTIFICATE_CHAIN, &ns, why), 0);
    assert_int_equal(ns, INT64_MAX);
    certificate_say(ns, 0, why);
    assert_string_equal(why, "never ends");
}

static void test_what_is_none(void **state)
{
    char why[CERTIFICATE_WHY_SIZE];
    int64_t ns = 7;

    (void)state;
    write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_int_equal(certificate_ends(path, CERTIFICATE_CHAIN, &ns, why), MUSTER_EINVAL);
    assert_non_null(strstr(why, "no certificate is in it"));
    assert_int_equal(certificate_ends("/none", CERTIFICATE_CHAIN, &ns, why), MUSTER_EINVAL);
    assert_string_equal(why, "/none: No such file or directory");
    assert_int_equal(certificate_ends("/tmp", CERTIFICATE_CHAIN, &ns, why), MUSTER_EINVAL);
    assert_int_equal(ns, 7);
}

static void test_what_is_said(void **state)
{
    char out[CERTIFICATE_WHY_SIZE];

    (void)state;
    certificate_say(3 * DAY_NS, DAY_NS, out);
    assert_string_equal(out, "ends on 1970-01-04, in 2 days");
    certificate_say(3 * DAY_NS, 2 * DAY_NS, out);
    assert_string_equal(out, "ends on 1970-01-04, in 1 day");
    certificate_say(DAY_NS, 3 * DAY_NS, out);
    assert_string_equal(out, "ended on 1970-01-02");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_chain_ends_with_its_first),
        cmocka_unit_test(test_never),
        cmocka_unit_test(test_what_is_none),
        cmocka_unit_test(test_what_is_said),
    };

    return cmocka_run_group_tests(tests, make_file, remove_file);
}
