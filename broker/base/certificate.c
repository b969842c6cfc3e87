/* Certificates and their end, by OpenSSL; see certificate.h. */
#include "base/certificate.h"

#include <errno.h>
#include <inttypes.h>
#include <muster/plugin.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

/* False: a time that nobody can read. */
static bool end_of(const X509 *certificate, int64_t *ret_ns)
{
    struct tm tm;

    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm) != 1)
        return false;
    /* The year 9999 means "never", and does not fit into nanoseconds. */
    *ret_ns = tm.tm_year > 300 ? INT64_MAX : (int64_t)timegm(&tm) * CLOCK_S;
    return true;
}

/* How many there are; *ret_ns: the first or the last end. */
static size_t read_all(FILE *file, int kind, int64_t *ret_ns)
{
    X509 *certificate;
    int64_t ns;
    size_t n = 0;

    while ((certificate = PEM_read_X509(file, NULL, NULL, NULL))) {
        if (end_of(certificate, &ns) && (n++ == 0 || (kind == CERTIFICATE_TRUST) == (ns > *ret_ns)))
            *ret_ns = ns;
        X509_free(certificate);
    }
    ERR_clear_error(); /* the end of the file is one to OpenSSL */
    return n;
}

int certificate_ends(const char *path, int kind, int64_t *ret_ends_ns, char why[CERTIFICATE_WHY_SIZE])
{
    FILE *file = fopen(path, "re");
    size_t n;

    if (!file) {
        (void)snprintf(why, CERTIFICATE_WHY_SIZE, "%.160s: %s", path, strerror(errno));
        return MUSTER_EINVAL;
    }
    n = read_all(file, kind, ret_ends_ns);
    (void)fclose(file); /* was only read */
    if (n)
        return 0;
    (void)snprintf(why, CERTIFICATE_WHY_SIZE, "%.160s: no certificate is in it, expected PEM", path);
    return MUSTER_EINVAL;
}

void certificate_say(int64_t ends_ns, int64_t now_ns, char out[CERTIFICATE_WHY_SIZE])
{
    int64_t left_s = (ends_ns - now_ns) / CLOCK_S, days = left_s / 86400;
    char when[CLOCK_RFC3339_SIZE];

    if (ends_ns == INT64_MAX) {
        (void)snprintf(out, CERTIFICATE_WHY_SIZE, "never ends");
        return;
    }
    clock_rfc3339(ends_ns, when);
    if (left_s < 0)
        (void)snprintf(out, CERTIFICATE_WHY_SIZE, "ended on %.10s", when);
    else
        (void)snprintf(out, CERTIFICATE_WHY_SIZE, "ends on %.10s, in %" PRId64 " day%s", when, days, days == 1 ? "" : "s");
}
