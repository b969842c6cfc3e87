/*
 * A question over TLS; see probe_tls.h.
 *
 * Blocking with timeouts of the socket's own: OpenSSL then needs no loop around each step.
 */
#include "base/probe_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

static bool is_set_up(int fd, int timeout_ms)
{
    const struct timeval patience = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000};
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0 &&
           setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) == 0;
}

/* NULL: why says what is wrong with the files. */
static SSL_CTX *make_context(const struct probe_tls *tls, char why[PROBE_WHY_SIZE])
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    const char *file = "TLS";
    bool good = ctx && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);

    if (good && tls->ca) {
        file = tls->ca;
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        good = SSL_CTX_load_verify_locations(ctx, tls->ca, NULL) == 1;
    }
    if (good && tls->cert) {
        file = tls->cert;
        good = SSL_CTX_use_certificate_chain_file(ctx, tls->cert) == 1 &&
               SSL_CTX_use_PrivateKey_file(ctx, tls->key, SSL_FILETYPE_PEM) == 1;
    }
    if (good)
        return ctx;
    (void)snprintf(why, PROBE_WHY_SIZE, "%.160s cannot be used", file);
    SSL_CTX_free(ctx);
    return NULL;
}

static bool shows(const SSL *ssl, const char *path)
{
    FILE *file = fopen(path, "re");
    X509 *expected = file ? PEM_read_X509(file, NULL, NULL, NULL) : NULL;
    X509 *shown = SSL_get1_peer_certificate(ssl);
    bool same = expected && shown && X509_cmp(expected, shown) == 0;

    if (file)
        (void)fclose(file); /* was only read */
    X509_free(expected);
    X509_free(shown);
    return same;
}

/* What OpenSSL, the certificate or the system said, in this order. */
static void say_fault(const SSL *ssl, char why[PROBE_WHY_SIZE])
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    long verdict = SSL_get_verify_result(ssl);

    if (SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE && verdict != X509_V_OK)
        reason = X509_verify_cert_error_string(verdict);
    if (!reason)
        reason = errno == EAGAIN ? strerror(ETIMEDOUT) : errno ? strerror(errno) : "the connection was closed";
    (void)snprintf(why, PROBE_WHY_SIZE, "TLS: %.200s", reason);
}

static bool greet(SSL *ssl, int fd, const struct probe *p, char why[PROBE_WHY_SIZE])
{
    bool done = SSL_set_fd(ssl, fd) == 1 && (!p->tls->ca || SSL_set1_host(ssl, p->host) == 1) && SSL_connect(ssl) == 1;

    if (!done) {
        say_fault(ssl, why);
        return false;
    }
    if (!p->tls->shown || shows(ssl, p->tls->shown))
        return true;
    (void)snprintf(why, PROBE_WHY_SIZE, "TLS: its certificate is not that of %.160s", p->tls->shown);
    return false;
}

static bool converse(SSL *ssl, const struct probe *p, struct buf *answer, char why[PROBE_WHY_SIZE])
{
    size_t len = p->request ? strlen(p->request) : 0;
    char part[4096];
    int n = 1;

    if (len && SSL_write(ssl, p->request, (int)len) != (int)len) {
        say_fault(ssl, why);
        return false;
    }
    while (answer->len < p->max && !(p->one_line && answer->len && memchr(answer->data, '\n', answer->len)) &&
           (n = SSL_read(ssl, part, sizeof part)) > 0)
        buf_put(answer, part, (size_t)n);
    if (n > 0 || answer->len) /* a page that has begun ends with the connection, however that ends */
        return !buf_failed(answer);
    say_fault(ssl, why);
    return false;
}

bool probe_tls_ask(int fd, const struct probe *p, struct buf *answer, char why[PROBE_WHY_SIZE])
{
    SSL_CTX *ctx = is_set_up(fd, p->timeout_ms) ? make_context(p->tls, why) : NULL;
    SSL *ssl = ctx ? SSL_new(ctx) : NULL;
    void (*before)(int) = signal(SIGPIPE, SIG_IGN); /* who refuses our certificate closes while we write */
    bool done;

    ERR_clear_error();
    errno = 0;
    done = ssl && greet(ssl, fd, p, why) && converse(ssl, p, answer, why);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    ERR_clear_error();
    (void)signal(SIGPIPE, before);
    return done;
}
