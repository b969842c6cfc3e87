/*
 * Questions to a TCP port; see probe.h.
 *
 * By hand over a socket: what is asked is one line or one small page of a server that may be
 * broken, and the answer to "is it there at all?" must not depend on a client library's idea of
 * retrying.
 */
#include "base/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/probe_tls.h"

/* ---- addresses ---- */

/* False when it is empty or does not fit: neither is a host or a port. */
static bool copy(char *out, size_t size, const char *from, size_t len)
{
    if (len == 0 || len >= size)
        return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

/* A user in the URL is skipped, and with it any password: only host and port are kept and shown. */
bool probe_parse(struct probe *p, const char *address, const char *default_port)
{
    const char *scheme = strstr(address, "://"), *host = scheme ? scheme + 3 : address;
    size_t len = strcspn(host, "/?");
    const char *at = memrchr(host, '@', len), *colon;

    if (at) {
        len -= (size_t)(at + 1 - host);
        host = at + 1;
    }
    if (*host == '[') {
        const char *close = memchr(host, ']', len);

        if (!close || !copy(p->host, sizeof p->host, host + 1, (size_t)(close - host - 1)))
            return false;
        colon = close + 1 < host + len ? close + 1 : NULL;
    } else {
        colon = memrchr(host, ':', len);
        if (!copy(p->host, sizeof p->host, host, colon ? (size_t)(colon - host) : len))
            return false;
    }
    if (!colon)
        return copy(p->port, sizeof p->port, default_port, strlen(default_port));
    return *colon == ':' &&
           copy(p->port, sizeof p->port, colon + 1, (size_t)(host + len - colon - 1));
}

/* ---- the connection ---- */

/* True when the descriptor is ready; errno is ETIMEDOUT when it is not in time. */
static bool wait_for(int fd, short events, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n;

    do
        n = poll(&p, 1, timeout_ms);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        errno = ETIMEDOUT;
    return n > 0;
}

/* The kernel's own patience with a host that drops packets is two minutes. False with errno. */
static bool connect_in_time(int fd, const struct addrinfo *to, int timeout_ms)
{
    socklen_t len = sizeof(int);
    int err = 0;

    if (connect(fd, to->ai_addr, to->ai_addrlen) == 0)
        return true;
    if (errno != EINPROGRESS || !wait_for(fd, POLLOUT, timeout_ms))
        return false;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && !err)
        return true;
    errno = err ? err : errno;
    return false;
}

/* The descriptor, or -1 with errno of the last address. */
static int dial(const struct addrinfo *found, int timeout_ms)
{
    for (const struct addrinfo *a = found; a; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), saved;

        if (fd < 0)
            continue;
        if (connect_in_time(fd, a, timeout_ms))
            return fd;
        saved = errno;
        (void)close(fd); /* errno of the failure is what counts */
        errno = saved;
    }
    return -1;
}

static bool send_request(int fd, const struct probe *p)
{
    size_t len = p->request ? strlen(p->request) : 0;

    /* A request is small and the first thing on its connection: the kernel takes it whole. */
    return len == 0 || send(fd, p->request, len, MSG_NOSIGNAL) == (ssize_t)len;
}

/* A greeting (one_line) is followed by silence, a page by the end of the connection. False with
 * errno. */
static bool read_answer(int fd, const struct probe *p, struct buf *answer)
{
    char part[4096];

    while (answer->len < p->max) {
        ssize_t n = recv(fd, part, sizeof part, 0);

        if (n < 0 && errno == EAGAIN) {
            if (!wait_for(fd, POLLIN, p->timeout_ms))
                return false;
            continue;
        }
        if (n < 0)
            return false;
        if (n == 0)
            return true;
        buf_put(answer, part, (size_t)n);
        if (buf_failed(answer) || (p->one_line && memchr(answer->data, '\n', answer->len)))
            return !buf_failed(answer);
    }
    return true;
}

static bool ask(int fd, const struct probe *p, struct buf *answer, char why[PROBE_WHY_SIZE])
{
    if (fd >= 0 && p->tls)
        return probe_tls_ask(fd, p, answer, why);
    if (fd >= 0 && send_request(fd, p) && read_answer(fd, p, answer))
        return true;
    (void)snprintf(why, PROBE_WHY_SIZE, "%s", strerror(errno));
    return false;
}

bool probe_ask(const struct probe *p, struct buf *answer, char why[PROBE_WHY_SIZE])
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int err = getaddrinfo(p->host, p->port, &hints, &found), fd;
    bool done;

    if (err) {
        (void)snprintf(why, PROBE_WHY_SIZE, "%s", gai_strerror(err));
        return false;
    }
    fd = dial(found, p->timeout_ms);
    freeaddrinfo(found);
    done = ask(fd, p, answer, why);
    if (fd >= 0)
        (void)close(fd);
    return done;
}
