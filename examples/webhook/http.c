/* Requests by libcurl's multi interface; see http.h. */
#include "http.h"

#include "address.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const long connect_timeout_ms = 10000;
enum { ANSWER_MAX = 1 << 20 }; /* what is read of an answer's body, and thrown away */

struct http_call {
    struct http *http;
    struct http_call *next, **link; /* in http->calls */
    CURL *easy;
    struct curl_slist *headers;
    http_done_fn done;
    void *arg;
    size_t answered; /* bytes of the answer's body */
    bool anywhere, refused;
    char why[CURL_ERROR_SIZE];
};

struct http {
    struct http_host host;
    CURLM *multi;
    struct http_call *calls;
    uint64_t timer_id;
};

struct watched {
    struct http *http;
    curl_socket_t fd;
    uint64_t id;
};

/* ---- what libcurl asks for ---- */

static void set_timer(struct http *h, long ms)
{
    const struct http_host *b = &h->host;

    if (h->timer_id)
        b->timer->stop(b->host, h->timer_id);
    h->timer_id = 0;
    if (ms >= 0 && b->timer->once(b->host, (int64_t)(ms ? ms : 1) * 1000000, b->on_timer, &h->timer_id) != 0)
        b->host->log(b->host, MUSTER_LOG_ERROR, "a timer could not be set: requests may hang until the next one");
}

static int on_timer(CURLM *multi, long ms, void *arg)
{
    (void)multi; /* there is one */
    set_timer(arg, ms);
    return 0;
}

static void finish_calls(struct http *h);

static void on_ready(void *arg, uint32_t events)
{
    const struct watched *w = arg;
    struct http *h = w->http;
    int running;

    /* From here on w may be gone. */
    (void)curl_multi_socket_action(h->multi, w->fd, (events & MUSTER_READABLE ? CURL_CSELECT_IN : 0) | (events & MUSTER_WRITABLE ? CURL_CSELECT_OUT : 0),
                                   &running);
    finish_calls(h);
}

static void unwatch(struct http *h, struct watched *w)
{
    if (w)
        h->host.io->unwatch(h->host.host, w->id);
    free(w);
}

/* A socket that cannot be watched is left to the request's timeout: an error here would put an end to all requests of the handle. */
static void watch(struct http *h, curl_socket_t fd, uint32_t events)
{
    struct watched *w = calloc(1, sizeof *w);

    if (!w)
        return;
    w->http = h;
    w->fd = fd;
    if (h->host.io->watch(h->host.host, fd, events, on_ready, w, &w->id) != 0)
        free(w);
    else
        (void)curl_multi_assign(h->multi, fd, w); /* libcurl has just asked for this socket */
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct http *h = arg;
    struct watched *w = socket_arg;
    uint32_t events = (what & CURL_POLL_IN ? MUSTER_READABLE : 0) | (what & CURL_POLL_OUT ? MUSTER_WRITABLE : 0);

    (void)easy; /* of several that share the connection */
    if (what == CURL_POLL_REMOVE)
        unwatch(h, w);
    else if (w)
        (void)h->host.io->change(h->host.host, w->id, events); /* the same: it is watched, or times out */
    else
        watch(h, fd, events);
    return 0;
}

/* The last moment: whatever the name resolved to, this is where the bytes would go. */
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct http_call *call = arg;

    (void)purpose; /* there is one */
    call->refused = !call->anywhere && !address_is_public(&a->addr);
    if (call->refused)
        return CURL_SOCKET_BAD;
    return socket(a->family, a->socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->protocol);
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    struct http_call *call = arg;

    (void)data; /* what the receiver says beyond its status is of no use */
    call->answered += size * n;
    return call->answered > ANSWER_MAX ? 0 : size * n;
}

/* ---- calls ---- */

static void free_call(struct http_call *call)
{
    if (call->link) {
        *call->link = call->next;
        if (call->next)
            call->next->link = call->link;
        (void)curl_multi_remove_handle(call->http->multi, call->easy); /* it is in there */
    }
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    free(call);
}

static struct http_result result_of(struct http_call *call, CURLcode code)
{
    long status = 0;
    curl_off_t after = 0;

    (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &after); /* both stay 0 where there is none */
    if (code != CURLE_OK && code != CURLE_WRITE_ERROR)
        status = 0; /* an answer that broke off is none */
    if (after > 86400)
        after = 86400;
    return (struct http_result){.status = (int)status,
                                .why = call->refused  ? "its address is not a public one, and private_hosts does not name the host"
                                       : call->why[0] ? call->why
                                                      : curl_easy_strerror(code),
                                .retry_after_ns = (int64_t)after * 1000000000};
}

static void finish_calls(struct http *h)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(h->multi, &left))) {
        CURLcode code = msg->data.result; /* msg is gone with the handle */
        struct http_call *call = NULL;
        struct http_result result;

        (void)curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &call);
        result = result_of(call, code);
        call->done(call->arg, &result);
        free_call(call);
    }
}

static bool set_headers(struct http_call *call, const struct http_request *r)
{
    for (const char *const *header = r->headers; *header; header++) {
        struct curl_slist *longer = curl_slist_append(call->headers, *header);

        if (!longer)
            return false;
        call->headers = longer;
    }
    return true;
}

/* No redirects: they would lead where nobody configured. No proxy of the environment: it would connect in our place, anywhere. */
static bool set_options(struct http_call *call, const struct http_request *r)
{
    CURL *e = call->easy;
    bool ok = set_headers(call, r) && curl_easy_setopt(e, CURLOPT_URL, r->url) == CURLE_OK;

    ok = ok && curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_PROXY, "") == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_POST, 1L) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->body_len) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_POSTFIELDS, r->body) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)(r->timeout_ns / 1000000)) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, connect_timeout_ms) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_ERRORBUFFER, call->why) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_WRITEDATA, call) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_open) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, call) == CURLE_OK;
    ok = ok && curl_easy_setopt(e, CURLOPT_PRIVATE, call) == CURLE_OK;
    return ok && (!r->ca_file || curl_easy_setopt(e, CURLOPT_CAINFO, r->ca_file) == CURLE_OK);
}

int http_post(struct http *h, const struct http_request *request, struct http_call **ret_call)
{
    struct http_call *call = calloc(1, sizeof *call);

    if (!call)
        return MUSTER_ENOMEM;
    *call = (struct http_call){.http = h, .easy = curl_easy_init(), .done = request->done, .arg = request->arg, .anywhere = request->anywhere};
    if (!call->easy || !set_options(call, request) || curl_multi_add_handle(h->multi, call->easy) != CURLM_OK) {
        free_call(call);
        return MUSTER_ENOMEM;
    }
    call->next = h->calls;
    call->link = &h->calls;
    if (call->next)
        call->next->link = &call->next;
    h->calls = call;
    *ret_call = call;
    return 0;
}

void http_cancel(struct http_call *call)
{
    free_call(call);
}

/* libcurl tells a new time only when it differs from the last: a timer that fired a moment too early must be set again by hand. */
void http_timeout(struct http *h)
{
    long ms = -1;
    int running;

    h->timer_id = 0;
    (void)curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    finish_calls(h);
    if (!h->timer_id && curl_multi_timeout(h->multi, &ms) == CURLM_OK && ms >= 0)
        set_timer(h, ms);
}

int http_new(const struct http_host *host, struct http **ret_h)
{
    struct http *h = calloc(1, sizeof *h);

    if (!h)
        return MUSTER_ENOMEM;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        free(h);
        return MUSTER_ENOMEM;
    }
    h->host = *host;
    h->multi = curl_multi_init();
    if (!h->multi) {
        http_free(h);
        return MUSTER_ENOMEM;
    }
    (void)curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, on_socket); /* options that every libcurl has */
    (void)curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
    (void)curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    (void)curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
    *ret_h = h;
    return 0;
}

void http_free(struct http *h)
{
    if (!h)
        return;
    while (h->calls)
        free_call(h->calls);
    if (h->multi)
        (void)curl_multi_cleanup(h->multi); /* it is empty */
    if (h->timer_id)
        h->host.timer->stop(h->host.host, h->timer_id);
    free(h);
    curl_global_cleanup();
}
