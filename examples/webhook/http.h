/*
 * webhook/http.h - POST requests by libcurl, on the lane: its sockets by muster.io/1, its clock by muster.timer/1. Nothing blocks; names
 * are looked up by a thread of libcurl.
 *
 * Owns     The curl handles, with connections that are kept for the next request.
 * Threads  The lane.
 */
#ifndef WEBHOOK_HTTP_H
#define WEBHOOK_HTTP_H

#include <muster/plugin.h>

#include <stdbool.h>

struct http;
struct http_call;

struct http_host {
    const struct muster_host *host;
    const struct muster_io *io;
    const struct muster_timer *timer;
    muster_timer_fn on_timer; /* calls http_timeout() */
};

struct http_result {
    int status;              /* 0: there was no answer, why says the reason */
    const char *why;         /* borrowed */
    int64_t retry_after_ns;  /* 0: the answer did not say */
};
/* Once, never inside http_post(), and not after http_cancel(). */
typedef void (*http_done_fn)(void *arg, const struct http_result *result);

struct http_request {
    const char *url, *ca_file;   /* ca_file NULL: the system's */
    const char *const *headers;  /* "name: value", ended by NULL */
    const char *body;            /* stays as it is until the call is done */
    size_t body_len;
    int64_t timeout_ns;
    bool anywhere; /* also to addresses that are not public */
    http_done_fn done;
    void *arg;
};

/* MUSTER_ENOMEM: libcurl could not be set up. */
int http_new(const struct http_host *host, struct http **ret_h);
/* Calls that are open are cancelled; accepts NULL. */
void http_free(struct http *h);
/* MUSTER_ENOMEM. */
int http_post(struct http *h, const struct http_request *request, struct http_call **ret_call);
void http_cancel(struct http_call *call);
void http_timeout(struct http *h);

#endif
