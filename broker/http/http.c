/*
 * The server of http.h: one libmicrohttpd daemon with one polling thread.
 *
 * Owns the daemon, a copy of the routes, and for each connection a struct pending while a request
 * arrives. Everything but http_open() and http_close() runs on the daemon's thread. libmicrohttpd
 * calls on_request() once with the head, then for each piece of the body, then once more without:
 * only the first and the last call may answer.
 */
#include "http/http.h"

#include <gnutls/abstract.h>
#include <microhttpd.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "http/listen.h"
#include "http/secure.h"

struct http {
    struct MHD_Daemon *daemon;
    struct http_route *routes; /* read-only while the daemon runs */
    size_t n_routes;
    struct secure *secure; /* NULL: in the clear */
    uint16_t port;
};

/* A request whose body is still arriving; belongs to its connection, freed by on_completed(). */
struct pending {
    struct buf body;
};

/* Hand the response over; its body becomes libmicrohttpd's. allow may be NULL. */
static enum MHD_Result send_response(struct MHD_Connection *c, struct http_response *r,
                                     const char *allow)
{
    size_t len = r->body.len;
    char *data = buf_take(&r->body);
    struct MHD_Response *response;
    enum MHD_Result done;

    response = data ? MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE)
                    : MHD_create_response_from_buffer(0, (char[]){""}, MHD_RESPMEM_MUST_COPY);
    if (!response) {
        free(data);
        return MHD_NO; /* closes the connection: there is no memory to say more */
    }
    done = MHD_add_response_header(response, "Content-Type", r->content_type);
    if (done == MHD_YES)
        done = MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (done == MHD_YES && allow)
        done = MHD_add_response_header(response, "Allow", allow);
    if (done == MHD_YES)
        done = MHD_queue_response(c, r->status, response);
    MHD_destroy_response(response); /* our reference only */
    return done;
}

/* What a handler finds: most pages are short texts. */
static struct http_response new_response(void)
{
    return (struct http_response){.status = MHD_HTTP_OK,
                                  .content_type = "text/plain; charset=utf-8"};
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned int status, const char *text,
                              const char *allow)
{
    struct http_response r = new_response();

    r.status = status;
    buf_puts(&r.body, text);
    return send_response(c, &r, allow);
}

/* Allow lists what the path takes; a GET route takes HEAD as well. */
static enum MHD_Result refuse_method(const struct http *h, struct MHD_Connection *c,
                                     const char *path)
{
    struct buf allow = {0};
    enum MHD_Result done = MHD_NO;

    for (size_t i = 0; i < h->n_routes; i++) {
        if (strcmp(h->routes[i].path, path) != 0)
            continue;
        buf_puts(&allow, allow.len ? ", " : "");
        buf_puts(&allow, h->routes[i].method);
        if (strcmp(h->routes[i].method, "GET") == 0)
            buf_put_lit(&allow, ", HEAD");
    }
    if (!buf_failed(&allow))
        done = refuse(c, MHD_HTTP_METHOD_NOT_ALLOWED, "method not allowed\n", allow.data);
    buf_done(&allow);
    return done;
}

/* The route of the request; *ret_path_known tells an unknown path from a method that it does not
 * take. */
static const struct http_route *find_route(const struct http *h, const struct http_request *q,
                                           bool *ret_path_known)
{
    const char *method = strcmp(q->method, "HEAD") == 0 ? "GET" : q->method;

    *ret_path_known = false;
    for (size_t i = 0; i < h->n_routes; i++) {
        if (strcmp(h->routes[i].path, q->path) != 0)
            continue;
        *ret_path_known = true;
        if (strcmp(h->routes[i].method, method) == 0)
            return &h->routes[i];
    }
    return NULL;
}

static enum MHD_Result answer(const struct http *h, struct MHD_Connection *c,
                              const struct http_request *q)
{
    struct http_response r = new_response();
    const struct http_route *route;
    bool path_known;

    route = find_route(h, q, &path_known);
    if (!path_known)
        return refuse(c, MHD_HTTP_NOT_FOUND, "not found\n", NULL);
    if (!route)
        return refuse_method(h, c, q->path);
    route->fn(route->arg, q, &r);
    if (!buf_failed(&r.body))
        return send_response(c, &r, NULL);
    buf_done(&r.body);
    return refuse(c, MHD_HTTP_INTERNAL_SERVER_ERROR, "no memory\n", NULL);
}

/* True when the request says in advance that its body is over the bound. */
static bool announces_too_much(struct MHD_Connection *c)
{
    const char *text = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");

    /* libmicrohttpd has refused what is no number; one that overflows reads as the greatest. */
    return text && strtoull(text, NULL, 10) > HTTP_MAX_BODY;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_len, void **state)
{
    struct pending *p = *state;

    (void)version;
    if (!p) {
        *state = p = calloc(1, sizeof *p);
        if (!p)
            return MHD_NO;
        return announces_too_much(c)
                   ? refuse(c, MHD_HTTP_CONTENT_TOO_LARGE, "body too large\n", NULL)
                   : MHD_YES;
    }
    if (*upload_len) {
        if (*upload_len > HTTP_MAX_BODY - p->body.len)
            return MHD_NO; /* a chunked body without end: no answer fits in here, so it is cut */
        buf_put(&p->body, upload, *upload_len);
        *upload_len = 0;
        return buf_failed(&p->body) ? MHD_NO : MHD_YES;
    }
    return answer(cls, c,
                  &(struct http_request){
                      .method = method, .path = path, .body = {p->body.data, p->body.len}});
}

static void on_completed(void *cls, struct MHD_Connection *c, void **state,
                         enum MHD_RequestTerminationCode how)
{
    struct pending *p = *state;

    (void)cls;
    (void)c;
    (void)how;
    if (!p)
        return;
    buf_done(&p->body);
    free(p);
    *state = NULL;
}

/* The session is there and the handshake is not begun. */
static void on_connection(void *cls, struct MHD_Connection *c, void **state,
                          enum MHD_ConnectionNotificationCode what)
{
    const struct http *h = cls;
    const union MHD_ConnectionInfo *info;

    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
        secure_end(h->secure, *state);
        return;
    }
    info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    if (info)
        *state = secure_begin(h->secure, info->tls_session);
}

/* Never asked: each session has credentials of its own. Without it libmicrohttpd wants the text of
 * a certificate. A session that was given none fails here. */
static int refuse_session(gnutls_session_t session, const gnutls_datum_t *cas, int n_cas,
                          const gnutls_pk_algorithm_t *algorithms, int n_algorithms,
                          gnutls_pcert_st **certificates, unsigned int *n_certificates,
                          gnutls_privkey_t *key)
{
    (void)session;
    (void)cas;
    (void)n_cas;
    (void)algorithms;
    (void)n_algorithms;
    (void)certificates;
    (void)n_certificates;
    (void)key;
    return -1;
}

/* What libmicrohttpd has to say is mostly of clients that went away. */
static void on_log(void *arg, const char *fmt, va_list ap)
{
    (void)arg;
    log_vline(LOG_DEBUG, "http", fmt, ap);
}

/* The process's signals are main's; what this thread does wrong itself must still reach the handler
 * of crashes. */
static void block_signals(sigset_t *ret_before)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    sigset_t others;

    (void)sigfillset(&others); /* none of these fails with a valid set and valid signals */
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        (void)sigdelset(&others, own[i]);
    (void)pthread_sigmask(SIG_SETMASK, &others, ret_before);
}

/* Start the thread. fd is libmicrohttpd's from here, also when it fails. */
static bool start(struct http *h, int fd)
{
    const struct MHD_OptionItem secure[] = {
        {MHD_OPTION_HTTPS_PRIORITIES, 0, SECURE_PRIORITIES},
        {MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)(intptr_t)refuse_session},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, h},
        {MHD_OPTION_END, 0, NULL},
    };
    const struct MHD_OptionItem options[] = {
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)on_log, NULL}, /* first, to hear of the others */
        {MHD_OPTION_LISTEN_SOCKET, fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, HTTP_MAX_CONNECTIONS, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, HTTP_TIMEOUT_S, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, NULL},
        {h->secure ? MHD_OPTION_ARRAY : MHD_OPTION_END, 0, (void *)secure},
        {MHD_OPTION_END, 0, NULL},
    };
    const unsigned int flags = MHD_USE_AUTO_INTERNAL_THREAD | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    sigset_t before;

    block_signals(&before); /* a thread starts with the mask of who starts it */
    h->daemon =
        MHD_start_daemon(h->secure ? flags | MHD_USE_TLS : flags, 0, NULL, NULL, on_request, h,
                         MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return h->daemon != NULL;
}

/* Also undoes a half-built one. */
void http_close(struct http *http)
{
    if (!http)
        return;
    if (http->daemon)
        MHD_stop_daemon(http->daemon);
    secure_free(http->secure);
    free(http->routes);
    free(http);
}

static struct http *new_http(const struct http_options *o)
{
    struct http *h = calloc(1, sizeof *h);

    if (!h)
        return NULL;
    h->routes = calloc(o->n_routes, sizeof *h->routes);
    if (!h->routes) {
        http_close(h);
        return NULL;
    }
    memcpy(h->routes, o->routes, o->n_routes * sizeof *h->routes);
    h->n_routes = o->n_routes;
    return h;
}

/* Before anything listens: the word to say is of a file, not of the address. */
static int open_secure(struct http *h, const struct http_options *o, char why[HTTP_WHY_SIZE])
{
    const char *file;
    char text[HTTP_WHY_SIZE];
    int err = o->files ? secure_new(o->files, &h->secure, &file, text) : 0;

    if (err)
        (void)snprintf(why, HTTP_WHY_SIZE, "%s: %.200s", o->key, text);
    return err;
}

int http_open(const struct http_options *options, struct http **ret_http, char why[HTTP_WHY_SIZE])
{
    struct listener at;
    struct http *h = new_http(options);
    int err = h ? 0 : MUSTER_ENOMEM;

    if (err)
        (void)snprintf(why, HTTP_WHY_SIZE, "%s: no memory", options->key);
    else
        err = open_secure(h, options, why);
    if (!err)
        err = listen_open(options, &at, why);
    if (!err && !start(h, at.fd)) {
        (void)snprintf(
            why, HTTP_WHY_SIZE,
            "%s: the HTTP server did not start on %.96s: no memory, thread or descriptor",
            options->key, options->listen);
        err = MUSTER_ENOMEM;
    }
    if (err) {
        http_close(h);
        return err;
    }
    h->port = at.port;
    *ret_http = h;
    return 0;
}

int http_renew(struct http *http, char why[HTTP_WHY_SIZE])
{
    const char *file;

    return http->secure ? secure_renew(http->secure, &file, why) : 0;
}

int http_check_files(const struct http_files *files, const char **ret_file, char why[HTTP_WHY_SIZE])
{
    struct secure *secure = NULL;
    int err = secure_new(files, &secure, ret_file, why);

    secure_free(secure);
    return err;
}

uint16_t http_port(const struct http *http)
{
    return http->port;
}
