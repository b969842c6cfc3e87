/*
 * The server's certificate; see server_tls.h.
 *
 * nats-server reads the files itself, at its start and on SIGHUP. They are looked at here too, because a server that does not start
 * for a wrong key says so in its own log, and to nobody who is near.
 */
#include "cli/server_tls.h"

#include <limits.h>
#include <muster/plugin.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/certificate.h"
#include "base/clock.h"

/* ---- the files ---- */

static int fail(struct file_error *err, const char *path, const char *what)
{
    (void)snprintf(err->text, sizeof err->text, "%.250s: %.200s", path, what);
    return MUSTER_EINVAL;
}

static int missing(struct file_error *err, const char *option, const char *what)
{
    (void)fail(err, option, what);
    return MUSTER_ENOTFOUND;
}

/* The server's own is the first of a chain. NULL: there is none. */
static X509 *read_certificate(const char *path)
{
    FILE *file = fopen(path, "re");
    X509 *certificate = file ? PEM_read_X509(file, NULL, NULL, NULL) : NULL;

    if (file)
        (void)fclose(file); /* was only read */
    return certificate;
}

/* A key with a passphrase would have to be typed at each start. */
static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static EVP_PKEY *read_key(const char *path)
{
    FILE *file = fopen(path, "re");
    EVP_PKEY *key = file ? PEM_read_PrivateKey(file, NULL, no_passphrase, NULL) : NULL;

    if (file)
        (void)fclose(file); /* was only read */
    return key;
}

static int check_key(const char *cert, const char *key, struct file_error *err)
{
    X509 *certificate = read_certificate(cert);
    EVP_PKEY *pkey = read_key(key);
    int code = 0;

    if (!pkey)
        code = fail(err, key, "no key that can be read, expected one in PEM without a passphrase");
    else if (certificate && X509_check_private_key(certificate, pkey) != 1)
        code = fail(err, key, "is not the key of the certificate");
    X509_free(certificate);
    EVP_PKEY_free(pkey);
    ERR_clear_error(); /* it was said in other words */
    return code;
}

static int check_end(const char *path, int kind, struct file_error *err)
{
    char why[CERTIFICATE_WHY_SIZE];
    int64_t ends_ns;

    if (certificate_ends(path, kind, &ends_ns, why) != 0) {
        (void)snprintf(err->text, sizeof err->text, "%s", why);
        return MUSTER_EINVAL;
    }
    if (ends_ns > clock_wall_ns())
        return 0;
    certificate_say(ends_ns, clock_wall_ns(), why);
    return fail(err, path, why);
}

static int check_files(const struct settings *s, struct file_error *err)
{
    int code = check_end(s->tls_cert, CERTIFICATE_CHAIN, err);

    if (!code && s->tls_ca[0])
        code = check_end(s->tls_ca, CERTIFICATE_TRUST, err);
    return code ? code : check_key(s->tls_cert, s->tls_key, err);
}

/* ---- settings ---- */

/* Absolute, because the server has a working folder of its own. */
static int take_path(const char *given, char out[SETTINGS_VALUE_SIZE], struct file_error *err)
{
    char path[PATH_MAX];

    if (!given)
        return 0;
    if (!realpath(given, path))
        return fail(err, given, "no such file");
    if (strlen(path) >= SETTINGS_VALUE_SIZE)
        return fail(err, given, "its path is too long");
    for (const char *p = path; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            return fail(err, given, "a path without control characters was expected");
    memcpy(out, path, strlen(path) + 1);
    return 0;
}

static void take_away(struct settings *s)
{
    s->tls_cert[0] = s->tls_key[0] = s->tls_ca[0] = '\0';
    s->tls_verify = false;
}

static int take_all(const struct server_tls *given, struct settings *s, struct file_error *err)
{
    bool no_ca = given->ca && !*given->ca;
    int code = take_path(given->cert, s->tls_cert, err);

    if (!code)
        code = take_path(given->key, s->tls_key, err);
    if (!code)
        code = take_path(no_ca ? NULL : given->ca, s->tls_ca, err);
    if (no_ca) {
        s->tls_ca[0] = '\0';
        s->tls_verify = false;
    }
    s->tls_verify |= given->verify;
    return code;
}

int server_tls_take(const struct server_tls *given, struct settings *s, struct file_error *err)
{
    int code;

    if (given->cert && !*given->cert) {
        take_away(s);
        return 0;
    }
    code = take_all(given, s, err);
    if (code)
        return code;
    if (!s->tls_cert[0] && !s->tls_key[0] && !s->tls_ca[0] && !s->tls_verify)
        return 0;
    if (!s->tls_cert[0] || !s->tls_key[0])
        return missing(err, "TLS", "--tls-cert and --tls-key are both needed");
    if (s->tls_verify && !s->tls_ca[0])
        return missing(err, "--tls-verify", "--tls-ca is needed too, whose certificates clients must show");
    return check_files(s, err);
}

/* ---- the configuration ---- */

void server_put_quoted(struct buf *out, const char *s)
{
    buf_putc(out, '"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            buf_putc(out, '\\');
        buf_putc(out, *s);
    }
    buf_putc(out, '"');
}

/* Five seconds: in a burst of logins the handshakes wait for each other. */
void server_tls_put(const struct settings *s, struct buf *out)
{
    if (!s->tls_cert[0])
        return;
    buf_put_lit(out, "tls: {\n  cert_file: ");
    server_put_quoted(out, s->tls_cert);
    buf_put_lit(out, "\n  key_file: ");
    server_put_quoted(out, s->tls_key);
    if (s->tls_ca[0]) {
        buf_put_lit(out, "\n  ca_file: ");
        server_put_quoted(out, s->tls_ca);
    }
    if (s->tls_verify)
        buf_put_lit(out, "\n  verify: true");
    buf_put_lit(out, "\n  timeout: 5\n}\n");
}
