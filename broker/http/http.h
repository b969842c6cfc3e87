/*
 * http/http.h - a small HTTP/1.1 server for the broker's own pages; on libmicrohttpd, the only
 * folder that includes it.
 *
 * Shape    A table of routes, exact method and path; GET also answers HEAD. A handler gets the
 *          whole request and fills a response. Unknown path: 404; known path, other method: 405
 *          with Allow; body over HTTP_MAX_BODY: 413.
 * TLS      With files it speaks TLS alone; with client_ca among them to such clients alone.
 * Threads  One thread of the server's own runs every handler, one at a time: a handler may lock,
 *          and may not wait for long.
 * Bounds   HTTP_MAX_CONNECTIONS; a connection on which nothing moves for ten seconds is closed.
 */
#ifndef MUSTER_HTTP_HTTP_H
#define MUSTER_HTTP_HTTP_H

#include <muster/plugin.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum { HTTP_MAX_CONNECTIONS = 64, HTTP_MAX_BODY = 1 << 20, HTTP_TIMEOUT_S = 10 };

struct http;

/* Borrowed by the handler. */
struct http_request {
    const char *method, *path; /* path without the query, percent-decoded */
    struct muster_bytes body;
};

/* Comes as 200, text/plain and an empty body. A body that failed for want of memory is answered
 * 500. */
struct http_response {
    unsigned int status;
    const char *content_type; /* must live until the handler has returned */
    struct buf body;
};

typedef void (*http_handler_fn)(void *arg, const struct http_request *request,
                                struct http_response *response);

struct http_route {
    const char *method, *path; /* string literals: kept by pointer */
    http_handler_fn fn;
    void *arg;
};

/* PEM, by their paths, which are borrowed until http_close(). */
struct http_files {
    const char *cert, *key; /* the chain, the server's own first */
    const char *client_ca;  /* clients must show a certificate of one of these; NULL: none is asked for */
};

struct http_options {
    const char *key;    /* the setting that listen came from, for messages: "broker.admin" */
    const char *listen; /* "127.0.0.1:7423", "[::1]:7423"; port 0 takes a free one */
    const struct http_files *files; /* NULL: in the clear */
    const struct http_route *routes;
    size_t n_routes;
};

#define HTTP_WHY_SIZE 256

/* Listen and serve. On failure why is one sentence that begins with the key: MUSTER_EINVAL: listen
 * is not host:port, or no such host. MUSTER_EEXIST: the port is taken. MUSTER_EACCES: not
 * permitted. MUSTER_ENOMEM: no memory, thread or descriptor. */
int http_open(const struct http_options *options, struct http **ret_http, char why[HTTP_WHY_SIZE]);
/* Stop serving; returns when no handler runs any more. Accepts NULL. */
void http_close(struct http *http);
/* Read the files again, for connections from now on; any thread. On failure why says what is wrong, and what was there before
 * stays. */
int http_renew(struct http *http, char why[HTTP_WHY_SIZE]);
/* Whether the files can be used. MUSTER_EINVAL: *ret_file is the path of the one that cannot. */
int http_check_files(const struct http_files *files, const char **ret_file, char why[HTTP_WHY_SIZE]);
uint16_t http_port(const struct http *http);

#endif
