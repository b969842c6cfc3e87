/*
 * Certificates of a listener; see secure.h.
 *
 * libmicrohttpd takes its certificate once, at the start, and asks a client for one without insisting. So each session is given
 * credentials from here when its connection has been accepted, before a byte of the handshake.
 */
#include "http/secure.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/assert.h"

struct credentials {
    gnutls_certificate_credentials_t certificates;
    unsigned int n_users; /* sessions, and one while they are the newest; guarded by the lock of struct secure */
    bool ask_client;
};

struct secure {
    struct http_files files;
    pthread_mutex_t lock;
    struct credentials *newest;
};

static void free_credentials(struct credentials *c)
{
    if (!c)
        return;
    if (c->certificates)
        gnutls_certificate_free_credentials(c->certificates);
    free(c);
}

/* 0, or GnuTLS's code; *ret_file is the file that it is about. */
static int read_files(const struct http_files *f, struct credentials *c, const char **ret_file)
{
    int code = gnutls_certificate_allocate_credentials(&c->certificates);

    *ret_file = f->cert;
    if (!code)
        code = gnutls_certificate_set_x509_key_file(c->certificates, f->cert, f->key, GNUTLS_X509_FMT_PEM);
    if (code < 0 || !f->client_ca)
        return code < 0 ? code : 0;
    *ret_file = f->client_ca;
    code = gnutls_certificate_set_x509_trust_file(c->certificates, f->client_ca, GNUTLS_X509_FMT_PEM);
    return code > 0 ? 0 : code < 0 ? code : GNUTLS_E_NO_CERTIFICATE_FOUND;
}

static int make_credentials(const struct http_files *files, struct credentials **ret, const char **ret_file, char why[HTTP_WHY_SIZE])
{
    struct credentials *c = calloc(1, sizeof *c);
    int code = c ? read_files(files, c, ret_file) : GNUTLS_E_MEMORY_ERROR;

    if (code) {
        if (*ret_file == files->cert)
            (void)snprintf(why, HTTP_WHY_SIZE, "%.80s and %.80s: %.60s", files->cert, files->key, gnutls_strerror(code));
        else
            (void)snprintf(why, HTTP_WHY_SIZE, "%.160s: %.60s", *ret_file, gnutls_strerror(code));
        free_credentials(c);
        return code == GNUTLS_E_MEMORY_ERROR ? MUSTER_ENOMEM : MUSTER_EINVAL;
    }
    c->n_users = 1;
    c->ask_client = files->client_ca != NULL;
    *ret = c;
    return 0;
}

static void release(struct secure *s, struct credentials *c)
{
    bool last;

    pthread_mutex_lock(&s->lock);
    last = --c->n_users == 0;
    pthread_mutex_unlock(&s->lock);
    if (last)
        free_credentials(c);
}

int secure_new(const struct http_files *files, struct secure **ret_secure, const char **ret_file, char why[HTTP_WHY_SIZE])
{
    struct secure *s = calloc(1, sizeof *s);
    int err;

    *ret_file = files->cert;
    if (!s) {
        (void)snprintf(why, HTTP_WHY_SIZE, "no memory");
        return MUSTER_ENOMEM;
    }
    err = make_credentials(files, &s->newest, ret_file, why);
    if (err) {
        free(s);
        return err;
    }
    s->files = *files;
    ASSERT(pthread_mutex_init(&s->lock, NULL) == 0);
    *ret_secure = s;
    return 0;
}

void secure_free(struct secure *s)
{
    if (!s)
        return;
    free_credentials(s->newest);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

int secure_renew(struct secure *s, const char **ret_file, char why[HTTP_WHY_SIZE])
{
    struct credentials *fresh, *before;
    int err = make_credentials(&s->files, &fresh, ret_file, why);

    if (err)
        return err;
    pthread_mutex_lock(&s->lock);
    before = s->newest;
    s->newest = fresh;
    pthread_mutex_unlock(&s->lock);
    release(s, before);
    return 0;
}

/* What a client's certificate must be for, where it says what it is for. GnuTLS keeps the pointer. */
static gnutls_typed_vdata_st client_purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT};

struct credentials *secure_begin(struct secure *s, gnutls_session_t session)
{
    struct credentials *c;

    pthread_mutex_lock(&s->lock);
    c = s->newest;
    c->n_users++;
    pthread_mutex_unlock(&s->lock);
    if (gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, c->certificates) != 0) {
        release(s, c);
        return NULL;
    }
    gnutls_certificate_server_set_request(session, c->ask_client ? GNUTLS_CERT_REQUIRE : GNUTLS_CERT_IGNORE);
    if (c->ask_client)
        gnutls_session_set_verify_cert2(session, &client_purpose, 1, 0);
    return c;
}

void secure_end(struct secure *s, struct credentials *c)
{
    if (c)
        release(s, c);
}
