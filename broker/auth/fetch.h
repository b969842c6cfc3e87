/*
 * auth/fetch.h - reads what a URL or a file has, on a thread of its own: a server that hangs, and a disk that does, hold up nobody.
 *
 * Shape    Any number of attempts up to FETCH_MAX run beside each other. HTTP by libcurl, TLS with the certificate and the name
 *          checked, no redirects, no proxies' passwords in logs; https, and http to this machine only.
 * Errors   The answer's code: 0, MUSTER_EINVAL (refused, with a sentence), MUSTER_ETIME, MUSTER_ELINK, MUSTER_ENOMEM.
 * Memory   A request is copied. The answer is borrowed for the callback.
 * Threads  fetch_get() on any; done runs on the thread of fetch, exactly once when fetch_get() gave 0, and before fetch_free() returns.
 */
#ifndef MUSTER_AUTH_FETCH_H
#define MUSTER_AUTH_FETCH_H

#include <stddef.h>
#include <stdint.h>

enum { FETCH_MAX = 64, FETCH_WHY_SIZE = 256 };

struct fetch;

struct fetch_answer {
    int code;
    const char *data;
    size_t len;
    int64_t max_age_s; /* of Cache-Control; -1: it says nothing */
    const char *why;   /* "" when code is 0 */
};

typedef void (*fetch_done_fn)(void *arg, const struct fetch_answer *answer);

struct fetch_request {
    const char *url;     /* NULL: path */
    const char *path;
    const char *ca_file; /* whom to trust for https; NULL: the system's */
    size_t max_bytes;
    int64_t timeout_ns;
    fetch_done_fn done;
    void *arg;
};

int fetch_new(struct fetch **ret_fetch);
/* MUSTER_EAGAIN: FETCH_MAX are under way. */
int fetch_get(struct fetch *f, const struct fetch_request *request);
/* What is under way ends with MUSTER_ELINK. Accepts NULL. */
void fetch_free(struct fetch *f);

/* NULL when the URL may be fetched, or a sentence that says why not. */
const char *fetch_url_fault(const char *url);
/* Seconds of `max-age` in a Cache-Control header; 0 for no-store and no-cache; -1 where it says none of these. */
int64_t fetch_max_age(const char *cache_control);

#endif
