/* An authority for one folder, by OpenSSL; see dev_ca.h. */
#include "cli/dev_ca.h"

#include <errno.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/certificate.h"
#include "base/clock.h"
#include "cli/cli.h"
#include "cli/file.h"

#define COMMAND "dev"
#define CA_CERT "tls/ca.pem"
#define CA_KEY "tls/ca.key"

enum { CA_DAYS = 3650, SERVER_DAYS = 365, SERIAL_BYTES = 16 };
static const int64_t least_ns = INT64_C(30) * 86400 * CLOCK_S;

/* What a certificate is for. */
struct profile {
    const char *name, *constraints, *usage, *purpose, *hosts; /* the last two: NULL for an authority */
    int days;
};
static const struct profile authority = {"muster dev CA", "critical,CA:TRUE,pathlen:0", "critical,keyCertSign,cRLSign", NULL, NULL, CA_DAYS};
static const struct profile server = {"muster dev",
                                      "critical,CA:FALSE",
                                      "critical,digitalSignature",
                                      "serverAuth,clientAuth",
                                      "DNS:localhost,IP:127.0.0.1,IP:::1",
                                      SERVER_DAYS};

struct pair {
    X509 *cert;
    EVP_PKEY *key;
};

static void free_pair(struct pair *p)
{
    X509_free(p->cert);
    EVP_PKEY_free(p->key);
}

/* ---- making ---- */

static bool add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *extension;
    bool done;

    if (!value)
        return true;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    done = extension && X509_add_ext(cert, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return done;
}

static bool set_serial(X509 *cert)
{
    unsigned char bytes[SERIAL_BYTES];
    BIGNUM *number = RAND_bytes(bytes, sizeof bytes) == 1 ? (bytes[0] &= 0x7f, BN_bin2bn(bytes, sizeof bytes, NULL)) : NULL;
    bool done = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert));

    BN_free(number);
    return done;
}

static bool fill(X509 *cert, const struct profile *p, EVP_PKEY *key)
{
    X509_NAME *name = X509_get_subject_name(cert);

    /* A clock that is a little behind must not refuse what was just made. */
    return X509_set_version(cert, 2) == 1 && set_serial(cert) && X509_gmtime_adj(X509_getm_notBefore(cert), -3600) &&
           X509_time_adj_ex(X509_getm_notAfter(cert), p->days, 0, NULL) && X509_set_pubkey(cert, key) == 1 &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)p->name, -1, -1, 0) == 1;
}

/* issuer NULL: it signs itself. */
static bool make(const struct profile *p, const struct pair *issuer, struct pair *out)
{
    struct pair self;

    *out = (struct pair){X509_new(), EVP_EC_gen("P-256")};
    self = *out;
    if (!issuer)
        issuer = &self;
    return out->cert && out->key && fill(out->cert, p, out->key) &&
           X509_set_issuer_name(out->cert, X509_get_subject_name(issuer->cert)) == 1 &&
           add_extension(out->cert, issuer->cert, NID_basic_constraints, p->constraints) &&
           add_extension(out->cert, issuer->cert, NID_key_usage, p->usage) &&
           add_extension(out->cert, issuer->cert, NID_ext_key_usage, p->purpose) &&
           add_extension(out->cert, issuer->cert, NID_subject_alt_name, p->hosts) &&
           add_extension(out->cert, issuer->cert, NID_subject_key_identifier, "hash") &&
           add_extension(out->cert, issuer->cert, NID_authority_key_identifier, issuer == &self ? NULL : "keyid:always") &&
           X509_sign(out->cert, issuer->key, EVP_sha256()) > 0;
}

/* ---- files ---- */

/* Whether there is a certificate with its key, for a while yet. */
static bool is_good(const char *cert, const char *key)
{
    char why[CERTIFICATE_WHY_SIZE];
    int64_t ends_ns;

    return certificate_ends(cert, CERTIFICATE_CHAIN, &ends_ns, why) == 0 && ends_ns - clock_wall_ns() > least_ns && file_exists(key);
}

static int write_pem(BIO *bio, const char *path, mode_t mode)
{
    struct buf text = {0};
    struct file_error err;
    char *data;
    long len = BIO_get_mem_data(bio, &data);
    int code = CLI_DONE;

    buf_put(&text, data, (size_t)len);
    if (file_write(path, mode, &text, &err) != 0)
        code = cli_fail(CLI_FAILED, COMMAND, "%s", err.text);
    if (text.data)
        explicit_bzero(text.data, text.len);
    buf_done(&text);
    return code;
}

static int write_one(const char *path, mode_t mode, const struct pair *p)
{
    BIO *bio = BIO_new(BIO_s_secmem());
    bool done = bio && (mode == FILE_SECRET ? PEM_write_bio_PKCS8PrivateKey(bio, p->key, NULL, NULL, 0, NULL, NULL) : PEM_write_bio_X509(bio, p->cert)) == 1;
    int code = done ? write_pem(bio, path, mode) : cli_fail(CLI_FAILED, COMMAND, "%s: OpenSSL could not write it", path);

    BIO_free(bio);
    return code;
}

/* The key first: a certificate that is there has one. */
static int write_pair(const char *cert, const char *key, const struct pair *p)
{
    int code = write_one(key, FILE_SECRET, p);

    return code == CLI_DONE ? write_one(cert, FILE_PUBLIC, p) : code;
}

static bool read_pair(struct pair *p)
{
    FILE *cert = fopen(CA_CERT, "re"), *key = fopen(CA_KEY, "re");

    *p = (struct pair){cert ? PEM_read_X509(cert, NULL, NULL, NULL) : NULL, key ? PEM_read_PrivateKey(key, NULL, NULL, NULL) : NULL};
    if (cert)
        (void)fclose(cert); /* was only read */
    if (key)
        (void)fclose(key); /* likewise */
    return p->cert && p->key;
}

static int make_authority(struct pair *out)
{
    if (!make(&authority, NULL, out))
        return cli_fail(CLI_FAILED, COMMAND, "OpenSSL could not make a certificate");
    return write_pair(CA_CERT, CA_KEY, out);
}

static int make_server(const struct pair *ca, const char *cert, const char *key)
{
    struct pair p;
    int code = make(&server, ca, &p) ? write_pair(cert, key, &p) : cli_fail(CLI_FAILED, COMMAND, "OpenSSL could not make a certificate");

    free_pair(&p);
    return code;
}

/* PostgreSQL takes no key that others than its user own. */
static int give_to(const struct passwd *user)
{
    if (user && chown("tls/postgres.key", user->pw_uid, user->pw_gid))
        return cli_fail(CLI_FAILED, COMMAND, "tls/postgres.key: chown: %s", strerror(errno));
    return CLI_DONE;
}

/* What another authority has signed is of no use any more. */
static int make_servers(const struct pair *ca, bool anew)
{
    int code = CLI_DONE;

    if (anew || !is_good("tls/server.pem", "tls/server.key"))
        code = make_server(ca, "tls/server.pem", "tls/server.key");
    if (code == CLI_DONE && (anew || !is_good("tls/postgres.pem", "tls/postgres.key")))
        code = make_server(ca, "tls/postgres.pem", "tls/postgres.key");
    return code;
}

int dev_ca_make(const struct passwd *user)
{
    struct pair ca = {0};
    struct file_error err;
    bool anew;
    int code = CLI_DONE;

    if (file_make_folder("tls", 0711, &err) != 0)
        return cli_fail(CLI_FAILED, COMMAND, "%s", err.text);
    anew = !is_good(CA_CERT, CA_KEY) || !read_pair(&ca);
    if (anew) {
        free_pair(&ca);
        code = make_authority(&ca);
    }
    if (code == CLI_DONE)
        code = make_servers(&ca, anew);
    free_pair(&ca);
    return code == CLI_DONE ? give_to(user) : code;
}
